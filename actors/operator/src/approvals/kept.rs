//! The part of the questions that is kept on disk: when a supervisor dies, the held requests are lost, but no
//! question and no answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Asked;
use super::book::{Answer, Rule};
use crate::types::Scope;

/// The questions as they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The last id that was given: no id is given twice.
    pub(super) last_id: u64,
    pub(super) questions: BTreeMap<u64, KeptQuestion>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptQuestion {
    pub(super) asked: Asked,
    pub(super) answer: Answer,
    pub(super) generation: u64,
    pub(super) count: u64,
    pub(super) first_at: String,
    pub(super) last_at: String,
    pub(super) by: Option<u32>,
}

impl Kept {
    /// Returns what outlives the run: the approvals for good alone.
    #[must_use]
    pub fn for_good(mut self) -> Self {
        self.questions
            .retain(|_, question| matches!(question.answer, Answer::Approved { scope: Scope::Good, .. }));
        self
    }

    /// Returns the highest number in it, be it an id or a count of askings.
    #[must_use]
    pub fn highest(&self) -> u64 {
        let numbers = self.questions.iter().flat_map(|(id, question)| [*id, question.count]);
        numbers.fold(self.last_id, u64::max)
    }

    /// Returns what is approved, each with the operator's rule.
    pub fn approved(&self) -> impl Iterator<Item = (&Asked, &Rule)> {
        self.questions.values().filter_map(|question| match &question.answer {
            Answer::Approved { rule, .. } => Some((&question.asked, rule)),
            _ => None,
        })
    }
}
