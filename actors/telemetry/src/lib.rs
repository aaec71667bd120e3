//! Telemetry: what operators can see of a sandbox while it runs, and prove afterwards.
//!
//! `audit` keeps the hash-chained record of everything decided, `metrics` the counters and their endpoint,
//! `events` the live feed for the control socket, `actor` owns the tasks that do the work. All stores outlive
//! the actor. Nothing may leave this crate unredacted, and no label value may come from an agent.

pub mod actor;
pub mod audit;
pub mod complaints;
pub mod events;
pub mod metrics;
