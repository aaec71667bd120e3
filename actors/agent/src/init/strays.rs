//! What an ended agent left behind: found by the mark in its environment, and killed, so that the next start finds its ports free.
//!
//! A process that took the mark off isn't found: it stays under the same cage, and ends with the sandbox. To read an environment costs what
//! its owner makes of it, and waits for the lock of that memory; so a search is made in slices, between which init serves everybody else.

use super::process::{Stat, pids};
use crate::protocol::RequestId;
use crate::sys;
use crate::sys::directory::ENTRIES;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Processes looked at, and how often.
const MAX_STRAYS: usize = 4096;
const STRAY_PASSES: usize = 16;
/// Bytes of an environment that are read: many times what a shell has. A mark behind them was taken off.
const MAX_ENVIRONMENT: u64 = 256 << 10;
/// How long init is at it at a time.
const SLICE: Duration = Duration::from_millis(1);
/// Searches that may wait.
pub(super) const MAX_SEARCHES: usize = 64;

/// Kills processes marked as an agent's that descend from no running process of the table, until none is left.
pub(super) struct Search {
    /// Of whoever waits for its end.
    pub(super) id: RequestId,
    pub(super) agent: String,
    marker: String,
    /// Still to be looked at in this pass.
    left: Vec<i32>,
    passes: usize,
    killed: bool,
}

impl Search {
    pub(super) fn new(id: RequestId, agent: String) -> Self {
        let marker = format!("{}={agent}", crate::environment::AGENT_VARIABLE);
        Self { id, agent, marker, left: Vec::new(), passes: 0, killed: true }
    }

    /// Goes on for a slice: whether it is through.
    pub(super) fn go_on(&mut self, running: &[i32]) -> io::Result<bool> {
        let begun = Instant::now();
        while begun.elapsed() < SLICE {
            match self.left.pop() {
                Some(pid) if is_marked(pid, self.marker.as_bytes()) => {
                    self.killed |= sys::signals::kill(pid, false, libc::SIGKILL).is_ok();
                }
                Some(_) => {}
                None if !std::mem::take(&mut self.killed) || self.passes == STRAY_PASSES => return Ok(true),
                None => {
                    self.passes += 1;
                    self.left = candidates(running)?;
                }
            }
        }
        Ok(false)
    }
}

/// Every process that descends from none of these.
fn candidates(running: &[i32]) -> io::Result<Vec<i32>> {
    let proc = std::fs::File::open("/proc")?;
    let mut all = pids(proc.as_fd(), &mut vec![0; ENTRIES], MAX_STRAYS)?.unwrap_or_default();
    let parents: BTreeMap<i32, i32> =
        all.iter().filter_map(|pid| Stat::read(*pid).ok().map(|stat| (*pid, stat.parent))).collect();
    all.retain(|pid| *pid != 1 && !descends(*pid, running, &parents));
    Ok(all)
}

fn descends(pid: i32, from: &[i32], parents: &BTreeMap<i32, i32>) -> bool {
    let mut at = pid;
    // A chain longer than there are processes would be a loop, made of reads at different moments.
    for _ in 0..=parents.len() {
        if from.contains(&at) {
            return true;
        }
        match parents.get(&at) {
            Some(parent) if *parent > 1 => at = *parent,
            _ => return false,
        }
    }
    false
}

/// Zombies have no environment: they are nobody's.
fn is_marked(pid: i32, marker: &[u8]) -> bool {
    let mut environment = Vec::new();
    std::fs::File::open(format!("/proc/{pid}/environ"))
        .and_then(|file| file.take(MAX_ENVIRONMENT).read_to_end(&mut environment))
        // By their ends: of one that is cut off nobody knows what it is.
        .is_ok_and(|_| {
            environment
                .split_inclusive(|byte| *byte == 0)
                .any(|variable| variable.strip_suffix(&[0]) == Some(marker))
        })
}
