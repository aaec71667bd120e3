//! What every child does to itself between fork and exec, in this order and no other.
//!
//! Order is the design: limits while they may still be set; the bounding set and securebits while CAP_SETPCAP is
//! there; the user while CAP_SETUID is; then no capability at all, read back; then no_new_privs, Landlock, and last
//! seccomp, which forbids most of what came before.

use crate::isolation::landlock::Rules;
use crate::isolation::seccomp::Filter;
use crate::isolation::{capabilities, limits, user};
use crate::plan::{CagePlan, Control, Enforcement, Ids, Limits};
use crate::sys;
use std::io;

/// A step that failed, in the child.
pub(crate) type StepError = (&'static str, io::Error);

/// Everything that a child needs to confine itself, made once.
#[derive(Debug)]
pub(crate) struct Confinement {
    pub(crate) rules: Option<Rules>,
    pub(crate) filter: Option<Filter>,
    ids: Ids,
    limits: Limits,
    require_cap_drop: bool,
    sabotage: Vec<Control>,
}

impl Confinement {
    pub(crate) fn new(plan: &CagePlan, rules: Option<Rules>, filter: Option<Filter>) -> Self {
        Self {
            rules,
            filter,
            ids: plan.ids,
            limits: plan.limits,
            require_cap_drop: plan.require_cap_drop || plan.enforcement == Enforcement::Strict,
            sabotage: plan.sabotage.clone(),
        }
    }

    fn skips(&self, control: Control) -> bool {
        self.sabotage.contains(&control)
    }

    /// What a child must keep open until it is confined; all close-on-exec.
    pub(crate) fn descriptors(&self) -> Option<i32> {
        self.rules.as_ref().map(Rules::descriptor)
    }

    /// Confines this process, for good.
    pub(crate) fn apply(&self) -> Result<(), StepError> {
        let at = |step: &'static str| move |error: io::Error| (step, error);
        if !self.skips(Control::Rlimits) {
            limits::apply(&self.limits).map_err(at("rlimits"))?;
        }
        if !self.skips(Control::Capabilities) {
            capabilities::empty_bounding().map_err(at("bounding set"))?;
            capabilities::lock_securebits().map_err(at("securebits"))?;
        }
        if !self.skips(Control::User) {
            user::become_agent(self.ids).map_err(at("user"))?;
        }
        if !self.skips(Control::Capabilities) {
            capabilities::clear_sets().map_err(at("capabilities"))?;
            let left = capabilities::remaining().map_err(at("capabilities"))?;
            if !left.is_empty() && self.require_cap_drop {
                return Err(("capabilities", io::Error::other(format!("left: {}", left.join(", ")))));
            }
            if !self.skips(Control::User) {
                user::verify(self.ids).map_err(at("user"))?;
            }
        }
        sys::process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1).map_err(at("no_new_privs"))?;
        // Until exec, which sets it again: nobody traces the child while it is half confined.
        sys::process::prctl(libc::PR_SET_DUMPABLE, 0).map_err(at("dumpable"))?;
        if let Some(rules) = &self.rules {
            rules.restrict().map_err(at("landlock"))?;
        }
        if let Some(filter) = &self.filter {
            filter.load().map_err(|error| ("seccomp", io::Error::other(error)))?;
        }
        Ok(())
    }
}
