//! The requests that init gets first: for its sockets and files, which it hands out while the cage is being
//! proven, and for the result of the proof.
//!
//! All requests go out at once, so that the answers come in one round trip. If the cage could not be built,
//! all are refused with the same words.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use agent::InitClient;
use agent::client::ClientError;
use agent::protocol::CageReport;
use agent::roots::RootFiles;
use tokio::task::JoinHandle;

use super::capture;
use super::stores::{Refused, tcp_listener};
use crate::plan::{explicit_listeners, inference_listeners};

/// The requests that are under way.
pub struct Asked {
    /// The cage's report. It comes last, when the cage is proven.
    pub report: JoinHandle<Result<CageReport, ClientError>>,
    /// The sockets inside the sandbox.
    pub sockets: JoinHandle<Result<Sockets, Refused>>,
    /// The files in which programs inside look for root certificates.
    pub root_files: JoinHandle<Result<RootFiles, ClientError>>,
}

/// Sockets inside the sandbox. Init keeps them all: a next supervisor gets the same ones, with the
/// connections that wait in their queues.
pub struct Sockets {
    /// The `sock_diag` socket that shows the sandbox's connections.
    pub diag: OwnedFd,
    /// The proxy's listeners.
    pub listeners: Vec<proxy::Listener>,
    /// The name server's sockets.
    pub names: proxy::names::Sockets,
}

impl Asked {
    /// Sends all requests.
    pub fn of(init: &InitClient) -> Self {
        let (reporting, filing, init) = (init.clone(), init.clone(), init.clone());
        let sockets = async move {
            let diag = async { Ok::<_, Refused>(init.diag().await?) };
            let (diag, listeners, names) =
                tokio::try_join!(diag, listeners(&init), capture::name_sockets(&init))?;
            Ok(Sockets { diag, listeners, names })
        };
        Self {
            report: tokio::spawn(async move { reporting.report().await }),
            sockets: tokio::spawn(sockets),
            root_files: tokio::spawn(async move { filing.root_files().await }),
        }
    }
}

async fn listeners(init: &InitClient) -> Result<Vec<proxy::Listener>, Refused> {
    let explicit = explicit_listeners().map(|address| (proxy::Kind::Explicit, address));
    let inference =
        inference_listeners().map(|address| (proxy::Kind::Inference { tls: address.port() == 443 }, address));
    let asked = explicit.into_iter().chain(inference).map(|(kind, address)| async move {
        match init.listen_tcp(address).await {
            Ok(fd) => Ok(Some(proxy::Listener { kind, socket: Arc::new(tcp_listener(fd)?) })),
            // A kernel without IPv6.
            Err(error) if address.is_ipv6() => {
                tracing::warn!(%error, "the proxy does not listen on {address}");
                Ok(None)
            }
            Err(error) => Err(Refused::from(error)),
        }
    });
    Ok(futures_util::future::try_join_all(asked).await?.into_iter().flatten().collect())
}
