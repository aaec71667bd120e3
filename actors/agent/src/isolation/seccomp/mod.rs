//! seccomp: an allow-list of system calls, compiled once in init and loaded by every child just before exec.
//!
//! The list is data, in [`table`]; this file turns it into BPF with `seccompiler`. In front of its program
//! stand a few instructions of our own, which it cannot express: other architectures and x32 end the process
//! (a second table of numbers means an attack); [`table::UNKNOWN`] and every call newer than the list give
//! ENOSYS, as an older kernel would; and calls without a condition are found by a search tree. All other
//! calls that aren't listed give EPERM: killing would end Node, which tries io_uring at start.

pub mod conditions;
mod number;
mod prologue;
pub mod table;
mod tree;

use crate::sys;
use crate::sys::prctl::{Prctl, prctl};
use conditions::{Condition, Test};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

/// A compiled filter.
#[derive(Debug, Clone)]
pub struct Filter {
    program: BpfProgram,
    asks: bool,
}

/// The list cannot be compiled: a fault in the list, found by its test.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The compiler's error.
    #[error("seccomp filter: {0}")]
    Backend(#[from] seccompiler::BackendError),
    /// This processor has no list.
    #[error("no seccomp list for this architecture: only x86_64 and aarch64 have one")]
    Architecture,
    /// The kernel refused it.
    #[error("loading the seccomp filter: {0}")]
    Load(#[from] seccompiler::Error),
    /// The kernel refused it with a listener.
    #[error("loading the seccomp filter that asks at connect: {0}{mend}", mend = mend(.0))]
    Listen(io::Error),
}

fn mend(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => {
            " (this process is itself below a filter with a listener: start it outside of that)"
        }
        _ => "",
    }
}

pub(crate) use prologue::{AUDIT_ARCH, X32_BIT};

impl Filter {
    /// Compiles the agents' list for this processor. With `asks`, connect(2) waits until the listener's owner
    /// has answered.
    ///
    /// # Errors
    /// See [`FilterError`].
    pub fn compile(asks: bool) -> Result<Self, FilterError> {
        let calls: Vec<&table::Call> = table::calls().collect();
        Ok(Self { asks, ..Self::behind(prologue::connecting(asks), &calls, &[])? })
    }

    /// Compiles an allow-list: these calls are allowed, the deadly ones end the process, all others give
    /// EPERM.
    ///
    /// # Errors
    /// See [`FilterError`].
    pub(crate) fn allowing(calls: &[&table::Call], deadly: &[i64]) -> Result<Self, FilterError> {
        Self::behind(BpfProgram::new(), calls, deadly)
    }

    /// The same, with instructions in front of the list.
    fn behind(front: BpfProgram, calls: &[&table::Call], deadly: &[i64]) -> Result<Self, FilterError> {
        let architecture =
            TargetArch::try_from(std::env::consts::ARCH).map_err(|_| FilterError::Architecture)?;
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for call in calls.iter().filter(|call| !call.only_if.is_empty()) {
            let alternatives: Vec<SeccompRule> =
                call.only_if.iter().map(|all| rule(all)).collect::<Result<_, seccompiler::BackendError>>()?;
            rules.entry(call.number).or_default().extend(alternatives);
        }
        let filter = SeccompFilter::new(
            rules,
            SeccompAction::Errno(libc::EPERM as u32),
            SeccompAction::Allow,
            architecture,
        )?;
        let mut program = prologue::tables();
        program.extend(prologue::newer_than_the_list());
        program.extend(front);
        if !deadly.is_empty() {
            program.extend(tree::answer(numbers(deadly.iter()), SeccompAction::KillProcess));
        }
        let unconditional = calls.iter().filter(|call| call.only_if.is_empty());
        program.extend(tree::answer(numbers(unconditional.map(|call| &call.number)), SeccompAction::Allow));
        program.extend(BpfProgram::try_from(filter)?);
        Ok(Self { program, asks: false })
    }

    /// Compiles a deny-list: these calls give EPERM, all others are allowed. It judges by number alone, so
    /// that the kernel judges an allowed call from a bitmap and never runs the program for it.
    pub(crate) fn refusing(refused: &[i64]) -> Self {
        let mut program = prologue::tables();
        program.extend(tree::answer(numbers(refused.iter()), SeccompAction::Errno(libc::EPERM as u32)));
        let allow = u32::from(SeccompAction::Allow);
        program.push(prologue::step(prologue::RETURN, 0, 0, allow));
        Self { program, asks: false }
    }

    /// Loads the filter into this thread, for good; returns the listener if the filter asks.
    ///
    /// # Errors
    /// The kernel's.
    pub fn load(&self) -> Result<Option<OwnedFd>, FilterError> {
        if !self.asks {
            seccompiler::apply_filter(&self.program)?;
            return Ok(None);
        }
        let program: Vec<libc::sock_filter> = self
            .program
            .iter()
            .map(|step| libc::sock_filter { code: step.code, jt: step.jt, jf: step.jf, k: step.k })
            .collect();
        sys::notify::load(&program).map(Some).map_err(FilterError::Listen)
    }

    /// Whether it asks at connect(2).
    #[must_use]
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// The program itself, as it is loaded: the proof judges it, and a test may weaken it.
    pub(crate) fn program(&self) -> &BpfProgram {
        &self.program
    }

    /// See [`Filter::program`].
    pub(crate) fn program_mut(&mut self) -> &mut BpfProgram {
        &mut self.program
    }

    /// How many BPF instructions it has (the kernel takes 4096).
    #[must_use]
    pub fn len(&self) -> usize {
        self.program.len()
    }

    /// Whether the program is empty, which it never is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.program.is_empty()
    }
}

fn rule(conditions: &[Condition]) -> Result<SeccompRule, seccompiler::BackendError> {
    let conditions = conditions
        .iter()
        .map(|condition| {
            let (operator, value) = match condition.test {
                Test::Is(value) => (SeccompCmpOp::Eq, value),
                Test::IsNot(value) => (SeccompCmpOp::Ne, value),
                Test::Masked { mask, is } => (SeccompCmpOp::MaskedEq(u64::from(mask)), is),
            };
            // All judged arguments are C ints: the kernel looks at their lower half only, and so must we.
            SeccompCondition::new(condition.argument, SeccompCmpArgLen::Dword, operator, u64::from(value))
        })
        .collect::<Result<Vec<_>, _>>()?;
    SeccompRule::new(conditions)
}

fn numbers<'a>(calls: impl Iterator<Item = &'a i64>) -> impl Iterator<Item = u32> {
    calls.filter_map(|number| u32::try_from(*number).ok())
}

/// Whether this kernel's filters can ask (Linux 5.5).
#[must_use]
pub fn can_ask() -> bool {
    sys::notify::is_supported()
}

/// Whether this process is under a filter (proc_pid_status(5)).
///
/// # Errors
/// The system call's.
pub fn is_loaded() -> io::Result<bool> {
    Ok(prctl(Prctl::Seccomp)? == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_compiles_and_fits_the_kernels_limit() {
        for asks in [false, true] {
            let filter = Filter::compile(asks).unwrap();
            assert!(filter.len() < 4096, "{} instructions", filter.len());
        }
    }

    #[test]
    fn no_call_is_listed_twice_and_each_group_says_why() {
        let mut seen = std::collections::BTreeSet::new();
        for group in table::GROUPS {
            assert!(!group.reason.is_empty());
            for call in group.calls {
                assert!(seen.insert(call.number), "{} is listed twice", call.name);
            }
        }
    }

    #[test]
    fn what_breaks_cages_is_not_on_the_list() {
        let listed: Vec<i64> = table::calls().map(|call| call.number).collect();
        for (name, number) in [
            ("ptrace", libc::SYS_ptrace),
            ("mount", libc::SYS_mount),
            ("umount2", libc::SYS_umount2),
            ("pivot_root", libc::SYS_pivot_root),
            ("chroot", libc::SYS_chroot),
            ("unshare", libc::SYS_unshare),
            ("setns", libc::SYS_setns),
            ("open_tree", libc::SYS_open_tree),
            ("move_mount", libc::SYS_move_mount),
            ("fsopen", libc::SYS_fsopen),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("bpf", libc::SYS_bpf),
            ("perf_event_open", libc::SYS_perf_event_open),
            ("io_uring_setup", libc::SYS_io_uring_setup),
            ("io_uring_enter", libc::SYS_io_uring_enter),
            ("userfaultfd", libc::SYS_userfaultfd),
            ("keyctl", libc::SYS_keyctl),
            ("add_key", libc::SYS_add_key),
            ("init_module", libc::SYS_init_module),
            ("kexec_load", libc::SYS_kexec_load),
            ("process_vm_readv", libc::SYS_process_vm_readv),
            ("process_vm_writev", libc::SYS_process_vm_writev),
            ("pidfd_getfd", libc::SYS_pidfd_getfd),
            ("open_by_handle_at", libc::SYS_open_by_handle_at),
            ("openat2", libc::SYS_openat2),
            ("clone3", libc::SYS_clone3),
            ("kcmp", libc::SYS_kcmp),
            ("sethostname", libc::SYS_sethostname),
            ("reboot", libc::SYS_reboot),
        ] {
            assert!(!listed.contains(&number), "{name}");
        }
    }
}
