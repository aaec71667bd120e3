//! `policy explain`: answers one question with the verdict, the rule that made it, and for a denial the
//! nearest rule and what differs.

mod mend;
mod odd;
mod words;

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;
use serde::Serialize;

pub use crate::compiled::Difference;
use crate::compiled::{Compiled, Near};
use crate::content::{Content, Reading, SaidText};
use crate::model::{Origin, is_inference_local};
use crate::renamed::renamed;
use crate::second::{self, Second};
use crate::{
    Allowed, Caller, CanonicalPath, Denial, Destination, Executable, Host, HostError, HostPattern,
    PathOptions, Query, RequestFacts, Treatment, WEBSOCKET_TEXT,
};

/// A question: may this program connect there, and send this request?
#[derive(Debug, Clone)]
pub struct Question {
    /// The destination.
    pub destination: Destination,
    /// The calling program.
    pub caller: Caller,
    /// The request that is sent there; `None` asks about the connection alone.
    pub request: Option<Asked>,
}

/// The request of a question, as written; it is canonicalised when the endpoint's path options are known.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// The path, raw.
    pub path: String,
    /// What stands behind the `?`, raw.
    pub query: Option<String>,
    /// Whether it is a WebSocket handshake (`ws:` and `wss:`).
    pub websocket: bool,
    /// The body, where an endpoint judges bodies.
    pub body: Option<String>,
    /// A text message on the WebSocket, instead of its handshake.
    pub message: Option<String>,
    /// Header fields; some of them may name a second resource.
    pub headers: HeaderMap,
}

/// Why a question can't be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// Neither a URL nor `host:port`.
    #[error("`{0}` is neither a URL (http, https, ws, wss) nor HOST:PORT")]
    Url(String),
    /// The host isn't a valid one.
    #[error("the host can't be read: {0}")]
    Host(#[from] HostError),
}

impl Question {
    /// Makes a question of a program's path, a method (`None`: the connection alone) and a URL or
    /// `HOST:PORT`.
    ///
    /// The program's SHA-256 is taken as zero, so an entry that pins one doesn't match, and the answer says
    /// so.
    ///
    /// # Errors
    /// A [`QuestionError`] that says what can't be read.
    pub fn parse(binary: &str, method: Option<&str>, url: &str) -> Result<Self, QuestionError> {
        let odd = || QuestionError::Url(url.to_owned());
        let (scheme, rest) = match url.split_once("://") {
            Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
            None => (String::new(), url),
        };
        let default_port = match scheme.as_str() {
            "https" | "wss" => Some(443),
            "http" | "ws" => Some(80),
            "" => None,
            _ => return Err(odd()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(at).ok_or_else(odd)?;
        let (host, port) = split_port(authority);
        let port = match port {
            Some(text) => text.parse().map_err(|_| odd())?,
            None => default_port.ok_or_else(odd)?,
        };
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let websocket = matches!(scheme.as_str(), "ws" | "wss");
        let request = (method.is_some() || websocket).then(|| Asked {
            method: method.unwrap_or("GET").to_owned(),
            path: path.to_owned(),
            query,
            websocket,
            body: None,
            message: None,
            headers: HeaderMap::new(),
        });
        let executable = Executable { path: binary.into(), sha256: [0; 32] };
        Ok(Self {
            destination: Destination { host: Host::parse(host)?, port },
            caller: Caller {
                executable,
                ancestors: Arc::default(),
                foreign_code: false,
                party: crate::Party::UNKNOWN,
            },
            request,
        })
    }
}

/// `host:port`, `[v6]:port`, or a host alone.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// The answer to a question.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The program.
    pub binary: Arc<str>,
    /// The request that was asked about, in canonical form.
    pub request: String,
    /// The second resources that its header fields name, each as a request of its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seconds: Vec<String>,
    /// The verdict.
    pub verdict: Verdict,
    /// How the connection is treated, if it is granted.
    pub treatment: Option<Treatment>,
    /// The entry that decided.
    pub policy: Option<Arc<str>>,
    /// The rule that decided: one that allows the request, or a deny rule. `None` where the request is
    /// refused because no rule allows it.
    pub rule: Option<Arc<str>>,
    /// Where that rule stands: `file:line:column`.
    pub location: Option<String>,
    /// Why the request is, or with `enforcement: audit` would be, refused.
    pub denial: Option<Denial>,
    /// Why the request itself is refused as `bad_request`, before any rule is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bad_request: Option<String>,
    /// What else the verdict depends on, such as the gateway or the addresses of the name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Cow<'static, str>>,
    /// The endpoint and rule that come nearest to allowing it.
    pub nearest: Option<Nearest>,
    /// Where nothing comes near: the narrowest entry of `network_policies` that would allow the request, as
    /// YAML.
    pub mend: Option<String>,
}

impl Explanation {
    /// An explanation that says "refused" and nothing else yet.
    fn refused(binary: &str, request: String) -> Self {
        Self {
            binary: binary.into(),
            request,
            seconds: Vec::new(),
            verdict: Verdict::Deny,
            treatment: None,
            policy: None,
            rule: None,
            location: None,
            denial: None,
            nearest: None,
            mend: None,
            bad_request: None,
            note: None,
        }
    }
}

/// The note for `inference.local`, which no entry of a policy opens or closes.
const INFERENCE: &str = "the gateway answers for `inference.local`: by its routes, and the programs that the inference section names";

/// The verdict on a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Allowed.
    Allow,
    /// Allowed, and what it would have been refused for is recorded.
    Audit,
    /// Refused.
    Deny,
}

/// An endpoint and rule that come near to allowing something.
#[derive(Debug, Clone, Serialize)]
pub struct Nearest {
    /// The entry.
    pub policy: Arc<str>,
    /// The endpoint.
    pub endpoint: Arc<str>,
    /// The rule, if rules were compared.
    pub rule: Option<Arc<str>>,
    /// Where the rule stands, or the endpoint if no rules were compared: `file:line:column`.
    pub location: String,
    /// What would have to differ.
    pub differs: Vec<Difference>,
}

impl Compiled {
    /// Answers a question.
    #[must_use]
    pub fn explain(&self, question: &Question) -> Explanation {
        let mut out = self.verdict_on(question);
        // If the connection is granted, there is an entry for it already.
        let granted = out.treatment.is_some();
        if out.verdict == Verdict::Deny && out.nearest.is_none() && out.bad_request.is_none() && !granted {
            out.mend = mend::entry(question);
        }
        if out.verdict != Verdict::Deny && out.note.is_none() {
            out.note = self.on_condition(question);
        }
        out
    }

    /// The condition that can be checked only when the name is resolved: the ranges in which its addresses
    /// must lie.
    fn on_condition(&self, question: &Question) -> Option<Cow<'static, str>> {
        question.destination.host.name()?;
        let grant = self.connect(&question.destination, &question.caller).ok()?;
        let ranges: Vec<String> = grant.addresses.allowed_ips.iter().map(ToString::to_string).collect();
        let told = || format!("if every address of the name lies in {} (`allowed_ips`)", ranges.join(", "));
        (!ranges.is_empty()).then(|| told().into())
    }

    /// The answer without the proposed entry and the note on addresses.
    fn verdict_on(&self, question: &Question) -> Explanation {
        let Question { destination, caller, request } = question;
        let mut out = Explanation::refused(&caller.executable.path, destination.to_string());
        out.verdict = Verdict::Allow;
        if is_inference_local(&destination.host) {
            out.note = Some(INFERENCE.into());
            return out;
        }
        let grant = match self.connect(destination, caller) {
            Ok(grant) => grant,
            Err(denial) => {
                out.verdict = Verdict::Deny;
                out.policy.clone_from(&denial.policy);
                out.denial = Some(denial);
                out.nearest = self.nearest_connection(destination, caller);
                return out;
            }
        };
        out.treatment = Some(grant.treatment);
        out.policy = Some(grant.policy);
        out.location = self.origin_of(destination, caller, &grant.rule).map(Origin::to_string);
        out.rule = Some(grant.rule);
        if let Some(asked) = request {
            let (path, query) = match canonical(asked, grant.path_options) {
                Ok(both) => both,
                Err(why) => {
                    out.request = words::as_asked(asked, destination);
                    (out.verdict, out.bad_request) = (Verdict::Deny, Some(why));
                    (out.rule, out.location) = (None, None);
                    return out;
                }
            };
            let said = asked.message.as_deref();
            let method = if said.is_some() { WEBSOCKET_TEXT } else { &asked.method };
            out.request = format!("{method} {destination}{path}{query}");
            let websocket = asked.websocket || said.is_some();
            let head =
                RequestFacts { method, path: &path, query: &query, websocket, content: Content::Unread };
            let read_as = self.body_of(destination, caller, &head);
            // Where several entries serve the connection, the request's own says what its body is read as.
            if let (Some((protocol, _)), Some(Treatment::Inspect { protocol: shown })) =
                (read_as, &mut out.treatment)
            {
                *shown = protocol;
            }
            let body = read_as.zip(asked.body.as_deref());
            let reading = body.map(|((protocol, _), body)| Reading::of(protocol, body.as_bytes()));
            let asks = self.asks_of_messages(destination, caller, &path);
            let said = said.map(|text| SaidText::read(text, asks));
            let content = match (&said, &reading) {
                (Some(said), _) => said.content(),
                (None, Some(reading)) => reading.content(),
                (None, None) => Content::Unread,
            };
            // A message has no header fields, so it names no second resource.
            let seconds = match &said {
                Some(_) => Box::default(),
                None => second::named_in(&asked.headers, method, &path),
            };
            let all = (&RequestFacts { content, ..head }, &*seconds);
            self.explain_request(&mut out, destination, caller, all);
        }
        out
    }

    fn explain_request(
        &self,
        out: &mut Explanation,
        to: &Destination,
        caller: &Caller,
        (facts, seconds): (&RequestFacts<'_>, &[Second]),
    ) {
        out.seconds = seconds.iter().filter_map(|second| named(second, to)).collect();
        let treatment = out.treatment.unwrap_or(Treatment::Relay { tls_skip: false });
        match self.request_as_sent((to, treatment), caller, facts, seconds) {
            Ok(allowed) => {
                out.verdict = if allowed.audit_only.is_some() { Verdict::Audit } else { Verdict::Allow };
                out.policy = Some(allowed.policy);
                out.location = self.origin_of(to, caller, &allowed.rule).map(Origin::to_string);
                out.rule = Some(allowed.rule);
                out.denial = allowed.audit_only.map(|denial| *denial);
            }
            Err(denial) => {
                out.verdict = Verdict::Deny;
                out.policy.clone_from(&denial.policy);
                (out.rule, out.location) = (None, None);
                out.denial = Some(denial);
            }
        }
        if out.denial.is_some() {
            // Explain the first method that is refused, of all that servers may read in the request.
            let renamed = renamed(treatment, facts);
            let methods = std::iter::once(facts.method).chain(renamed.iter().flatten().map(String::as_str));
            let by = |method| RequestFacts { method, ..*facts };
            let verdict = out.verdict;
            let refused = |facts: &RequestFacts<'_>| judged(self.request(to, caller, facts)) == verdict;
            let refused = methods.map(by).find(refused);
            match refused {
                Some(facts) => self.explain_refused(out, to, caller, &facts),
                // A method that can't be judged has no rule to show.
                None if renamed.contains(&None) => {}
                None => self.explain_second(out, to, caller, seconds),
            }
        }
    }

    /// Adds the deny rule that refuses a request, and what comes nearest to allowing it.
    fn explain_refused(
        &self,
        out: &mut Explanation,
        to: &Destination,
        caller: &Caller,
        facts: &RequestFacts<'_>,
    ) {
        out.nearest = self.nearest_part(to, caller, facts).map(shown);
        // If the request is let through all the same (audit), `rule` stays the rule that lets it through; the
        // deny rule is in the denial.
        if let (Verdict::Deny, Some(clause)) = (out.verdict, self.refusing(to, caller, facts)) {
            (out.rule, out.location) = (Some(clause.text.clone()), Some(clause.origin.to_string()));
        }
    }

    /// Does the same for the first second resource that is refused.
    fn explain_second(&self, out: &mut Explanation, here: &Destination, caller: &Caller, seconds: &[Second]) {
        let refused = |second: &&Second| match second.judge(self, here, caller) {
            Ok(recorded) => out.verdict == Verdict::Audit && recorded.is_some(),
            Err(_) => true,
        };
        let Some((to, facts)) = seconds.iter().find(refused).and_then(|second| second.asks(here)) else {
            return;
        };
        match self.connect(&to, caller) {
            Ok(_) => self.explain_refused(out, &to, caller, &facts),
            Err(_) => out.nearest = self.nearest_connection(&to, caller),
        }
    }

    /// The endpoint that comes nearest to granting a connection, of all in the policy.
    fn nearest_connection(&self, to: &Destination, caller: &Caller) -> Option<Nearest> {
        let near = self.places().iter().filter_map(|place| {
            let mut near = Self::near_connection(place, to, caller);
            if !place.names(&to.host) {
                let pattern = place.host.as_ref()?;
                if !related(pattern, &to.host) {
                    return None;
                }
                near.differs.insert(0, Difference::Host(pattern.to_string()));
            }
            Some(near)
        });
        nearest(near.filter(|near| !near.differs.is_empty()))
    }
}

fn judged(answer: Result<Allowed, Denial>) -> Verdict {
    match answer {
        Ok(Allowed { audit_only: None, .. }) => Verdict::Allow,
        Ok(_) => Verdict::Audit,
        Err(_) => Verdict::Deny,
    }
}

/// A second resource as a request of its own, with the field that names it.
fn named(second: &Second, here: &Destination) -> Option<String> {
    let (to, RequestFacts { method, path, query, .. }) = second.asks(here)?;
    Some(format!("{method} {to}{path}{query}, by {}", second.field()))
}

/// Path and query in their canonical forms, or why there is none.
fn canonical(asked: &Asked, options: PathOptions) -> Result<(CanonicalPath, Query), String> {
    let path = CanonicalPath::parse(&asked.path, options)
        .map_err(|why| format!("the path is refused before any rule: {why}"))?;
    let query = Query::parse(asked.query.as_deref())
        .map_err(|why| format!("the query is refused before any rule: {why}"))?;
    Ok((path, query))
}

fn nearest<'p>(near: impl Iterator<Item = Near<'p>>) -> Option<Nearest> {
    near.min_by_key(Near::weight).map(shown)
}

fn shown(near: Near<'_>) -> Nearest {
    Nearest {
        policy: near.place.policy.clone(),
        endpoint: near.place.rule.clone(),
        rule: near.clause.map(|clause| clause.text.clone()),
        location: near.origin().to_string(),
        differs: near.differs,
    }
}

/// Whether a pattern and a host lie in one domain (have the same last two labels), so that the pattern may
/// have been meant for the host.
fn related(pattern: &HostPattern, host: &Host) -> bool {
    let end = |text: &str| {
        let mut labels = text.rsplit('.');
        labels.next().zip(labels.next()).map(|(a, b)| (a.to_owned(), b.to_owned()))
    };
    match host {
        Host::Name(name) => end(&pattern.to_string()).is_some_and(|e| Some(e) == end(name.as_str())),
        Host::Addr(_) => false,
    }
}

#[cfg(test)]
mod tests;
