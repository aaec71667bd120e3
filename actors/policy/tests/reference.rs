//! The compiled matcher against a slow, obvious one that reads the policy's model in plain loops, on generated policies and
//! requests.

#![expect(clippy::unwrap_used, reason = "a test")]

use cofferdam_policy as policy;
use cofferdam_policy::{
    Caller, CanonicalPath, Compiled, Destination, Endpoint, Entry, Executable, Host, HostPattern, Policy,
    Protocol, Query, RequestFacts, Treatment,
};
use proptest::prelude::*;
use proptest::sample::select;

// The slow matcher.

/// What the slow matcher says of a request: everything that matters of the compiled one's answer.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
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
fn granting<'p>(policy: &'p Policy, to: &Destination, caller: &Caller) -> Vec<&'p Endpoint> {
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

struct Asked<'a> {
    method: &'a str,
    path: &'a CanonicalPath,
    query: &'a [(&'a str, &'a str)],
    websocket: bool,
}

fn method_matches(rule: &str, method: &str) -> bool {
    rule == "*" || rule == method || (rule == "GET" && method == "HEAD")
}

fn rule_matches(rule: &policy::Rule, asked: &Asked<'_>, deny: bool) -> bool {
    method_matches(&rule.method.to_string(), asked.method)
        && path_matches(rule.path.as_str(), asked.path.as_str())
        && rule.query.iter().all(|matcher| {
            let values: Vec<&str> =
                asked.query.iter().filter(|(name, _)| *name == &*matcher.name).map(|(_, v)| *v).collect();
            let hit = |value: &&str| matcher.any.iter().any(|glob| path_matches(glob.as_str(), value));
            if deny { values.iter().any(hit) } else { !values.is_empty() && values.iter().all(hit) }
        })
}

fn slow(policy: &Policy, to: &Destination, caller: &Caller, asked: &Asked<'_>) -> Answer {
    let granting = granting(policy, to, caller);
    if granting.is_empty() {
        return Answer::NotConnected;
    }
    let inspected: Vec<&Endpoint> = granting.into_iter().filter(|e| e.protocol.is_some()).collect();
    if inspected.is_empty() {
        return Answer::Sent;
    }
    let serving: Vec<&Endpoint> = inspected
        .into_iter()
        .filter(|e| e.allow_encoded_slash || !asked.path.as_str().contains("%2F"))
        .filter(|e| e.path.as_ref().is_none_or(|p| path_matches(p.as_str(), asked.path.as_str())))
        .collect();
    let denies = |e: &&&Endpoint| e.deny_rules.iter().any(|r| rule_matches(r, asked, true));
    if serving.iter().filter(denies).any(|e| !e.audit) {
        return Answer::Refused;
    }
    let recorded = serving.iter().any(|e| denies(&e));
    let judges: Vec<&&Endpoint> =
        serving.iter().filter(|e| (e.protocol == Some(Protocol::Websocket)) == asked.websocket).collect();
    let allows = |e: &&&&Endpoint| {
        e.access.is_some_and(|a| match a.as_str() {
            "full" => true,
            "read-write" => ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH"].contains(&asked.method),
            _ => ["GET", "HEAD", "OPTIONS"].contains(&asked.method),
        }) || e.rules.iter().any(|r| rule_matches(r, asked, false))
    };
    if judges.iter().any(|e| allows(&e)) {
        return if recorded { Answer::Recorded } else { Answer::Sent };
    }
    if !judges.is_empty() && judges.iter().all(|e| e.audit) { Answer::Recorded } else { Answer::Refused }
}

// The generated world: few hosts, programs and paths, so that things meet.

const HOSTS: [&str; 7] = [
    "a.example.com",
    "b.example.com",
    "x.a.example.com",
    "example.com",
    "a-1.example.com",
    "10.1.1.1",
    "10.2.2.2",
];
const PROGRAMS: [&str; 4] = ["/usr/bin/a", "/usr/bin/b", "/usr/lib/x/a", "/sandbox/v/bin/a"];
const PATHS: [&str; 8] = ["/", "/a", "/a/", "/a/b", "/a/b/c", "/b", "/b/%2F", "/ab/b"];
const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "DELETE", "OPTIONS"];

fn pattern() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => select(&["/**", "/a/**", "/*", "/a/*", "/**/b", "/a*/b", "/*/*"][..]).prop_map(str::to_owned),
        1 => select(&PATHS[..6]).prop_map(str::to_owned),
    ]
}

fn rule() -> impl Strategy<Value = String> {
    let query = prop_oneof![
        4 => Just(String::new()),
        1 => select(&["q: '1'", "q: { any: ['1', '2*'] }", "q: '*', r: '1'"][..]).prop_map(|q| format!(", query: {{ {q} }}")),
    ];
    (select(&["GET", "POST", "*", "HEAD"][..]), pattern(), query)
        .prop_map(|(method, path, query)| format!("{{ method: '{method}', path: '{path}'{query} }}"))
}

fn inspected() -> impl Strategy<Value = String> {
    let allow = prop_oneof![
        select(&["read-only", "read-write", "full"][..]).prop_map(|a| format!("access: {a}")),
        prop::collection::vec(rule(), 1..3).prop_map(|rules| {
            let rules: Vec<String> = rules.into_iter().map(|r| format!("{{ allow: {r} }}")).collect();
            format!("rules: [ {} ]", rules.join(", "))
        }),
    ];
    let deny = prop::collection::vec(rule(), 0..2).prop_map(|r| {
        if r.is_empty() { String::new() } else { format!(", deny_rules: [ {} ]", r.join(", ")) }
    });
    let rest = (allow, deny).prop_map(|(allow, deny)| format!("protocol: rest, {allow}{deny}"));
    let protocol = prop_oneof![
        4 => rest,
        1 => Just(String::from("protocol: websocket, access: full")),
    ];
    let path = prop::option::weighted(0.3, pattern());
    (protocol, path, any::<bool>(), prop::bool::weighted(0.3), prop::bool::weighted(0.3)).prop_map(
        |(protocol, path, _, audit, slash)| {
            let path = path.map_or_else(String::new, |p| format!(", path: '{p}'"));
            let audit = if audit { ", enforcement: audit" } else { "" };
            let slash = if slash { ", allow_encoded_slash: true" } else { "" };
            format!("{protocol}{path}{audit}{slash}")
        },
    )
}

fn endpoint() -> impl Strategy<Value = String> {
    let host = select(
        &["a.example.com", "b.example.com", "*.example.com", "**.example.com", "a-*.example.com", "10.1.1.1"]
            [..],
    );
    let ports = select(&["[443]", "[80]", "[80, 443]"][..]);
    let treatment = prop_oneof![
        4 => inspected(),
        1 => Just(String::new()),
        1 => Just(String::from("tls: skip")),
    ];
    let named = (host, ports.clone(), treatment)
        .prop_map(|(host, ports, rest)| format!("{{ host: '{host}', ports: {ports}, {rest} }}"));
    let nameless = ports.prop_map(|ports| format!("{{ ports: {ports}, allowed_ips: [10.2.0.0/16] }}"));
    prop_oneof![6 => named, 1 => nameless]
}

fn binaries() -> impl Strategy<Value = String> {
    let pin = [7u8; 32].map(|b| format!("{b:02x}")).concat();
    let one = (
        select(&["/usr/bin/a", "/usr/bin/b", "/usr/bin/*", "/usr/**", "/sandbox/**/bin/a", "/**"][..]),
        any::<bool>(),
        prop::bool::weighted(0.2),
        any::<bool>(),
    )
        .prop_map(move |(path, ancestors, pinned, foreign)| {
            let pin = if pinned { format!(", sha256: '{pin}'") } else { String::new() };
            format!("{{ path: '{path}', ancestors: {ancestors}, allow_foreign_code: {foreign}{pin} }}")
        });
    prop_oneof![
        1 => Just(String::new()),
        5 => prop::collection::vec(one, 0..3).prop_map(|b| format!("    binaries: [ {} ]\n", b.join(", "))),
    ]
}

fn policy_text() -> impl Strategy<Value = String> {
    let entry = (prop::collection::vec(endpoint(), 1..4), binaries());
    prop::collection::vec(entry, 1..4).prop_map(|entries| {
        let mut out = String::from("version: 1\nnetwork_policies:\n");
        for (index, (endpoints, binaries)) in entries.into_iter().enumerate() {
            out.push_str(&format!("  e{index}:\n    endpoints:\n"));
            for endpoint in endpoints {
                out.push_str(&format!("      - {endpoint}\n"));
            }
            out.push_str(&binaries);
        }
        out
    })
}

fn program() -> impl Strategy<Value = Executable> {
    (select(&PROGRAMS[..]), select(&[7u8, 8][..]))
        .prop_map(|(path, byte)| Executable { path: path.into(), sha256: [byte; 32] })
}

fn caller() -> impl Strategy<Value = Caller> {
    (program(), prop::collection::vec(program(), 0..3), prop::bool::weighted(0.3)).prop_map(
        |(executable, ancestors, foreign_code)| Caller {
            executable,
            ancestors: ancestors.into(),
            foreign_code,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_global_rejects: 100_000, ..ProptestConfig::default() })]
    #[test]
    fn compiled_and_slow_agree(
        text in policy_text(),
        questions in prop::collection::vec(
            (caller(), select(&HOSTS[..]), select(&[80u16, 443][..]), select(&METHODS[..]), select(&PATHS[..]),
             prop::collection::vec((select(&["q", "r"][..]), select(&["1", "2", "22", "3"][..])), 0..3), prop::bool::weighted(0.15)),
            16),
    ) {
        // Contradicting policies are refused; that is another test's matter.
        let Ok(parsed) = policy::parse("generated", &text) else { return Err(TestCaseError::reject("contradicting")) };
        let policy = parsed.policy;
        let compiled = Compiled::new(&policy).unwrap();
        let again = policy::parse("again", &policy.to_yaml()).unwrap_or_else(|e| panic!("{e}")).policy;
        prop_assert_eq!(&again, &policy, "written out and read back");

        for (caller, host, port, method, path, query, websocket) in questions {
            let to = Destination { host: Host::parse(host).unwrap(), port };
            let raw: Vec<String> = query.iter().map(|(n, v)| format!("{n}={v}")).collect();
            let facts_query = Query::parse(Some(&raw.join("&"))).unwrap();
            let path = CanonicalPath::parse(path, policy::PathOptions { allow_encoded_slash: true });
            // `/b/%2F` is refused as a path; `/b/x%2Fy` is what an endpoint may allow.
            let path = path.unwrap_or_else(|_| {
                CanonicalPath::parse("/b/x%2fy", policy::PathOptions { allow_encoded_slash: true }).unwrap()
            });
            let asked = Asked { method, path: &path, query: &query, websocket };
            let expected = slow(&policy, &to, &caller, &asked);

            let connected = compiled.connect(&to, &caller);
            prop_assert_eq!(connected.is_err(), expected == Answer::NotConnected, "{}\n{} {:?}", text, to, caller);
            let granting = granting(&policy, &to, &caller);
            if let Ok(grant) = &connected {
                let inspects = matches!(grant.treatment, Treatment::Inspect { .. });
                prop_assert_eq!(inspects, granting.iter().any(|e| e.protocol.is_some()));
                prop_assert_eq!(grant.path_options.allow_encoded_slash, granting.iter().any(|e| e.allow_encoded_slash));
            }
            let facts = RequestFacts { method, path: &path, query: &facts_query, websocket };
            let answer = match compiled.request(&to, &caller, &facts) {
                Err(denial) if denial.layer == policy::Layer::L7 => Answer::Refused,
                Err(_) => Answer::NotConnected,
                Ok(allowed) if allowed.audit_only.is_some() => Answer::Recorded,
                Ok(_) => Answer::Sent,
            };
            prop_assert_eq!(answer, expected, "{}\n{} {:?} {} {} {:?} {}", text, to, caller, method, path, query, websocket);
        }
    }
}
