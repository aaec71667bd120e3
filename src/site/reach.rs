//! Warnings about what a cage's agents can reach, given before anything runs in it.

use std::path::PathBuf;

use agent::isolation::shown::{self, Place};
use agent::plan::{CagePlan, PathRule, WORKSPACE};

use crate::console::one_line;

/// Returns warnings about sockets in these places, which agents see, and on which a process of the host
/// answers.
pub fn answered(places: &[Place]) -> Vec<String> {
    let told = |socket: PathBuf| {
        let mend = "move it out of the workspace, or of what the policy shows, if they should not";
        // Whoever made it may be another user of the host.
        let socket = one_line(&socket.display().to_string());
        format!("a process of the host answers on {socket}, and agents can speak to it: {mend}")
    };
    shown::answered(places).into_iter().map(told).collect()
}

/// Returns warnings about paths in the workspace that the policy protects only if they exist (`best_effort`),
/// and that don't exist.
pub fn unprotected(cage: &CagePlan) -> Vec<String> {
    let is_missing = |rule: &&PathRule| {
        let inside = rule.path.strip_prefix(WORKSPACE).ok();
        rule.optional && inside.is_some_and(|inside| cage.workspace.join(inside).symlink_metadata().is_err())
    };
    let told = |rule: &PathRule| {
        format!(
            "{} is read_only by the policy, and isn't there: agents can make it, and write there; make it before they start",
            rule.path.display()
        )
    };
    cage.paths.read_only.iter().filter(is_missing).map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_protected_and_not_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".there")).unwrap();
        let operator = agent::plan::Id { uid: 1000, gid: 1000 };
        let ids = agent::plan::Ids::Rootless { operator };
        let mut cage = CagePlan::new("a", ids, dir.path());
        let rule = |path: &str, optional| PathRule { path: path.into(), optional };
        cage.paths.read_only = vec![
            rule("/sandbox/.there", true),
            rule("/sandbox/.absent", true),
            // An error of its own.
            rule("/sandbox/.demanded", false),
            rule("/opt/absent", true),
        ];
        let told = unprotected(&cage);
        assert!(told.len() == 1 && told[0].starts_with("/sandbox/.absent is read_only"), "{told:?}");
    }
}
