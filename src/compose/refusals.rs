//! Lists what was refused while an agent ran in the foreground, and shows it to the operator at the end: an
//! operator who tries a program out sees at once what a policy would have to name.
//!
//! The audit log has everything; this is a short list beside it, and no decision ever depends on it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use futures_util::future::BoxFuture;
use proxy::answer::{Known, Refusal};
use proxy::outcome::{Decision, Finished, Journal, JournalFull, Verdict};
use redactor::SharedRedactor;
use telemetry::audit::Sink;

use crate::console::harmless;

/// How many different refusals are shown; the rest is counted.
const TOLD: usize = 5;
/// How many characters of a refusal are shown.
const LONGEST: usize = 240;

/// The audit log as the proxy's journal, with a short list of what the proxy refused.
pub struct Refusals {
    sink: Sink,
    redactor: SharedRedactor,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    lines: BTreeSet<String>,
    /// How many refusals had no room in `lines`, with repeats.
    more: u64,
}

impl Refusals {
    /// Makes an empty list beside this audit log.
    pub fn new(sink: Sink, redactor: SharedRedactor) -> Self {
        Self { sink, redactor, seen: Mutex::default() }
    }

    /// Returns the text to show, if anything was refused. `name` is the sandbox's.
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
