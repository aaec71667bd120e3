//! What serves programs that use no proxy: a listener for each port that the policy names (and for HTTP's own
//! ports if the operator is asked about what the policy doesn't name), and the name server.
//!
//! Listeners follow the policy's generations: a port that a new policy names has its listener before any
//! program can use it, and one that it no longer names is refused by the kernel again. All listeners belong
//! to init, so a next supervisor gets the same ones, with the connections that wait in their queues. Decides
//! nothing.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;

use agent::InitClient;
use agent::client::ClientError;
use agent::protocol::{CageReport, Refusal};
use proxy::names::{Book, Resolver, Sockets};
use proxy::witness::Witness;
use proxy::{Captured, Kind, Listener};
use tokio::sync::watch;

use super::handover::{Handover, HeartLine};
use super::refusals::Refusals;
use super::stores::{Refused, Stores, tcp_listener};
use crate::console::warn;
use crate::plan::slot;
use crate::sealed;
use crate::site::policies::ASKED_ABOUT;

/// The name server in the agents' `resolv.conf`.
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

/// The consequence if init has no witness.
pub const UNSEEN: &str = "what the kernel refuses at ports that no entry names is not on record";

/// Ports that are not captured, and why.
pub type Uncaptured = Vec<(u16, io::Error)>;

/// How far the captured ports have followed the policy.
#[derive(Debug, Default)]
pub struct Followed {
    /// The generation whose ports were captured last.
    pub generation: u64,
    /// Those of them that could not be.
    pub uncaptured: Vec<u16>,
}

/// Captures the policy's ports from now on; when it returns, those of the current policy are captured. Init
/// must be asked for them before the agents' starts: it captures nothing before the proof, which tests that
/// nothing leads out, and then captures before it starts an agent that was requested later.
pub async fn follow(
    init: &InitClient,
    stores: &Stores,
    sender: watch::Sender<Captured>,
    followed: watch::Sender<Followed>,
) -> Uncaptured {
    let policy = &stores.policy;
    // Subscribed first: a generation published meanwhile is then seen below.
    let mut generations = policy.subscribe();
    let asks = stores.approvals.is_some();
    let (generation, wanted) = ports(policy, asks);
    let (uncaptured, witness) = tokio::join!(biased; capture(init, &sender, &wanted), init.refusals());
    followed.send_replace(Followed::of(generation, &uncaptured));
    // Nothing depends on it: what isn't captured is refused, on record or not.
    if let Ok(socket) = witness {
        let witness = Witness::new(socket, policy.clone(), Arc::<Refusals>::clone(&stores.refusals));
        sender.send_modify(|captured| captured.witness = Some(Arc::new(witness)));
    }
    let (init, policy) = (init.clone(), policy.clone());
    supervision::essential(async move {
        while generations.changed().await.is_ok() {
            let (generation, wanted) = ports(&policy, asks);
            let uncaptured = capture(&init, &sender, &wanted).await;
            log(&uncaptured);
            followed.send_replace(Followed::of(generation, &uncaptured));
        }
    });
    uncaptured
}

impl Followed {
    fn of(generation: u64, uncaptured: &Uncaptured) -> Self {
        Self { generation, uncaptured: numbers(uncaptured) }
    }
}

fn numbers(uncaptured: &Uncaptured) -> Vec<u16> {
    uncaptured.iter().map(|(port, _)| *port).collect()
}

/// Returns the number of the current policy, and the ports that are to be captured under it.
fn ports(policy: &policy::Store, asks: bool) -> (u64, Vec<u16>) {
    let now = policy.load();
    let mut ports = now.compiled.ports().to_vec();
    let asked_about =
        ASKED_ABOUT.into_iter().filter(|port| asks && !ports.contains(port)).collect::<Vec<_>>();
    ports.extend(asked_about);
    (now.number, ports)
}

/// Warns of ports that are not captured (once, if this kernel can't capture at all), and of refusals that are
/// not recorded.
pub fn tell(uncaptured: &Uncaptured, cage: &CageReport) {
    if let Some(why) = &cage.no_witness {
        warn(&format!("{UNSEEN}: {why}"));
    }
    match &cage.no_capture {
        Some(why) => warn(&format!("programs that use no proxy have no way out: {why}")),
        None => log(uncaptured),
    }
}

fn log(uncaptured: &Uncaptured) {
    if let (Some(ports), Some((_, error))) = (listed(&numbers(uncaptured)), uncaptured.first()) {
        tracing::error!(%error, "programs that use no proxy don't reach {ports}");
    }
}

/// Names ports in words, the first ten of many. `None` if there are none.
pub fn listed(ports: &[u16]) -> Option<String> {
    const SHOWN: usize = 10;
    let (shown, rest) = ports.split_at(ports.len().min(SHOWN));
    let shown: Vec<String> = shown.iter().map(u16::to_string).collect();
    let shown = shown.join(", ");
    match (ports.len(), rest.len()) {
        (0, _) => None,
        (1, _) => Some(format!("port {shown}")),
        (_, 0) => Some(format!("ports {shown}")),
        (_, more) => Some(format!("ports {shown} and {more} others")),
    }
}

async fn capture(init: &InitClient, captured: &watch::Sender<Captured>, ports: &[u16]) -> Uncaptured {
    let port_of = |listener: &Listener| match listener.kind {
        Kind::Captured { port } => Some(port),
        _ => None,
    };
    let mut wanted = captured.borrow().listeners.clone();
    wanted.retain(|listener| port_of(listener).is_some_and(|port| ports.contains(&port)));
    let is_new = |port: &&u16| !wanted.iter().any(|listener| port_of(listener) == Some(**port));
    // All requests go out at once, so that the answers come in one round trip.
    let asked = ports.iter().filter(is_new).map(|port| async move { (*port, init.capture(*port).await) });
    let mut uncaptured = Uncaptured::new();
    for (port, answer) in futures_util::future::join_all(asked).await {
        match answer.map_err(io::Error::other).and_then(tcp_listener) {
            Ok(socket) => wanted.push(Listener { kind: Kind::Captured { port }, socket: Arc::new(socket) }),
            Err(error) => uncaptured.push((port, error)),
        }
    }
    captured.send_modify(|captured| captured.listeners = wanted);
    // A cage that doesn't hold, or an init that is gone, captures nothing at all: that is told elsewhere.
    if let Err(error) = init.capture_only(ports).await
        && !matches!(error, ClientError::Closed | ClientError::Refused(Refusal::Cage(_)))
    {
        tracing::error!(%error, "ports that the policy no longer names may still be open inside");
    }
    uncaptured
}

/// The name server's sockets.
pub async fn name_sockets(init: &InitClient) -> Result<Sockets, Refused> {
    let address = SocketAddr::from((NAME_SERVER, 53));
    let (udp, tcp) = tokio::try_join!(init.bind_udp(address), init.listen_tcp(address))?;
    let udp = std::net::UdpSocket::from(udp);
    udp.set_nonblocking(true)?;
    Ok(Sockets { udp: Arc::new(udp), tcp: Arc::new(tcp_listener(tcp)?) })
}

/// Returns the resolver that answers on the name server's sockets.
pub fn resolver(stores: &Stores) -> Arc<Resolver> {
    let resolver = Resolver::new(
        stores.policy.clone(),
        Arc::clone(&stores.proxy.names),
        Arc::<Refusals>::clone(&stores.refusals),
        agent::plan::INFERENCE_ADDRESS,
    );
    Arc::new(if stores.approvals.is_some() { resolver.where_the_operator_is_asked() } else { resolver })
}

/// Returns the addresses given to names, in a file that the heart keeps: a supervisor's death changes none.
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
