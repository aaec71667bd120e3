//! Init's loop once the cage is proven: requests in, replies and deaths out, children reaped.
//!
//! Deaths wait in the table, not in the channel's queue, so none is lost however long no supervisor listens,
//! or the kernel refuses to send.

use super::allowance::Allowances;
use super::asleep::Asleep;
use super::birthmark::Birthmarks;
use super::channel::{Channel, Ended, Reply, Sent};
use super::flood::Floods;
use super::handouts::{descriptor, system};
use super::looks::Look;
use super::patience::Waits;
use super::searches::Searches;
use super::starting::{Awaited, News, Process, Starting};
use super::strays::Progress;
use super::table::Table;
use super::{Cage, spawn};
use crate::credential_files::Keeper;
use crate::isolation::gate::Gate;
use crate::isolation::network;
use crate::protocol::{
    Answer, CageFailure, Event, ExitStatus, MAX_AGENT_NAME, Refusal, Request, Stdio, ToInit,
};
use crate::sys;
use crate::wire::Packet;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Interval of the looks at credential files, and so how long a known one may stay open to others: a look
/// costs a few dozen system calls.
const BEAT: Duration = Duration::from_millis(BEAT_MILLISECONDS as u64);
const BEAT_MILLISECONDS: i32 = 1000;
/// Requests served before children are reaped again.
const BURST: usize = 16;
/// Children reaped at a time, before other work has a turn.
const REAPED_AT_ONCE: usize = 256;
/// Events that may wait in `news`; beyond it the oldest are lost.
const MAX_NEWS: usize = 64;
/// Of what there were too many when no socket is left for another port.
const TOO_MANY_PORTS: &str = "ports captured in turn; starting the sandbox again mends it";

pub(super) struct Loop<'a> {
    pub(super) channel: Channel<'a>,
    pub(super) cage: Cage,
    table: Table,
    /// Children that have yet to execute their programs, and are not in the table yet.
    pub(super) starting: Vec<Awaited>,
    /// Dead children may be left whose SIGCHLD was taken already.
    more_are_dead: bool,
    /// What looks at each agent's programs have cost.
    pub(super) allowances: Allowances,
    /// How much time init has spent waiting for a processor.
    pub(super) waits: Waits,
    /// Processes that looks need not look through.
    pub(super) asleep: Asleep,
    pub(super) floods: Floods,
    /// Events to be sent when the supervisor has room for them; see [`MAX_NEWS`].
    pub(super) news: VecDeque<Event>,
    /// Tells which agent a process belongs to.
    pub(super) birthmarks: Birthmarks,
    /// Searches for what ended agents have left behind.
    searches: Searches,
}

/// Serves until the channel ends. `Err` when the loop itself failed.
pub(super) fn serve(channel: Channel<'_>, cage: Cage) -> Result<(), ()> {
    let signals = sys::signals::fd(&[libc::SIGCHLD]).map_err(drop)?;
    let asleep = Asleep::new(!cage.confinement.filters());
    let mut this = Loop {
        channel,
        cage,
        table: Table::default(),
        starting: Vec::new(),
        more_are_dead: false,
        allowances: Allowances::default(),
        waits: Waits::of_this_process(),
        asleep,
        floods: Floods::default(),
        news: VecDeque::new(),
        birthmarks: Birthmarks::new(),
        searches: Searches::default(),
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
        let woken = match this.wait(signals.as_fd()) {
            Ok(woken) => woken,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err(()),
        };
        // By the clock, not when idle: an agent that keeps us busy must not put it off.
        if last_beat.elapsed() >= BEAT {
            last_beat = Instant::now();
            keeper.as_mut().map(Keeper::beat);
        }
        // Served first: a process waits in each of these calls.
        this.cage.connects.serve(woken.calls());
        this.settle();
        if woken.by_deaths() || std::mem::take(&mut this.more_are_dead) {
            this.take_deaths(signals.as_fd());
        }
        if woken.by_requests() && this.take_requests().is_err() {
            return Ok(());
        }
        this.search();
        if this.flush().is_err() || woken.by_the_end() {
            return Ok(());
        }
    }
}

/// What poll(2) saw, in this order: the channel, deaths, starting children, and agents' calls that wait.
struct Woken {
    polled: Vec<libc::pollfd>,
    /// How many of `polled` come before the agents' calls.
    ours: usize,
}

impl Woken {
    fn of(&self, index: usize) -> i16 {
        self.polled.get(index).map_or(0, |fd| fd.revents)
    }

    fn by_requests(&self) -> bool {
        self.of(0) & libc::POLLIN != 0
    }

    /// The channel is closed, and nothing is left in it.
    fn by_the_end(&self) -> bool {
        self.of(0) & (libc::POLLHUP | libc::POLLERR) != 0 && !self.by_requests()
    }

    fn by_deaths(&self) -> bool {
        self.of(1) != 0
    }

    fn calls(&self) -> &[libc::pollfd] {
        self.polled.get(self.ours..).unwrap_or_default()
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
        match sys::fd::poll_all(&mut list, channel.sleep(-1)) {
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

impl Loop<'_> {
    /// Waits until there is something to do.
    fn wait(&mut self, deaths: BorrowedFd<'_>) -> io::Result<Woken> {
        let mut polled = vec![
            self.channel.poll(self.table.unannounced().is_some() || !self.news.is_empty()),
            libc::pollfd { fd: deaths.as_raw_fd(), events: libc::POLLIN, revents: 0 },
        ];
        polled.extend(self.starting.iter().map(Awaited::poll));
        let ours = polled.len();
        polled.extend(self.cage.connects.polls());
        // While nothing runs, no file appears and no deadline ends.
        let idle = self.table.running().is_empty() && self.starting.is_empty();
        let patience = match (self.searches.sleep(), self.more_are_dead, idle) {
            (Some(milliseconds), ..) => milliseconds,
            (None, true, _) => 0,
            (None, false, true) => -1,
            (None, false, false) => BEAT_MILLISECONDS,
        };
        sys::fd::poll_all(&mut polled, self.channel.sleep(patience))?;
        Ok(Woken { polled, ours })
    }

    fn take_deaths(&mut self, signals: BorrowedFd<'_>) {
        while sys::fd::read(signals, &mut [0; 1024]).is_ok_and(|n| n > 0) {}
        match self.searches.keep_the_dead() {
            true => self.more_are_dead = true,
            false => self.reap(),
        }
    }

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
        if let Request::KillStrays { agent } = request {
            let refused = self.searches.begin(id, agent, &mut self.birthmarks);
            return refused.into_iter().for_each(|(id, refusal)| self.channel.reply(id, Err(refusal)));
        }
        let reply = match self.cage.handouts.answer(request, fds) {
            Ok(reply) => reply,
            Err((request, _)) => self.answer(request),
        };
        self.channel.reply(id, reply);
    }

    /// Goes on with a search for strays, for as long as it may keep others waiting.
    fn search(&mut self) {
        let starting = self.starting.iter().map(Awaited::pid);
        let (birthmarks, waits) = (&self.birthmarks, &self.waits);
        let Some((id, over)) = self.searches.go_on(&self.table, starting, birthmarks, waits) else { return };
        let reply = match over {
            Ok(Progress::Clean) => Ok((Answer::Done, Vec::new())),
            Ok(Progress::Survivors | Progress::UnderWay) => Err(Refusal::Survivors),
            Err(error) => Err(system("looking for strays")(error)),
        };
        self.channel.reply(id, reply);
    }

    /// Hears what starting children have said. Afterwards every child that has executed its program is in the
    /// table, and those that are still on the list have executed none.
    pub(super) fn settle(&mut self) {
        for awaited in std::mem::take(&mut self.starting) {
            self.hear(awaited);
        }
    }

    /// Takes all that a starting child has said, and answers its asker. A child that is still starting goes
    /// back on the list.
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
        let surplus = self.news.len().saturating_sub(MAX_NEWS);
        self.news.drain(..surplus);
        while let Some(event) = self.news.front() {
            match self.channel.tell(event.clone())? {
                Sent::NoRoom | Sent::Later(_) => return Ok(()),
                Sent::Gone | Sent::Never => self.news.pop_front(),
            };
        }
        while let Some((event, told)) = self.table.unannounced() {
            match self.channel.tell(event)? {
                Sent::NoRoom | Sent::Later(_) => return Ok(()),
                Sent::Gone | Sent::Never => *told = true,
            }
        }
        Ok(())
    }

    /// Reaps dead children, our own and those that we inherited, at most [`REAPED_AT_ONCE`]. More wait for
    /// the next time: agents can make children of ours as fast as we reap them (clone(2), `CLONE_PARENT`).
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
            // The child may have executed its program since it was last heard.
            if let Some(at) = self.starting.iter().position(|awaited| awaited.pid() == pid) {
                let mut awaited = self.starting.swap_remove(at);
                awaited.note_reaped();
                self.hear(awaited);
            }
            self.table.ended(pid, status);
            self.searches.note_reaped(pid);
        }
        self.more_are_dead = true;
    }

    fn answer(&mut self, request: Request) -> Reply {
        let done = Ok((Answer::Done, Vec::new()));
        match request {
            Request::Report => Ok((Answer::Report(self.cage.report.clone()), Vec::new())),
            Request::Signal { process, signo } => {
                let entry = self.table.find(process)?;
                // Between its death and our reaping the pid is still its own: nobody else can be hit.
                if entry.is_running() {
                    sys::signals::kill_group(entry.record.pid, signo).or_else(|error| {
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
            Request::Capture { port } => self.capture(port),
            Request::CaptureOnly { ports } => {
                self.release(&ports);
                done
            }
            Request::Refusals => {
                let witness = self.cage.gate.as_ref().and_then(Gate::witness);
                let none =
                    || Refusal::Invalid("nobody sees what is refused: no gate, or no packet sockets".into());
                descriptor(witness.ok_or_else(none)?.try_clone())
            }
            Request::ConnectTcp { address } => descriptor(network::connect_tcp(address)),
            // Answered together, see `look`; when the process has begun, see `hear`; when the search is
            // through, see `search`.
            Request::Holders { .. } | Request::Spawn { .. } | Request::KillStrays { .. } => {
                Err(Refusal::Invalid("a look, a start or a search among other requests".into()))
            }
            // Answered before, by `Handouts`.
            Request::ListenTcp { .. } | Request::BindUdp { .. } | Request::Diag | Request::RunFile { .. } => {
                Err(Refusal::Invalid("nothing to hand out".into()))
            }
        }
    }

    fn capture(&mut self, port: u16) -> Reply {
        if let Some(listener) = self.cage.captured.get(&port) {
            return descriptor(listener.try_clone());
        }
        let why =
            || Refusal::Invalid(self.cage.report.no_capture.clone().unwrap_or_else(|| "no gate".into()));
        let gate = self.cage.gate.as_mut().ok_or_else(why)?;
        let listener = gate.listen(port).map_err(system("capturing a port"))?;
        let listener = listener.ok_or_else(|| Refusal::TooMany(TOO_MANY_PORTS.into()))?;
        let copy = listener.try_clone().map_err(system("dup"))?;
        self.cage.captured.insert(port, listener);
        descriptor(Ok(copy))
    }

    /// Captures no port any more but these.
    fn release(&mut self, but: &[u16]) {
        // Without a gate nothing is captured.
        let Some(gate) = &mut self.cage.gate else { return };
        let ports = self.cage.captured.keys().copied().filter(|port| !but.contains(port)).collect::<Vec<_>>();
        for port in ports {
            self.cage.captured.remove(&port).into_iter().for_each(|listener| gate.retire(port, listener));
        }
    }

    fn begin(&mut self, agent: &str, stdio: Stdio, fds: Vec<OwnedFd>) -> Result<Starting, Refusal> {
        if agent.is_empty() || agent.len() > MAX_AGENT_NAME {
            return Err(Refusal::Invalid(format!("an agent's name has 1 to {MAX_AGENT_NAME} bytes")));
        }
        // A death not yet reaped must not stand in the way of the restart that it causes.
        self.reap();
        self.settle();
        // The earlier asker is gone, a supervisor or an actor that died: nobody asks twice.
        for awaited in self.starting.extract_if(.., |awaited| awaited.agent == agent) {
            awaited.give_up();
        }
        self.table.admit(agent, self.starting.len())?;
        if self.searches.hold_back(agent) {
            return Err(Refusal::Survivors);
        }
        if self.cage.connects.is_full() {
            return Err(Refusal::TooMany("processes started, or left behind by ended ones".into()));
        }
        let is_used = |name: &str| self.table.knows(name) || self.searches.hold_back(name);
        let birthmark = self.birthmarks.of_agent(agent, is_used);
        let starting = spawn::begin(&self.cage.confinement, &mut self.cage.standby, birthmark, (stdio, fds))?;
        if starting.watched {
            self.cage.connects.prover_becomes(agent);
        }
        Ok(starting)
    }
}
