//! Reloading: takes a changed file, or a text handed in, and publishes a new generation or says why not.
//!
//! A bad file changes nothing: the store keeps the last good generation. What was last seen of the file lives
//! here, above the actor, so that a restarted actor neither publishes the same text again nor misses a change
//! made meanwhile. If the caller keeps it beyond this process, the next process doesn't take an old file for
//! a new edit.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::approved::Approved;
use crate::diagnostics::Diagnostics;
use crate::generation::{Candidate, Store};
use crate::read::Preset;
use crate::regular::open_regular;
use crate::watch::Look;
use crate::yaml::MAX_POLICY_BYTES;

/// The outcome of a reload. Passed to the observer, for logs, metrics and the event stream.
#[derive(Debug, Clone)]
pub enum Reloaded {
    /// The file is as it was last seen, or its text is in force already.
    Unchanged,
    /// A new generation is in force.
    Published(Published),
}

/// A generation that was put in force.
#[derive(Debug, Clone)]
pub struct Published {
    /// Its number.
    pub generation: u64,
    /// The warnings about it.
    pub warnings: Diagnostics,
    /// The ids of approvals that were left out because they contradict it.
    pub left_out: Vec<String>,
}

/// Why a policy was not put in force. The one before it still is.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    /// The file can't be read.
    #[error("the policy file {path} can't be read: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The text has errors.
    #[error("the policy is refused, and the one in force stays:\n{0}")]
    Rejected(Diagnostics),
    /// A static section differs. Static sections bind agents as long as they run.
    #[error(
        "{} changed, which binds agents as long as they run: start them again under it (those of `cofferdam up` by \
         `policy set --restart-agents`); the policy in force stays",
        .sections.join(", ")
    )]
    StaticChanged {
        /// The sections that differ.
        sections: Vec<&'static str>,
    },
}

/// Called with what came of every reload. Must not block.
pub type Observer = Arc<dyn Fn(&Result<Reloaded, Refused>) + Send + Sync>;

/// What a file held when it was last read, good or bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    /// A text, by its SHA-256.
    Text([u8; 32]),
    /// It could not be read.
    Unreadable,
}

impl Seen {
    /// The mark of a file's text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self::Text(Sha256::digest(text.as_bytes()).into())
    }
}

/// What a look at the file gave; nothing where no file is watched.
#[derive(Debug)]
pub struct Read(Option<Result<String, Refused>>);

/// Reads a policy file. Blocks.
type Reader = Arc<dyn Fn(&Path) -> Result<String, Refused> + Send + Sync>;

/// Reloads a store from one source. Clones share what was last seen.
#[derive(Clone)]
pub struct Loader {
    store: Store,
    path: Option<PathBuf>,
    presets: Arc<[Preset]>,
    /// What was approved in addition to the text. The lock is held only to copy or replace the list.
    approved: Arc<Mutex<Arc<[Approved]>>>,
    seen: Arc<watch::Sender<Seen>>,
    observer: Observer,
    reader: Reader,
}

impl Loader {
    /// A loader for `store`. `path` is the file to watch (`None`: a built-in profile, changed only by hand),
    /// `presets` are added to every text, `seen` marks what the file held when the store's first generation
    /// was made from it.
    #[must_use]
    pub fn new(
        store: Store,
        path: Option<PathBuf>,
        presets: Vec<Preset>,
        seen: Seen,
        observer: Observer,
    ) -> Self {
        let seen = Arc::new(watch::Sender::new(seen));
        Self {
            store,
            path,
            presets: presets.into(),
            approved: Arc::default(),
            seen,
            observer,
            reader: Arc::new(read),
        }
    }

    /// Sets the list of earlier approvals, which the store's generation already has.
    #[must_use]
    pub fn with_approved(self, approved: Vec<Approved>) -> Self {
        self.approve_from_now_on(approved);
        self
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The file that is watched.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// As it is, with another way to read the file.
    #[cfg(test)]
    pub(crate) fn reading_by(self, reader: Reader) -> Self {
        Self { reader, ..self }
    }

    /// A receiver of what the file was last seen to hold.
    #[must_use]
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Reads the file. Blocks on the disk, or on a server, for as long as that takes.
    #[must_use]
    pub fn read(&self) -> Read {
        Read(self.path.as_deref().map(|path| (self.reader)(path)))
    }

    /// Puts in force what the file holds. A file that is as it was last seen (good or bad) is left alone; the
    /// observer is then called only for [`Look::Meant`], since it counts reloads, not changes in the
    /// directory.
    ///
    /// # Errors
    /// Why the file isn't in force; returned once for each state of the file.
    pub fn reload(&self, look: Look, read: Read) -> Result<Reloaded, Refused> {
        let before = *self.seen.borrow();
        let result = self.reloaded(read);
        if look == Look::Meant || *self.seen.borrow() != before {
            (self.observer)(&result);
        }
        result
    }

    /// Takes what the file held before something else was put in force as seen, and puts nothing in force.
    pub fn note(&self, read: Read) {
        if let Read(Some(text)) = read {
            self.seen.send_replace(text.as_deref().map_or(Seen::Unreadable, Seen::of));
        }
    }

    fn reloaded(&self, read: Read) -> Result<Reloaded, Refused> {
        let (Some(path), Read(Some(text))) = (&self.path, read) else { return Ok(Reloaded::Unchanged) };
        let seen = text.as_deref().map_or(Seen::Unreadable, Seen::of);
        if *self.seen.borrow() == seen {
            return Ok(Reloaded::Unchanged);
        }
        // The file is back to the text in force, after one that was refused: nothing changes.
        if text.as_ref().is_ok_and(|text| **text == *self.store.load().source.text) {
            self.seen.send_replace(seen);
            return Ok(Reloaded::Unchanged);
        }
        let result = text.and_then(|text| self.publish(&path.to_string_lossy(), &text));
        // Marked as seen only now, so that after a panic above the restarted actor tries again.
        self.seen.send_replace(seen);
        result.map(Reloaded::Published)
    }

    /// Puts a text in force by hand. The watched file stays as it is, and is read again when it next changes.
    ///
    /// # Errors
    /// Why the text is not in force.
    pub fn set(&self, text: &str) -> Result<Published, Refused> {
        let result = self.publish("policy set", text);
        (self.observer)(&result.clone().map(Reloaded::Published));
        result
    }

    /// Puts the policy in force once more, with this list in place of all earlier approvals. The list also
    /// applies to every later policy.
    ///
    /// # Errors
    /// As [`Self::set`]; not to be expected, since the text is the one in force.
    pub fn approve(&self, approved: Vec<Approved>) -> Result<Published, Refused> {
        let source = self.store.load().source.clone();
        let before = self.approve_from_now_on(approved);
        let result = self.publish(&source.name, &source.text);
        if result.is_err() {
            self.approve_from_now_on(before.to_vec());
        }
        (self.observer)(&result.clone().map(Reloaded::Published));
        result
    }

    /// Replaces the list of approvals and returns the one before.
    fn approve_from_now_on(&self, approved: Vec<Approved>) -> Arc<[Approved]> {
        let mut all = self.approved.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *all, approved.into())
    }

    fn publish(&self, name: &str, text: &str) -> Result<Published, Refused> {
        let approved = Arc::clone(&*self.approved.lock().unwrap_or_else(PoisonError::into_inner));
        let (candidate, left_out) =
            Candidate::with_approved(name, text, &self.presets, &approved).map_err(Refused::Rejected)?;
        let sections = self.store.load().policy.static_changes(candidate.policy());
        if !sections.is_empty() {
            return Err(Refused::StaticChanged { sections });
        }
        let warnings = candidate.warnings().clone();
        let generation = self.store.publish(candidate);
        Ok(Published { generation, warnings, left_out })
    }
}

/// Reads a policy file, never more of it than the longest text that a policy may have.
fn read(path: &Path) -> Result<String, Refused> {
    use std::io::Read;
    let unreadable = |reason: String| Refused::Unreadable { path: path.to_owned(), reason };
    let file = open_regular(path).map_err(|e| unreadable(with_mend(&e)))?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_POLICY_BYTES).unwrap_or(u64::MAX) + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(|e| unreadable(e.to_string()))?;
    if bytes.len() > MAX_POLICY_BYTES {
        return Err(unreadable(format!("it is longer than {MAX_POLICY_BYTES} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8".into()))
}

/// What the kernel says, and for a missing right whose it is: as root the supervisor is another user than
/// whoever started it, and reads the file again as that one.
fn with_mend(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => format!(
            "{error}; it is read as user {}, which must be able to read it and to enter its directory (`chmod a+r`)",
            nix::unistd::geteuid()
        ),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const GOOD: &str = "version: 1\nnetwork_policies: { a: { endpoints: [ { host: a.example.com, port: 22 } ], binaries: [ { path: /usr/bin/ssh } ] } }\n";

    fn looked(loader: &Loader, look: Look) -> Result<Reloaded, Refused> {
        loader.reload(look, loader.read())
    }

    fn word(refused: &Refused) -> &'static str {
        match refused {
            Refused::Unreadable { .. } => "unreadable",
            Refused::Rejected(_) => "rejected",
            Refused::StaticChanged { .. } => "static",
        }
    }

    fn loader(path: &Path, text: &str) -> (Loader, Arc<Mutex<Vec<String>>>) {
        std::fs::write(path, text).unwrap();
        let store = Store::new(Candidate::new("p", text, &[]).unwrap());
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = told.clone();
        let observer: Observer = Arc::new(move |result| {
            let word = match result {
                Ok(Reloaded::Published(published)) => published.generation.to_string(),
                Ok(Reloaded::Unchanged) => "unchanged".to_owned(),
                Err(refused) => word(refused).to_owned(),
            };
            tell.lock().unwrap().push(word);
        });
        (Loader::new(store, Some(path.to_owned()), Vec::new(), Seen::of(text), observer), told)
    }

    #[test]
    fn a_bad_file_changes_nothing_and_says_why_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        let (loader, told) = loader(&path, "version: 1\n");
        assert!(matches!(looked(&loader, Look::Meant), Ok(Reloaded::Unchanged)));
        told.lock().unwrap().clear();
        for text in ["version: 2\n", "{"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(word(&looked(&loader, Look::Meant).unwrap_err()), "rejected");
            assert!(matches!(looked(&loader, Look::Meant), Ok(Reloaded::Unchanged)), "said once");
            assert_eq!(*told.lock().unwrap(), ["rejected", "unchanged"]);
            told.lock().unwrap().clear();
            assert_eq!(loader.store().load().number, 1);
        }
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(word(&looked(&loader, Look::Meant).unwrap_err()), "unreadable");
        std::fs::write(&path, vec![b'#'; MAX_POLICY_BYTES + 1]).unwrap();
        let _ = looked(&loader, Look::Meant);
        std::fs::remove_file(&path).unwrap();
        // A pipe that nobody writes to.
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(
            matches!(looked(&loader, Look::Meant), Ok(Reloaded::Unchanged)),
            "unreadable as before, which was said"
        );
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(
            word(&looked(&loader, Look::Meant).unwrap_err()),
            "rejected",
            "it can be read, and is empty"
        );
        std::fs::remove_file(&path).unwrap();
        let _ = looked(&loader, Look::Meant);
        assert_eq!(loader.store().load().number, 1);
        std::fs::write(&path, GOOD).unwrap();
        assert!(matches!(looked(&loader, Look::Meant), Ok(Reloaded::Published(p)) if p.generation == 2));
        assert_eq!(told.lock().unwrap().last().map(String::as_str), Some("2"));
    }

    #[test]
    fn a_look_that_finds_nothing_new_is_told_only_where_it_was_meant() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        let (loader, told) = loader(&path, "version: 1\n");
        looked(&loader, Look::Routine).unwrap();
        assert!(told.lock().unwrap().is_empty(), "{told:?}");
        looked(&loader, Look::Meant).unwrap();
        std::fs::write(&path, GOOD).unwrap();
        looked(&loader, Look::Routine).unwrap();
        assert_eq!(*told.lock().unwrap(), ["unchanged", "2"]);
    }

    #[test]
    fn a_successor_that_knows_what_was_seen_takes_no_old_file_for_a_new_edit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        let (first, _) = loader(&path, "version: 1\n");
        std::fs::write(&path, GOOD).unwrap();
        let mut seen = first.seen();
        looked(&first, Look::Meant).unwrap();
        assert!(seen.has_changed().unwrap(), "told to whoever keeps it");
        let in_force = first.set("version: 1 # by hand\n").unwrap().generation;
        let store =
            Store::starting_at(Candidate::new("p", &first.store().load().text, &[]).unwrap(), in_force);
        let kept = *seen.borrow_and_update();
        let next = Loader::new(store, Some(path.clone()), Vec::new(), kept, Arc::new(|_| ()));
        assert!(matches!(looked(&next, Look::Meant), Ok(Reloaded::Unchanged)));
        assert_eq!(next.store().load().number, in_force);
        std::fs::write(&path, "version: 1 # edited\n").unwrap();
        assert!(matches!(looked(&next, Look::Meant), Ok(Reloaded::Published(_))));
    }

    #[test]
    fn a_changed_static_section_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        let (loader, _) = loader(&path, "version: 1\n");
        let changed = format!("{GOOD}filesystem_policy: {{ read_only: [/usr] }}\n");
        std::fs::write(&path, &changed).unwrap();
        let refused = looked(&loader, Look::Meant).unwrap_err();
        assert!(refused.to_string().contains("filesystem_policy changed"), "{refused}");
        assert_eq!(loader.store().load().number, 1, "nothing of it takes effect, the network part neither");
        assert!(loader.set(&changed).is_err());
        assert_eq!(loader.set(GOOD).unwrap().generation, 2);
    }
}
