//! The proxy's actor: owns the accept tasks and nothing else. The only file that names ractor.
//!
//! Listening sockets, live connections and the policy all live above it: while it is down new connections wait in the
//! listen queue and open ones go on; a restarted actor accepts from the same queue.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::JoinHandle;

use crate::conn::Deps;
use crate::listen::{Kind, Listener, accept};

/// What the proxy's actor can be told.
#[derive(Debug)]
pub enum Msg {
    /// An accept task ended, which it never does by itself: the actor fails, to be started anew. Down: dropped, since
    /// the restart it asks for is under way.
    AcceptEnded {
        /// What the listener was for.
        kind: Kind,
        /// How it ended.
        why: String,
    },
    /// Panic in the handler. Sent only when fault injection was enabled at the start. Down: dropped.
    InjectPanic,
}

/// See the module.
#[derive(Debug, Default)]
pub struct ProxyActor;

/// What the actor is started with, each time the same.
#[derive(Clone)]
pub struct Arguments {
    /// What the proxy needs; outlives the actor.
    pub deps: Arc<Deps>,
    /// The listening sockets; live above the actor.
    pub listeners: Vec<Listener>,
}

/// The accept tasks; they end with the actor.
pub struct State(Vec<JoinHandle<()>>);

impl Drop for State {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
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
        let mut tasks = State(Vec::with_capacity(arguments.listeners.len() * 2));
        for listener in &arguments.listeners {
            let socket = listener.open()?;
            let kind = listener.kind;
            let accepting = tokio::spawn(accept(Arc::clone(&arguments.deps), socket, kind));
            let abort = accepting.abort_handle();
            let myself = myself.clone();
            tasks.0.push(tokio::spawn(async move {
                // Dropping the watcher must end what it watches.
                let _ends_with_me = AbortOnDrop(abort);
                if let Err(error) = accepting.await {
                    // If the actor is gone already, this is its own doing.
                    let _gone = myself.cast(Msg::AcceptEnded { kind, why: error.to_string() });
                }
            }));
        }
        Ok(tasks)
    }

    #[expect(clippy::panic, reason = "fault injection, enabled by the operator alone")]
    async fn handle(&self, _: ActorRef<Msg>, message: Msg, _: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::AcceptEnded { kind, why } => {
                Err(format!("the accept task for {kind:?} ended: {why}").into())
            }
            Msg::InjectPanic => panic!("fault injected into the proxy"),
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
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
        let arguments = Arguments { deps: Arc::clone(&bed.deps), listeners };
        let mut tunnels = Vec::new();
        for _ in 0..20 {
            let (actor, task) = Actor::spawn(None, ProxyActor, arguments.clone()).await.unwrap();
            tunnels.push(connects(address, port).await);
            actor.cast(Msg::InjectPanic).unwrap();
            tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
            // Down: who comes now waits in the queue and is served by the next one.
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
