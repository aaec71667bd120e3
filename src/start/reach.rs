//! Files that the agents must have no hand in: those that decide about them, or they would decide themselves; and those that hold
//! keys, or they would have them.

use std::fs;
use std::path::{Path, PathBuf};

use agent::isolation::links;
use agent::isolation::shown::{self, Place, places};
use agent::plan::{CagePlan, PathRule, WORKSPACE};

use crate::console::warn;
use crate::failure::Failure;
use crate::plan::Mode;
use crate::start::Wanted;
use crate::start::secrets;
use crate::start::site::lasting;

/// Refuses keys that the agents could read, and a service whose files they could change: it starts again unattended. A run goes on
/// by what was just read, and says so; its policy isn't watched then.
///
/// # Errors
/// Which file, and the mend.
pub fn keep_out(wanted: &mut Wanted, cage: &CagePlan) -> Result<Apart, Failure> {
    let apart = Apart::of(wanted)?;
    if wanted.mode == Mode::Service {
        apart.keep_out(cage)?;
        return Ok(apart);
    }
    let places = places(cage);
    apart.keep_keys_out(&places)?;
    apart.keep_roots_out(&places)?;
    for (what, file) in &apart.deciding {
        if !is_changeable(file, &places)? {
            continue;
        }
        if !wanted.quiet {
            warn(&format!(
                "{}: this run goes by what it says now; move it out before the next one",
                lies_within(what, file)
            ));
        }
        if *what == POLICY {
            wanted.policy.watch = None;
        }
    }
    Ok(apart)
}

/// What is to be said of sockets in what agents see, on which somebody of the host answers.
pub fn answered(cage: &CagePlan) -> Vec<String> {
    let told = |socket: PathBuf| {
        let mend = "move it out of the workspace, or of what the policy shows, if they should not";
        format!("a process of the host answers on {}, and agents can speak to it: {mend}", socket.display())
    };
    shown::answered(&places(cage)).into_iter().map(told).collect()
}

/// What is to be said of places in the workspace that the policy protects if they are there (`best_effort`), and that aren't.
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

const POLICY: &str = "policy";

/// The files of a sandbox, by absolute paths: for every cage that it will have.
#[derive(Debug)]
pub struct Apart {
    /// What decides about the agents, and what each is.
    deciding: Vec<(&'static str, PathBuf)>,
    /// What holds keys, by their references.
    keys: Vec<(String, PathBuf)>,
    /// The operator's roots for upstream servers, read again by each supervisor: nothing that a run has read once and for all.
    roots: Option<PathBuf>,
}

impl Apart {
    fn of(wanted: &Wanted) -> Result<Self, Failure> {
        let named = [
            (POLICY, &wanted.policy.watch),
            ("configuration", &wanted.config),
            ("upstream_ca", &wanted.upstream_ca),
        ];
        let presets =
            wanted.policy.presets.iter().filter_map(|preset| Some(("preset", preset.file.as_deref()?)));
        let deciding =
            named.into_iter().filter_map(|(what, file)| Some((what, file.as_deref()?))).chain(presets);
        let references = secrets::references(wanted)?;
        let keys = references.iter().filter_map(|reference| Some((reference.to_string(), reference.file()?)));
        Ok(Self {
            deciding: deciding
                .map(|(what, file)| Ok((what, lasting(file)?)))
                .collect::<Result<_, Failure>>()?,
            keys: keys
                .map(|(reference, file)| Ok((reference, lasting(&file)?)))
                .collect::<Result<_, Failure>>()?,
            roots: wanted.system_roots.clone(),
        })
    }

    /// Refuses a cage in which agents could read one of the keys, or change what decides about them.
    ///
    /// # Errors
    /// Which file, and the mend.
    pub fn keep_out(&self, cage: &CagePlan) -> Result<(), Failure> {
        let places = places(cage);
        self.keep_keys_out(&places)?;
        self.keep_roots_out(&places)?;
        self.deciding.iter().try_for_each(|(what, file)| refuse_changeable(what, file, &places))
    }

    fn keep_roots_out(&self, places: &[Place]) -> Result<(), Failure> {
        self.roots.iter().try_for_each(|file| refuse_changeable("SSL_CERT_FILE", file, places))
    }

    fn keep_keys_out(&self, places: &[Place]) -> Result<(), Failure> {
        for (reference, file) in &self.keys {
            if let Some(place) = place_of(file, places.iter())? {
                return Err(Failure::refused(format!(
                    "credential {reference} lies in {}, or the way to it leads through there, and agents can read that: move it out of \
                     the workspace, of --root and of what the policy shows",
                    place.display()
                )));
            }
        }
        Ok(())
    }
}

fn lies_within(what: &str, file: &Path) -> String {
    format!("{what} {} lies where the agent can change it", file.display())
}

fn refuse_changeable(what: &str, file: &Path, places: &[Place]) -> Result<(), Failure> {
    match is_changeable(file, places)? {
        false => Ok(()),
        true => Err(Failure::refused(format!(
            "{}: move it out of the workspace and of what the policy makes writable",
            lies_within(what, file)
        ))),
    }
}

fn is_changeable(file: &Path, places: &[Place]) -> Result<bool, Failure> {
    Ok(place_of(file, places.iter().filter(|place| place.writable))?.is_some())
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
    fn what_is_protected_and_not_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".there")).unwrap();
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
