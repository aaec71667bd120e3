//! What all connections together may hold: requests in flight, connections with HTTP on them, long heads, and
//! buffers in a crowd.

use policy::Party;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::bed::{Bed, Raw, echo, l4, read_head, rest, ws};
use super::websockets;
use crate::limits::{
    CROWDED_BUFFER_BYTES, FREE_HEAD_BYTES, H2_STREAM_WINDOW, MAX_EXCHANGES, MAX_HEADS_BYTES,
    MAX_HTTP_CONNECTIONS, SPACIOUS_CONNECTIONS,
};

/// Takes all places for requests in flight but `left`.
fn all_turns_but(bed: &Bed, left: usize) -> Vec<crate::tracker::UnchargedRequest> {
    (left..MAX_EXCHANGES).map(|_| bed.deps.tracker.turn(Party::UNKNOWN).unwrap()).collect()
}

pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    let held = async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(super::bed::PATIENCE, held).await.expect("it never came to that");
}

/// A server whose answer goes on for as long as it is read.
async fn endless() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                read_head(&mut stream).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
            });
        }
    });
    port
}

fn get(target: &str) -> String {
    format!("GET http://{target}/ok/x HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_answer_was_read() {
    let up = endless().await;
    let target = format!("up.test:{up}");
    let bed = Bed::new(&rest("up.test", up)).await;
    let _others = all_turns_but(&bed, 1);
    let mut slow = bed.open().await;
    slow.write_all(get(&target).as_bytes()).await.unwrap();
    assert!(read_head(&mut slow).await.starts_with("HTTP/1.1 200"));
    let refused = bed.talk(get(&target)).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("requests in flight"), "{refused}");
    drop(slow);
    until(|| bed.deps.tracker.turn(Party::UNKNOWN).is_ok()).await;
}

#[tokio::test]
async fn a_websocket_is_in_flight_as_long_as_it_is_open() {
    let up = websockets::echo("").await;
    let bed = Bed::new(&ws("up.test", up)).await;
    let _others = all_turns_but(&bed, 1);
    let target = format!("up.test:{up}");
    let mut socket = bed.open().await;
    let asks = websockets::handshake(&format!("http://{target}/ok/ws"), &target, "");
    socket.write_all(asks.as_bytes()).await.unwrap();
    assert!(read_head(&mut socket).await.starts_with("HTTP/1.1 101"));
    assert!(bed.deps.tracker.turn(Party::UNKNOWN).is_err());
    drop(socket);
    until(|| bed.deps.tracker.turn(Party::UNKNOWN).is_ok()).await;
}

#[tokio::test]
async fn a_connection_counts_while_http_is_spoken_on_it() {
    let (up, relayed) = (Raw::ok().await, echo().await);
    let target = format!("up.test:{}", up.port);
    let bed = Bed::new(&[rest("up.test", up.port), l4("relay.test", relayed)].join("\n")).await;
    let mut others: Vec<_> =
        (1..MAX_HTTP_CONNECTIONS).map(|_| bed.deps.tracker.seat(Party::UNKNOWN).unwrap()).collect();
    let (head, _tunnel) = bed.connect(&format!("relay.test:{relayed}")).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    // A relayed tunnel holds none.
    until(|| {
        others.extend(bed.deps.tracker.seat(Party::UNKNOWN));
        others.len() == MAX_HTTP_CONNECTIONS
    })
    .await;
    let refused = bed.talk(get(&target)).await;
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("as many HTTP connections open as it may"),
        "{refused}"
    );
    others.pop();
    let close = get(&target).replace("Host:", "Connection: close\r\nHost:");
    assert!(bed.talk(close).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn long_heads_are_paid_for_while_they_come() {
    let up = Raw::ok().await;
    let target = format!("up.test:{}", up.port);
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let long = |length| {
        get(&target).replace("Host:", &format!("Connection: close\r\nX: {}\r\nHost:", "y".repeat(length)))
    };
    let mut others = bed.deps.tracker.head_room(Party::UNKNOWN);
    others.pay_for(MAX_HEADS_BYTES - 2 * FREE_HEAD_BYTES).unwrap();
    let refused = bed.talk(long(4 * FREE_HEAD_BYTES)).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("\"unavailable\""), "{refused}");
    // An unfinished long head holds its share, and a short one needs none.
    let mut unfinished = bed.open().await;
    unfinished.write_all(long(FREE_HEAD_BYTES + 4096).trim_end().as_bytes()).await.unwrap();
    until(|| bed.deps.tracker.head_room(Party::UNKNOWN).pay_for(2 * FREE_HEAD_BYTES).is_err()).await;
    assert!(bed.talk(long(100)).await.starts_with("HTTP/1.1 200"));
    drop(unfinished);
    until(|| bed.deps.tracker.head_room(Party::UNKNOWN).pay_for(2 * FREE_HEAD_BYTES).is_ok()).await;
    assert!(bed.talk(long(FREE_HEAD_BYTES + 4096)).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn in_a_crowd_each_holds_little() {
    let up = Raw::ok().await;
    let target = format!("up.test:{}", up.port);
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let long = get(&target).replace("Host:", &format!("X: {}\r\nHost:", "y".repeat(2 * FREE_HEAD_BYTES)));
    let ask = async |text: &str| {
        let mut stream = bed.open().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        read_head(&mut stream).await.to_lowercase()
    };
    assert!(!ask(&long).await.contains("connection: close"), "few may keep what a long head took");
    let mut crowd = Vec::new();
    while crowd.len() <= SPACIOUS_CONNECTIONS {
        crowd.push(bed.open().await);
    }
    until(|| bed.deps.tracker.connections() > SPACIOUS_CONNECTIONS).await;
    assert!(ask(&long).await.contains("connection: close"));
    assert!(!ask(&get(&target)).await.contains("connection: close"), "short ones go on");
    // To servers likewise.
    assert_eq!(bed.deps.tracker.way(Party::UNKNOWN).unwrap().sizes().stream_window, H2_STREAM_WINDOW);
    let _held: Vec<_> =
        (0..SPACIOUS_CONNECTIONS).map(|_| bed.deps.tracker.way(Party::UNKNOWN).unwrap()).collect();
    assert_eq!(
        bed.deps.tracker.way(Party::UNKNOWN).unwrap().sizes().stream_window as usize,
        CROWDED_BUFFER_BYTES
    );
    crowd.clear();
}

#[tokio::test]
async fn one_agent_leaves_others_some_of_each() {
    let up = endless().await;
    let target = format!("up.test:{up}");
    let bed = Bed::new(&rest("up.test", up)).await;
    let is = |party| bed.who.party.store(party, std::sync::atomic::Ordering::Relaxed);
    let ask = async || {
        let mut stream = bed.open().await;
        stream.write_all(get(&target).as_bytes()).await.unwrap();
        (read_head(&mut stream).await, stream)
    };
    let only_the_other_is_served = async || {
        is(1);
        let (refused, one) = ask().await;
        assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
        is(2);
        let (answered, other) = ask().await;
        assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
        // Both are kept open, so that what they hold stays taken meanwhile.
        [one, other]
    };
    let mut turns = Vec::new();
    while let Ok(turn) = bed.deps.tracker.turn(Party(1)) {
        turns.push(turn);
    }
    assert!(turns.len() < MAX_EXCHANGES, "one has all");
    let _open = only_the_other_is_served().await;
    drop(turns);
    let mut seats = Vec::new();
    while let Ok(seat) = bed.deps.tracker.seat(Party(1)) {
        seats.push(seat);
    }
    assert!(seats.len() < MAX_HTTP_CONNECTIONS, "one has all");
    let _open = only_the_other_is_served().await;
}

/// The agent behind a request that is begun and never ended is found out all the same, and what the request
/// holds is charged to that agent from then on.
#[tokio::test]
async fn what_is_begun_and_not_ended_is_its_agents_too() {
    let up = Raw::ok().await;
    let target = format!("up.test:{}", up.port);
    let bed = Bed::new(&rest("up.test", up.port)).await;
    let is = |party| bed.who.party.store(party, std::sync::atomic::Ordering::Relaxed);
    let share_of = |party| {
        let mut seats = Vec::new();
        while let Ok(seat) = bed.deps.tracker.seat(party) {
            seats.push(seat);
        }
        seats
    };
    let seats = share_of(Party(1));
    is(1);
    let refused = bed.talk("GET").await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("this agent already has"), "{refused}");
    let mut silent = bed.open().await;
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut told = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut told);
    tokio::time::timeout(super::bed::PATIENCE, closed).await.expect("it keeps its seat").unwrap();
    assert!(told.windows(5).any(|frame| frame == b"\x07\0\0\0\0"), "GOAWAY");
    drop(seats);

    // Bytes of long heads likewise.
    is(1);
    let mut others = bed.deps.tracker.head_room(Party(1));
    others.pay_for(MAX_HEADS_BYTES / 3 * 2 - FREE_HEAD_BYTES).unwrap();
    let long = get(&target).replace("Host:", &format!("X: {}\r\nHost:", "y".repeat(2 * FREE_HEAD_BYTES)));
    let refused = bed.talk(long.trim_end().to_owned()).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("of this agent"), "{refused}");
    is(2);
    let mut unfinished = bed.open().await;
    unfinished.write_all(long.trim_end().as_bytes()).await.unwrap();
    assert!(read_soon(&mut unfinished).await.is_none(), "another has its own");
}

/// Reads a byte, if one comes within a little more than it takes to find out who made a connection.
async fn read_soon(stream: &mut tokio::net::TcpStream) -> Option<u8> {
    let read = tokio::io::AsyncReadExt::read_u8(stream);
    tokio::time::timeout(2 * crate::limits::MAKER_ASKED_WITHIN, read).await.ok()?.ok()
}

/// Once a connection's agent is known, its requests are charged to that agent from the first moment, even
/// while their caller is being judged.
#[tokio::test]
async fn a_request_is_its_agents_while_its_caller_is_judged() {
    let up = Raw::ok().await;
    let target = format!("up.test:{}", up.port);
    let bed = Bed::new(&rest("up.test", up.port)).await;
    bed.who.party.store(1, std::sync::atomic::Ordering::Relaxed);
    let mut known = bed.open().await;
    known.write_all(get(&target).as_bytes()).await.unwrap();
    assert!(read_head(&mut known).await.starts_with("HTTP/1.1 200"));
    tokio::io::AsyncReadExt::read_exact(&mut known, &mut [0; 2]).await.unwrap();
    let mut turns = Vec::new();
    while let Ok(turn) = bed.deps.tracker.turn(Party(1)) {
        turns.push(turn);
    }
    // Waits until the last look is no longer good; from here on, identification never ends.
    tokio::time::sleep(crate::limits::IDENTITY_FRESH).await;
    bed.who.mute.store(true, std::sync::atomic::Ordering::Relaxed);
    known.write_all(get(&target).as_bytes()).await.unwrap();
    assert!(read_head(&mut known).await.starts_with("HTTP/1.1 503 "));
}
