//! Finds which places of the host the agents of a plan get, before a cage is built: for the command, which
//! refuses to start if a file that decides about the agents, or a key, lies in one of them.

use super::{etc, is_provided, paths};
use crate::plan::{CagePlan, WORKSPACE};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// A place of the host that the agents get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its real path.
    pub path: PathBuf,
    /// Whether they may write there.
    pub writable: bool,
}

impl Place {
    /// What a path leads to; `None` where nothing is.
    fn real(path: &Path, writable: bool) -> Option<Self> {
        Some(Self { path: std::fs::canonicalize(path).ok()?, writable })
    }
}

/// Returns every real place of the host in which the agents can read. With another root that is the whole
/// root, since the policy's paths are resolved in it and not here; what agents write over it lies in its
/// overlay.
pub fn places(plan: &CagePlan) -> Vec<Place> {
    let mut places = match &plan.root {
        None => named(plan),
        Some(root) => {
            let overlay = root.overlay.iter().filter_map(|path| Place::real(path, true));
            Place::real(&root.path, false).into_iter().chain(overlay).collect()
        }
    };
    // If a part of the workspace is writable, all of it counts as writable.
    let writable = plan.paths.read_write.iter().any(|rule| rule.path.starts_with(WORKSPACE));
    places.extend(Place::real(&plan.workspace, writable));
    places
}

/// Returns every real place of the host that the agents of a plan can write, or could in earlier cages: later
/// cages must know it ([`CagePlan::written_before`]). In another root agents write to an overlay, whose links
/// lead nowhere but into that root.
pub fn written(plan: &CagePlan) -> BTreeSet<PathBuf> {
    match &plan.root {
        None => paths::agents_places(plan).into_iter().collect(),
        Some(_) => {
            let workspace = std::fs::canonicalize(&plan.workspace).ok();
            plan.written_before.iter().cloned().chain(workspace).collect()
        }
    }
}

/// Sockets in these places on which a process of this network namespace answers. Agents that see one can
/// speak to it, whatever network namespace they are in (unix(7)): before Linux 7.1 nothing keeps them from
/// it.
pub fn answered(places: &[Place]) -> BTreeSet<PathBuf> {
    let bound = std::fs::read("/proc/net/unix").unwrap_or_default();
    let seen = |path: &PathBuf| {
        let real = path.parent().and_then(|parent| std::fs::canonicalize(parent).ok());
        real.is_some_and(|real| {
            places.iter().any(|place| real.starts_with(&place.path) || *path == place.path)
        })
    };
    // A path whose socket was moved or removed no longer leads to it.
    let is_there =
        |path: &PathBuf| std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    paths_of(&bound).filter(|path| seen(path) && is_there(path)).collect()
}

/// Returns the absolute paths in `/proc/net/unix`, which stand behind seven columns; abstract names and
/// relative paths don't begin with a slash.
fn paths_of(bound: &[u8]) -> impl Iterator<Item = PathBuf> + '_ {
    bound.split(|byte| *byte == b'\n').filter_map(|line| {
        let start = line.windows(2).position(|pair| pair == b" /")? + 1;
        Some(PathBuf::from(OsStr::from_bytes(line.get(start..)?)))
    })
}

/// Returns the host's places that the policy names, and those that are shown with them; not what the sandbox
/// has of its own.
fn named(plan: &CagePlan) -> Vec<Place> {
    let paths = paths::policy_paths(plan).into_iter();
    let paths = paths
        .filter(|(path, _)| !path.starts_with("/etc") && !is_provided(path))
        .filter_map(|(path, writable)| Place::real(&path, writable))
        .filter(|place| !is_provided(&place.path) && place.path != Path::new("/"));
    // Links in /etc stay links: they show nothing that isn't shown where they lead.
    let etc = etc::names(plan).into_iter().filter(|(path, _)| !path.is_symlink());
    paths.chain(etc.filter_map(|(path, writable)| Place::real(&path, writable))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Id, Ids, OtherRoot, PathRule};

    fn rule(path: impl Into<PathBuf>) -> PathRule {
        PathRule { path: path.into(), optional: false }
    }

    #[test]
    fn a_socket_that_somebody_answers_on_is_seen_where_agents_see_it() {
        use std::os::unix::net::{UnixDatagram, UnixListener};
        let dir = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(dir.path()).unwrap();
        for made in ["shown/sub", "other"] {
            std::fs::create_dir_all(real.join(made)).unwrap();
        }
        std::os::unix::fs::symlink("shown", real.join("link")).unwrap();
        let at = |name: &str| real.join(name);
        let _streams = ["shown/a b", "link/sub/linked", "other/c", "shown/gone"]
            .map(|name| UnixListener::bind(at(name)).unwrap());
        let _datagrams = UnixDatagram::bind(at("shown/sub/d")).unwrap();
        drop(UnixListener::bind(at("shown/nobodys")).unwrap());
        std::fs::remove_file(at("shown/gone")).unwrap();
        let place = |name: &str| Place { path: at(name), writable: false };
        let expected = ["shown/a b", "link/sub/linked", "shown/sub/d"].map(at);
        assert_eq!(answered(&[place("shown")]), BTreeSet::from(expected));
        assert_eq!(
            answered(&[place("other/c")]),
            BTreeSet::from([at("other/c")]),
            "one that is named itself"
        );
        assert_eq!(answered(&[]), BTreeSet::new());
    }

    #[test]
    fn what_the_sandbox_has_of_its_own_is_none_of_the_hosts() {
        let dir = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(dir.path()).unwrap();
        for made in ["workspace", "a", "b", "root/a", "root-overlay"] {
            std::fs::create_dir_all(real.join(made)).unwrap();
        }
        std::os::unix::fs::symlink("b", real.join("link")).unwrap();
        let ids = Ids::Rootless { operator: Id { uid: 1, gid: 1 } };
        let mut plan = CagePlan::new("box", ids, real.join("workspace"));
        plan.paths.read_only = ["/etc", "/tmp", "/proc", "/sandbox/x"]
            .map(rule)
            .into_iter()
            .chain([rule(real.join("link"))])
            .collect();
        plan.paths.read_write = vec![rule(real.join("a")), rule("/dev/null"), rule("/var/tmp")];
        let of = |plan: &CagePlan, name: &str| {
            let found = places(plan).into_iter().find(|place| place.path == real.join(name));
            found.map(|place| place.writable)
        };
        assert_eq!(of(&plan, "a"), Some(true));
        assert_eq!(of(&plan, "b"), Some(false), "where a link leads");
        assert_eq!(of(&plan, "workspace"), Some(false), "it is there to be read");
        for own in ["/etc", "/tmp", "/var/tmp", "/proc", "/dev/null", "/"] {
            assert!(!places(&plan).iter().any(|place| place.path == Path::new(own)), "{own}");
        }
        plan.paths.read_write.push(rule("/sandbox"));
        assert_eq!(of(&plan, "workspace"), Some(true));

        plan.root = Some(OtherRoot {
            path: real.join("root"),
            image: false,
            overlay: Some(real.join("root-overlay")),
        });
        assert_eq!(of(&plan, "a"), None, "it is looked up in the other root");
        assert_eq!((of(&plan, "root"), of(&plan, "root-overlay")), (Some(false), Some(true)));
        assert_eq!(of(&plan, "workspace"), Some(true));
    }
}
