//! The links on the way along a path, one after the other, as the kernel follows them.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

/// As many as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Why a path leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum Astray {
    /// It leads through a link where an agent can write, or could.
    #[error("{} is a link that an agent can change, or could", .0.display())]
    Changeable(PathBuf),
    /// The kernel's error.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Returns the real path of an absolute path, resolved in one pass and through no link that lies in `theirs`
/// (real paths). Each link is judged before it is followed, so that changing it meanwhile gains nothing.
/// Other parts of the path may still be replaced in those places afterwards; the code that opens the result
/// must be ready for that (`sys::beneath`).
///
/// # Errors
/// A link of `theirs` on the path; the kernel's error for a path that can't be resolved.
pub fn follow(path: &Path, theirs: &[PathBuf]) -> Result<PathBuf, Astray> {
    let mut real = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = parts(path).collect();
    let mut followed = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            real.pop();
            continue;
        }
        let here = real.join(&part);
        if !std::fs::symlink_metadata(&here)?.is_symlink() {
            real = here;
            continue;
        }
        if theirs.iter().any(|place| real.starts_with(place)) {
            return Err(Astray::Changeable(here));
        }
        followed += 1;
        if followed > MAX_LINKS {
            return Err(io::Error::from_raw_os_error(libc::ELOOP).into());
        }
        let target = std::fs::read_link(&here)?;
        if target.is_absolute() {
            real = PathBuf::from("/");
        }
        for part in parts(&target).rev() {
            rest.push_front(part);
        }
    }
    Ok(real)
}

/// Names and `..` of a path.
fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
}

/// Returns an absolute path, and then what it becomes as one link after the other is followed.
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
fn first(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut ancestors: Vec<&Path> = path.ancestors().collect();
    ancestors.reverse();
    let link =
        ancestors.into_iter().find(|part| std::fs::symlink_metadata(part).is_ok_and(|m| m.is_symlink()))?;
    Some((link.to_path_buf(), path.strip_prefix(link).ok()?.to_path_buf()))
}

/// Strips a slash at the end, with which a link is not seen as one (path_resolution(7)).
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

    #[test]
    fn a_path_is_followed_as_the_kernel_does_but_through_no_link_of_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        let at = |name: &str| root.join(name);
        for made in ["a/b", "theirs/sub"] {
            std::fs::create_dir_all(at(made)).unwrap();
        }
        std::fs::write(at("a/file"), "").unwrap();
        for (link, target) in [
            ("one", "two/"),
            ("two", "./a/../a"),
            ("a/b/up", "../.."),
            ("to-theirs", "theirs/sub"),
            ("theirs/out", "../a"),
            ("through", "theirs/out/b"),
            ("ring", "ring"),
            ("nowhere", "no/such"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        symlink(at("a"), at("absolute")).unwrap();
        let theirs = [at("theirs")];
        for path in [
            "a",
            "one/b",
            "two/b/up/one/file",
            "absolute/b",
            "to-theirs",
            "theirs/sub/../../a",
            "a/b/up/theirs",
        ] {
            let real = follow(&at(path), &theirs).unwrap();
            assert_eq!(real, std::fs::canonicalize(at(path)).unwrap(), "{path}");
        }
        for path in ["theirs/out", "through", "a/b/up/theirs/out/file", "to-theirs/../out"] {
            let astray = follow(&at(path), &theirs).unwrap_err();
            assert!(
                matches!(&astray, Astray::Changeable(link) if *link == at("theirs/out")),
                "{path}: {astray:?}"
            );
            assert_eq!(follow(&at(path), &[]).unwrap(), std::fs::canonicalize(at(path)).unwrap(), "{path}");
        }
        for (path, why) in [
            ("ring", libc::ELOOP),
            ("nowhere", libc::ENOENT),
            ("a/none", libc::ENOENT),
            ("a/file/b", libc::ENOTDIR),
        ] {
            let astray = follow(&at(path), &theirs).unwrap_err();
            assert!(
                matches!(&astray, Astray::Io(error) if error.raw_os_error() == Some(why)),
                "{path}: {astray:?}"
            );
        }
    }
}
