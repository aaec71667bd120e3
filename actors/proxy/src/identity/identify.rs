//! The judgement: from a connection to the one identity that holds it, or a denial.

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

/// How long one identification may take: a gigabyte to hash, with one of the same size before it.
pub const IDENTIFY_DEADLINE: Duration = Duration::from_secs(10);
/// Most processes that may hold one socket: a pre-forking server has some dozens.
pub const MAX_HOLDERS: usize = 64;
/// How often the holders are looked at anew if they change meanwhile (a program that forks at that moment).
pub const ROUNDS: usize = 3;

/// Which look at a connection this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The first, as it is accepted: its holder must be the process that made it.
    First,
    /// A later one: whoever asks compares with what the first has found.
    Again,
}

/// Identifies callers. Clones share the caches.
#[derive(Clone)]
pub struct Identifier {
    processes: Arc<dyn Processes>,
    diag: Diag,
    pins: Pins,
    /// Whether the policy names a program: one that has room among the pins.
    named: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    digests: Digests,
    /// Whether makers are noted here, as the last first look found.
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

    /// Whether connections are noted as they are made; false until a first look has found it so.
    #[must_use]
    pub fn notes_makers(&self) -> bool {
        self.notes_makers.load(Ordering::Relaxed)
    }

    /// With what was first used until now: give every identifier of a sandbox the same pins, and keep them
    /// above the actor, so that a restart is no amnesty.
    #[must_use]
    pub fn with_pins(mut self, pins: Pins) -> Self {
        self.pins = pins;
        self
    }

    /// With what tells which programs the policy names by their whole path.
    #[must_use]
    pub fn with_named(mut self, named: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.named = Arc::new(named);
        self
    }

    /// What was first used, to list and accept changes.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Identifies who holds the client's end of an accepted connection: `client` is the peer's address,
    /// `local` the accepted socket's own. Ask anew for every request on a kept-alive connection: the socket
    /// may have changed hands. Whose it is, only a [`Look::First`] finds. Whether code of unknown origin may
    /// be in the caller is the policy's to say.
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

    /// Whether anybody has the client's end open still, a process or a message not yet received; also where
    /// that can't be told.
    pub async fn is_open(&self, client: SocketAddr, local: SocketAddr) -> bool {
        !matches!(self.diag.inode(client, local).await, Ok(None))
    }

    /// Looks and hashes; where that took time looks again, and anew if the two looks differ.
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
            // exec keeps pid and start time, a pid can be used anew, a socket handed on while we hash: only
            // what looks the same afterwards was what we measured.
            let (second, _) = self.look(inode, Look::Again).await?;
            if shapes(second)? == measured.iter().map(|m| m.shape.clone()).collect::<Vec<_>>() {
                return self.conclude(&measured, party);
            }
        }
        Err(Unidentified::Unsettled)
    }

    /// The holders of a socket, oldest first, none of them beyond trust at first sight; and whose its maker
    /// is, of the first look.
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
            // Who else holds it must have the same identity, and its maker is judged by its own.
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

    /// One identity for all, the one that was there at first use.
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

    /// `holder` is whose identity it is part of.
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
    /// All hashes were known before.
    known: bool,
}

impl Measured {
    /// What must be the same in all holders: the program, and the programs it descends from.
    ///
    /// The latter as a set that holds the program itself, since of a program that forks the parent's
    /// ancestors lack it and the child's begin with it; no rule can tell the two apart, as every rule that
    /// holds for an ancestor holds for the program itself.
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

/// What the link itself tells. `(deleted)` at the end is the kernel's mark, and a file that really has such a
/// name is no loss.
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

/// A descriptor of a file, for whoever implements [`Processes`] over paths they trust (tests, mostly).
impl ExecutableFile {
    /// An executable whose path leads to the file.
    #[must_use]
    pub fn present(path: impl Into<String>, file: impl Into<OwnedFd>) -> Self {
        Self { path: path.into(), file: file.into(), deleted: false }
    }
}

#[cfg(test)]
mod tests;
