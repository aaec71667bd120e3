//! The supervisor's side: client and actor over a real init, on a runtime of one thread.

use crate::bed::{Cage, Mode, null, plan, spec, workspace};
use agent::InitClient;
use agent::actor::{AgentActor, AgentEvent, Arguments, Judged, Msg, Opened, RestartOn, Streams};
use agent::protocol::{ExitStatus, ProcessState, Refusal};
use futures_util::future::BoxFuture;
use ractor::Actor;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

pub const CASES: &[crate::Case] = &[
    ("a_client_asks_and_hears", a_client_asks_and_hears),
    ("a_second_client_on_the_same_channel", a_second_client_on_the_same_channel),
    ("an_actor_sees_its_process_to_its_end", an_actor_sees_its_process_to_its_end),
    ("what_is_over_is_not_run_again_by_a_new_supervisor", what_is_over_is_not_run_again_by_a_new_supervisor),
    ("a_start_that_is_wanted_forgets_the_end_before", a_start_that_is_wanted_forgets_the_end_before),
    ("a_panic_leaves_the_process_to_be_adopted", a_panic_leaves_the_process_to_be_adopted),
    ("a_stop_ends_even_the_deaf", a_stop_ends_even_the_deaf),
    ("a_closed_channel_ends_every_call", a_closed_channel_ends_every_call),
];

/// Runs with a client over a fresh cage; the cage's own end is kept as the heart keeps it.
fn with_client<F: Future<Output = ()>>(mode: Mode, body: impl FnOnce(InitClient, OwnedFd) -> F) {
    let cage = Cage::start(mode);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let kept = cage.wire.as_fd().try_clone_to_owned().expect("dup");
    runtime.block_on(async {
        let client = InitClient::new(kept.try_clone().expect("dup")).expect("client");
        tokio::time::timeout(crate::bed::PATIENCE, body(client, kept)).await.expect("in time");
    });
}

fn streams() -> [OwnedFd; 3] {
    [null(), null(), null()]
}

fn a_client_asks_and_hears(mode: Mode) {
    with_client(mode, async |client, _kept| {
        assert!(client.report().await.expect("report").missing.is_empty());
        let mut events = client.events();
        let spawned = client.spawn("a", &spec("a", &["sh", "-c", "exit 4"]), streams()).await.expect("spawn");
        let agent::protocol::Event::Exited { process, status, .. } = events.recv().await.expect("event")
        else {
            panic!("no end")
        };
        assert_eq!((process, status), (spawned.record.process, ExitStatus::Code(4)));
        let list = client.list().await.expect("list");
        assert_eq!(list[0].state, ProcessState::Exited(ExitStatus::Code(4)));
        client.forget(process).await.expect("forget");
        let error =
            client.spawn("a", &spec("a", &["nothing-here"]), streams()).await.expect_err("no such program");
        let agent::ClientError::Refused(refusal) = error else { panic!("{error}") };
        assert_eq!(refusal.exit_code(), 127);
        // Many at once, each its own answer.
        let all = futures_util::future::join_all((0..50).map(|_| client.list())).await;
        assert!(all.into_iter().all(|list| list.is_ok_and(|list| list.is_empty())));
        let roots = agent::roots::Roots::of_pem(b"roots\n".to_vec());
        client.root_files().await.expect("files").write(&roots).expect("written");
        client.diag().await.expect("diag");
        client.listen_tcp("127.0.0.1:3128".parse().expect("address")).await.expect("listener");
        let large = spec("a", &["true", &"x".repeat(100_000)]);
        client.spawn("large", &large, streams()).await.expect("more than a packet holds");
        let too_large = spec("a", &["true", &"x".repeat(3 << 20)]);
        assert!(client.spawn("larger", &too_large, streams()).await.is_err());
    });
}

fn a_second_client_on_the_same_channel(mode: Mode) {
    with_client(mode, async |first, kept| {
        first.spawn("a", &spec("a", &["sleep", "1000"]), streams()).await.expect("spawn");
        // A supervisor that dies with a question open: its answer comes to the next one, who never asked.
        let dying = first.clone();
        let open = tokio::spawn(async move { dying.list().await });
        tokio::task::yield_now().await;
        open.abort();
        drop(first);
        tokio::task::yield_now().await;
        let second = InitClient::new(kept).expect("client");
        let list = second.list().await.expect("list");
        assert_eq!(list.len(), 1);
        let again = second.spawn("a", &spec("a", &["true"]), streams()).await.expect_err("it runs");
        assert!(matches!(again, agent::ClientError::Refused(Refusal::AlreadyRunning(_))), "{again}");
    });
}

struct Silent;

impl Streams for Silent {
    fn open(&self) -> BoxFuture<'_, io::Result<Opened>> {
        Box::pin(async { Ok(Opened::Given(streams())) })
    }
    fn terminal(&self, _: OwnedFd) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

fn arguments(
    client: &InitClient,
    argv: &[&str],
    restart_on: RestartOn,
) -> (Arguments, mpsc::UnboundedReceiver<AgentEvent>) {
    let (send, receive) = mpsc::unbounded_channel();
    let arguments = Arguments {
        name: "a".into(),
        init: client.clone(),
        spec: Arc::new(spec("a", argv)),
        streams: Arc::new(Silent),
        restart_on,
        gave_up: false,
        told: Arc::new(move |told| drop(send.send(told.clone()))),
        recorded: Arc::new(|| Box::pin(async {})),
        judged: Judged::default(),
        watch: None,
    };
    (arguments, receive)
}

fn an_actor_sees_its_process_to_its_end(mode: Mode) {
    with_client(mode, async |client, _kept| {
        let (given, mut told) = arguments(&client, &["sh", "-c", "exit 3"], RestartOn::Never);
        let (_, handle) = Actor::spawn(None, AgentActor, given).await.expect("start");
        assert!(matches!(told.recv().await, Some(AgentEvent::Started { .. })));
        let end = told.recv().await;
        assert_eq!(
            end,
            Some(AgentEvent::Exited { status: ExitStatus::Code(3), stopped: false, restarts: false })
        );
        handle.await.expect("the actor ends in order");
        let kept = client.list().await.expect("list");
        assert!(kept.len() == 1 && kept[0].noted, "its row stays: {kept:?}");
        client.forget(kept[0].process).await.expect("forget");

        let (given, mut told) = arguments(&client, &["no-such-program"], RestartOn::Never);
        let (_, handle) = Actor::spawn(None, AgentActor, given).await.expect("start");
        assert!(matches!(told.recv().await, Some(AgentEvent::Refused { code: 127, restarts: false, .. })));
        handle.await.expect("the actor ends in order");
    });
}

/// A new supervisor is one that has judged nothing.
fn what_is_over_is_not_run_again_by_a_new_supervisor(mode: Mode) {
    with_client(mode, async |client, _kept| {
        for (restart_on, script, code) in [
            (RestartOn::Never, "exit 3", 3),
            (RestartOn::Failure, "exit 0", 0),
            (RestartOn::Failure, "exit 3", 3),
        ] {
            let status = ExitStatus::Code(code);
            let restarts = restart_on == RestartOn::Failure && code != 0;
            let (given, mut told) = arguments(&client, &["sh", "-c", script], restart_on);
            // Nobody was there when it ended.
            let spawned = client.spawn("a", &given.spec, streams()).await.expect("spawn");
            while client.list().await.expect("list")[0].state == ProcessState::Running {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let (_, handle) = Actor::spawn(None, AgentActor, given).await.expect("start");
            assert_eq!(told.recv().await, Some(AgentEvent::Exited { status, stopped: false, restarts }));
            handle.await.expect("the actor ends");
            // And the next finds it told of.
            let (given, mut told) = arguments(&client, &["sh", "-c", script], restart_on);
            // Nor does any end lead to a start where the restarts were used up before.
            let (late, mut told_late) = arguments(&client, &["sh", "-c", script], restart_on);
            let late = Arguments { gave_up: true, ..late };
            let (_, handle) = Actor::spawn(None, AgentActor, late).await.expect("start");
            assert_eq!(
                told_late.recv().await,
                Some(AgentEvent::WasOver { status, restarts: false, gave_up: true })
            );
            handle.await.expect("the actor ends in order");
            let (_, handle) = Actor::spawn(None, AgentActor, given.clone()).await.expect("start");
            assert_eq!(told.recv().await, Some(AgentEvent::WasOver { status, restarts, gave_up: false }));
            handle.await.expect("the actor ends");
            let rows = client.list().await.expect("list");
            assert_eq!((rows.len(), rows[0].process), (1, spawned.record.process), "another start");
            // A restart, after a failure or by the operator, is another incarnation in the same supervisor.
            let (_, handle) = Actor::spawn(None, AgentActor, given).await.expect("start");
            assert!(matches!(told.recv().await, Some(AgentEvent::Started { .. })));
            assert_eq!(told.recv().await, Some(AgentEvent::Exited { status, stopped: false, restarts }));
            handle.await.expect("the actor ends");
            let rows = client.list().await.expect("list");
            assert!(rows.len() == 1 && rows[0].process != spawned.record.process, "{rows:?}");
            client.forget(rows[0].process).await.expect("forget");
        }
    });
}

fn a_start_that_is_wanted_forgets_the_end_before(mode: Mode) {
    with_client(mode, async |client, _kept| {
        let (given, mut told) = arguments(&client, &["sleep", "1000"], RestartOn::Never);
        for again in [true, false] {
            let (actor, _handle) = Actor::spawn(None, AgentActor, given.clone()).await.expect("start");
            assert!(matches!(told.recv().await, Some(AgentEvent::Started { .. })));
            let (reply, answer) = ractor::concurrency::oneshot();
            let stop = Msg::Stop { grace: Duration::from_secs(5), again, reply: reply.into() };
            actor.cast(stop).expect("cast");
            let status = answer.await.expect("an answer").expect("a process");
            assert_eq!(
                told.recv().await,
                Some(AgentEvent::Exited { status, stopped: true, restarts: false })
            );
            // Whoever supervises next starts it, or doesn't.
            assert_eq!(client.list().await.expect("list").is_empty(), again);
            actor.stop(None);
        }
    });
}

fn a_panic_leaves_the_process_to_be_adopted(mode: Mode) {
    with_client(mode, async |client, _kept| {
        let (given, mut told) = arguments(&client, &["sleep", "1000"], RestartOn::Always);
        let (actor, handle) = Actor::spawn(None, AgentActor, given.clone()).await.expect("start");
        let Some(AgentEvent::Started { pid }) = told.recv().await else { panic!("not started") };
        actor.cast(Msg::InjectPanic).expect("cast");
        let _ = handle.await;
        let (actor, handle) = Actor::spawn(None, AgentActor, given).await.expect("start again");
        assert_eq!(told.recv().await, Some(AgentEvent::Adopted { pid }));
        actor.cast(Msg::Signal(9)).expect("cast");
        let end = told.recv().await;
        assert_eq!(
            end,
            Some(AgentEvent::Exited { status: ExitStatus::Signal(9), stopped: false, restarts: true })
        );
        let _ = handle.await;
    });
}

fn a_stop_ends_even_the_deaf(mode: Mode) {
    with_client(mode, async |client, _kept| {
        let deaf = ["sh", "-c", "trap '' TERM; while :; do sleep 1000; done"];
        let (given, mut told) = arguments(&client, &deaf, RestartOn::Always);
        let (actor, _handle) = Actor::spawn(None, AgentActor, given).await.expect("start");
        assert!(matches!(told.recv().await, Some(AgentEvent::Started { .. })));
        let (reply, answer) = ractor::concurrency::oneshot();
        actor
            .cast(Msg::Stop { grace: Duration::from_millis(20), again: false, reply: reply.into() })
            .expect("cast");
        let status = answer.await.expect("an answer").expect("a process");
        assert!(matches!(status, ExitStatus::Signal(9 | 15)), "{status}");
        assert_eq!(told.recv().await, Some(AgentEvent::Exited { status, stopped: true, restarts: false }));
    });
}

fn a_closed_channel_ends_every_call(mode: Mode) {
    let dir = workspace(mode);
    let plan = plan(mode, dir.path());
    let (ours, theirs) = agent::wire::pair().expect("pair");
    let child = agent::launch::clone_init(&plan, theirs).expect("clone");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let client = InitClient::new(ours).expect("client");
        client.report().await.expect("report");
        let pid = nix::unistd::Pid::from_raw(child.pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
        nix::sys::wait::waitpid(pid, None).expect("reap");
        assert!(matches!(client.list().await, Err(agent::ClientError::Closed)));
        assert!(matches!(client.diag().await, Err(agent::ClientError::Closed)));
    });
}
