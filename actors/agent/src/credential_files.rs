//! Sets mode 0600 on files below the workspace in which known agents keep credentials, at start and as they
//! appear.
//!
//! Init does it from inside, once before the first process and then at slow intervals, called beats. The tree
//! belongs to the agent and is hostile: every step is by descriptor, beneath the workspace, through no link,
//! and only a plain file with one name is touched. No file is ever read or created here, and a beat does a
//! bounded amount of work, however many files there are: it looks at the places where known agents keep keys
//! every time, and at the rest of the tree a part at a time.

use crate::sys;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Paths below the workspace that every beat looks at; `*` stands for any one name.
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

/// Names of files that hold credentials wherever they are; one `*` stands for anything.
pub const NAMES: &[&str] = &[
    "*.pem",
    ".env",
    ".env.*",
    ".netrc",
    "_netrc",
    "auth-profiles.json",
    "credentials",
    "credentials.*",
    "id_*",
];
/// Endings of files that have such a name but hold no credentials: public halves, examples, programs.
pub const EXCEPT: &[&str] = &[
    ".c",
    ".dist",
    ".example",
    ".go",
    ".h",
    ".java",
    ".js",
    ".md",
    ".py",
    ".pyc",
    ".pub",
    ".rb",
    ".rs",
    ".sample",
    ".sh",
    ".template",
    ".ts",
];
/// Directories that are skipped: what package managers and git put there is public, and a lot.
pub const PASSED_BY: &[&str] =
    &[".git", "node_modules", "site-packages", "dist-packages", "__pycache__", "target"];

/// Directory entries looked at for one `*` of [`KNOWN`]: no agent has more profiles than this.
const MAX_NAMES: usize = 256;
/// Directory entries looked at in one beat, about a millisecond's work: a flood of files makes the round
/// longer, not the beat.
const MAX_ENTRIES: usize = 2000;
/// Directories that may wait for their turn; further ones wait for the next round.
const MAX_WAITING: usize = 4096;
/// How deep below the workspace a file may lie.
const MAX_DEPTH: usize = 8;
/// The mode bits that give group and others access.
const OTHERS: u32 = 0o077;

/// The state of the rounds through one workspace; a round lists the whole tree, over many beats.
#[derive(Debug)]
pub struct Keeper {
    root: OwnedFd,
    /// The directory being listed.
    listing: Option<(PathBuf, nix::dir::OwningIter)>,
    /// Directories of this round still to be listed, below the root.
    waiting: VecDeque<PathBuf>,
}

impl Keeper {
    /// Begins at a workspace.
    ///
    /// # Errors
    /// When it can't be opened.
    pub fn open(workspace: &Path) -> io::Result<Self> {
        Ok(Self { root: std::fs::File::open(workspace)?.into(), listing: None, waiting: VecDeque::new() })
    }

    /// Does one beat: sets mode 0600 on every credential file to which others had access, among the known
    /// places and the next part of the tree, and returns how many there were. A file that can't be opened, or
    /// changes meanwhile, is left to the next time.
    pub fn beat(&mut self) -> usize {
        let mut changed = 0;
        for path in KNOWN {
            let parts: Vec<&str> = path.split('/').collect();
            changed += walk(self.root.as_fd(), &parts);
        }
        if self.listing.is_none() && self.waiting.is_empty() {
            self.waiting.push_back(PathBuf::new());
        }
        for _ in 0..MAX_ENTRIES {
            match self.next_entry() {
                Some(closed) => changed += usize::from(closed),
                // The round is over.
                None => break,
            }
        }
        changed
    }

    /// Looks at one more entry, and returns whether it was a file whose mode was changed; `None` at the end
    /// of the round.
    fn next_entry(&mut self) -> Option<bool> {
        let (place, listing) = match self.listing.as_mut() {
            Some((place, listing)) => (place, listing),
            None => {
                let place = self.waiting.pop_front()?;
                let listing = self.list(&place);
                self.listing = listing.map(|listing| (place, listing));
                return Some(false);
            }
        };
        let Some(entry) = listing.next() else {
            self.listing = None;
            return Some(false);
        };
        let Ok(entry) = entry else { return Some(false) };
        let Ok(name) = entry.file_name().to_str() else { return Some(false) };
        match entry.file_type() {
            // Links are skipped, and entries whose filesystem doesn't tell their type: the known places are
            // looked at all the same.
            Some(nix::dir::Type::Directory) => {
                let passed = name == "." || name == ".." || PASSED_BY.contains(&name);
                if !passed && self.waiting.len() < MAX_WAITING && place.components().count() < MAX_DEPTH {
                    let below = place.join(name);
                    self.waiting.push_back(below);
                }
                Some(false)
            }
            Some(nix::dir::Type::File) if is_credential(name) => {
                let directory = directory_at(self.root.as_fd(), place);
                Some(directory.and_then(|directory| secure_file(directory.as_fd(), name)).unwrap_or(false))
            }
            _ => Some(false),
        }
    }

    fn list(&self, place: &Path) -> Option<nix::dir::OwningIter> {
        let directory = directory_at(self.root.as_fd(), place).ok()?;
        Some(nix::dir::Dir::from_fd(directory).ok()?.into_iter())
    }
}

/// Opens a directory below the workspace; anew each time, since the agent may have put something else there.
fn directory_at(root: BorrowedFd<'_>, place: &Path) -> io::Result<OwnedFd> {
    if place.as_os_str().is_empty() {
        return sys::beneath::open_directory(root, Path::new("."));
    }
    sys::beneath::open_directory(root, place)
}

/// Whether a name alone says that a file holds credentials.
fn is_credential(name: &str) -> bool {
    let matches = |pattern: &str| match pattern.split_once('*') {
        None => name == pattern,
        Some((before, after)) => {
            name.len() >= before.len() + after.len() && name.starts_with(before) && name.ends_with(after)
        }
    };
    // `id_ed25519` is a key, `id_map.json` anything.
    let key = name.strip_prefix("id_").is_none_or(|rest| !rest.contains('.'));
    key && NAMES.iter().any(|pattern| matches(pattern)) && !EXCEPT.iter().any(|ending| name.ends_with(ending))
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
    match sys::beneath::open_directory(directory, Path::new(name)) {
        Ok(below) => walk(below.as_fd(), rest),
        Err(_) => 0,
    }
}

fn secure_file(directory: BorrowedFd<'_>, name: &str) -> io::Result<bool> {
    use nix::sys::stat::{Mode, SFlag, fchmod, fstat};
    let file = sys::beneath::open_file(directory, name)?;
    let status = fstat(&file)?;
    let plain = SFlag::from_bits_truncate(status.st_mode & libc::S_IFMT) == SFlag::S_IFREG;
    // A second name of the file may lie elsewhere, where this mode would be wrong.
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
        // Before the filters: an agent can make a million names that no filter lets through.
        .take(MAX_NAMES)
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
        .filter(|name| name != "." && name != "..")
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// One beat of a new keeper.
    fn secure(root: &Path) -> io::Result<usize> {
        Ok(Keeper::open(root)?.beat())
    }

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

    #[test]
    fn names_tell_wherever_they_are_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let (closed, open) = (
            [
                "a/b/.env",
                "x/server.pem",
                "keys/id_work",
                "p/credentials.json",
                ".env.local",
                "q/auth-profiles.json",
            ],
            [
                "a/id_map.json",
                "a/id_rsa.pub",
                "a/credentials.py",
                "b/.env.example",
                "b/environment",
                "id_/file",
                "node_modules/x/cacert.pem",
                "v/site-packages/certifi/cacert.pem",
                "1/2/3/4/5/6/7/8/9/.env",
            ],
        );
        for path in closed.iter().chain(&open) {
            put(root, path, 0o644);
        }
        let mut keeper = Keeper::open(root).unwrap();
        assert_eq!(keeper.beat(), closed.len());
        for path in closed {
            assert_eq!(mode(root, path), 0o600, "{path}");
        }
        for path in open {
            assert_eq!(mode(root, path), 0o644, "{path}");
        }
        // The next round finds what came meanwhile.
        put(root, "late/deep/.netrc", 0o666);
        let rounds = (0..3).map(|_| keeper.beat()).sum::<usize>();
        assert_eq!((rounds, mode(root, "late/deep/.netrc")), (1, 0o600));
    }

    #[test]
    fn a_flood_of_files_makes_the_round_longer_and_not_the_beat() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let flood = root.join("flood");
        std::fs::create_dir(&flood).unwrap();
        for n in 0..MAX_ENTRIES + 500 {
            std::fs::write(flood.join(format!("{n}")), "").unwrap();
        }
        put(root, "flood/zz/.env", 0o644);
        // The known places don't wait for the round.
        put(root, ".codex/auth.json", 0o644);
        let mut keeper = Keeper::open(root).unwrap();
        keeper.beat();
        assert_eq!(mode(root, ".codex/auth.json"), 0o600);
        assert!(keeper.listing.is_some() || !keeper.waiting.is_empty(), "one beat did it all");
        let beats =
            (0..5).take_while(|_| mode(root, "flood/zz/.env") != 0o600).map(|_| keeper.beat()).count();
        assert!(beats < 5 && mode(root, "flood/zz/.env") == 0o600, "{beats}");
    }

    #[test]
    fn names_that_are_no_text_are_not_looked_at_without_end() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        // As many names that are text as names that aren't.
        for n in 0..3 * MAX_NAMES {
            std::fs::write(dir.path().join(n.to_string()), "").unwrap();
            let no_text = [&[0xff][..], n.to_string().as_bytes()].concat();
            std::fs::write(dir.path().join(OsStr::from_bytes(&no_text)), "").unwrap();
        }
        let listed = names(std::fs::File::open(dir.path()).unwrap().as_fd());
        assert!(listed.len() < MAX_NAMES, "{} of the first {MAX_NAMES}: some are no text", listed.len());
        assert!(!listed.is_empty());
    }

    #[test]
    fn a_race_between_a_file_and_a_link_never_reaches_the_other_file() {
        use std::sync::atomic::{AtomicBool, Ordering};
        const BEATS: usize = 400;
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = dir.path();
        put(outside.path(), "victim/.env", 0o644);
        let victim = outside.path().join("victim");
        put(root, "own/.env", 0o644);
        let (mine, link) = (root.join("own"), root.join("spare"));
        symlink(&victim, &link).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The directory and the link to the victim change places, in one step each time.
                while !done.load(Ordering::Relaxed) {
                    let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                    let here = nix::fcntl::AT_FDCWD;
                    let _ = nix::fcntl::renameat2(here, &mine, here, &link, flags);
                }
            });
            let mut keeper = Keeper::open(root).unwrap();
            for _ in 0..BEATS {
                keeper.beat();
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(mode(outside.path(), "victim/.env"), 0o644);
        // Whichever name the agent's own file has now, its mode was changed.
        let own = if mine.is_symlink() { "spare/.env" } else { "own/.env" };
        assert_eq!(mode(root, own), 0o600);
    }
}
