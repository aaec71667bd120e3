//! Which execution of a program a process is in: exec keeps the pid and its start time, but nothing of what is here.
//!
//! The kernel lays out every execution anew and puts sixteen random bytes on its stack for it (getauxval(3),
//! `AT_RANDOM`). A process can overwrite its own bytes; it can't know those of an execution to come. Where the kernel
//! lets nobody read another's memory (Yama at 3), the random layout alone tells executions apart.

use std::io;
use std::os::unix::fs::FileExt;

/// One execution of a program, shared by what it forks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Image {
    places: [u64; PLACES.len()],
    random: Option<[u8; 16]>,
}

/// The vector's entries that hold addresses, chosen at random by each exec: linux/auxvec.h.
const PLACES: [u64; 5] = [AT_RANDOM, libc::AT_BASE, libc::AT_ENTRY, libc::AT_EXECFN, libc::AT_SYSINFO_EHDR];
const AT_RANDOM: u64 = libc::AT_RANDOM;
/// Bytes of the vector: it has some two dozen pairs of words.
const MAX_VECTOR: usize = 1024;

impl Image {
    /// Of a process, or of the process of a thread.
    pub(crate) fn read(pid: i32) -> io::Result<Self> {
        let mut vector = [0_u8; MAX_VECTOR];
        let length = std::fs::File::open(format!("/proc/{pid}/auxv"))?.read_at(&mut vector, 0)?;
        let places = places(vector.get(..length).unwrap_or_default())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable auxiliary vector"))?;
        let [at, ..] = places;
        Ok(Self { places, random: random(pid, at).ok() })
    }
}

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
        // It has no vector before its exec is complete.
        other.stdin.as_mut().unwrap().write_all(b"x").unwrap();
        other.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let image = Image::read(other.id() as i32);
        other.kill().unwrap();
        other.wait().unwrap();
        assert_ne!(image.unwrap(), Image::read(own).unwrap());
    }

    #[test]
    fn an_empty_vector_is_nobodys() {
        assert_eq!(places(&[]), None);
        assert_eq!(places(&[0; 32]), None);
        assert_eq!(places(&[1; 7]), None);
    }
}
