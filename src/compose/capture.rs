//! What programs that know no proxy are met with: a listener for each port that the policy names, and the name server.
//!
//! Listeners follow the generations: a port that a new policy names is there before anyone can use it, one that it no
//! longer names is refused by the kernel again. All are init's, so a new supervisor gets the same, with whoever waits in
//! their queues. Decides nothing.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;

use agent::InitClient;
use agent::protocol::CageReport;
use proxy::names::{Book, Resolver, Sockets};
use proxy::{Kind, Listener};
use tokio::sync::watch;

use super::handover::{Handover, HeartLine};
use super::stores::{Refused, Stores, tcp_listener};
use crate::cli::out::say;
use crate::plan::slot;
use crate::sealed;

/// Where the agents' `resolv.conf` says that names are known.
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

/// Captures the policy's ports, from now on.
pub async fn follow(
    init: &InitClient,
    policy: &policy::Store,
    cage: &CageReport,
) -> watch::Receiver<Vec<Listener>> {
    let (sender, receiver) = watch::channel(Vec::new());
    if let Some(why) = &cage.no_capture {
        say(&format!("programs that use no proxy have no way out: {why}"));
        return receiver;
    }
    // Subscribed first: a generation published meanwhile is then seen below.
    let mut generations = policy.subscribe();
    capture(init, &sender, &policy.load().compiled.ports()).await;
    let (init, policy) = (init.clone(), policy.clone());
    tokio::spawn(async move {
        while generations.changed().await.is_ok() {
            capture(&init, &sender, &policy.load().compiled.ports()).await;
        }
    });
    receiver
}

async fn capture(init: &InitClient, listeners: &watch::Sender<Vec<Listener>>, ports: &[u16]) {
    let port_of = |listener: &Listener| match listener.kind {
        Kind::Captured { port } => Some(port),
        _ => None,
    };
    let mut wanted = listeners.borrow().clone();
    wanted.retain(|listener| port_of(listener).is_some_and(|port| ports.contains(&port)));
    let is_new = |port: &&u16| !wanted.iter().any(|listener| port_of(listener) == Some(**port));
    // Asked at once, so that the answers come in one go.
    let asked = ports.iter().filter(is_new).map(|port| async move { (*port, init.capture(*port).await) });
    for (port, answer) in futures_util::future::join_all(asked).await {
        match answer.map_err(io::Error::other).and_then(tcp_listener) {
            Ok(socket) => wanted.push(Listener { kind: Kind::Captured { port }, socket: Arc::new(socket) }),
            Err(error) => tracing::error!(%error, port, "connections to this port are not captured"),
        }
    }
    listeners.send_replace(wanted);
    if let Err(error) = init.capture_only(ports).await {
        tracing::error!(%error, "ports that the policy no longer names may still be open inside");
    }
}

/// The name server's sockets, and what answers on them.
pub async fn names(init: &InitClient, stores: &Stores) -> Result<(Arc<Resolver>, Sockets), Refused> {
    let address = SocketAddr::from((NAME_SERVER, 53));
    let udp = std::net::UdpSocket::from(init.bind_udp(address).await?);
    udp.set_nonblocking(true)?;
    let tcp = tcp_listener(init.listen_tcp(address).await?)?;
    let resolver = Resolver::new(
        stores.policy.clone(),
        Arc::clone(&stores.proxy.names),
        Arc::new(stores.audit.sink()),
        agent::plan::INFERENCE_ADDRESS,
    );
    Ok((Arc::new(resolver), Sockets { udp: Arc::new(udp), tcp: Arc::new(tcp) }))
}

/// The names' addresses, in a file that the heart keeps: a supervisor's death changes none.
pub async fn book(handover: &mut Handover, heart: &HeartLine) -> Result<Book, Refused> {
    let file = match handover.take(slot::NAMES) {
        Some(fd) => fd.into(),
        None => {
            let file = sealed::open_file("cofferdam-names")?;
            heart.keep(slot::NAMES, file.as_fd()).await?;
            file
        }
    };
    Ok(Book::kept_in(file)?)
}
