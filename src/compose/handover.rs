//! The supervisor's channel to the heart: what it was handed, what it has the heart keep, and what the heart
//! sends.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use agent::protocol::{Beginning, News, Slot, ToHeart, ToSupervisor};
use agent::wire::{AsyncWire, Packet, WireError};

use crate::sealed;
use crate::steps::Steps;
use crate::waits::PING_EVERY;

/// How long to wait before the heart is asked once more to keep a value.
pub const KEEP_AGAIN: Duration = Duration::from_secs(1);

/// What the heart handed to this supervisor.
#[derive(Debug)]
pub struct Handover {
    slots: BTreeMap<String, OwnedFd>,
    /// How many supervisors were started before this one: its number in the heart's life.
    pub predecessors: u32,
    /// How many of them died.
    pub restarts: u32,
    /// Events that may not be on record yet.
    pub news: News,
    /// The situation that this supervisor starts in.
    pub beginning: Beginning,
}

impl Handover {
    /// Takes a descriptor out by its slot's name.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        self.slots.remove(name)
    }

    /// Takes out every descriptor whose slot name begins with `prefix`. The keys are the rests of the names.
    pub fn take_all(&mut self, prefix: &str) -> BTreeMap<String, OwnedFd> {
        let names: Vec<String> = self.slots.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        names
            .into_iter()
            .filter_map(|name| Some((name.strip_prefix(prefix)?.to_owned(), self.slots.remove(&name)?)))
            .collect()
    }

    /// Returns a descriptor without taking it out.
    pub fn find(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.slots.get(name).map(AsFd::as_fd)
    }
}

/// The channel to the heart. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HeartLine {
    wire: Arc<AsyncWire>,
    /// The clock that times the steps of a start and of an end.
    pub steps: Steps,
}

impl HeartLine {
    /// Opens our end of the channel, and receives everything that the heart hands over.
    ///
    /// # Errors
    /// The channel's; [`WireError::Descriptors`] if anything is missing, see [`ToSupervisor::HandoverEnd`].
    pub async fn open(fd: OwnedFd) -> Result<(Self, Handover), WireError> {
        let wire = AsyncWire::new(fd)?;
        let mut slots = BTreeMap::new();
        loop {
            let Packet { body, fds } = wire.recv::<ToSupervisor>().await?;
            match body {
                ToSupervisor::Handover { slot } => {
                    let fd = fds.into_iter().next().ok_or(WireError::Descriptors)?;
                    slots.insert(slot.0, fd);
                }
                ToSupervisor::HandoverEnd {
                    slots: sent,
                    predecessors,
                    supervisor_restarts,
                    news,
                    beginning,
                } => {
                    if u32::try_from(slots.len()) != Ok(sent) {
                        return Err(WireError::Descriptors);
                    }
                    let handover =
                        Handover { slots, predecessors, restarts: supervisor_restarts, news, beginning };
                    return Ok((Self { wire: Arc::new(wire), steps: Steps::default() }, handover));
                }
                // Sent only after the end of the handover.
                ToSupervisor::Signal(_)
                | ToSupervisor::Winch
                | ToSupervisor::Turn { .. }
                | ToSupervisor::Ping => {}
            }
        }
    }

    /// Asks the heart to keep a descriptor for our successor.
    pub async fn keep(&self, slot: &str, fd: BorrowedFd<'_>) -> Result<(), WireError> {
        self.wire.send(&ToHeart::Keep { slot: Slot::new(slot) }, &[fd]).await
    }

    /// Has the heart keep a value for our successor, as sealed JSON. Tries until it is sent: what the heart
    /// doesn't have is lost with this process. `value` is asked again each time, so that the newest is sent.
    pub async fn keep_value<T: serde::Serialize>(&self, slot: &str, value: impl Fn() -> T) {
        let mut was_told = false;
        while let Err(why) = self.try_keep(slot, &value()).await {
            if matches!(why, WireError::Closed) {
                // The heart is gone: there will be no successor.
                return;
            }
            if !std::mem::replace(&mut was_told, true) {
                tracing::error!(%why, "the heart can't keep `{slot}` for a supervisor after this one; it is tried again");
            }
            tokio::time::sleep(KEEP_AGAIN).await;
        }
    }

    /// As [`Self::keep_value`], once.
    pub async fn try_keep<T: serde::Serialize>(&self, slot: &str, value: &T) -> Result<(), WireError> {
        let fd = sealed::seal_json(&format!("cofferdam-{slot}"), value)?;
        self.keep(slot, fd.as_fd()).await
    }

    /// Asks the heart to close a kept descriptor.
    pub async fn release(&self, slot: &str) -> Result<(), WireError> {
        self.wire.send(&ToHeart::Release { slot: Slot::new(slot) }, &[]).await
    }

    /// Tells the heart that this supervisor is ready.
    pub async fn ready(&self) -> Result<(), WireError> {
        self.wire.send(&ToHeart::Ready, &[]).await
    }

    /// Tells the heart that this supervisor is alive: it was pinged, or still starts.
    pub async fn alive(&self) -> Result<(), WireError> {
        self.wire.send(&ToHeart::Alive, &[]).await
    }

    /// Tells the heart again and again that this supervisor is alive, while it starts and answers no pings.
    /// For a task of its own: what blocks the start's must not silence it.
    pub async fn stay_alive(self) {
        let first = tokio::time::Instant::now() + PING_EVERY;
        let mut turns = tokio::time::interval_at(first, PING_EVERY);
        loop {
            turns.tick().await;
            // A full buffer is the heart's to empty, and its death is another's to see.
            let _ = self.alive().await;
        }
    }

    /// Tells the heart that the news that it handed over are on disk.
    pub async fn on_record(&self) -> Result<(), WireError> {
        self.wire.send(&ToHeart::OnRecord, &[]).await
    }

    /// Tells the heart that the sandbox is to end, and the grace that the agents get.
    pub async fn stopping(&self, grace: Duration) -> Result<(), WireError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.wire.send(&ToHeart::Stopping { grace_ms }, &[]).await
    }

    /// Tells the heart that the agents are over, so that it kills init. [`Self::finish`] must follow.
    pub async fn over(&self, exit_code: u8, message: Option<String>) -> Result<(), WireError> {
        let message = message.map(clipped);
        self.wire.send(&ToHeart::Over { exit_code: exit_code.into(), message }, &[]).await
    }

    /// Tells the heart to end the sandbox with this code and these messages.
    pub async fn finish(
        &self,
        exit_code: u8,
        refused: Option<String>,
        message: Option<String>,
    ) -> Result<(), WireError> {
        if self.steps.are_wanted() {
            let steps = self.steps.take();
            let told = steps.into_iter().map(|step| (step.what, step.at)).collect();
            self.wire.send(&ToHeart::Steps(told), &[]).await?;
        }
        let (refused, message) = (refused.map(clipped), message.map(clipped));
        self.wire.send(&ToHeart::Finish { exit_code: exit_code.into(), refused, message }, &[]).await
    }

    /// Waits for the heart's next message. Returns an error when the heart is gone.
    pub async fn hear(&self) -> Result<ToSupervisor, WireError> {
        Ok(self.wire.recv::<ToSupervisor>().await?.body)
    }
}

/// Bytes of a text for the heart at most, so that two of them fit into a packet: one that doesn't go out
/// would leave the sandbox without an end.
const TEXT_MAX: usize = 24 * 1024;

fn clipped(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent::wire::{self, Wire};

    /// What a supervisor makes of these packets: each a slot, with its descriptor or without, and then the
    /// end of the handover, which says that there were `sent`.
    async fn handed(slots: &[(&str, bool)], sent: u32) -> Result<Handover, WireError> {
        let (ours, theirs) = wire::pair().unwrap();
        let heart = Wire::new(ours).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        for (name, has_fd) in slots {
            let fds: &[BorrowedFd<'_>] = if *has_fd { &[null.as_fd()] } else { &[] };
            heart.send(&ToSupervisor::Handover { slot: Slot::new(*name) }, fds, None).unwrap();
        }
        let end = ToSupervisor::HandoverEnd {
            slots: sent,
            predecessors: 3,
            supervisor_restarts: 2,
            news: News::default(),
            beginning: Beginning::Succession,
        };
        heart.send(&end, &[], None).unwrap();
        HeartLine::open(theirs).await.map(|(_, handover)| handover)
    }

    #[tokio::test]
    async fn nothing_begins_with_less_than_everything() {
        let handover = handed(&[("plan", true), ("pins", true)], 2).await.unwrap();
        assert!(handover.find("plan").is_some() && handover.find("pins").is_some());
        assert_eq!((handover.predecessors, handover.restarts), (3, 2));
        for (slots, sent) in
            [(&[("plan", true)][..], 2), (&[("plan", true), ("pins", false)][..], 2), (&[][..], 1)]
        {
            let refused = handed(slots, sent).await;
            assert!(matches!(refused, Err(WireError::Descriptors)), "{slots:?} of {sent}: {refused:?}");
        }
    }
}
