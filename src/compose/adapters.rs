//! What the actors' crates need of each other, without knowing each other: each adapter implements one crate's trait by
//! another crate's mechanism, and holds no decision of its own.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use agent::protocol::{Identity, Refusal};
use agent::{ClientError, InitClient};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use policy::{Caller, Host};
use proxy::guard::Lookup;
use proxy::identity::{ExecutableFile, Holder, HoldersError, Processes};
use tokio::net::TcpStream;
use uuid::Uuid;

/// How long connecting to a model provider may take; the gateway's own time-outs are shorter or cut it.
const PROVIDER_CONNECT: Duration = Duration::from_secs(30);

/// The proxy's question who holds a socket, answered by init.
pub struct InitProcesses(pub InitClient);

impl Processes for InitProcesses {
    fn holders(&self, socket_inode: u64) -> BoxFuture<'_, Result<Vec<Holder>, HoldersError>> {
        Box::pin(async move {
            let (holders, executables) = self.0.holders(socket_inode, true).await.map_err(refused)?;
            let file = |identity: &Identity| {
                let file = executables.get(usize::from(identity.exe)).and_then(|fd| fd.try_clone().ok());
                file.map(|file| ExecutableFile {
                    path: identity.exe_path.clone(),
                    file,
                    deleted: identity.deleted || identity.memory,
                })
                .ok_or_else(|| {
                    HoldersError::Unreadable(format!(
                        "process {}: its executable was not handed over",
                        identity.pid
                    ))
                })
            };
            holders
                .iter()
                .map(|holder| {
                    Ok(Holder {
                        pid: holder.process.pid,
                        start_time: holder.process.start_time,
                        exe: file(&holder.process)?,
                        foreign_code: holder.foreign_code,
                        ancestors: holder.ancestors.iter().map(file).collect::<Result<_, _>>()?,
                        // Init answers with an error rather than with a part of the chain.
                        truncated: false,
                    })
                })
                .collect()
        })
    }
}

fn refused(error: ClientError) -> HoldersError {
    match error {
        ClientError::Refused(Refusal::TooMany(_)) => HoldersError::TooMany,
        ClientError::Refused(refusal) => HoldersError::Unreadable(refusal.to_string()),
        other => HoldersError::Unavailable(other.to_string()),
    }
}

/// Requests for `inference.local`, answered by the gateway.
pub struct Inference(pub gateway::Gateway);

impl proxy::LocalService for Inference {
    fn serve(
        &self,
        request: Request<proxy::Body>,
        caller: Arc<Caller>,
        request_id: Uuid,
    ) -> BoxFuture<'_, Response<proxy::Body>> {
        Box::pin(async move { self.0.serve(request, Caller::clone(&caller), &request_id.to_string()).await })
    }
}

/// Connections to model providers, by the proxy's name look-up and TLS. The operator named them, so the addresses that
/// the agent may never reach (loopback, private ones) are allowed here, and nowhere else.
pub struct Dialer {
    lookup: Arc<dyn Lookup>,
    upstream: proxy::Upstream,
}

impl Dialer {
    /// Over the proxy's look-up and TLS configuration.
    pub fn new(lookup: Arc<dyn Lookup>, upstream: proxy::Upstream) -> Self {
        Self { lookup, upstream }
    }

    async fn connect(&self, to: &gateway::Upstream) -> io::Result<gateway::Dialed> {
        let host = Host::parse(&to.host).map_err(io::Error::other)?;
        let addresses = match &host {
            Host::Addr(address) => vec![*address],
            Host::Name(name) => self.lookup.addresses(name).await.map_err(io::Error::other)?,
        };
        let stream = tokio::time::timeout(PROVIDER_CONNECT, any_of(&addresses, to.port)).await??;
        stream.set_nodelay(true)?;
        if !to.tls {
            return Ok(gateway::Dialed { io: Box::new(stream), protocol: gateway::Protocol::Http1 });
        }
        let http1_only = !to.alpn.contains(&gateway::Protocol::Http2);
        let stream = self.upstream.tls(stream, &host, http1_only).await?;
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => gateway::Protocol::Http2,
            _ => gateway::Protocol::Http1,
        };
        Ok(gateway::Dialed { io: Box::new(stream), protocol })
    }
}

/// The first address that takes a connection.
async fn any_of(addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses {
        match TcpStream::connect((*address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl gateway::Dial for Dialer {
    fn dial<'a>(&'a self, upstream: &'a gateway::Upstream) -> BoxFuture<'a, io::Result<gateway::Dialed>> {
        Box::pin(self.connect(upstream))
    }
}
