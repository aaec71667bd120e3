//! What passes comes out byte for byte in any pieces, and nothing behind a violation does.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::*;
use crate::limits::MAX_METHOD_BYTES;

fn room() -> Heads {
    Heads::new(crate::room::Room::new(
        &policy::Shares::new(1 << 20),
        policy::Party::UNKNOWN,
        crate::room::What::Heads,
    ))
}

/// However it came: a body's last read may bring as much of the next head as the library has room for.
#[tokio::test]
async fn a_long_head_behind_a_body_is_paid_for_too() {
    let shares = policy::Shares::new(1 << 20);
    let room = crate::room::Room::new(&shares, policy::Party::UNKNOWN, crate::room::What::Heads);
    let (mut agent, proxy) = duplex(1 << 20);
    let mut strict = StrictIo::new(proxy, BytesMut::new(), Heads::new(room));
    let body = 2 * FREE_HEAD_BYTES;
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {body}\r\n\r\n");
    let behind = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(4 * FREE_HEAD_BYTES));
    agent.write_all(head.as_bytes()).await.unwrap();
    let mut chunk = vec![0; 16 * FREE_HEAD_BYTES];
    assert_eq!(strict.read(&mut chunk).await.unwrap(), head.len());
    agent.write_all(&vec![b'x'; body]).await.unwrap();
    agent.write_all(behind.as_bytes()).await.unwrap();
    assert_eq!(strict.read(&mut chunk).await.unwrap(), body);
    assert_eq!((strict.buffer.len(), shares.taken()), (behind.len(), behind.len()));
    agent.write_all(b"\r\n\r\n").await.unwrap();
    assert_eq!(strict.read(&mut chunk).await.unwrap(), behind.len() + 4);
    assert_eq!(shares.taken(), 0);
    // And where there is no room it ends there: what was judged before has passed.
    let _others = shares.take(policy::Party::UNKNOWN, shares.free()).unwrap();
    agent.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(strict.read(&mut chunk).await.unwrap(), head.len());
    agent.write_all(&vec![b'x'; body]).await.unwrap();
    agent.write_all(behind.as_bytes()).await.unwrap();
    assert_eq!(strict.read(&mut chunk).await.unwrap(), body);
    assert_eq!(strict.read(&mut chunk).await.unwrap(), 0);
    assert_eq!(strict.unanswered(), Some(Violation::Crowded));
}

async fn read_all(input: &[u8], piece: usize) -> (Vec<u8>, Option<Violation>, BytesMut) {
    let (mut agent, proxy) = duplex(1024 * 1024);
    let mut strict = StrictIo::new(proxy, BytesMut::new(), room());
    let (read, ()) = tokio::join!(
        async {
            let mut out = Vec::new();
            let mut chunk = [0; 100];
            loop {
                match tokio::time::timeout(Duration::from_secs(600), strict.read(&mut chunk)).await {
                    Ok(Ok(n)) if n > 0 => out.extend_from_slice(&chunk[..n]),
                    _ => break out,
                }
            }
        },
        async {
            for piece in input.chunks(piece) {
                agent.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            if !input.ends_with(b"STALL") {
                agent.shutdown().await.unwrap();
            }
        }
    );
    let violation = strict.fault.get().copied();
    (read, violation, strict.into_remains().surplus)
}

#[tokio::test(start_paused = true)]
async fn requests_pass_byte_for_byte_in_any_pieces() {
    let input = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n\
            POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
    for piece in 1..input.len() {
        let (out, violation, surplus) = read_all(input, piece).await;
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(input), "in pieces of {piece}");
        assert_eq!((violation, surplus.len()), (None, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_violation_stops_at_the_head_before_it() {
    let good = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let bad = b"GET / HTTP/1.1\nHost: a\r\n\r\nGET /after HTTP/1.1\r\nHost: a\r\n\r\n";
    let input = [&good[..], bad].concat();
    for piece in [1, 7, 30, input.len()] {
        let (out, violation, _) = read_all(&input, piece).await;
        assert_eq!((out.as_slice(), violation), (&good[..], Some(Violation::LineEnd)));
    }
}

/// The head of a body that breaks off passes, too, and then reading fails: an end would be a short body's.
#[tokio::test(start_paused = true)]
async fn a_violation_in_a_body_stops_nothing_before_it() {
    let good = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let input = [&good[..], b"ZZ\r\nGET /after HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    for piece in [1, 7, 30, input.len()] {
        let (mut agent, proxy) = duplex(1024 * 1024);
        let mut strict = StrictIo::new(proxy, BytesMut::new(), room());
        for piece in input.chunks(piece) {
            agent.write_all(piece).await.unwrap();
        }
        let mut out = Vec::new();
        let failure = strict.read_to_end(&mut out).await.unwrap_err();
        assert_eq!((out.as_slice(), failure.kind()), (&good[..], io::ErrorKind::InvalidData), "{piece}");
        assert_eq!((strict.fault.get(), strict.unanswered()), (Some(&Violation::Chunk), None));
    }
}

#[tokio::test(start_paused = true)]
async fn after_connect_nothing_passes_and_nothing_is_lost() {
    let head = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n";
    let input = [&head[..], b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    let (out, violation, surplus) = read_all(&input, input.len()).await;
    assert_eq!((out.as_slice(), violation), (&head[..], None));
    assert_eq!(&surplus[..], b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[tokio::test(start_paused = true)]
async fn a_slow_head_and_a_long_one_end() {
    let (_, violation, _) = read_all(b"GET / HTTP/1.1\r\nSTALL", 1).await;
    assert_eq!(violation, Some(Violation::Slow));
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(MAX_HEAD_BYTES));
    let (out, violation, _) = read_all(long.as_bytes(), 4096).await;
    assert_eq!((out.len(), violation), (0, Some(Violation::TooLarge)));
    let (out, violation, _) = read_all(b"STALL", 8).await;
    assert_eq!((out.len(), violation), (0, Some(Violation::Slow)), "a byte starts the clock");
}

/// Whoever speaks another protocol waits for an answer, and would wait until the head's deadline.
#[tokio::test(start_paused = true)]
async fn what_can_be_no_head_ends_at_once() {
    let socks4 = b"\x04\x01\x01\xbb\x01\x02\x03\x04\x00";
    let others: [&[u8]; 6] = [
        b"\x05\x01\x00",
        socks4,
        b"\x16\x03\x01\x02\x00\x01",
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"HELO mail.test\r\n",
    ];
    for other in others {
        for piece in [1, other.len()] {
            let input = [other, b"STALL"].concat();
            let (out, violation, _) = read_all(&input, piece).await;
            assert_eq!((out.len(), violation), (0, Some(Violation::RequestLine)), "{other:?}");
        }
    }
    let endless = [&[b'G'; MAX_METHOD_BYTES + 1][..], b"STALL"].concat();
    assert_eq!(read_all(&endless, 1).await.1, Some(Violation::RequestLine));
}

#[tokio::test(start_paused = true)]
async fn a_broken_chunk_is_an_error_not_an_end() {
    let (mut agent, proxy) = duplex(4096);
    let mut strict = StrictIo::new(proxy, BytesMut::new(), room());
    agent
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\n\r\n",
        )
        .await
        .unwrap();
    let mut out = Vec::new();
    assert!(strict.read_to_end(&mut out).await.is_err());
    assert_eq!(strict.fault.get(), Some(&Violation::Chunk));
}
