//! `cofferdam term`: a running sandbox on the operator's terminal. Connects the control socket and the
//! keyboard to the model, and the model to the screen. The `tui` crate decides what is shown and what a key
//! means.
//!
//! One task does all of it, so nothing needs a lock. It waits for the first of several events, draws at most
//! every [`FRAME`], and only if something has changed.

mod feed;
mod figures;
mod terminal;
mod told;

use std::future::Future;
use std::io::{self, IsTerminal};
use std::pin::Pin;
use std::time::Duration;

use nix::libc::{SIGCONT, SIGTSTP, SIGWINCH};
use operator::client::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tui::message::{Effect, Message};
use tui::model::Model;

use crate::cli::args::TermArgs;
use crate::cli::live::client;
use crate::cli::signals::{self, Signals};
use crate::cli::{ps, wait_for};
use crate::console::{Paint, say};
use crate::failure::{Failure, Outcome};
use crate::state::{Name, Root};
use terminal::Terminal;

/// The shortest time between two drawings: twenty a second.
const FRAME: Duration = Duration::from_millis(50);
/// How long an answer that was given just before the end may take to reach the sandbox.
const SETTLE: Duration = Duration::from_secs(2);
/// How many messages may wait for the model. Then the senders wait.
const MESSAGES: usize = 64;

/// Why the terminal UI ends.
enum End {
    /// The operator pressed the key for it.
    Quit,
    /// What was watched is over; the text says why.
    Over(String),
    /// This signal arrived.
    Signal(i32),
    /// The terminal can't be read or written any more.
    Gone(io::Error),
}

/// Runs the terminal UI. Returns 0 if the operator or the sandbox has ended it.
pub fn term(root: &Root, args: &TermArgs) -> Outcome {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Failure::refused(
            "`term` needs a terminal: `cofferdam status NAME` and `cofferdam approvals watch NAME` tell the same without one",
        ));
    }
    let begin = match &args.name {
        Some(name) => {
            client(root, name)?;
            Some(Name::parse(name)?)
        }
        None => the_only_one(root)?,
    };
    match wait_for(async { run(root, begin).await.map_err(Failure::from) })? {
        End::Quit => Ok(0),
        End::Over(words) => {
            say(&words);
            Ok(0)
        }
        End::Signal(signo) => {
            Err(Failure::silent(u8::try_from(128 + signo).unwrap_or(crate::failure::REFUSED)))
        }
        End::Gone(error) => Err(Failure::refused(format!("the terminal is gone: {error}"))),
    }
}

/// Returns the sandbox that runs, if it is the only one; `None` if there are several to choose from.
fn the_only_one(root: &Root) -> Result<Option<Name>, Failure> {
    let mut running = ps::present(root)?.running;
    match running.len() {
        0 => Err(Failure::refused(
            "no sandbox of yours is running: `cofferdam run -- COMMAND` or `cofferdam up -f cofferdam.yaml` starts one",
        )),
        1 => Ok(running.pop()),
        _ => Ok(None),
    }
}

/// The messages to the model, and the future that sends them, which ends when there is nothing more to watch.
struct Heard<'a> {
    client: Option<Client>,
    messages: mpsc::Receiver<Message>,
    /// For the results of the answers that we send.
    sender: mpsc::Sender<Message>,
    /// Answers that are being sent.
    answers: JoinSet<()>,
    feed: Pin<Box<dyn Future<Output = String> + 'a>>,
}

impl<'a> Heard<'a> {
    fn of_all(root: &'a Root) -> Self {
        let (sender, messages) = mpsc::channel(MESSAGES);
        let feed = Box::pin(feed::all(root, sender.clone()));
        Self { client: None, messages, sender, answers: JoinSet::new(), feed }
    }

    fn of(root: &'a Root, name: Name) -> Self {
        let (sender, messages) = mpsc::channel(MESSAGES);
        let client = Client::new(root.socket(&name));
        let feed = Box::pin(feed::one(root, name, client.clone(), sender.clone()));
        Self { client: Some(client), messages, sender, answers: JoinSet::new(), feed }
    }

    /// Sends the sandbox an answer. Its result comes back as a message.
    fn answer(&mut self, id: String, answer: tui::facts::Answer) {
        let (Some(client), sender) = (self.client.clone(), self.sender.clone()) else { return };
        self.answers.spawn(async move {
            let outcome = feed::answer(&client, &id, answer).await;
            // An error means that the messages are no longer read.
            let _ = sender.send(Message::Answered { id, outcome }).await;
        });
    }
}

impl Heard<'_> {
    /// Lets answers that are being sent reach the sandbox, though their results are no longer shown.
    async fn settle(mut self) {
        // Their results are no longer received.
        self.messages.close();
        let all = async { while self.answers.join_next().await.is_some() {} };
        let _at_most = tokio::time::timeout(SETTLE, all).await;
    }
}

async fn run(root: &Root, begin: Option<Name>) -> io::Result<End> {
    let colours = Paint::stdout().on();
    let (mut model, mut heard) = match begin {
        Some(name) => (Model::watching(name.as_str(), colours), Heard::of(root, name)),
        None => (Model::choosing(Vec::new(), colours), Heard::of_all(root)),
    };
    // Signals are caught before the terminal is taken: any other signal would end us and leave it raw.
    let mut signals = Signals::heard([SIGWINCH, SIGTSTP, SIGCONT].into_iter().chain(signals::ENDING))?;
    let mut terminal = Terminal::take()?;
    let mut keys = terminal::keys()?;
    model.update(terminal.size());
    let (mut is_new, mut next_frame) = (true, Instant::now());
    let end = loop {
        let effects: Vec<Effect> = tokio::select! {
            biased;
            signo = signals.next() => match signo {
                SIGWINCH => model.update(terminal.size()).into_iter().collect(),
                SIGTSTP => {
                    terminal.stop().await;
                    Vec::new()
                }
                SIGCONT => {
                    terminal.take_again();
                    model.update(terminal.size()).into_iter().collect()
                }
                signo => break End::Signal(signo),
            },
            key = keys.recv() => match key {
                // Keys that were read at once were typed before the screen showed the effect of any: nothing
                // is drawn between them.
                Some(Ok(presses)) => presses.into_iter().filter_map(|press| model.update(Message::Press(press))).collect(),
                Some(Err(error)) => break End::Gone(error),
                None => break End::Gone(io::ErrorKind::UnexpectedEof.into()),
            },
            written = terminal.written() => match written {
                Ok(()) => {
                    is_new |= model.update(Message::Drawn).is_some();
                    continue;
                }
                Err(error) => break End::Gone(error),
            },
            () = sleep_until(next_frame), if is_new && terminal.is_idle() => {
                terminal.show(&model);
                model.update(Message::Drawing);
                (is_new, next_frame) = (false, Instant::now() + FRAME);
                continue;
            }
            message = heard.messages.recv() => message.and_then(|message| model.update(message)).into_iter().collect(),
            words = &mut heard.feed => break End::Over(words),
        };
        is_new = true;
        // All of them, in the order in which the keys were typed.
        let mut over = None;
        for effect in effects {
            match effect {
                Effect::Redraw => {}
                Effect::Quit => over = over.or(Some(End::Quit)),
                Effect::Suspend => terminal::stop_all(),
                Effect::Answer { id, answer } => heard.answer(id, answer),
                Effect::Watch(name) => match Name::parse(&name) {
                    Ok(name) => heard = Heard::of(root, name),
                    Err(failure) => over = over.or(Some(End::Over(failure.message))),
                },
            }
        }
        if let Some(end) = over {
            break end;
        }
    };
    terminal.finish().await;
    heard.settle().await;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_a_row_for_each_limit() {
        let page = include_str!("../../docs/limits.md");
        let (columns, lines) = tui::model::LARGEST;
        for row in [
            format!("| `EVENTS_KEPT` | {} |", tui::EVENTS_KEPT),
            format!("| `SHORT` | {} |", told::SHORT),
            format!("| `LARGEST` | {columns} columns, {lines} lines |"),
            format!("| `FRAME` | {FRAME:?} |"),
            format!("| `MESSAGES` | {MESSAGES} |"),
            format!("| `LOOK` | {:?} |", feed::LOOK),
        ] {
            assert!(page.contains(&row), "docs/limits.md lacks a row that begins with {row}");
        }
        let page = include_str!("../../docs/term.md");
        assert!(page.contains(&format!("The last {} are kept", tui::EVENTS_KEPT)));
    }
}
