//! Streams whose agent is gone, while somebody else holds their other end: what is in them comes out, and
//! they end.
#![expect(clippy::unwrap_used, reason = "a test may stop")]

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::sync::Arc;

use cofferdam_redactor::pump::{NoObserver, SharedObserver, Source, run};
use cofferdam_redactor::{Redactor, Secret, SharedRedactor, StreamEnd, StreamKind, StreamSpec, Streams};

const SECRET: &str = "s3cret-value-0123456789";

/// A stream of this agent's, on its way through a pump: its write end, and what is shown of it.
fn begun(streams: &Streams, agent: &str) -> (PipeWriter, PipeReader, cofferdam_redactor::StreamHandle) {
    let (journal, writer) = std::io::pipe().unwrap();
    let (shown, foreground) = std::io::pipe().unwrap();
    let handle = streams.add(StreamSpec {
        agent: Arc::from(agent),
        stream: StreamKind::Stdout,
        source: Source::Pipe(journal.into()),
        foreground: Some(foreground.into()),
        log: None,
        resumed: false,
    });
    let stream = streams.all().into_iter().find(|stream| stream.id() == handle.id()).unwrap();
    let streams = streams.clone();
    tokio::spawn(async move {
        let redactor = SharedRedactor::new(Redactor::new([("K", Secret::from(SECRET))]).unwrap());
        let observer: SharedObserver = Arc::new(NoObserver);
        run(&streams, &stream, &redactor, &observer).await;
    });
    (writer, shown, handle)
}

fn all(mut shown: PipeReader) -> String {
    let mut text = String::new();
    shown.read_to_string(&mut text).unwrap();
    text
}

#[tokio::test]
async fn what_was_written_comes_out_and_a_held_end_holds_nothing_open() {
    let streams = Streams::new();
    let (mut held, shown, mut handle) = begun(&streams, "gone");
    let (_other, _, stays) = begun(&streams, "stays");
    held.write_all(format!("last words {SECRET} and s3cre").as_bytes()).unwrap();
    streams.leave("gone");
    assert_eq!(handle.drained().await, StreamEnd::Drained);
    assert_eq!(all(shown), "last words [REDACTED:K] and s3cre");
    // Whoever kept the other end is told as any program is.
    assert_eq!(held.write(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    assert_eq!(stays.end(), None, "another agent's stream is as it was");
}

#[tokio::test]
async fn whoever_goes_on_writing_holds_it_open_no_longer() {
    let streams = Streams::new();
    let (mut held, shown, mut handle) = begun(&streams, "gone");
    let reading = std::thread::spawn(move || all(shown).len());
    streams.leave("gone");
    // A little all the time: never silent for long enough.
    let writing = std::thread::spawn(move || {
        while held.write_all(b".").is_ok() {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
    assert_eq!(handle.drained().await, StreamEnd::Drained);
    writing.join().unwrap();
    assert!(reading.join().unwrap() < 1000);
}
