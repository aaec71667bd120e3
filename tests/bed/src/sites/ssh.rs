//! Just enough of an SSH server to show that it was reached: its version, then a disconnect message (RFC 4253
//! section 11.1) that clients show.

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Where it listens.
pub(crate) const PORT: u16 = 22;
/// What a client shows of it.
const GOODBYE: &str = "this is the world's ssh server";

/// Says goodbye to one client.
pub(crate) async fn serve(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"SSH-2.0-bed\r\n").await?;
    let mut line = String::new();
    (&mut stream).take(255).read_line(&mut line).await?;
    stream.write_all(&disconnect(GOODBYE)).await?;
    // Read until the client is gone: unread bytes would turn the close into a reset.
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// SSH_MSG_DISCONNECT in a packet of its own.
fn disconnect(text: &str) -> Vec<u8> {
    let mut payload = vec![1, 0, 0, 0, 11];
    payload.extend((text.len() as u32).to_be_bytes());
    payload.extend(text.bytes());
    payload.extend([0; 4]);
    // Length, padding's length and payload come to a multiple of eight, with at least four bytes of padding.
    let padding = 4 + (8 - (payload.len() + 5 + 4) % 8) % 8;
    let mut packet = ((payload.len() + padding + 1) as u32).to_be_bytes().to_vec();
    packet.push(padding as u8);
    packet.extend(payload);
    packet.resize(packet.len() + padding, 0);
    packet
}
