//! The slow matcher: the policy's model read in plain loops, obvious rather than quick. It shares no code
//! with the compiled one.

use cofferdam_policy as policy;
use cofferdam_policy::{
    Caller, CanonicalPath, Destination, Endpoint, Entry, Executable, Host, HostPattern, JsonMatcher, Policy,
    Protocol, RpcMethod, Rule, ValueMatcher,
};
use serde_json::Value;

/// What the slow matcher says of a request: everything that matters of the compiled one's answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    NotConnected,
    Refused,
    Sent,
    Recorded,
}

fn host_matches(pattern: &Option<HostPattern>, host: &Host, endpoint: &Endpoint) -> bool {
    match pattern {
        None => match host {
            Host::Name(_) => true,
            Host::Addr(addr) => endpoint.allowed_ips.iter().any(|net| net.contains(addr)),
        },
        Some(HostPattern::Exact(own)) => own.to_string() == host.to_string(),
        Some(wild) => {
            let Host::Name(name) = host else { return false };
            let wild = wild.to_string();
            let pattern: Vec<&str> = wild.split('.').collect();
            let labels: Vec<&str> = name.as_str().split('.').collect();
            let (first, suffix) = pattern.split_first().unwrap();
            let front = labels.len().saturating_sub(suffix.len());
            if front == 0 || labels[front..] != *suffix {
                return false;
            }
            if *first == "**" { true } else { front == 1 && star_matches(first, labels[0]) }
        }
    }
}

/// `*` is any run; nothing else is special.
fn star_matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text
            .strip_prefix(head)
            .is_some_and(|rest| (0..=rest.len()).any(|i| star_matches(tail, &rest[i..]))),
    }
}

fn entry_covers(entry: &Entry, caller: &Caller) -> bool {
    let Some(binaries) = &entry.binaries else { return true };
    for binary in binaries {
        let is = |program: &Executable| {
            path_matches(binary.path.as_str(), &program.path)
                && (binary.sha256.is_none() || binary.sha256 == Some(program.sha256))
        };
        if caller.foreign_code && !binary.allow_foreign_code {
            continue;
        }
        if is(&caller.executable) || (binary.ancestors && caller.ancestors.iter().any(is)) {
            return true;
        }
    }
    false
}

/// Path patterns by recursion over segments; the generated ones hold `*` and `**` only.
fn path_matches(pattern: &str, path: &str) -> bool {
    fn go(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern, path) {
            ([], []) => true,
            (["**"], rest) => !rest.is_empty(),
            (["**", more @ ..], rest) => (0..rest.len()).any(|i| go(more, &rest[i..])),
            ([first, more @ ..], [segment, rest @ ..]) => star_matches(first, segment) && go(more, rest),
            _ => false,
        }
    }
    go(&pattern.split('/').collect::<Vec<_>>(), &path.split('/').collect::<Vec<_>>())
}

/// The endpoints that grant a connection.
pub fn granting<'p>(policy: &'p Policy, to: &Destination, caller: &Caller) -> Vec<&'p Endpoint> {
    let mut named = Vec::new();
    let mut nameless = Vec::new();
    for entry in policy.network() {
        for endpoint in &entry.endpoints {
            let here = endpoint.ports.contains(&to.port) && host_matches(&endpoint.host, &to.host, endpoint);
            if here && entry_covers(entry, caller) {
                if endpoint.host.is_some() { named.push(endpoint) } else { nameless.push(endpoint) }
            }
        }
    }
    if named.is_empty() { nameless } else { named }
}

/// One thing that is judged by itself.
pub enum Part {
    Head,
    Answer,
    Call {
        method: String,
        tool: Option<String>,
        params: Option<Value>,
    },
    Operation {
        kind: &'static str,
        name: Option<String>,
        fields: Option<Vec<String>>,
        persisted: Option<String>,
    },
    Text {
        text: String,
        graphql: Said,
    },
    Binary,
    Unreadable,
}

/// What a text message is as GraphQL over WebSocket.
pub enum Said {
    Nothing,
    Lifecycle,
    Operation(Box<Part>),
}

/// A request's head.
pub struct Asked<'a> {
    pub method: &'a str,
    pub path: &'a CanonicalPath,
    pub query: &'a [(&'a str, &'a str)],
    pub websocket: bool,
}

fn method_matches(rule: &str, method: &str) -> bool {
    rule == "*" || rule == method || (rule == "GET" && method == "HEAD")
}

/// Every text that some server takes a path for: `%2F` as a slash, escapes undone twice, any case, a slash
/// more or less at the end, and names without the dots and spaces at their end, without their stream, and in
/// plain letters.
fn readings(path: &str) -> Vec<String> {
    let mut all = vec![path.to_owned(), path.replace("%2F", "/")];
    let twice =
        (0..=255_u8).filter(|byte| byte.is_ascii_alphanumeric()).fold(all[1].clone(), |text, byte| {
            text.replace(&format!("%25{byte:02X}"), &char::from(byte).to_string())
        });
    all.push(twice.to_lowercase());
    let bare = |name: &str| {
        let spaced = name.replace("%20", " ");
        let bare = spaced.trim_end_matches(['.', ' ']);
        if bare.is_empty() { name.to_owned() } else { bare.replace(' ', "%20") }
    };
    all.push(twice.to_lowercase().split('/').map(bare).collect::<Vec<_>>().join("/"));
    // The unseen characters that are generated, letters that fold, and names on NTFS without their stream.
    let small = twice.to_lowercase();
    let gone = ["%e2%80%8b", "%ef%bb%bf", "%c2%ad"].iter().fold(small, |text, c| text.replace(c, ""));
    let gone = gone.replace("%c5%bf", "s").replace("%e2%84%aa", "k");
    let unstreamed = |name: &str| match name.split_once(':') {
        Some((file, stream)) if !file.is_empty() && format!(":{stream}").contains(":$") => bare(file),
        _ => bare(name),
    };
    all.push(gone.split('/').map(unstreamed).collect::<Vec<_>>().join("/"));
    all
}

fn may_match(pattern: &str, path: &str) -> bool {
    let bare = |text: &str| {
        if text.len() > 1 { text.strip_suffix('/').unwrap_or(text).to_owned() } else { text.to_owned() }
    };
    let small = bare(pattern).to_lowercase();
    readings(path).iter().any(|reading| {
        path_matches(pattern, reading)
            || path_matches(&small, &reading.to_lowercase())
            || path_matches(&small, &bare(reading).to_lowercase())
    })
}

/// Some servers read a method in any case, a path in other readings, and a parameter's name in other
/// spellings.
fn http_matches(rule: &policy::HttpRule, asked: &Asked<'_>, part: &Part, deny: bool) -> bool {
    let method = if deny { asked.method.to_uppercase() } else { asked.method.to_owned() };
    let path = path_matches(rule.path.as_str(), asked.path.as_str())
        || (deny && may_match(rule.path.as_str(), asked.path.as_str()));
    let head = method_matches(&rule.method.to_string(), &method)
        && path
        && rule.query.iter().all(|matcher| {
            let own: &str = &matcher.name;
            // PHP's name, with `_` for what it takes for none of a name; and Rack's and qs', between the
            // first brackets.
            let php = |name: &str| name.trim().to_lowercase().replace(['.', ' ', '['], "_");
            let between = |name: &str| {
                let name = name.trim_start().trim_start_matches(['[', ']']).to_owned();
                php(name.split(['[', ']']).next().unwrap())
            };
            let values: Vec<&str> = asked
                .query
                .iter()
                .filter(|(name, _)| php(name) == php(own) || between(name) == php(own))
                .map(|(_, v)| *v)
                .collect();
            let exactly = asked.query.iter().any(|(name, _)| *name == own);
            let hit = |value: &&str| matcher.any.iter().any(|glob| path_matches(glob.as_str(), value));
            if deny { values.iter().any(hit) } else { exactly && values.iter().all(hit) }
        });
    let asks = !rule.text.is_empty() || !rule.json.is_empty();
    head && match part {
        Part::Text { text, .. } => {
            let said = rule.text.is_empty() || rule.text.iter().any(|glob| path_matches(glob.as_str(), text));
            let value: Option<Value> = serde_json::from_str(text).ok();
            let json = rule.json.is_empty()
                || match value {
                    Some(value) => rule.json.iter().all(|m| stands(m, &value, deny)),
                    None => deny,
                };
            said && json
        }
        Part::Binary => deny || !asks,
        _ => !asks,
    }
}

/// The places that a matcher names: exactly, and (to deny) in any spelling of keys.
fn places<'v>(at: &str, value: &'v Value, deny: bool) -> Vec<&'v Value> {
    let tokens: Vec<&str> = match at.strip_prefix('/') {
        Some(rest) => rest.split('/').collect(),
        None => vec![at],
    };
    let mut now = vec![value];
    for token in tokens {
        let mut next = Vec::new();
        for value in now {
            match value {
                Value::Object(members) => {
                    let spelled: Vec<&Value> = members
                        .iter()
                        .filter(|(key, _)| key.to_lowercase() == token.to_lowercase())
                        .map(|(_, value)| value)
                        .collect();
                    match (deny, members.get(token)) {
                        (true, _) => next.extend(spelled),
                        (false, Some(one)) if spelled.len() == 1 => next.push(one),
                        _ => {}
                    }
                }
                Value::Array(items) => next.extend(token.parse().ok().and_then(|i: usize| items.get(i))),
                _ => {}
            }
        }
        now = next;
    }
    now
}

fn is(matcher: &ValueMatcher, value: &Value) -> bool {
    match (matcher, value) {
        (ValueMatcher::Text(glob), Value::String(text)) => path_matches(glob.as_str(), text),
        (ValueMatcher::Number(own), Value::Number(number)) => own.parse::<f64>().ok() == number.as_f64(),
        (ValueMatcher::Bool(own), Value::Bool(value)) => own == value,
        _ => false,
    }
}

/// To deny, types don't count.
fn could_be(matcher: &ValueMatcher, value: &Value) -> bool {
    match (matcher, value) {
        (_, Value::Array(items)) => items.iter().any(|item| could_be(matcher, item)),
        (_, Value::Object(members)) => members.values().any(|value| could_be(matcher, value)),
        (ValueMatcher::Number(own), Value::String(text)) => {
            text.trim().parse::<f64>().is_ok_and(|n| Some(n) == own.parse().ok())
        }
        (ValueMatcher::Bool(own), Value::String(text)) => text.trim().to_lowercase() == own.to_string(),
        (ValueMatcher::Bool(own), Value::Number(number)) => {
            number.as_f64() == Some(if *own { 1.0 } else { 0.0 })
        }
        (ValueMatcher::Text(glob), Value::Number(_) | Value::Bool(_) | Value::Null) => {
            path_matches(glob.as_str(), &value.to_string())
        }
        _ => is(matcher, value),
    }
}

fn stands(matcher: &JsonMatcher, value: &Value, deny: bool) -> bool {
    if deny && value.is_array() && !matcher.at.as_str().starts_with("/0") {
        return true;
    }
    let places = places(matcher.at.as_str(), value, deny);
    if deny {
        return places.iter().any(|value| matcher.any.iter().any(|own| could_be(own, value)));
    }
    places.first().is_some_and(|value| match value {
        Value::Array(items) => {
            !items.is_empty() && items.iter().all(|v| matcher.any.iter().any(|own| is(own, v)))
        }
        value => matcher.any.iter().any(|own| is(own, value)),
    })
}

/// What MCP has, of what is generated.
const MCP: [&str; 3] = ["tools/call", "tools/list", "initialize"];

pub fn rpc_matches(rule: &policy::RpcRule, part: &Part, deny: bool) -> bool {
    let Part::Call { method, tool, params } = part else { return false };
    let known = MCP.contains(&method.as_str());
    match &rule.method {
        RpcMethod::Known if !known => return false,
        RpcMethod::Known if !deny && method != "tools/call" => return true,
        RpcMethod::Named(glob) if glob.as_str() != "*" && !path_matches(glob.as_str(), method) => {
            return false;
        }
        _ => {}
    }
    let tool_fits = match tool {
        _ if rule.tool.is_empty() => true,
        Some(tool) => rule.tool.iter().any(|glob| path_matches(glob.as_str(), tool)),
        None => false,
    };
    let arguments = params.as_ref().and_then(|params| params.get("arguments"));
    tool_fits
        && rule.params.iter().all(|m| params.as_ref().is_some_and(|value| stands(m, value, deny)))
        && rule.arguments.iter().all(|m| arguments.is_some_and(|value| stands(m, value, deny)))
}

/// Kind, name and root fields, as far as an endpoint knows them.
type Known = (&'static str, Option<String>, Option<Vec<String>>);

fn known(endpoint: &Endpoint, part: &Part) -> Option<Known> {
    let Part::Operation { kind, name, fields, persisted } = part else { return None };
    let Some(id) = persisted else { return Some((kind, name.clone(), fields.clone())) };
    let found = endpoint.bodies.persisted.as_ref()?.get(id.as_str())?;
    let own = found.name.as_ref().map(ToString::to_string);
    if name.is_some() && own.is_some() && *name != own {
        return None;
    }
    let fields = found.fields.as_ref().map(|fields| fields.iter().map(ToString::to_string).collect());
    Some((found.kind.as_str(), own, fields))
}

fn graphql_matches(rule: &policy::GraphqlRule, (kind, name, fields): &Known, deny: bool) -> bool {
    let globs = |glob: &policy::Glob, text: &String| path_matches(glob.as_str(), text);
    rule.kind.is_none_or(|own| own.as_str() == *kind)
        && rule.name.as_ref().is_none_or(|glob| name.as_ref().is_some_and(|name| globs(glob, name)))
        && (rule.fields.is_empty()
            || match fields {
                None => deny,
                Some(fields) => {
                    let hit = |field: &String| rule.fields.iter().any(|glob| globs(glob, field));
                    if deny { fields.iter().any(hit) } else { fields.iter().all(hit) }
                }
            })
}

fn denies(endpoint: &Endpoint, asked: &Asked<'_>, part: &Part) -> bool {
    endpoint.deny_rules.iter().any(|written| match &written.rule {
        Rule::Http(rule) => http_matches(rule, asked, part, true),
        Rule::Rpc(rule) => rpc_matches(rule, part, true),
        Rule::Graphql(rule) => {
            let hits = |operation: &Part| {
                known(endpoint, operation).is_none_or(|operation| graphql_matches(rule, &operation, true))
            };
            match (endpoint.protocol == Some(Protocol::Websocket), part) {
                (false, Part::Operation { .. }) => hits(part),
                (true, Part::Text { graphql: Said::Operation(operation), .. }) => hits(operation),
                (true, Part::Text { graphql: Said::Nothing, .. } | Part::Binary) => true,
                _ => false,
            }
        }
    })
}

fn allows(endpoint: &Endpoint, asked: &Asked<'_>, part: &Part) -> bool {
    let mcp = endpoint.protocol == Some(Protocol::Mcp);
    let fits = match (endpoint.protocol.unwrap(), part) {
        (Protocol::Rest, Part::Head)
        | (Protocol::Websocket, Part::Head | Part::Text { .. } | Part::Binary) => true,
        (Protocol::Graphql, Part::Operation { .. }) | (Protocol::JsonRpc, Part::Call { .. }) => true,
        (Protocol::Mcp, Part::Head) => ["GET", "DELETE"].contains(&asked.method),
        (Protocol::Mcp, Part::Call { tool, .. }) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            !endpoint.bodies.strict_tool_names || tool.as_ref().is_none_or(|tool| tool.chars().all(plain))
        }
        (Protocol::Mcp, Part::Answer) => endpoint.bodies.client_responses,
        _ => false,
    };
    if !fits {
        return false;
    }
    if mcp && matches!(part, Part::Head | Part::Answer) {
        return true;
    }
    if let (true, true, Part::Call { method, .. }) =
        (endpoint.bodies.known_mcp_methods, endpoint.rules.is_empty(), part)
    {
        return MCP.contains(&method.as_str());
    }
    let access = endpoint.access.is_some_and(|access| match (access.as_str(), part) {
        ("full", Part::Operation { .. }) => known(endpoint, part).is_some(),
        ("read-write", Part::Operation { .. }) => {
            known(endpoint, part).is_some_and(|o| o.0 != "subscription")
        }
        (_, Part::Operation { .. }) => known(endpoint, part).is_some_and(|o| o.0 == "query"),
        ("full", _) => true,
        ("read-write", _) => {
            ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "WEBSOCKET_TEXT"].contains(&asked.method)
        }
        _ => ["GET", "HEAD", "OPTIONS"].contains(&asked.method),
    });
    access
        || endpoint.rules.iter().any(|written| match &written.rule {
            Rule::Http(rule) => http_matches(rule, asked, part, false),
            Rule::Rpc(rule) => rpc_matches(rule, part, false),
            Rule::Graphql(rule) => {
                let of = |part: &Part| {
                    known(endpoint, part).is_some_and(|operation| graphql_matches(rule, &operation, false))
                };
                match part {
                    Part::Text { graphql: Said::Operation(operation), .. } => of(operation),
                    Part::Text { graphql: Said::Lifecycle, .. } => true,
                    part => of(part),
                }
            }
        })
}

fn slow_part(granting: &[&Endpoint], asked: &Asked<'_>, part: &Part) -> Answer {
    if granting.is_empty() {
        return Answer::NotConnected;
    }
    let inspected: Vec<&Endpoint> = granting.iter().copied().filter(|e| e.protocol.is_some()).collect();
    if inspected.is_empty() {
        return Answer::Sent;
    }
    let sent = asked.path.as_str();
    let scoped = |e: &Endpoint, path: &str| e.path.as_ref().is_none_or(|p| path_matches(p.as_str(), path));
    let concerns = |e: &Endpoint| e.path.as_ref().is_none_or(|p| may_match(p.as_str(), sent));
    let concerned: Vec<&Endpoint> = inspected.into_iter().filter(|e| concerns(e)).collect();
    if concerned.iter().any(|e| !e.audit && denies(e, asked, part)) {
        return Answer::Refused;
    }
    let recorded = concerned.iter().any(|e| denies(e, asked, part));
    let reads =
        |e: &Endpoint| matches!(e.protocol, Some(Protocol::Mcp | Protocol::JsonRpc | Protocol::Graphql));
    let mut judges: Vec<&Endpoint> = concerned
        .into_iter()
        .filter(|e| (e.protocol == Some(Protocol::Websocket)) == asked.websocket)
        .collect();
    if judges.iter().any(|e| reads(e)) {
        judges.retain(|e| reads(e));
        if judges.iter().any(|e| e.protocol != judges[0].protocol) {
            return Answer::Refused;
        }
    }
    judges.retain(|e| scoped(e, sent) && (e.allow_encoded_slash || !sent.contains("%2F")));
    if judges.iter().any(|e| allows(e, asked, part)) {
        return if recorded { Answer::Recorded } else { Answer::Sent };
    }
    if !judges.is_empty() && judges.iter().all(|e| e.audit) { Answer::Recorded } else { Answer::Refused }
}

/// Of several parts the worst counts.
pub fn slow(granting: &[&Endpoint], asked: &Asked<'_>, parts: &[Part]) -> Answer {
    let answers: Vec<Answer> = parts.iter().map(|part| slow_part(granting, asked, part)).collect();
    for worst in [Answer::NotConnected, Answer::Refused, Answer::Recorded] {
        if answers.contains(&worst) {
            return worst;
        }
    }
    Answer::Sent
}
