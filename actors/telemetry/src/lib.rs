//! Telemetry: what operators see of a sandbox while it runs, and can prove afterwards.
//!
//! `audit` keeps the hash-chained record of everything decided, `metrics` the counters and their endpoint,
//! `events` the live feed for the control socket, `actor` owns the tasks that do the work. The stores all
//! live above the actor. Nothing here may leave un-redacted, and no label value may come from an agent.

pub mod actor;
pub mod audit;
pub mod events;
pub mod metrics;
