//! The links on the way along a path, one after the other, as the kernel follows them.

use std::path::{Path, PathBuf};

/// As many as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// An absolute path, and what becomes of it as one link after the other is followed.
pub fn steps(path: &Path) -> impl Iterator<Item = PathBuf> {
    std::iter::successors(Some(plain(path)), |way| {
        let (link, rest) = first(way)?;
        let parent = std::fs::canonicalize(link.parent()?).ok()?;
        let target = std::fs::read_link(&link).ok()?;
        // Joining an absolute target replaces the parent, as following it does.
        Some(plain(&parent.join(target).join(rest)))
    })
    .take(MAX_LINKS + 1)
}

/// The first component that is a link, and what comes after it.
pub(super) fn first(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut ancestors: Vec<&Path> = path.ancestors().collect();
    ancestors.reverse();
    let link =
        ancestors.into_iter().find(|part| std::fs::symlink_metadata(part).is_ok_and(|m| m.is_symlink()))?;
    Some((link.to_path_buf(), path.strip_prefix(link).ok()?.to_path_buf()))
}

/// Without a slash at the end, behind which a link is not seen as one (path_resolution(7)).
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn each_link_is_a_step() {
        let dir = tempfile::tempdir().unwrap();
        let real = std::fs::canonicalize(dir.path()).unwrap();
        let at = |name: &str| real.join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        // To a directory by another link, relative and absolute, with a slash at the end.
        symlink("two/", at("one")).unwrap();
        symlink(at("a"), at("two")).unwrap();
        let of = |path: &str| steps(&at(path)).collect::<Vec<_>>();
        assert_eq!(of("one/b"), [at("one/b"), at("two/b"), at("a/b")]);
        assert_eq!(of("one/"), [at("one"), at("two"), at("a")]);
        assert_eq!(of("a/none"), [at("a/none")]);
        symlink("ring", at("ring")).unwrap();
        assert_eq!(of("ring").len(), MAX_LINKS + 1);
    }
}
