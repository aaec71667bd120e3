//! Supervision trees for [ractor] actors, with the semantics of OTP's `supervisor` and what OTP
//! leaves to its users: backoff with jitter, readiness, stable addresses, and a tree that can be read.
//!
//! ```
//! use std::time::Duration;
//! use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
//! use supervision::{Address, ChildSpec, Strategy, Supervisor, SupervisorSpec};
//!
//! struct Echo;
//!
//! impl Actor for Echo {
//!     type Msg = (String, RpcReplyPort<String>);
//!     type State = ();
//!     type Arguments = ();
//!     async fn pre_start(&self, _: ActorRef<Self::Msg>, (): ()) -> Result<(), ActorProcessingErr> {
//!         Ok(())
//!     }
//!     async fn handle(&self, _: ActorRef<Self::Msg>, (text, reply): Self::Msg, _: &mut ()) -> Result<(), ActorProcessingErr> {
//!         let _ = reply.send(text); // a caller that went away is no reason to fail
//!         Ok(())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let echo = Address::new("echo");
//! let spec = SupervisorSpec::new("root", Strategy::OneForOne)
//!     .child(ChildSpec::actor("echo", echo.clone(), || (Echo, ())));
//! let tree = Supervisor::start(spec).await?;
//! let answer = echo.call(|reply| ("hello".to_owned(), reply), Duration::from_secs(1)).await?;
//! assert_eq!(answer, "hello");
//! tree.stop(Duration::from_secs(1)).await;
//! # Ok(())
//! # }
//! ```
//!
//! # Design
//!
//! ```text
//!  Supervisor (handle) ── orders, commands ──▶ shell: one task a supervisor
//!        ▲                                     │  never waits for a child; precedence:
//!        │ board: read by anybody, any time    │  orders > news > commands
//!        └─────────────────────────────────────┤
//!                                              ├── machine: decides; no clock, no tasks, no actors
//!                                              ├── link: a ractor actor, parent of all children's actors,
//!                                              │        that only passes ractor's events on
//!                                              └── keepers: one task a child; starts it, waits, stops it,
//!                                                           buries it, then says "gone"
//! ```
//!
//! - **Deciding is separate from doing.** A supervisor's decisions are made by a state machine whose inputs
//!   are facts and whose outputs are effects. So it can be tested against every input in every order, and a
//!   stop is obeyed whatever state the tree is in: it overtakes a restart that is due, a start that hangs, a
//!   backoff.
//! - **Gone means gone.** A keeper reports that a child is gone once ractor has reported its end, the old
//!   state has been dropped (ractor puts it into the event), and the actor's task has been joined; each wait
//!   is bounded by [`KILL_DEADLINE`]. Only then may the next incarnation's `pre_start` run. What does not end
//!   within the bound, because it blocks its thread, is left behind and reported as [`Event::Stuck`].
//! - **Nobody outside holds an `ActorRef`.** They hold an [`Address`].
//! - **A supervisor that ends leaves no child running**: it stops its children in reverse order first,
//!   also when it gives up, when its link is killed, and when its own code panics.
//!
//! ## A child's life
//!
//! ```text
//!              turn comes                  ready
//!   Waiting ───────────────▶ Starting ───────────────▶ Up
//!    ▲ ▲                        │                      │ │
//!    │ │ hold over              │ gone                 │ │ a stop is due: the supervisor stops, the
//!    │ │                        ▼                      │ │ strategy wants it, or somebody does
//!    │ └────── Backoff ◀── within the limit? ◀── gone ─┘ ▼
//!    │                          │ no                  Stopping (stop; at its deadline, kill)
//!    │                          ▼                        │ gone
//!    └───────────────── GaveUp, or escalate              ▼
//!      by hand          Finished (transient, normal)  Waiting, or out of the table
//! ```
//!
//! ## Rules
//!
//! - *Start*: children start in order, each ready before the next is started. The first start is not retried
//!   (unless [`FirstStart`] says so): if a child does not come up, those that did are stopped in reverse and
//!   [`Supervisor::start`] fails. With `one_for_one` a child that came up and fails before the others are
//!   started does not delay them.
//! - *End*: a panic, an `Err`, a kill are failures; a stop is not. [`Restart`] says what follows. A
//!   permanent child that stops by itself has failed. A temporary child leaves the table.
//! - *Restart*: those that [`Strategy`] ties to the failed child are stopped in reverse, then the wait of
//!   its [`Backoff`] runs, then all are started in order. Temporary ones are stopped and not started
//!   again; transient ones that had finished are (both as in OTP). A failed start is a failure like any
//!   other. With `one_for_one` a child's restart, even one that hangs, delays no other child.
//! - *Limit*: beyond its [`Intensity`] a child escalates or gives up ([`Beyond`]). An escalation stops the
//!   supervisor, and is one failure of one child to the supervisor above; at the root it is the
//!   [`Outcome`]. A restart by hand counts against no limit.
//! - *Stop*: last child first, each gone before the next is asked ([`StopOrder`]); stop, at its deadline
//!   kill, then join.
//!
//! ## What actors must do themselves
//!
//! - Never `?` a cast or a reply in a handler: a peer's restart would become yours.
//! - Keep what must outlive the actor (listeners, counters, stores) above it, captured by `make`.
//! - Make what they do beside their mailbox a [`Duty`]: it ends with them, and they fail with it. What no
//!   actor does and all depend on is [`essential()`].
//! - Await. A handler or a drop that blocks its thread cannot be killed. And an actor that stops *itself* and
//!   then hangs in its own `post_stop` looks alive until it is stopped or restarted.
//! - Bound the senders: ractor's mailboxes are unbounded. [`Bound`] gives out tickets to put into messages.
//! - Keep messages small (box what is large): one big variant slows every message.
//! - Put actors into the tree instead of spawning ractor children of their own: ractor kills those without
//!   waiting.

#[cfg(not(panic = "unwind"))]
compile_error!(
    "supervision needs panic = \"unwind\": with \"abort\" a panic of one actor ends the process instead of that actor"
);

mod address;
mod backoff;
mod bound;
mod command;
mod duty;
mod essential;
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
pub use bound::{Bound, Ticket};
pub use duty::{Duty, DutyEnded};
pub use essential::essential;
pub use failure::{ControlError, Failure, MESSAGE_LIMIT, Outcome, StartError};
pub use intensity::{Beyond, Intensity};
pub use ready::Ready;
pub use report::{Event, REPORTS_KEPT, Report};
pub use spec::{
    ChildSpec, FirstStart, KILL_DEADLINE, NAME_LIMIT, Restart, START_DEADLINE, STOP_DEADLINE, StopOrder,
    Strategy, SupervisorSpec,
};
pub use supervisor::Supervisor;
pub use tree::{NodeKind, State, TreeNode};
