//! Tasks that belong to an actor: they end with it, and it fails when one of them ends.
//!
//! An actor whose work is done beside its mailbox (an accept loop, a writer, a watch) lives on when that work
//! panics, unless it is told. Must never outlive its actor, and never end unnoticed.

use std::borrow::Cow;
use std::io;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use ractor::{ActorRef, Message};
use tokio::task::AbortHandle;

use crate::Failure;

/// A task of an actor's, kept in the actor's state: dropping it ends the task, which tells nobody then.
#[derive(Debug)]
#[must_use = "the task ends when this is dropped"]
pub struct Duty(AbortHandle);

/// A [`Duty`] ended while its actor lived. A handler that gets it returns it as its error, so that the actor
/// is restarted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} ended: {why}")]
pub struct DutyEnded {
    /// What the duty was.
    pub what: Cow<'static, str>,
    /// The text of its panic or error, or that it returned.
    pub why: String,
}

impl Duty {
    /// Begins a task that never ends by itself. If it does all the same, by a panic, an error or a return,
    /// `actor` gets a [`DutyEnded`] in the message that `told` makes of it. Sent to an actor that is gone it
    /// is dropped: the end is noticed.
    pub fn begin<M: Message>(
        actor: &ActorRef<M>,
        told: fn(DutyEnded) -> M,
        what: impl Into<Cow<'static, str>>,
        task: impl Future<Output = io::Result<()>> + Send + 'static,
    ) -> Self {
        let (actor, what) = (actor.clone(), what.into());
        let task = tokio::spawn(async move {
            // Nothing that the task leaves half-done is seen by anyone but the next incarnation.
            let why = match AssertUnwindSafe(task).catch_unwind().await {
                Ok(Ok(())) => "it returned".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(panic) => Failure::panic_text(&*panic),
            };
            let _ = actor.cast(told(DutyEnded { what, why }));
        });
        Self(task.abort_handle())
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use ractor::{Actor, ActorProcessingErr};
    use tokio::sync::mpsc;

    use super::*;

    /// How a duty of the test ends.
    #[derive(Clone, Copy)]
    enum Way {
        Returns,
        Errs,
        Panics,
        Never,
    }

    /// Fails with its duty, and says why.
    struct Dutiful(mpsc::UnboundedSender<String>);

    impl Actor for Dutiful {
        type Msg = DutyEnded;
        type State = Duty;
        type Arguments = (Way, Arc<()>);

        async fn pre_start(
            &self,
            myself: ActorRef<DutyEnded>,
            (way, held): (Way, Arc<()>),
        ) -> Result<Duty, ActorProcessingErr> {
            Ok(Duty::begin(&myself, std::convert::identity, "a watch", async move {
                let _held = held;
                match way {
                    Way::Returns => Ok(()),
                    Way::Errs => Err(io::Error::other("out of it")),
                    Way::Panics => panic!("by a panic"),
                    Way::Never => std::future::pending().await,
                }
            }))
        }

        async fn handle(
            &self,
            _: ActorRef<DutyEnded>,
            ended: DutyEnded,
            _: &mut Duty,
        ) -> Result<(), ActorProcessingErr> {
            let _ = self.0.send(ended.to_string());
            Err(ended.into())
        }
    }

    #[tokio::test]
    async fn an_actor_fails_with_its_duty_however_that_ends() {
        for (way, why) in [
            (Way::Returns, "a watch ended: it returned"),
            (Way::Errs, "a watch ended: out of it"),
            (Way::Panics, "a watch ended: by a panic"),
        ] {
            let (tell, mut told) = mpsc::unbounded_channel();
            let (_actor, task) = Actor::spawn(None, Dutiful(tell), (way, Arc::default())).await.unwrap();
            task.await.unwrap();
            assert_eq!(told.recv().await.as_deref(), Some(why));
        }
    }

    #[tokio::test]
    async fn a_duty_ends_with_its_actor() {
        for kill in [false, true] {
            let (tell, _told) = mpsc::unbounded_channel();
            let held = Arc::new(());
            let (actor, task) =
                Actor::spawn(None, Dutiful(tell), (Way::Never, Arc::clone(&held))).await.unwrap();
            if kill {
                actor.kill()
            } else {
                actor.stop(None)
            }
            task.await.unwrap();
            let gone = async {
                while Arc::strong_count(&held) > 1 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), gone).await.expect("the task is gone");
        }
    }
}
