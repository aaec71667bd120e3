//! Places of the host that no sandbox may see: cofferdam's own state, with a socket in it that takes its
//! peer's user id as proof of being the operator.
//!
//! Code that shows a place of the host (the policy's paths, the workspace, another root) checks its real path
//! here.

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Real paths on the host of which nothing is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hidden(Vec<PathBuf>);

impl Hidden {
    /// Hides these places, given by their real paths.
    pub fn new(places: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(places.into_iter().collect())
    }

    /// Returns a hidden place that would be seen if `real` were shown: one of the two lies in the other.
    #[must_use]
    pub fn seen_at(&self, real: &Path) -> Option<&Path> {
        self.find(|place| place.starts_with(real) || real.starts_with(place))
    }

    /// As [`Hidden::seen_at`], for a directory inside a hidden place that the sandbox may show: only hidden
    /// places that lie in the directory count.
    #[must_use]
    pub fn seen_in_own(&self, real: &Path) -> Option<&Path> {
        self.find(|place| place.starts_with(real))
    }

    fn find(&self, seen: impl Fn(&Path) -> bool) -> Option<&Path> {
        self.0.iter().map(PathBuf::as_path).find(|place| seen(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_seen_from_above_and_from_within() {
        let hidden = Hidden::new(["/var/lib/cofferdam".into(), "/srv/state".into()]);
        for (shown, seen) in [
            ("/var", Some("/var/lib/cofferdam")),
            ("/var/lib/cofferdam", Some("/var/lib/cofferdam")),
            ("/var/lib/cofferdam/one/workspace", Some("/var/lib/cofferdam")),
            ("/srv/state/one", Some("/srv/state")),
            ("/srv/states", None),
            ("/var/lib/other", None),
        ] {
            assert_eq!(hidden.seen_at(Path::new(shown)), seen.map(Path::new), "{shown}");
        }
        let own = |real: &str| hidden.seen_in_own(Path::new(real)).is_some();
        assert!(!own("/srv/state/one/workspace"));
        assert!(own("/srv/state") && own("/srv"), "what holds state is nobody's own");
    }
}
