//! Files that decide about the agents: none of them may lie where the agents can write, or they would decide themselves.

use std::fs;
use std::path::{Path, PathBuf};

use agent::plan::{Paths, WORKSPACE};

use crate::cli::out::{Failure, say};
use crate::cli::start::Wanted;
use crate::plan::Mode;

/// Refuses a service whose files its agents could change: it starts again unattended. A run goes on by what was just read, and says
/// so; its policy isn't watched then.
pub fn keep_out(wanted: &mut Wanted, workspace: &Path, paths: &Paths) -> Result<(), Failure> {
    let places = writable(workspace, paths);
    let deciding = [
        ("policy", wanted.policy.watch.clone()),
        ("configuration", wanted.config.clone()),
        ("upstream_ca", wanted.upstream_ca.clone()),
    ];
    for (what, file) in deciding {
        let Some(file) = file.filter(|file| is_within(file, &places)) else { continue };
        let where_it_lies = format!("{what} {} lies where the agent can change it", file.display());
        if wanted.mode == Mode::Service {
            return Err(Failure::refused(format!(
                "{where_it_lies}: move it out of the workspace and of what the policy makes writable"
            )));
        }
        if !wanted.quiet {
            say(&format!(
                "{where_it_lies}: this run goes by what it says now; move it out before the next one"
            ));
        }
        if what == "policy" {
            wanted.policy.watch = None;
        }
    }
    Ok(())
}

/// The real places of the host that agents can write.
fn writable(workspace: &Path, paths: &Paths) -> Vec<PathBuf> {
    let shown = paths.read_write.iter().map(|rule| rule.path.as_path()).filter_map(|path| {
        // What lies in the workspace is judged as all of it; what is the sandbox's own isn't the host's.
        match path.starts_with(WORKSPACE) {
            true => Some(workspace),
            false => (!agent::isolation::is_provided(path)).then_some(path),
        }
    });
    shown.filter_map(|path| fs::canonicalize(path).ok()).collect()
}

/// Whether a file, or anything on the way to it, lies in one of these places: a link there could be led elsewhere.
fn is_within(file: &Path, places: &[PathBuf]) -> bool {
    let Ok(file) = std::path::absolute(file) else { return true };
    let mut real = file.ancestors().filter_map(|part| fs::canonicalize(part).ok());
    real.any(|part| places.iter().any(|place| part.starts_with(place)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_counts_as_well_as_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for made in ["workspace/sub", "outside"] {
            fs::create_dir_all(at(made)).unwrap();
        }
        for file in ["workspace/a", "workspace/sub/b", "outside/c"] {
            fs::write(at(file), "").unwrap();
        }
        std::os::unix::fs::symlink(at("outside"), at("workspace/out")).unwrap();
        std::os::unix::fs::symlink(at("workspace/a"), at("outside/in")).unwrap();
        let places = [fs::canonicalize(at("workspace")).unwrap()];
        for within in
            ["workspace/a", "workspace/sub/b", "workspace/out/c", "outside/in", "workspace/not-there"]
        {
            assert!(is_within(&at(within), &places), "{within}");
        }
        for without in ["outside/c", "outside/not-there", "c", "workspace2"] {
            assert!(!is_within(&at(without), &places), "{without}");
        }
    }
}
