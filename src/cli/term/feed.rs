//! Turns what a sandbox reports into messages for the model: its events as they come, everything else by
//! polling.
//!
//! It polls every [`LOOK`], and sooner if an event says that something has changed. When a supervisor dies,
//! only the connections are lost: the sandbox is asked again until it answers or has ended.

use std::time::Duration;

use futures_util::StreamExt;
use operator::client::{Client, ClientError};
use operator::types::{ApprovalAnswer, ApprovalVerdict, Scope};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tui::Text;
use tui::facts::Answer;
use tui::message::Message;

use super::{figures, told};
use crate::cli::live::SOON;
use crate::cli::ps::{self, Present};
use crate::state::{Name, Root};

/// The time between two polls.
pub const LOOK: Duration = Duration::from_secs(2);
/// The shortest time between two polls, however much happens.
const AT_THE_SOONEST: Duration = Duration::from_millis(200);

/// Reports all running sandboxes of this user. Returns the reason for the end, when none runs any more.
pub async fn all(root: &Root, to: mpsc::Sender<Message>) -> String {
    loop {
        let running = match ps::there(root).await {
            Ok(Present { running, .. }) if running.is_empty() => {
                return "no sandbox is running any more".into();
            }
            Ok(Present { running, .. }) => running,
            Err(failure) => return failure.message,
        };
        let listed = ps::listed(root, &running).await;
        let candidates = listed.iter().map(told::candidate).collect();
        if to.send(Message::Candidates(candidates)).await.is_err() {
            return String::new();
        }
        sleep(LOOK).await;
    }
}

/// Reports one sandbox. Returns the reason for the end, when the sandbox has ended.
pub async fn one(root: &Root, name: Name, client: Client, to: mpsc::Sender<Message>) -> String {
    let mut heart = None;
    loop {
        let why = match listen(&client, &mut heart, &to).await {
            Lost::Ended => break,
            Lost::For(why) => why,
        };
        if !ps::runs(root, &name).await || to.send(Message::Away(why)).await.is_err() {
            break;
        }
        sleep(AT_THE_SOONEST).await;
    }
    format!("'{name}' has ended: `cofferdam logs {name}` and `cofferdam audit show {name}` tell what it did")
}

/// Why the sandbox can't be heard any more.
enum Lost {
    /// The watched sandbox is gone; another one may have its name.
    Ended,
    /// It can't be heard for the time being, for this reason.
    For(Text),
}

impl From<ClientError> for Lost {
    fn from(error: ClientError) -> Self {
        Self::For(match error {
            ClientError::Lost(_) | ClientError::Connect { .. } => Text::new("its supervisor is restarting"),
            other => told::text(&other.to_string()),
        })
    }
}

/// Reports as long as one supervisor answers.
async fn listen(client: &Client, heart: &mut Option<u32>, to: &mpsc::Sender<Message>) -> Lost {
    let something = Notify::new();
    let result = async {
        // The events are subscribed to first, so that nothing is missed in between.
        let events = soon(client.events()).await?;
        tokio::try_join!(hear(events, &something, to), look(client, heart, &something, to)).map(drop)
    };
    match result.await {
        Ok(()) => Lost::Ended,
        Err(lost) => lost,
    }
}

async fn soon<T>(asked: impl Future<Output = Result<T, ClientError>>) -> Result<T, Lost> {
    match timeout(SOON, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Lost::For(Text::new("it doesn't answer"))),
    }
}

async fn hear(
    mut events: impl StreamExt<Item = Result<operator::types::Event, ClientError>> + Unpin,
    something: &Notify,
    to: &mpsc::Sender<Message>,
) -> Result<(), Lost> {
    let mut last = None;
    while let Some(event) = events.next().await {
        let event = event?;
        if let Some(missed) = last.and_then(|last: u64| event.seq.checked_sub(last + 1)).filter(|n| *n > 0) {
            send(to, Message::Missed(missed)).await?;
        }
        last = Some(event.seq);
        if matches!(event.kind.as_str(), "approval" | "actor" | "agent" | "policy" | "sandbox") {
            something.notify_one();
        }
        if let Some(happening) = told::happening(&event) {
            send(to, Message::Happened(happening)).await?;
        }
    }
    Err(Lost::For(Text::new("its supervisor is restarting")))
}

async fn look(
    client: &Client,
    heart: &mut Option<u32>,
    something: &Notify,
    to: &mpsc::Sender<Message>,
) -> Result<(), Lost> {
    loop {
        let status = soon(client.status()).await?;
        if *heart.get_or_insert(status.heart_pid.unwrap_or(0)) != status.heart_pid.unwrap_or(0) {
            return Err(Lost::Ended);
        }
        send(to, Message::Condition(told::condition(&status))).await?;
        send(to, Message::Tree(told::tree(&soon(client.tree()).await?))).await?;
        let questions = soon(client.approvals()).await?;
        send(to, Message::Questions(questions.iter().map(told::question).collect())).await?;
        let metrics = soon(client.metrics()).await?;
        send(to, Message::Figures(figures::of(&metrics))).await?;
        sleep(AT_THE_SOONEST).await;
        let _ = timeout(LOOK, something.notified()).await;
    }
}

async fn send(to: &mpsc::Sender<Message>, message: Message) -> Result<(), Lost> {
    // An error means that the messages are no longer read: then it doesn't matter what has ended.
    to.send(message).await.map_err(|_| Lost::Ended)
}

/// Sends the operator's answer, and returns its result in words. The answer holds for exactly what was asked,
/// never for a wider or narrower rule.
pub async fn answer(client: &Client, id: &str, answer: Answer) -> Result<Text, Text> {
    let (verdict, scope) = match answer {
        Answer::Once => (ApprovalVerdict::Approve, Some(Scope::Once)),
        Answer::Run => (ApprovalVerdict::Approve, Some(Scope::Run)),
        Answer::Good => (ApprovalVerdict::Approve, Some(Scope::Good)),
        Answer::Deny => (ApprovalVerdict::Deny, None),
        Answer::Revoke => (ApprovalVerdict::Revoke, None),
    };
    let said = ApprovalAnswer { verdict, scope, method: None, path: None };
    match client.answer_approval(id, &said).await {
        Ok(now) => {
            Ok(told::text(&format!("{}: {}: {} by {}", words(answer), now.id, now.request(), now.binary)))
        }
        Err(error) => Err(told::text(&error.to_string())),
    }
}

fn words(answer: Answer) -> &'static str {
    match answer {
        Answer::Once => "approved once",
        Answer::Run => "approved until the sandbox ends",
        Answer::Good => "approved for good",
        Answer::Deny => "denied",
        Answer::Revoke => "taken back",
    }
}
