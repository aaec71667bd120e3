//! The book of questions itself, without waiting or locks.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::kept::{Kept, KeptQuestion};
use super::{Asked, MAX_QUESTIONS, Word};
use crate::types::{Approval, ApprovalState, Scope};

/// Where the operator's rule differs from the request that was asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Another method than was asked for.
    #[serde(default)]
    pub method: Option<String>,
    /// Another path than was asked for, or a pattern.
    #[serde(default)]
    pub path: Option<String>,
}

/// Why an answer to a question isn't accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No question has that id.
    #[error("nothing was asked under that id")]
    Unknown,
    /// The policy has changed since the question was asked.
    #[error(
        "it was asked under another generation of the policy; it is asked again when the agent tries again"
    )]
    Outdated,
    /// The question was approved for longer than once already.
    #[error("it is approved for longer than once")]
    Approved,
    /// The question has no answer that could be revoked.
    #[error("it waits for an answer: there is nothing to take back")]
    Unanswered,
}

/// The outcome of [`Book::ask`].
pub(super) enum Asking {
    /// Decided at once.
    Answered(Word),
    /// The request waits for the operator, under these numbers of its question and of itself.
    Waits { id: u64, waiter: u64 },
}

#[derive(Default)]
pub(super) struct Book {
    questions: BTreeMap<u64, Question>,
    ids: HashMap<Asked, u64>,
    last_id: u64,
    last_waiter: u64,
    askings: u64,
}

struct Question {
    asked: Asked,
    answer: Answer,
    /// The policy generation under which the question was last asked.
    generation: u64,
    count: u64,
    /// Sequence number of the last time that this question was asked, counted over all questions: times in
    /// whole seconds give no order.
    last_asked: u64,
    first_at: String,
    last_at: String,
    by: Option<u32>,
    /// Approved once with no request waiting: the next request goes through if it comes under this
    /// generation.
    once: Option<u64>,
    waiters: VecDeque<(u64, oneshot::Sender<Word>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Answer {
    /// None yet.
    Open,
    Denied,
    Approved {
        scope: Scope,
        rule: Rule,
    },
}

/// Returns a question's id as people use it. It names the sandbox, too.
pub(super) fn id(sandbox: &str, number: u64) -> String {
    format!("{sandbox}-{number}")
}

impl Book {
    pub(super) fn of(kept: Kept) -> Self {
        let mut book = Self { last_id: kept.last_id, ..Self::default() };
        for (id, question) in kept.questions.into_iter().take(MAX_QUESTIONS) {
            let KeptQuestion { asked, answer, generation, count, first_at, last_at, by } = question;
            book.last_id = book.last_id.max(id);
            book.ids.insert(asked.clone(), id);
            let question = Question {
                asked,
                answer,
                generation,
                count,
                last_asked: 0,
                first_at,
                last_at,
                by,
                once: None,
                waiters: VecDeque::new(),
            };
            book.questions.insert(id, question);
        }
        book
    }

    pub(super) fn kept(&self) -> Kept {
        let keep = |question: &Question| KeptQuestion {
            asked: question.asked.clone(),
            answer: question.answer.clone(),
            generation: question.generation,
            count: question.count,
            first_at: question.first_at.clone(),
            last_at: question.last_at.clone(),
            by: question.by,
        };
        let questions = self.questions.iter().map(|(id, question)| (*id, keep(question))).collect();
        Kept { last_id: self.last_id, questions }
    }

    pub(super) fn ask(
        &mut self,
        asked: Asked,
        (generation, again): (u64, bool),
        tell: oneshot::Sender<Word>,
    ) -> Asking {
        let now = now();
        let id = match self.ids.get(&asked) {
            Some(id) => *id,
            None => match self.room_for_one_more() {
                true => self.begin(asked, generation, &now),
                false => return Asking::Answered(Word::Full),
            },
        };
        let Some(question) = self.questions.get_mut(&id) else { return Asking::Answered(Word::Full) };
        question.count += u64::from(!again);
        self.askings += 1;
        question.last_asked = self.askings;
        question.generation = generation;
        question.last_at = now;
        match question.answer {
            Answer::Denied => return Asking::Answered(Word::Denied(id)),
            // The policy judged the request before this and has no such entry: the approval contradicts other
            // entries.
            Answer::Approved { .. } => return Asking::Answered(Word::Unanswered(id)),
            Answer::Open => {}
        }
        if question.once.take().is_some_and(|at| at == generation) {
            return Asking::Answered(Word::Once);
        }
        self.last_waiter += 1;
        question.waiters.push_back((self.last_waiter, tell));
        Asking::Waits { id, waiter: self.last_waiter }
    }

    fn begin(&mut self, asked: Asked, generation: u64, now: &str) -> u64 {
        self.last_id += 1;
        self.ids.insert(asked.clone(), self.last_id);
        let question = Question {
            asked,
            answer: Answer::Open,
            generation,
            count: 0,
            last_asked: 0,
            first_at: now.to_owned(),
            last_at: now.to_owned(),
            by: None,
            once: None,
            waiters: VecDeque::new(),
        };
        self.questions.insert(self.last_id, question);
        self.last_id
    }

    /// Makes room for one more question, if it can. An approval is never forgotten for that. A refusal is
    /// forgotten only if no unanswered question is left to forget; then it is the one that was last asked
    /// about longest ago, and the operator is asked if its request comes again.
    fn room_for_one_more(&mut self) -> bool {
        if self.questions.len() < MAX_QUESTIONS {
            return true;
        }
        let idle = |question: &Question| {
            question.answer == Answer::Open && question.once.is_none() && question.waiters.is_empty()
        };
        let oldest = self.questions.iter().find(|(_, question)| idle(question));
        let denied = || {
            let denied = self.questions.iter().filter(|(_, question)| question.answer == Answer::Denied);
            denied.min_by_key(|(_, question)| question.last_asked)
        };
        let forgotten = oldest.or_else(denied).map(|(id, _)| *id);
        forgotten.is_some_and(|id| self.remove(id))
    }

    fn remove(&mut self, id: u64) -> bool {
        let gone = self.questions.remove(&id);
        if let Some(question) = &gone {
            self.ids.remove(&question.asked);
        }
        gone.is_some()
    }

    pub(super) fn take_back(&mut self, id: u64, waiter: u64) {
        if let Some(question) = self.questions.get_mut(&id) {
            question.waiters.retain(|(other, _)| *other != waiter);
        }
    }

    fn question(&mut self, id: u64) -> Result<&mut Question, Refused> {
        self.questions.get_mut(&id).ok_or(Refused::Unknown)
    }

    pub(super) fn find(&self, id: u64) -> Result<(Asked, u64), Refused> {
        let question = self.questions.get(&id).ok_or(Refused::Unknown)?;
        Ok((question.asked.clone(), question.generation))
    }

    pub(super) fn approve_once(&mut self, id: u64, generation: u64, by: u32) -> Result<(), Refused> {
        let question = self.question(id)?;
        if matches!(question.answer, Answer::Approved { .. }) {
            return Err(Refused::Approved);
        }
        // Checked before anything is changed: an answer that isn't accepted must leave an earlier refusal in
        // force.
        if question.generation != generation {
            return Err(Refused::Outdated);
        }
        question.answer = Answer::Open;
        question.by = Some(by);
        while let Some((_, tell)) = question.waiters.pop_front() {
            // A waiter that left meanwhile doesn't use up the approval.
            if tell.send(Word::Once).is_ok() {
                return Ok(());
            }
        }
        question.once = Some(generation);
        Ok(())
    }

    pub(super) fn settle(&mut self, id: u64, scope: Scope, rule: Rule, by: u32) -> Result<(), Refused> {
        self.question(id)?.answer(Answer::Approved { scope, rule }, by, Word::Again);
        Ok(())
    }

    pub(super) fn deny(&mut self, id: u64, by: u32) -> Result<(), Refused> {
        self.question(id)?.answer(Answer::Denied, by, Word::Denied(id));
        Ok(())
    }

    pub(super) fn revoke(&mut self, id: u64) -> Result<(), Refused> {
        let question = self.question(id)?;
        match (&question.answer, question.once.take()) {
            (Answer::Open, None) => return Err(Refused::Unanswered),
            (Answer::Open, Some(_)) => {}
            _ => drop(self.remove(id)),
        }
        Ok(())
    }

    pub(super) fn approved(&self) -> Vec<(u64, Asked, Rule)> {
        let approved = self.questions.iter().filter_map(|(id, question)| match &question.answer {
            Answer::Approved { rule, .. } => Some((*id, question.asked.clone(), rule.clone())),
            _ => None,
        });
        approved.collect()
    }

    pub(super) fn pending(&self) -> u32 {
        let held = self.questions.values().filter(|question| !question.waiters.is_empty()).count();
        u32::try_from(held).unwrap_or(u32::MAX)
    }

    pub(super) fn list(&self, sandbox: &str) -> Vec<Approval> {
        self.questions.iter().map(|(id, question)| question.shown(sandbox, *id)).collect()
    }

    pub(super) fn shown(&self, sandbox: &str, id: u64) -> Result<Approval, Refused> {
        self.questions.get(&id).map(|question| question.shown(sandbox, id)).ok_or(Refused::Unknown)
    }
}

impl Question {
    fn answer(&mut self, answer: Answer, by: u32, word: Word) {
        self.answer = answer;
        self.by = Some(by);
        self.once = None;
        for (_, tell) in self.waiters.drain(..) {
            // A waiter that left needs no answer.
            let _ = tell.send(word);
        }
    }

    fn shown(&self, sandbox: &str, id: u64) -> Approval {
        let (state, scope, rule) = match &self.answer {
            Answer::Open if !self.waiters.is_empty() => (ApprovalState::Held, None, None),
            Answer::Open if self.once.is_some() => (ApprovalState::Approved, Some(Scope::Once), None),
            Answer::Open => (ApprovalState::Waiting, None, None),
            Answer::Denied => (ApprovalState::Denied, None, None),
            Answer::Approved { scope, rule } => (ApprovalState::Approved, Some(*scope), Some(rule.clone())),
        };
        let Rule { method, path } = rule.unwrap_or_default();
        Approval {
            id: self::id(sandbox, id),
            state,
            scope,
            host: self.asked.host.clone(),
            port: self.asked.port,
            method: method.unwrap_or_else(|| self.asked.method.clone()),
            path: path.unwrap_or_else(|| self.asked.path.clone()),
            binary: self.asked.binary.clone(),
            sha256: self.asked.sha256.clone(),
            generation: self.generation,
            asked: self.count,
            held: self.waiters.len() as u64,
            first_at: self.first_at.clone(),
            last_at: self.last_at.clone(),
            answered_by: self.by,
        }
    }
}

/// RFC 3339, UTC, to the second.
fn now() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Second).unwrap_or(now).to_string()
}
