//! Where an agent's program is on this machine: told when it isn't found inside, since most are installed in
//! a home, which no sandbox shows.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::start::Wanted;

/// Notes it for each agent. Where another root is used it says nothing of what is inside.
pub fn look(wanted: &mut Wanted) {
    if wanted.root.is_some() {
        return;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for agent in &mut wanted.agents {
        // What isn't text can't be written into the plan, and goes without the hint.
        let found = agent.command.first().and_then(|program| find(program, &path));
        agent.outside = found.filter(|file| file.to_str().is_some());
    }
}

/// Where a program is, by these directories.
pub fn find(program: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let program = Path::new(program);
    let executable = |file: &PathBuf| {
        file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    match program.components().count() {
        // Relative to the workspace, which is shown.
        0 | 2.. if !program.is_absolute() => None,
        0 | 2.. => Some(program.to_owned()).filter(executable),
        1 => std::env::split_paths(path).map(|dir| dir.join(program)).find(executable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_and_a_path_is_looked_at() {
        let path = OsStr::new("/nowhere:/usr/bin:/bin");
        let found = |program: &str| find(OsStr::new(program), path);
        assert!(found("sh").is_some_and(|file| file.is_absolute() && file.ends_with("sh")));
        assert_eq!(found("/bin/sh"), Some("/bin/sh".into()));
        for none in ["no-such-program", "/no/such", "bin/sh", "./sh", "", "/etc/passwd", "/"] {
            assert_eq!(found(none), None, "{none}");
        }
    }
}
