//! What each strategy does to whom, by whole traces on paused time.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on says so and stops")]

mod common;

use common::*;
use supervision::{Outcome, State, Strategy};

#[tokio::test(start_paused = true)]
async fn children_start_in_order_and_stop_in_reverse() {
    for strategy in STRATEGIES {
        let world = World::default();
        let tree = world.start(strategy, &["a", "b", "c"]).await;
        assert_eq!(world.trace(), "start a, start b, start c");
        assert_eq!(tree.stop(secs(10)).await, Outcome::Stopped);
        assert_eq!(world.trace(), "stop c, drop c, stop b, drop b, stop a, drop a");
        world.assert_nothing_left();
    }
}

#[tokio::test(start_paused = true)]
async fn one_for_one_restarts_the_failed_child_alone() {
    let world = World::default();
    let tree = world.start(Strategy::OneForOne, &["a", "b", "c"]).await;
    world.trace();
    world.send("b", Msg::Panic);
    pass(100).await;
    assert_eq!(world.trace(), "drop b, start b");
    tree.stop(secs(10)).await;
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn rest_for_one_restarts_those_after_it_in_order() {
    let world = World::default();
    let tree = world.start(Strategy::RestForOne, &["a", "b", "c", "d"]).await;
    world.trace();
    world.send("b", Msg::Panic);
    pass(100).await;
    assert_eq!(world.trace(), "drop b, stop d, drop d, stop c, drop c, start b, start c, start d");
    tree.stop(secs(10)).await;
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn one_for_all_restarts_everybody_in_order() {
    let world = World::default();
    let tree = world.start(Strategy::OneForAll, &["a", "b", "c"]).await;
    world.trace();
    world.send("b", Msg::Err);
    pass(100).await;
    assert_eq!(world.trace(), "drop b, stop c, drop c, stop a, drop a, start a, start b, start c");
    assert!(tree.tree().await.unwrap().children.iter().all(|c| c.state == State::Up && c.restarts == 1));
    tree.stop(secs(10)).await;
    world.assert_nothing_left();
}
