//! What became of a request that waits for the operator's word, as a record.

use serde::{Deserialize, Serialize};

use super::Text;

/// A question, or what was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The question's id.
    pub id: Text,
    /// What happened.
    pub change: ApprovalChange,
    /// Where the request goes.
    pub host: Text,
    /// The port.
    pub port: u16,
    /// The method that was asked for, or that the operator's rule has.
    pub method: Text,
    /// The path that was asked for, or the operator's pattern; never a query.
    pub path: Text,
    /// The program.
    pub binary: Text,
    /// What it contains, SHA-256 in hex.
    pub sha256: Text,
    /// The policy's generation under which it was asked.
    pub generation: u64,
    /// Who answered: the peer's user id on the control socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

/// What happened to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalChange {
    /// A request waits for the answer.
    Asked,
    /// One request may go.
    ApprovedOnce,
    /// It is an entry of the policy until the sandbox ends.
    ApprovedForRun,
    /// It is an entry of the policy for good.
    ApprovedForGood,
    /// It may not go.
    Denied,
    /// What was answered is taken back.
    Revoked,
}

impl Approval {
    pub(super) fn each_text(&mut self, visit: &mut dyn FnMut(&mut Text)) {
        let Self { id, change: _, host, port: _, method, path, binary, sha256, generation: _, uid: _ } = self;
        [id, host, method, path, binary, sha256].into_iter().for_each(visit);
    }

    /// One with `text` in every text.
    #[cfg(test)]
    pub(super) fn sample(text: &str) -> Self {
        let own = || Text::new(text);
        Self {
            id: own(),
            change: ApprovalChange::Asked,
            host: own(),
            port: 1,
            method: own(),
            path: own(),
            binary: own(),
            sha256: own(),
            generation: 1,
            uid: None,
        }
    }
}
