//! The audit log as the proxy's [`Journal`].

use std::net::SocketAddr;

use futures_util::future::BoxFuture;
use policy::Layer;
use telemetry::audit::{AuditUnavailable, Egress, Event, Phase, Sink, Text, Verdict as Recorded, in_hex};
use telemetry::complaints::Complaints;

use uuid::Uuid;

use crate::answer::Known;
use crate::approval;
use crate::outcome::{Decision, Finished, Journal, JournalFull, Summary, Verdict};

impl Journal for Sink {
    fn has_room(&self) -> bool {
        Sink::has_room(self)
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(Sink::room(self))
    }

    fn decided(&self, decision: &Decision<'_>) -> Result<(), JournalFull> {
        let Summary { layer, verdict, policy } = decision.summary();
        let mut egress = Egress {
            verdict,
            layer: Text::new_static(layer),
            policy: policy.map(Text::new),
            ..of(decision.known)
        };
        match decision.verdict {
            Verdict::Allow { rule, audit_only, .. } => {
                egress.rule = rule.map(Text::new);
                egress.detail = audit_only.map(|denial| denial.to_string().into());
            }
            Verdict::Ask => egress.rule = Some(Text::new_static(approval::EACH_REQUEST)),
            Verdict::Deny(refusal) => {
                egress.detail = Some(refusal.detail().into());
                egress.status = Some(refusal.status().as_u16());
            }
        }
        let recorded = self.record(Event::Egress(Box::new(egress)));
        recorded.map(drop).map_err(|unavailable| match unavailable {
            AuditUnavailable::Full => JournalFull::Queue,
            AuditUnavailable::Disk(_) => JournalFull::Disk,
            AuditUnavailable::Closed => JournalFull::Closed,
        })
    }

    fn name_refused(&self, name: &str, detail: &str, generation: u64) {
        let of = Egress { layer: Text::new_static("dns"), host: name.into(), ..Egress::default() };
        refused(self, of, detail, generation);
    }

    fn port_refused(&self, destination: &SocketAddr, detail: &str, generation: u64) {
        let of = Egress {
            layer: Text::new_static(Layer::L4.as_str()),
            host: destination.ip().to_string().into(),
            port: destination.port(),
            ..Egress::default()
        };
        refused(self, of, detail, generation);
    }

    fn guessed(&self, known: &Known) {
        let egress = Egress {
            verdict: Recorded::Audited,
            layer: Text::new_static(Layer::L7.as_str()),
            detail: Some(Text::new_static(redactor::guesses::SPENT)),
            ..of(known)
        };
        if let Err(error) = self.record(Event::Egress(Box::new(egress))) {
            static GUESSES: Complaints = Complaints::new();
            error.complain("that an agent may guess no more", &GUESSES);
        }
    }

    fn finished(&self, finished: &Finished) {
        let mut egress = of(&finished.known);
        egress.phase = Phase::Finished;
        egress.verdict = Recorded::Allowed;
        egress.bytes_up = Some(finished.up);
        egress.bytes_down = Some(finished.down);
        egress.duration_ms = Some(u64::try_from(finished.took.as_millis()).unwrap_or(u64::MAX));
        egress.status = finished.status;
        egress.detail = finished.fault.as_deref().map(Text::new);
        if let Err(error) = self.record(Event::Egress(Box::new(egress))) {
            // The decision is on record already; a full log refuses new ones.
            static ENDS: Complaints = Complaints::new();
            error.complain("the end of a request", &ENDS);
        }
    }
}

/// Records what was refused before there was a request.
fn refused(sink: &Sink, of: Egress, detail: &str, generation: u64) {
    let egress = Egress {
        verdict: Recorded::Denied,
        generation,
        request_id: Uuid::now_v7().to_string().into(),
        detail: Some(detail.into()),
        ..of
    };
    if let Err(error) = sink.record(Event::Egress(Box::new(egress))) {
        static REFUSALS: Complaints = Complaints::new();
        error.complain("a refusal", &REFUSALS);
    }
}

fn of(known: &Known) -> Egress {
    let destination = known.destination.as_ref();
    let executable = known.caller.as_ref().map(|caller| &caller.executable);
    Egress {
        host: destination.map(|destination| destination.host.bare()).unwrap_or_default(),
        port: destination.map(|destination| destination.port).unwrap_or_default(),
        method: known.method.clone(),
        path: known.path.clone(),
        binary: known.binary().map(|path| path.clone().into()),
        sha256: executable.map(|executable| in_hex(&executable.sha256)),
        generation: known.generation.unwrap_or_default(),
        credentials: known.credentials.clone(),
        request_id: Text::new(known.request_id.as_hyphenated().encode_lower(&mut Uuid::encode_buffer())),
        ..Egress::default()
    }
}
