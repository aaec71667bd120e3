//! Files in which known agents keep credentials, under the workspace: kept at mode 0600, at start and as they appear.
//!
//! Init does it from inside, once before the first process and then on a slow beat. The tree belongs to the agent and
//! is hostile: every step is by descriptor, beneath the workspace, through no link, and only a plain file with one
//! name is touched. Nothing is ever read or created here.

use crate::sys;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Paths below the workspace; `*` stands for any one name.
pub const KNOWN: &[&str] = &[
    ".anthropic/credentials.json",
    ".aws/credentials",
    ".claude.json",
    ".claude/.credentials.json",
    ".codex/auth.json",
    ".config/gcloud/application_default_credentials.json",
    ".config/gh/hosts.yml",
    ".config/opencode/auth.json",
    ".docker/config.json",
    ".env",
    ".gemini/oauth_creds.json",
    ".git-credentials",
    ".hermes/.env",
    ".hermes/auth.json",
    ".kube/config",
    ".local/share/opencode/auth.json",
    ".netrc",
    ".npmrc",
    ".openclaw/.env",
    ".openclaw/agents/*/agent/auth-profiles.json",
    ".openclaw/agents/*/agent/auth.json",
    ".openclaw/credentials/*",
    ".openclaw/openclaw.json",
    ".pi/agent/auth.json",
    ".pypirc",
    ".ssh/id_ecdsa",
    ".ssh/id_ed25519",
    ".ssh/id_rsa",
];

/// Names looked at for one `*`: an agent with more than this many profiles isn't one.
const MAX_NAMES: usize = 256;
/// What others may not have.
const OTHERS: u32 = 0o077;

/// Sets mode 0600 on every known credential file that others could read, and says how many there were.
///
/// Best done often: what can't be opened, or changes meanwhile, is left to the next time.
///
/// # Errors
/// When the workspace itself can't be opened.
pub fn secure(workspace: &std::path::Path) -> io::Result<usize> {
    let root: OwnedFd = std::fs::File::open(workspace)?.into();
    let mut changed = 0;
    for path in KNOWN {
        let parts: Vec<&str> = path.split('/').collect();
        changed += walk(root.as_fd(), &parts);
    }
    Ok(changed)
}

fn walk(directory: BorrowedFd<'_>, parts: &[&str]) -> usize {
    match parts {
        [] => 0,
        ["*", rest @ ..] => names(directory).iter().map(|name| step(directory, name, rest)).sum(),
        [name, rest @ ..] => step(directory, name, rest),
    }
}

fn step(directory: BorrowedFd<'_>, name: &str, rest: &[&str]) -> usize {
    if rest.is_empty() {
        return usize::from(secure_file(directory, name).unwrap_or(false));
    }
    match sys::beneath::open_directory(directory, name) {
        Ok(below) => walk(below.as_fd(), rest),
        Err(_) => 0,
    }
}

fn secure_file(directory: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    use nix::sys::stat::{Mode, SFlag, fchmod, fstat};
    let file = sys::beneath::open_file(directory, name)?;
    let status = fstat(&file)?;
    let plain = SFlag::from_bits_truncate(status.st_mode & libc::S_IFMT) == SFlag::S_IFREG;
    // Another name of it may lie elsewhere, where this mode would be wrong.
    if !plain || status.st_nlink != 1 || status.st_mode & OTHERS == 0 {
        return Ok(false);
    }
    fchmod(&file, Mode::S_IRUSR | Mode::S_IWUSR)?;
    Ok(true)
}

fn names(directory: BorrowedFd<'_>) -> Vec<String> {
    let Ok(copy) = directory.try_clone_to_owned() else { return Vec::new() };
    let Ok(mut listing) = nix::dir::Dir::from_fd(copy) else { return Vec::new() };
    listing
        .iter()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
        .filter(|name| name != "." && name != "..")
        .take(MAX_NAMES)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    fn put(root: &Path, path: &str, mode: u32) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "secret").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(root: &Path, path: &str) -> u32 {
        std::fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn known_files_are_closed_and_others_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        put(root, ".openclaw/agents/main/agent/auth-profiles.json", 0o644);
        put(root, ".openclaw/agents/other/agent/auth-profiles.json", 0o600);
        put(root, ".codex/auth.json", 0o666);
        put(root, "notes.txt", 0o644);
        assert_eq!(secure(root).unwrap(), 2);
        assert_eq!(mode(root, ".openclaw/agents/main/agent/auth-profiles.json"), 0o600);
        assert_eq!(mode(root, ".codex/auth.json"), 0o600);
        assert_eq!(mode(root, "notes.txt"), 0o644);
        assert_eq!(secure(root).unwrap(), 0, "done once, nothing is left to do");
    }

    #[test]
    fn no_link_is_followed_and_no_second_name_touched() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = dir.path();
        put(outside.path(), "victim", 0o644);
        put(outside.path(), "codex/auth.json", 0o644);
        symlink(outside.path().join("victim"), root.join(".netrc")).unwrap();
        symlink(outside.path().join("codex"), root.join(".codex")).unwrap();
        std::fs::hard_link(outside.path().join("victim"), root.join(".npmrc")).unwrap();
        nix::unistd::mkfifo(&root.join(".env"), nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
        std::fs::create_dir_all(root.join(".pypirc")).unwrap();
        assert_eq!(secure(root).unwrap(), 0);
        assert_eq!(mode(outside.path(), "victim"), 0o644);
        assert_eq!(mode(outside.path(), "codex/auth.json"), 0o644);
    }
}
