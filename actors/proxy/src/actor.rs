//! The proxy's actor: owns the accept tasks, those of the name server, and nothing else. The only file that
//! names ractor.
//!
//! Listening sockets, live connections and the policy all live above it: while it is down new connections
//! wait in the listen queue and open ones go on; a restarted actor accepts from the same queue.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use supervision::{Duty, DutyEnded};
use tokio::sync::watch;

use crate::conn::Deps;
use crate::listen::{Captured, Listener, accept};
use crate::names::server::{self, Resolver, Sockets};

/// Messages to the proxy's actor.
#[derive(Debug)]
pub enum Msg {
    /// One of the actor's tasks ended: it fails, so that it is restarted. While the actor is down: dropped,
    /// since the restart is under way.
    DutyEnded(DutyEnded),
    /// The set of captured ports has changed. While the actor is down: dropped; a restarted actor begins with
    /// the current set.
    CapturedChanged,
    /// Makes the handler panic. Sent only when fault injection was enabled at the start. While the actor is
    /// down: dropped.
    InjectPanic,
}

/// See the module.
#[derive(Debug, Default)]
pub struct ProxyActor;

/// The actor's arguments: the same at each start and restart.
#[derive(Clone)]
pub struct Arguments {
    /// What the proxy needs; outlives the actor.
    pub deps: Arc<Deps>,
    /// The listening sockets; live above the actor.
    pub listeners: Vec<Listener>,
    /// The captured listeners, and the witness of what is refused elsewhere.
    pub captured: watch::Receiver<Captured>,
    /// The name server, where there is one.
    pub names: Option<(Arc<Resolver>, Sockets)>,
}

/// The tasks; they end with the actor.
pub struct State {
    deps: Arc<Deps>,
    captured: watch::Receiver<Captured>,
    capturing: Vec<(Listener, Duty)>,
    witnessing: Option<Duty>,
    _others: Vec<Duty>,
}

impl State {
    /// Starts and ends accept tasks so that they match the current set of captured listeners, and starts the
    /// witness once there is one.
    fn follow(&mut self, myself: &ActorRef<Msg>) -> std::io::Result<()> {
        let Captured { listeners: now, witness } = self.captured.borrow_and_update().clone();
        if let (None, Some(witness)) = (&self.witnessing, witness) {
            let watching = async move { witness.watch().await };
            self.witnessing =
                Some(Duty::begin(myself, Msg::DutyEnded, "the witness of what is refused", watching));
        }
        let same = |a: &Listener, b: &Listener| Arc::ptr_eq(&a.socket, &b.socket);
        self.capturing.retain(|(old, _)| now.iter().any(|new| same(old, new)));
        for listener in now {
            if !self.capturing.iter().any(|(old, _)| same(old, &listener)) {
                let task = accepting(&self.deps, &listener, myself)?;
                self.capturing.push((listener, task));
            }
        }
        Ok(())
    }
}

/// Begins a listener's accept loop.
fn accepting(deps: &Arc<Deps>, listener: &Listener, myself: &ActorRef<Msg>) -> std::io::Result<Duty> {
    let socket = listener.open()?;
    let kind = listener.kind;
    let deps = Arc::clone(deps);
    Ok(Duty::begin(myself, Msg::DutyEnded, format!("the accept loop {kind:?}"), async move {
        accept(deps, socket, kind).await;
        Ok(())
    }))
}

impl Actor for ProxyActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Arguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Msg>,
        arguments: Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let Arguments { deps, listeners, captured, names } = arguments;
        let mut others = Vec::with_capacity(listeners.len() + 3);
        for listener in &listeners {
            others.push(accepting(&deps, listener, &myself)?);
        }
        if let Some((resolver, Sockets { udp, tcp })) = names {
            let by_datagram = server::datagrams(Arc::clone(&resolver), udp);
            others.push(Duty::begin(&myself, Msg::DutyEnded, "names by UDP", by_datagram));
            others.push(Duty::begin(&myself, Msg::DutyEnded, "names by TCP", server::streams(resolver, tcp)));
        }
        let (mut changes, me) = (captured.clone(), myself.clone());
        others.push(Duty::begin(&myself, Msg::DutyEnded, "following the captured ports", async move {
            while changes.changed().await.is_ok() {
                let _gone = me.cast(Msg::CapturedChanged);
            }
            // The ports stay as they are.
            std::future::pending().await
        }));
        let mut state = State { deps, captured, capturing: Vec::new(), witnessing: None, _others: others };
        state.follow(&myself)?;
        Ok(state)
    }

    #[expect(clippy::panic, reason = "fault injection, enabled by the operator alone")]
    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        message: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::DutyEnded(ended) => Err(ended.into()),
            Msg::CapturedChanged => Ok(state.follow(&myself)?),
            Msg::InjectPanic => panic!("fault injected into the proxy"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::listen::Kind;
    use crate::tests::bed::{Bed, PATIENCE, echo, l4, read_head};

    async fn pings(stream: &mut TcpStream) {
        let mut got = [0; 4];
        stream.write_all(b"ping").await.unwrap();
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut got)).await.unwrap().unwrap();
    }

    async fn connects(address: std::net::SocketAddr, port: u16) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("CONNECT raw.test:{port} HTTP/1.1\r\nHost: raw.test:{port}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
        stream
    }

    #[tokio::test]
    async fn tunnels_outlive_the_actor_and_new_connections_wait_for_the_next() {
        let port = echo().await;
        let bed = Bed::new(&l4("raw.test", port)).await;
        let socket = Arc::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let address = socket.local_addr().unwrap();
        let listeners = vec![Listener { kind: Kind::Explicit, socket }];
        let arguments = Arguments {
            deps: Arc::clone(&bed.deps),
            listeners,
            captured: watch::channel(Captured::default()).1,
            names: None,
        };
        let mut tunnels = Vec::new();
        for _ in 0..20 {
            let (actor, task) = Actor::spawn(None, ProxyActor, arguments.clone()).await.unwrap();
            tunnels.push(connects(address, port).await);
            actor.cast(Msg::InjectPanic).unwrap();
            tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
            // The actor is down: a connection made now waits in the listen queue and is served by the next
            // actor.
            let waiting = tokio::spawn(connects(address, port));
            tokio::time::sleep(Duration::from_millis(1)).await;
            for tunnel in &mut tunnels {
                pings(tunnel).await;
            }
            let (actor, task) = Actor::spawn(None, ProxyActor, arguments.clone()).await.unwrap();
            tunnels.push(waiting.await.unwrap());
            actor.stop(None);
            task.await.unwrap();
        }
    }
}
