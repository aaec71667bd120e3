//! What of the questions is on disk: a supervisor that dies takes the held requests along, but no question
//! and no answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Asked;
use super::book::{Answer, Rule};
use crate::types::Scope;

/// The questions as they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The last id that was given: none is given twice.
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
    /// What outlives the run: approvals for good.
    #[must_use]
    pub fn for_good(mut self) -> Self {
        self.questions
            .retain(|_, question| matches!(question.answer, Answer::Approved { scope: Scope::Good, .. }));
        self
    }

    /// The highest number in it, of an id or of how often something was asked.
    #[must_use]
    pub fn highest(&self) -> u64 {
        let numbers = self.questions.iter().flat_map(|(id, question)| [*id, question.count]);
        numbers.fold(self.last_id, u64::max)
    }

    /// What is approved, and as which rule.
    pub fn approved(&self) -> impl Iterator<Item = (&Asked, &Rule)> {
        self.questions.values().filter_map(|question| match &question.answer {
            Answer::Approved { rule, .. } => Some((&question.asked, rule)),
            _ => None,
        })
    }
}
