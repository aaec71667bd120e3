//! Writes the log: opening with explicit repair, appending a batch with one `fdatasync`, rotation with the
//! chain carried across, and the head file that reveals a cut tail. All blocking. Never shortens the log
//! except by the unfinished bytes of its own failed write or of a crash, and by the latter only once they are
//! on record. Never removes a file before that is on record, and never replaces a finished one.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use redactor::Redactor;

use super::ahead::{Ahead, Taken};
use super::event::{Event, Note, Text};
use super::found::{
    AuditError, FileEnd, HEAD_NAME, Head, LOG_NAME, NEXT_NAME, first_record, io, is_at, last_of_old,
    number_of, old_files, old_name, open_private, read_end, read_head,
};
use super::reached::{Tip, first_of, settle};
use super::record::{Draft, Record, parse};

/// Bytes that most lines don't exceed.
const USUAL_LINE: usize = 768;
/// The head file is overwritten in place, so it always has this length.
const HEAD_LENGTH: usize = 192;

/// When a new file is begun, and how many old ones are kept.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// A new file is begun once this one has this many bytes.
    pub bytes: u64,
    /// How many finished files are kept; older ones are deleted, on record.
    pub keep: usize,
}

impl Default for Rotation {
    /// 32 files of 64 MiB: some four million records, bounded at 2 GiB.
    fn default() -> Self {
        Self { bytes: 64 * 1024 * 1024, keep: 32 }
    }
}

/// The whole lines that a write put on disk.
#[derive(Debug, Default)]
pub(crate) struct Written(Vec<u8>);

impl Written {
    /// The lines parsed again, for the live feed.
    pub(crate) fn records(&self) -> impl Iterator<Item = Record> {
        self.0.split(|byte| *byte == b'\n').filter_map(|line| parse(line).ok())
    }
}

/// The log, open for writing; holds the lock on it.
#[derive(Debug)]
pub(crate) struct AuditFile {
    directory: PathBuf,
    rotation: Rotation,
    file: File,
    /// Bytes of whole records.
    length: u64,
    /// The next file is begun once this one has this many bytes.
    rotate_at: u64,
    /// Disk allocated beyond its end.
    ahead: Ahead,
    /// Whether disk is allocated ahead at each write.
    keeps_ahead: bool,
    /// Number of the first record of this file.
    first: u64,
    tip: Tip,
    head: File,
    /// Notes about the log itself, written before the next record.
    notes: Vec<Draft>,
    /// Finished files that are removed once the notes are written.
    surplus: Vec<PathBuf>,
    /// Lines that are on disk but were not yet given to the live feed.
    unheard: Vec<u8>,
    /// A failed write could not be taken back, or the file lost its name: the log must be read again.
    broken: bool,
}

impl AuditFile {
    /// Opens, locks, repairs and continues the log in `directory`.
    pub(crate) fn open(
        directory: &Path,
        rotation: Rotation,
        redactor: &Redactor,
    ) -> Result<Self, AuditError> {
        Self::open_after(None, directory, rotation, redactor)
    }

    /// Returns the log to write to: `file`, or the log opened anew if there is none or it can't be used any
    /// more.
    pub(crate) fn go_on(
        file: Option<Self>,
        directory: &Path,
        rotation: Rotation,
        redactor: &Redactor,
    ) -> Result<Self, AuditError> {
        let Some(mut file) = file else { return Self::open(directory, rotation, redactor) };
        file.find_loss();
        if !file.broken {
            return Ok(file);
        }
        // Dropping the file also releases its lock.
        let written = file.head();
        drop(file);
        Self::open_after(Some(written), directory, rotation, redactor)
    }

    /// As [`Self::open`]; `written` is what the caller knows to be written last, used if the head file is
    /// gone.
    fn open_after(
        written: Option<Head>,
        directory: &Path,
        rotation: Rotation,
        redactor: &Redactor,
    ) -> Result<Self, AuditError> {
        let head_path = directory.join(HEAD_NAME);
        let head = open_private(&head_path, false)?;
        match lock(&head) {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(AuditError::InUse(head_path)),
            Err(std::fs::TryLockError::Error(source)) => {
                return Err(AuditError::Io { what: "locking", path: head_path, source });
            }
        }
        let path = directory.join(LOG_NAME);
        let mut file = open_private(&path, true)?;
        let FileEnd { length, last, torn } = read_end(&mut file, &path)?;
        let last = match last {
            None => last_of_old(directory)?,
            last => last,
        };
        let finished = old_files(directory)?.last().and_then(|path| number_of(path)).unwrap_or(0);
        let head_says = read_head(&head_path)?.or(written);
        let (tip, damage) = settle(last, head_says, finished, directory)?;
        // After every finished file, however many lines of this file are damaged.
        let first = first_of(&path, tip.seq)?.max(finished.saturating_add(1));
        let is_torn = torn.is_some();
        let notes = torn.into_iter().chain(damage).map(|note| Draft::new(Event::Log(note))).collect();
        let directory = directory.to_owned();
        let mut log = Self {
            directory,
            rotation,
            file,
            length,
            rotate_at: rotation.bytes,
            ahead: Ahead::default(),
            keeps_ahead: false,
            first,
            tip,
            head,
            notes,
            surplus: Vec::new(),
            unheard: Vec::new(),
            broken: false,
        };
        if is_torn {
            log.cut_off(redactor)?;
        }
        log.append(&mut [], redactor)?;
        Ok(log)
    }

    /// Cuts off an unfinished end, once the notes are on disk, which are written over it. So whenever a crash
    /// comes, there is still an unfinished end or a note of it.
    fn cut_off(&mut self, redactor: &Redactor) -> Result<(), AuditError> {
        let path = self.path();
        let (lines, tip) = self.draw_up(&mut [], redactor)?;
        let over = open_private(&path, false)?;
        let written = over.write_all_at(&lines, self.length).and_then(|()| over.sync_data());
        written.map_err(io("writing", &path))?;
        self.wrote(lines, tip);
        self.file.set_len(self.length).map_err(io("truncating", &path))
    }

    /// Notices that a file was removed or renamed, since what is written to it would never be found. Two
    /// lookups for each batch cost nothing beside its `fdatasync`.
    fn find_loss(&mut self) {
        for (file, name) in [(&self.file, LOG_NAME), (&self.head, HEAD_NAME)] {
            let path = self.directory.join(name);
            if !self.broken && !is_at(file, &path) {
                tracing::error!(path = %path.display(), "removed or renamed while the audit log was written; it is opened anew");
                self.broken = true;
            }
        }
    }

    /// Durably writes all of the batch that isn't written yet, or nothing. Either way, the texts of the
    /// drafts that it tried to write are redacted afterwards.
    pub(crate) fn append(&mut self, batch: &mut [Draft], redactor: &Redactor) -> Result<(), AuditError> {
        self.rotate()?;
        if self.keeps_ahead {
            let _ = self.ahead.keep(&self.file, self.length);
        }
        let (lines, tip) = self.draw_up(batch, redactor)?;
        self.commit(&lines)?;
        self.wrote(lines, tip);
        self.write_head()?;
        self.prune();
        Ok(())
    }

    /// Makes the lines that come next, those of the notes first; also returns the end of the chain after
    /// them.
    fn draw_up(&mut self, batch: &mut [Draft], redactor: &Redactor) -> Result<(Vec<u8>, Tip), AuditError> {
        let written = self.tip.id.and_then(|last| batch.iter().position(|draft| draft.id == last));
        let rest = batch.get_mut(written.map_or(0, |index| index + 1)..).unwrap_or_default();
        let mut tip = self.tip.clone();
        let mut lines = Vec::with_capacity(USUAL_LINE * (self.notes.len() + rest.len()));
        for draft in self.notes.iter_mut().chain(rest) {
            let seq = tip.seq + 1;
            let hash = draft.finish(seq, &tip.hash, redactor, &mut lines)?;
            tip = Tip { seq, hash, id: Some(draft.id) };
        }
        Ok((lines, tip))
    }

    /// Notes that these lines are on disk.
    fn wrote(&mut self, lines: Vec<u8>, tip: Tip) {
        self.length += u64::try_from(lines.len()).unwrap_or(u64::MAX);
        self.tip = tip;
        self.notes.clear();
        if self.unheard.is_empty() {
            self.unheard = lines;
        } else {
            self.unheard.extend_from_slice(&lines);
        }
    }

    /// Takes the lines written since the last call, also if something failed after they were written.
    pub(crate) fn take_written(&mut self) -> Written {
        Written(std::mem::take(&mut self.unheard))
    }

    #[cfg(test)]
    pub(super) fn make_head_read_only(&mut self) {
        self.head = File::open(self.directory.join(HEAD_NAME)).unwrap();
    }

    /// Allocates disk ahead from the next write on.
    pub(crate) fn keep_ahead(&mut self) {
        self.keeps_ahead = true;
    }

    /// Gives back the disk that was allocated for records that will not come any more.
    pub(crate) fn give_back(&mut self) {
        self.ahead.give_back(&self.file, self.length);
    }

    fn path(&self) -> PathBuf {
        self.directory.join(LOG_NAME)
    }

    fn commit(&mut self, bytes: &[u8]) -> Result<(), AuditError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let done = self.file.write_all(bytes).and_then(|()| self.file.sync_data());
        if let Err(source) = done {
            // Removes what this write left, so that the next attempt begins on a new line.
            self.broken = self.file.set_len(self.length).is_err();
            self.ahead.given_back();
            return Err(AuditError::Io { what: "writing", path: self.path(), source });
        }
        Ok(())
    }

    fn head(&self) -> Head {
        Head { seq: self.tip.seq, hash: self.tip.hash.clone() }
    }

    fn write_head(&self) -> Result<(), AuditError> {
        let mut text = serde_json::to_string(&self.head())?;
        while text.len() < HEAD_LENGTH - 1 {
            text.push(' ');
        }
        text.push('\n');
        self.head.write_all_at(text.as_bytes(), 0).map_err(io("writing", &self.directory.join(HEAD_NAME)))
    }

    /// Begins a new file once this one is long enough. If that fails, on a full disk say, this file is
    /// continued.
    fn rotate(&mut self) -> Result<(), AuditError> {
        if self.length < self.rotate_at {
            return Ok(());
        }
        let next = self.directory.join(NEXT_NAME);
        let path = self.path();
        let (file, ahead) = match self.begin_next(&next) {
            Ok(begun) => begun,
            Err(error) => return self.stay(&error),
        };
        match self.finish() {
            Ok(()) => {}
            Err(source) if source.kind() == std::io::ErrorKind::AlreadyExists => return self.stay(&source),
            Err(source) => {
                // It has gone since `find_loss` checked: the log must be opened anew.
                self.broken |= source.kind() == std::io::ErrorKind::NotFound;
                return Err(AuditError::Io { what: "renaming", path, source });
            }
        }
        // From here on the open file is the old one: an error must lead to opening anew.
        self.broken = true;
        std::fs::rename(&next, &path).map_err(io("renaming", &next))?;
        self.ahead.give_back(&self.file, self.length);
        (self.file, self.ahead) = (file, ahead);
        self.length = 0;
        self.rotate_at = self.rotation.bytes;
        self.first = self.tip.seq + 1;
        let directory = File::open(&self.directory).map_err(io("opening", &self.directory))?;
        directory.sync_all().map_err(io("syncing", &self.directory))?;
        self.broken = false;
        self.plan_pruning()
    }

    fn stay(&mut self, why: &dyn std::error::Error) -> Result<(), AuditError> {
        tracing::warn!(error = %why, "the audit log can't begin a new file and goes on in this one");
        self.rotate_at = self.length + self.rotation.bytes / 16;
        Ok(())
    }

    /// Renames the current file to a finished file's name: the number of its first record or, where that name
    /// is taken, of a later record in it.
    fn finish(&self) -> std::io::Result<()> {
        for number in self.first..=self.tip.seq {
            match rename_anew(&self.path(), &self.directory.join(old_name(number))) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                done => return done,
            }
        }
        Err(std::io::ErrorKind::AlreadyExists.into())
    }

    /// Makes an empty file under a name that no reader uses, with disk allocated if possible.
    fn begin_next(&mut self, path: &Path) -> Result<(File, Ahead), AuditError> {
        let file = open_private(path, true)?;
        // A crash between the two renames may have left one.
        file.set_len(0).map_err(io("truncating", path))?;
        let mut ahead = Ahead::default();
        if ahead.keep(&file, 0) == Taken::Full {
            // Only the disk allocated beyond the present file's end is left for it.
            self.ahead.given_back();
            self.file.set_len(self.length).map_err(io("truncating", &self.path()))?;
            let _ = ahead.keep(&file, 0);
        }
        Ok((file, ahead))
    }

    /// Notes which files are to be deleted, one note for each. They are deleted once the notes are on disk,
    /// so that no crash leaves a log that lacks its beginning without a note.
    fn plan_pruning(&mut self) -> Result<(), AuditError> {
        let old = old_files(&self.directory)?;
        let surplus = old.len().saturating_sub(self.rotation.keep.max(1));
        for (path, next) in old.iter().zip(old.iter().skip(1)).take(surplus) {
            let begins = first_record(next).unwrap_or_else(|error| {
                tracing::warn!(%error, "a finished file of the audit log can't be read; the one before it is deleted all the same");
                None
            });
            // Keeping the file until the damaged line can be read again would fill the disk.
            let (through_seq, hash, unread) = match begins {
                Some(kept) => (kept.seq.saturating_sub(1), kept.prev.into(), false),
                None => (number_of(next).unwrap_or(0).saturating_sub(1), Text::default(), true),
            };
            self.notes.push(Draft::new(Event::Log(Note::Pruned { through_seq, hash, unread })));
            self.surplus.push(path.clone());
        }
        Ok(())
    }

    /// Removes the files whose notes are on disk, the oldest first. One that can't be removed stays, and is
    /// noted again when the next file is begun.
    fn prune(&mut self) {
        for path in self.surplus.drain(..) {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a finished file of the audit log can't be deleted");
                return;
            }
        }
    }
}

/// Renames a file, unless the new name is taken.
fn rename_anew(from: &Path, to: &Path) -> std::io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // Not every filesystem supports this (NFS). Checking first is safe: only the writer, which we are,
        // makes such names.
        Err(Errno::EINVAL | Errno::ENOSYS) if std::fs::symlink_metadata(to).is_err() => {
            std::fs::rename(from, to)
        }
        Err(Errno::EINVAL | Errno::ENOSYS) => Err(std::io::ErrorKind::AlreadyExists.into()),
        done => Ok(done?),
    }
}

/// How long to wait for the writer before us. Where its sandbox's heart was killed it is ending at this
/// moment, and the kernel closes its files one after the other.
const ENDING: Duration = Duration::from_secs(2);

/// Locks the file, as soon as an ending process has let go of it.
fn lock(file: &File) -> Result<(), std::fs::TryLockError> {
    let until = Instant::now() + ENDING;
    loop {
        match file.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}
