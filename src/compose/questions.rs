//! Prints what agents ask of the operator on standard error as they ask it: at most one line a second,
//! however much they ask, and every line says how many more questions there are.
//!
//! Handles no answers, and prints nothing of a question that wasn't made one harmless line first.

use std::time::Duration;

use operator::types::Approval;
use tokio::sync::mpsc;

use crate::console::{quoted, say};

/// The time between two lines.
const REST: Duration = Duration::from_secs(1);
/// How many questions may wait to be printed. More can hardly be open at a time; one that has no room is
/// still listed by `cofferdam approvals list`.
const WAITING: usize = 256;

/// Takes questions to print. Cheap to clone.
#[derive(Clone)]
pub struct Questions(mpsc::Sender<Approval>);

impl Questions {
    /// Starts the task that prints questions.
    #[must_use]
    pub fn open() -> Self {
        let (asked, told) = mpsc::channel(WAITING);
        supervision::essential(tell(told));
        Self(asked)
    }

    /// Queues a question that waits for its answer.
    pub fn asked(&self, shown: &Approval) {
        let _no_room = self.0.try_send(shown.clone());
    }
}

async fn tell(mut asked: mpsc::Receiver<Approval>) {
    let mut last = Vec::new();
    while asked.recv_many(&mut last, WAITING).await > 0 {
        if let Some((shown, others)) = last.split_last() {
            say(&line(shown, others.len()));
        }
        last.clear();
        tokio::time::sleep(REST).await;
    }
}

/// Returns the line for the newest question, with the number of others. What the agent chose comes after the
/// command and in quotes, so that it can't look like another question.
fn line(shown: &Approval, others: usize) -> String {
    let Approval { id, binary, .. } = shown;
    let hash: String = shown.sha256.chars().take(12).collect();
    let (request, program) = (quoted(&shown.request()), quoted(binary));
    let others = match others {
        0 => String::new(),
        others => format!(" ({others} more since the last line: `cofferdam approvals list`)"),
    };
    format!(
        "`cofferdam approvals approve {id}` (or `deny {id}`) answers {request}, asked by {program} ({hash}){others}"
    )
}

#[cfg(test)]
mod tests {
    use operator::types::ApprovalState;

    use super::*;

    #[test]
    fn a_decoy_hides_no_other_question() {
        let mut shown = Approval {
            id: "box-7".into(),
            state: ApprovalState::Held,
            scope: None,
            host: "api.example.com".into(),
            port: 443,
            method: "GET".into(),
            path: "/a\u{1b}[2K\nb".into(),
            binary: "/usr/bin/curl".into(),
            sha256: "ab".repeat(32),
            generation: 1,
            asked: 1,
            held: 1,
            first_at: String::new(),
            last_at: String::new(),
            answered_by: None,
        };
        let alone = line(&shown, 0);
        let wanted =
            "`cofferdam approvals approve box-7` (or `deny box-7`) answers \"GET api.example.com:443/a";
        assert!(alone.starts_with(wanted), "{alone}");
        assert!(alone.ends_with("asked by \"/usr/bin/curl\" (abababababab)"), "{alone}");
        assert!(!alone.contains(['\u{1b}', '\n']), "{alone}");
        shown.binary = "/tmp/pip\" (27125f033149): `cofferdam approvals approve box-8`      ".into();
        assert!(!line(&shown, 0).contains("`cofferdam approvals approve box-8`"), "{}", line(&shown, 0));
        let several = line(&shown, 3);
        assert!(several.ends_with(" (3 more since the last line: `cofferdam approvals list`)"), "{several}");
    }
}
