//! Init's loop: requests in, replies and deaths out, children reaped.
//!
//! It never blocks on the supervisor: what can't be sent waits in a bounded queue, and while that is full no further
//! request is read. Deaths wait in the table, not in the queue, so none is lost however long nobody listens.

use super::process::{Stat, pids};
use super::table::Table;
use super::{Cage, holders, spawn};
use crate::credential_files::Keeper;
use crate::isolation::{network, root};
use crate::plan::Control;
use crate::protocol::{
    Answer, CageFailure, Connector, ExitStatus, FromInit, Holder, MAX_AGENT_NAME, MAX_PUT_FILE, Refusal,
    Request, ToInit,
};
use crate::sys;
use crate::wire::{Packet, Wire, WireError, encode};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a credential file of the known ones may stand open: a look costs a few dozen system calls.
const BEAT: Duration = Duration::from_millis(BEAT_MILLISECONDS as u64);
const BEAT_MILLISECONDS: i32 = 1000;
/// Replies that may wait to be sent.
const MAX_WAITING: usize = 64;
/// Requests served before children are reaped again.
const BURST: usize = 16;
/// Sockets kept for repeated requests.
const MAX_SOCKETS: usize = 256;
/// Ports captured at a time: a policy that names more is none that we know.
const MAX_CAPTURED: usize = 1024;
/// Processes looked at when strays are killed, and how often.
const MAX_STRAYS: usize = 4096;
const STRAY_PASSES: usize = 16;

type Reply = Result<(Answer, Vec<OwnedFd>), Refusal>;

struct Loop<'a> {
    wire: &'a Wire,
    cage: Cage,
    table: Table,
    waiting: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

/// Serves until the channel ends. `Err` when the loop itself failed.
pub(super) fn serve(wire: &Wire, cage: Cage) -> Result<(), ()> {
    let signals = sys::process::signal_fd(&[libc::SIGCHLD]).map_err(drop)?;
    let mut this = Loop { wire, cage, table: Table::default(), waiting: VecDeque::new() };
    let mut keeper = Keeper::open(crate::plan::WORKSPACE.as_ref()).ok();
    let mut last_beat = Instant::now();
    loop {
        let mut events = 0;
        if this.waiting.len() < MAX_WAITING {
            events |= libc::POLLIN;
        }
        if !this.waiting.is_empty() || this.table.unannounced().is_some() {
            events |= libc::POLLOUT;
        }
        let mut list = vec![
            libc::pollfd { fd: wire.as_fd().as_raw_fd(), events, revents: 0 },
            libc::pollfd { fd: signals.as_raw_fd(), events: libc::POLLIN, revents: 0 },
        ];
        list.extend(this.cage.connects.polls());
        // While nothing runs nothing appears.
        let beat = if this.table.running().is_empty() { -1 } else { BEAT_MILLISECONDS };
        match sys::fd::poll_all(&mut list, beat) {
            // By the clock, not by the silence: an agent that keeps us busy doesn't put it off.
            Ok(_) if last_beat.elapsed() >= BEAT => {
                last_beat = Instant::now();
                keeper.as_mut().map(Keeper::beat);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err(()),
        }
        let (ours, calls) = list.split_at(2);
        // First: somebody waits in every one of them.
        this.cage.connects.serve(calls);
        let [channel, deaths] = [ours[0].revents, ours[1].revents];
        if deaths != 0 {
            while sys::fd::read(signals.as_fd(), &mut [0; 1024]).is_ok_and(|n| n > 0) {}
            this.reap();
        }
        if channel & libc::POLLIN != 0 && this.take_requests().is_err() {
            return Ok(());
        }
        if this.flush().is_err() {
            return Ok(());
        }
        if channel & (libc::POLLHUP | libc::POLLERR) != 0 && channel & libc::POLLIN == 0 {
            return Ok(());
        }
    }
}

/// The cage could not be built: answers every request with why, until the heart ends us.
pub(super) fn refuse(wire: &Wire, failure: &CageFailure) -> Result<(), ()> {
    loop {
        let packet = match wire.recv::<ToInit>(None) {
            Ok(packet) => packet,
            Err(WireError::Closed | WireError::Io(_)) => return Ok(()),
            Err(_) => continue,
        };
        let reply = FromInit::Reply { to: packet.body.id, result: Err(Refusal::Cage(failure.clone())) };
        if wire.send(&reply, &[], None).is_err() {
            return Ok(());
        }
    }
}

/// The channel is gone.
struct Ended;

impl Loop<'_> {
    fn take_requests(&mut self) -> Result<(), Ended> {
        for _ in 0..BURST {
            if self.waiting.len() >= MAX_WAITING {
                break;
            }
            let Packet { body: ToInit { id, request }, fds } = match self.wire.try_recv::<ToInit>() {
                Ok(packet) => packet,
                Err(WireError::NotReady) => break,
                Err(WireError::Closed | WireError::Io(_)) => return Err(Ended),
                // The supervisor is ours: an unreadable packet is a fault there, answered to nobody.
                Err(_) => continue,
            };
            let (result, fds) = match self.answer(request, fds) {
                Ok((answer, fds)) => (Ok(answer), fds),
                Err(refusal) => (Err(refusal), Vec::new()),
            };
            let bytes = encode(&FromInit::Reply { to: id, result }).or_else(|_| {
                let refusal = Refusal::TooMany("bytes in an answer".into());
                encode(&FromInit::Reply { to: id, result: Err(refusal) })
            });
            if let Ok(bytes) = bytes {
                self.waiting.push_back((bytes, fds));
            }
        }
        Ok(())
    }

    /// Sends what can be sent now: replies first, then deaths.
    fn flush(&mut self) -> Result<(), Ended> {
        while let Some((bytes, fds)) = self.waiting.front() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match self.wire.try_send_encoded(bytes, &borrowed) {
                Err(WireError::NotReady) => return Ok(()),
                Err(WireError::Closed) => return Err(Ended),
                // Anything else is of this one packet (a descriptor limit): its asker waits in vain, others go on.
                Ok(()) | Err(_) => drop(self.waiting.pop_front()),
            }
        }
        while let Some((event, told)) = self.table.unannounced() {
            match self.wire.send(&FromInit::Event(event), &[], Some(std::time::Duration::ZERO)) {
                Err(WireError::NotReady) => return Ok(()),
                Err(WireError::Closed) => return Err(Ended),
                Ok(()) | Err(_) => *told = true,
            }
        }
        Ok(())
    }

    /// Takes every dead child, ours and those that we inherited.
    fn reap(&mut self) {
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, ExitStatus::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, ExitStatus::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) => return,
                // Real-time signals have no name in `nix`, and other states aren't asked for.
                Ok(_) => continue,
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::EINVAL) => continue,
                Err(_) => return,
            };
            self.table.ended(pid.as_raw(), status);
        }
    }

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> Reply {
        let done = Ok((Answer::Done, Vec::new()));
        match request {
            Request::Report => Ok((Answer::Report(self.cage.report.clone()), Vec::new())),
            Request::Spawn { agent, stdio } => self.spawn(&agent, stdio, fds),
            Request::Signal { process, signo, group } => {
                let entry = self.table.find(process)?;
                // Between its death and our reaping the pid is still its own: nobody else can be hit.
                if entry.is_running() {
                    sys::process::kill(entry.record.pid, group, signo).or_else(|error| {
                        if error.raw_os_error() == Some(libc::ESRCH) {
                            Ok(())
                        } else {
                            Err(system("kill")(error))
                        }
                    })?;
                }
                done
            }
            Request::List => Ok((Answer::Processes(self.table.records()), Vec::new())),
            Request::Forget { process } => self.table.forget(process).map(|()| (Answer::Done, Vec::new())),
            Request::PtyMaster { process } => {
                let master = self.table.find(process)?.master.as_ref();
                let master = master.ok_or_else(|| Refusal::Invalid("it has no terminal".into()))?;
                descriptor(master.try_clone())
            }
            Request::ListenTcp { address } => kept(&mut self.cage.listeners, address, network::listen_tcp),
            Request::Capture { port } => self.capture(port),
            Request::CaptureOnly { ports } => {
                self.cage.captured.retain(|port, _| ports.contains(port));
                done
            }
            Request::BindUdp { address } => kept(&mut self.cage.datagrams, address, network::bind_udp),
            Request::ConnectTcp { address } => descriptor(network::connect_tcp(address)),
            Request::Diag => descriptor(network::diag()),
            Request::Holders { inode, mappings, connector } => {
                let (holders, fds) = holders::holders(inode, mappings, &self.cage.writable)?;
                let connector = connector.then(|| self.connector(inode, &holders));
                Ok((Answer::Holders { holders, connector }, fds))
            }
            Request::PutFile { name } => {
                crate::plan::require_file_name(&name).map_err(|e| Refusal::Invalid(e.to_string()))?;
                let file = fds.first().ok_or_else(|| Refusal::Invalid("no content".into()))?;
                let bytes = sys::memfd::read_sealed(file.as_fd(), MAX_PUT_FILE)
                    .map_err(|e| Refusal::Invalid(e.to_string()))?;
                root::write_run_file(self.cage.run.as_fd(), &name, &bytes)
                    .map_err(system("writing a run file"))?;
                done
            }
            Request::KillStrays { agent } => {
                kill_strays(&agent, &self.table.running()).map_err(system("looking for strays"))?;
                done
            }
        }
    }

    fn connector(&self, inode: u64, holders: &[Holder]) -> Connector {
        let missing = &self.cage.report.missing;
        let unproven = missing.iter().any(|missing| missing.control == Control::ConnectNotify);
        if unproven || !self.cage.confinement.asks() {
            return Connector::Unwatched;
        }
        self.cage.connects.connector(inode, holders)
    }

    fn capture(&mut self, port: u16) -> Reply {
        if let Some(listener) = self.cage.captured.get(&port) {
            return descriptor(listener.try_clone());
        }
        if self.cage.captured.len() >= MAX_CAPTURED {
            return Err(Refusal::TooMany("captured ports".into()));
        }
        let why =
            || Refusal::Invalid(self.cage.report.no_capture.clone().unwrap_or_else(|| "no gate".into()));
        let gate = self.cage.gate.as_mut().ok_or_else(why)?;
        let listener = gate.listen(port).map_err(system("capturing a port"))?;
        let copy = listener.try_clone().map_err(system("dup"))?;
        self.cage.captured.insert(port, listener);
        descriptor(Ok(copy))
    }

    fn spawn(&mut self, agent: &str, stdio: crate::protocol::Stdio, fds: Vec<OwnedFd>) -> Reply {
        if agent.is_empty() || agent.len() > MAX_AGENT_NAME {
            return Err(Refusal::Invalid(format!("an agent's name has 1 to {MAX_AGENT_NAME} bytes")));
        }
        // A death not yet reaped must not stand in the way of the restart that it causes.
        self.reap();
        self.table.admit(agent)?;
        if self.cage.connects.is_full() {
            return Err(Refusal::TooMany("processes started, or left behind by ended ones".into()));
        }
        let started = spawn::spawn(&self.cage.confinement, stdio, fds)?;
        if let Some(listener) = started.listener {
            self.cage.connects.listen(listener);
        }
        let master = started.master.as_ref().map(OwnedFd::try_clone).transpose().map_err(system("dup"))?;
        let record = self.table.add(agent, started.pid, started.start_time, master);
        Ok((Answer::Spawned(record), started.master.into_iter().collect()))
    }
}

fn system(what: &'static str) -> impl Fn(io::Error) -> Refusal {
    move |error| Refusal::System { what: what.into(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

fn descriptor(made: io::Result<OwnedFd>) -> Reply {
    made.map(|fd| (Answer::Descriptor, vec![fd])).map_err(system("making a descriptor"))
}

/// A socket by its address: made once, duplicated for everyone who asks.
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

/// Kills processes marked as this agent's that descend from no running process of the table, until none is left.
fn kill_strays(agent: &str, running: &[i32]) -> io::Result<()> {
    let marker = format!("{}={agent}", crate::environment::AGENT_VARIABLE);
    for _ in 0..STRAY_PASSES {
        let all = pids(MAX_STRAYS)?.unwrap_or_default();
        let parents: BTreeMap<i32, i32> =
            all.iter().filter_map(|pid| Stat::read(*pid).ok().map(|stat| (*pid, stat.parent))).collect();
        let mut killed = false;
        for pid in all.into_iter().filter(|pid| *pid != 1) {
            if descends(pid, running, &parents) || !is_marked(pid, marker.as_bytes()) {
                continue;
            }
            killed |= sys::process::kill(pid, false, libc::SIGKILL).is_ok();
        }
        if !killed {
            break;
        }
    }
    Ok(())
}

fn descends(pid: i32, from: &[i32], parents: &BTreeMap<i32, i32>) -> bool {
    let mut at = pid;
    // A chain longer than there are processes would be a loop, made of reads at different moments.
    for _ in 0..=parents.len() {
        if from.contains(&at) {
            return true;
        }
        match parents.get(&at) {
            Some(parent) if *parent > 1 => at = *parent,
            _ => return false,
        }
    }
    false
}

/// Zombies have no environment: they are nobody's.
fn is_marked(pid: i32, marker: &[u8]) -> bool {
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|variable| variable == marker))
}
