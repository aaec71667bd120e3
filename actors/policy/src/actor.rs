//! The reloader actor: watches the policy's file and puts new policies in force, one after the other.
//!
//! A restart of the actor loses nothing: the store, and what was last seen of the file, are in the [`Loader`]
//! that the actor is given. While the actor is down, everything goes on with the last good generation.

use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use supervision::{Duty, DutyEnded};

use crate::approved::Approved;
use crate::reload::{Loader, Published, Read, Refused, Reloaded};
use crate::watch::{Look, watch};

/// A message to the reloader.
#[derive(Debug)]
pub enum Msg {
    /// Put this text in force. While the actor is down the message waits, within the caller's deadline.
    Set {
        /// The policy.
        text: String,
        /// Told what came of it.
        reply: RpcReplyPort<Result<Published, Refused>>,
    },
    /// Put the policy in force once more, with this list in place of all earlier approvals. While the actor
    /// is down the message waits, within the caller's deadline.
    Approve {
        /// What was approved.
        approved: Vec<Approved>,
        /// Told what came of it.
        reply: RpcReplyPort<Result<Published, Refused>>,
    },
    /// Read the file again. While the actor is down the message is dropped: a starting actor reads the file
    /// anyway.
    Reload(Look),
    /// The file was read, by the reading of this number. (What a predecessor began is dropped with it: a
    /// starting actor reads the file anyway.)
    FileRead(Look, Read, u64),
    /// The watch on the file ended: the actor fails, and its successor watches again. While the actor is down
    /// the message is dropped.
    DutyEnded(DutyEnded),
    /// Panic (fault injection). While the actor is down the message is dropped.
    InjectPanic,
}

/// Readings of the file at a time, each of which holds a thread.
const MAX_READINGS: u64 = 3;
/// How long a reading may take before the operator is told.
const TELL_AFTER: Duration = Duration::from_secs(10);

/// The reloader.
#[derive(Debug, Default)]
pub struct PolicyActor;

/// The reloader's state.
pub struct State {
    loader: Loader,
    /// Readings of the file that are under way. A file system may take as long as it likes (a dead server's
    /// takes for ever), so that nothing here waits for one.
    under_way: u64,
    /// The number of the last reading that was begun.
    begun: u64,
    /// The number of the latest reading that has ended: what an earlier one finds is out of date.
    ended: u64,
    /// The last reading that was begun when a policy was set by hand, which counts as the later.
    set_after: u64,
    /// What the file is to be read for once more after those under way.
    again: Option<Look>,
    /// The watch on the file, if there is one.
    _watch: Option<Duty>,
}

impl State {
    /// Has the file read, beside everything else; one reading at a time. Who asks for one by hand gets
    /// another beside it: the first may be waiting for a server that never answers, at a path that leads
    /// elsewhere now.
    fn read(&mut self, myself: &ActorRef<Msg>, look: Look) {
        let is_free = self.under_way == 0 || look == Look::Meant && self.under_way < MAX_READINGS;
        if !is_free {
            self.again = self.again.max(Some(look));
            return;
        }
        self.under_way += 1;
        self.begun += 1;
        let (loader, me, number) = (self.loader.clone(), myself.clone(), self.begun);
        tokio::spawn(async move {
            let mut reading = tokio::task::spawn_blocking(move || loader.read());
            let read = match tokio::time::timeout(TELL_AFTER, &mut reading).await {
                Ok(read) => read,
                Err(_) => {
                    let seconds = TELL_AFTER.as_secs();
                    tracing::error!(
                        seconds,
                        "the policy's file can't be read yet; the policy in force stays, and `policy set` changes it"
                    );
                    reading.await
                }
            };
            let message = match read {
                Ok(read) => Msg::FileRead(look, read, number),
                Err(panic) => Msg::DutyEnded(DutyEnded {
                    what: "reading the policy's file".into(),
                    why: panic.to_string(),
                }),
            };
            let _ = me.cast(message);
        });
    }
}

impl Actor for PolicyActor {
    type Msg = Msg;
    type State = State;
    type Arguments = Loader;

    async fn pre_start(&self, myself: ActorRef<Msg>, loader: Loader) -> Result<State, ActorProcessingErr> {
        // The watcher reports once when it has begun, so a change made while no actor watched is read then.
        let watch = loader.path().map(|path| {
            let (path, me) = (path.to_owned(), myself.clone());
            Duty::begin(&myself, Msg::DutyEnded, "the watch on the policy's file", async move {
                watch(path, move |look| me.cast(Msg::Reload(look)).is_ok()).await;
                Ok(())
            })
        });
        Ok(State { loader, under_way: 0, begun: 0, ended: 0, set_after: 0, again: None, _watch: watch })
    }

    async fn handle(
        &self,
        myself: ActorRef<Msg>,
        msg: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let loader = state.loader.clone();
        match msg {
            // Whoever asked was told by now that it failed: done late, it would be nobody's doing.
            Msg::Set { reply, .. } | Msg::Approve { reply, .. } if reply.is_closed() => {}
            Msg::Set { text, reply } => {
                let result = aside(move || loader.set(&text)).await;
                // What is read of the file now was written before this.
                if result.is_ok() {
                    state.set_after = state.begun;
                }
                let _ = reply.send(result);
            }
            Msg::Approve { approved, reply } => {
                let result = aside(move || loader.approve(approved)).await;
                let _ = reply.send(result);
            }
            Msg::Reload(look) => state.read(&myself, look),
            Msg::FileRead(look, read, number) => {
                state.under_way -= 1;
                if let Some(look) = state.again.take() {
                    state.read(&myself, look);
                }
                if number < state.ended {
                    return Ok(());
                }
                state.ended = number;
                if number <= state.set_after {
                    loader.note(read);
                    return Ok(());
                }
                match aside(move || loader.reload(look, read)).await {
                    Ok(Reloaded::Unchanged) => {}
                    Ok(Reloaded::Published(published)) => {
                        tracing::info!(generation = published.generation, "the policy was reloaded");
                    }
                    // Logged as an error, so that it is seen even where nothing else is: what the operator
                    // wrote is not in force.
                    Err(refused) => tracing::error!("{refused}"),
                }
            }
            Msg::DutyEnded(ended) => return Err(ended.into()),
            #[expect(clippy::panic, reason = "fault injection: proves that a panic here costs nothing")]
            Msg::InjectPanic => panic!("injected"),
        }
        Ok(())
    }
}

/// Runs `work` off the runtime's threads, on which connections wait. A panic in it becomes a panic of the
/// actor.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Cancelled: the runtime is going down, and nobody waits for this any more.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::generation::{Candidate, Store};
    use crate::reload::Seen;

    const TEXT: &str = "version: 1\n";
    const DEADLINE: Duration = Duration::from_secs(60);

    fn loader(path: Option<std::path::PathBuf>) -> Loader {
        let store = Store::new(Candidate::new("p", TEXT, &[]).unwrap());
        Loader::new(store, path, Vec::new(), Seen::of(TEXT), Arc::new(|_| ()))
    }

    async fn set(actor: &ActorRef<Msg>, text: &str) -> Result<Published, Refused> {
        let text = text.to_owned();
        let call = actor.call(|reply| Msg::Set { text, reply }, Some(DEADLINE));
        call.await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn set_publishes_or_says_why_not() {
        let loader = loader(None);
        let (actor, handle) = Actor::spawn(None, PolicyActor, loader.clone()).await.unwrap();
        assert_eq!(set(&actor, "version: 1 # two\n").await.unwrap().generation, 2);
        assert!(matches!(set(&actor, "version: 7\n").await, Err(Refused::Rejected(_))));
        assert_eq!(loader.store().load().number, 2);
        actor.stop(None);
        handle.await.unwrap();
    }

    /// As on a server that is gone: reading goes on until the test ends.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_file_that_cant_be_read_to_its_end_holds_up_no_operator() {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (began, begins) = std::sync::mpsc::channel();
        let (gate, readings) = (std::sync::Mutex::new(released), AtomicUsize::new(0));
        let loader = loader(Some("/on/a/server".into())).reading_by(Arc::new(move |_| {
            began.send(()).unwrap();
            if readings.fetch_add(1, Ordering::SeqCst) > 0 {
                return Ok("version: 1 # elsewhere\n".to_owned());
            }
            let _released = gate.lock().unwrap().recv();
            Ok("version: 1 # before\n".to_owned())
        }));
        let mut generations = loader.store().subscribe();
        let (actor, handle) = Actor::spawn(None, PolicyActor, loader.clone()).await.unwrap();
        // The first of them, the watch's own or ours, hangs.
        begins.recv_timeout(DEADLINE).unwrap();
        assert_eq!(set(&actor, "version: 1 # two\n").await.unwrap().generation, 2);
        actor.cast(Msg::Reload(Look::Meant)).unwrap();
        let published = generations.wait_for(|number| *number == 3);
        tokio::time::timeout(DEADLINE, published).await.expect("read beside it").unwrap();
        assert_eq!(set(&actor, "version: 1 # four\n").await.unwrap().generation, 4);
        // What it finds at last is older than all of that.
        drop(release);
        let text = |loader: &Loader| loader.store().load().source.text.to_string();
        for _ in 0..3 {
            actor.cast(Msg::Reload(Look::Meant)).unwrap();
            begins.recv_timeout(DEADLINE).unwrap();
        }
        assert_eq!(text(&loader), "version: 1 # four\n");
        actor.stop(None);
        handle.await.unwrap();
    }

    /// A reading that began before a policy was set by hand finds what was written before it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_set_by_hand_outlasts_a_reading_that_began_before() {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (began, begins) = std::sync::mpsc::channel();
        let gate = std::sync::Mutex::new(released);
        let loader = loader(Some("/on/a/server".into())).reading_by(Arc::new(move |_| {
            began.send(()).unwrap();
            let _released = gate.lock().unwrap().recv();
            Ok("version: 1 # before\n".to_owned())
        }));
        let mut seen = loader.seen();
        let (actor, handle) = Actor::spawn(None, PolicyActor, loader.clone()).await.unwrap();
        begins.recv_timeout(DEADLINE).unwrap();
        assert_eq!(set(&actor, "version: 1 # set\n").await.unwrap().generation, 2);
        drop(release);
        let noted = seen.wait_for(|seen| *seen == Seen::of("version: 1 # before\n"));
        tokio::time::timeout(DEADLINE, noted).await.unwrap().unwrap();
        assert_eq!(&*loader.store().load().source.text, "version: 1 # set\n");
        actor.stop(None);
        handle.await.unwrap();
    }

    /// What nobody waits for any more was refused as far as anybody knows.
    #[tokio::test]
    async fn what_nobody_waits_for_is_not_done_late() {
        let loader = loader(None);
        let (actor, handle) = Actor::spawn(None, PolicyActor, loader.clone()).await.unwrap();
        let (reply, gone) = ractor::concurrency::oneshot();
        drop(gone);
        actor.cast(Msg::Set { text: "version: 1 # late\n".into(), reply: reply.into() }).unwrap();
        assert_eq!(set(&actor, "version: 1 # in time\n").await.unwrap().generation, 2);
        actor.stop(None);
        handle.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_change_made_while_the_actor_was_dead_is_found_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.yaml");
        std::fs::write(&path, TEXT).unwrap();
        let loader = loader(Some(path.clone()));
        let mut told = loader.store().subscribe();
        let (actor, handle) = Actor::spawn(None, PolicyActor, loader.clone()).await.unwrap();
        actor.cast(Msg::InjectPanic).unwrap();
        handle.await.unwrap();
        std::fs::write(&path, "version: 1 # changed\n").unwrap();
        let (actor, handle) = Actor::spawn(None, PolicyActor, loader.clone()).await.unwrap();
        tokio::time::timeout(DEADLINE, told.changed()).await.unwrap().unwrap();
        assert_eq!(*told.borrow_and_update(), 2);
        std::fs::write(&path, "version: 1 # and again\n").unwrap();
        tokio::time::timeout(DEADLINE, told.changed()).await.unwrap().unwrap();
        assert_eq!(loader.store().load().number, 3);
        actor.stop(None);
        handle.await.unwrap();
    }
}
