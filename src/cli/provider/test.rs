//! `cofferdam provider test`: the cheapest real request to each provider, with its key.
//!
//! The result is reported in our own words. A provider's own words are shown, scrubbed, only if no key was
//! sent to it.

use std::path::Path;

use futures_util::future::join_all;
use gateway::config::{Inference, Provider};
use gateway::probe::{Answer, Fault, Question, Said};
use proxy::trusted::TlsFault;
use redactor::{Secret, Unresolved};
use serde::Serialize;
use smol_str::SmolStr;

use super::list;
use super::road::{Road, ready};
use crate::cli::args::ProviderTestArgs;
use crate::cli::wait_for;
use crate::console::{Paint, one_line, print, print_json, table, warn};
use crate::failure::{Failure, Outcome};

/// The result for one provider. Every row has every key, with null where there is no value.
#[derive(Serialize)]
struct Row {
    provider: SmolStr,
    kind: &'static str,
    base_url: String,
    ok: bool,
    /// How many models it lists, if it was asked for them.
    models: Option<usize>,
    first_byte_ms: Option<u128>,
    /// What kind of fault it is: a word for programs.
    fault: Option<&'static str>,
    why: Option<String>,
    mend: Option<String>,
}

/// What can go wrong, from resolving the key to the last byte of the answer.
enum Wrong {
    Credential(Unresolved),
    Entry(String),
    Asked(Fault),
}

/// Asks each provider. Returns exit code 1 if one doesn't answer as it should.
pub fn test(args: &ProviderTestArgs) -> Outcome {
    let config = list::read(&args.file)?;
    let inference = chosen(config.inference.as_ref(), &args.providers, &args.file)?;
    inference.warnings().for_each(|text| warn(&text));
    let keys: Vec<(SmolStr, Result<Option<Secret>, Unresolved>)> =
        inference.providers.iter().map(|(name, provider)| (name.clone(), key(provider))).collect();
    let known = inference.providers.values().zip(&keys).filter_map(|(provider, (_, key))| {
        let reference = provider.credential.as_ref()?.reference()?;
        Some((reference.to_string(), key.as_ref().ok()?.clone()?))
    });
    let road = Road::of(&config, &known.collect::<Vec<_>>(), args.timeout)?;
    let question = args.model.as_deref().map_or(Question::Models, Question::Token);
    let rows = wait_for(async {
        let asked = inference.providers.iter().zip(keys).map(|((name, provider), (_, key))| {
            let road = &road;
            async move {
                let came = came(road, name, provider, key, question).await;
                row(name, provider, question, came, road)
            }
        });
        Ok(join_all(asked).await)
    })?;
    let code = u8::from(rows.iter().any(|row| !row.ok));
    match args.json {
        true => print_json(&rows)?,
        false => print(&shown(&rows, Paint::stdout()))?,
    }
    Ok(code)
}

/// Returns the file's providers, or those that were named.
fn chosen(inference: Option<&Inference>, named: &[String], file: &Path) -> Result<Inference, Failure> {
    let refused = |why: String| Failure::refused(format!("{}: {why}", file.display()));
    let all = inference.filter(|inference| !inference.providers.is_empty()).ok_or_else(|| {
        refused("there is no provider under `inference`: `cofferdam provider detect` looks for one".into())
    })?;
    if let Some(unknown) = named.iter().find(|name| !all.providers.contains_key(name.as_str())) {
        return Err(refused(all.no_provider(unknown)));
    }
    let is_wanted = |name: &SmolStr| named.is_empty() || named.iter().any(|wanted| wanted == name.as_str());
    let providers = all.providers.iter().filter(|(name, _)| is_wanted(name));
    Ok(Inference {
        providers: providers.map(|(n, p)| (n.clone(), p.clone())).collect(),
        ..Inference::default()
    })
}

fn key(provider: &Provider) -> Result<Option<Secret>, Unresolved> {
    let reference = provider.credential.as_ref().and_then(|credential| credential.reference());
    reference.map(|reference| reference.resolve()).transpose()
}

async fn came(
    road: &Road,
    name: &SmolStr,
    provider: &Provider,
    key: Result<Option<Secret>, Unresolved>,
    question: Question<'_>,
) -> Result<Answer, Wrong> {
    let key = key.map_err(Wrong::Credential)?;
    let ready = ready(name, provider, key.as_ref()).map_err(|faults| Wrong::Entry(faults.to_string()))?;
    road.ask(&ready, question).await.map_err(Wrong::Asked)
}

fn row(
    name: &SmolStr,
    provider: &Provider,
    question: Question<'_>,
    came: Result<Answer, Wrong>,
    road: &Road,
) -> Row {
    let row = Row {
        provider: name.clone(),
        kind: provider.kind.as_str(),
        base_url: provider.base_url.clone(),
        ok: came.is_ok(),
        models: None,
        first_byte_ms: None,
        fault: None,
        why: None,
        mend: None,
    };
    match came {
        Ok(Answer { said, first_byte }) => {
            let models = match said {
                Said::Models { count, .. } => Some(count),
                Said::Token => None,
            };
            Row { models, first_byte_ms: Some(first_byte.as_millis()), ..row }
        }
        Err(wrong) => {
            let (fault, why, mend) = told(&wrong, provider, question);
            // It was scrubbed at its source; it is scrubbed again, whatever it is, since it is shown.
            let why = Some(road.clean(&one_line(&why)));
            Row { fault: Some(fault), why, mend: mend.map(|mend| road.clean(&mend)), ..row }
        }
    }
}

/// Returns a word for programs, what is wrong, and the remedy.
fn told(
    wrong: &Wrong,
    provider: &Provider,
    question: Question<'_>,
) -> (&'static str, String, Option<String>) {
    let fault = match wrong {
        Wrong::Credential(unresolved) => return ("credential", unresolved.to_string(), None),
        Wrong::Entry(why) => return ("entry", why.clone(), None),
        Wrong::Asked(fault) => fault,
    };
    let (word, mend) = match fault {
        Fault::Connect(error) if is_tls(error) => {
            ("tls", "look at `base_url`, `upstream_ca` and SSL_CERT_FILE".into())
        }
        Fault::Connect(_) | Fault::NotConnected(_) => ("unreachable", unreachable(provider)),
        Fault::Silent(_) | Fault::Endless(_) => ("timeout", "--timeout gives it longer".into()),
        Fault::Refused { .. } | Fault::Key => ("credential", credential(provider)),
        Fault::Broken(_) | Fault::OtherProtocol(_) => ("protocol", protocol(provider)),
        Fault::Status { code, .. } => ("status", status(code.as_u16(), provider, question)),
    };
    (word, fault.to_string(), Some(mend))
}

fn is_tls(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<TlsFault>())
}

fn unreachable(provider: &Provider) -> String {
    match gateway::base_url::BaseUrl::parse(&provider.base_url) {
        Ok(base) if base.is_loopback() => {
            format!("start the server, or mend `base_url`: nothing listens on {}", base.authority())
        }
        _ => "look at `base_url`, the network, and `upstream_proxy` where everything goes through one".into(),
    }
}

fn credential(provider: &Provider) -> String {
    match provider.credential.as_ref().and_then(|credential| credential.reference()) {
        Some(reference) => {
            format!("look at what {reference} holds, and whether it is for {}", provider.base_url)
        }
        None => "name its key: `credential: env:NAME`, file:/PATH or systemd:NAME".into(),
    }
}

fn protocol(provider: &Provider) -> String {
    format!("look at `base_url`, and whether its `kind` is {}", provider.kind.as_str())
}

fn status(code: u16, provider: &Provider, question: Question<'_>) -> String {
    match (code, question) {
        (404 | 405, Question::Models) => format!("{}; or have a model answer: --model", protocol(provider)),
        (400 | 404 | 422, Question::Token(_)) => {
            "look at the model's name; without --model it is asked which there are".into()
        }
        (429, _) => "it takes no more requests now: try again later, or look at the account".into(),
        (402, _) => "payment required: look at the account".into(),
        (500.., _) => "the provider has an error of its own: try again later".into(),
        _ => protocol(provider),
    }
}

fn shown(rows: &[Row], paint: Paint) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let name = row.provider.to_string();
            match (&row.why, &row.mend) {
                (None, _) => vec![name, paint.good("ok"), well(row)],
                (Some(why), None) => vec![name, paint.bad("FAILED"), why.clone()],
                (Some(why), Some(mend)) => vec![name, paint.bad("FAILED"), format!("{why}: {mend}")],
            }
        })
        .collect();
    table(&cells)
}

fn well(row: &Row) -> String {
    let what = match row.models {
        Some(1) => "1 model".to_owned(),
        Some(count) => format!("{count} models"),
        None => "the model answers".to_owned(),
    };
    format!("{what}, first byte after {} ms", row.first_byte_ms.unwrap_or_default())
}
