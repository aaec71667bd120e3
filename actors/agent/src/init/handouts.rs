//! What init hands out: sockets of the sandbox's namespace, and files of the run directory.
//!
//! All of it is available before the cage is proven ([`Early`]), so that the supervisor can prepare while the
//! proof runs. So is the list of processes, still empty: agents' actors ask for it before they prepare a
//! start. Nothing here runs a program, and nothing here leads out: connections to the world are captured only
//! after the proof, which tests that there is no way out.

use super::channel::{Channel, Ended, Reply};
use crate::isolation::{network, root};
use crate::protocol::{Answer, Refusal, Request};
use crate::wire::Packet;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

/// Sockets kept for repeated requests.
const MAX_SOCKETS: usize = 256;

/// What there is to hand out; see the module.
#[derive(Debug)]
pub(crate) struct Handouts {
    /// The run directory, writable.
    run: OwnedFd,
    /// Listeners and UDP sockets made so far: made once, duplicated for everyone who asks.
    listeners: BTreeMap<SocketAddr, OwnedFd>,
    datagrams: BTreeMap<SocketAddr, OwnedFd>,
}

impl Handouts {
    pub(super) fn new(run: OwnedFd, listeners: BTreeMap<SocketAddr, OwnedFd>) -> Self {
        Self { run, listeners, datagrams: BTreeMap::new() }
    }

    /// Answers a request for one of these, and gives any other request back.
    pub(super) fn answer(
        &mut self,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<Reply, (Request, Vec<OwnedFd>)> {
        Ok(match request {
            Request::ListenTcp { address } => kept(&mut self.listeners, address, network::listen_tcp),
            Request::BindUdp { address } => kept(&mut self.datagrams, address, network::bind_udp),
            Request::Diag => descriptor(network::diag()),
            Request::RunFile { name } => self.run_file(&name),
            other => return Err((other, fds)),
        })
    }

    fn run_file(&self, name: &str) -> Reply {
        crate::plan::require_file_name(name).map_err(|e| Refusal::Invalid(e.to_string()))?;
        let file = root::open_run_file(self.run.as_fd(), name).map_err(system("opening a run file"))?;
        descriptor(Ok(file.into()))
    }
}

pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> Refusal {
    move |error| Refusal::System { what: what.into(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

pub(super) fn descriptor(made: io::Result<OwnedFd>) -> Reply {
    made.map(|fd| (Answer::Descriptor, vec![fd])).map_err(system("making a descriptor"))
}

/// Returns a copy of the socket with this address, which is made at the first request.
fn kept(
    sockets: &mut BTreeMap<SocketAddr, OwnedFd>,
    address: SocketAddr,
    make: fn(SocketAddr) -> io::Result<OwnedFd>,
) -> Reply {
    if let Some(socket) = sockets.get(&address) {
        return descriptor(socket.try_clone());
    }
    if sockets.len() >= MAX_SOCKETS {
        return Err(Refusal::TooMany("sockets".into()));
    }
    let socket = make(address).map_err(system("opening a socket inside"))?;
    let copy = socket.try_clone().map_err(system("dup"))?;
    sockets.insert(address, socket);
    descriptor(Ok(copy))
}

/// Serves the time before the cage is proven: requests for handouts are answered, and the one for the list of
/// processes (there are none); all others are put aside.
pub(crate) struct Early<'c, 'w> {
    channel: &'c mut Channel<'w>,
    handouts: &'c mut Handouts,
    ended: bool,
}

impl<'c, 'w> Early<'c, 'w> {
    pub(super) fn new(channel: &'c mut Channel<'w>, handouts: &'c mut Handouts) -> Self {
        Self { channel, handouts, ended: false }
    }

    /// Returns what to poll for before [`Early::serve`]; nothing once the supervisor is gone.
    pub(crate) fn poll(&self) -> libc::pollfd {
        let poll = self.channel.poll(false);
        libc::pollfd { fd: if self.ended { -1 } else { poll.fd }, ..poll }
    }

    /// Takes the requests made so far. If the supervisor is gone, the loop that serves afterwards finds that
    /// out again; it also sends what the kernel refused to send here.
    pub(crate) fn serve(&mut self) {
        self.ended = self.take_requests().is_err();
    }

    fn take_requests(&mut self) -> Result<(), Ended> {
        while let Some(Packet { body, fds }) = self.channel.receive()? {
            if body.request == Request::List {
                self.channel.reply(body.id, Ok((Answer::Processes(Vec::new()), Vec::new())));
                continue;
            }
            match self.handouts.answer(body.request, fds) {
                Ok(reply) => self.channel.reply(body.id, reply),
                Err((request, fds)) => self.channel.put_aside(body.id, request, fds),
            }
        }
        self.channel.flush().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{FromInit, RequestId, Stdio, ToInit};
    use crate::wire::{self, Wire};

    #[test]
    fn before_the_proof_sockets_are_handed_out_and_nothing_is_done() {
        let (theirs, ours) = wire::pair().unwrap();
        let (supervisor, init) = (Wire::new(theirs).unwrap(), Wire::new(ours).unwrap());
        let run = tempfile::tempdir().unwrap();
        let mut handouts =
            Handouts::new(std::fs::File::open(run.path()).unwrap().into(), BTreeMap::default());
        let mut channel = Channel::new(&init);
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let spawn = || Request::Spawn { agent: "a".into(), stdio: Stdio::Given };
        let asked = [
            Request::Report,
            Request::ListenTcp { address },
            Request::Capture { port: 443 },
            spawn(),
            Request::BindUdp { address },
            Request::List,
        ];
        for (id, request) in (0..).zip(asked) {
            supervisor.send(&ToInit { id: RequestId(id), request }, &[], None).unwrap();
        }
        let mut early = Early::new(&mut channel, &mut handouts);
        early.serve();
        assert!(early.poll().fd >= 0);
        for expected in [1, 4] {
            let Packet { body, fds } = supervisor.try_recv::<FromInit>().unwrap();
            assert!(
                matches!(body, FromInit::Reply { to: RequestId(id), result: Ok(Answer::Descriptor) } if id == expected),
                "{body:?}"
            );
            assert_eq!(fds.len(), 1);
        }
        let nobody = supervisor.try_recv::<FromInit>().unwrap().body;
        let FromInit::Reply { to: RequestId(5), result: Ok(Answer::Processes(running)) } = nobody else {
            panic!("{nobody:?}")
        };
        assert!(running.is_empty());
        assert!(supervisor.try_recv::<FromInit>().is_err(), "the rest waits");
        // In the order in which it was asked.
        let aside = [Request::Report, Request::Capture { port: 443 }, spawn()];
        for expected in aside {
            assert_eq!(channel.take_aside().unwrap().body.request, expected);
        }
    }

    #[test]
    fn a_supervisor_that_is_gone_is_polled_no_more() {
        let (theirs, ours) = wire::pair().unwrap();
        let init = Wire::new(ours).unwrap();
        let run = tempfile::tempdir().unwrap();
        let mut handouts =
            Handouts::new(std::fs::File::open(run.path()).unwrap().into(), BTreeMap::default());
        let mut channel = Channel::new(&init);
        drop(theirs);
        let mut early = Early::new(&mut channel, &mut handouts);
        early.serve();
        assert_eq!(early.poll().fd, -1);
    }
}
