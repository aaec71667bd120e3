//! The record of what became of a request that waits for the operator's answer.

use serde::{Deserialize, Serialize};

use super::Text;

/// A question to the operator, or its answer.
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
    /// SHA-256 of the program's file, in hex.
    pub sha256: Text,
    /// The policy generation in force when it was asked.
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
    /// What was asked for is an entry of the policy until the sandbox ends.
    ApprovedForRun,
    /// What was asked for is an entry of the policy for good.
    ApprovedForGood,
    /// The request is refused.
    Denied,
    /// The answer was taken back.
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
