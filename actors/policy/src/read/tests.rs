//! Every error of a file is reported at its place, all at once; nothing is ignored.

use super::*;
use crate::Severity;

fn errors(text: &str) -> Vec<String> {
    said(text, Severity::Error)
}

fn said(text: &str, severity: Severity) -> Vec<String> {
    let all = match parse("p.yaml", text) {
        Ok(parsed) => parsed.warnings,
        Err(all) => all,
    };
    all.items()
        .iter()
        .filter(|item| item.severity == severity)
        .map(|item| {
            let place =
                all.position(item).map_or_else(String::new, |(line, column)| format!("{line}:{column} "));
            let help = item.help.as_ref().map_or_else(String::new, |h| format!(" | {h}"));
            format!("{place}{}{help}", item.message)
        })
        .collect()
}

/// An endpoint of a policy that is otherwise in order.
fn endpoint(fields: &str) -> String {
    format!(
        "version: 1\nnetwork_policies:\n  x:\n    endpoints:\n      - {{ {fields} }}\n    binaries: [ {{ path: /usr/bin/curl }} ]\n"
    )
}

#[test]
fn many_errors_of_every_kind_come_out_together() {
    let text = "\
version: 2
filesystem_policy:
  include_workdir: yes
  read_only: [usr, /etc/../root, /lib]
  read_write: [/, 7]
landlock: { compatibility: best-effort }
proces: { run_as_user: root }
network_policies:
  a:
    endpoints:
      - hosst: api.example.com
        port: 99999
        protocol: rest
      - { host: '*.com', port: 443, protocol: graphqll }
      - { host: x.example.com, port: 443, protocol: rest, access: read-only, rules: [ { allow: { method: get, path: repos } } ] }
    binaries: [ { path: curl }, { path: /usr/bin/x, sha256: abc } ]
  a: { endpoints: [] }
network_middlewares: {}
";
    let errors = errors(text);
    let wanted = [
        "1:10 the version must be 1",
        "3:20 `yes` is text in YAML 1.2 | write `true` or `false`",
        "4:15 the path must be absolute",
        "4:20 the path must have no `.` or `..` in it",
        "5:16 `/` can't be writable",
        "5:19 text is needed here, not a number | put it in quotes: \"7\"",
        "6:28 `best-effort` is not a value of `compatibility` | did you mean `best_effort`?",
        "7:1 unknown field `proces` in this policy | did you mean `process`?",
        "11:9 unknown field `hosst` in this endpoint | did you mean `host`?",
        "12:15 a port is a number from 1 to 65535",
        "14:17 `*.com` can't be a host",
        "14:47 `graphqll` is not a value of `protocol` | did you mean `graphql`?",
        "15:67 `access` and `rules` exclude each other",
        "15:106 methods are case-sensitive: `get` never matches | write `GET`",
        "15:117 a path pattern begins with `/`",
        "16:25 the path of a binary must be absolute",
        "16:61 a SHA-256 is 64 hex digits",
        "17:3 there are two entries `a`",
        "18:1 `network_middlewares` isn't supported",
    ];
    for start in wanted {
        assert!(errors.iter().any(|e| e.starts_with(start)), "missing: {start}\nin {errors:#?}");
    }
    assert_eq!(errors.len(), wanted.len(), "{errors:#?}");
}

#[test]
fn errors_come_in_the_order_of_the_file() {
    let errors = errors("network_policies: { x: { bogus: 1 } }\nfoo: 1\nversion: 3\n");
    let lines: Vec<usize> = errors.iter().filter_map(|e| e.split(':').next()?.parse().ok()).collect();
    assert!(lines.is_sorted(), "{errors:#?}");
}

#[test]
fn a_number_that_begins_with_nought_is_called_so() {
    let policy = |port: &str| {
        format!(
            "version: 1\nnetwork_policies:\n  a:\n    name: a\n    endpoints: [ {{ host: a.example, port: {port} }} ]\n    binaries: [ {{ path: /bin/x }} ]\n"
        )
    };
    assert!(errors(&policy("443")).is_empty());
    for (port, kind) in [("0443", "a number that begins with 0"), ("44.3", "a fractional number")] {
        let told = errors(&policy(port));
        assert!(
            told.len() == 1 && told[0].contains(&format!("is needed here, not {kind}")),
            "{port}: {told:?}"
        );
    }
}

#[test]
fn text_that_is_not_a_policy_is_refused() {
    assert_eq!(errors(""), ["1:1 a map (policy) is needed here, not nothing"]);
    assert!(errors("[]")[0].contains("a map (policy) is needed here, not a list"));
    assert!(errors("{}")[0].contains("`version` is missing"));
    assert!(errors("a: [")[0].contains("not valid YAML"));
    assert!(errors("version: 1\n<<: {a: 1}\n")[0].contains("merge keys aren't supported"));
}

#[test]
fn fields_whose_feature_is_not_here_are_errors_unless_they_are_off() {
    let later = "host: a.example.com, port: 443, protocol: rest, access: read-only, allow_uninspected_credentials: true";
    assert!(errors(&endpoint(later))[0].contains("isn't supported yet"));
    for field in ["credential_signing: sigv4", "signing_service: s3"] {
        let errors = errors(&endpoint(&format!("host: a.example.com, port: 443, {field}")));
        assert!(errors.len() == 1 && errors[0].contains("isn't supported:"), "{field}: {errors:?}");
    }
    let off = "host: a.example.com, port: 443, protocol: rest, access: read-only, websocket_credential_rewrite: false";
    assert_eq!(errors(&endpoint(off)), Vec::<String>::new());
    for field in
        ["persisted_queries: deny", "graphql_max_body_bytes: 1", "mcp: { max_body_bytes: 1 }", "json_rpc: {}"]
    {
        let errors = errors(&endpoint(&format!(
            "host: a.example.com, port: 443, protocol: rest, access: read-only, {field}"
        )));
        assert!(errors.len() == 1 && errors[0].contains("is for `protocol:"), "{field}: {errors:?}");
    }
}

#[test]
fn credentials_are_rewritten_where_there_is_something_to_rewrite() {
    for (fields, fits) in [
        ("protocol: rest, access: full, request_body_credential_rewrite: true", true),
        ("protocol: graphql, access: full, request_body_credential_rewrite: true", true),
        ("protocol: rest, access: full, websocket_credential_rewrite: true", true),
        ("protocol: websocket, access: full, websocket_credential_rewrite: true", true),
        ("protocol: websocket, access: full, request_body_credential_rewrite: true", false),
        ("protocol: graphql, access: full, websocket_credential_rewrite: true", false),
        ("request_body_credential_rewrite: true", false),
        ("tls: skip, websocket_credential_rewrite: true", false),
        ("tls: skip, websocket_credential_rewrite: false", true),
    ] {
        let errors = errors(&endpoint(&format!("host: a.example.com, port: 443, {fields}")));
        let refused = errors.iter().any(|error| error.contains("has nothing to rewrite"));
        assert!(refused != fits && errors.len() == usize::from(refused), "{fields}: {errors:?}");
    }
}

#[test]
fn what_rules_about_bodies_and_messages_may_not_say() {
    for (fields, wanted) in [
        ("protocol: mcp", "needs `rules`"),
        ("protocol: mcp, access: full", "can't say which calls"),
        ("protocol: json-rpc, access: full", "can't say which calls"),
        ("protocol: mcp, rules: [ { allow: {} } ]", "`method` is missing"),
        ("protocol: mcp, rules: [ { allow: { tool: x } } ]", "`method` is missing"),
        ("protocol: mcp, rules: [ { allow: { method: tools/list, tool: x } } ]", "need `method: tools/call`"),
        ("protocol: json-rpc, rules: [ { allow: { method: a, tool: x } } ]", "need `method: tools/call`"),
        (
            "protocol: mcp, rules: [ { allow: { method: tools/call, tool: x } }, { allow: { method: 'tools/*' } } ]",
            "every tool beside",
        ),
        (
            "protocol: mcp, rules: [ { allow: { method: tools/call, tool: x, params: { name: y } } } ]",
            "are the same",
        ),
        (
            "protocol: mcp, rules: [ { allow: { method: tools/call, arguments: { '/a~2': y } } } ]",
            "no JSON pointer",
        ),
        (
            "protocol: mcp, rules: [ { allow: { method: tools/call, arguments: { a: { any: [] } } } } ]",
            "`any` is empty",
        ),
        (
            "protocol: mcp, rules: [ { allow: { method: tools/call, arguments: { a: 0x10 } } } ]",
            "no number as JSON",
        ),
        ("protocol: mcp, rules: [ { allow: { method: GET, path: /x } } ]", "unknown field `path`"),
        ("protocol: mcp, mcp: { max_body_bytes: 0 }, rules: [ { allow: { method: a } } ]", "from 1 to"),
        ("protocol: graphql, rules: [ { allow: { operation_type: drop } } ]", "not a value"),
        (
            "protocol: graphql, rules: [ { allow: { operation_type: query, fields: [] } } ]",
            "`fields` is empty",
        ),
        (
            "protocol: graphql, access: full, graphql_persisted_queries: { a: { operation_type: query } }",
            "allow_registered",
        ),
        (
            "protocol: websocket, rules: [ { allow: { operation_type: query, path: /x } } ]",
            "unknown field `path`",
        ),
        ("protocol: websocket, rules: [ { allow: { fields: [a] } } ]", "`operation_type` is missing"),
        (
            "protocol: websocket, rules: [ { allow: { method: '*', path: /x } }, { allow: { operation_type: query } } ]",
            "beside those that name GraphQL operations",
        ),
        (
            "protocol: websocket, access: full, persisted_queries: allow_registered, graphql_persisted_queries: {}",
            "nothing to say",
        ),
        ("protocol: websocket, access: full, graphql_max_body_bytes: 5", "is for `protocol: graphql`"),
        ("protocol: rest, access: full, persisted_queries: deny", "`protocol: graphql` or `websocket`"),
        (
            "protocol: websocket, rules: [ { allow: { method: GET, path: /x, text: a } } ]",
            "is for `method: WEBSOCKET_TEXT`",
        ),
        ("protocol: tcp, access: full", "nothing to judge"),
        ("protocol: tcp, rules: [ { allow: { method: GET, path: /x } } ]", "nothing to judge"),
    ] {
        let errors = errors(&endpoint(&format!("host: a.example.com, port: 443, {fields}")));
        assert!(errors.iter().any(|error| error.contains(wanted)), "{fields}: {errors:?}");
    }
    for fields in [
        "protocol: mcp, mcp: { allow_all_known_mcp_methods: true }",
        "protocol: mcp, mcp: { allow_all_known_mcp_methods: true }, rules: [ { allow: {} } ]",
        "protocol: mcp, mcp: { allow_all_known_mcp_methods: true }, rules: [ { allow: { tool: x } } ], deny_rules: [ { tool: y } ]",
        "protocol: mcp, rules: [ { allow: { method: tools/call, tool: { any: [a, b] } } }, { allow: { method: tools/call, params: { name: c } } } ]",
        "protocol: json-rpc, rules: [ { allow: { method: '*', params: { /0: 5, x: true } } } ], deny_rules: [ { method: reports.delete } ]",
        "protocol: tcp",
    ] {
        assert_eq!(
            errors(&endpoint(&format!("host: a.example.com, port: 443, {fields}"))),
            Vec::<String>::new(),
            "{fields}"
        );
    }
}

#[test]
fn endpoints_that_contradict_themselves() {
    for (fields, wanted) in [
        ("port: 443", "without `host` needs `allowed_ips`"),
        ("port: 443, allowed_ips: [10.0.0.0/8], protocol: rest, access: full", "can't be inspected"),
        ("host: a.example.com", "`port` (or `ports`) is missing"),
        ("host: a.example.com, port: 1, ports: [2]", "both there"),
        ("host: a.example.com, ports: []", "`ports` is empty"),
        ("host: a.example.com, port: 0", "from 1 to 65535"),
        ("host: a.example.com, port: 443, protocol: rest", "needs `rules` or `access`"),
        ("host: a.example.com, port: 443, protocol: rest, rules: []", "`rules` is empty"),
        (
            "host: a.example.com, port: 443, protocol: rest, access: full, deny_rules: []",
            "`deny_rules` is empty",
        ),
        ("host: a.example.com, port: 443, protocol: rest, access: full, tls: skip", "leaves nothing"),
        ("host: a.example.com, port: 443, deny_rules: [ { method: GET, path: /x } ]", "need `protocol`"),
        ("host: a.example.com, port: 443, path: /x", "needs `protocol`"),
        ("host: a.example.com, port: 443, allowed_ips: [127.0.0.1]", "overlaps loopback"),
        ("host: a.example.com, port: 443, allowed_ips: [0.0.0.0/0]", "overlaps loopback"),
        ("host: a.example.com, port: 443, allowed_ips: [169.254.169.254]", "overlaps loopback"),
        ("host: a.example.com, port: 443, allowed_ips: ['::/0']", "overlaps loopback"),
        ("host: a.example.com, port: 443, allowed_ips: [x]", "neither an address nor"),
        ("host: a.example.com, port: 443, allowed_ips: []", "`allowed_ips` is empty"),
        (
            "host: a.example.com, port: 443, allowed_ips: ['::ffff:127.0.0.1']",
            "write the IPv4 address itself",
        ),
        (
            "host: a.example.com, port: 443, allowed_ips: ['::ffff:10.0.0.0/104']",
            "write the IPv4 address itself",
        ),
        ("host: a.example.com, port: 443, allowed_ips: ['64:ff9b::/96']", "write the IPv4 address itself"),
        ("host: a.example.com, port: 443, allowed_ips: ['64:ff9b::7f00:1']", "write the IPv4 address itself"),
        ("host: a.example.com, port: 443, allowed_ips: ['2002:7f00:1::']", "write the IPv4 address itself"),
        ("host: a.example.com, port: 443, allowed_ips: ['::7f00:1']", "write the IPv4 address itself"),
        ("host: 'https://a.example.com', port: 443", "can't be a host: it is more"),
        ("host: 'https://a.example.com', port: 443", "without scheme"),
        ("host: 'a.example.com:8443', port: 443", "can't be a host: it has a port"),
        ("host: '[2001:db8::1]:443', port: 443", "write the port under `port`"),
        ("host: 0x7f.1, port: 443", "written in its plain form"),
        ("host: '*.com', port: 443", "in the first label"),
        (
            "host: a.example.com, port: 443, protocol: websocket, rules: [ { allow: { method: POST, path: /x } } ]",
            "has no method `POST`",
        ),
        (
            "host: a.example.com, port: 443, protocol: rest, rules: [ { allow: { method: WEBSOCKET_TEXT, path: /x } } ]",
            "is for `protocol: websocket`",
        ),
        (
            "host: a.example.com, port: 443, protocol: rest, rules: [ { allow: { method: GET, path: '/{a,b}' } } ]",
            "not part of the pattern language",
        ),
        (
            "host: a.example.com, port: 443, protocol: rest, rules: [ { method: GET, path: /x } ]",
            "`allow` is missing",
        ),
    ] {
        let errors = errors(&endpoint(fields));
        assert!(errors.iter().any(|e| e.contains(wanted)), "{fields}: {errors:?}");
    }
}

#[test]
fn a_providers_host_is_warned_of_however_it_is_covered() {
    let warned = |host: &str| {
        let fields = format!("host: '{host}', port: 443, protocol: rest, access: read-only");
        let warnings = said(&endpoint(&fields), Severity::Warning);
        warnings.iter().any(|text| text.contains("inference provider"))
    };
    for host in [
        "api.openai.com",
        "*.openai.com",
        "**.openai.com",
        "ap*.openai.com",
        "**.anthropic.com",
        "mine.openai.azure.com",
        "*.openai.azure.com",
        "**.azure.com",
        "bedrock-runtime.eu-west-1.amazonaws.com",
        "*.eu-west-1.amazonaws.com",
        "bedrock-*.eu-west-1.amazonaws.com",
        "**.eu-west-1.amazonaws.com",
        "**.amazonaws.com",
    ] {
        assert!(warned(host), "{host}");
    }
    for host in [
        "openai.com",
        "*.example.com",
        "*.azure.com",
        "s3.eu-west-1.amazonaws.com",
        "*.amazonaws.com",
        "s3-*.eu-west-1.amazonaws.com",
    ] {
        assert!(!warned(host), "{host}");
    }
}

#[test]
fn risky_rules_are_warned_about() {
    for (fields, wanted) in [
        (
            "host: a.example.com, port: 443, protocol: rest, access: full",
            "`access: full` allows every method",
        ),
        ("host: a.example.com, port: 443", "looks like an HTTP API"),
        ("host: a.example.com, port: 443, tls: skip", "`tls: skip` relays"),
        ("host: a.example.com, port: 443, access: read-only", "`access` without `protocol` judges nothing"),
        ("host: api.openai.com, port: 443, protocol: rest, access: read-only", "is an inference provider"),
        ("host: a.example.com, port: 443, protocol: rest, access: read-only, tls: terminate", "does nothing"),
        ("port: 5433, allowed_ips: [10.0.0.0/8]", "has any name looked up outside"),
        ("host: localhost, port: 8000, protocol: rest, access: read-only", "never reached"),
        ("host: inference.local, port: 443, protocol: rest, access: full", "changes nothing"),
        (
            "host: a.example.com, port: 443, protocol: rest, access: full, deny_rules: [ { method: '*', path: '/repos/*/x' } ]",
            "write `**`",
        ),
        (
            "host: a.example.com, port: 443, protocol: rest, access: full, deny_rules: [ { method: '*', path: '/a/secrets' } ]",
            "not `/a/secrets.json`",
        ),
        (
            "host: a.example.com, port: 443, protocol: rest, rules: [ { allow: { method: GET, path: '/x?a=b' } } ]",
            "never part of the path",
        ),
    ] {
        assert_eq!(errors(&endpoint(fields)), Vec::<String>::new(), "{fields}");
        let warnings = said(&endpoint(fields), Severity::Warning);
        assert!(warnings.iter().any(|e| e.contains(wanted)), "{fields}: {warnings:?}");
    }
    let denying = |paths: [&str; 2]| {
        let rules = paths.map(|path| format!("{{ method: GET, path: '{path}' }}")).join(", ");
        let fields = "host: a.example.com, port: 443, protocol: rest, access: read-only";
        let said = said(&endpoint(&format!("{fields}, deny_rules: [ {rules} ]")), Severity::Warning);
        said.iter().filter(|text| text.contains("denies itself")).count()
    };
    for paths in [["/a/b", "/c"], ["/c.json", "/c"], ["/a/**", "/c"], ["/a/*/b", "/a/b.**"]] {
        assert_eq!(denying(paths), 1, "{paths:?}");
    }
    for paths in
        [["/a/", "/c.json"], ["/a/*/b", "/a/*/b.**"], ["/a/b", "/a/b*"], ["/a/b", "/a/**"], ["/a?", "/"]]
    {
        assert_eq!(denying(paths), 0, "{paths:?}");
    }
    let warn = |binaries: &str| {
        let text =
            endpoint("host: a.example.com, port: 5000").replace("[ { path: /usr/bin/curl } ]", binaries);
        said(&text, Severity::Warning)
    };
    assert!(warn("[ { path: '/**' } ]")[0].contains("is every program"));
    assert!(warn("[ { path: '/usr/bin/python3*' } ]")[0].contains("runs any script"));
    assert!(warn("[]")[0].contains("no program may use it"));
    assert_eq!(warn("[ { path: /usr/bin/curl } ]"), Vec::<String>::new());
    let named = |name: &str| {
        said(
            &endpoint("host: a.example.com, port: 5000").replace("  x:", &format!("  {name}:")),
            Severity::Warning,
        )
    };
    assert!(named("approved-17")[0].contains("called as what an operator approved"));
    assert_eq!(named("approved-hosts"), Vec::<String>::new());
    let text =
        "version: 1\nnetwork_policies: { x: { endpoints: [ { host: a.example.com, port: 5000 } ] } }\n";
    assert!(said(text, Severity::Warning)[0].contains("any program may use it"));
}

#[test]
fn contradicting_entries_are_one_error_that_names_both() {
    let two = |a: &str, b: &str, program: &str| {
        format!(
            "version: 1\nnetwork_policies:\n  one:\n    endpoints: [ {{ {a} }} ]\n    binaries: [ {{ path: /usr/bin/curl }} ]\n  \
             two:\n    endpoints: [ {{ {b} }} ]\n    binaries: [ {{ path: {program} }} ]\n"
        )
    };
    let rest = "host: a.example.com, port: 443, protocol: rest, access: read-only";
    let audit = "host: a.example.com, port: 443, protocol: rest, access: read-only, enforcement: audit";
    let l4 = "host: '*.example.com', ports: [80, 443]";
    let skip = "host: a.example.com, port: 443, tls: skip";
    for (a, b, field) in [(rest, audit, "`enforcement`"), (rest, l4, "`protocol`"), (l4, skip, "`tls`")] {
        let errors = errors(&two(a, b, "'/usr/bin/*'"));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].contains("`one`") && errors[0].contains("`two`") && errors[0].contains(field),
            "{errors:?}"
        );
    }
    // Patterns that have programs in common.
    let patterns = two(rest, audit, "'/usr/**'").replace("/usr/bin/curl", "'/usr/bin/*'");
    assert_eq!(errors(&patterns).len(), 1);
    // Different programs, ports, hosts or paths: no contradiction.
    let patterns = two(rest, audit, "'/opt/**'").replace("/usr/bin/curl", "'/usr/bin/*'");
    assert_eq!(errors(&patterns), Vec::<String>::new());
    assert_eq!(errors(&two(rest, audit, "/usr/bin/git")), Vec::<String>::new());
    assert_eq!(errors(&two(rest, "host: a.example.com, port: 444", "/usr/bin/curl")), Vec::<String>::new());
    assert_eq!(errors(&two(rest, "host: b.example.com, port: 443", "/usr/bin/curl")), Vec::<String>::new());
    let on_path = format!("{audit}, path: '/b/**'");
    assert_eq!(errors(&two(rest, &on_path, "/usr/bin/curl")), Vec::<String>::new());
    assert_eq!(errors(&two(rest, rest, "/usr/bin/curl")), Vec::<String>::new());
}

#[test]
fn the_static_sections_are_read() {
    let text = "\
version: 1
filesystem_policy:
  include_workdir: true
  read_only: [/usr/, { path: /app, optional: true }]
  read_write: [/tmp//x]
process: { run_as_user: sandbox, run_as_group: 1000 }
";
    let policy = parse("p", text).unwrap().policy;
    let fs = policy.filesystem();
    assert!(fs.include_workdir);
    assert_eq!(fs.read_only[0].path.to_str(), Some("/usr"));
    assert!(!fs.read_only[0].optional && fs.read_only[1].optional);
    assert_eq!(fs.read_write[0].path.to_str(), Some("/tmp/x"));
    assert_eq!(policy.landlock(), crate::Landlock::HardRequirement);
    assert_eq!(policy.process().run_as_group.as_deref(), Some("1000"));
    let best = parse("p", &format!("{text}landlock: {{ compatibility: best_effort }}\n")).unwrap().policy;
    assert!(best.filesystem().read_only[0].optional);
    let unlisted = parse("p", "version: 1\nlandlock: { compatibility: best_effort }\n").unwrap().policy;
    assert!(unlisted.filesystem().read_write.iter().all(|rule| rule.optional), "those of the default, too");
    assert_eq!(policy.static_changes(&best), ["filesystem_policy", "landlock"]);
    assert!(errors("version: 1\nprocess: { run_as_user: 0 }\n")[0].contains("never runs as 0"));
}

#[test]
fn a_long_file_is_read_in_little_time_and_origins_are_right() {
    let mut text = String::from("version: 1\nnetwork_policies:\n");
    for i in 0..1000 {
        text.push_str(&format!(
            "  é{i}:\n    endpoints: [ {{ host: h{i}.example.com, port: 22 }} ]\n    binaries: [ {{ path: /usr/bin/ssh }} ]\n"
        ));
    }
    let started = std::time::Instant::now();
    let policy = parse("p", &text).unwrap().policy;
    assert!(started.elapsed().as_secs() < 60, "took {:?}", started.elapsed());
    let origin = &policy.network()[999].endpoints[0].origin;
    assert_eq!((origin.line, origin.column), (2 + 999 * 3 + 2, 18));
    let told = Origin { file: "/home/me/secret/policy.yaml".into(), ..origin.clone() }.for_agents();
    assert_eq!(told, format!("policy.yaml:{}:18", origin.line));
}

#[test]
fn an_address_that_no_policy_opens_is_warned_of() {
    for host in ["169.254.169.254", "127.0.0.1", "'fe80::1'", "'ff02::1'", "224.0.0.1"] {
        let text = format!(
            "version: 1\nnetwork_policies:\n  one:\n    endpoints: [ {{ host: {host}, port: 443 }} ]\n    binaries: [ {{ path: /a }} ]\n"
        );
        let read = parse("p", &text).unwrap();
        let warned = read.warnings.items().iter().any(|warning| warning.message.contains("never reached"));
        assert!(warned, "{host}: {:?}", read.warnings.items());
    }
}

#[test]
fn a_numeric_user_is_the_one_there_is_but_root_is_refused() {
    let read = |id: &str| crate::parse("p", &format!("version: 1\nprocess: {{ run_as_user: {id} }}\n"));
    for id in ["\"1500\"", "1500"] {
        let warnings = read(id).unwrap().warnings.to_string();
        assert!(warnings.contains("no user 1500: the agent is `sandbox` (1000)"), "{warnings}");
    }
    assert!(read("1000").unwrap().warnings.is_empty());
    for id in ["0", "\"00\"", "root"] {
        assert!(read(id).unwrap_err().to_string().contains("the agent never runs as"), "{id}");
    }
    assert!(read("nobody").is_err());
}

#[test]
fn an_endpoint_without_host_is_not_told_to_add_a_protocol() {
    let text = "version: 1\nnetwork_policies: { a: { endpoints: [ { port: 443, allowed_ips: [10.0.0.0/8], path: \"\" } ], binaries: [ { path: /usr/bin/curl } ] } }\n";
    let warnings = crate::parse("p", text).unwrap().warnings.to_string();
    assert!(warnings.contains("name the `host`") && !warnings.contains("protocol: rest"), "{warnings}");
}

#[test]
fn what_is_given_for_something_else_is_told_so() {
    let preset = "preset: { name: a, description: b }\nnetwork_policies: {}\n";
    assert!(crate::parse("p", preset).unwrap_err().to_string().contains("use `--preset FILE`"));
    let policy = "version: 1\nnetwork_policies: {}\n";
    assert!(crate::parse_preset("p", policy).unwrap_err().to_string().contains("`--policy FILE`"));
    let unknown = crate::parse("p", "version: 1\nzzz: 1\n").unwrap_err().to_string();
    assert!(
        unknown.contains("a policy has: version, ") && !unknown.contains("network_middlewares"),
        "{unknown}"
    );
    let port =
        "version: 1\nnetwork_policies: { a: { endpoints: [ { host: a.example.com, port: \"\" } ] } }\n";
    assert!(crate::parse("p", port).unwrap_err().to_string().contains("a port number is needed here"));
}
