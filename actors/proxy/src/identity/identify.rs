//! Judges a connection: finds the one identity that holds it, or a denial.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use policy::{Caller, Executable, Party};
use tokio::time::timeout;

use super::diag::Diag;
use super::digest::{self, Digests, HashError, Sha256Hash, Stamp};
use super::pins::{PinError, Pins};
use super::processes::{ExecutableFile, Holder, Maker, Processes};
use super::refusal::Unidentified;

/// How long one identification may take: enough to hash a gigabyte after waiting for another file of that
/// size.
pub const IDENTIFY_DEADLINE: Duration = Duration::from_secs(10);
/// Most processes that may hold one socket: a pre-forking server has some dozens.
pub const MAX_HOLDERS: usize = 64;
/// How often the holders are looked at if they change meanwhile (a program that forks at that moment).
pub const ROUNDS: usize = 3;

/// Which look at a connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The first, as it is accepted: its holder must be the process that made it.
    First,
    /// A later one: the caller compares the result with that of the first.
    Again,
}

/// Identifies callers. Clones share the caches.
#[derive(Clone)]
pub struct Identifier {
    processes: Arc<dyn Processes>,
    diag: Diag,
    pins: Pins,
    /// Whether the policy names the program of a path, which then has reserved room among the pins.
    named: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    digests: Digests,
    /// Whether makers of connections are recorded in this sandbox, as the latest [`Look::First`] found.
    notes_makers: Arc<AtomicBool>,
}

impl std::fmt::Debug for Identifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identifier").finish_non_exhaustive()
    }
}

impl Identifier {
    /// An identifier that remembers nothing yet.
    #[must_use]
    pub fn new(processes: Arc<dyn Processes>, diag: Diag) -> Self {
        Self {
            processes,
            diag,
            pins: Pins::new(),
            named: Arc::new(|_| false),
            digests: Digests::new(),
            notes_makers: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Whether makers of connections are recorded in this sandbox; false until a first look has found it so.
    #[must_use]
    pub fn notes_makers(&self) -> bool {
        self.notes_makers.load(Ordering::Relaxed)
    }

    /// Uses these pins. Give every identifier of a sandbox the same ones, and keep them above the actor, so
    /// that after a restart a changed program is not taken for a first use.
    #[must_use]
    pub fn with_pins(mut self, pins: Pins) -> Self {
        self.pins = pins;
        self
    }

    /// Sets the function that says whether the policy names a program by its whole path.
    #[must_use]
    pub fn with_named(mut self, named: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.named = Arc::new(named);
        self
    }

    /// The pins, to list them and to accept changes.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Identifies who holds the client's end of an accepted connection: `client` is the peer's address,
    /// `local` the accepted socket's own. Ask anew for every request on a kept-alive connection: the socket
    /// may have changed hands. Only a [`Look::First`] finds the party that the connection belongs to. Whether
    /// the caller may contain code of unknown origin is for the policy to decide.
    ///
    /// # Errors
    /// Why the caller is not identified; [`Unidentified::Changed`] deserves an event of its own.
    pub async fn judge(
        &self,
        client: SocketAddr,
        local: SocketAddr,
        look: Look,
    ) -> Result<Caller, Unidentified> {
        timeout(IDENTIFY_DEADLINE, self.settle(client, local, look))
            .await
            .unwrap_or(Err(Unidentified::TimedOut))
    }

    /// Whether the client's end is still open, in a process or in a message not yet received. Also true if
    /// that can't be determined.
    pub async fn is_open(&self, client: SocketAddr, local: SocketAddr) -> bool {
        !matches!(self.diag.inode(client, local).await, Ok(None))
    }

    /// Looks at the holders and hashes their files. If hashing took time, looks again, and starts over if the
    /// two looks differ.
    async fn settle(
        &self,
        client: SocketAddr,
        local: SocketAddr,
        look: Look,
    ) -> Result<Caller, Unidentified> {
        for _ in 0..ROUNDS {
            let inode = self.diag.inode(client, local).await?.ok_or(Unidentified::NoSocket)?;
            let (first, party) = self.look(inode, look).await?;
            let measured = self.measure(first).await?;
            if measured.iter().all(|m| m.known) {
                return self.conclude(&measured, party);
            }
            // While we hash, a holder can execute another program (exec keeps pid and start time), a pid can
            // be reused and the socket can be handed on: only holders that look the same afterwards are those
            // that we measured.
            let (second, _) = self.look(inode, Look::Again).await?;
            if shapes(second)? == measured.iter().map(|m| m.shape.clone()).collect::<Vec<_>>() {
                return self.conclude(&measured, party);
            }
        }
        Err(Unidentified::Unsettled)
    }

    /// Returns the holders of a socket, oldest first, all of them with [`presentable`] files; and, of a first
    /// look, the party of the connection's maker.
    async fn look(&self, inode: u64, look: Look) -> Result<(Vec<Holder>, Party), Unidentified> {
        let (mut holders, maker) = match look {
            Look::First => {
                let (holders, maker) = self.processes.holders_and_maker(inode).await?;
                self.notes_makers.store(maker != Maker::Unwatched, Ordering::Relaxed);
                (holders, maker)
            }
            Look::Again => (self.processes.holders(inode).await?, Maker::Holds(Party::UNKNOWN)),
        };
        if holders.is_empty() {
            return Err(Unidentified::NoHolder);
        }
        if holders.len() > MAX_HOLDERS {
            return Err(Unidentified::TooManyHolders);
        }
        for holder in &holders {
            presentable(&holder.exe)?;
            holder.ancestors.iter().try_for_each(presentable)?;
        }
        holders.sort_by_key(|h| (h.start_time, h.pid));
        let path = || holders.first().map(|holder| holder.exe.path.clone()).unwrap_or_default();
        match maker {
            // Any other holder must have the same identity (see `conclude`), and the maker is judged by its
            // own.
            Maker::Holds(party) => Ok((holders, party)),
            Maker::Unwatched => Ok((holders, Party::UNKNOWN)),
            Maker::Another => Err(Unidentified::NotItsMaker { path: path() }),
            Maker::Unknown => Err(Unidentified::UnknownMaker { path: path() }),
        }
    }

    async fn measure(&self, holders: Vec<Holder>) -> Result<Vec<Measured>, Unidentified> {
        let mut measured = Vec::with_capacity(holders.len());
        for holder in holders {
            let exe = self.hash(holder.exe).await?;
            let mut ancestors = Vec::with_capacity(holder.ancestors.len());
            for ancestor in holder.ancestors {
                ancestors.push(self.hash(ancestor).await?);
            }
            let shape = Shape {
                process: (holder.pid, holder.start_time),
                foreign_code: holder.foreign_code,
                files: std::iter::once(&exe)
                    .chain(&ancestors)
                    .map(|m| (m.path.clone(), m.measured.stamp))
                    .collect(),
            };
            let known = std::iter::once(&exe).chain(&ancestors).all(|file| file.measured.known);
            measured.push(Measured { shape, exe, ancestors, known });
        }
        Ok(measured)
    }

    async fn hash(&self, exe: ExecutableFile) -> Result<Hashed, Unidentified> {
        let ExecutableFile { path, file, .. } = exe;
        match self.digests.of(file).await {
            Ok(measured) => Ok(Hashed { path, measured }),
            Err(why) => Err(unhashed(path, why)),
        }
    }

    /// Returns the one identity that all holders share, if its files are those that were there at first use.
    fn conclude(&self, measured: &[Measured], party: Party) -> Result<Caller, Unidentified> {
        let (first, others) = measured.split_first().ok_or(Unidentified::NoHolder)?;
        if let Some(other) = others.iter().find(|other| other.identity() != first.identity()) {
            return Err(Unidentified::DifferentHolders {
                first: first.exe.path.clone(),
                other: other.exe.path.clone(),
            });
        }
        let executable = self.pin(&first.exe, &first.exe)?;
        let ancestors =
            first.ancestors.iter().map(|a| self.pin(a, &first.exe)).collect::<Result<Arc<[_]>, _>>()?;
        let foreign_code = measured.iter().any(|m| m.shape.foreign_code);
        Ok(Caller { executable, ancestors, foreign_code, party })
    }

    /// Compares `file` with its pin. `holder` is the executable whose identity the file is part of.
    fn pin(&self, file: &Hashed, holder: &Hashed) -> Result<Executable, Unidentified> {
        let sha256 = file.measured.sha256;
        match self.pins.check(&file.path, &sha256, &*self.named) {
            Ok(path) => Ok(Executable { path, sha256 }),
            Err(PinError::Changed(changed)) => {
                Err(Unidentified::Changed { changed: Box::new(changed), path: holder.path.clone() })
            }
            Err(PinError::Full) => Err(Unidentified::PinsFull),
        }
    }
}

/// A file with its content's hash.
struct Hashed {
    path: String,
    measured: digest::Measured,
}

/// A holder, hashed.
struct Measured {
    shape: Shape,
    exe: Hashed,
    ancestors: Vec<Hashed>,
    /// Whether all hashes were in the cache.
    known: bool,
}

impl Measured {
    /// What must be the same in all holders: the program, and the programs it descends from.
    ///
    /// The ancestors are compared as a set that includes the program itself: if a program forks, its child's
    /// ancestors begin with the program, and its own lack it. No rule can tell the two apart, since every
    /// rule that holds for an ancestor holds for the program itself.
    fn identity(&self) -> (&Sha256Hash, &str, Vec<(&str, &Sha256Hash)>) {
        let mut line: Vec<_> = std::iter::once(&self.exe)
            .chain(&self.ancestors)
            .map(|f| (f.path.as_str(), &f.measured.sha256))
            .collect();
        line.sort_unstable();
        line.dedup();
        (&self.exe.measured.sha256, &self.exe.path, line)
    }
}

/// What two looks at one holder must agree in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape {
    process: (i32, u64),
    foreign_code: bool,
    files: Vec<(String, Stamp)>,
}

fn shapes(holders: Vec<Holder>) -> Result<Vec<Shape>, Unidentified> {
    let stamp = |exe: ExecutableFile| {
        let ExecutableFile { path, file, .. } = exe;
        match Digests::stamp(file) {
            Ok(stamp) => Ok((path, stamp)),
            Err(why) => Err(unhashed(path, why)),
        }
    };
    holders
        .into_iter()
        .map(|h| {
            let files = std::iter::once(h.exe).chain(h.ancestors).map(stamp).collect::<Result<_, _>>()?;
            Ok(Shape { process: (h.pid, h.start_time), foreign_code: h.foreign_code, files })
        })
        .collect()
}

/// Refuses a file whose link alone shows that it has no trustworthy path. `(deleted)` at the end is the
/// kernel's mark; to refuse a file that really has such a name is no loss.
fn presentable(exe: &ExecutableFile) -> Result<(), Unidentified> {
    let path = exe.path.as_str();
    if exe.deleted || !path.starts_with('/') || path.starts_with("/memfd:") || path.ends_with(" (deleted)") {
        return Err(Unidentified::Deleted { path: exe.path.clone() });
    }
    Ok(())
}

fn unhashed(path: String, why: HashError) -> Unidentified {
    match why {
        HashError::Unlinked => Unidentified::Deleted { path },
        why => Unidentified::Hash { path, why },
    }
}

/// For implementations of [`Processes`] over paths that they trust (tests, mostly).
impl ExecutableFile {
    /// An executable whose path leads to the file.
    #[must_use]
    pub fn present(path: impl Into<String>, file: impl Into<OwnedFd>) -> Self {
        Self { path: path.into(), file: file.into(), deleted: false }
    }
}

#[cfg(test)]
mod tests;
