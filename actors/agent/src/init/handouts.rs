//! What init hands out: sockets of the sandbox's namespace, and files of the run directory.
//!
//! All of it may be had before the cage is proven ([`Early`]), so that the supervisor prepares while the
//! proof runs; and that nothing runs yet is told, for which agents' actors ask before they prepare a start.
//! Nothing here runs a program, and nothing here leads out: connections to the world are captured after the
//! proof only, which tries that there is no way out.

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

/// See the module.
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

    /// Answers a request for one of these; any other comes back.
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

/// A socket by its address.
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

/// The time before the cage is proven: what is handed out is answered, and who runs (nobody); all else is put
/// aside.
pub(crate) struct Early<'c, 'w> {
    channel: &'c mut Channel<'w>,
    handouts: &'c mut Handouts,
    ended: bool,
}

impl<'c, 'w> Early<'c, 'w> {
    pub(super) fn new(channel: &'c mut Channel<'w>, handouts: &'c mut Handouts) -> Self {
        Self { channel, handouts, ended: false }
    }

    /// What to poll for until [`Early::serve`]; nothing once the supervisor is gone.
    pub(crate) fn poll(&self) -> libc::pollfd {
        let poll = self.channel.poll(false);
        libc::pollfd { fd: if self.ended { -1 } else { poll.fd }, ..poll }
    }

    /// Takes what has been asked so far. That nobody asks any more is found again by whoever serves
    /// afterwards, who also sends what the kernel would not.
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
