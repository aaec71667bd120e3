//! Connections on which another program speaks after the decision: relayed bytes, which nobody judges, and
//! messages.

use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::bed::{Bed, echo, l4, read_head, ws};
use super::websockets;
use crate::limits::{HOLDER_LOOK, IDENTITY_FRESH};

const OTHER: &str = "/usr/bin/other";

/// Whether a byte comes back.
async fn echoes(stream: &mut TcpStream) -> bool {
    stream.write_all(b"x").await.is_ok() && stream.read_u8().await.is_ok()
}

/// Sends and reads until the connection is closed.
async fn until_closed(stream: &mut TcpStream) {
    while echoes(stream).await {
        sleep(HOLDER_LOOK / 20).await;
    }
}

fn denied(bed: &Bed) -> bool {
    bed.journal.lines().iter().any(|line| line.starts_with("deny identity"))
}

#[tokio::test]
async fn a_relayed_tunnel_ends_when_another_program_holds_it() {
    let port = echo().await;
    let bed = Bed::new(&l4("raw.test", port)).await;
    let (_, mut stream) = bed.connect(&format!("raw.test:{port}")).await;
    assert!(echoes(&mut stream).await);
    *bed.who.path.lock().unwrap() = OTHER;
    until_closed(&mut stream).await;
    assert!(denied(&bed), "{:?}", bed.journal.lines());
}

/// A tunnel also ends if its client has sent nothing yet, and only its server speaks.
#[tokio::test]
async fn a_relayed_tunnel_ends_for_who_only_listens() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        while stream.write_all(b"news").await.is_ok() {
            sleep(HOLDER_LOOK / 20).await;
        }
    });
    let bed = Bed::new(&l4("raw.test", port)).await;
    let (_, mut stream) = bed.connect(&format!("raw.test:{port}")).await;
    stream.read_exact(&mut [0; 8]).await.unwrap();
    *bed.who.path.lock().unwrap() = OTHER;
    let heard = async { while matches!(stream.read(&mut [0; 64]).await, Ok(1..)) {} };
    tokio::time::timeout(super::bed::PATIENCE, heard).await.expect("it hears no more");
    assert!(denied(&bed), "{:?}", bed.journal.lines());
}

#[tokio::test]
async fn a_relayed_tunnel_goes_on_where_nobody_can_tell() {
    let port = echo().await;
    let bed = Bed::new(&l4("raw.test", port)).await;
    let (_, mut stream) = bed.connect(&format!("raw.test:{port}")).await;
    bed.who.untold.store(true, Ordering::Relaxed);
    let asked = bed.who.asked.load(Ordering::Relaxed);
    while bed.who.asked.load(Ordering::Relaxed) < asked + 2 {
        assert!(echoes(&mut stream).await, "{:?}", bed.journal.lines());
        sleep(HOLDER_LOOK / 20).await;
    }
    assert!(echoes(&mut stream).await && !denied(&bed));
    // No look is made at a quiet tunnel, once the one that its last byte caused is over.
    let mut looks = 0;
    loop {
        let asked = bed.who.asked.load(Ordering::Relaxed);
        sleep(HOLDER_LOOK * 2).await;
        if bed.who.asked.load(Ordering::Relaxed) == asked {
            break;
        }
        looks += 1;
        assert!(looks < 5, "it is looked at for ever");
    }
}

/// Makes the stream's holder unknown, and passes bytes until that is on record.
async fn until_held(bed: &Bed, stream: &mut TcpStream) {
    bed.who.untold.store(true, Ordering::Relaxed);
    let passes = async {
        loop {
            assert!(echoes(stream).await, "{:?}", bed.journal.lines());
            sleep(HOLDER_LOOK / 20).await;
        }
    };
    let held = async {
        while !denied(bed) {
            sleep(HOLDER_LOOK / 20).await;
        }
    };
    tokio::select! {
        () = passes => {}
        () = held => {}
    }
}

async fn looked_twice(bed: &Bed) {
    let asked = bed.who.asked.load(Ordering::Relaxed);
    while bed.who.asked.load(Ordering::Relaxed) < asked + 2 {
        sleep(HOLDER_LOOK / 20).await;
    }
}

/// That a tunnel's holder can't be found out may be another agent's doing: the tunnel is held, and goes on
/// when that is over.
#[tokio::test]
async fn a_relayed_tunnel_that_nobody_is_known_to_hold_waits() {
    let port = echo().await;
    let bed = Bed::new(&l4("raw.test", port)).await;
    let (_, mut stream) = bed.connect(&format!("raw.test:{port}")).await;
    until_held(&bed, &mut stream).await;
    looked_twice(&bed).await;
    // Discards what came before the tunnel was held.
    while stream.try_read(&mut [0; 64]).is_ok() {}
    stream.write_all(b"held").await.unwrap();
    looked_twice(&bed).await;
    let nothing = stream.try_read(&mut [0; 64]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    bed.who.untold.store(false, Ordering::Relaxed);
    let goes_on = async {
        let mut got = Vec::new();
        while !got.ends_with(b"held") {
            got.push(stream.read_u8().await.unwrap());
        }
    };
    tokio::time::timeout(super::bed::PATIENCE, goes_on).await.expect("it goes on");
}

/// A held tunnel that its client has left meanwhile is over, though nothing reads from it.
#[tokio::test]
async fn a_held_tunnel_that_its_client_has_left_is_over() {
    let port = echo().await;
    let bed = Bed::new(&l4("raw.test", port)).await;
    let (_, mut stream) = bed.connect(&format!("raw.test:{port}")).await;
    until_held(&bed, &mut stream).await;
    drop(stream);
    let over = async {
        while !bed.journal.lines().iter().any(|line| line.starts_with("end ")) {
            sleep(HOLDER_LOOK / 20).await;
        }
    };
    tokio::time::timeout(super::bed::PATIENCE, over).await.expect("it is over");
}

/// A bed with a WebSocket echo server, and the agent's end after the handshake.
async fn websocket(endpoint: impl Fn(u16) -> String) -> (Bed, TcpStream) {
    let port = websockets::echo("").await;
    let bed = Bed::new(&endpoint(port)).await;
    let mut stream = bed.open().await;
    let host = format!("ws.test:{port}");
    let handshake = websockets::handshake(&format!("http://{host}/ok/ws"), &host, "");
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    (bed, stream)
}

/// A message as clients send it, masked with zeros.
const MESSAGE: &[u8; 9] = b"\x81\x83\0\0\0\0say";

/// Sends a message and gives the first bytes of what comes: the echo, or a close frame.
async fn said(stream: &mut TcpStream) -> [u8; 4] {
    stream.write_all(MESSAGE).await.unwrap();
    let mut got = [0; 4];
    stream.read_exact(&mut got).await.unwrap();
    got
}

/// Whether these are the first bytes of a close frame for a violated policy.
fn is_refusal([opcode, _, high, low]: [u8; 4]) -> bool {
    opcode == 0x88 && u16::from_be_bytes([high, low]) == 1008
}

#[tokio::test]
async fn a_judged_message_is_its_senders() {
    let (bed, mut stream) = websocket(|port| ws("ws.test", port)).await;
    assert_eq!(said(&mut stream).await, MESSAGE[..4]);
    stream.read_exact(&mut [0; 5]).await.unwrap();
    *bed.who.path.lock().unwrap() = OTHER;
    // Waits until the last look is no longer good.
    sleep(IDENTITY_FRESH).await;
    assert!(is_refusal(said(&mut stream).await));
    assert!(denied(&bed), "{:?}", bed.journal.lines());
}

#[tokio::test]
async fn a_judged_message_that_nobody_is_known_to_send_is_refused() {
    let (bed, mut stream) = websocket(|port| ws("ws.test", port)).await;
    bed.who.untold.store(true, Ordering::Relaxed);
    sleep(IDENTITY_FRESH).await;
    assert!(is_refusal(said(&mut stream).await));
}

#[tokio::test]
async fn a_relayed_websocket_ends_when_another_program_holds_it() {
    let (bed, mut stream) = websocket(|port| l4("ws.test", port)).await;
    *bed.who.path.lock().unwrap() = OTHER;
    while !is_refusal(said(&mut stream).await) {
        stream.read_exact(&mut [0; 5]).await.unwrap();
        sleep(HOLDER_LOOK / 20).await;
    }
    assert!(denied(&bed), "{:?}", bed.journal.lines());
}
