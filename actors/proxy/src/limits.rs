//! Every limit of the proxy, each a named constant with its unit and its reason.
//!
//! A number that bounds what a hostile agent or upstream can make this process do stands here and nowhere
//! else; `docs/limits.md` has a row for each (a test compares the two). What must never be here: a limit that
//! can be switched off at run time.

use std::time::Duration;

/// Bytes of one HTTP/1 request head, request line and blank line included. Real clients stay below 16 KiB;
/// long bearer tokens and cookies want some room.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Header fields in one request head or trailer section.
pub const MAX_HEADERS: usize = 100;
/// Bytes of one request target (path and query, or authority).
pub const MAX_TARGET_BYTES: usize = 16 * 1024;
/// Bytes of a method token; the longest registered one (`UPDATEREDIRECTREF`) has 17.
pub const MAX_METHOD_BYTES: usize = 32;
/// Bytes of a chunk-size line; 16 hexadecimal digits and its line end is all that a length can need.
pub const MAX_CHUNK_LINE_BYTES: usize = 18;
/// Bytes of a trailer section.
pub const MAX_TRAILER_BYTES: usize = 8 * 1024;
/// Bytes of one upstream response head; larger answers are refused as a broken upstream.
pub const MAX_RESPONSE_HEAD_BYTES: usize = 256 * 1024;
/// Header fields in one upstream response head. What the HTTP library holds without taking memory for each
/// response; Python's own client takes no more either.
pub const MAX_RESPONSE_HEADERS: usize = 100;
/// Interim answers (103 and such) that are passed on before one answer; more are dropped.
pub const MAX_INTERIM: usize = 16;
/// Bytes of interim answers that wait for a connection to take them; what has no room is dropped.
pub const MAX_INTERIM_BYTES: usize = 8 * 1024;
/// Connections of agents', and as many to servers, that may buffer as much as a fast line can fill; each
/// later one buffers [`CROWDED_BUFFER_BYTES`]: what a crowd pins is bounded in all.
pub const SPACIOUS_CONNECTIONS: usize = 32;
/// What a connection may buffer for each purpose when there are more than [`SPACIOUS_CONNECTIONS`], bytes:
/// reading, writing, a stream's window.
pub const CROWDED_BUFFER_BYTES: usize = 32 * 1024;
/// Connections of agents' that HTTP is served on at a time: between two requests, too, each keeps what the
/// largest of its buffers was. Relayed tunnels, and what has said nothing yet, keep nothing and don't count.
pub const MAX_HTTP_CONNECTIONS: usize = 2048;
/// Requests in flight at a time, on all connections of all agents: from a request's head to the end of its
/// answer, or of its WebSocket.
pub const MAX_EXCHANGES: usize = 1024;
/// Requests that wait for the operator's word at a time (`approvals: { unlisted: ask }`).
pub const MAX_HELD: usize = 64;
/// Bytes of a request's path and its program's together, beyond which nobody is asked about it: nobody would
/// read it.
pub const MAX_ASKED_BYTES: usize = 2048;
/// How often one request is asked for, where the policy changes while it waits (each answer for the run
/// changes it); then it is refused.
pub const MAX_TIMES_ASKED: usize = 256;
/// Bytes of all unfinished heads together that are longer than [`FREE_HEAD_BYTES`], in one sandbox.
pub const MAX_HEADS_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of an unfinished head beyond which it is paid for from [`MAX_HEADS_BYTES`].
pub const FREE_HEAD_BYTES: usize = 8 * 1024;
/// Read buffer of one HTTP/1 connection, bytes: what a body is moved in at a time.
pub const IO_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes of a relayed tunnel that are copied at a time; where more are there at once they go by pipe,
/// uncopied.
pub const RELAY_BUFFER_BYTES: usize = 16 * 1024;
/// Empty pipes that a thread keeps for the next tunnel with bytes to move; two descriptors each.
pub const MAX_IDLE_PIPES: usize = 16;
/// Connections of the agents' at a time, and as many to servers, if there are descriptors enough: two for
/// each, and [`RESERVED_DESCRIPTORS`].
pub const MAX_CONNECTIONS: usize = 12_288;
/// What one agent may hold of the connections, in times what it leaves free ([`policy::Shares`]): what is
/// left of so many is still hundreds.
pub const CONNECTIONS_TO_WHAT_IS_LEFT: usize = 19;
/// Descriptors that are kept for what is no connection: files, listeners, pipes, further upstreams.
pub const RESERVED_DESCRIPTORS: usize = 1024;
/// Streams in flight on one HTTP/2 connection from the agent.
pub const MAX_H2_STREAMS: u32 = 128;
/// HTTP/2 streams that the peer reset before we took them: past this the connection ends (rapid reset).
pub const MAX_H2_RESET_STREAMS: usize = 32;
/// Flow-control window of one HTTP/2 stream of an upstream's, bytes: memory that one slow reader can pin.
pub const H2_STREAM_WINDOW: u32 = 1024 * 1024;
/// Flow-control window of one HTTP/2 connection of an upstream's, bytes.
pub const H2_CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Flow-control window of one HTTP/2 stream of the agent's, bytes: the way to it is a loopback's, so that
/// less keeps nobody waiting.
pub const H2_AGENT_STREAM_WINDOW: u32 = 64 * 1024;
/// Flow-control window of one HTTP/2 connection of the agent's, bytes: sixteen streams that nobody reads
/// leave none to the others.
pub const H2_AGENT_WINDOW: u32 = 1024 * 1024;
/// Bytes that wait to be sent on one HTTP/2 stream to a server.
pub const H2_SEND_BYTES: usize = 256 * 1024;
/// Bytes that wait to be sent on one HTTP/2 stream to an agent: a loopback takes them at once, or nobody
/// reads them.
pub const H2_AGENT_SEND_BYTES: usize = 128 * 1024;
/// Idle upstream connections that one agent connection may keep.
pub const MAX_IDLE_UPSTREAM: usize = 16;
/// Idle upstream connections of ended agent connections that wait for the next one of the same caller.
pub const MAX_SHELVED: usize = 16;
/// Destinations that one agent connection remembers to share no connection, since they speak HTTP/1.
pub const MAX_HTTP1_ONLY: usize = 64;
/// Names that are looked up for one agent a minute though only an endpoint without `host` lets them pass. The
/// agent chooses them, and whoever serves their domain reads them: at most 5 KiB a minute get out so. Few
/// programs find more services by name in one.
pub const UNNAMED_LOOKUPS_PER_MINUTE: usize = 20;
/// Bytes that are read and thrown away after an error answer, so that the peer can read it before a reset.
pub const MAX_LINGER_BYTES: usize = 1024 * 1024;

/// Bytes of an upstream proxy's answer to CONNECT, head alone.
pub const MAX_PROXY_HEAD_BYTES: usize = 8 * 1024;
/// Bytes of all bodies and WebSocket messages together that are held to be judged, in one sandbox.
pub const MAX_JUDGED_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of one body that is rewritten because a credential's placeholder may stand in it. OpenShell's bound.
pub const MAX_REWRITTEN_BYTES: u32 = 256 * 1024;
/// Bytes of a body that is looked at for placeholders before anything is dialled; longer ones are watched as
/// they pass.
pub const MAX_AHEAD_BYTES: u32 = 64 * 1024;
/// Placeholders that are replaced in one request or message: bounds what a short one can be blown up to.
pub const MAX_PLACEHOLDERS: usize = 64;
/// Bytes of one WebSocket message of the client's, where messages are judged.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;
/// Fragments of one such message.
pub const MAX_MESSAGE_FRAMES: usize = 1024;

/// Bytes of a WebSocket server's that wait because a credential may begin in them: more than the longest
/// value with all escapes.
pub const MAX_WAITING_ANSWER_BYTES: usize = 256 * 1024;

/// A body that is judged, from its first byte to its last: a slow one holds memory.
pub const JUDGED_BODY_DEADLINE: Duration = Duration::from_secs(60);
/// From the first byte of a request head to its end, in all: a slow head is an attack, not a slow network.
pub const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// From accept (or the end of a response) to the first byte of the next head.
pub const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(120);
/// Between two reads of a request body.
pub const BODY_IDLE: Duration = Duration::from_secs(120);
/// A write that makes no progress: the peer doesn't read, or grants a stream of HTTP/2 not a byte.
pub const WRITE_STALL: Duration = Duration::from_secs(300);
/// From the answer to CONNECT (or accept) to a whole ClientHello or first byte, where we have to look at it.
pub const HELLO_DEADLINE: Duration = Duration::from_secs(15);
/// From accept to the first bytes of a captured connection that is refused: they say how to tell the client.
pub const REFUSED_HELLO: Duration = Duration::from_secs(3);
/// A TLS handshake, either side.
pub const TLS_HANDSHAKE: Duration = Duration::from_secs(15);
/// By when a server of HTTP/2 has said whether it takes WebSockets (RFC 8441 section 3): its first frame,
/// which it sends unasked.
pub const SETTINGS_WITHIN: Duration = Duration::from_secs(1);
/// How often it is looked for.
pub const SETTINGS_LOOK: Duration = Duration::from_millis(2);
/// One TCP connect to a provider that the operator named.
pub const TRUSTED_CONNECT: Duration = Duration::from_secs(10);
/// All addresses of a name together.
pub const DIAL_DEADLINE: Duration = Duration::from_secs(25);
/// From the request sent to the response head: models may think for minutes before the first byte.
pub const FIRST_BYTE_DEADLINE: Duration = Duration::from_secs(600);
/// Between two frames of a response body: an SSE stream may be quiet for long.
pub const RESPONSE_IDLE: Duration = Duration::from_secs(900);
/// Without a byte in either direction on a relayed tunnel or WebSocket.
pub const TUNNEL_IDLE: Duration = Duration::from_secs(3600);
/// Total life of one agent connection, tunnels included: bounds what a forgotten one can hold.
pub const CONNECTION_TOTAL: Duration = Duration::from_secs(24 * 3600);
/// How old an identification may be before a request on a kept connection asks again who holds the socket.
/// Small, since holders can change between two requests; not zero, so that a burst on HTTP/2 asks once.
pub const IDENTITY_FRESH: Duration = Duration::from_millis(100);
/// How often it is asked who holds a connection whose bytes nobody judges one by one, while any pass; and
/// whether anybody does, while its request waits for its server, or once it has said all on a relayed tunnel.
pub const HOLDER_LOOK: Duration = Duration::from_secs(1);
/// Looks in a row that tell nobody who holds such a connection, while bytes pass on it: long enough for a
/// holder's fork or a moment's load. Then nothing passes until one tells.
pub const MAX_UNTOLD_LOOKS: u32 = 10;
/// How long a new connection may be silent before it is asked who made it, at the latest. Short against the
/// minute for which its connect(2) is remembered; long enough that a request, which asks by itself, comes
/// first.
pub const MAKER_ASKED_WITHIN: Duration = Duration::from_millis(250);
/// How long judged addresses stay good between the answer to CONNECT and the dial.
pub const ADDRESSES_FRESH: Duration = Duration::from_secs(30);
/// How long an idle upstream connection is trusted to be still open, and one of HTTP/2 on which nothing comes
/// to lead somewhere: it takes no further request.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(30);
/// How long an idle upstream connection waits for the next connection of the same caller: less than servers
/// keep one, since the request that meets their close would be lost.
pub const SHELF_IDLE: Duration = Duration::from_secs(1);
/// After an error answer: how long the rest of the request is read and thrown away.
pub const LINGER: Duration = Duration::from_secs(2);
/// From a decision's fall to the forced end of the tunnel that rests on it. Nothing passes meanwhile; it is
/// told (GOAWAY, a close frame, the end of TLS).
pub const REVOKED_GRACE: Duration = Duration::from_secs(5);
/// First and longest pause after a failed accept (out of descriptors): never a spin.
pub const ACCEPT_BACKOFF_MIN: Duration = Duration::from_millis(5);
/// See [`ACCEPT_BACKOFF_MIN`].
pub const ACCEPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Descriptors that this many connections need.
#[must_use]
pub fn descriptors_wanted() -> u64 {
    (2 * MAX_CONNECTIONS + RESERVED_DESCRIPTORS) as u64
}

/// How many connections there may be where this process may have so many descriptors.
#[must_use]
pub fn connections_within(descriptors: u64) -> usize {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    // Where there are few, half of them stay for the rest.
    let reserved = RESERVED_DESCRIPTORS.min(descriptors / 2);
    (descriptors.saturating_sub(reserved) / 2).clamp(1, MAX_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{credentials, guard, identity, names, repeats, tls};

    /// Names and values, as the documentation has them.
    macro_rules! rows {
        ($($path:path),* $(,)?) => {
            [$((stringify!($path).replace(' ', ""), format!("{:?}", $path))),*]
        };
    }

    #[test]
    fn the_documentation_has_a_row_for_each() {
        let rows = rows![
            MAX_HEAD_BYTES,
            MAX_HEADERS,
            MAX_TARGET_BYTES,
            MAX_METHOD_BYTES,
            MAX_CHUNK_LINE_BYTES,
            MAX_TRAILER_BYTES,
            MAX_RESPONSE_HEAD_BYTES,
            MAX_RESPONSE_HEADERS,
            MAX_INTERIM,
            MAX_INTERIM_BYTES,
            SPACIOUS_CONNECTIONS,
            CROWDED_BUFFER_BYTES,
            MAX_HTTP_CONNECTIONS,
            MAX_EXCHANGES,
            MAX_HELD,
            MAX_TIMES_ASKED,
            MAX_ASKED_BYTES,
            MAX_HEADS_BYTES,
            FREE_HEAD_BYTES,
            IO_BUFFER_BYTES,
            RELAY_BUFFER_BYTES,
            MAX_IDLE_PIPES,
            MAX_CONNECTIONS,
            CONNECTIONS_TO_WHAT_IS_LEFT,
            RESERVED_DESCRIPTORS,
            MAX_H2_STREAMS,
            MAX_H2_RESET_STREAMS,
            H2_STREAM_WINDOW,
            H2_CONNECTION_WINDOW,
            H2_AGENT_STREAM_WINDOW,
            H2_AGENT_WINDOW,
            H2_SEND_BYTES,
            H2_AGENT_SEND_BYTES,
            MAX_IDLE_UPSTREAM,
            MAX_SHELVED,
            MAX_HTTP1_ONLY,
            UNNAMED_LOOKUPS_PER_MINUTE,
            MAX_LINGER_BYTES,
            MAX_PROXY_HEAD_BYTES,
            MAX_JUDGED_BYTES,
            MAX_REWRITTEN_BYTES,
            MAX_AHEAD_BYTES,
            MAX_PLACEHOLDERS,
            MAX_MESSAGE_BYTES,
            MAX_MESSAGE_FRAMES,
            MAX_WAITING_ANSWER_BYTES,
            JUDGED_BODY_DEADLINE,
            HEAD_DEADLINE,
            KEEP_ALIVE_IDLE,
            BODY_IDLE,
            WRITE_STALL,
            HELLO_DEADLINE,
            REFUSED_HELLO,
            TLS_HANDSHAKE,
            SETTINGS_WITHIN,
            SETTINGS_LOOK,
            TRUSTED_CONNECT,
            DIAL_DEADLINE,
            FIRST_BYTE_DEADLINE,
            RESPONSE_IDLE,
            TUNNEL_IDLE,
            CONNECTION_TOTAL,
            IDENTITY_FRESH,
            HOLDER_LOOK,
            MAX_UNTOLD_LOOKS,
            MAKER_ASKED_WITHIN,
            ADDRESSES_FRESH,
            UPSTREAM_IDLE,
            SHELF_IDLE,
            LINGER,
            REVOKED_GRACE,
            ACCEPT_BACKOFF_MIN,
            ACCEPT_BACKOFF_MAX,
            identity::IDENTIFY_DEADLINE,
            identity::DIAG_DEADLINE,
            identity::MAX_HOLDERS,
            identity::ROUNDS,
            identity::MAX_PINS,
            identity::MAX_PINNED_BYTES,
            identity::MAX_EXECUTABLE_BYTES,
            guard::RESOLVE_DEADLINE,
            guard::MAX_ANSWERS,
            guard::MAX_ATTEMPTS,
            guard::STAGGER,
            guard::OWN_ADDRESSES_MAX_AGE,
            tls::MAX_HELLO_BYTES,
            tls::MAX_LEAVES,
            tls::LEAF_LIFETIME,
            tls::LEAF_RENEWAL,
            tls::CA_LIFETIME,
            tls::SESSIONS,
            names::MAX_NAMES,
            names::MAX_QUERY_BYTES,
            names::TTL,
            names::QUERIES_PER_MINUTE,
            names::NEW_NAMES_PER_MINUTE,
            names::ASKED_NAMES_PER_MINUTE,
            names::MAX_TCP_CLIENTS,
            names::TCP_IDLE,
            repeats::REPEAT,
            repeats::MAX_RECORDS_PER_MINUTE,
            repeats::MAX_REMEMBERED,
            credentials::MAX_CREDENTIALS,
            credentials::MAX_USES,
            credentials::MAX_NAME_BYTES,
        ];
        let page = include_str!("../../../docs/limits.md");
        for (name, value) in &rows {
            let row = format!("| `{name}` | {value} |");
            assert!(page.contains(&row), "docs/limits.md lacks a row that begins with {row}");
        }
        // The page is shared: images, snapshots and what init bounds are the agent crate's, shares the
        // policy's, inference the gateway's, guesses the redactor's, the terminal UI, restarts, stops and
        // moves the command's.
        let others = [
            "Images",
            "Snapshots",
            "Shares",
            "Inference",
            "Guesses",
            "The terminal UI",
            "Restarts",
            "Stops and moves",
        ];
        let ours =
            page.split("\n## ").filter(|section| !others.iter().any(|other| section.starts_with(other)));
        let told = ours
            .flat_map(str::lines)
            .filter(|line| line.starts_with("| `") && !line.starts_with("| `init::"));
        assert_eq!(told.count(), rows.len(), "docs/limits.md has rows of limits that are gone");
        let constants = include_str!("limits.rs").matches("\npub const ").count();
        let ours = rows.iter().filter(|(name, _)| !name.contains("::")).count();
        assert_eq!(constants, ours, "a limit is not in the list above");
    }

    #[test]
    fn connections_fit_the_descriptors() {
        assert_eq!(connections_within(descriptors_wanted()), MAX_CONNECTIONS);
        assert_eq!(connections_within(u64::MAX), MAX_CONNECTIONS);
        assert_eq!(connections_within(20_000), 9488);
        assert_eq!((connections_within(1024), connections_within(0)), (256, 1));
    }
}
