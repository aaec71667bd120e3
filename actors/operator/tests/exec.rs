//! Exec sessions end to end: input, output, signals, exits, and what happens when either side stops
//! listening.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod house;

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use house::house;
use operator::{
    Code, ExecControl,
    client::{ClientError, Stdio},
    limits::{EXEC_QUEUE, STDIN_WINDOW},
    types::{ExecRequest, Exit, Window},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf, duplex, empty, sink},
    sync::mpsc,
};

fn asked(command: &[&str]) -> ExecRequest {
    ExecRequest {
        command: command.iter().map(|w| (*w).to_owned()).collect(),
        stdin: true,
        ..ExecRequest::default()
    }
}

/// An input without end, in pieces.
struct Endless(Arc<AtomicUsize>);

/// How much was read of it.
struct Stuck(Arc<AtomicUsize>);

impl Endless {
    const PIECE: usize = 4096;

    fn new() -> (Self, Stuck) {
        let read = Arc::default();
        (Self(Arc::clone(&read)), Stuck(read))
    }
}

impl AsyncRead for Endless {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let piece = into.remaining().min(Self::PIECE);
        into.put_slice(&vec![b'x'; piece]);
        self.0.fetch_add(piece, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl Stuck {
    /// Waits until the process's queue is full and the window used up, by a process that takes nothing.
    async fn until(&self) {
        const ALL: usize = EXEC_QUEUE * Endless::PIECE + STDIN_WINDOW;
        for _ in 0..12_000 {
            if self.0.load(Ordering::Relaxed) == ALL {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} bytes were read, not {ALL}", self.0.load(Ordering::Relaxed));
    }
}

#[tokio::test]
async fn input_output_and_exit_code() {
    let house = house();
    let session = house.client.exec(&asked(&["cat"])).await.unwrap();
    let text = vec![b'z'; 1_000_000];
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let (_controls, messages) = mpsc::channel(1);
    let stdio = Stdio { stdin: Some(&*text), stdout: &mut stdout, stderr: &mut stderr };
    let exit = session.drive(stdio, messages).await.unwrap();
    assert_eq!(exit, Exit { code: Some(7), signal: None });
    assert_eq!(exit.shell_code(), 7);
    assert!(stdout == text);
    assert_eq!(stderr, b"bye\n");
}

#[tokio::test]
async fn no_input_is_an_ended_one() {
    let house = house();
    let session = house.client.exec(&asked(&["cat"])).await.unwrap();
    let (_controls, messages) = mpsc::channel(1);
    let stdio = Stdio { stdin: None::<tokio::io::Empty>, stdout: sink(), stderr: sink() };
    assert_eq!(session.drive(stdio, messages).await.unwrap().code, Some(7));
}

#[tokio::test]
async fn resizes_reach_the_process() {
    let house = house();
    let mut request = asked(&["cat"]);
    request.tty = Some(Window { rows: 24, cols: 80 });
    let session = house.client.exec(&request).await.unwrap();
    let (controls, messages) = mpsc::channel(1);
    let (mut typed, stdin) = duplex(64);
    let (stderr, mut shown) = duplex(64);
    let running = tokio::spawn(session.drive(Stdio { stdin: Some(stdin), stdout: sink(), stderr }, messages));
    controls.send(ExecControl::Resize(Window { rows: 50, cols: 120 })).await.unwrap();
    let wanted = "Resize(Window { rows: 50, cols: 120 })\n";
    let mut text = vec![0; wanted.len()];
    shown.read_exact(&mut text).await.unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), wanted);
    typed.shutdown().await.unwrap();
    drop(typed);
    assert_eq!(running.await.unwrap().unwrap().code, Some(7));
}

#[tokio::test]
async fn a_signal_passes_an_input_that_nobody_takes() {
    let house = house();
    let session = house.client.exec(&asked(&["deaf"])).await.unwrap();
    let (controls, messages) = mpsc::channel(1);
    let (endless, stuck) = Endless::new();
    let running =
        tokio::spawn(session.drive(Stdio { stdin: Some(endless), stdout: sink(), stderr: sink() }, messages));
    stuck.until().await;
    controls.send(ExecControl::Signal(15)).await.unwrap();
    let exit =
        tokio::time::timeout(Duration::from_secs(60), running).await.expect("in time").unwrap().unwrap();
    assert_eq!((exit, exit.shell_code()), (Exit { code: None, signal: Some(15) }, 143));
}

#[tokio::test]
async fn a_client_that_leaves_hangs_the_process_up() {
    let house = house();
    let session = house.client.exec(&asked(&["deaf"])).await.unwrap();
    let (_controls, messages) = mpsc::channel(1);
    let (endless, stuck) = Endless::new();
    let stdio = Stdio { stdin: Some(endless), stdout: sink(), stderr: sink() };
    let running = tokio::spawn(session.drive(stdio, messages));
    stuck.until().await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    house.until_did("hung up").await;
}

#[tokio::test]
async fn a_server_that_dies_is_noticed() {
    let mut house = house();
    let session = house.client.exec(&asked(&["deaf"])).await.unwrap();
    let (_controls, messages) = mpsc::channel(1);
    let (endless, stuck) = Endless::new();
    let running =
        tokio::spawn(session.drive(Stdio { stdin: Some(endless), stdout: sink(), stderr: sink() }, messages));
    stuck.until().await;
    house.server.take().unwrap().abort();
    assert!(matches!(running.await.unwrap(), Err(ClientError::Lost(_))));
    house.until_did("hung up").await;
}

#[tokio::test]
async fn a_slow_reader_holds_the_process_back_and_loses_nothing() {
    let house = house();
    let session = house.client.exec(&asked(&["flood", "3000000"])).await.unwrap();
    let (_controls, messages) = mpsc::channel(1);
    let (stdout, mut shown) = duplex(1000);
    let running =
        tokio::spawn(session.drive(Stdio { stdin: Some(empty()), stdout, stderr: sink() }, messages));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut total = 0;
    let mut buffer = vec![0; 4096];
    while let Ok(n) = shown.read(&mut buffer).await
        && n > 0
    {
        total += n;
    }
    assert_eq!(total, 3_000_000);
    assert_eq!(running.await.unwrap().unwrap().code, Some(0));
}

#[tokio::test]
async fn a_command_that_is_not_there_is_told_apart() {
    let house = house();
    match house.client.exec(&asked(&["nothere"])).await {
        Err(ClientError::Fault(fault)) => assert_eq!(fault.code, Code::CommandNotFound),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_that_overruns_its_window_is_cut() {
    let house = house();
    let mut stream = tokio::net::UnixStream::connect(&house.path).await.unwrap();
    let body = r#"{"command":["deaf"],"stdin":true}"#;
    let head = "POST /v1/exec HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: cofferdam-exec/1\r\n";
    stream.write_all(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    let frame = [&[0, 0, 1, 0, 0][..], &vec![0; 65536]].concat();
    // What the process's queue takes, the window, and one more.
    for _ in 0..EXEC_QUEUE + STDIN_WINDOW / 65536 + 2 {
        let _ = stream.write_all(&frame).await;
    }
    let mut rest = Vec::new();
    let _ =
        tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await.expect("closed");
    house.until_did("hung up").await;
}
