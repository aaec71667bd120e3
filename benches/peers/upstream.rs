//! The server behind every contender: does as little work as possible, on ports of its own in the bed's
//! world.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use bed::authority::Authority;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// The host name of all these ports.
pub const HOST: &str = "h1.bed.test";
/// Sends back the first bytes that it gets, and closes.
pub const ECHO_PORT: u16 = 9007;
/// Sends nothing, and waits.
pub const HOLD_PORT: u16 = 9009;
/// Sends without end, once it got a byte.
pub const STREAM_PORT: u16 = 9019;
/// HTTP/1.1 in the clear.
pub const PLAIN_PORT: u16 = 9080;
/// HTTP/1.1 inside TLS.
pub const TLS_PORT: u16 = 9443;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 68\r\n\r\n\
    {\"id\":7,\"name\":\"an item\",\"what\":\"an answer of a usual short length\"}";
const CHUNK: usize = 256 * 1024;

/// Starts it. It ends with the runtime.
pub fn start(authority: &Authority) -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let tls = TlsAcceptor::from(authority.for_host(Some(HOST)));
    runtime.block_on(async {
        for port in [ECHO_PORT, HOLD_PORT, STREAM_PORT, PLAIN_PORT, TLS_PORT] {
            let listener = listen(port)?;
            let tls = tls.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(serve(stream, port, tls.clone()));
                }
            });
        }
        anyhow::Ok(())
    })?;
    Ok(runtime)
}

fn listen(port: u16) -> Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v6()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    Ok(socket.listen(4096)?)
}

/// Serves one connection. An error ends it, since either side may go away at any moment.
async fn serve(mut stream: TcpStream, port: u16, tls: TlsAcceptor) {
    match port {
        ECHO_PORT => {
            let mut buffer = [0; 512];
            if let Ok(read) = stream.read(&mut buffer).await {
                let _gone = stream.write_all(&buffer[..read]).await;
            }
        }
        HOLD_PORT => while let Ok(1..) = stream.read(&mut [0; 64]).await {},
        STREAM_PORT => {
            let chunk: Arc<[u8]> = vec![7; CHUNK].into();
            if stream.read(&mut [0; 16]).await.is_ok() {
                while stream.write_all(&chunk).await.is_ok() {}
            }
        }
        PLAIN_PORT => answer(stream).await,
        _ => {
            if let Ok(stream) = tls.accept(stream).await {
                answer(stream).await;
            }
        }
    }
}

/// Answers whenever the end of a head was read: no client here sends bodies.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut head = Vec::with_capacity(4096);
    while let Ok(1..) = stream.read_buf(&mut head).await {
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            if stream.write_all(ANSWER).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }
}
