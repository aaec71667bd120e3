//! `cofferdam provider detect`: model servers that already answer on this machine's loopback, and keys in the
//! environment.
//!
//! Any user of this machine can listen on a port. So a server that answers is asked for its models without a
//! key, and offered only if it runs as our user or as the system's. Values of variables are checked, and
//! never shown.

use std::time::Duration;

use futures_util::future::join_all;
use gateway::base_url::BaseUrl;
use gateway::config::{Cost, Kind, Provider, StreamUsage, Trust};
use gateway::probe::{Fault, Question, Said};
use redactor::{Credential, Reference};
use serde::Serialize;
use smol_str::SmolStr;

use super::entry;
use super::known::{SERVERS, SERVICES, Server, Service};
use super::owner::{self, Doubt};
use super::road::{Road, ready};
use crate::cli::wait_for;
use crate::console::{one_line, print, print_json, say};
use crate::failure::{Failure, Outcome};

/// How long a server on this machine may take to answer.
const WITHIN: Duration = Duration::from_secs(2);
/// The indent of a provider below `inference:` and `providers:`.
const INDENT: &str = "    ";
/// How many names of models are shown.
const NAMES_SHOWN: usize = 8;

/// A provider that could be used.
#[derive(Debug, Clone, Serialize)]
pub struct Offer {
    /// The name of its entry.
    pub name: String,
    /// Its entry.
    #[serde(flatten)]
    pub provider: Provider,
    /// Its models, if it was asked for them.
    pub models: Vec<SmolStr>,
    /// What was found, in one line.
    pub found: String,
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Detected {
    /// Providers, servers on this machine first.
    pub providers: Vec<Offer>,
    /// What was found but can't be used as it is, and why; one line each.
    pub notes: Vec<String>,
}

/// Prints what was found, as lines for `inference.providers`.
pub fn detect(ports: &[u16], json: bool) -> Outcome {
    let detected = look(ports)?;
    if json {
        print_json(&detected)?;
        return Ok(0);
    }
    let mut text = String::new();
    for offer in &detected.providers {
        let line = entry::line(&offer.name, &offer.provider);
        text.push_str(&format!("{INDENT}# {}\n{INDENT}{line}\n", offer.found));
    }
    for note in &detected.notes {
        text.push_str(&format!("{INDENT}# {note}\n"));
    }
    print(&text)?;
    match detected.providers.is_empty() {
        true => say(
            "no model server answers on this machine, and no key of a known service is in the environment: docs/providers.md has entries",
        ),
        false => say(
            "these lines go behind `inference:` and `  providers:` of cofferdam.yaml as they are; `cofferdam onboard` writes one",
        ),
    }
    Ok(0)
}

/// Checks these ports, or the known ones if none are given, and the environment.
///
/// # Errors
/// No server can be asked at all.
pub fn look(ports: &[u16]) -> Result<Detected, Failure> {
    let named: Vec<Server> =
        ports.iter().map(|port| Server { port: *port, name: "local", what: "a model server" }).collect();
    let servers = if ports.is_empty() { SERVERS.to_vec() } else { named };
    let road = Road::near(WITHIN)?;
    let answers = wait_for(async {
        Ok(join_all(servers.iter().map(|server| {
            let road = &road;
            async move { (server, ask(road, server).await) }
        }))
        .await)
    })?;
    let mut detected = Detected::default();
    for (server, answer) in answers {
        detected.add_server(server, answer);
    }
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    for service in &SERVICES {
        let elsewhere = service.elsewhere.filter(|name| {
            let led = variable(name).map(|url| BaseUrl::parse(&url.to_string_lossy()));
            led.is_some_and(|led| led != BaseUrl::parse(service.base_url))
        });
        if variable(service.variable).is_some() {
            detected.add_service(service, elsewhere);
        }
    }
    Ok(detected)
}

fn at(server: &Server) -> Provider {
    Provider {
        kind: Kind::Openai,
        base_url: format!("http://localhost:{}/v1", server.port),
        credential: None,
        trust: Trust::SelfHosted,
        cost: Cost::None,
        stream_usage: StreamUsage::Ask,
    }
}

/// A server's answer, and whether its owner was known both before the question and after the answer.
struct Answered {
    count: usize,
    models: Vec<SmolStr>,
    owner: Result<(), Doubt>,
}

async fn ask(road: &Road, server: &Server) -> Result<Answered, Fault> {
    let ready = ready(&server.name.into(), &at(server), None)
        .map_err(|faults| Fault::OtherProtocol(faults.to_string()))?;
    // The owner is checked before and after: another user's server may take the port once ours is gone, or be
    // gone again once it has the question. The server that answers was there at one of the two times.
    let before = owner::known(server.port);
    let said = road.ask(&ready, Question::Models).await?.said;
    let owner = before.and_then(|()| owner::known(server.port));
    Ok(match said {
        Said::Models { count, names } => Answered { count, models: names, owner },
        Said::Token => Answered { count: 0, models: Vec::new(), owner },
    })
}

impl Detected {
    fn add_server(&mut self, server: &Server, answer: Result<Answered, Fault>) {
        let (what, port) = (server.what, server.port);
        let entry = || entry::line(server.name, &at(server));
        match answer {
            Ok(Answered { count, models, owner }) => {
                let found = format!("{what} answers at localhost:{port}: {}", told(count, &models));
                if let Err(doubt) = owner {
                    self.notes.push(format!("{found}; {doubt}: if you trust who serves there, {}", entry()));
                    return;
                }
                let name = self.free_name(server.name);
                self.providers.push(Offer { name, provider: at(server), models, found });
            }
            // Nothing listens there.
            Err(Fault::Connect(_) | Fault::NotConnected(_)) => {}
            Err(fault @ Fault::Refused { .. }) => self.notes.push(format!(
                "localhost:{port} {fault}: if it is your model server, {} with a `credential`",
                entry()
            )),
            Err(fault) => self.notes.push(one_line(&format!("localhost:{port} is no model server: {fault}"))),
        }
    }

    fn add_service(&mut self, service: &Service, elsewhere: Option<&str>) {
        let variable = service.variable;
        let reference = Reference::Env(variable.to_owned());
        if let Err(why) = reference.resolve() {
            self.notes.push(one_line(&why.to_string()));
            return;
        }
        if let Some(elsewhere) = elsewhere {
            self.notes.push(format!(
                "{variable} is set, and {elsewhere} leads to another server than {}: write that one's `base_url` beside \
                 `credential: {reference}`, if the key is for it",
                service.base_url
            ));
            return;
        }
        let provider = Provider {
            kind: service.kind,
            base_url: service.base_url.to_owned(),
            credential: Some(Credential::Reference(reference)),
            trust: Trust::Standard,
            cost: Cost::PerToken,
            stream_usage: service.stream_usage,
        };
        let found = format!("{variable} is set");
        self.providers.push(Offer {
            name: self.free_name(service.name),
            provider,
            models: Vec::new(),
            found,
        });
    }

    /// Returns the name, with a number appended if it is taken.
    pub fn free_name(&self, name: &str) -> String {
        let is_taken = |name: &str| self.providers.iter().any(|offer| offer.name == name);
        let numbered = (2..).map(|n| format!("{name}-{n}"));
        std::iter::once(name.to_owned()).chain(numbered).find(|name| !is_taken(name)).unwrap_or_default()
    }
}

/// Returns the number of models and the first names, in words.
fn told(count: usize, names: &[SmolStr]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_SHOWN).map(SmolStr::as_str).collect();
    let more = if count > shown.len() { ", …" } else { "" };
    match (count, shown.is_empty()) {
        (0, _) => "no model yet".to_owned(),
        (1, true) => "1 model".to_owned(),
        (_, true) => format!("{count} models"),
        (1, false) => format!("1 model, {}", shown.join("")),
        (_, false) => format!("{count} models, {}{more}", shown.join(", ")),
    }
}
