//! Pumps over real pipes and terminals: nothing lost, nothing twice, nothing raw, whoever is aborted when.
#![expect(clippy::unwrap_used, reason = "a test may stop")]

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cofferdam_redactor::actor::{Msg, RedactorActor, RedactorArguments};
use cofferdam_redactor::pump::{AgentLog, LogLimits, LogLine, NoObserver, SharedObserver, Source, run};
use cofferdam_redactor::{
    Redactor, Secret, SharedRedactor, StreamEnd, StreamHandle, StreamKind, StreamSpec, Streams,
};
use ractor::Actor;

const SECRET: &str = "s3cret-value-0123456789";

fn redactor() -> SharedRedactor {
    SharedRedactor::new(Redactor::new([("K", Secret::from(SECRET))]).unwrap())
}

fn arguments(streams: &Streams) -> RedactorArguments {
    RedactorArguments { streams: streams.clone(), redactor: redactor(), observer: Arc::new(NoObserver) }
}

fn spec(source: Source, foreground: Option<OwnedFd>) -> StreamSpec {
    let agent = Arc::from("main");
    StreamSpec { agent, stream: StreamKind::Stdout, source, foreground, log: None, resumed: false }
}

/// An agent's pipe to write to, a foreground to read from, and the stream between them.
fn piped(streams: &Streams) -> (std::io::PipeWriter, std::io::PipeReader, StreamHandle) {
    let (journal, agent) = std::io::pipe().unwrap();
    let (shown, foreground) = std::io::pipe().unwrap();
    let handle = streams.add(spec(Source::Pipe(journal.into()), Some(foreground.into())));
    (agent, shown, handle)
}

fn reading(mut shown: std::io::PipeReader) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        shown.read_to_end(&mut all).unwrap();
        all
    })
}

/// The first so many bytes that are shown, and where the rest will be.
fn first_of(mut shown: std::io::PipeReader, count: usize) -> (std::io::PipeReader, Vec<u8>) {
    let mut first = vec![0; count];
    shown.read_exact(&mut first).unwrap();
    (shown, first)
}

async fn pump(streams: &Streams) {
    let observer: SharedObserver = Arc::new(NoObserver);
    let redactor = redactor();
    let all = streams.all();
    futures_util_join(all.iter().map(|stream| run(streams, stream, &redactor, &observer))).await;
}

/// All of them, one after the other polled to its end: enough for streams that end by themselves.
async fn futures_util_join<F: Future<Output = ()>>(all: impl Iterator<Item = F>) {
    for one in all {
        one.await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_come_through_whole_and_secrets_masked() {
    let streams = Streams::new();
    let (mut agent, shown, mut handle) = piped(&streams);
    let reader = reading(shown);
    let binary: Vec<u8> = (0..=255u8).cycle().take(300_000).collect();
    let sent = binary.clone();
    let writer = std::thread::spawn(move || {
        agent.write_all(&sent).unwrap();
        for byte in SECRET.bytes() {
            agent.write_all(&[byte]).unwrap();
        }
        agent.write_all(b" end").unwrap();
    });
    pump(&streams).await;
    assert_eq!(handle.drained().await, StreamEnd::Drained);
    writer.join().unwrap();
    assert_eq!(reader.join().unwrap(), [binary.as_slice(), b"[REDACTED:K] end"].concat());
    assert!(streams.all().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_over_and_over_it_neither_loses_nor_repeats() {
    let streams = Streams::new();
    let directory = tempfile::tempdir().unwrap();
    let log = Arc::new(AgentLog::open(directory.path(), "main", LogLimits::default()).unwrap());
    let (journal, mut agent) = std::io::pipe().unwrap();
    let (shown, foreground) = std::io::pipe().unwrap();
    let mut spec = spec(Source::Pipe(journal.into()), Some(foreground.into()));
    spec.log = Some(Arc::clone(&log));
    let mut handle = streams.add(spec);
    let reader = reading(shown);
    let mut expected = String::new();
    for number in 0..20_000 {
        expected += &format!("line {number} é {}\n", if number % 7 == 0 { "[REDACTED:K]" } else { "ok" });
    }
    let raw = expected.replace("[REDACTED:K]", SECRET);
    let aborted = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&aborted);
    let writer = std::thread::spawn(move || {
        for (index, piece) in raw.as_bytes().chunks(97).enumerate() {
            agent.write_all(piece).unwrap();
            // No machine is so fast that it is through before the aborts are.
            while index % 64 == 0 && seen.load(Ordering::Relaxed) < index as u64 / 64 {
                std::thread::sleep(Duration::from_micros(300));
            }
        }
    });
    let mut aborts = 0;
    while handle.end().is_none() {
        let again = streams.clone();
        let task = tokio::spawn(async move { pump(&again).await });
        tokio::time::sleep(Duration::from_micros(700 + (aborts * 131) % 2500)).await;
        task.abort();
        aborts += 1;
        aborted.store(aborts, Ordering::Relaxed);
    }
    assert_eq!(handle.drained().await, StreamEnd::Drained);
    writer.join().unwrap();
    assert!(aborts > 20, "{aborts}");
    assert_eq!(String::from_utf8(reader.join().unwrap()).unwrap(), expected);
    let logged: String = std::fs::read_to_string(log.path())
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<LogLine>(line).unwrap().text)
        .collect();
    assert_eq!(logged, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_shows_soon_and_a_longer_tail_waits() {
    let (streams, prompts) = (Streams::new(), Streams::new());
    let (mut agent, shown, mut handle) = piped(&streams);
    let runtime = tokio::runtime::Handle::current();
    let task = tokio::spawn({
        let streams = streams.clone();
        async move { pump(&streams).await }
    });
    let begun = Instant::now();
    agent.write_all(b"Name: s3cre").unwrap();
    let text = tokio::task::spawn_blocking(move || {
        let (mut shown, mut text) = first_of(shown, 11);
        let waited = begun.elapsed();
        // Nothing else ever shows it: that it came is enough.
        assert!(waited >= Duration::from_millis(40), "{waited:?}");
        agent.write_all(b"t-value").unwrap();
        // As long as it takes others, whose tails are short and came later, to be shown theirs.
        for _ in 0..3 {
            let (mut other, others_shown, _handle) = piped(&prompts);
            let pumping = runtime.spawn({
                let prompts = prompts.clone();
                async move { pump(&prompts).await }
            });
            other.write_all(b"Name: s3cre").unwrap();
            let (others_shown, _) = first_of(others_shown, 11);
            drop((other, others_shown));
            runtime.block_on(pumping).unwrap();
        }
        let mut polled = [nix::poll::PollFd::new(shown.as_fd(), nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut polled, 0u8).unwrap(), 0, "a long tail was shown");
        drop(agent);
        shown.read_to_end(&mut text).unwrap();
        text
    })
    .await
    .unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), "Name: s3cre[REDACTED:K]");
    assert_eq!(handle.drained().await, StreamEnd::Drained);
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_gone_closes_the_source() {
    let streams = Streams::new();
    let (mut agent, shown, mut handle) = piped(&streams);
    drop(shown);
    agent.write_all(b"anybody there?\n").unwrap();
    pump(&streams).await;
    assert_eq!(handle.drained().await, StreamEnd::SinkClosed);
    // The agent is told as any program is.
    assert_eq!(agent.write(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test(flavor = "current_thread")]
async fn a_reader_that_never_reads_stops_nobody_else() {
    let streams = Streams::new();
    let (mut slow_agent, slow_shown, _slow) = piped(&streams);
    let (mut agent, shown, mut handle) = piped(&streams);
    let flood = std::thread::spawn(move || {
        // Fills both pipes and then waits, as a program whose reader doesn't read does.
        let _ = slow_agent.write_all(&vec![b'x'; 1 << 20]);
    });
    let reader = reading(shown);
    let (actor, join) = RedactorActor::spawn(None, RedactorActor, arguments(&streams)).await.unwrap();
    agent.write_all(b"quick\n").unwrap();
    drop(agent);
    assert_eq!(handle.drained().await, StreamEnd::Drained);
    assert_eq!(reader.join().unwrap(), b"quick\n");
    drop(slow_shown);
    actor.stop(None);
    join.await.unwrap();
    drop(streams);
    flood.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_or_the_null_device_is_a_foreground_too() {
    let streams = Streams::new();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"kept|").unwrap();
    for foreground in [file.try_clone().unwrap().into(), std::fs::File::create("/dev/null").unwrap().into()] {
        let (journal, mut agent) = std::io::pipe().unwrap();
        let mut handle = streams.add(spec(Source::Pipe(journal.into()), Some(foreground)));
        agent.write_all(format!("a {SECRET} b").as_bytes()).unwrap();
        drop(agent);
        pump(&streams).await;
        assert_eq!(handle.drained().await, StreamEnd::Drained);
    }
    let mut text = String::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "kept|a [REDACTED:K] b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_is_pumped_through_its_journal() {
    let streams = Streams::new();
    let pty = nix::pty::openpty(None, None).unwrap();
    let (journal, feed) = std::io::pipe().unwrap();
    let (shown, foreground) = std::io::pipe().unwrap();
    let source = Source::Pty { master: pty.master, journal: journal.into(), feed: feed.into() };
    let mut handle = streams.add(spec(source, Some(foreground.into())));
    let expected: String = (0..5000).map(|number| format!("{number} [REDACTED:K]\r\n")).collect();
    let (told, all_shown) = std::sync::mpsc::channel();
    let (mut shown, length) = (shown, expected.len());
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; length];
        shown.read_exact(&mut all).unwrap();
        told.send(()).unwrap();
        shown.read_to_end(&mut all).unwrap();
        all
    });
    let writer = std::thread::spawn(move || {
        let mut terminal = std::fs::File::from(pty.slave);
        for number in 0..5000 {
            writeln!(terminal, "{number} {SECRET}").unwrap();
        }
        // What a closing terminal has not handed over yet is lost by the kernel.
        all_shown.recv_timeout(Duration::from_secs(120)).expect("all of it is shown");
    });
    for _ in 0..50 {
        let again = streams.clone();
        let task = tokio::spawn(async move { pump(&again).await });
        tokio::time::sleep(Duration::from_millis(2)).await;
        task.abort();
    }
    pump(&streams).await;
    assert_eq!(handle.drained().await, StreamEnd::Drained);
    writer.join().unwrap();
    assert_eq!(String::from_utf8(reader.join().unwrap()).unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_actor_panics_fifty_times_and_the_output_is_whole() {
    let streams = Streams::new();
    let (mut agent, shown, mut handle) = piped(&streams);
    let reader = reading(shown);
    let hits = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&hits);
    let mut arguments = arguments(&streams);
    arguments.observer = Arc::new(move |_: &str, count| {
        counted.fetch_add(count, Ordering::Relaxed);
    });
    let writer = std::thread::spawn(move || {
        for number in 0..3000 {
            writeln!(agent, "{number} {SECRET}").unwrap();
            std::thread::sleep(Duration::from_micros(100));
        }
    });
    for _ in 0..50 {
        let (actor, join) = RedactorActor::spawn(None, RedactorActor, arguments.clone()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        actor.cast(Msg::InjectPanic).unwrap();
        join.await.unwrap();
    }
    let (_actor, _join) = RedactorActor::spawn(None, RedactorActor, arguments.clone()).await.unwrap();
    assert_eq!(handle.drained().await, StreamEnd::Drained);
    writer.join().unwrap();
    let expected: String = (0..3000).map(|number| format!("{number} [REDACTED:K]\n")).collect();
    assert_eq!(String::from_utf8(reader.join().unwrap()).unwrap(), expected);
    assert_eq!(hits.load(Ordering::Relaxed), 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_process_finds_in_the_pipe_what_was_not_consumed() {
    // The heart's copy of the read end outlives the supervisor's.
    let (journal, mut agent) = std::io::pipe().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let log = Arc::new(AgentLog::open(directory.path(), "main", LogLimits::default()).unwrap());
    let kept = journal.try_clone().unwrap();
    let (shown, foreground) = std::io::pipe().unwrap();
    let first = Streams::new();
    first.add(spec(Source::Pipe(journal.into()), Some(foreground.try_clone().unwrap().into())));
    write!(agent, "before {}", &SECRET[..12]).unwrap();
    let task = tokio::spawn({
        let first = first.clone();
        async move { pump(&first).await }
    });
    // What it showed it has consumed when it is over, and it holds the rest.
    let (shown, before) = tokio::task::spawn_blocking(move || first_of(shown, 7)).await.unwrap();
    assert_eq!(before, b"before ");
    task.abort();
    let _ = task.await;
    drop(first);
    write!(agent, "{} after", &SECRET[12..]).unwrap();
    drop(agent);
    let second = Streams::new();
    let mut again = spec(Source::Pipe(kept.into()), Some(foreground.into()));
    again.resumed = true;
    again.log = Some(Arc::clone(&log));
    let mut handle = second.add(again);
    pump(&second).await;
    assert_eq!(handle.drained().await, StreamEnd::Drained);
    assert_eq!(String::from_utf8(reading(shown).join().unwrap()).unwrap(), "[REDACTED:K] after");
    let line = std::fs::read_to_string(log.path()).unwrap();
    assert!(serde_json::from_str::<LogLine>(line.trim()).unwrap().repeated);
}
