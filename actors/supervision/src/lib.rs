//! Supervision trees for ractor actors, with the semantics of OTP's `supervisor`.

#[cfg(not(panic = "unwind"))]
compile_error!(
    "supervision needs panic = \"unwind\": with \"abort\" a panic of one actor ends the process instead of that actor"
);

mod address;
mod backoff;
mod command;
mod failure;
mod intensity;
mod keeper;
mod launch;
mod machine;
mod nested;
mod ready;
mod report;
mod shell;
mod spec;
mod supervisor;
mod tree;

pub use address::{Address, CallError, Undelivered};
pub use backoff::{Backoff, Chance, STEADY};
pub use failure::{ControlError, Failure, MESSAGE_LIMIT, Outcome, StartError};
pub use intensity::{Beyond, Intensity};
pub use ready::Ready;
pub use report::{Event, REPORTS_KEPT, Report};
pub use spec::{
    ChildSpec, KILL_DEADLINE, NAME_LIMIT, Restart, START_DEADLINE, STOP_DEADLINE, StopOrder, Strategy,
    SupervisorSpec,
};
pub use supervisor::Supervisor;
pub use tree::{NodeKind, State, TreeNode};
