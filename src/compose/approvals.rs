//! Carries out `cofferdam approvals`: records questions, keeps them on disk, and puts answers in force.
//!
//! An approval for once is passed to the request that waits. An approval for the run or for good becomes an
//! entry of the policy, and is in force before any request hears of it. Decides nothing: the proxy decides
//! what may be asked for, and the operator what is approved.

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

/// The shortest time between two writes of questions. Answers are written at once.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// How long the reloader may take to put an answer in force.
const DEADLINE: Duration = Duration::from_secs(10);

/// The questions of a sandbox whose configuration says `unlisted: ask`.
#[derive(Clone)]
pub struct ApprovalDesk {
    book: Approvals,
    sink: Sink,
    /// Held while an answer is put in force: each builds on the previous one.
    answering: Arc<Mutex<()>>,
    /// Held from reading the book until it is on disk, so that no older state overwrites a newer one.
    writing: Arc<Mutex<()>>,
    /// Prints questions as they come, if that is wanted.
    told: Option<Questions>,
}

/// The policy in force, and the actor that replaces it.
#[derive(Clone, Copy)]
pub struct InForce<'a> {
    /// The store that the policy is read from.
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

/// Returns the sandbox's questions, with what an earlier supervisor left, or what earlier runs were allowed
/// for good.
///
/// # Errors
/// The approvals of an earlier run that don't hold for this one can't be removed from the disk.
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
        // Written at once: a later supervisor of this run takes the whole file for this run's.
        kept::write(Path::new(FILE), &serde_json::to_vec(&kept)?)?;
    }
    Ok(Approvals::new(sandbox, hold, kept))
}

/// Returns the approvals as the entries that the policy is composed with.
#[must_use]
pub fn entries(book: &Approvals) -> Vec<Approved> {
    written(&book.approved())
}

impl ApprovalDesk {
    /// Keeps the book on disk from now on. With `tells`, questions are printed on standard error.
    #[must_use]
    pub fn open(book: Approvals, sink: Sink, tells: bool) -> Self {
        let told = tells.then(Questions::open);
        let desk = Self { book, sink, answering: Arc::default(), writing: Arc::default(), told };
        supervision::essential(desk.clone().keep());
        supervision::essential(count(desk.book.clone()));
        desk
    }

    /// Returns the approvals as the entries that the policy is composed with.
    #[must_use]
    pub fn entries(&self) -> Vec<Approved> {
        entries(&self.book)
    }

    /// Returns every question.
    #[must_use]
    pub fn list(&self) -> Vec<Approval> {
        self.book.list()
    }

    /// Carries out an operator's answer to a question.
    ///
    /// # Errors
    /// There is no such question, the answer doesn't fit it, the policy has no place for it, or it can't be
    /// written to disk.
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
        // A client that gets this answer may rely on it, whatever process dies next.
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
                    // However it failed, nothing may stay in force that the book doesn't have.
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

    /// Waits, `at_most` so long, until an answer that is being carried out is on disk and recorded. The
    /// request that it let through may have ended the sandbox already.
    pub async fn settled(&self, at_most: Duration) {
        let _ = tokio::time::timeout(at_most, self.answering.lock()).await;
    }

    /// Writes the book to disk whenever it has changed.
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

    /// Puts the policy in force with this entry beside what was approved before.
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

    /// Puts the policy in force without this entry, if the policy has it or the book says that it should.
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

impl approval::Operator for ApprovalDesk {
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
    // Only the operator may write a pattern. What an agent sent must stand for itself alone: it may send `*`
    // as its method, and in its path.
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
            Unwritable::Rejected { help: Some(help), .. } => fault.hint(help),
            Unwritable::Rejected { help: None, .. } => fault,
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
