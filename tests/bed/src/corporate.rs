//! The corporate proxy: HTTP CONNECT and nothing else. It records what it is asked for, and its connections
//! come from an address of its own, so that a server can tell them from direct ones.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::names;
use crate::recorder::{Recorder, Tunnel};

/// The credential that [`Kind::Demanding`] accepts.
pub const CREDENTIAL: &str = "corp:open-sesame-2741";
/// Longest head of a request, in bytes.
const HEAD_MAX: usize = 8 * 1024;

/// How the proxy treats its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Accepts every client.
    Open,
    /// Basic authentication with [`CREDENTIAL`].
    Demanding,
    /// Refuses every client.
    Refusing,
    /// Answers with bytes that aren't HTTP.
    Babbling,
}

impl Kind {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Open, Self::Demanding, Self::Refusing, Self::Babbling];

    /// Where it listens.
    pub const fn port(self) -> u16 {
        match self {
            Self::Open => 3180,
            Self::Demanding => 3181,
            Self::Refusing => 3182,
            Self::Babbling => 3183,
        }
    }
}

pub(crate) async fn serve(listener: TcpListener, kind: Kind, recorder: Recorder) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let recorder = recorder.clone();
        // Clients that hang up and targets that can't be reached are part of the tests.
        tokio::spawn(async move { tunnel(stream, kind, &recorder).await });
    }
}

async fn tunnel(mut client: TcpStream, kind: Kind, recorder: &Recorder) -> Result<()> {
    let head = head(&mut client).await?;
    let to = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).context("no CONNECT")?;
    let authorization = head.lines().find_map(|line| line.strip_prefix("Proxy-Authorization: "));
    let wanted = format!("Basic {}", STANDARD.encode(CREDENTIAL));
    let code = match kind {
        Kind::Open => 200,
        Kind::Demanding if authorization == Some(&wanted) => 200,
        Kind::Demanding => 407,
        Kind::Refusing => 403,
        Kind::Babbling => 0,
    };
    recorder.tunnel(Tunnel { to: to.to_owned(), authorization: authorization.map(str::to_owned), code });
    if code != 200 {
        // The proxy repeats the credential that it was sent; the agent must never see it.
        let said = authorization.unwrap_or("nothing");
        let answer = match kind {
            Kind::Babbling => format!("what? {said}\r\n\r\n"),
            _ => format!("HTTP/1.1 {code} {said}\r\nX-Said: {said}\r\nContent-Length: 0\r\n\r\n"),
        };
        return Ok(client.write_all(answer.as_bytes()).await?);
    }
    let mut server = connect(to).await?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

async fn head(client: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_MAX {
        head.push(client.read_u8().await?);
    }
    Ok(String::from_utf8(head)?)
}

async fn connect(to: &str) -> Result<TcpStream> {
    let (host, port) = to.rsplit_once(':').context("no port")?;
    let beyond = names::BEYOND.iter().find(|(name, _)| *name == host).map(|(_, address)| *address);
    let known = names::lookup(host).and_then(|all| all.iter().copied().find(IpAddr::is_ipv4));
    let address = beyond.or(known).map_or_else(|| host.parse(), Ok)?;
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(names::PROXY, 0))?;
    Ok(socket.connect(SocketAddr::new(address, port.parse()?)).await?)
}
