//! How a relayed tunnel ends: in the same way in which one of its sides ended, so that what was cut off isn't
//! taken for complete.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::bed::{Bed, PATIENCE, l4};

/// A tunnel that has begun: its bed, the agent's end and the server's.
async fn tunnel(asked: &[u8]) -> (Bed, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let bed = Bed::new(&l4("raw.test", port)).await;
    let (head, mut agent) = bed.connect(&format!("raw.test:{port}")).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut server = listener.accept().await.unwrap().0;
    agent.write_all(asked).await.unwrap();
    server.read_exact(&mut vec![0; asked.len()]).await.unwrap();
    (bed, agent, server)
}

/// Ends it with a reset.
fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}

/// Returns what still arrives, and how it ended.
async fn rest_of(stream: &mut TcpStream) -> (Vec<u8>, io::Result<usize>) {
    let mut got = Vec::new();
    let end = timeout(PATIENCE, stream.read_to_end(&mut got)).await.expect("it ends");
    (got, end)
}

fn is_reset(end: &io::Result<usize>) -> bool {
    end.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

/// Waits for the record of an end that begins and ends so.
async fn recorded(bed: &Bed, begins: &str, ends: &str) {
    let look = async {
        while !bed.journal.lines().iter().any(|line| line.starts_with(begins) && line.ends_with(ends)) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("{begins}: {:?}", bed.journal.lines()));
}

#[tokio::test]
async fn a_reset_is_one_on_the_other_side_too() {
    // Before the agent has said anything, and after.
    for asked in [&b""[..], b"\x00question"] {
        let (bed, mut agent, mut server) = tunnel(asked).await;
        server.write_all(b"half an answ").await.unwrap();
        agent.read_exact(&mut [0; 12]).await.unwrap();
        reset(server);
        let (_, end) = rest_of(&mut agent).await;
        assert!(is_reset(&end), "{end:?}");
        recorded(&bed, &format!("end None up {} down 12", asked.len()), ": one side broke off").await;

        let (_bed, agent, mut server) = tunnel(asked).await;
        reset(agent);
        let (got, end) = rest_of(&mut server).await;
        assert!(got.is_empty() && is_reset(&end), "{end:?}");
    }
}

/// The kernel reports a reset once. If the writer gets the report, a reader finds an ordinary end.
#[tokio::test]
async fn a_reset_is_one_whoever_finds_it() {
    for _ in 0..20 {
        let (bed, agent, server) = tunnel(b"\x00question").await;
        let (_hears, mut says) = agent.into_split();
        let saying = tokio::spawn(async move { while says.write_all(&[7; 1000]).await.is_ok() {} });
        server.readable().await.unwrap();
        reset(server);
        timeout(PATIENCE, saying).await.expect("nothing more is taken").unwrap();
        recorded(&bed, "end None", ": one side broke off").await;
    }
}

#[tokio::test]
async fn what_a_policy_cuts_off_is_reset_on_both_sides() {
    for asked in [&b""[..], b"\x00question"] {
        let (bed, mut agent, mut server) = tunnel(asked).await;
        server.write_all(b"half an answ").await.unwrap();
        agent.read_exact(&mut [0; 12]).await.unwrap();
        bed.reload(&l4("other.test", 1));
        for stream in [&mut agent, &mut server] {
            let (got, end) = rest_of(stream).await;
            assert!(got.is_empty() && is_reset(&end), "{end:?}");
        }
    }
}

#[tokio::test]
async fn who_says_nothing_at_all_still_hears_its_server() {
    let (bed, mut agent, mut server) = tunnel(b"").await;
    agent.shutdown().await.unwrap();
    let (asked, end) = rest_of(&mut server).await;
    assert!(asked.is_empty() && end.is_ok());
    server.write_all(b"the time of day").await.unwrap();
    drop(server);
    let (got, end) = rest_of(&mut agent).await;
    assert_eq!((&got[..], end.unwrap()), (&b"the time of day"[..], 15));
    recorded(&bed, "end None up 0 down 15", "15").await;
}

/// A tunnel's first bytes are judged as ever, even if its server has ended already.
#[tokio::test]
async fn what_comes_after_its_servers_end_is_not_passed_on_unjudged() {
    let (_bed, mut agent, mut server) = tunnel(b"").await;
    server.shutdown().await.unwrap();
    let (got, end) = rest_of(&mut agent).await;
    assert!(got.is_empty() && end.is_ok());
    let _refused = agent.write_all(b"\x00question").await;
    let (asked, _) = rest_of(&mut server).await;
    assert!(asked.is_empty());
}

/// Like a server that refuses an upload: it answers, closes, and reads nothing more.
#[tokio::test]
async fn an_answer_arrives_whole_though_its_server_takes_no_more() {
    let (_bed, agent, mut server) = tunnel(b"\x00question").await;
    let (mut hears, mut says) = agent.into_split();
    let answer = Arc::new(vec![b'x'; 1 << 20]);
    let sent = Arc::clone(&answer);
    let serving = tokio::spawn(async move {
        server.write_all(&sent).await.unwrap();
        server.shutdown().await.unwrap();
    });
    says.write_all(b"more, which nobody reads").await.unwrap();
    let mut got = Vec::new();
    timeout(PATIENCE, hears.read_to_end(&mut got)).await.expect("it ends").unwrap();
    assert!(got == *answer, "{}", got.len());
    serving.await.unwrap();
}
