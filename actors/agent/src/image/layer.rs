//! Applies one layer to a tree (image-spec, layer.md): makes entries in order; whiteouts remove what lower
//! layers brought, never what this layer brought itself.

use super::bounds::MAX_ENTRIES;
use super::entry::{Entry, Extended, Kind, Names, Place, judge};
use super::tree::{self, Found, Tree, broken};
use super::{ImageError, refused};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Counts over all layers of an image.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Entries, and directories that no entry made but that lay on the way to one.
    pub(super) entries: u64,
    /// Devices and named pipes that were left out.
    pub(super) skipped: u64,
}

impl Tally {
    /// Counts one entry; fails beyond [`MAX_ENTRIES`].
    pub(super) fn count(&mut self) -> Result<(), ImageError> {
        self.entries += 1;
        match self.entries > MAX_ENTRIES {
            true => Err(ImageError::TooMuch { what: "the number of entries".into(), limit: MAX_ENTRIES }),
            false => Ok(()),
        }
    }
}

/// What an entry's name says beyond its place (layer.md, "Whiteouts").
enum Name {
    Ordinary,
    /// Removes this name, which lies beside the entry.
    Whiteout(Place),
    /// Removes everything in this directory, in which the entry lies.
    Opaque(Place),
    /// Bookkeeping of AUFS.
    Ignored,
}

/// What a layer has said so far.
#[derive(Default)]
struct Layer {
    /// The places that the layer made, which its whiteouts leave alone.
    made: HashSet<PathBuf>,
    /// The layer's whiteouts. A second one of the same place would remove nothing, but might look through
    /// very many names: it is skipped.
    whiteouts: HashSet<PathBuf>,
}

/// Applies a layer's plain bytes.
pub(super) fn apply(tree: Tree<'_>, plain: &mut dyn Read, tally: &mut Tally) -> Result<(), ImageError> {
    let mut archive = tar::Archive::new(plain);
    let mut layer = Layer::default();
    let mut extended = Extended::default();
    let unreadable = |error: io::Error| refused(format!("its archive can't be read: {error}"));
    for raw in archive.entries().map_err(unreadable)?.raw(true) {
        let mut raw = raw.map_err(unreadable)?;
        tally.count()?;
        if extended.take(&mut raw)? {
            continue;
        }
        let entry = judge(&raw, std::mem::take(&mut extended), Names::Plain)?;
        one(tree, &entry, &mut raw, &mut layer, tally)?;
    }
    if extended.is_empty() { Ok(()) } else { Err(refused("its archive ends with a header of nothing")) }
}

fn one(
    tree: Tree<'_>,
    entry: &Entry,
    content: &mut impl Read,
    layer: &mut Layer,
    tally: &mut Tally,
) -> Result<(), ImageError> {
    let meaning = meaning(&entry.place)?;
    if matches!(meaning, Name::Whiteout(_) | Name::Opaque(_))
        && !layer.whiteouts.insert(entry.place.path().to_owned())
    {
        return Ok(());
    }
    match meaning {
        Name::Ignored => Ok(()),
        Name::Whiteout(victim) => match tree.directory(&parent_of(&victim)?)? {
            None => Ok(()),
            Some(dir) => {
                let name = victim.split().map(|(_, name)| name.to_owned()).unwrap_or_default();
                tree::remove(dir.as_fd(), &name, victim.path(), &layer.made)
                    .map(drop)
                    .map_err(broken(&victim))
            }
        },
        Name::Opaque(place) => match tree.directory(&place)? {
            None => Ok(()),
            Some(dir) => {
                tree::empty(dir.as_fd(), place.path(), &layer.made).map(drop).map_err(broken(&place))
            }
        },
        Name::Ordinary => {
            make(tree, entry, content, tally)?;
            layer.made.insert(entry.place.path().to_owned());
            Ok(())
        }
    }
}

fn parent_of(place: &Place) -> Result<Place, ImageError> {
    Place::new(place.path().parent().map(|path| path.as_os_str().as_bytes()).unwrap_or_default())
}

fn meaning(place: &Place) -> Result<Name, ImageError> {
    const WHITEOUT: &[u8] = b".wh.";
    const META: &[u8] = b".wh..wh.";
    const OPAQUE: &[u8] = b".wh..wh..opq";
    let Some((parent, name)) = place.split() else { return Ok(Name::Ordinary) };
    let wrong = |why: &str| {
        refused(format!("entry {:?}: {why}", super::entry::shown(place.path().as_os_str().as_bytes())))
    };
    if parent.iter().any(|part| part.as_bytes().starts_with(META)) {
        return Ok(Name::Ignored);
    }
    if parent.iter().any(|part| part.as_bytes().starts_with(WHITEOUT)) {
        return Err(wrong("it lies in a whiteout"));
    }
    let name = name.as_bytes();
    if name == OPAQUE {
        return Ok(Name::Opaque(Place::new(parent.as_os_str().as_bytes())?));
    }
    if name.starts_with(META) {
        return Ok(Name::Ignored);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Name::Ordinary),
        Some(b"" | b"." | b"..") => Err(wrong("it is a whiteout of no name")),
        Some(victim) => {
            Ok(Name::Whiteout(Place::new(parent.join(OsStr::from_bytes(victim)).as_os_str().as_bytes())?))
        }
    }
}

fn make(tree: Tree<'_>, entry: &Entry, content: &mut impl Read, tally: &mut Tally) -> Result<(), ImageError> {
    let Entry { place, kind, mode, modified, size } = entry;
    let Some((parent, name)) = tree.make_parent(place, || tally.count())? else {
        // The root itself: it exists already, and we decide its mode.
        return match kind {
            Kind::Directory => Ok(()),
            _ => Err(refused("an entry makes the root something else than a directory")),
        };
    };
    let (dir, name) = (parent.as_fd(), name.as_os_str());
    if let Kind::HardLink(target) = kind
        && target == place
    {
        return Ok(());
    }
    let found = tree::find(dir, name).map_err(broken(place))?;
    let stays = matches!((kind, found), (_, Found::Nothing) | (Kind::Directory, Found::Directory));
    if !stays {
        tree::remove(dir, name, place.path(), &HashSet::new()).map_err(broken(place))?;
    }
    match kind {
        Kind::Directory => tree::make_directory(dir, name, *mode).map_err(broken(place)),
        Kind::File => {
            let mut file = tree::make_file(dir, name).map_err(broken(place))?;
            let written = io::copy(content, &mut file).map_err(broken(place))?;
            if written != *size {
                return Err(refused("its archive ends within a file"));
            }
            tree::finish_file(&file, *mode, *modified).map_err(broken(place))
        }
        Kind::Link(target) => tree::make_link(dir, name, target).map_err(broken(place)),
        Kind::HardLink(target) => hard_link(tree, target, place, (dir, name)),
        // Left out, but what a lower layer has there is hidden all the same.
        Kind::Special => {
            tally.skipped += 1;
            Ok(())
        }
    }
}

fn hard_link(
    tree: Tree<'_>,
    target: &Place,
    place: &Place,
    to: (std::os::fd::BorrowedFd<'_>, &OsStr),
) -> Result<(), ImageError> {
    let wrong = || {
        refused(format!(
            "entry {:?}: it is a hard link to {:?}, which is no file of this image",
            super::entry::shown(place.path().as_os_str().as_bytes()),
            super::entry::shown(target.path().as_os_str().as_bytes())
        ))
    };
    let (parent, name) = match tree.parent(target) {
        Ok(Some(found)) => found,
        Ok(None) | Err(ImageError::System { .. }) => return Err(wrong()),
        Err(error) => return Err(error),
    };
    if tree::find(parent.as_fd(), &name).map_err(broken(target))? != Found::File {
        return Err(wrong());
    }
    tree::make_hard_link((parent.as_fd(), &name), to).map_err(broken(place))
}
