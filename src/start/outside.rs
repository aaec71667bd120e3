//! Finds where an agent's program is on this machine. The message for a program that isn't found inside
//! mentions it, since most are installed in a home directory, which no sandbox shows.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::start::Wanted;

/// Notes the place for each agent. With another root it would say nothing about what is inside, so none is
/// noted.
pub fn look(wanted: &mut Wanted) {
    if wanted.root.is_some() {
        return;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for agent in &mut wanted.agents {
        // A path that isn't UTF-8 can't be written into the plan, so there is no hint.
        let found = agent.command.first().and_then(|program| find(program, &path));
        agent.outside = found.filter(|file| file.to_str().is_some());
    }
}

/// Returns where a program is, searching the directories of `path`.
pub fn find(program: &OsStr, path: &OsStr) -> Option<PathBuf> {
    let program = Path::new(program);
    let executable = |file: &PathBuf| {
        file.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    match program.components().count() {
        // A relative path: relative to the workspace, which is shown inside.
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
