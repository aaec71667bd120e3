//! Questions, and what is answered: verdict, rule, nearest rule and what differs.

use super::*;

const POLICY: &str = "\
version: 1
network_policies:
  github:
    endpoints:
      - host: api.github.com
        port: 443
        protocol: rest
        rules:
          - allow: { method: GET, path: '/repos/**', query: { state: open } }
          - allow: { method: POST, path: '/repos/*/issues' }
        deny_rules: [ { method: '*', path: '/repos/secret/**' } ]
    binaries: [ { path: /usr/bin/gh } ]
";

fn explain(binary: &str, method: Option<&str>, url: &str) -> Explanation {
    let compiled = Compiled::new(&crate::parse("p.yaml", POLICY).unwrap().policy).unwrap();
    compiled.explain(&Question::parse(binary, method, url).unwrap())
}

#[test]
fn an_allowed_request_names_its_rule() {
    let text = explain("/usr/bin/gh", Some("POST"), "https://api.github.com/repos/x/issues").to_string();
    assert!(text.starts_with("ALLOWED  POST api.github.com:443/repos/x/issues  by /usr/bin/gh"), "{text}");
    assert!(text.contains("rule:    github: allow POST /repos/*/issues  (p.yaml:10:13)"), "{text}");
    assert!(text.contains("inspected as rest"), "{text}");
}

#[test]
fn a_query_that_names_another_method_is_judged_by_it() {
    let get = |query| {
        explain(
            "/usr/bin/gh",
            Some("GET"),
            &format!("https://api.github.com/repos/x/issues?state=open&{query}"),
        )
    };
    let denied = get("_method=DELETE");
    assert_eq!(denied.verdict, Verdict::Deny);
    let text = denied.to_string();
    assert!(text.contains("makes it DELETE to some servers"), "{text}");
    assert_eq!(denied.nearest.unwrap().differs, [Difference::Method("GET".into())]);
    assert_eq!(get("_method=post").verdict, Verdict::Allow);
    assert_eq!(get("method=list").verdict, Verdict::Allow);
    let none = get("_method=%20");
    assert_eq!((none.verdict, none.mend), (Verdict::Deny, None));
    assert!(none.denial.unwrap().hint.unwrap().contains("leave the parameter out"));
}

#[test]
fn what_a_header_names_besides_is_judged_and_told() {
    let compiled = Compiled::new(&crate::parse("p.yaml", POLICY).unwrap().policy).unwrap();
    let explain = |method: &str, field: (&'static str, &str)| {
        let url = "https://api.github.com/repos/x/issues?state=open";
        let mut question = Question::parse("/usr/bin/gh", Some(method), url).unwrap();
        let headers = &mut question.request.as_mut().unwrap().headers;
        headers.insert(field.0, field.1.parse().unwrap());
        compiled.explain(&question)
    };
    let harmless = explain("POST", ("accept", "/repos/secret/x"));
    assert_eq!((harmless.verdict, harmless.seconds), (Verdict::Allow, vec![]));
    let allowed = explain("POST", ("destination", "/repos/y/issues"));
    assert_eq!(allowed.verdict, Verdict::Allow, "{allowed}");
    let named = "POST api.github.com:443/repos/y/issues, by destination";
    assert_eq!(allowed.seconds, [named]);
    assert!(allowed.to_string().contains(&format!("and so:  {named}")), "{allowed}");
    for (field, differs) in [
        (("destination", "/repos/secret/issues"), Some(Difference::Denied("deny * /repos/secret/**".into()))),
        (("x-amz-copy-source", "repos/y"), Some(Difference::Query("state=open".into()))),
        (
            ("destination", "https://uploads.github.com/repos/y/issues"),
            Some(Difference::Host("api.github.com".into())),
        ),
        (("destination", "/repos/y%2Fissues"), None),
    ] {
        let denied = explain("POST", field);
        assert_eq!(denied.verdict, Verdict::Deny, "{denied}");
        assert!(denied.to_string().contains(&format!("the field `{}` names", field.0)), "{denied}");
        let nearest = denied.nearest.clone().and_then(|nearest| nearest.differs.first().cloned());
        assert_eq!((nearest, &denied.mend), (differs, &None), "{denied}");
    }
}

#[test]
fn a_denied_one_names_the_nearest_rule_and_what_differs() {
    for (binary, method, url, wanted) in [
        (
            "/usr/bin/curl",
            "GET",
            "https://api.github.com/",
            vec![Difference::Binary(vec!["/usr/bin/gh".into()])],
        ),
        ("/usr/bin/gh", "GET", "https://api.github.com:8443/", vec![Difference::Port(vec![443])]),
        (
            "/usr/bin/gh",
            "GET",
            "https://uploads.github.com/",
            vec![Difference::Host("api.github.com".into())],
        ),
        (
            "/usr/bin/gh",
            "GET",
            "https://api.github.com/repos/x?state=closed",
            vec![Difference::Query("state=open".into())],
        ),
        (
            "/usr/bin/gh",
            "DELETE",
            "https://api.github.com/repos/x/issues",
            vec![Difference::Method("POST".into())],
        ),
        (
            "/usr/bin/gh",
            "POST",
            "https://api.github.com/user/repos",
            vec![Difference::Path("/repos/*/issues".into())],
        ),
        (
            "/usr/bin/gh",
            "GET",
            "https://api.github.com/repos/secret/x?state=open",
            vec![Difference::Denied("deny * /repos/secret/**".into())],
        ),
        ("/usr/bin/gh", "GET", "wss://api.github.com/repos/x?state=open", vec![Difference::NoWebsocket]),
    ] {
        let explanation = explain(binary, Some(method), url);
        assert_eq!(explanation.verdict, Verdict::Deny, "{explanation}");
        let nearest = explanation.nearest.as_ref().unwrap();
        assert_eq!(nearest.differs, wanted, "{explanation}");
        // The rule's own line if rules were compared, else the endpoint's.
        let rule = match nearest.rule.as_deref() {
            None => "p.yaml:5:9",
            Some("allow GET /repos/**?state=open") => "p.yaml:9:13",
            Some(_) => "p.yaml:10:13",
        };
        assert_eq!(nearest.location, rule, "{explanation}");
        assert!(serde_json::to_string(&explanation).unwrap().contains("\"deny\""));
    }
    assert!(explain("/usr/bin/gh", None, "example.org:22").nearest.is_none());
}

#[test]
fn a_deny_rule_that_refuses_is_told_with_its_own_line() {
    let denied = explain("/usr/bin/gh", Some("GET"), "https://api.github.com/repos/secret/x?state=open");
    let told = serde_json::to_value(&denied).unwrap();
    assert_eq!((&told["verdict"], &told["policy"]), (&"deny".into(), &"github".into()));
    assert_eq!(
        (&told["rule"], &told["location"]),
        (&"deny * /repos/secret/**".into(), &"p.yaml:11:23".into())
    );
    assert_eq!(told["denial"]["hint"], "the rule is at p.yaml:11:23");
    let text = denied.to_string();
    assert!(text.contains("rule:    github: deny * /repos/secret/**  (p.yaml:11:23)"), "{text}");
    // No rule is named where the request is refused because no rule allows it.
    let for_want = explain("/usr/bin/gh", Some("PUT"), "https://api.github.com/repos/x");
    assert_eq!((for_want.verdict, for_want.rule, for_want.location), (Verdict::Deny, None, None));
}

#[test]
fn under_audit_the_rule_that_lets_through_is_told_and_the_other_in_the_denial() {
    let audit = POLICY.replace("protocol: rest\n", "protocol: rest\n        enforcement: audit\n");
    let compiled = Compiled::new(&crate::parse("p.yaml", &audit).unwrap().policy).unwrap();
    let asked = |url| compiled.explain(&Question::parse("/usr/bin/gh", Some("GET"), url).unwrap());
    let told = asked("https://api.github.com/repos/secret/x?state=open");
    assert_eq!(
        (told.verdict, told.rule.as_deref()),
        (Verdict::Audit, Some("allow GET /repos/**?state=open"))
    );
    assert_eq!(told.location.as_deref(), Some("p.yaml:10:13"));
    assert_eq!(told.denial.unwrap().hint.as_deref(), Some("the rule is at p.yaml:12:23"));
}

#[test]
fn what_is_refused_before_any_rule_is_named_whole_and_printable() {
    for (url, wanted) in [
        ("https://api.github.com/any/%2F/x", "GET api.github.com:443/any/%2F/x"),
        ("https://api.github.com/a?b=%", "GET api.github.com:443/a?b=%"),
        ("https://api.github.com/\u{1b}[2J\u{e9}", "GET api.github.com:443/\\u{1b}[2J\\u{e9}"),
    ] {
        let told = explain("/usr/bin/gh", Some("GET"), url);
        assert!(told.bad_request.is_some(), "{told}");
        assert!(told.to_string().starts_with(&format!("DENIED  {wanted}  by /usr/bin/gh")), "{told}");
        assert_eq!(told.request, wanted);
    }
}

#[test]
fn odd_questions_are_refused() {
    for url in ["ftp://x.example/", "api.github.com", "https://api.github.com:x/"] {
        assert!(matches!(Question::parse("/x", None, url), Err(QuestionError::Url(_))), "{url}");
    }
    assert!(matches!(Question::parse("/x", None, "https://127.1/"), Err(QuestionError::Host(_))));
    assert!(Question::parse("/x", None, "[2606:2800::1]:443").is_ok());
}

#[test]
fn the_gateways_name_is_not_the_policys_to_judge() {
    let told = explain("/usr/bin/gh", Some("POST"), "https://inference.local/v1/chat/completions");
    assert_eq!((told.verdict, told.mend.clone()), (Verdict::Allow, None));
    assert!(told.to_string().contains("note:    the gateway answers"), "{told}");
}

#[test]
fn what_a_name_resolves_to_is_a_condition_that_is_told() {
    let text = "version: 1\nnetwork_policies: { a: { endpoints: [ { port: 22, allowed_ips: [10.0.0.0/8] } ], binaries: [ { path: /x } ] } }\n";
    let compiled = Compiled::new(&crate::parse("p.yaml", text).unwrap().policy).unwrap();
    let told = |place: &str| compiled.explain(&Question::parse("/x", None, place).unwrap()).to_string();
    let name = told("db.example.com:22");
    assert!(
        name.contains("ALLOWED") && name.contains("if every address of the name lies in 10.0.0.0/8"),
        "{name}"
    );
    assert!(!told("10.0.0.5:22").contains("note:"));
}

#[test]
fn of_several_entries_the_one_for_the_path_says_what_a_body_is_read_as() {
    let policy = "\
version: 1
network_policies:
  rest:
    endpoints: [ { host: api.github.com, port: 443, protocol: rest, access: full, path: '/repos/**' } ]
    binaries: [ { path: /usr/bin/gh } ]
  graphql:
    endpoints:
      - host: api.github.com
        port: 443
        protocol: graphql
        path: /graphql
        rules: [ { allow: { operation_type: query } } ]
    binaries: [ { path: /usr/bin/gh } ]
";
    let compiled = Compiled::new(&crate::parse("p.yaml", policy).unwrap().policy).unwrap();
    for (path, shown) in [("graphql", "graphql"), ("repos/x", "rest")] {
        let url = format!("https://api.github.com/{path}");
        let mut question = Question::parse("/usr/bin/gh", Some("POST"), &url).unwrap();
        question.request.as_mut().unwrap().body = Some(r#"{"query":"{ viewer { login } }"}"#.into());
        let text = compiled.explain(&question).to_string();
        assert!(text.starts_with("ALLOWED"), "{text}");
        assert!(text.contains(&format!("inspected as {shown}")), "{text}");
    }
}
