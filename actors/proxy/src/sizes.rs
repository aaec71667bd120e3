//! How much a connection may buffer, by how many are open: a few get as much as a fast link can fill, a crowd
//! gets just enough to move at all.
//!
//! A peer that doesn't read pins what its connection may buffer. That bound times the number of connections
//! is what one agent can make this process hold, so the one shrinks where the other grows. Decides once, when
//! a connection is made; must never depend on what a peer says.

use crate::limits::{
    CROWDED_BUFFER_BYTES, H2_AGENT_SEND_BYTES, H2_AGENT_STREAM_WINDOW, H2_AGENT_WINDOW, H2_CONNECTION_WINDOW,
    H2_SEND_BYTES, H2_STREAM_WINDOW, IO_BUFFER_BYTES, MAX_HEAD_BYTES, MAX_RESPONSE_HEAD_BYTES,
    SPACIOUS_CONNECTIONS,
};

/// HTTP/2's initial window of a stream and of a connection (RFC 9113 section 6.9.2). A connection's can't be
/// smaller.
const WINDOW_AT_FIRST: u32 = 65_535;

/// What one connection may buffer, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// HTTP/1: size of the buffer that heads and bodies are read into, and of the one that is written from.
    pub(crate) buffer: usize,
    /// HTTP/2: what the peer may send on one stream before it is read.
    pub(crate) stream_window: u32,
    /// HTTP/2: on all streams together.
    pub(crate) connection_window: u32,
    /// HTTP/2: what waits to be sent on one stream.
    pub(crate) send: usize,
}

impl Sizes {
    /// Returns the sizes for an agent's connection, when agents have `connections` of them open.
    pub(crate) const fn of_agents(connections: usize) -> Self {
        if connections <= SPACIOUS_CONNECTIONS {
            return Self {
                buffer: MAX_HEAD_BYTES + IO_BUFFER_BYTES,
                stream_window: H2_AGENT_STREAM_WINDOW,
                connection_window: H2_AGENT_WINDOW,
                send: H2_AGENT_SEND_BYTES,
            };
        }
        // A head passes in one piece, so it must fit.
        Self { buffer: MAX_HEAD_BYTES + CROWDED_BUFFER_BYTES, ..Self::crowded() }
    }

    /// Returns the sizes for a connection to a server, when `connections` of them are open.
    pub(crate) const fn of_servers(connections: usize) -> Self {
        if connections <= SPACIOUS_CONNECTIONS {
            return Self {
                buffer: MAX_RESPONSE_HEAD_BYTES,
                stream_window: H2_STREAM_WINDOW,
                connection_window: H2_CONNECTION_WINDOW,
                send: H2_SEND_BYTES,
            };
        }
        Self::crowded()
    }

    const fn crowded() -> Self {
        Self {
            buffer: CROWDED_BUFFER_BYTES,
            stream_window: CROWDED_BUFFER_BYTES as u32,
            connection_window: WINDOW_AT_FIRST,
            send: CROWDED_BUFFER_BYTES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{MAX_CONNECTIONS, MAX_EXCHANGES};

    /// The most that all connections together can be made to hold.
    #[test]
    fn all_together_stay_bounded() {
        const MIB: usize = 1 << 20;
        let worst = |sizes: Sizes, streams: usize| {
            2 * sizes.buffer.max(sizes.connection_window as usize / 2) + streams * sizes.send
        };
        let few = SPACIOUS_CONNECTIONS * (worst(Sizes::of_agents(1), 0) + worst(Sizes::of_servers(1), 0))
            + MAX_EXCHANGES * (H2_AGENT_SEND_BYTES + H2_SEND_BYTES);
        assert!(few < 800 * MIB, "{few}");
        let crowd = Sizes::of_servers(MAX_CONNECTIONS);
        assert!(MAX_EXCHANGES * worst(crowd, 1) < 200 * MIB);
        assert!(crowd.buffer < Sizes::of_servers(SPACIOUS_CONNECTIONS).buffer);
        assert_eq!(Sizes::of_servers(SPACIOUS_CONNECTIONS), Sizes::of_servers(0));
    }
}
