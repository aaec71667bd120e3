//! Makes a file from a stopped sandbox. The sandbox's claim is held meanwhile, so that it can't be started.
//! Each tree is read by a process that runs as the user who owns the files, and may read nothing else. What
//! was written is read back before the file gets its name.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use agent::confine::{self, Reach};
use agent::plan::{Hidden, Id, Ids};
use agent::snapshot::container::Writer;
use agent::snapshot::{MAX_MEMORY, Packed, Room, Select, SnapshotError, pack};
use nix::errno::Errno;
use nix::fcntl::openat;
use nix::sys::stat::Mode;

use super::manifest::{Manifest, Member, Origin};
use super::place::Place;
use super::{Meter, STATE, WORKSPACE, everything, keeper, mended, owner, records};
use crate::failure::Failure;
use crate::ids;
use crate::kept;
use crate::kept::DIRECTORY;
use crate::site::places;
use crate::start::workspace;
use crate::state::{Claim, Name, Root, files};

/// What to make a snapshot of, and where.
pub struct Wanted<'a> {
    /// The sandbox's name.
    pub name: &'a Name,
    /// The file. `None`: a file in the working directory, with the time in its name.
    pub file: Option<&'a Path>,
    /// The directory with the agent's files, if they are not in the sandbox's own directory.
    pub workspace: Option<&'a Path>,
    /// Bytes that the content may come to at most.
    pub most: u64,
    /// Called with the progress.
    pub meter: Meter,
}

/// The snapshot that was made.
pub struct Made {
    /// The file.
    pub file: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Its manifest.
    pub manifest: Manifest,
    /// What the operator should know isn't in it, one line each.
    pub missing: Vec<String>,
}

/// Makes a snapshot.
///
/// # Errors
/// The sandbox runs or doesn't exist, its content is too large, or something can't be read or written. Then
/// there is no file, except after the last error of [`Place::publish`].
pub fn make(root: &Root, wanted: &Wanted<'_>) -> Result<Made, Failure> {
    let claim = root.claim_stopped(wanted.name, ", and what it writes would be caught halfway")?;
    let ids = ids::choose(&claim)?;
    // As a start does: this lets the gateway's user into the directory.
    ids::own(&claim, ids)?;
    let before = places::before(&claim.dir)?;
    let files = match wanted.workspace {
        Some(named) => Some(Files::named(named, &claim, ids, (&root.every_place(), &before))?),
        None => Files::own(&claim, ids)?,
    };
    let place = Place::new(destination(&claim, wanted, (&before, files.as_ref()))?)?;
    let mut writer = Writer::new(&place.file);
    let out = &place.file;
    let state = writer
        .part(STATE, || {
            packed(
                keeper(ids),
                (&claim.handle, out),
                records(),
                (Room { most: wanted.most, taken: 0 }, wanted.meter),
            )
        })
        .map_err(|e| place.failure(e))?;
    let room = Room { most: wanted.most, taken: state.1.amount.charged() };
    let origin = files.as_ref().map_or(Origin::Elsewhere, |files| files.origin);
    let taken = files.as_ref().map(|files| files.real.clone());
    let files = files
        .map(|Files { dir, user, .. }| {
            let write = || packed(user, (&dir, out), everything(), (room, wanted.meter));
            writer.part(WORKSPACE, write)
        })
        .transpose()
        .map_err(|e| place.failure(e))?;
    let manifest = Manifest::new(wanted.name.as_str(), origin, Member::new(state), files.map(Member::new));
    writer.finish(&manifest.text().map_err(|e| place.failure(e))?).map_err(|e| place.failure(e))?;
    let found = super::look(&place.file, ids, wanted.most, wanted.meter).map_err(|failure| {
        let message = format!("no restore would take it: {}; see {}", failure.message, claim.dir.display());
        Failure { message, ..failure }
    })?;
    if found.manifest != manifest {
        return Err(Failure::refused(
            "the snapshot does not read back as it was written: there is no file; try again",
        ));
    }
    let mut missing = missing(&claim, &manifest);
    missing.extend(elsewhere(&claim, &before, taken.as_deref()));
    let size = place.file.metadata()?.len();
    Ok(Made { file: place.publish()?, size, manifest, missing })
}

/// Returns the path of the file. It leads through no link that the agents could have made, and isn't in a
/// place where they can write: the file holds more than they may see.
fn destination(
    claim: &Claim,
    wanted: &Wanted<'_>,
    (before, files): (&BTreeSet<PathBuf>, Option<&Files>),
) -> Result<PathBuf, Failure> {
    let usual = || {
        let now = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        PathBuf::from(format!("{}-{now}.cofferdam", claim.name))
    };
    let path = wanted.file.map_or_else(usual, Path::to_owned);
    let shown = path.display();
    let Some(name) = path.file_name() else {
        return Err(Failure::refused(format!(
            "{shown} is no name of a file: name one, such as ./{}",
            usual().display()
        )));
    };
    if path.is_dir() {
        return Err(Failure::refused(format!(
            "{shown} is a directory: name a file in it, such as {}",
            path.join(usual()).display()
        )));
    }
    let directory = kept::beside(&path);
    let real = places::follow(directory, before).map_err(|e| {
        Failure::refused(format!("can't write {shown}: {}: {e}; name a file elsewhere", directory.display()))
    })?;
    let mut theirs = before.iter().chain(files.map(|files| &files.real));
    match theirs.find(|place| real.starts_with(place)) {
        Some(place) => Err(Failure::refused(format!(
            "can't write {shown}: it would lie in {}, where agents of '{}' could read and change it; name a file elsewhere",
            place.display(),
            claim.name
        ))),
        None => Ok(real.join(name)),
    }
}

/// The directory with the agent's files.
struct Files {
    origin: Origin,
    /// The directory, opened.
    dir: File,
    /// Its real path.
    real: PathBuf,
    /// The user who owns the files on disk, and as whom they are read.
    user: Id,
}

impl Files {
    /// Opens the workspace in the sandbox's own directory, if there is one.
    fn own(claim: &Claim, ids: Ids) -> Result<Option<Self>, Failure> {
        let path = claim.dir.join(files::WORKSPACE);
        let dir: File = match openat(&claim.handle, files::WORKSPACE, DIRECTORY, Mode::empty()) {
            Ok(dir) => dir.into(),
            Err(Errno::ENOENT) => return Ok(None),
            Err(e) => return Err(Failure::refused(format!("{}: {}", path.display(), e.desc()))),
        };
        let real = std::fs::canonicalize(&claim.dir)?.join(files::WORKSPACE);
        Ok(Some(Self { origin: Origin::Own, dir, real, user: owner(ids) }))
    }

    /// Opens a named directory. What a start refuses as a workspace is refused here too.
    fn named(
        named: &Path,
        claim: &Claim,
        ids: Ids,
        (hidden, before): (&Hidden, &BTreeSet<PathBuf>),
    ) -> Result<Self, Failure> {
        let real = workspace::check(named, before)?;
        workspace::shows_no_state(named, &real, claim, hidden)?;
        let told =
            |e: io::Error| Failure::refused(format!("workspace {}: {e}; name another", named.display()));
        let dir = File::open(&real).map_err(told)?;
        let found = dir.metadata().map_err(told)?;
        let user = match ids {
            // A start shows another user's directory as the agent's own, and what the agent writes there is
            // that user's on disk.
            Ids::Rooted { sandbox, .. } if found.uid() != sandbox.uid => {
                Id { uid: found.uid(), gid: found.gid() }
            }
            ids => owner(ids),
        };
        Ok(Self { origin: Origin::Named, dir, real, user })
    }
}

fn packed(
    user: Id,
    (source, out): (&File, &File),
    select: Select<'_>,
    (room, meter): (Room, Meter),
) -> Result<Packed, SnapshotError> {
    let reach =
        Reach { source, into: None, out: Some(out), reads_all: true, largest: u64::MAX, memory: MAX_MEMORY };
    let said = confine::run(user, reach, || {
        let packed = pack(source.as_fd(), select, room, out, &mut |bytes| meter(bytes)).map_err(mended)?;
        serde_json::to_string(&packed).map_err(|e| SnapshotError::Refused(e.to_string()))
    })?;
    serde_json::from_str(&said).map_err(|e| SnapshotError::Refused(e.to_string()))
}

fn missing(claim: &Claim, manifest: &Manifest) -> Vec<String> {
    let mut said = Vec::new();
    if manifest.origin == Origin::Elsewhere {
        said.push(format!(
            "the agent's files are not in it: '{}' has no workspace of its own; --workspace DIR takes in the one that it is started with",
            claim.name
        ));
    }
    if manifest.origin == Origin::Named && holds_anything(&claim.dir.join(files::WORKSPACE)) {
        said.push(format!("its own workspace is not in it: {}", claim.dir.join(files::WORKSPACE).display()));
    }
    if holds_anything(&claim.dir.join(files::ROOT)) {
        said.push("what was changed in its other root (--root) is not in it: only /sandbox is".into());
    }
    said.extend(manifest.left_out());
    said
}

/// Says where else the agents could ever write: in the workspace of another start, say.
fn elsewhere(claim: &Claim, places: &BTreeSet<PathBuf>, taken: Option<&Path>) -> Option<String> {
    let own = std::fs::canonicalize(&claim.dir).unwrap_or_else(|_| claim.dir.clone());
    let others = places.iter().filter(|place| !place.starts_with(&own) && Some(place.as_path()) != taken);
    let others: Vec<String> = others.map(|place| place.display().to_string()).collect();
    (!others.is_empty()).then(|| {
        format!(
            "what its agents may have written in {} is not in it; --workspace DIR takes in such a directory instead",
            others.join(", ")
        )
    })
}

fn holds_anything(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}
