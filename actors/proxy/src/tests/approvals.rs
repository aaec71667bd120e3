//! Requests that no entry names, where the operator is asked about them.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::Request;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};

use super::bed::{Bed, Raw, exchange, json, l4, read_head, read_to_close, rest};
use crate::approval::{Operator, Question, Word};
use crate::body::empty;

/// An operator who sees each question, and answers when the test does.
struct Desk(mpsc::UnboundedSender<Waiting>);

type Waiting = (Question, oneshot::Sender<Word>);
type Asked = mpsc::UnboundedReceiver<Waiting>;

impl Desk {
    fn open() -> (Arc<Self>, Asked) {
        let (sender, asked) = mpsc::unbounded_channel();
        (Arc::new(Self(sender)), asked)
    }
}

impl Operator for Desk {
    fn ask(&self, question: Question) -> BoxFuture<'_, Word> {
        let (tell, told) = oneshot::channel();
        let _ = self.0.send((question, tell));
        Box::pin(async move { told.await.unwrap_or(Word::Full) })
    }
}

/// A bed whose upstream isn't named by any entry, and the operator's desk.
async fn bed() -> (Bed, Asked, Raw) {
    let (desk, asked) = Desk::open();
    let raw = Raw::ok().await;
    (Bed::asking(&rest("other.test", 80), desk).await, asked, raw)
}

fn get(port: u16, path: &str) -> String {
    format!("GET http://up.test:{port}{path} HTTP/1.1\r\nHost: up.test:{port}\r\n\r\n")
}

#[tokio::test]
async fn a_request_waits_for_the_word_and_one_word_lets_one_through() {
    let (bed, mut asked, raw) = bed().await;
    let mut stream = bed.open().await;
    stream.write_all(get(raw.port, "/a?secret=1").as_bytes()).await.unwrap();
    let (question, tell) = asked.recv().await.unwrap();
    assert_eq!((&*question.host, question.port), ("up.test", raw.port));
    assert_eq!((&*question.method, &*question.path, question.generation), ("GET", "/a", 1));
    assert_eq!(&*question.program.path, super::bed::AGENT);
    assert_eq!(raw.seen(), "", "nothing before the word");
    let thinks = std::time::Duration::from_millis(50);
    tokio::time::sleep(thinks).await;
    tell.send(Word::Once).unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(*bed.journal.held.lock().unwrap() >= thinks);
    assert!(raw.seen().starts_with("GET /a?secret=1 "), "{}", raw.seen());
    // The operator is asked anew about the next request on the same connection.
    let mut body = [0; 2];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut body).await.unwrap();
    stream.write_all(get(raw.port, "/a").as_bytes()).await.unwrap();
    let (_, tell) = asked.recv().await.unwrap();
    tell.send(Word::Denied("box-1".to_owned())).unwrap();
    let refusal = json(&read_to_close(&mut stream).await);
    assert_eq!((&refusal["error"], &refusal["layer"]), (&"policy_denied".into(), &"l4".into()));
    assert!(refusal["detail"].as_str().unwrap().contains("the operator refused it"), "{refusal}");
    assert_eq!(bed.journal.lines(), ["allow l4 GET /a", "end Some(200) up 0 down 2", "deny l4 GET /a"]);
}

#[tokio::test]
async fn a_tunnel_is_no_request_and_each_request_in_it_is_asked_for() {
    let (desk, mut asked) = Desk::open();
    let bed = Bed::asking(&rest("other.test", 80), desk).await;
    let raw = Raw::ok().await;
    let (head, stream) = bed.connect(&format!("up.test:{}", raw.port)).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(asked.try_recv().is_err());
    assert_eq!(bed.journal.lines(), ["ask CONNECT -"], "neither allowed nor denied");
    let request = Request::get("/in/it").header("host", format!("up.test:{}", raw.port));
    let answer = tokio::spawn(exchange(stream, request.body(empty()).unwrap()));
    let (question, tell) = asked.recv().await.unwrap();
    assert_eq!(&*question.path, "/in/it");
    assert_eq!(raw.connections.load(std::sync::atomic::Ordering::Relaxed), 0, "nothing is dialled for it");
    tell.send(Word::Once).unwrap();
    assert_eq!(answer.await.unwrap().0.status, 200);
}

#[tokio::test]
async fn what_is_no_http_gets_nowhere() {
    let (bed, mut asked, raw) = bed().await;
    let (head, mut stream) = bed.connect(&format!("up.test:{}", raw.port)).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    stream.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    read_to_close(&mut stream).await;
    let websocket = format!(
        "GET http://up.test:{port}/w HTTP/1.1\r\nHost: up.test:{port}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        port = raw.port
    );
    assert_eq!(json(&bed.talk(websocket).await)["error"], "policy_denied");
    assert!(asked.try_recv().is_err(), "nobody was asked");
    assert_eq!(raw.seen(), "");
}

#[tokio::test]
async fn what_is_refused_for_another_reason_is_not_asked_for() {
    let (desk, mut asked) = Desk::open();
    let raw = Raw::ok().await;
    let bed = Bed::asking(&rest("up.test", raw.port), desk).await;
    // Refused by a rule of the entry.
    assert_eq!(json(&bed.talk(get(raw.port, "/else")).await)["layer"], "l7");
    // The host itself, which an entry alone opens.
    let host = "host.cofferdam.internal:8080";
    let request = format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
    assert_eq!(json(&bed.talk(request).await)["layer"], "l4");
    // Requests that a question couldn't show in full.
    let more = |head: &str| format!("{head}Host: no.test\r\nContent-Length: 0\r\n");
    for head in [
        more("POST http://no.test/a?_method=DELETE HTTP/1.1\r\n"),
        format!("{}X-Amz-Copy-Source: /private/b\r\n", more("PUT http://no.test/a HTTP/1.1\r\n")),
        format!("{}Destination: http://no.test/private\r\n", more("MOVE http://no.test/a HTTP/1.1\r\n")),
        more(&format!("GET http://no.test/{} HTTP/1.1\r\n", "a".repeat(crate::limits::MAX_ASKED_BYTES))),
    ] {
        assert_eq!(json(&bed.talk(format!("{head}\r\n")).await)["layer"], "l4", "{head}");
    }
    bed.who.foreign.store(true, std::sync::atomic::Ordering::Relaxed);
    let plain = "GET http://no.test/ HTTP/1.1\r\nHost: no.test\r\n\r\n";
    assert_eq!(json(&bed.talk(plain).await)["error"], "policy_denied");
    bed.who.foreign.store(false, std::sync::atomic::Ordering::Relaxed);
    // The caller can't be identified.
    bed.who.unknown.store(true, std::sync::atomic::Ordering::Relaxed);
    let elsewhere = format!("GET http://no.test:{p}/ HTTP/1.1\r\nHost: no.test:{p}\r\n\r\n", p = raw.port);
    assert_eq!(json(&bed.talk(&elsewhere).await)["layer"], "identity");
    assert!(asked.try_recv().is_err());
    assert_eq!(raw.seen(), "");
}

#[tokio::test]
async fn a_word_opens_no_private_address() {
    let (bed, mut asked, _raw) = bed().await;
    let get = |host: &str| format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
    for host in ["10.1.2.3", "169.254.169.254", "[fd00::1]"] {
        assert_eq!(json(&bed.talk(get(host)).await)["layer"], "ssrf", "{host}");
        assert!(asked.try_recv().is_err(), "nobody is asked for what no word opens");
    }
    for host in ["private.evil", "metadata.evil"] {
        let request = get(host);
        let mut stream = bed.open().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let (_, tell) = asked.recv().await.unwrap();
        tell.send(Word::Once).unwrap();
        assert_eq!(json(&read_to_close(&mut stream).await)["layer"], "ssrf", "{host}");
    }
}

#[tokio::test]
async fn a_connection_that_changes_hands_while_it_waits_is_refused() {
    let (bed, mut asked, raw) = bed().await;
    let mut stream = bed.open().await;
    stream.write_all(get(raw.port, "/a").as_bytes()).await.unwrap();
    let (_, tell) = asked.recv().await.unwrap();
    *bed.who.path.lock().unwrap() = "/usr/bin/other";
    tokio::time::sleep(crate::limits::IDENTITY_FRESH).await;
    tell.send(Word::Once).unwrap();
    assert_eq!(json(&read_to_close(&mut stream).await)["layer"], "identity");
    assert_eq!(raw.seen(), "");
}

#[tokio::test]
async fn a_policy_that_changes_while_it_waits_is_asked_again() {
    let (bed, mut asked, raw) = bed().await;
    let mut stream = bed.open().await;
    stream.write_all(get(raw.port, "/a").as_bytes()).await.unwrap();
    let (_, first) = asked.recv().await.unwrap();
    bed.reload(&rest("third.test", 80));
    let (question, second) = asked.recv().await.unwrap();
    assert_eq!(question.generation, 2);
    assert!(first.send(Word::Once).is_err(), "nobody hears the word that was for another policy");
    assert_eq!(raw.seen(), "");
    // The policy names the request now.
    bed.reload(&rest("up.test", raw.port).replace("/ok/**", "/a"));
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(second.is_closed());
    // A policy that names it with rules that refuse it.
    let mut stream = bed.open().await;
    let elsewhere = get(raw.port, "/b").replace("up.test", "fourth.test");
    stream.write_all(elsewhere.as_bytes()).await.unwrap();
    let _held = asked.recv().await.unwrap();
    bed.reload(&rest("fourth.test", raw.port));
    assert_eq!(json(&read_to_close(&mut stream).await)["layer"], "l7");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_question_along() {
    let (bed, mut asked, raw) = bed().await;
    let mut stream = bed.open().await;
    stream.write_all(get(raw.port, "/a").as_bytes()).await.unwrap();
    let (_, mut tell) = asked.recv().await.unwrap();
    drop(stream);
    tokio::time::timeout(super::bed::PATIENCE, tell.closed()).await.expect("it is taken back");
    assert_eq!(raw.seen(), "");
}

#[tokio::test]
async fn no_more_wait_than_may() {
    let (bed, mut asked, raw) = bed().await;
    let mut waiting = Vec::new();
    let mut refused = None;
    // Fewer connections than the bed may have.
    bed.who.party.store(7, std::sync::atomic::Ordering::Relaxed);
    for n in 0..=crate::limits::MAX_HELD {
        let mut stream = bed.open().await;
        stream.write_all(get(raw.port, &format!("/{n}")).as_bytes()).await.unwrap();
        tokio::select! {
            question = asked.recv() => waiting.push((stream, question.unwrap())),
            answer = read_to_close(&mut stream) => { refused = Some(json(&answer)); break }
        }
    }
    let refused = refused.expect("one too many");
    assert!(refused["detail"].as_str().unwrap().contains("waiting for the operator"), "{refused}");
    assert_eq!(raw.seen(), "");
}

#[tokio::test]
async fn with_nobody_to_ask_it_is_refused_at_once() {
    let raw = Raw::ok().await;
    let bed = Bed::new(&l4("other.test", 80)).await;
    assert_eq!(json(&bed.talk(get(raw.port, "/a")).await)["layer"], "l4");
    let (head, _) = bed.connect(&format!("up.test:{}", raw.port)).await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
}
