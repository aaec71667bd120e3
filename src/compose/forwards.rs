//! Forwards: ports of the host that lead to ports of the sandbox's loopback, as the operator asked for them.
//!
//! The actor owns the accept loops. Each connection is copied by a task of its own that outlives the actor.
//! Nothing here judges: who may reach the host's port is the operator's decision, and no connection is opened
//! from inside.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use agent::InitClient;
use nix::sys::socket::{setsockopt, sockopt};
use policy::{Party, Share, Shares, Spent};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use supervision::{Duty, DutyEnded};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};

use super::handover::Handover;
use super::stores::tcp_listener;
use crate::config::Forward;
use crate::plan::slot;

/// How many connections all forwards may have at one time. Each forward gets its share ([`policy::Shares`]),
/// so that a program inside that never closes its connections keeps no other forward closed.
const MAX_CONNECTIONS: usize = 512;
/// TCP keepalive: a client that fell silent is probed after [`ASKED_AFTER`], then every [`ASKED_EVERY`],
/// [`ASKED_TIMES`] times. A client that vanished (a laptop that was shut) would keep its place for ever.
const ASKED_AFTER: Duration = Duration::from_secs(60);
const ASKED_EVERY: Duration = Duration::from_secs(15);
const ASKED_TIMES: u32 = 4;
/// The wait after a failed accept (out of descriptors).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// The actor's messages.
#[derive(Debug)]
pub enum Msg {
    /// An accept loop ended: the actor fails. Down: dropped, the restart is under way.
    DutyEnded(DutyEnded),
    /// Panic in the handler. Sent only when fault injection was enabled at the start. Down: dropped.
    InjectPanic,
}

/// One forward.
#[derive(Clone)]
pub struct Forwarded {
    /// The listener on the host. It lives above the actor.
    pub listener: Arc<std::net::TcpListener>,
    /// The port inside.
    pub to: u16,
}

/// Returns the planned forwards whose listeners the heart handed over.
pub fn handed_over(planned: &[Forward], handover: &mut Handover) -> io::Result<Vec<Forwarded>> {
    let forwards = planned.iter().enumerate();
    let forwards = forwards.map(|(n, forward)| {
        let missing = || io::Error::other(format!("the heart handed over no socket for {}", forward.listen));
        let fd = handover.take(&format!("{}{n}", slot::FORWARD)).ok_or_else(missing)?;
        Ok(Forwarded { listener: Arc::new(tcp_listener(fd)?), to: forward.to })
    });
    forwards.collect()
}

/// The places for the connections of all forwards.
pub fn places() -> Shares {
    Shares::new(MAX_CONNECTIONS)
}

/// What the actor is started with.
#[derive(Clone)]
pub struct Arguments {
    /// All forwards.
    pub forwards: Vec<Forwarded>,
    /// The places that all their connections share. They live above the actor, as the connections outlive it.
    pub places: Shares,
    /// Init, which makes the sockets inside.
    pub init: InitClient,
}

/// Accepts connections for all forwards; see the module.
#[derive(Debug, Default)]
pub struct ForwardsActor;

impl Actor for ForwardsActor {
    type Msg = Msg;
    /// The accept loops.
    type State = Vec<Duty>;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        given: Arguments,
    ) -> Result<Vec<Duty>, ActorProcessingErr> {
        let mut loops = Vec::with_capacity(given.forwards.len());
        for (forward, number) in given.forwards.into_iter().zip(1..) {
            let listener = forward.listener.try_clone()?;
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            let (init, places) = (given.init.clone(), given.places.clone());
            loops.push(Duty::begin(
                &myself,
                Msg::DutyEnded,
                format!("the forward to port {}", forward.to),
                async move {
                    accept(listener, forward.to, init, || places.take(Party(number), 1)).await;
                    Ok(())
                },
            ));
        }
        Ok(loops)
    }

    #[expect(clippy::panic, reason = "fault injection is there to panic")]
    async fn handle(
        &self,
        _: ActorRef<Msg>,
        message: Msg,
        _: &mut Vec<Duty>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::DutyEnded(ended) => Err(ended.into()),
            Msg::InjectPanic => panic!("fault injected into forwards"),
        }
    }
}

async fn accept(listener: TcpListener, to: u16, init: InitClient, place: impl Fn() -> Result<Share, Spent>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A connection beyond the limit is closed at once.
                let Ok(place) = place() else { continue };
                let init = init.clone();
                tokio::spawn(async move {
                    let _place = place;
                    if let Err(error) = carry(stream, to, &init).await {
                        tracing::debug!(%error, to, "a forwarded connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, to, "accepting for a forward failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn carry(
    outside: TcpStream,
    to: u16,
    init: &InitClient,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let inside = init.connect_tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, to))).await?;
    outside.set_nodelay(true)?;
    notice_its_loss(&outside)?;
    inside.set_nodelay(true)?;
    Ok(copy(outside, inside).await?)
}

/// Copies in both directions until both are done, or the client's connection is lost. The loss is watched for
/// separately: if a half-closed client vanishes, no read or write reports it while the agent is silent.
async fn copy(mut outside: TcpStream, mut inside: TcpStream) -> io::Result<()> {
    let (mut client_reads, mut client_writes) = outside.split();
    let (mut agent_reads, mut agent_writes) = inside.split();
    let mut asked = pin!(async move {
        tokio::io::copy(&mut client_reads, &mut agent_writes).await?;
        agent_writes.shutdown().await?;
        io::Result::Ok(client_reads)
    });
    let mut answered = pin!(async move {
        tokio::io::copy(&mut agent_reads, &mut client_writes).await?;
        client_writes.shutdown().await
    });
    tokio::select! {
        asked = &mut asked => {
            let client = asked?;
            tokio::select! {
                answered = &mut answered => answered,
                lost = client.as_ref().ready(Interest::ERROR) => {
                    lost?;
                    Err(io::ErrorKind::ConnectionReset.into())
                }
            }
        }
        answered = &mut answered => {
            answered?;
            asked.await.map(drop)
        }
    }
}

/// Has the kernel end a connection whose client is gone. Keepalive also detects a client that has closed its
/// socket and is silent since: its kernel answers a probe by saying that it no longer knows the connection.
fn notice_its_loss(client: &TcpStream) -> nix::Result<()> {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    setsockopt(client, sockopt::TcpKeepIdle, &seconds(ASKED_AFTER))?;
    setsockopt(client, sockopt::TcpKeepInterval, &seconds(ASKED_EVERY))?;
    setsockopt(client, sockopt::TcpKeepCount, &ASKED_TIMES)?;
    setsockopt(client, sockopt::KeepAlive, &true)
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_client_that_is_gone_is_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        notice_its_loss(&client).unwrap();
        assert!(getsockopt(&client, sockopt::KeepAlive).unwrap());
        assert_eq!(getsockopt(&client, sockopt::TcpKeepIdle).unwrap(), 60);
        assert_eq!(getsockopt(&client, sockopt::TcpKeepInterval).unwrap(), 15);
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (one, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_client_that_is_lost_after_its_last_byte_keeps_no_place() {
        let ((mut client, outside), (inside, mut agent)) = (pair().await, pair().await);
        let copying = tokio::spawn(copy(outside, inside));
        client.write_all(b"all").await.unwrap();
        client.shutdown().await.unwrap();
        let mut said = Vec::new();
        agent.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"all");
        // The answer of a vanished client's kernel to a keepalive probe.
        client.set_zero_linger().unwrap();
        drop(client);
        let over = tokio::time::timeout(Duration::from_secs(60), copying).await.expect("it is over");
        assert_eq!(over.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(agent.read(&mut [0]).await.unwrap(), 0, "and the agent may close");
    }

    #[tokio::test]
    async fn a_client_that_only_sends_no_more_gets_its_answer() {
        let ((mut client, outside), (inside, mut agent)) = (pair().await, pair().await);
        let copying = tokio::spawn(copy(outside, inside));
        client.shutdown().await.unwrap();
        assert_eq!(agent.read(&mut [0]).await.unwrap(), 0);
        agent.write_all(b"answer").await.unwrap();
        drop(agent);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"answer");
        copying.await.unwrap().unwrap();
    }
}
