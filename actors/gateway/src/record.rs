//! The [`Ledger`] that writes to the audit log and the metrics.
//!
//! Labels are the provider's name and the route's alias, both from the operator's file. A request that can't
//! be recorded is not sent. A request counts as allowed if it was to be sent to a provider, whatever happened
//! there. A request that is answered here counts as denied, be it because it has no route or because it isn't
//! a valid request.

use std::time::Duration;

use http::StatusCode;
use telemetry::{
    audit::{Event, Inference, Sink, Verdict, in_hex},
    metrics::{self, BudgetCounts, TokenKind},
};

use crate::{
    budgets::Standing,
    ledger::{Exchange, Ledger, Outcome, Unrecorded},
    refusal::{INFERENCE, Refusal},
};

/// The label of a provider or model that has no name in the operator's file.
const NONE: &str = "none";
/// The label of a budget that counts all providers' requests, or those for all models.
const ALL: &str = "*";

/// The ledger over the audit log and the metrics; see the module.
#[derive(Debug, Clone)]
pub struct Telemetry {
    sink: Sink,
}

impl Telemetry {
    /// A ledger that writes to the audit log's sink.
    pub fn new(sink: Sink) -> Self {
        Self { sink }
    }

    fn write(&self, event: Inference) -> Result<(), Unrecorded> {
        match self.sink.record(Event::Inference(Box::new(event))) {
            Ok(_) => Ok(()),
            Err(fault) => {
                tracing::warn!(%fault, "an inference record was not taken");
                Err(Unrecorded)
            }
        }
    }
}

fn event(exchange: &Exchange, verdict: Verdict) -> Inference {
    Inference {
        verdict,
        provider: exchange.provider.clone(),
        model: exchange.asked.clone().unwrap_or_default(),
        upstream_model: exchange.upstream_model.clone(),
        binary: Some(exchange.caller.executable.path.clone().into()),
        sha256: Some(in_hex(&exchange.caller.executable.sha256)),
        request_id: exchange.request_id.to_string().into(),
        streamed: exchange.streamed,
        ..Inference::default()
    }
}

fn label(word: &Option<smol_str::SmolStr>) -> &str {
    word.as_deref().unwrap_or(NONE)
}

/// The entry that decided, which every layer records. On this layer it is the route, and empty where none
/// matched.
fn entry(exchange: &Exchange) -> &str {
    exchange.route.as_deref().unwrap_or_default()
}

fn detail(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome { passed_over: true, .. } => Some("not served; the route's next target was asked"),
        Outcome { complete: false, .. } => Some("the answer was cut off"),
        _ => None,
    }
}

fn ms(took: Duration) -> Option<u64> {
    u64::try_from(took.as_millis()).ok()
}

impl Ledger for Telemetry {
    fn admit(&self, exchange: &Exchange) -> Result<(), Unrecorded> {
        self.write(event(exchange, Verdict::Allowed))?;
        metrics::decision(INFERENCE, Verdict::Allowed, entry(exchange));
        Ok(())
    }

    fn refused(&self, exchange: &Exchange, refusal: &Refusal) {
        let code = refusal.status.as_u16();
        metrics::inference_request(label(&exchange.provider), label(&exchange.route), code);
        // 502 and 504 mean that a provider was allowed to be asked and gave no usable answer; any other
        // status was refused here.
        let asked = matches!(refusal.status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT);
        let verdict = if asked { Verdict::Allowed } else { Verdict::Denied };
        if !asked {
            // Only a 403 is a decision of this layer. Any other refusal is counted under its error code, as
            // in the proxy.
            let layer = if refusal.status == StatusCode::FORBIDDEN { refusal.layer } else { refusal.code };
            metrics::decision(layer, verdict, entry(exchange));
        }
        // The request is refused already, so a failed write lets nothing through.
        let _ = self.write(Inference {
            code: Some(code),
            layer: (!asked).then(|| refusal.layer.into()),
            detail: Some(refusal.detail.as_str().into()),
            ..event(exchange, verdict)
        });
    }

    fn guessed(&self, exchange: &Exchange) {
        metrics::guesses_spent();
        // The answers are delayed already, so a failed write changes nothing.
        let _ = self.write(Inference {
            detail: Some(redactor::guesses::SPENT.into()),
            ..event(exchange, Verdict::Audited)
        });
    }

    fn budgets(&self, standing: &[Standing]) {
        for Standing { which, tokens, requests, .. } in standing {
            let name = |name: &Option<smol_str::SmolStr>| name.clone().unwrap_or(ALL.into());
            let (provider, model) = (name(&which.provider), name(&which.model));
            for (counts, (used, limit)) in
                [(BudgetCounts::Tokens, tokens), (BudgetCounts::Requests, requests)]
            {
                if let Some(limit) = limit {
                    metrics::inference_budget((which.per.as_str(), &provider, &model), counts, *used, *limit);
                }
            }
        }
    }

    fn first_byte(&self, _: &Exchange, after: Duration) {
        metrics::inference_first_byte(after);
    }

    fn finished(&self, exchange: &Exchange, outcome: &Outcome) {
        let (provider, route) = (label(&exchange.provider), label(&exchange.route));
        metrics::inference_request(provider, route, outcome.code);
        let tokens = outcome.tokens;
        for (kind, count) in [(TokenKind::Input, tokens.input), (TokenKind::Output, tokens.output)] {
            if let Some(count) = count {
                metrics::inference_tokens(provider, route, kind, count);
            }
        }
        // The answer was sent; if the write fails only the record is lost, and the sink counts that.
        let _ = self.write(Inference {
            code: Some(outcome.code),
            input_tokens: tokens.input,
            output_tokens: tokens.output,
            duration_ms: ms(outcome.took),
            detail: detail(outcome).map(Into::into),
            ..event(exchange, Verdict::Allowed)
        });
    }
}
