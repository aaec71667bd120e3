//! One test for each trap that ractor 0.16.5 sets and for each defect that was found in other
//! supervision layers built on it. Each fails on the naive way of doing it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so and stops")]

#[path = "../common/mod.rs"]
mod common;

mod ends;
mod mailboxes;
mod restarts;
mod starts;
mod stops;

use supervision::{Failure, State, Supervisor};

async fn last_failure(tree: &Supervisor, path: &str) -> Option<Failure> {
    tree.tree().await.unwrap().find(path).unwrap().last_failure.clone()
}

async fn state(tree: &Supervisor, path: &str) -> Option<State> {
    tree.tree().await.unwrap().find(path).map(|node| node.state)
}
