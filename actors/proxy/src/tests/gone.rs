//! Clients that are gone, or done with sending, while their server is silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

use super::bed::{Bed, PATIENCE, l4, read_head, read_to_close, rest};

/// A server that reads requests and writes `then` only when it is told to.
struct Silent {
    port: u16,
    /// Gets a message for each request that has come.
    asked: mpsc::UnboundedReceiver<()>,
    speaks: Arc<Notify>,
    /// Number of connections that ended before the server spoke.
    left: Arc<AtomicUsize>,
}

impl Silent {
    /// `first` is written at once.
    async fn new(first: &'static str, then: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, asked) = mpsc::unbounded_channel();
        let (speaks, left) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (told, gone) = (Arc::clone(&speaks), Arc::clone(&left));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (tell, told, gone) = (tell.clone(), Arc::clone(&told), Arc::clone(&gone));
                tokio::spawn(async move {
                    read_head(&mut stream).await;
                    stream.write_all(first.as_bytes()).await.unwrap();
                    tell.send(()).unwrap();
                    tokio::select! {
                        () = told.notified() => drop(stream.write_all(then.as_bytes()).await),
                        _ = stream.read_u8() => drop(gone.fetch_add(1, Ordering::Relaxed)),
                    }
                });
            }
        });
        Self { port, asked, speaks, left }
    }

    async fn is_asked(&mut self) {
        tokio::time::timeout(PATIENCE, self.asked.recv()).await.expect("the request comes").unwrap();
    }

    async fn is_left(&self) {
        let left = async {
            while self.left.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, left).await.expect("its connection ends");
    }
}

fn get(target: &str) -> String {
    format!("GET http://{target}/ok/x HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

/// What the server writes first: nothing, or the beginning of an answer.
const BEGINNINGS: [&str; 2] = ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbegun"];

#[tokio::test]
async fn a_client_that_is_gone_leaves_nothing_behind_though_its_server_is_silent() {
    for first in BEGINNINGS {
        for reset in [false, true] {
            let mut up = Silent::new(first, "").await;
            let bed = Bed::new(&rest("up.test", up.port)).await;
            let mut client = bed.open().await;
            client.write_all(get(&format!("up.test:{}", up.port)).as_bytes()).await.unwrap();
            up.is_asked().await;
            if !first.is_empty() {
                client.read_exact(&mut [0; 40]).await.unwrap();
            }
            if reset {
                client.set_zero_linger().unwrap();
            }
            drop(client);
            up.is_left().await;
            let line = format!("end {:?}", (!first.is_empty()).then_some(200));
            let ended = async {
                while !bed.journal.lines().iter().any(|found| found.starts_with(&line)) {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, ended).await.expect("it is on record");
        }
    }
}

/// The same inside a tunnel whose requests are judged.
#[tokio::test]
async fn a_client_that_is_gone_leaves_nothing_behind_in_a_tunnel() {
    let mut up = Silent::new("", "").await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let target = format!("up.test:{}", up.port);
    let (head, mut client) = bed.connect(&target).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let get = format!("GET /ok/x HTTP/1.1\r\nHost: {target}\r\n\r\n");
    client.write_all(get.as_bytes()).await.unwrap();
    up.is_asked().await;
    drop(client);
    up.is_left().await;
}

/// A client that half-closes, as `nc -N` does.
#[tokio::test]
async fn a_client_that_only_sends_no_more_gets_its_answer() {
    let mut up = Silent::new("", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let mut client: TcpStream = bed.open().await;
    client.write_all(get(&format!("up.test:{}", up.port)).as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    up.is_asked().await;
    let looked = async {
        while bed.who.looked.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.expect("it is looked for");
    up.speaks.notify_one();
    assert!(read_to_close(&mut client).await.ends_with("\r\n\r\nok"));
    assert_eq!(up.left.load(Ordering::Relaxed), 0);
}

/// A server of no protocol that keeps its connections open, whatever its client does, and writes `words` when
/// it is told to.
async fn raw(words: &'static [u8]) -> (u16, mpsc::UnboundedReceiver<()>, Arc<Notify>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, asked) = mpsc::unbounded_channel();
    let speaks = Arc::new(Notify::new());
    let told = Arc::clone(&speaks);
    tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"all");
        tell.send(()).unwrap();
        told.notified().await;
        let _gone = stream.write_all(words).await;
    });
    (port, asked, speaks)
}

#[tokio::test]
async fn a_client_that_is_gone_leaves_its_relayed_tunnel() {
    let (port, mut asked, _never) = raw(b"").await;
    let bed = Bed::new(&l4("raw.test", port)).await;
    let (_, mut client) = bed.connect(&format!("raw.test:{port}")).await;
    client.write_all(b"all").await.unwrap();
    drop(client);
    tokio::time::timeout(PATIENCE, asked.recv()).await.expect("what it said arrives").unwrap();
    let ended = async {
        while !bed.journal.lines().iter().any(|found| found.starts_with("end ")) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("it is over");
}

#[tokio::test]
async fn a_client_that_only_sends_no_more_keeps_its_relayed_tunnel() {
    let (port, mut asked, speaks) = raw(b"answer").await;
    let bed = Bed::new(&l4("raw.test", port)).await;
    let (_, mut client) = bed.connect(&format!("raw.test:{port}")).await;
    client.write_all(b"all").await.unwrap();
    client.shutdown().await.unwrap();
    tokio::time::timeout(PATIENCE, asked.recv()).await.expect("what it said arrives").unwrap();
    let looked = async {
        while bed.who.looked.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.expect("it is looked for");
    speaks.notify_one();
    assert_eq!(read_to_close(&mut client).await, "answer");
}
