//! Proposes the narrowest entry that would allow a refused request, ready to be put under `network_policies`.
//!
//! The proposal is for a person to read, and never applied by the program. It is tried first: an entry that
//! doesn't allow the request isn't proposed.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::{Question, Verdict};
use crate::{Compiled, Host, WEBSOCKET_TEXT};

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
        let protocol = if websocket { "websocket" } else { "rest" };
        writeln!(text, "      protocol: {protocol}\n      rules:").ok()?;
        let methods: &[&str] = if websocket { &["GET", WEBSOCKET_TEXT] } else { &[&asked.method] };
        for method in methods {
            writeln!(text, "        - allow: {{ method: {}, path: {path} }}", quoted(method)?).ok()?;
        }
    }
    writeln!(text, "  binaries:\n    - path: {}", quoted(&question.caller.executable.path)?).ok()?;
    allows(&text, question).then_some(text)
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

    #[test]
    fn nothing_is_proposed_that_would_not_help() {
        assert_eq!(mend(Some("GET"), "http://169.254.169.254/"), None);
        // As a pattern it would allow more than was asked.
        assert_eq!(mend(Some("GET"), "https://a.example.com/a*b"), None);
    }
}
