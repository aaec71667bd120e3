//! The decisions, case by case; the comparison with the slow matcher is in `tests/reference.rs`.

use std::sync::Arc;

use super::*;
use crate::{
    CanonicalPath, Denial, Destination, Executable, Layer, PathOptions, Protocol, Query, RequestFacts,
    Treatment,
};

fn compiled(network: &str) -> Compiled {
    let text = format!("version: 1\nnetwork_policies:\n{network}");
    Compiled::new(&crate::parse("p.yaml", &text).unwrap_or_else(|e| panic!("{e}")).policy).unwrap()
}

fn program(path: &str) -> Executable {
    Executable { path: path.into(), sha256: [7; 32] }
}

fn caller(chain: &[&str]) -> Caller {
    let mut programs = chain.iter().map(|p| program(p));
    let executable = programs.next().unwrap();
    Caller { executable, ancestors: programs.collect(), foreign_code: false, party: crate::Party::UNKNOWN }
}

fn to(text: &str) -> Destination {
    let (host, port) = text.rsplit_once(':').unwrap();
    Destination { host: Host::parse(host).unwrap(), port: port.parse().unwrap() }
}

/// Judges `method path?query` (a WebSocket handshake if the method is `WS`). Returns `policy: rule`, `audit:
/// detail`, or the denial.
fn ask(compiled: &Compiled, place: &str, chain: &[&str], request: &str) -> Result<String, Denial> {
    let (to, caller) = (to(place), caller(chain));
    let grant = compiled.connect(&to, &caller)?;
    let (method, target) = request.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
    let path = CanonicalPath::parse(path, grant.path_options).unwrap();
    let query = Query::parse(query).unwrap();
    let websocket = method == "WS";
    let method = if websocket { "GET" } else { method };
    let allowed = compiled.request(
        &to,
        &caller,
        &RequestFacts { method, path: &path, query: &query, websocket, content: crate::Content::Unread },
    )?;
    Ok(match allowed.audit_only {
        Some(denial) => format!("audit: {}", denial.detail),
        None => format!("{}: {}", allowed.policy, allowed.rule),
    })
}

const CURL: &[&str] = &["/usr/bin/curl"];

#[test]
fn host_port_and_program_must_match_in_one_entry() {
    let c = compiled(
        "  a: { endpoints: [ { host: a.example.com, port: 22 } ], binaries: [ { path: /usr/bin/ssh } ] }\n  \
         b: { endpoints: [ { host: b.example.com, port: 22 } ], binaries: [ { path: /usr/bin/curl } ] }\n",
    );
    assert!(c.connect(&to("a.example.com:22"), &caller(&["/usr/bin/ssh"])).is_ok());
    let denial = c.connect(&to("a.example.com:22"), &caller(CURL)).unwrap_err();
    assert_eq!((denial.layer, denial.policy.as_deref()), (Layer::L4, Some("a")));
    assert!(denial.detail.contains("/usr/bin/curl may not connect to a.example.com:22"), "{denial}");
    assert!(denial.hint.unwrap().contains("it is for /usr/bin/ssh"));
    let denial = c.connect(&to("a.example.com:23"), &caller(&["/usr/bin/ssh"])).unwrap_err();
    assert!(denial.hint.unwrap().contains("it is for port 22"));
    let denial = c.connect(&to("c.example.com:22"), &caller(CURL)).unwrap_err();
    assert_eq!(denial.detail, "no policy entry names c.example.com");
    assert_eq!(denial.policy, None);
}

#[test]
fn an_empty_policy_denies_everything() {
    let c = Compiled::new(&crate::parse("p", "version: 1\n").unwrap().policy).unwrap();
    assert!(c.connect(&to("a.example.com:443"), &caller(CURL)).is_err());
    assert!(ask(&c, "a.example.com:443", CURL, "GET /").is_err());
    assert_eq!(c.ports(), Vec::<u16>::new());
    assert!(!c.names(&Host::parse("a.example.com").unwrap()));
}

#[test]
fn ancestors_count_unless_they_dont() {
    let c = compiled(
        "  a: { endpoints: [ { host: a.example.com, port: 22 } ], binaries: [ { path: /usr/bin/agent } ] }\n  \
         b: { endpoints: [ { host: b.example.com, port: 22 } ], binaries: [ { path: /usr/bin/agent, ancestors: false } ] }\n",
    );
    let chain = ["/usr/bin/curl", "/usr/bin/bash", "/usr/bin/agent"];
    assert!(c.connect(&to("a.example.com:22"), &caller(&chain)).is_ok());
    assert!(c.connect(&to("b.example.com:22"), &caller(&chain)).is_err());
    assert!(c.connect(&to("b.example.com:22"), &caller(&chain[2..])).is_ok());
}

#[test]
fn code_of_unknown_origin_is_denied_unless_the_entry_allows_it() {
    let c = compiled(
        "  a: { endpoints: [ { host: a.example.com, port: 22 } ], binaries: [ { path: /usr/bin/curl } ] }\n  \
         b: { endpoints: [ { host: b.example.com, port: 22 } ], binaries: [ { path: /usr/bin/curl, allow_foreign_code: true } ] }\n",
    );
    let injected = Caller { foreign_code: true, ..caller(CURL) };
    let denial = c.connect(&to("a.example.com:22"), &injected).unwrap_err();
    assert_eq!(denial.layer, Layer::Identity);
    assert!(denial.hint.unwrap().contains("allow_foreign_code"));
    assert!(c.connect(&to("a.example.com:22"), &caller(CURL)).is_ok());
    assert!(c.connect(&to("b.example.com:22"), &injected).is_ok());
}

#[test]
fn a_pinned_program_with_other_content_is_an_identity_denial() {
    let sha = hex::encode([7; 32]);
    let other = hex::encode([8; 32]);
    let c = compiled(&format!(
        "  a: {{ endpoints: [ {{ host: a.example.com, port: 22 }} ], binaries: [ {{ path: /usr/bin/curl, sha256: '{sha}' }} ] }}\n  \
         b: {{ endpoints: [ {{ host: b.example.com, port: 22 }} ], binaries: [ {{ path: /usr/bin/curl, sha256: '{other}' }} ] }}\n"
    ));
    assert!(c.connect(&to("a.example.com:22"), &caller(CURL)).is_ok());
    assert_eq!(c.connect(&to("b.example.com:22"), &caller(CURL)).unwrap_err().layer, Layer::Identity);
}

#[test]
fn an_entry_without_binaries_is_for_any_program_and_an_empty_list_for_none() {
    let c = compiled(
        "  a: { endpoints: [ { host: a.example.com, port: 22 } ] }\n  b: { endpoints: [ { host: b.example.com, port: 22 } ], binaries: [] }\n",
    );
    assert!(c.connect(&to("a.example.com:22"), &caller(CURL)).is_ok());
    assert!(c.connect(&to("b.example.com:22"), &caller(CURL)).is_err());
}

#[test]
fn treatment_and_addresses_come_from_the_endpoint() {
    let c = compiled(
        "  a:\n    endpoints:\n      - { host: l4.example.com, port: 22 }\n      - { host: skip.example.com, port: 443, tls: skip }\n      \
         - { host: '*.rest.example.com', port: 443, protocol: rest, access: read-only, allowed_ips: [10.0.0.0/8] }\n      \
         - { host: public.example.com, port: 22, public_only: true }\n      \
         - { host: ws.example.com, port: 443, protocol: websocket, access: full }\n      - { port: 2222, allowed_ips: [10.1.2.0/24] }\n      \
         - { host: 203.0.113.9, port: 80, protocol: rest, access: full }\n    binaries: [ { path: /usr/bin/curl } ]\n",
    );
    let grant = |place: &str| c.connect(&to(place), &caller(CURL));
    assert_eq!(grant("l4.example.com:22").unwrap().treatment, Treatment::Relay { tls_skip: false });
    assert_eq!(grant("skip.example.com:443").unwrap().treatment, Treatment::Relay { tls_skip: true });
    let rest = grant("x.rest.example.com:443").unwrap();
    assert_eq!(rest.treatment, Treatment::Inspect { protocol: Protocol::Rest });
    assert!(!rest.addresses.exact_host && rest.addresses.allowed_ips.len() == 1);
    assert!(grant("l4.example.com:22").unwrap().addresses.exact_host);
    assert!(!grant("public.example.com:22").unwrap().addresses.exact_host, "named, and public all the same");
    assert_eq!(
        grant("ws.example.com:443").unwrap().treatment,
        Treatment::Inspect { protocol: Protocol::Websocket }
    );
    // Without a host: any name (its addresses are judged later), and the addresses themselves.
    let hostless = grant("anything.example.org:2222").unwrap();
    assert_eq!(hostless.addresses.allowed_ips[0].to_string(), "10.1.2.0/24");
    assert!(hostless.unnamed && !rest.unnamed);
    assert!(grant("10.1.2.3:2222").is_ok() && grant("10.1.3.3:2222").is_err());
    assert!(grant("203.0.113.9:80").is_ok() && grant("203.0.113.8:80").is_err());
    assert_eq!(c.ports(), [22, 80, 443, 2222]);
}

#[test]
fn an_endpoint_without_host_is_the_last_resort() {
    let c = compiled(
        "  a: { endpoints: [ { port: 443, allowed_ips: [10.0.0.0/8] } ], binaries: [ { path: /usr/bin/curl } ] }\n  \
         b: { endpoints: [ { host: b.example.com, port: 443, protocol: rest, access: read-only } ], binaries: [ { path: /usr/bin/curl } ] }\n",
    );
    let grant = c.connect(&to("b.example.com:443"), &caller(CURL)).unwrap();
    assert_eq!(&*grant.policy, "b");
    assert!(grant.addresses.allowed_ips.is_empty());
}

#[test]
fn allow_rules_are_a_union_over_entries_and_a_deny_rule_in_any_wins() {
    let c = compiled(
        "  read: { endpoints: [ { host: '*.example.com', port: 443, protocol: rest, access: read-only } ], binaries: [ { path: /usr/bin/curl } ] }\n  \
         issues: { endpoints: [ { host: api.example.com, port: 443, protocol: rest, rules: [ { allow: { method: POST, path: '/repos/*/issues' } } ], \
         deny_rules: [ { method: '*', path: '/repos/secret/**' } ] } ], binaries: [ { path: /usr/bin/curl } ] }\n",
    );
    let place = "api.example.com:443";
    assert_eq!(ask(&c, place, CURL, "GET /repos/x/issues").unwrap(), "read: access: read-only");
    assert_eq!(ask(&c, place, CURL, "POST /repos/x/issues").unwrap(), "issues: allow POST /repos/*/issues");
    let denial = ask(&c, place, CURL, "GET /repos/secret/x").unwrap_err();
    assert_eq!((denial.layer, denial.policy.as_deref()), (Layer::L7, Some("issues")));
    let denial = ask(&c, place, CURL, "DELETE /repos/x/issues").unwrap_err();
    assert_eq!(denial.detail, "no rule allows DELETE api.example.com/repos/x/issues");
    assert!(denial.hint.unwrap().contains("it allows"));
    // On another host only the wildcard entry has its say.
    assert!(ask(&c, "www.example.com:443", CURL, "GET /repos/secret/x").is_ok());
    assert!(ask(&c, "www.example.com:443", CURL, "POST /repos/x/issues").is_err());
}

#[test]
fn a_get_rule_covers_head_and_methods_keep_their_case() {
    let c = compiled(
        "  a: { endpoints: [ { host: a.example.com, port: 443, protocol: rest, rules: [ { allow: { method: GET, path: /x } } ] } ], binaries: [ { path: /usr/bin/curl } ] }\n",
    );
    for (request, yes) in
        [("GET /x", true), ("HEAD /x", true), ("get /x", false), ("OPTIONS /x", false), ("GET /x/", false)]
    {
        assert_eq!(ask(&c, "a.example.com:443", CURL, request).is_ok(), yes, "{request}");
    }
}

#[test]
fn queries_are_judged_decoded_every_value_to_allow_one_to_deny() {
    let c = compiled(
        "  a: { endpoints: [ { host: a.example.com, port: 443, protocol: rest, rules: [ { allow: { method: GET, path: /x, query: { state: { any: [open, 'clo*'] } } } }, { allow: { method: GET, path: /y } } ], \
         deny_rules: [ { method: GET, path: /y, query: { force: 'true' } } ] } ], binaries: [ { path: /usr/bin/curl } ] }\n",
    );
    for (request, yes) in [
        ("GET /x?state=open", true),
        ("GET /x?st%61te=%6fpen&other=1", true),
        ("GET /x?state=closed", true),
        ("GET /x?state=open&state=all", false),
        ("GET /x", false),
        ("GET /x?state=clo/sed", false),
        ("GET /y", true),
        ("GET /y?force=false", true),
        ("GET /y?force=false&force=true", false),
        ("GET /y?f%6frce=tru%65", false),
    ] {
        assert_eq!(ask(&c, "a.example.com:443", CURL, request).is_ok(), yes, "{request}");
    }
}

#[test]
fn audit_lets_through_and_records_and_enforce_wins_over_it() {
    let c = compiled(
        "  audit: { endpoints: [ { host: a.example.com, port: 443, protocol: rest, enforcement: audit, access: read-only, deny_rules: [ { method: GET, path: /secret } ] } ], binaries: [ { path: /usr/bin/curl } ] }\n  \
         strict: { endpoints: [ { host: a.example.com, port: 443, path: '/strict/**', protocol: rest, access: read-only, deny_rules: [ { method: GET, path: /strict/secret } ] } ], binaries: [ { path: /usr/bin/curl } ] }\n",
    );
    let place = "a.example.com:443";
    assert_eq!(ask(&c, place, CURL, "GET /x").unwrap(), "audit: access: read-only");
    assert_eq!(ask(&c, place, CURL, "POST /x").unwrap(), "audit: no rule allows POST a.example.com/x");
    assert_eq!(
        ask(&c, place, CURL, "GET /secret").unwrap(),
        "audit: GET a.example.com/secret is refused by `deny GET /secret`"
    );
    assert!(ask(&c, place, CURL, "POST /strict/x").is_err());
    assert!(ask(&c, place, CURL, "GET /strict/secret").is_err());
}

#[test]
fn path_parts_endpoints_and_what_none_serves_is_denied() {
    let c = compiled(
        "  a: { endpoints: [ { host: a.example.com, port: 443, path: '/api/**', protocol: rest, access: read-only }, \
         { host: a.example.com, port: 443, path: /ws, protocol: websocket, access: read-write } ], binaries: [ { path: /usr/bin/curl } ] }\n",
    );
    let place = "a.example.com:443";
    assert!(ask(&c, place, CURL, "GET /api/x").is_ok());
    assert!(ask(&c, place, CURL, "GET /other").unwrap_err().hint.unwrap().contains("it serves /api/**"));
    assert!(ask(&c, place, CURL, "WS /ws").is_ok());
    assert!(ask(&c, place, CURL, "GET /ws").is_err(), "a plain request is no handshake");
    assert!(ask(&c, place, CURL, "WS /api/x").is_err(), "a rest rule lets no tunnel through");
}

#[test]
fn an_encoded_slash_passes_only_where_allowed() {
    let c = compiled(
        "  a: { endpoints: [ { host: a.example.com, port: 443, path: '/npm/**', protocol: rest, access: read-only, allow_encoded_slash: true }, \
         { host: a.example.com, port: 443, path: '/api/**', protocol: rest, access: read-only } ], binaries: [ { path: /usr/bin/curl } ] }\n",
    );
    assert!(ask(&c, "a.example.com:443", CURL, "GET /npm/@s%2fx").is_ok());
    assert!(ask(&c, "a.example.com:443", CURL, "GET /api/@s%2fx").is_err());
}

#[test]
fn credentials_are_rewritten_where_an_endpoint_of_the_caller_says_so() {
    let c = compiled(
        "  a: { endpoints: [ { host: a.example.com, port: 443, path: '/in/**', protocol: rest, access: full, request_body_credential_rewrite: true }, \
         { host: a.example.com, port: 443, protocol: rest, access: full } ], binaries: [ { path: /usr/bin/curl } ] }\n  \
         b: { endpoints: [ { host: a.example.com, port: 443, protocol: rest, access: full, websocket_credential_rewrite: true } ], \
         binaries: [ { path: /usr/bin/gh } ] }\n",
    );
    let rewrites = |place: &str, program: &str, path: &str| {
        let path = CanonicalPath::parse(path, PathOptions::default()).unwrap();
        let rewrites = c.rewrites(&to(place), &caller(&[program]), &path);
        (rewrites.bodies, rewrites.messages)
    };
    assert_eq!(rewrites("a.example.com:443", "/usr/bin/curl", "/in/x"), (true, false));
    assert_eq!(rewrites("a.example.com:443", "/usr/bin/curl", "/x"), (false, false));
    assert_eq!(rewrites("a.example.com:443", "/usr/bin/gh", "/in/x"), (false, true));
    assert_eq!(rewrites("a.example.com:80", "/usr/bin/curl", "/in/x"), (false, false));
    assert_eq!(rewrites("b.example.com:443", "/usr/bin/curl", "/in/x"), (false, false));
}

#[test]
fn inspected_wins_over_relayed_where_a_caller_has_both_by_its_ancestors() {
    let c = compiled(
        "  relay: { endpoints: [ { host: a.example.com, port: 443 } ], binaries: [ { path: /usr/bin/agent } ] }\n  \
         rest: { endpoints: [ { host: a.example.com, port: 443, protocol: rest, access: read-only } ], binaries: [ { path: /usr/bin/curl } ] }\n",
    );
    let both = ["/usr/bin/curl", "/usr/bin/agent"];
    let grant = c.connect(&to("a.example.com:443"), &caller(&both)).unwrap();
    assert_eq!(grant.treatment, Treatment::Inspect { protocol: Protocol::Rest });
    assert!(ask(&c, "a.example.com:443", &both, "POST /x").is_err());
    // Where nothing inspects there is nothing to judge.
    assert_eq!(
        ask(&c, "a.example.com:443", &["/usr/bin/agent"], "POST /x").unwrap(),
        "relay: a.example.com:443"
    );
}

#[test]
fn a_contradiction_that_a_program_made_is_refused_at_compile_time() {
    let policy = crate::parse(
        "p",
        "version: 1\nnetwork_policies: { a: { endpoints: [ { host: a.example.com, port: 1 } ] } }\n",
    )
    .unwrap()
    .policy;
    let mut broken = policy.clone();
    let mut entry = policy.network()[0].clone();
    entry.key = Arc::from("b");
    entry.endpoints[0].tls_skip = true;
    broken.network.push(entry);
    let errors = Compiled::new(&broken).unwrap_err();
    assert!(errors.to_string().contains("different `tls`"), "{errors}");
    assert!(Compiled::new(&policy).is_ok());
    let _ = PathOptions::default();
}
