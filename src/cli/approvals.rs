//! `cofferdam approvals`: what agents have asked for beyond the policy, and the operator's answers.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use operator::client::{Client, ClientError};
use operator::types::{Approval, ApprovalAnswer, ApprovalState, ApprovalVerdict, Scope};

use crate::cli::args::{AnswerArgs, ApprovalsCommand, Span};
use crate::cli::live::{SOON, client, failure};
use crate::cli::ps::{Asked, in_time, present};
use crate::cli::wait_for;
use crate::console::{Paint, harmless, print, print_json, print_json_line, quoted, table, warn};
use crate::failure::{Failure, Outcome};
use crate::state::{Name, Root};

/// How often to check whether a sandbox is gone.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Runs `approvals list`, `approve`, `deny`, `revoke` or `watch`.
pub fn approvals(root: &Root, command: ApprovalsCommand) -> Outcome {
    let plain = |verdict| ApprovalAnswer { verdict, scope: None, method: None, path: None };
    match command {
        ApprovalsCommand::List { name, json } => list(root, name.as_deref(), json),
        ApprovalsCommand::Approve { answer, span, method, path } => {
            let scope = match span {
                Span::Once => Scope::Once,
                Span::Run => Scope::Run,
                Span::Good => Scope::Good,
            };
            let said = ApprovalAnswer { scope: Some(scope), method, path, ..plain(ApprovalVerdict::Approve) };
            say(
                root,
                &answer,
                &said,
                match scope {
                    Scope::Once => "approved once",
                    Scope::Run => "approved until the sandbox ends",
                    Scope::Good => "approved for good",
                },
            )
        }
        ApprovalsCommand::Deny(answer) => say(root, &answer, &plain(ApprovalVerdict::Deny), "denied"),
        ApprovalsCommand::Revoke(answer) => say(root, &answer, &plain(ApprovalVerdict::Revoke), "taken back"),
        ApprovalsCommand::Watch { name, json } => watch(root, &name, json),
    }
}

fn list(root: &Root, name: Option<&str>, json: bool) -> Outcome {
    let all = match name {
        Some(name) => {
            let client = client(root, name)?;
            wait_for(async { client.approvals().await.map_err(failure) })?
        }
        None => of_all(root)?,
    };
    if json {
        print_json(&all)?;
        return Ok(0);
    }
    let paint = Paint::stdout();
    let mut rows = vec![["ID", "STATE", "REQUEST", "PROGRAM", "ASKED", "SHA-256"].map(String::from).to_vec()];
    rows.extend(all.iter().map(|question| {
        vec![
            question.id.clone(),
            state(question, paint),
            cell(&harmless(&question.request())),
            quoted(&question.binary),
            format!("{}x", question.asked),
            question.sha256.chars().take(12).collect(),
        ]
    }));
    print(&table(&rows))?;
    Ok(0)
}

/// Returns the questions of every running sandbox. The sandboxes are asked in parallel, so that one that
/// hangs delays no other.
fn of_all(root: &Root) -> Result<Vec<Approval>, Failure> {
    let running = present(root)?.running;
    let asked = wait_for(async { Ok(join_all(running.iter().map(|name| ask(root, name))).await) })?;
    let mut all = Vec::new();
    for (name, asked) in running.iter().zip(asked) {
        match asked {
            Asked::Answered(questions) => all.extend(questions),
            // A sandbox's questions end with it.
            Asked::Ended => {}
            // Without the warning, an empty list would read as if no question waited there.
            Asked::Silent => warn(&format!("'{name}' does not answer: its questions are not listed")),
        }
    }
    Ok(all)
}

async fn ask(root: &Root, name: &Name) -> Asked<Vec<Approval>> {
    let client = Client::new(root.socket(name));
    in_time(root, name, client.approvals()).await
}

fn state(question: &Approval, paint: Paint) -> String {
    match (question.state, question.scope) {
        (ApprovalState::Held, _) => paint.warn(&format!("HELD ({})", question.held)),
        (ApprovalState::Waiting, _) => paint.warn("waiting"),
        (ApprovalState::Denied, _) => paint.bad("denied"),
        (ApprovalState::Approved, Some(Scope::Run)) => paint.good("approved (run)"),
        (ApprovalState::Approved, Some(Scope::Good)) => paint.good("approved (good)"),
        (ApprovalState::Approved, _) => paint.good("approved (once)"),
    }
}

/// Sends an answer and prints the outcome, with `words` in front. A question's id is the sandbox's name, `-`
/// and a number.
fn say(root: &Root, answer: &AnswerArgs, said: &ApprovalAnswer, words: &str) -> Outcome {
    let Some((name, _)) = answer.id.rsplit_once('-') else {
        return Err(Failure::refused(format!(
            "'{}' is no id of a question, such as assistant-3: `cofferdam approvals list` shows them",
            answer.id
        )));
    };
    let client = client(root, name)?;
    let now = wait_for(async { client.answer_approval(&answer.id, said).await.map_err(failure) })?;
    match answer.json {
        true => print_json(&now)?,
        false => {
            print(&format!("{words}: {}: {} by {}\n", now.id, quoted(&now.request()), quoted(&now.binary)))?
        }
    }
    Ok(0)
}

/// Prints the questions that are there, and each new one, until the sandbox ends or Ctrl-C.
fn watch(root: &Root, name: &str, json: bool) -> Outcome {
    let name = Name::parse(name)?;
    let client = client(root, name.as_str())?;
    wait_for(async {
        let Err(cut) = follow(&client, json).await else { return Ok(0) };
        match cut {
            // The watch lasts until the sandbox's end, however abrupt.
            Cut::Lost(_) if is_ending(root, &name, &client).await => Ok(0),
            Cut::Lost(error) => Err(failure(error)),
            Cut::Unprinted(failure) => Err(failure),
        }
    })
}

/// Why a watch was cut off.
enum Cut {
    /// The connection to the sandbox was lost.
    Lost(ClientError),
    /// The output could not be printed.
    Unprinted(Failure),
}

async fn follow(client: &Client, json: bool) -> Result<(), Cut> {
    // The events are subscribed to first, so that nothing is missed in between.
    let mut events = client.events().await.map_err(Cut::Lost)?;
    let mut seen = HashMap::new();
    loop {
        for question in client.approvals().await.map_err(Cut::Lost)? {
            // Printed again each time that it is asked again or answered.
            let now = (question.state, question.asked);
            if seen.insert(question.id.clone(), now) != Some(now) {
                show(&question, json).map_err(Cut::Unprinted)?;
            }
        }
        loop {
            match events.next().await {
                Some(Ok(event)) if event.kind == "approval" => break,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(Cut::Lost(error)),
                None => return Ok(()),
            }
        }
    }
}

/// Whether a sandbox whose connection was lost has ended or is ending: its supervisor ends before its heart.
/// If it answers again, neither is true.
async fn is_ending(root: &Root, name: &Name, client: &Client) -> bool {
    let until = Instant::now() + SOON;
    while root.is_running(name) {
        if Instant::now() > until || client.status().await.is_ok() {
            return false;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    true
}

fn show(question: &Approval, json: bool) -> Result<(), Failure> {
    if json {
        return print_json_line(question);
    }
    let mut text = format!(
        "{}  {}  {} by {} ({}), asked {}x\n",
        question.id,
        state(question, Paint::stdout()),
        quoted(&question.request()),
        quoted(&question.binary),
        question.sha256.chars().take(12).collect::<String>(),
        question.asked
    );
    if question.state == ApprovalState::Held {
        text.push_str(&format!(
            "    cofferdam approvals approve {id}    cofferdam approvals deny {id}\n",
            id = question.id
        ));
    }
    Ok(print(&text)?)
}

/// How many characters a cell shows: one long path must not push the other columns out of sight.
const CELL: usize = 100;

fn cell(text: &str) -> String {
    match text.char_indices().nth(CELL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
