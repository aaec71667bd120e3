//! Faults at any moment, several at once, with commands in between: what must hold whatever happens.
//! Paused time makes each story repeat itself exactly.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on says so and stops"
)]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::*;
use proptest::prelude::*;
use supervision::{
    ChildSpec, Outcome, Restart, State, Strategy as Ties, Supervisor, SupervisorSpec, TreeNode,
};
use tokio::time::timeout;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

#[derive(Clone, Debug)]
enum Act {
    Fault(usize, u8),
    Starts(usize, Vec<u8>),
    Restart(usize),
    Remove(usize),
    Add(usize),
    Pass(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let any = || 0..5_usize;
    prop_oneof![
        6 => (any(), 0..5_u8).prop_map(|(i, how)| Act::Fault(i, how)),
        2 => (any(), proptest::collection::vec(0..6_u8, 0..4)).prop_map(|(i, how)| Act::Starts(i, how)),
        1 => any().prop_map(Act::Restart),
        1 => any().prop_map(Act::Remove),
        1 => any().prop_map(Act::Add),
        4 => (0..40_u64).prop_map(Act::Pass),
        1 => (500..3000_u64).prop_map(Act::Pass),
    ]
}

/// a; sub: b, c; d; e.
fn tree_of(world: &World, ties: [Ties; 2], restarts: [Restart; 5]) -> SupervisorSpec {
    let child =
        |i: usize| world.child(NAMES[i]).restart(restarts[i]).intensity(at_most(1000)).backoff(steady(7));
    let sub = SupervisorSpec::new("sub", ties[1]).child(child(1)).child(child(2));
    SupervisorSpec::new("root", ties[0])
        .child(child(0))
        .child(ChildSpec::supervisor(sub).intensity(at_most(1000)))
        .child(child(3))
        .child(child(4))
}

fn path(i: usize) -> String {
    if i == 1 || i == 2 { format!("sub/{}", NAMES[i]) } else { NAMES[i].to_owned() }
}

async fn play(world: &World, tree: &Supervisor, act: &Act) {
    match act {
        Act::Fault(i, how) => {
            let msg = [Msg::Panic, Msg::Err, Msg::Kill, Msg::StopSelf, Msg::Nothing]
                .into_iter()
                .nth(usize::from(*how));
            let _ = world.address(NAMES[*i]).cast(msg.unwrap());
        }
        Act::Starts(i, how) => {
            let all =
                [Start::Well, Start::Err, Start::Panic, Start::PanicEarly, Start::PanicInMake, Start::Hang];
            world.starts(NAMES[*i], &how.iter().map(|how| all[usize::from(*how)]).collect::<Vec<_>>());
        }
        // Callers who don't wait: whatever becomes of the command, the tree must hold.
        Act::Restart(i) => drop(timeout(millis(3), tree.restart_child(&path(*i))).await),
        Act::Remove(i) => drop(timeout(millis(3), tree.remove_child(&path(*i))).await),
        Act::Add(i) => {
            let child = world.child(NAMES[*i]).intensity(at_most(1000));
            let at = if *i == 1 || *i == 2 { "sub" } else { "" };
            drop(timeout(millis(3), tree.add_child(at, child)).await);
        }
        Act::Pass(ms) => pass(*ms).await,
    }
}

/// Nobody starts while its former self is alive, and nobody is dropped that did not start.
fn alive_after(trace: &str) -> BTreeSet<String> {
    let mut alive = BTreeSet::new();
    for entry in trace.split(", ").filter(|entry| !entry.is_empty()) {
        let (what, name) = entry.split_once(' ').unwrap();
        match what {
            "start" => assert!(alive.insert(name.to_owned()), "{name} started twice: {trace}"),
            "drop" => assert!(alive.remove(name), "{name} dropped twice: {trace}"),
            _ => {}
        }
    }
    alive
}

fn at_rest(node: &TreeNode) -> bool {
    matches!(node.state, State::Up | State::Finished) && node.children.iter().all(at_rest)
}

async fn story(ties: [Ties; 2], restarts: [Restart; 5], acts: &[Act], hurry: bool) {
    let world = World::default();
    let tree = Supervisor::start(tree_of(&world, ties, restarts)).await.unwrap();
    for act in acts {
        play(&world, &tree, act).await;
    }
    if !hurry {
        // A removal of `a` and so on may still be under way; hanging starts take a second each.
        for name in NAMES {
            world.starts(name, &[]);
        }
        pass(60_000).await;
        let node = tree.tree().await.unwrap();
        assert!(at_rest(&node), "{node:?}");
        let up = |node: &TreeNode| node.children.iter().filter(|c| c.state == State::Up).count();
        let sub = node.find("sub").unwrap();
        assert_eq!(world.alive(), up(&node) + up(sub) - 1, "the tree does not show what is");
    }
    assert_eq!(timeout(secs(600), tree.stop(secs(300))).await.unwrap(), Outcome::Stopped);
    let rest = alive_after(&world.trace());
    assert!(rest.is_empty(), "left alive: {rest:?}");
    world.assert_nothing_left();
    pass(100_000).await;
    assert_eq!(world.trace(), "", "something came after the end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_nobody_lives_twice_and_nobody_is_left(
        ties in [0..3_usize, 0..3_usize],
        restarts in [0..3_usize, 0..3_usize, 0..3_usize, 0..3_usize, 0..3_usize],
        acts in proptest::collection::vec(act(), 1..25),
        hurry in any::<bool>(),
    ) {
        hush();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            timeout(Duration::from_secs(1_000_000), story(
                ties.map(|i| STRATEGIES[i]), restarts.map(|i| RESTARTS[i]), &acts, hurry,
            )).await.expect("it never ends");
        });
    }
}
