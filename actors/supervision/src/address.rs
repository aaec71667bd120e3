//! Stable addresses. A restarted actor is a new actor with a new mailbox, so code outside the tree must not
//! hold an `ActorRef`. It holds an [`Address`] instead: a slot that the supervisor fills at each start and
//! empties when the actor ends.
//!
//! An address never buffers: a message that cannot be delivered now is returned, or the caller waits with a
//! deadline.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use ractor::{ActorId, ActorRef, Message, MessagingErr, RpcReplyPort};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

/// Where an actor can be reached, whichever incarnation of it is up. Cheap to clone.
pub struct Address<M> {
    slot: Arc<Slot<M>>,
}

struct Slot<M> {
    name: Arc<str>,
    // Read on every cast, without a lock.
    actor: ArcSwapOption<ActorRef<M>>,
    // Counts the fills, and wakes the callers that wait for one.
    fills: watch::Sender<u64>,
}

/// A message that could not be delivered because its actor is down, with the message.
#[derive(thiserror::Error)]
#[error("`{name}` is down")]
pub struct Undelivered<M> {
    /// The message, unsent.
    pub message: M,
    /// Name of the actor.
    pub name: Arc<str>,
}

impl<M> std::fmt::Debug for Undelivered<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Undelivered").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a call got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The actor was not up within the deadline. The message was never delivered.
    #[error("`{name}` did not come up within {waited:?}")]
    Down {
        /// Name of the actor.
        name: Arc<str>,
        /// The deadline given.
        waited: Duration,
    },
    /// The message was delivered, and no answer came within the deadline. It may still be acted upon.
    #[error("`{name}` did not answer within {waited:?}")]
    TimedOut {
        /// Name of the actor.
        name: Arc<str>,
        /// The deadline given.
        waited: Duration,
    },
    /// The message was delivered, and its actor ended or dropped the reply. It may have been acted
    /// upon, so it is not sent again.
    #[error("`{name}` ended before it answered")]
    Lost {
        /// Name of the actor.
        name: Arc<str>,
    },
}

impl<M: Message> Address<M> {
    /// An empty address. The name is for people; it need not be unique.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let slot = Slot { name: name.into(), actor: ArcSwapOption::empty(), fills: watch::Sender::new(0) };
        Self { slot: Arc::new(slot) }
    }

    /// The address of an actor that nobody supervises, such as one in a test.
    pub fn of(name: impl Into<Arc<str>>, actor: ActorRef<M>) -> Self {
        let address = Self::new(name);
        address.fill(actor);
        address
    }

    /// The name given to it.
    pub fn name(&self) -> &str {
        &self.slot.name
    }

    /// Whether the actor is up now. The answer may be outdated at once: only for display.
    pub fn is_up(&self) -> bool {
        self.slot.actor.load().is_some()
    }

    /// Sends without waiting. If the actor is down the message comes back.
    ///
    /// Delivered means put into the mailbox: if the actor ends before it handles the message, the message is
    /// lost.
    pub fn cast(&self, message: M) -> Result<(), Undelivered<M>> {
        match self.slot.actor.load().as_deref() {
            Some(actor) => self.send(actor, message),
            None => Err(Undelivered { message, name: self.slot.name.clone() }),
        }
    }

    /// Sends and waits for the answer. Waits for the actor to be up first; `deadline` covers both.
    pub async fn call<T: Send + 'static>(
        &self,
        make: impl FnOnce(RpcReplyPort<T>) -> M,
        deadline: Duration,
    ) -> Result<T, CallError> {
        let until = Instant::now() + deadline;
        let (tx, rx) = oneshot::channel();
        let mut message = make(tx.into());
        let mut fills = self.slot.fills.subscribe();
        // Between two incarnations the message is returned: offer it to the next one.
        while let Err(back) = self.cast(message) {
            message = back.message;
            self.next_fill(&mut fills, until, deadline).await?;
        }
        match timeout_at(until, rx).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(CallError::Lost { name: self.slot.name.clone() }),
            Err(_) => Err(CallError::TimedOut { name: self.slot.name.clone(), waited: deadline }),
        }
    }

    /// Waits until the actor is up.
    pub async fn wait_up(&self, deadline: Duration) -> Result<(), CallError> {
        let until = Instant::now() + deadline;
        let mut fills = self.slot.fills.subscribe();
        while !self.is_up() {
            self.next_fill(&mut fills, until, deadline).await?;
        }
        Ok(())
    }

    async fn next_fill(
        &self,
        fills: &mut watch::Receiver<u64>,
        until: Instant,
        waited: Duration,
    ) -> Result<(), CallError> {
        // `changed` fails only when the sender is gone, and `self` holds it.
        match timeout_at(until, fills.changed()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(CallError::Down { name: self.slot.name.clone(), waited }),
        }
    }

    fn send(&self, actor: &ActorRef<M>, message: M) -> Result<(), Undelivered<M>> {
        match actor.send_message(message) {
            Ok(()) => Ok(()),
            Err(MessagingErr::SendErr(message)) => Err(Undelivered { message, name: self.slot.name.clone() }),
            // Only a wrongly typed or remote reference gives these errors, and `fill` takes neither.
            Err(MessagingErr::ChannelClosed | MessagingErr::InvalidActorType) => {
                unreachable!("an address holds local actors of its own message type only")
            }
        }
    }

    /// Puts an incarnation behind the address.
    pub(crate) fn fill(&self, actor: ActorRef<M>) {
        // `ActorRef<M>` can be made of any cell; a wrong one would swallow messages.
        if actor.get_id().is_local() && actor.is_message_type_of::<M>() == Some(true) {
            self.slot.actor.store(Some(Arc::new(actor)));
            self.slot.fills.send_modify(|fills| *fills = fills.wrapping_add(1));
        }
    }

    /// Empties the address, unless a later incarnation is behind it already.
    pub(crate) fn vacate(&self, id: ActorId) {
        self.slot.actor.rcu(|now| match now {
            Some(actor) if actor.get_id() == id => None,
            other => other.clone(),
        });
    }
}

impl<M> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self { slot: self.slot.clone() }
    }
}

impl<M> std::fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address").field("name", &self.slot.name).finish_non_exhaustive()
    }
}
