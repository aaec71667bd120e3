//! What an ended agent left behind: found by the mark in its environment, and killed, so that the next start finds its ports free.
//!
//! A process that took the mark off isn't found: it stays under the same cage, and ends with the sandbox.

use super::process::{Stat, pids};
use crate::sys;
use crate::sys::directory::ENTRIES;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;

/// Processes looked at, and how often.
const MAX_STRAYS: usize = 4096;
const STRAY_PASSES: usize = 16;

/// Kills processes marked as this agent's that descend from no running process of the table, until none is left.
pub(super) fn kill(agent: &str, running: &[i32]) -> io::Result<()> {
    let marker = format!("{}={agent}", crate::environment::AGENT_VARIABLE);
    for _ in 0..STRAY_PASSES {
        let proc = std::fs::File::open("/proc")?;
        let all = pids(proc.as_fd(), &mut vec![0; ENTRIES], MAX_STRAYS)?.unwrap_or_default();
        let parents: BTreeMap<i32, i32> =
            all.iter().filter_map(|pid| Stat::read(*pid).ok().map(|stat| (*pid, stat.parent))).collect();
        let mut killed = false;
        for pid in all.into_iter().filter(|pid| *pid != 1) {
            if descends(pid, running, &parents) || !is_marked(pid, marker.as_bytes()) {
                continue;
            }
            killed |= sys::signals::kill(pid, false, libc::SIGKILL).is_ok();
        }
        if !killed {
            break;
        }
    }
    Ok(())
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
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|variable| variable == marker))
}
