//! Tells which execution of a program a process is in: exec keeps the pid and its start time, but nothing of
//! what is read here.
//!
//! The kernel lays out every execution anew: the stack, the program, the loader and the kernel's own page are
//! each placed at random, with some 80 random bits in all. No agent may switch that off (seccomp's
//! personality(2)), but a host may (`kernel.randomize_va_space`). There executions are told apart by the
//! sixteen random bytes on the stack (getauxval(3), `AT_RANDOM`), which a process can overwrite, but not
//! foresee.
//!
//! Must not read a process's memory where it can do without: the kernel waits for that memory's lock, which a
//! process can keep busy for a second, and every connect of every agent would wait with init. Reading the
//! auxiliary vector needs no such lock.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

/// One execution of a program, shared by what it forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Image {
    places: [u64; PLACES.len()],
    random: Option<[u8; 16]>,
}

/// A cache of executions, each read once. For questions that were all asked before the first was read.
#[derive(Debug, Default)]
pub(crate) struct Images(Vec<(i32, Option<Image>)>);

impl Images {
    /// Returns the execution of a process; `None` where it can't be read.
    pub(crate) fn of(&mut self, pid: i32) -> Option<Image> {
        if let Some((_, known)) = self.0.iter().find(|(of, _)| *of == pid) {
            return *known;
        }
        let read = Image::read(pid).ok();
        self.0.push((pid, read));
        read
    }
}

/// The vector's entries that hold addresses, chosen at random by each exec: linux/auxvec.h.
const PLACES: [u64; 5] = [AT_RANDOM, libc::AT_BASE, libc::AT_ENTRY, libc::AT_EXECFN, libc::AT_SYSINFO_EHDR];
const AT_RANDOM: u64 = libc::AT_RANDOM;
/// Bytes of the vector: it has some two dozen pairs of words.
const MAX_VECTOR: usize = 1024;

impl Image {
    /// Reads the execution of a process, or of the process of a thread.
    pub(crate) fn read(pid: i32) -> io::Result<Self> {
        let mut vector = [0_u8; MAX_VECTOR];
        let length = std::fs::File::open(format!("/proc/{pid}/auxv"))?.read_at(&mut vector, 0)?;
        let places = places(vector.get(..length).unwrap_or_default())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable auxiliary vector"))?;
        let [at, ..] = places;
        let random = if *RANDOM_LAYOUT { None } else { random(pid, at).ok() };
        Ok(Self { places, random })
    }
}

/// Whether this kernel chooses addresses at random (sysctl/kernel.rst, `randomize_va_space`).
static RANDOM_LAYOUT: LazyLock<bool> = LazyLock::new(|| {
    std::fs::read("/proc/sys/kernel/randomize_va_space")
        .is_ok_and(|value| matches!(value.trim_ascii(), b"1" | b"2"))
});

fn places(vector: &[u8]) -> Option<[u64; PLACES.len()]> {
    let mut places = [0; PLACES.len()];
    for pair in vector.chunks_exact(16) {
        let (kind, value) = pair.split_first_chunk::<8>()?;
        let kind = u64::from_ne_bytes(*kind);
        if let Some(place) = PLACES.iter().position(|place| *place == kind).and_then(|at| places.get_mut(at))
        {
            *place = u64::from_ne_bytes(value.try_into().ok()?);
        }
    }
    // An empty vector is a kernel thread's, or a process's on its way out.
    (places != [0; PLACES.len()]).then_some(places)
}

fn random(pid: i32, at: u64) -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    std::fs::File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn every_execution_is_another_and_the_same_to_itself() {
        let own = std::process::id() as i32;
        assert_eq!(Image::read(own).unwrap(), Image::read(own).unwrap());
        let mut other = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The child has no vector before its exec is complete.
        other.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        other.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let image = Image::read(other.id() as i32);
        other.kill().unwrap();
        other.wait().unwrap();
        assert_ne!(image.unwrap(), Image::read(own).unwrap());
    }

    #[test]
    fn what_was_read_once_stays_and_who_cannot_be_read_is_nobody() {
        let (own, mut images) = (std::process::id() as i32, Images::default());
        assert_eq!(images.of(own), Image::read(own).ok());
        assert_eq!(images.of(own), Image::read(own).ok());
        assert_eq!(images.of(-1), None);
        assert_eq!(images.0.len(), 2);
    }

    #[test]
    fn an_empty_vector_is_nobodys() {
        assert_eq!(places(&[]), None);
        assert_eq!(places(&[0; 32]), None);
        assert_eq!(places(&[1; 7]), None);
    }
}
