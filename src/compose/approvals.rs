//! `cofferdam approvals`, done: questions put on record and on disk, and what is answered put in force.
//!
//! What goes once is told to the request that waits. What goes for the run or for good becomes an entry of
//! the policy, in force before any request hears of it. Decides nothing: what may be asked for is the
//! proxy's, what was approved the operator's word.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::protocol::Beginning;
use futures_util::future::BoxFuture;
use operator::approvals::{Approvals, Asked, Kept, Refused, Rule, Word};
use operator::types::{Approval, ApprovalAnswer, ApprovalVerdict, Scope};
use operator::{Code, Fault, Peer};
use policy::{Approved, Unwritable};
use proxy::approval::{self, Question};
use supervision::Address;
use telemetry::audit::{self, ApprovalChange, Event, Sink};
use telemetry::metrics;
use tokio::sync::Mutex;

use super::questions::Questions;
use super::records::record;
use crate::kept;
use crate::state::{APPROVALS as FILE, APPROVALS_ASIDE as ASIDE};

/// At the soonest so long after the last time is a question written: answers are at once.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// How long the reloader may take to put an answer in force.
const DEADLINE: Duration = Duration::from_secs(10);

/// The questions of a sandbox whose configuration says `unlisted: ask`.
#[derive(Clone)]
pub struct Desk {
    book: Approvals,
    sink: Sink,
    /// Held while an answer is put in force: each builds on the one before.
    answering: Arc<Mutex<()>>,
    /// Held from looking at the book until that is on disk: nothing older comes after it.
    writing: Arc<Mutex<()>>,
    /// Where questions are told as they come.
    told: Option<Questions>,
}

/// The policy in force, and who puts another in its place.
#[derive(Clone, Copy)]
pub struct InForce<'a> {
    /// Where it is read.
    pub store: &'a policy::Store,
    /// The reloader.
    pub reloader: &'a Address<policy::actor::Msg>,
}

impl InForce<'_> {
    /// Puts these approvals in force beside what the policy's own text says.
    async fn publish(self, approved: Vec<Approved>) -> Result<policy::Published, Fault> {
        let published =
            self.reloader.call(|reply| policy::actor::Msg::Approve { approved, reply }, DEADLINE).await;
        published
            .map_err(|e| Fault::new(Code::Unavailable, e.to_string()))?
            .map_err(|refused| Fault::new(Code::Conflict, refused.to_string()))
    }
}

/// The sandbox's questions, with what is taken up of its earlier runs or of an earlier supervisor.
///
/// # Errors
/// What an earlier run was allowed, and this one isn't, can't be taken off the disk.
pub fn book(sandbox: &str, hold: Duration, beginning: Beginning) -> std::io::Result<Approvals> {
    kept::clear_away(FILE);
    let kept = match kept::read(Path::new(FILE)) {
        Ok(Some(bytes)) => serde_json::from_slice::<Kept>(&bytes).map_err(|e| e.to_string()),
        Ok(None) => Ok(Kept::default()),
        Err(error) => Err(error.to_string()),
    };
    let all = match kept {
        Ok(kept) => kept,
        Err(why) => {
            tracing::warn!(
                "{FILE} can't be read, and nothing that was approved before is in force: {why} ({ASIDE} is what it was)"
            );
            std::fs::rename(FILE, ASIDE)?;
            Kept::default()
        }
    };
    let kept = match beginning {
        Beginning::Sandbox => all.clone().for_good(),
        _ => all.clone(),
    };
    if kept != all {
        // Now: whoever takes this run up later takes the whole file for this run's.
        kept::write(Path::new(FILE), &serde_json::to_vec(&kept)?)?;
    }
    Ok(Approvals::new(sandbox, hold, kept))
}

/// What of it the policy is composed with.
#[must_use]
pub fn entries(book: &Approvals) -> Vec<Approved> {
    written(&book.approved())
}

impl Desk {
    /// Keeps the book on disk from now on. `tells`: each question is told on standard error.
    #[must_use]
    pub fn open(book: Approvals, sink: Sink, tells: bool) -> Self {
        let told = tells.then(Questions::open);
        let desk = Self { book, sink, answering: Arc::default(), writing: Arc::default(), told };
        tokio::spawn(desk.clone().keep());
        tokio::spawn(count(desk.book.clone()));
        desk
    }

    /// What of it the policy is composed with.
    #[must_use]
    pub fn entries(&self) -> Vec<Approved> {
        entries(&self.book)
    }

    /// Every question.
    #[must_use]
    pub fn list(&self) -> Vec<Approval> {
        self.book.list()
    }

    /// Does what an operator says of a question.
    ///
    /// # Errors
    /// No such question; an answer that doesn't fit it; a policy that has no place for it.
    pub async fn answer(
        &self,
        policy: InForce<'_>,
        by: Peer,
        id: &str,
        answer: ApprovalAnswer,
    ) -> Result<Approval, Fault> {
        let _one_at_a_time = self.answering.lock().await;
        let (shown, change) = self.carry_out(policy, by, id, answer).await?;
        record(&self.sink, event(&shown, change, Some(by.uid)));
        // Whoever reads that it is so may rely on it, whatever dies next.
        self.write().await.map_err(|error| {
            let detail = format!("it is in force now, and not on disk: {error}");
            Fault::new(Code::Unavailable, detail)
                .hint("make room on the disk that holds the sandbox's state, and say it again")
        })?;
        Ok(shown)
    }

    async fn carry_out(
        &self,
        policy: InForce<'_>,
        by: Peer,
        id: &str,
        answer: ApprovalAnswer,
    ) -> Result<(Approval, ApprovalChange), Fault> {
        let (number, asked, _) = self.book.find(id).map_err(refused)?;
        let ApprovalAnswer { verdict, scope, method, path } = answer;
        let scope = scope.unwrap_or(Scope::Once);
        let rule = Rule { method, path };
        if rule != Rule::default() && (verdict != ApprovalVerdict::Approve || scope == Scope::Once) {
            return Err(Fault::new(
                Code::BadRequest,
                "another method or path is for what is approved for the run or for good",
            ));
        }
        match verdict {
            ApprovalVerdict::Approve if scope == Scope::Once => {
                let generation = policy.store.load().number;
                let shown = self.book.approve_once(number, generation, by.uid).map_err(refused)?;
                Ok((shown, ApprovalChange::ApprovedOnce))
            }
            ApprovalVerdict::Approve => {
                let entry = entry(number, &asked, &rule);
                writable(&entry, &rule)?;
                let in_force = self.put_in_force(policy, number, entry).await;
                let settled =
                    in_force.and_then(|()| self.book.settle(number, scope, rule, by.uid).map_err(refused));
                if settled.is_err() {
                    // Whatever came of it, nothing is in force that the book doesn't have.
                    policy.publish(self.others(number)).await?;
                }
                let change = match scope {
                    Scope::Good => ApprovalChange::ApprovedForGood,
                    _ => ApprovalChange::ApprovedForRun,
                };
                Ok((settled?, change))
            }
            ApprovalVerdict::Deny => {
                self.without(policy, number).await?;
                Ok((self.book.deny(number, by.uid).map_err(refused)?, ApprovalChange::Denied))
            }
            ApprovalVerdict::Revoke => {
                self.without(policy, number).await?;
                Ok((self.book.revoke(number).map_err(refused)?, ApprovalChange::Revoked))
            }
        }
    }

    /// Waits until what an operator says by now is on disk, and told; what it let through may have ended the
    /// sandbox already.
    pub async fn settled(&self, at_most: Duration) {
        let _ = tokio::time::timeout(at_most, self.answering.lock()).await;
    }

    /// Keeps the book's questions on disk.
    async fn keep(self) {
        let mut changes = self.book.changes();
        while changes.changed().await.is_ok() {
            if let Err(error) = self.write().await {
                tracing::warn!(%error, "{FILE} can't be written: what is asked now is forgotten with this supervisor");
            }
            tokio::time::sleep(WRITE_AGAIN).await;
        }
    }

    async fn write(&self) -> std::io::Result<()> {
        let _one_at_a_time = self.writing.lock().await;
        let kept = self.book.kept();
        let written = tokio::task::spawn_blocking(move || {
            let bytes = serde_json::to_vec(&kept).map_err(std::io::Error::other)?;
            kept::write(Path::new(FILE), &bytes)
        });
        written.await.map_err(std::io::Error::other).flatten()
    }

    /// The policy with this beside what was approved before.
    async fn put_in_force(&self, policy: InForce<'_>, number: u64, new: Approved) -> Result<(), Fault> {
        let (id, mut all) = (new.id.clone(), self.others(number));
        all.push(new);
        let published = policy.publish(all).await?;
        if published.left_out.contains(&id) {
            return Err(Fault::new(
                Code::Conflict,
                "the policy has an entry that contradicts it: the same host and port with another `protocol` or `tls`",
            )
            .hint("approve it once, or change the policy"));
        }
        Ok(())
    }

    /// The policy without this, where it has it or the book says that it should.
    async fn without(&self, policy: InForce<'_>, number: u64) -> Result<(), Fault> {
        let others = self.others(number);
        let key = Approved::key(&number.to_string());
        let is_there =
            policy.store.load().policy.network().iter().any(|entry| entry.approved && *entry.key == *key);
        if is_there || others.len() < self.book.approved().len() {
            policy.publish(others).await?;
        }
        Ok(())
    }

    fn others(&self, number: u64) -> Vec<Approved> {
        let mut approved = self.book.approved();
        approved.retain(|(other, _, _)| *other != number);
        written(&approved)
    }
}

impl approval::Operator for Desk {
    fn ask(&self, question: Question) -> BoxFuture<'_, approval::Word> {
        let Question { host, port, method, path, program, generation, again } = question;
        let asked = Asked {
            host,
            port,
            method: method.into(),
            path: path.into(),
            binary: program.path.to_string(),
            sha256: hex::encode(program.sha256),
        };
        Box::pin(async move {
            let word = self.book.ask(asked, (generation, again), |shown| {
                if !again {
                    record(&self.sink, event(&shown, ApprovalChange::Asked, None));
                    if let Some(told) = &self.told {
                        told.asked(&shown);
                    }
                }
            });
            match word.await {
                Word::Once => approval::Word::Once,
                Word::Again => approval::Word::Again,
                Word::Denied(number) => approval::Word::Denied(self.book.id(number)),
                Word::Unanswered(number) => approval::Word::Unanswered(self.book.id(number)),
                Word::Full => approval::Word::Full,
            }
        })
    }
}

/// Follows the book as a number.
async fn count(book: Approvals) {
    let mut changes = book.changes();
    while changes.changed().await.is_ok() {
        metrics::approvals_pending(book.pending());
    }
}

fn written(approved: &[(u64, Asked, Rule)]) -> Vec<Approved> {
    approved.iter().map(|(number, asked, rule)| entry(*number, asked, rule)).collect()
}

fn entry(number: u64, asked: &Asked, rule: &Rule) -> Approved {
    Approved {
        id: number.to_string(),
        host: asked.host.clone(),
        port: asked.port,
        method: rule.method.clone().unwrap_or_else(|| asked.method.clone()),
        path: rule.path.clone().unwrap_or_else(|| asked.path.clone()),
        binary: asked.binary.clone(),
        sha256: asked.sha256.clone(),
    }
}

fn writable(entry: &Approved, rule: &Rule) -> Result<(), Fault> {
    // A pattern is the operator's own, or what it came of means more than itself: an agent may send `*` as
    // its method, and in its path.
    let literal = |own: &Option<String>, what, text: &str| match own {
        Some(_) => Ok(()),
        None => Approved::literal(what, text),
    };
    let literal = literal(&rule.method, "the method", &entry.method)
        .and_then(|()| literal(&rule.path, "the path", &entry.path));
    literal.and_then(|()| entry.check()).map_err(|why| {
        let fault = Fault::new(Code::BadRequest, format!("it can't be an entry of the policy: {why}"));
        match why {
            Unwritable::Pattern { .. } => {
                fault.hint("approve it once, or write a rule of your own with --method and --path")
            }
            Unwritable::Rejected(_) => fault,
        }
    })
}

fn refused(why: Refused) -> Fault {
    let code = match why {
        Refused::Unknown => Code::NotFound,
        Refused::Outdated | Refused::Approved | Refused::Unanswered => Code::Conflict,
    };
    let fault = Fault::new(code, why.to_string());
    match why {
        Refused::Unknown => fault.hint("`cofferdam approvals list` shows them"),
        Refused::Approved => fault.hint("`cofferdam approvals revoke` takes it back first"),
        _ => fault,
    }
}

fn event(shown: &Approval, change: ApprovalChange, uid: Option<u32>) -> Event {
    Event::Approval(Box::new(audit::Approval {
        id: shown.id.as_str().into(),
        change,
        host: shown.host.as_str().into(),
        port: shown.port,
        method: shown.method.as_str().into(),
        path: shown.path.as_str().into(),
        binary: shown.binary.as_str().into(),
        sha256: shown.sha256.as_str().into(),
        generation: shown.generation,
        uid,
    }))
}
