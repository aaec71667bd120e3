//! Denials: why something is refused, and which endpoint or rule comes nearest to allowing it. Deciding
//! allocates only here.

use std::fmt;

use serde::Serialize;

use super::place::{Clause, Test, known, methods};
use super::{Answers, Compiled, Place, Programs};
use crate::content::rpc::is_plain_tool;
use crate::content::{Message, Operation, Part, SocketMessage, Text};
use crate::model::{Bodies, GraphqlRule, HttpRule, Origin, RpcRule, Rule};
use crate::{Caller, Denial, Destination, Layer, Protocol, RequestFacts};

/// Most programs or ports that a message lists.
const MAX_LISTED: usize = 4;

/// One thing in which a request differs from what would be allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "what", content = "allowed")]
pub enum Difference {
    /// Another host is named.
    Host(String),
    /// Other ports are named.
    Port(Vec<u16>),
    /// Other programs are named.
    Binary(Vec<String>),
    /// The program's path is named, with another SHA-256.
    Content(String),
    /// The program is named, and has code mapped that its hash says nothing of.
    ForeignCode(String),
    /// The endpoint serves other paths.
    ServedPath(String),
    /// `%2F` isn't allowed in paths.
    EncodedSlash,
    /// The endpoint is for WebSocket handshakes.
    OnlyWebsocket,
    /// The endpoint isn't for WebSocket handshakes.
    NoWebsocket,
    /// The rule is for other methods.
    Method(String),
    /// The rule is for other paths.
    Path(String),
    /// The rule is for another query.
    Query(String),
    /// The rule is for other calls of JSON-RPC.
    Call(String),
    /// The rule is for other tools.
    Tool(String),
    /// The rule is for other arguments or parameters.
    Arguments(String),
    /// The rule is for other GraphQL operations.
    Operation(String),
    /// The rule is for other root fields.
    Fields(String),
    /// The rule is for other messages.
    Message(String),
    /// The body or message can't be judged.
    Unreadable(String),
    /// A deny rule hits it.
    Denied(String),
}

impl Difference {
    /// How far this is from being allowed: what an operator would more readily change weighs less.
    fn weight(&self) -> u32 {
        match self {
            Self::Host(_) => 100,
            Self::Binary(_) => 40,
            Self::Content(_) => 30,
            Self::ForeignCode(_) => 20,
            Self::Port(_) => 25,
            Self::Path(_) | Self::ServedPath(_) => 10,
            Self::OnlyWebsocket | Self::NoWebsocket => 8,
            Self::Method(_) => 6,
            Self::Denied(_) => 5,
            Self::EncodedSlash => 4,
            Self::Query(_) | Self::Arguments(_) | Self::Fields(_) => 3,
            Self::Call(_) => 6,
            // Less than `Method`, so that a rule about messages is nearer than the handshake's rule.
            Self::Operation(_) | Self::Tool(_) | Self::Message(_) => 5,
            Self::Unreadable(_) => 7,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "it is for the host {host}"),
            Self::Port(ports) => write!(f, "it is for port {}", list(ports.iter())),
            Self::Binary(programs) if programs.is_empty() => f.write_str("it names no program"),
            Self::Binary(programs) => write!(f, "it is for {}", list(programs.iter())),
            Self::Content(path) => write!(f, "it wants another SHA-256 of {path}"),
            Self::ForeignCode(path) => {
                write!(f, "it has no allow_foreign_code, and {path} has code of unknown origin mapped")
            }
            Self::ServedPath(path) => write!(f, "it serves {path}"),
            Self::EncodedSlash => f.write_str("it has no allow_encoded_slash"),
            Self::OnlyWebsocket => f.write_str("it is for WebSocket handshakes (protocol: websocket)"),
            Self::NoWebsocket => f.write_str("it is not for WebSocket handshakes (protocol: rest)"),
            Self::Method(methods) => write!(f, "it allows {methods}"),
            Self::Path(path) => write!(f, "it allows the path {path}"),
            Self::Query(query) => write!(f, "it allows the query {query}"),
            Self::Call(method) => write!(f, "it allows the calls {method}"),
            Self::Tool(tool) => write!(f, "it allows the tool {tool}"),
            Self::Arguments(wanted) => write!(f, "it wants {wanted}"),
            Self::Operation(wanted) => write!(f, "it allows {wanted}"),
            Self::Fields(wanted) => write!(f, "it allows the fields {wanted}"),
            Self::Message(wanted) => write!(f, "it allows messages like {wanted}"),
            Self::Unreadable(why) => write!(f, "it judges what is sent, and {why}"),
            Self::Denied(rule) => write!(f, "its rule `{rule}` refuses this"),
        }
    }
}

fn list<T: fmt::Display>(items: impl ExactSizeIterator<Item = T>) -> String {
    let more = items.len().saturating_sub(MAX_LISTED);
    let mut out = items.take(MAX_LISTED).map(|i| i.to_string()).collect::<Vec<_>>().join(", ");
    if more > 0 {
        out.push_str(&format!(" and {more} more"));
    }
    out
}

/// An endpoint (and perhaps one of its rules) that comes near to allowing something, and what differs.
#[derive(Debug, Clone)]
pub(crate) struct Near<'p> {
    pub(crate) place: &'p Place,
    pub(crate) clause: Option<&'p Clause>,
    pub(crate) differs: Vec<Difference>,
}

impl Near<'_> {
    pub(crate) fn weight(&self) -> u32 {
        self.differs.iter().map(Difference::weight).sum()
    }

    /// Where the rule stands, or the endpoint if no rule was compared.
    pub(crate) fn origin(&self) -> &Origin {
        self.clause.map_or(&self.place.origin, |clause| &clause.origin)
    }

    /// In words, for a hint.
    pub(crate) fn words(&self) -> String {
        let what = match &self.clause {
            Some(clause) => format!("{} {}: {}", self.place.policy, self.place.rule, clause.text),
            None => format!("{} {}", self.place.policy, self.place.rule),
        };
        let differs: Vec<String> = self.differs.iter().map(Difference::to_string).collect();
        format!("nearest: {what}; but {}", differs.join(", and "))
    }
}

impl Compiled {
    /// Why no endpoint grants a connection.
    pub(super) fn connection_denial(&self, to: &Destination, caller: &Caller) -> Denial {
        let named = self.naming(&to.host).filter(|place| place.host.is_some());
        let near = named.map(|place| Self::near_connection(place, to, caller)).min_by_key(Near::weight);
        let Some(near) = near else {
            let hint = "add an endpoint for it to `network_policies`, or a preset that has one";
            let detail = format!("no policy entry names {}", to.host);
            return Denial { layer: Layer::L4, detail, policy: None, hint: Some(hint.into()) };
        };
        let program = &caller.executable.path;
        let (layer, detail) = match near.differs.first() {
            Some(Difference::Content(_)) => {
                (Layer::Identity, format!("{program} is not the program that the policy pins by SHA-256"))
            }
            Some(Difference::ForeignCode(_)) => (
                Layer::Identity,
                format!(
                    "{program} has code mapped from a writable or deleted file, which its hash says nothing of"
                ),
            ),
            Some(Difference::Binary(_)) => (Layer::L4, format!("{program} may not connect to {to}")),
            _ => (Layer::L4, format!("no policy entry allows {to}")),
        };
        Denial { layer, detail, policy: Some(near.place.policy.clone()), hint: Some(near.words()) }
    }

    /// Compares a connection with those that an endpoint grants, and returns what differs; the host is left
    /// out.
    pub(crate) fn near_connection<'p>(place: &'p Place, to: &Destination, caller: &Caller) -> Near<'p> {
        let mut differs = Vec::new();
        if let Programs::Listed(list) = &*place.programs
            && !place.programs.cover(caller)
        {
            differs.push(if place.programs.cover_but_for_content(caller) {
                Difference::Content(caller.executable.path.to_string())
            } else if place.programs.cover_but_for_foreign_code(caller) {
                Difference::ForeignCode(caller.executable.path.to_string())
            } else {
                Difference::Binary(list.iter().map(|b| b.path.as_str().to_owned()).collect())
            });
        }
        if !place.ports.contains(&to.port) {
            differs.push(Difference::Port(place.ports.to_vec()));
        }
        Near { place, clause: None, differs }
    }

    /// The denial of a request that a deny rule refuses.
    pub(super) fn rule_denial(
        place: &Place,
        clause: &Clause,
        to: &Destination,
        facts: &RequestFacts<'_>,
        part: Part<'_>,
    ) -> Denial {
        let what = words(part);
        Denial {
            layer: Layer::L7,
            detail: format!(
                "{what}{} {}{} is refused by `{}`",
                facts.method, to.host, facts.path, clause.text
            ),
            policy: Some(place.policy.clone()),
            hint: Some(format!("the rule is at {}", clause.origin.for_agents())),
        }
    }

    /// The denial of a request that no rule allows.
    pub(super) fn request_denial(
        &self,
        to: &Destination,
        caller: &Caller,
        facts: &RequestFacts<'_>,
        part: Part<'_>,
    ) -> Denial {
        let near = self.nearest_request(to, caller, facts, part);
        let what = if facts.websocket && matches!(part, Part::Head) {
            "the WebSocket handshake ".to_owned()
        } else {
            words(part)
        };
        let place = format!("{} {}{}", facts.method, to.host, facts.path);
        let detail = match part {
            Part::Unreadable(why) | Part::Text(Text { graphql: Some(Err(why)), .. }) => {
                format!("{place} can't be judged: {why}")
            }
            _ => format!("no rule allows {what}{place}"),
        };
        Denial {
            layer: Layer::L7,
            detail,
            policy: near.as_ref().map(|near| near.place.policy.clone()),
            hint: near.map(|near| near.words()),
        }
    }

    /// The endpoint and rule that come nearest to letting a part of a request through.
    pub(crate) fn nearest_request<'p>(
        &'p self,
        to: &'p Destination,
        caller: &'p Caller,
        facts: &RequestFacts<'_>,
        part: Part<'_>,
    ) -> Option<Near<'p>> {
        let granting = || self.granting(&to.host, to.port, caller).filter(|place| place.protocol().is_some());
        let bodies = |place: &&Place| place.protocol().is_some_and(Protocol::reads_bodies);
        let only = granting().any(|place| bodies(&place) && place.serves(facts.path)) && !facts.websocket;
        granting()
            .filter(|place| !only || bodies(place))
            .map(|place| Self::near_request(place, facts, part))
            .min_by_key(Near::weight)
    }

    /// Compares a request with those that an endpoint's nearest rule allows, and returns what differs.
    fn near_request<'p>(place: &'p Place, facts: &RequestFacts<'_>, part: Part<'_>) -> Near<'p> {
        let mut own = Vec::new();
        if facts.path.has_encoded_slash() && !place.path_options.allow_encoded_slash {
            own.push(Difference::EncodedSlash);
        }
        if let Some(path) = place.path.as_ref().filter(|path| !path.matches(facts.path)) {
            own.push(Difference::ServedPath(path.to_string()));
        }
        match place.protocol() {
            Some(Protocol::Websocket) if !facts.websocket => own.push(Difference::OnlyWebsocket),
            Some(protocol) if facts.websocket && protocol != Protocol::Websocket => {
                own.push(Difference::NoWebsocket);
            }
            Some(protocol) if protocol.reads_bodies() && matches!(part, Part::Head) => {
                let wanted = if protocol == Protocol::Mcp { "POST, GET and DELETE" } else { "POST" };
                own.push(Difference::Method(wanted.to_owned()));
            }
            _ => {}
        }
        if let Part::Unreadable(why) = part {
            own.push(Difference::Unreadable(why.to_string()));
        }
        let said = Answers::unkept();
        if let Some(clause) = place.deny.iter().find(|c| c.denies(facts, part, &place.bodies, &said)) {
            own.push(Difference::Denied(clause.text.to_string()));
        }
        let rules =
            place.allow.iter().map(|clause| (clause, rule_differences(clause, facts, part, &place.bodies)));
        let weight = |d: &Vec<Difference>| d.iter().map(Difference::weight).sum::<u32>();
        let nearest = rules.min_by_key(|(_, differs)| weight(differs));
        let clause = nearest.as_ref().map(|(clause, _)| *clause);
        own.extend(nearest.into_iter().flat_map(|(_, differs)| differs));
        Near { place, clause, differs: own }
    }
}

/// Most characters that a message repeats of a name that the agent chose.
const MAX_SHOWN: usize = 64;

/// Describes a part in a few words, with a space behind them. Holds names only, never a value.
fn words(part: Part<'_>) -> String {
    let short = |text: &str| -> String {
        text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { '?' } else { c }).collect()
    };
    match part {
        Part::Head | Part::Unreadable(_) => String::new(),
        Part::Rpc(Message::Call { method, tool: Some(tool), .. }) => {
            format!("{} {} by ", short(method), short(tool))
        }
        Part::Rpc(Message::Call { method, .. }) => format!("{} by ", short(method)),
        Part::Rpc(Message::Answer) => "an answer to the server by ".to_owned(),
        Part::Graphql(Operation::Written(operation)) => format!("{} by ", short(&operation.to_string())),
        Part::Graphql(Operation::Persisted { id, .. }) => format!("the persisted query {} by ", short(id)),
        Part::Text(Text { graphql: Some(Ok(SocketMessage::Operation(operation))), .. }) => {
            words(Part::Graphql(operation))
        }
        Part::Text(_) => "this message by ".to_owned(),
        Part::Binary => "a binary message by ".to_owned(),
    }
}

/// What differs between a request and those that one rule allows.
fn rule_differences(
    clause: &Clause,
    facts: &RequestFacts<'_>,
    part: Part<'_>,
    bodies: &Bodies,
) -> Vec<Difference> {
    match (&clause.test, part) {
        (Test::Access(access), Part::Graphql(operation)) => match known(operation, bodies) {
            Some(operation) if access.covers_operation(operation.kind) => Vec::new(),
            _ => vec![Difference::Operation(format!("access: {}", access.as_str()))],
        },
        (Test::Access(access), _) if !access.covers(facts.method) => {
            vec![Difference::Method(methods(&clause.test).to_owned())]
        }
        (Test::Rule(Rule::Http(rule)), _) => http_differences(clause, rule, facts, part),
        (Test::Rule(Rule::Rpc(rule)), Part::Rpc(message)) => rpc_differences(rule, message, bodies),
        (Test::Rule(Rule::Graphql(rule)), Part::Graphql(operation)) => {
            operation_differences(rule, operation, bodies)
        }
        (
            Test::Said(rule),
            Part::Text(Text { graphql: Some(Ok(SocketMessage::Operation(operation))), .. }),
        ) => operation_differences(rule, operation, bodies),
        (Test::Said(_), Part::Text(Text { graphql: Some(Err(why)), .. })) => {
            vec![Difference::Unreadable(why.to_string())]
        }
        (Test::Said(rule), Part::Binary) => vec![Difference::Message(rule.to_string())],
        (Test::Said(_), Part::Head) => vec![Difference::Method(methods(&clause.test).to_owned())],
        _ => Vec::new(),
    }
}

fn operation_differences(rule: &GraphqlRule, operation: &Operation<'_>, bodies: &Bodies) -> Vec<Difference> {
    match known(operation, bodies) {
        None => vec![Difference::Operation("registered persisted queries".to_owned())],
        Some(operation) if !rule.head_matches(operation) => vec![Difference::Operation(rule.to_string())],
        Some(operation) if !rule.allows(operation) => {
            let fields: Vec<&str> = rule.fields.iter().map(crate::Glob::as_str).collect();
            vec![Difference::Fields(fields.join(", "))]
        }
        Some(_) => Vec::new(),
    }
}

fn http_differences(
    clause: &Clause,
    rule: &HttpRule,
    facts: &RequestFacts<'_>,
    part: Part<'_>,
) -> Vec<Difference> {
    let mut out = Vec::new();
    if !rule.method.covers(facts.method) {
        out.push(Difference::Method(methods(&clause.test).to_owned()));
    }
    if !rule.path.matches(facts.path) {
        out.push(Difference::Path(rule.path.to_string()));
    } else if !rule.query.iter().all(|matcher| matcher.allows(facts.query)) {
        let text = HttpRule { text: Vec::new(), json: Vec::new(), ..rule.clone() }.to_string();
        out.push(Difference::Query(text.split_once('?').map_or(text.clone(), |(_, q)| q.to_owned())));
    }
    let says = match part {
        Part::Text(text) => rule.allows_text(&text),
        Part::Binary => !rule.reads_messages(),
        _ => true,
    };
    if !says {
        out.push(Difference::Message(rule.to_string()));
    }
    out
}

fn rpc_differences(rule: &RpcRule, message: &Message<'_>, bodies: &Bodies) -> Vec<Difference> {
    let Message::Call { method, tool, .. } = message else { return Vec::new() };
    if !rule.method.covers(method) {
        return vec![Difference::Call(rule.to_string())];
    }
    if tool.as_ref().is_some_and(|tool| bodies.strict_tool_names && !is_plain_tool(tool)) {
        return vec![Difference::Tool("[A-Za-z0-9_.-]{1,128} (mcp.strict_tool_names)".to_owned())];
    }
    if !rule.tool_matches(message) {
        let tools: Vec<&str> = rule.tool.iter().map(crate::Glob::as_str).collect();
        return vec![Difference::Tool(tools.join(", "))];
    }
    if rule.allows(message) {
        return Vec::new();
    }
    let wanted: Vec<String> = rule.params.iter().chain(&rule.arguments).map(ToString::to_string).collect();
    vec![Difference::Arguments(wanted.join(", "))]
}
