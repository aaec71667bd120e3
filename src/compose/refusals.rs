//! What was refused while an agent ran in the foreground, told to its operator at the end: who tries a
//! program out sees at once what a policy would have to name.
//!
//! The audit log has all of it; this is a short list beside it, and never what anything is decided by.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use futures_util::future::BoxFuture;
use proxy::answer::{Known, Refusal};
use proxy::outcome::{Decision, Finished, Journal, JournalFull, Verdict};
use redactor::SharedRedactor;
use telemetry::audit::Sink;

use crate::console::harmless;

/// Different ones that are told; the rest is counted.
const TOLD: usize = 5;
/// Characters of one that are told.
const LONGEST: usize = 240;

/// The audit log as the proxy's journal, and what it refused in short.
pub struct Refusals {
    sink: Sink,
    redactor: SharedRedactor,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    lines: BTreeSet<String>,
    /// Those for which there was no room, repeats among them.
    more: u64,
}

impl Refusals {
    /// None so far.
    pub fn new(sink: Sink, redactor: SharedRedactor) -> Self {
        Self { sink, redactor, seen: Mutex::default() }
    }

    /// What to tell, if anything was refused; `name` is the sandbox's.
    pub fn told(&self, name: &str) -> Option<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.lines.is_empty() {
            return None;
        }
        let mut told: String = seen.lines.iter().map(|line| format!("refused: {line}\n")).collect();
        if seen.more > 0 {
            told.push_str(&format!("refused: {} more\n", seen.more));
        }
        told.push_str(&format!(
            "`cofferdam audit show {name}` lists them all; `cofferdam policy explain` shows what would allow them"
        ));
        Some(told)
    }

    fn note(&self, what: &str) {
        let shown = harmless(&self.redactor.redact(what)).replace(['\n', '\t'], " ");
        let line: String = shown.chars().take(LONGEST).collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.lines.len() < TOLD {
            seen.lines.insert(line);
        } else if !seen.lines.contains(&line) {
            seen.more += 1;
        }
    }
}

impl Journal for Refusals {
    fn has_room(&self) -> bool {
        Journal::has_room(&self.sink)
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Journal::room(&self.sink)
    }

    fn decided(&self, decision: &Decision<'_>) -> Result<(), JournalFull> {
        if let Verdict::Deny(Refusal::Denied(denial)) = decision.verdict {
            let known = decision.known;
            let program = known.binary().map_or("a program", |path| &**path);
            match &known.destination {
                Some(to) => self.note(&format!("{program} to {}:{}: {}", to.host, to.port, denial.detail)),
                None => self.note(&format!("{program}: {}", denial.detail)),
            }
        }
        self.sink.decided(decision)
    }

    fn name_refused(&self, name: &str, detail: &str, generation: u64) {
        self.note(&format!("the name {name}: {detail}"));
        self.sink.name_refused(name, detail, generation);
    }

    fn port_refused(&self, destination: &SocketAddr, detail: &str, generation: u64) {
        self.note(&format!("{destination}: {detail}"));
        self.sink.port_refused(destination, detail, generation);
    }

    fn guessed(&self, known: &Known) {
        self.sink.guessed(known);
    }

    fn finished(&self, finished: &Finished) {
        self.sink.finished(finished);
    }
}
