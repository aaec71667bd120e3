//! What every child does to itself between fork and exec, in this order and no other.
//!
//! The order matters. First init's raised priority is given up; then come the limits, except that of
//! descriptors, which is set last of all; then the capabilities with which cages are broken, and the
//! securebits; then the change of user, while CAP_SETUID is there, and with it every other capability; then
//! all of that is read back; then no_new_privs, Landlock, and seccomp, which forbids most of the earlier
//! steps.

use super::standby;
use crate::isolation::landlock::Rules;
use crate::isolation::priority::Usual;
use crate::isolation::seccomp::Filter;
use crate::isolation::{capabilities, limits, user};
use crate::plan::{CagePlan, Control, Enforcement, Ids, Limits};
use crate::sys::prctl::{Prctl, prctl};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// A step that failed, in the child.
pub(crate) type StepError = (&'static str, io::Error);

/// Everything that a child needs to confine itself, made once.
#[derive(Debug)]
pub(crate) struct Confinement {
    pub(crate) rules: Option<Rules>,
    pub(crate) filter: Option<Filter>,
    ids: Ids,
    limits: Limits,
    priority: Usual,
    require_cap_drop: bool,
    sabotage: Vec<Control>,
}

impl Confinement {
    pub(crate) fn new(
        plan: &CagePlan,
        rules: Option<Rules>,
        filter: Option<Filter>,
        priority: Usual,
    ) -> Self {
        Self {
            rules,
            filter,
            ids: plan.ids,
            limits: plan.limits,
            priority,
            require_cap_drop: plan.require_cap_drop || plan.enforcement == Enforcement::Strict,
            sabotage: Control::ALL.iter().copied().filter(|control| plan.sabotaged(*control)).collect(),
        }
    }

    pub(crate) fn skips(&self, control: Control) -> bool {
        self.sabotage.contains(&control)
    }

    /// What a child must keep open until it is confined; all close-on-exec.
    pub(crate) fn descriptors(&self) -> Option<i32> {
        self.rules.as_ref().map(Rules::descriptor)
    }

    /// Whether children run under the seccomp filter.
    pub(crate) fn filters(&self) -> bool {
        self.filter.is_some() && !self.skips(Control::NoNewPrivileges)
    }

    /// Whether init is asked about children's connects, see [`super::connects`].
    pub(crate) fn asks(&self) -> bool {
        self.filter.as_ref().is_some_and(Filter::asks) && !self.skips(Control::NoNewPrivileges)
    }

    /// Confines this process, for good, and hands the filter's listener to init over `line`.
    pub(crate) fn apply(&self, line: BorrowedFd<'_>) -> Result<(), StepError> {
        self.priority.take().map_err(|error| ("priority", error))?;
        let limited = |error: io::Error| ("rlimits", error);
        if self.skips(Control::Rlimits) {
            return self.apply_all_but_limits(line);
        }
        limits::apply(&self.limits).map_err(limited)?;
        self.apply_all_but_limits(line)?;
        limits::apply_descriptors(&self.limits).map_err(limited)
    }

    fn apply_all_but_limits(&self, line: BorrowedFd<'_>) -> Result<(), StepError> {
        let at = |step: &'static str| move |error: io::Error| (step, error);
        self.drop_capabilities_and_user()?;
        if !self.skips(Control::Dumpable) {
            // Until exec, which sets it again: nobody traces the child while it is half confined.
            prctl(Prctl::SetDumpable(false)).map_err(at("dumpable"))?;
        }
        if self.skips(Control::NoNewPrivileges) {
            // Without it the kernel allows neither of the two that follow, and loading a filter would set it.
            return Ok(());
        }
        prctl(Prctl::SetNoNewPrivileges).map_err(at("no_new_privs"))?;
        if let Some(rules) = &self.rules {
            rules.restrict().map_err(at("landlock"))?;
        }
        if let Some(filter) = &self.filter {
            let listener = filter.load().map_err(|error| ("seccomp", io::Error::other(error)))?;
            if let Some(listener) = listener {
                standby::hand_listener(line, listener.as_fd()).map_err(at("seccomp listener"))?;
            }
        }
        Ok(())
    }

    fn drop_capabilities_and_user(&self) -> Result<(), StepError> {
        let at = |step: &'static str| move |error: io::Error| (step, error);
        if !self.skips(Control::BoundingSet) {
            capabilities::drop_at_start().map_err(at("bounding_set"))?;
        }
        if self.skips(Control::Securebits) {
            // Without securebits, the change of user takes CAP_SETPCAP away.
            capabilities::drop_with_user().map_err(at("bounding_set"))?;
        } else {
            capabilities::lock_securebits().map_err(at("securebits"))?;
        }
        if !self.skips(Control::User) {
            user::become_agent(self.ids).map_err(at("user"))?;
        }
        if !self.skips(Control::BoundingSet) {
            capabilities::drop_with_user().map_err(at("bounding_set"))?;
        }
        if !self.skips(Control::Capabilities) {
            capabilities::clear_sets().map_err(at("capabilities"))?;
        }
        if self.require_cap_drop {
            capabilities::verify().map_err(at("capabilities"))?;
        }
        if !self.skips(Control::User) && !self.skips(Control::Capabilities) {
            user::verify(self.ids).map_err(at("user"))?;
        }
        Ok(())
    }
}
