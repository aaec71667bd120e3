//! Proposes the narrowest entry that would allow a refused request, ready to be put under `network_policies`.
//!
//! The proposal is for a person to read, and never applied by the program. It is tried first: an entry that
//! doesn't allow the request isn't proposed.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Question, Verdict};
use crate::content::rpc::is_mcp_method;
use crate::content::{Message, Operation, Reading, Selected};
use crate::{Compiled, Host, Protocol, WEBSOCKET_TEXT};

/// Characters that would turn a literal text into a pattern, or that a pattern may not hold.
const PATTERN: [char; 6] = ['*', '?', '[', ']', '{', '}'];

/// The narrowest entry that allows what is asked, as YAML; `None` where no entry could. For an address the
/// SSRF guard has a say as well, and the caller has to ask it separately.
pub(super) fn entry(question: &Question) -> Option<String> {
    let name = match &question.destination.host {
        Host::Addr(addr) if is_never_reached(*addr) => return None,
        host => host.bare(),
    };
    let path = question.request.as_ref().map_or("", |asked| &asked.path);
    if [path, &question.caller.executable.path].iter().any(|text| text.contains(PATTERN)) {
        return None;
    }
    let key: String =
        name.as_str().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let quoted = |text: &str| serde_json::to_string(text).ok();
    let mut text = format!("{key}:\n  name: {key}\n  endpoints:\n    - host: {}\n", quoted(name.as_str())?);
    writeln!(text, "      port: {}", question.destination.port).ok()?;
    if let Some(asked) = &question.request {
        let path = quoted(if path.is_empty() { "/" } else { path })?;
        let websocket = asked.websocket || asked.message.is_some();
        let of_body = asked.body.as_deref().filter(|_| !websocket).and_then(by_body);
        let (protocol, rules) = match of_body {
            Some((protocol, rules)) => {
                // Its rules are about bodies, so the path is the endpoint's.
                writeln!(text, "      path: {path}").ok()?;
                (protocol, rules)
            }
            None => {
                let methods: &[&str] = if websocket { &["GET", WEBSOCKET_TEXT] } else { &[&asked.method] };
                let rule = |method: &&str| Some(format!("method: {}, path: {path}", quoted(method)?));
                let protocol = if websocket { Protocol::Websocket } else { Protocol::Rest };
                (protocol, methods.iter().map(rule).collect::<Option<_>>()?)
            }
        };
        writeln!(text, "      protocol: {}\n      rules:", protocol.as_str()).ok()?;
        for rule in rules {
            writeln!(text, "        - allow: {{ {rule} }}").ok()?;
        }
    }
    writeln!(text, "  binaries:\n    - path: {}", quoted(&question.caller.executable.path)?).ok()?;
    allows(&text, question).then_some(text)
}

/// Returns the protocol that a body speaks, and the fields of the rules that allow what it says; `None` where
/// it speaks none of those whose bodies are judged.
fn by_body(body: &str) -> Option<(Protocol, Vec<String>)> {
    let plain = |text: &str| (!text.contains(PATTERN)).then(|| serde_json::to_string(text).ok()).flatten();
    if let Reading::Rpc(messages) = Reading::of(Protocol::Mcp, body.as_bytes()) {
        let calls = messages.iter().filter_map(|message| match message {
            Message::Call { method, tool, .. } => Some((method, tool)),
            Message::Answer => None,
        });
        let protocol = match calls.clone().all(|(method, _)| is_mcp_method(method)) {
            true => Protocol::Mcp,
            false => Protocol::JsonRpc,
        };
        let rule = |(method, tool): (&Cow<'_, str>, &Option<Cow<'_, str>>)| {
            let method = format!("method: {}", plain(method)?);
            Some(match tool {
                Some(tool) => format!("{method}, tool: {}", plain(tool)?),
                None => method,
            })
        };
        return Some((protocol, calls.map(rule).collect::<Option<_>>()?));
    }
    let Reading::Graphql(operations) = Reading::of(Protocol::Graphql, body.as_bytes()) else { return None };
    let rule = |operation: &Operation<'_>| {
        let Operation::Written(Selected { kind, name, fields: Some(fields) }) = operation else {
            return None;
        };
        let fields = fields.iter().map(|field| plain(field)).collect::<Option<Vec<_>>>()?.join(", ");
        let name = match name {
            Some(name) => format!("operation_name: {}, ", plain(name)?),
            None => String::new(),
        };
        Some(format!("operation_type: {}, {name}fields: [{fields}]", kind.as_str()))
    };
    Some((Protocol::Graphql, operations.iter().map(rule).collect::<Option<_>>()?))
}

/// Whether an address is loopback, unspecified, link-local, broadcast or multicast.
fn is_never_reached(addr: IpAddr) -> bool {
    let of_the_link = match addr {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    of_the_link || addr.is_loopback() || addr.is_unspecified() || addr.is_multicast()
}

fn allows(entry: &str, question: &Question) -> bool {
    let indented: String = entry.lines().map(|line| format!("  {line}\n")).collect();
    let parsed = crate::parse("entry", &format!("version: 1\nnetwork_policies:\n{indented}"));
    let compiled = parsed.ok().and_then(|parsed| Compiled::new(&parsed.policy).ok());
    compiled.map(|it| it.verdict_on(question)).is_some_and(|it| it.verdict == Verdict::Allow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mend(method: Option<&str>, url: &str) -> Option<String> {
        let empty = Compiled::new(&crate::parse("p", "version: 1\n").unwrap().policy).unwrap();
        empty.explain(&Question::parse("/usr/bin/my app", method, url).unwrap()).mend
    }

    #[test]
    fn what_is_proposed_allows_what_was_asked_and_little_else() {
        for (method, url) in [
            (Some("GET"), "https://api.example.com/a/b?c=d"),
            (Some("DELETE"), "http://api.example.com:8080"),
            (Some("GET"), "wss://api.example.com/socket"),
            (None, "db.example.com:5432"),
            (Some("GET"), "http://10.0.0.5/"),
            (None, "[fd00::5]:5432"),
        ] {
            let entry = mend(method, url).expect(url);
            let asked =
                |binary, method, url: &str| allows(&entry, &Question::parse(binary, method, url).unwrap());
            assert!(asked("/usr/bin/my app", method, url), "{entry}");
            assert!(!asked("/usr/bin/other", method, url), "{entry}");
            let elsewhere =
                url.replace("example.com", "example.org").replace("0.5", "0.6").replace(":5]", ":6]");
            assert!(!asked("/usr/bin/my app", method, &elsewhere), "{entry}");
            if method.is_some() {
                let other = format!("{}/other", url.split('?').next().unwrap());
                assert!(!asked("/usr/bin/my app", Some("PATCH"), url), "{entry}");
                assert!(!asked("/usr/bin/my app", method, &other), "{entry}");
            }
        }
    }

    /// What a body asks for is proposed, and no other body.
    #[test]
    fn a_body_is_proposed_by_what_it_says() {
        let empty = Compiled::new(&crate::parse("p", "version: 1\n").unwrap().policy).unwrap();
        let tool = |name: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}","arguments":{{}}}}}}"#
            )
        };
        let call = |method: &str| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{}}}}"#);
        let query = |text: &str| format!(r#"{{"query":"{text}"}}"#);
        for (protocol, asked, other) in [
            ("mcp", tool("search"), tool("delete_everything")),
            ("json-rpc", call("reports.list"), call("reports.drop")),
            ("graphql", query("query A { viewer { login } }"), query("mutation { dropAll }")),
            ("graphql", query("{ viewer { login } }"), query("{ secrets }")),
        ] {
            let question = |body: &str, path: &str| {
                let url = format!("https://api.example.com{path}");
                let mut question = Question::parse("/usr/bin/app", Some("POST"), &url).unwrap();
                question.request.as_mut().unwrap().body = Some(body.to_owned());
                question
            };
            let entry = empty.explain(&question(&asked, "/in")).mend.unwrap_or_else(|| panic!("{asked}"));
            assert!(entry.contains(&format!("protocol: {protocol}\n")), "{entry}");
            assert!(allows(&entry, &question(&asked, "/in")), "{entry}");
            assert!(!allows(&entry, &question(&other, "/in")), "{entry}");
            assert!(!allows(&entry, &question(&asked, "/elsewhere")), "{entry}");
        }
    }

    #[test]
    fn nothing_is_proposed_that_would_not_help() {
        assert_eq!(mend(Some("GET"), "http://169.254.169.254/"), None);
        // As a pattern it would allow more than was asked.
        assert_eq!(mend(Some("GET"), "https://a.example.com/a*b"), None);
    }
}
