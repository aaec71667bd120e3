//! Connects the actors' crates, which don't know each other: each adapter implements one crate's trait with
//! another crate, and decides nothing itself.

use std::io;
use std::sync::Arc;

use agent::protocol::{Connector, Identity, Refusal};
use agent::{ClientError, Holders, InitClient};
use futures_util::future::BoxFuture;
use http::{Request, Response};
use policy::{Caller, Host, Party};
use proxy::identity::{ExecutableFile, Holder, HoldersError, Maker, Processes};
use proxy::trusted::{Opened, Speak, Trusted};
use uuid::Uuid;

/// Lets init answer the proxy's question which processes hold a socket.
pub struct InitProcesses(pub InitClient);

impl Processes for InitProcesses {
    fn holders(&self, socket_inode: u64) -> BoxFuture<'_, Result<Vec<Holder>, HoldersError>> {
        Box::pin(async move { Ok(self.ask(socket_inode, false).await?.0) })
    }

    fn holders_and_maker(
        &self,
        socket_inode: u64,
    ) -> BoxFuture<'_, Result<(Vec<Holder>, Maker), HoldersError>> {
        Box::pin(async move {
            let (holders, connector) = self.ask(socket_inode, true).await?;
            let maker = match connector {
                Some(Connector::Holds { origin, .. }) => Maker::Holds(Party(origin)),
                Some(Connector::Another { .. }) => Maker::Another,
                Some(Connector::Unwatched) => Maker::Unwatched,
                Some(Connector::Unknown) | None => Maker::Unknown,
            };
            Ok((holders, maker))
        })
    }
}

impl InitProcesses {
    async fn ask(
        &self,
        inode: u64,
        connector: bool,
    ) -> Result<(Vec<Holder>, Option<Connector>), HoldersError> {
        let Holders { holders, connector, executables } =
            self.0.holders(inode, connector).await.map_err(refused)?;
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
        let holders = holders
            .iter()
            .map(|holder| {
                Ok(Holder {
                    pid: holder.process.pid,
                    start_time: holder.process.start_time,
                    exe: file(&holder.process)?,
                    foreign_code: holder.foreign_code,
                    ancestors: holder.ancestors.iter().map(file).collect::<Result<_, _>>()?,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok((holders, connector))
    }
}

fn refused(error: ClientError) -> HoldersError {
    match error {
        ClientError::Refused(Refusal::TooMany(_) | Refusal::Flooded { .. }) => HoldersError::TooMany,
        ClientError::Refused(refusal) => HoldersError::Unreadable(refusal.to_string()),
        other => HoldersError::Unavailable(other.to_string()),
    }
}

/// Lets the gateway answer requests for `inference.local`.
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

/// Connects to model providers the way the proxy connects to servers that the operator named.
pub struct Providers(pub Trusted);

impl gateway::Dial for Providers {
    fn dial<'a>(&'a self, to: &'a gateway::Upstream) -> BoxFuture<'a, io::Result<gateway::Dialed>> {
        Box::pin(async move {
            let host = Host::parse(&to.host).map_err(io::Error::other)?;
            let speak = match (to.tls, to.alpn.contains(&gateway::Protocol::Http2)) {
                (false, _) => Speak::Plain,
                (true, true) => Speak::Tls,
                (true, false) => Speak::TlsHttp1,
            };
            let Opened { io, http2 } = self.0.dial(&host, to.port, speak).await?;
            let protocol = if http2 { gateway::Protocol::Http2 } else { gateway::Protocol::Http1 };
            Ok(gateway::Dialed { io: Box::new(io), protocol })
        })
    }
}
