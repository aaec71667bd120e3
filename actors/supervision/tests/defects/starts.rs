//! When a child counts as up.

use supervision::{Failure, StartError, Strategy, Supervisor};
use tokio::time::timeout;

use crate::common::*;

#[tokio::test(start_paused = true)]
async fn dropping_the_readiness_token_fails_the_start() {
    let world = World::default();
    let spec = world.spec(Strategy::OneForOne, &["a"]).child(world.child_with_ready("b", |_| None));
    let error = Supervisor::start(spec).await.unwrap_err();
    assert_eq!(error, StartError::Child { child: "b".into(), failure: Failure::NotReady });
    assert_eq!(world.trace(), "start a, start b, drop b, stop a, drop a");
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_kept_too_long_fails_the_start() {
    let world = World::default();
    let spec = world.spec(Strategy::OneForOne, &["a"]).child(world.child_with_ready("b", Some));
    let error = Supervisor::start(spec).await.unwrap_err();
    assert_eq!(
        error,
        StartError::Child { child: "b".into(), failure: Failure::StartTimedOut { deadline_ms: 1000 } }
    );
    world.assert_nothing_left();
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_why() {
    let world = World::default();
    let refusing = |ready: supervision::Ready| {
        ready.refuse("port 80 is taken");
        None
    };
    let error =
        Supervisor::start(world.spec(Strategy::OneForOne, &[]).child(world.child_with_ready("b", refusing)))
            .await
            .unwrap_err();
    assert_eq!(error.to_string(), "`b` did not start: could not start: port 80 is taken");
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_the_first_time_stops_what_had_started() {
    for start in [Start::Err, Start::Panic, Start::PanicEarly, Start::PanicInMake, Start::Hang] {
        let world = World::default();
        world.starts("c", &[start]);
        let error =
            Supervisor::start(world.spec(Strategy::OneForOne, &["a", "b", "c", "d"])).await.unwrap_err();
        assert!(matches!(error, StartError::Child { child, .. } if child == "c"));
        let trace = world.trace();
        assert!(trace.ends_with("stop b, drop b, stop a, drop a"), "{trace}");
        assert!(!trace.contains("start d"), "{trace}");
        world.assert_nothing_left();
    }
}

#[tokio::test(start_paused = true)]
async fn giving_up_to_wait_for_a_start_stops_the_tree() {
    let world = World::default();
    world.starts("b", &[Start::Hang]);
    let spec = world.spec(Strategy::OneForOne, &["a", "b"]);
    assert!(timeout(millis(100), Supervisor::start(spec)).await.is_err());
    pass(5_000).await;
    assert_eq!(world.trace(), "start a, hang b, stop a, drop a");
    world.assert_nothing_left();
}
