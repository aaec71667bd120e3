//! Writes the last answer on a connection, and closes it so that the client can read that.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::answer::{Known, Refusal};
use crate::limits::{LINGER, MAX_LINGER_BYTES};

/// Writes a refusal on a connection that no HTTP library serves (any more), and closes it.
pub(crate) async fn last_words<T>(stream: &mut T, refusal: &Refusal, known: &Known)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    farewell(stream, &refusal.raw(known)).await;
}

/// Writes what a client is to read last, and closes.
pub(crate) async fn farewell<T: AsyncRead + AsyncWrite + Unpin>(stream: &mut T, words: &[u8]) {
    let written = async {
        stream.write_all(words).await?;
        stream.flush().await
    };
    if let Ok(Ok(())) = timeout(LINGER, written).await {
        linger(stream).await;
    }
}

/// Closes, but lets the peer read what was written: with unread bytes in the queue the kernel would reset
/// instead.
pub(super) async fn linger<T: AsyncRead + AsyncWrite + Unpin>(stream: &mut T) {
    let drain = async {
        if stream.shutdown().await.is_err() {
            return;
        }
        let mut thrown = [0; 4096];
        let mut left = MAX_LINGER_BYTES;
        while left > 0 {
            match stream.read(&mut thrown).await {
                Ok(read) if read > 0 => left = left.saturating_sub(read),
                _ => return,
            }
        }
    };
    let _at_most = timeout(LINGER, drain).await;
}
