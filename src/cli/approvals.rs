//! `cofferdam approvals`: what agents have asked for beyond the policy, and the operator's word on it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use operator::client::{Client, ClientError};
use operator::types::{Approval, ApprovalAnswer, ApprovalState, ApprovalVerdict, Scope};

use crate::cli::args::{AnswerArgs, ApprovalsCommand, Span};
use crate::cli::live::{SOON, client, failure};
use crate::cli::wait_for;
use crate::console::{Paint, harmless, print, print_json, print_json_line, quoted, table};
use crate::failure::{Failure, Outcome};
use crate::state::{Name, Presence, Root};

/// How often it is looked whether a sandbox is gone.
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
    let clients = match name {
        Some(name) => vec![client(root, name)?],
        None => running(root)?,
    };
    let all = wait_for(async {
        let mut all = Vec::new();
        for client in &clients {
            match client.approvals().await {
                Ok(questions) => all.extend(questions),
                // One that ended meanwhile has none.
                Err(error) if name.is_none() => drop(error),
                Err(error) => return Err(failure(error)),
            }
        }
        Ok(all)
    })?;
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

fn running(root: &Root) -> Result<Vec<Client>, Failure> {
    let names = root.names()?.into_iter().filter(|name| matches!(root.presence(name), Presence::Running));
    Ok(names.map(|name| Client::new(root.socket(&name))).collect())
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

/// An id is the sandbox's name, `-` and a number.
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

/// Prints what is held now and each that comes, until the sandbox ends or Ctrl-C.
fn watch(root: &Root, name: &str, json: bool) -> Outcome {
    let name = Name::parse(name)?;
    let client = client(root, name.as_str())?;
    wait_for(async {
        let Err(cut) = follow(&client, json).await else { return Ok(0) };
        match cut {
            // Its end is what was waited for, however abrupt.
            Cut::Lost(_) if is_ending(root, &name, &client).await => Ok(0),
            Cut::Lost(error) => Err(failure(error)),
            Cut::Unprinted(failure) => Err(failure),
        }
    })
}

/// Why a watch was cut off.
enum Cut {
    /// Nobody answers any more.
    Lost(ClientError),
    /// What was told could not be printed.
    Unprinted(Failure),
}

async fn follow(client: &Client, json: bool) -> Result<(), Cut> {
    // Listened to first, so that nothing is missed in between.
    let mut events = client.events().await.map_err(Cut::Lost)?;
    let mut seen = HashMap::new();
    loop {
        for question in client.approvals().await.map_err(Cut::Lost)? {
            // Each time that it is asked anew, and each answer.
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

/// Whether a sandbox that was lost sight of is gone, or goes: its supervisor ends before its heart. One that answers again does neither.
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

/// Characters of a row's cell: one long path is not to push the others out of sight.
const CELL: usize = 100;

fn cell(text: &str) -> String {
    match text.char_indices().nth(CELL) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
