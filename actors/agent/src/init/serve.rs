//! Init's loop once the cage is proven: requests in, replies and deaths out, children reaped.
//!
//! Deaths wait in the table, not in the channel's queue, so none is lost however long nobody listens.

use super::allowance::Allowances;
use super::channel::{Channel, Ended, Reply};
use super::handouts::{descriptor, system};
use super::holders::{self, Found, Lens, Looked, Wanted};
use super::image::Images;
use super::starting::{Awaited, News, Process, Starting};
use super::table::Table;
use super::{Cage, spawn, strays};
use crate::credential_files::Keeper;
use crate::isolation::gate::Gate;
use crate::isolation::network;
use crate::plan::Control;
use crate::protocol::{
    Answer, CageFailure, Connector, ExitStatus, FromInit, Holder, MAX_AGENT_NAME, Refusal, Request,
    RequestId, Stdio, ToInit,
};
use crate::sys;
use crate::wire::{Packet, WireError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a credential file of the known ones may stand open: a look costs a few dozen system calls.
const BEAT: Duration = Duration::from_millis(BEAT_MILLISECONDS as u64);
const BEAT_MILLISECONDS: i32 = 1000;
/// Requests served before children are reaped again.
const BURST: usize = 16;
/// Children reaped before somebody else has a turn.
const REAPED_AT_ONCE: usize = 256;
/// Ports captured at a time: a policy that names more is none that we know.
const MAX_CAPTURED: usize = 1024;

struct Loop<'a> {
    channel: Channel<'a>,
    cage: Cage,
    table: Table,
    /// On their way to their programs, and not in the table yet.
    starting: Vec<Awaited>,
    /// Children may have died that nothing tells of any more.
    more_are_dead: bool,
    /// What looks at each agent's programs have cost.
    allowances: Allowances,
}

/// Serves until the channel ends. `Err` when the loop itself failed.
pub(super) fn serve(channel: Channel<'_>, cage: Cage) -> Result<(), ()> {
    let signals = sys::signals::fd(&[libc::SIGCHLD]).map_err(drop)?;
    let mut this = Loop {
        channel,
        cage,
        table: Table::default(),
        starting: Vec::new(),
        more_are_dead: false,
        allowances: Allowances::default(),
    };
    let mut looks = Vec::new();
    while let Some(packet) = this.channel.take_aside() {
        this.take(packet, &mut looks);
    }
    this.look(&looks);
    if this.flush().is_err() {
        return Ok(());
    }
    let mut keeper = Keeper::open(crate::plan::WORKSPACE.as_ref()).ok();
    let mut last_beat = Instant::now();
    loop {
        let mut list = vec![
            this.channel.poll(this.table.unannounced().is_some()),
            libc::pollfd { fd: signals.as_raw_fd(), events: libc::POLLIN, revents: 0 },
        ];
        list.extend(this.starting.iter().map(Awaited::poll));
        let ours = list.len();
        list.extend(this.cage.connects.polls());
        // While nothing runs nothing appears, and nobody's time is up.
        let idle = this.table.running().is_empty() && this.starting.is_empty();
        let beat = match (this.more_are_dead, idle) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => BEAT_MILLISECONDS,
        };
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
        let (ours, calls) = list.split_at(ours);
        // First: somebody waits in every one of them.
        this.cage.connects.serve(calls);
        this.settle();
        let [channel, deaths] = [ours[0].revents, ours[1].revents];
        if deaths != 0 || std::mem::take(&mut this.more_are_dead) {
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
pub(super) fn refuse(mut channel: Channel<'_>, failure: &CageFailure) -> Result<(), ()> {
    while let Some(packet) = channel.take_aside() {
        channel.reply(packet.body.id, Err(Refusal::Cage(failure.clone())));
    }
    loop {
        if channel.flush().is_err() {
            return Ok(());
        }
        let mut list = [channel.poll(false)];
        match sys::fd::poll_all(&mut list, -1) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err(()),
        }
        match channel.receive() {
            Ok(Some(packet)) => channel.reply(packet.body.id, Err(Refusal::Cage(failure.clone()))),
            Ok(None) => {}
            Err(Ended) => return Ok(()),
        }
    }
}

/// A [`Request::Holders`].
struct Look {
    id: RequestId,
    inode: u64,
    mappings: bool,
    connector: bool,
}

impl Loop<'_> {
    fn take_requests(&mut self) -> Result<(), Ended> {
        let mut looks = Vec::new();
        for _ in 0..BURST {
            let Some(packet) = self.channel.receive()? else { break };
            self.take(packet, &mut looks);
        }
        self.look(&looks);
        Ok(())
    }

    fn take(&mut self, Packet { body: ToInit { id, request }, fds }: Packet<ToInit>, looks: &mut Vec<Look>) {
        if let Request::Holders { inode, mappings, connector } = request {
            return looks.push(Look { id, inode, mappings, connector });
        }
        if let Request::Spawn { agent, stdio } = request {
            return match self.begin(&agent, stdio, fds) {
                Ok(starting) => self.starting.push(Awaited::new(id, agent, starting)),
                Err(refusal) => self.channel.reply(id, Err(refusal)),
            };
        }
        let reply = match self.cage.handouts.answer(request, fds) {
            Ok(reply) => reply,
            Err((request, _)) => self.answer(request),
        };
        self.channel.reply(id, reply);
    }

    /// Whether the agent that connected this socket may have its programs looked through.
    fn may_look(&self, inode: u64) -> bool {
        self.allowances.has_left(self.cage.connects.origin(inode), Instant::now())
    }

    /// Answers all who ask for the holders of a socket by one walk through the processes: it is most of the work, and
    /// begins after each was asked.
    fn look(&mut self, looks: &[Look]) {
        if looks.is_empty() {
            return;
        }
        // Whoever made one of these sockets has executed its program, and is looked at.
        self.settle();
        if self.cage.standby.is_some() {
            // The first process takes it: nobody has run yet, so nobody holds anything.
            for look in looks {
                let connector = look.connector.then_some(Connector::Unknown);
                self.channel
                    .reply(look.id, Ok((Answer::Holders { holders: Vec::new(), connector }, Vec::new())));
            }
            return;
        }
        let (looks, indebted): (Vec<&Look>, Vec<&Look>) =
            looks.iter().partition(|look| !look.mappings || self.may_look(look.inode));
        for look in indebted {
            self.channel.reply(look.id, Err(Refusal::Indebted));
        }
        for mappings in [true, false] {
            let alike: Vec<&Look> = looks.iter().copied().filter(|look| look.mappings == mappings).collect();
            if alike.is_empty() {
                continue;
            }
            let likely = |inode| Wanted { inode, likely: self.cage.connects.place(inode) };
            let wanted: Vec<Wanted> = alike.iter().map(|look| likely(look.inode)).collect();
            let threads = !self.cage.confinement.filters();
            let starting: Vec<i32> = self.starting.iter().map(Awaited::pid).collect();
            let lens = Lens { mappings, writable: &self.cage.writable, threads, starting: &starting };
            // All of them were looked at by now, so one look at what each maker executes is late enough for all.
            let mut images = Images::default();
            for (look, Looked { result, took }) in alike.into_iter().zip(holders::holders(&wanted, lens)) {
                self.allowances.charge(self.cage.connects.origin(look.inode), took, Instant::now());
                let reply = result.map(|Found { holders, executables }| {
                    let connector = look.connector.then(|| self.connector(look.inode, &holders, &mut images));
                    (Answer::Holders { holders, connector }, executables)
                });
                self.channel.reply(look.id, reply);
            }
        }
    }

    /// Hears what those on their way have said. Whoever has executed its program is in the table then: nobody else has run any.
    fn settle(&mut self) {
        for awaited in std::mem::take(&mut self.starting) {
            self.hear(awaited);
        }
    }

    /// All that one has said, and its asker answered; it is on the list again while it is on its way.
    fn hear(&mut self, mut awaited: Awaited) {
        loop {
            match awaited.hear() {
                None => return self.starting.push(awaited),
                Some(News::Listener(listener)) => {
                    self.cage.connects.listen(listener, Some(&awaited.agent));
                }
                Some(News::Refused(refusal)) => {
                    self.channel.reply(awaited.id, Err(refusal));
                    return awaited.give_up();
                }
                Some(News::Executed) => {
                    let (id, agent, Process { pid, start_time, masters }) = awaited.into_process();
                    let (kept, given) =
                        masters.map_or((None, None), |[kept, given]| (Some(kept), Some(given)));
                    let record = self.table.add(&agent, pid, start_time, kept);
                    return self
                        .channel
                        .reply(id, Ok((Answer::Spawned(record), given.into_iter().collect())));
                }
            }
        }
    }

    /// Sends what can be sent now: replies first, then deaths.
    fn flush(&mut self) -> Result<(), Ended> {
        if !self.channel.flush()? {
            return Ok(());
        }
        while let Some((event, told)) = self.table.unannounced() {
            match self.channel.wire().send(&FromInit::Event(event), &[], Some(std::time::Duration::ZERO)) {
                Err(WireError::NotReady) => return Ok(()),
                Err(WireError::Closed) => return Err(Ended),
                Ok(()) | Err(_) => *told = true,
            }
        }
        Ok(())
    }

    /// Takes dead children, ours and those that we inherited. More than these wait for the next time: agents make children of ours as
    /// fast as we take them (clone(2), `CLONE_PARENT`).
    fn reap(&mut self) {
        for _ in 0..REAPED_AT_ONCE {
            let (pid, status) = match sys::process::reap_any() {
                Ok(Some((pid, status))) => (pid, ExitStatus::from(status)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(None) | Err(_) => return,
            };
            if let Some(mut standby) = self.cage.standby.take_if(|standby| standby.pid() == pid) {
                standby.note_reaped();
            }
            // It may have executed its program since it was last heard.
            if let Some(at) = self.starting.iter().position(|awaited| awaited.pid() == pid) {
                let mut awaited = self.starting.swap_remove(at);
                awaited.note_reaped();
                self.hear(awaited);
            }
            self.table.ended(pid, status);
        }
        self.more_are_dead = true;
    }

    fn answer(&mut self, request: Request) -> Reply {
        let done = Ok((Answer::Done, Vec::new()));
        match request {
            Request::Report => Ok((Answer::Report(self.cage.report.clone()), Vec::new())),
            Request::Signal { process, signo, group } => {
                let entry = self.table.find(process)?;
                // Between its death and our reaping the pid is still its own: nobody else can be hit.
                if entry.is_running() {
                    sys::signals::kill(entry.record.pid, group, signo).or_else(|error| {
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
            Request::NoteEnd { process } => self.table.note_end(process).map(|()| (Answer::Done, Vec::new())),
            Request::Remember { agent, status } => {
                if agent.len() > MAX_AGENT_NAME {
                    return Err(Refusal::Invalid("the agent's name is too long".into()));
                }
                self.table.remember(&agent, status).map(|()| (Answer::Done, Vec::new()))
            }
            Request::PtyMaster { process } => {
                let master = self.table.find(process)?.master.as_ref();
                let master = master.ok_or_else(|| Refusal::Invalid("it has no terminal".into()))?;
                descriptor(master.try_clone())
            }
            Request::Capture { port } => self.capture(port),
            Request::CaptureOnly { ports } => {
                self.cage.captured.retain(|port, _| ports.contains(port));
                done
            }
            Request::Refusals => {
                let witness = self.cage.gate.as_ref().and_then(Gate::witness);
                let none =
                    || Refusal::Invalid("nobody sees what is refused: no gate, or no packet sockets".into());
                descriptor(witness.ok_or_else(none)?.try_clone())
            }
            Request::ConnectTcp { address } => descriptor(network::connect_tcp(address)),
            // Such questions are answered together, see `look`, and these when the process has begun, see `hear`.
            Request::Holders { .. } | Request::Spawn { .. } => {
                Err(Refusal::Invalid("a look or a start among other requests".into()))
            }
            // Answered before, by `Handouts`.
            Request::ListenTcp { .. } | Request::BindUdp { .. } | Request::Diag | Request::RunFile { .. } => {
                Err(Refusal::Invalid("nothing to hand out".into()))
            }
            Request::KillStrays { agent } => {
                let mut running = self.table.running();
                running.extend(self.starting.iter().map(Awaited::pid));
                strays::kill(&agent, &running).map_err(system("looking for strays"))?;
                done
            }
        }
    }

    fn connector(&self, inode: u64, holders: &[Holder], now: &mut Images) -> Connector {
        let missing = &self.cage.report.missing;
        let unproven = missing.iter().any(|missing| missing.control == Control::ConnectNotify);
        if unproven || !self.cage.confinement.asks() {
            return Connector::Unwatched;
        }
        self.cage.connects.connector(inode, holders, now)
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

    fn begin(&mut self, agent: &str, stdio: Stdio, fds: Vec<OwnedFd>) -> Result<Starting, Refusal> {
        if agent.is_empty() || agent.len() > MAX_AGENT_NAME {
            return Err(Refusal::Invalid(format!("an agent's name has 1 to {MAX_AGENT_NAME} bytes")));
        }
        // A death not yet reaped must not stand in the way of the restart that it causes.
        self.reap();
        self.settle();
        // Who asked before is gone, a supervisor that died or an actor that did: nobody asks twice.
        for awaited in self.starting.extract_if(.., |awaited| awaited.agent == agent) {
            awaited.give_up();
        }
        self.table.admit(agent, self.starting.len())?;
        if self.cage.connects.is_full() {
            return Err(Refusal::TooMany("processes started, or left behind by ended ones".into()));
        }
        let starting = spawn::begin(&self.cage.confinement, &mut self.cage.standby, stdio, fds)?;
        if starting.watched {
            self.cage.connects.prover_becomes(agent);
        }
        Ok(starting)
    }
}
