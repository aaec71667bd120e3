//! The CPU time and memory of a contender, all its processes together.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// `sysconf(_SC_CLK_TCK)`: the unit in which the kernel reports times, whatever it counts in.
const TICKS_PER_SECOND: u64 = 100;

/// A process and all below it that `counts` holds for, by its name (at most 15 bytes, proc_pid_comm(5)).
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// The process that was started.
    pub root: u32,
    /// Which of them count.
    pub counts: fn(&str) -> bool,
}

impl Family {
    /// User and system time of all these processes since they began, including that of ended threads. The
    /// kernel counts nanoseconds but reports hundredths of a second.
    pub fn cpu(&self) -> Result<Duration> {
        let ticks = self.members()?.iter().map(|pid| ticks(*pid).unwrap_or(0)).sum::<u64>();
        Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
    }

    /// Proportional set size in KiB: memory, where shared pages count in parts.
    pub fn pss(&self) -> Result<u64> {
        self.members()?.iter().map(|pid| pss(*pid)).sum()
    }

    fn members(&self) -> Result<Vec<u32>> {
        let mut all = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if let Some((name, parent)) = name_and_parent(pid) {
                all.push((pid, parent, name));
            }
        }
        let mut family = vec![self.root];
        let mut at = 0;
        while let Some(parent) = family.get(at).copied() {
            family.extend(all.iter().filter(|(_, above, _)| *above == parent).map(|(pid, ..)| *pid));
            at += 1;
        }
        let counts = |pid: &u32| all.iter().any(|(other, _, name)| other == pid && (self.counts)(name));
        Ok(family.into_iter().filter(counts).collect())
    }
}

/// Everything behind the last parenthesis of `/proc/PID/stat`: from the third field on.
fn fields(pid: u32) -> Option<(String, Vec<String>)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, after) = text.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    Some((name, after.split_whitespace().map(str::to_owned).collect()))
}

fn name_and_parent(pid: u32) -> Option<(String, u32)> {
    let (name, fields) = fields(pid)?;
    Some((name, fields.get(1)?.parse().ok()?))
}

fn ticks(pid: u32) -> Option<u64> {
    let (_, fields) = fields(pid)?;
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

fn pss(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    line.trim().trim_end_matches("kB").trim().parse().context("Pss is a number")
}
