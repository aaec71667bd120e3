//! Files that the agents must have no hand in: those that decide about them, or they would decide themselves; and those that hold
//! keys, or they would have them.

use std::fs;
use std::path::Path;

use agent::isolation::links;
use agent::isolation::shown::{Place, places};
use agent::plan::CagePlan;

use crate::cli::out::{Failure, say};
use crate::cli::secrets;
use crate::cli::start::Wanted;
use crate::plan::Mode;

/// Refuses keys that the agents could read, and a service whose files they could change: it starts again unattended. A run goes on
/// by what was just read, and says so; its policy isn't watched then.
pub fn keep_out(wanted: &mut Wanted, cage: &CagePlan) -> Result<(), Failure> {
    let places = places(cage);
    for reference in secrets::references(wanted)? {
        let Some(file) = reference.file() else { continue };
        if let Some(place) = place_of(&file, places.iter())? {
            return Err(Failure::refused(format!(
                "credential {reference} lies in {}, or the way to it leads through there, and agents can read that: move it out of \
                 the workspace, of --root and of what the policy shows",
                place.display()
            )));
        }
    }
    let deciding = [
        ("policy", wanted.policy.watch.clone()),
        ("configuration", wanted.config.clone()),
        ("upstream_ca", wanted.upstream_ca.clone()),
    ];
    for (what, file) in deciding {
        let Some(file) = file else { continue };
        if place_of(&file, places.iter().filter(|place| place.writable))?.is_none() {
            continue;
        }
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

/// The place of these in which a file lies, or anything on the way to it, link by link: a link there could be led elsewhere.
fn place_of<'a>(
    file: &Path,
    places: impl Iterator<Item = &'a Place> + Clone,
) -> Result<Option<&'a Path>, Failure> {
    let file = std::path::absolute(file)?;
    Ok(links::steps(&file).find_map(|way| {
        let mut real = way.ancestors().filter_map(|part| fs::canonicalize(part).ok());
        real.find_map(|part| places.clone().find(|place| part.starts_with(&place.path)))
            .map(|place| place.path.as_path())
    }))
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
        std::os::unix::fs::symlink(at("workspace/out"), at("outside/through")).unwrap();
        let places = [Place { path: fs::canonicalize(at("workspace")).unwrap(), writable: true }];
        let is_within = |file: &str| place_of(&at(file), places.iter()).unwrap().is_some();
        for within in [
            "workspace/a",
            "workspace/sub/b",
            "workspace/out/c",
            "outside/in",
            "outside/through/c",
            "workspace/not-there",
            "workspace/sub/../../outside/c",
        ] {
            assert!(is_within(within), "{within}");
        }
        for without in ["outside/c", "outside/not-there", "c", "workspace2"] {
            assert!(!is_within(without), "{without}");
        }
    }
}
