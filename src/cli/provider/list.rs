//! `cofferdam provider list`: the kinds of provider that the gateway can serve, and a file's providers.

use std::path::Path;

use gateway::config::{Kind, Provider};
use serde::Serialize;

use crate::cli::provider::entry;
use crate::config::Config;
use crate::console::{Paint, one_line, print, print_json, table};
use crate::failure::{Failure, Outcome};

/// The file that is read if none is named.
const HERE: &str = "cofferdam.yaml";
/// The variable that shows experimental kinds if it is 1.
const EXPERIMENTAL: &str = "COFFERDAM_EXPERIMENTAL";

/// A kind of provider, as it is shown.
#[derive(Serialize)]
struct KindRow {
    kind: &'static str,
    protocol: &'static str,
    key_in: &'static str,
}

/// One provider of the file.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    kind: &'static str,
    base_url: &'a str,
    trust: &'static str,
    cost: &'static str,
    /// The reference, never the key.
    credential: Option<String>,
    /// Whether the reference leads to a key now; `None` without a reference.
    resolves: Option<bool>,
    /// Why it doesn't, and the remedy.
    why: Option<String>,
}

/// Prints the kinds and the file's providers.
pub fn list(file: Option<&Path>, json: bool) -> Outcome {
    let file = file.or_else(|| Some(Path::new(HERE)).filter(|here| here.exists()));
    let config = file.map(read).transpose()?;
    let providers = config.as_ref().and_then(|config| config.inference.as_ref()).map(|it| &it.providers);
    let rows: Vec<Row<'_>> =
        providers.into_iter().flatten().map(|(name, provider)| row(name, provider)).collect();
    let kinds = Kind::ALL.map(kind);
    let experimental = std::env::var(EXPERIMENTAL).is_ok_and(|value| value == "1");
    if json {
        let mut all = serde_json::json!({ "kinds": kinds, "file": file, "providers": rows });
        if let Some(all) = all.as_object_mut().filter(|_| experimental) {
            all.insert("experimental_kinds".to_owned(), serde_json::json!([]));
        }
        print_json(&all)?;
        return Ok(0);
    }
    let paint = Paint::stdout();
    let heading = |text: &str| paint.bold(text);
    let mut cells = vec![vec![heading("KIND"), heading("PROTOCOL"), heading("KEY IN")]];
    cells.extend(kinds.iter().map(|it| [it.kind, it.protocol, it.key_in].map(str::to_owned).to_vec()));
    print(&table(&cells))?;
    if experimental {
        print(&paint.dim("no kind is experimental in this version\n"))?;
    }
    match (file, rows.is_empty()) {
        (None, _) => print(&format!("\nno {HERE} here: -f FILE shows the providers of one\n"))?,
        (Some(file), true) => print(&format!("\n{}: no providers under `inference`\n", file.display()))?,
        (Some(_), false) => print(&format!("\n{}", shown(&rows, paint)))?,
    }
    Ok(0)
}

/// Reads a configuration and checks it as `up` does.
///
/// # Errors
/// Every fault of the file's `inference`.
pub fn read(file: &Path) -> Result<Config, Failure> {
    let config = Config::read(file)?;
    let checked = config.inference.as_ref().map_or(Ok(()), gateway::config::Inference::check);
    checked.map_err(|faults| Failure::refused(format!("{}: {faults}", file.display())))?;
    Ok(config)
}

fn kind(kind: Kind) -> KindRow {
    let (protocol, key_in) = match kind {
        Kind::Openai => ("chat completions, completions, responses, embeddings", "Authorization: Bearer"),
        Kind::Anthropic => ("messages, count_tokens", "x-api-key"),
    };
    KindRow { kind: kind.as_str(), protocol, key_in }
}

fn row<'a>(name: &'a str, provider: &'a Provider) -> Row<'a> {
    let reference = provider.credential.as_ref().and_then(|credential| credential.reference());
    // The key is dropped, and thereby wiped, as soon as it was read.
    let found = reference.map(|reference| reference.resolve().map(drop));
    Row {
        name,
        kind: provider.kind.as_str(),
        base_url: &provider.base_url,
        trust: entry::trust(provider.trust),
        cost: entry::cost(provider.cost),
        credential: reference.map(ToString::to_string),
        resolves: found.as_ref().map(Result::is_ok),
        why: found.and_then(Result::err).map(|why| one_line(&why.why)),
    }
}

fn shown(rows: &[Row<'_>], paint: Paint) -> String {
    let heading = ["PROVIDER", "KIND", "BASE URL", "TRUST", "COST", "CREDENTIAL"];
    let mut cells = vec![heading.map(|text| paint.bold(text)).to_vec()];
    for row in rows {
        let credential = match (&row.credential, &row.why) {
            (None, _) => paint.dim("none"),
            (Some(reference), None) => format!("{reference} {}", paint.good("is there")),
            (Some(reference), Some(why)) => format!("{reference} {} {why}", paint.bad("MISSING:")),
        };
        let of = [row.name, row.kind, row.base_url, row.trust, row.cost].map(str::to_owned);
        cells.push(of.into_iter().chain([credential]).collect());
    }
    table(&cells)
}
