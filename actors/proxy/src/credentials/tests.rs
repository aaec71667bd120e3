//! The decision, and what is written in the place of a placeholder.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use policy::{Executable, Host, PathOptions, Query};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::body::{Kind, name_in, rewrite};
use super::*;

/// Every byte that is written otherwise in JSON, in a query or in a form.
pub(crate) const KEY: &str = r#"k"\/+&=%?#ey-0123456789"#;

pub(crate) fn section(uses: Value) -> Section {
    serde_json::from_value(json!({ "github": { "from": "env:TOKEN", "env": "GITHUB_TOKEN", "use": uses } }))
        .unwrap()
}

pub(crate) fn credentials(uses: Value) -> Credentials {
    Credentials::new(&section(uses), |_| Some(Secret::from(KEY))).unwrap()
}

/// Made once: the search for a key in answers takes a while to build.
static BOUND: LazyLock<Credentials> = LazyLock::new(|| {
    credentials(json!([
        { "host": "api.test", "path": "/repos/**", "binaries": ["/usr/bin/gh"] },
        { "host": "*.up.test", "ports": [443, 8443], "path": "/**", "binaries": [{ "path": "/usr/bin/py*", "allow_foreign_code": true }] },
        { "host": "plain.test", "ports": [80], "path": "/**", "binaries": ["/usr/bin/gh"], "plain_http": true },
    ]))
});

struct Asked {
    to: Destination,
    path: CanonicalPath,
    seconds: Box<[Second]>,
    caller: Caller,
    tls: bool,
    is_only_recorded: bool,
}

impl Asked {
    fn new(host: &str, port: u16, path: &str, program: &str) -> Self {
        Self {
            to: Destination { host: Host::parse(host).unwrap(), port },
            path: CanonicalPath::parse(path, PathOptions::default()).unwrap(),
            caller: Caller {
                executable: Executable { path: program.into(), sha256: [7; 32] },
                ancestors: Arc::from([Executable { path: "/usr/bin/gh".into(), sha256: [7; 32] }]),
                foreign_code: false,
                party: policy::Party::UNKNOWN,
            },
            seconds: Box::new([]),
            tls: port != 80,
            is_only_recorded: false,
        }
    }

    /// With a field that names something else besides.
    fn naming(field: &'static str, value: &str) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(field), HeaderValue::from_str(value).unwrap());
        let good = Self::good();
        Self { seconds: policy::second::named_in(&headers, "MOVE", &good.path), ..good }
    }

    fn good() -> Self {
        Self::new("api.test", 443, "/repos/a", "/usr/bin/gh")
    }

    fn request(&self) -> Request<'_> {
        Request {
            to: &self.to,
            path: &self.path,
            seconds: &self.seconds,
            caller: &self.caller,
            tls: self.tls,
            is_only_recorded: self.is_only_recorded,
        }
    }

    fn why(&self, name: &str) -> Option<String> {
        BOUND.value(name, &self.request()).err().map(|denial| denial.detail)
    }
}

#[test]
fn host_port_path_and_program_must_match_in_one_use() {
    assert_eq!(Asked::good().why("github"), None);
    assert_eq!(Asked::new("a.up.test", 8443, "/x", "/usr/bin/python3").why("github"), None);
    assert_eq!(Asked::new("plain.test", 80, "/x", "/usr/bin/gh").why("github"), None);
    assert_eq!(Asked::naming("destination", "/repos/b").why("github"), None);
    assert_eq!(Asked::naming("destination", "https://api.test/repos/b").why("github"), None);
    let plain = Asked { tls: false, ..Asked::good() };
    let foreign = |mut asked: Asked| {
        asked.caller.foreign_code = true;
        asked
    };
    for (asked, wanted) in [
        (Asked::new("evil.test", 443, "/repos/a", "/usr/bin/gh"), "is not for evil.test:443"),
        (Asked::new("api.test", 8443, "/repos/a", "/usr/bin/gh"), "is not for api.test:8443"),
        (Asked::new("b.a.up.test", 443, "/x", "/usr/bin/python3"), "is not for b.a.up.test:443"),
        (Asked::new("api.test", 443, "/user", "/usr/bin/gh"), "is not for the path /user of api.test:443"),
        // A program of the list that started it doesn't make it one.
        (Asked::new("api.test", 443, "/repos/a", "/usr/bin/curl"), "is not for /usr/bin/curl"),
        // Host and path of one use, the program of another.
        (Asked::new("api.test", 443, "/repos/a", "/usr/bin/python3"), "is not for /usr/bin/python3"),
        (plain, "goes by TLS only"),
        (Asked::naming("destination", "/admin/b"), "is not for all that"),
        (Asked::naming("destination", "https://evil.test/repos/b"), "is not for all that"),
        (Asked::naming("destination", "/repos/b#c"), "is not for all that"),
        (Asked::naming("x-amz-copy-source", "/admin/secret"), "is not for all that"),
        (Asked { is_only_recorded: true, ..Asked::good() }, "recorded and not enforced"),
        (foreign(Asked::good()), "code of unknown origin"),
    ] {
        let why = asked.why("github").unwrap();
        assert!(why.contains("credential `github`") && why.contains(wanted), "{why}");
    }
    assert_eq!(foreign(Asked::new("a.up.test", 443, "/x", "/usr/bin/python3")).why("github"), None);
    for name in ["", "gitlab", "Github", "github2"] {
        assert!(Asked::good().why(name).unwrap().contains("no credential is called"), "{name}");
    }
    let denial = BOUND.value("github", &Asked::new("evil.test", 443, "/", "/x").request()).unwrap_err();
    assert_eq!(denial.layer, Layer::L7);
    assert!(denial.hint.unwrap().contains("api.test:443 /repos/** by /usr/bin/gh"));
    // What one port was told may come back from another.
    for port in [80, 8443] {
        let beside = Destination { port, ..Asked::good().to };
        assert!(BOUND.guard(&beside, || redactor::Guesses::default().of(0, || {})).is_some());
    }
    let elsewhere = Asked::new("evil.test", 443, "/", "/x").to;
    assert!(BOUND.guard(&elsewhere, || redactor::Guesses::default().of(0, || {})).is_none());
    let shown = format!(
        "{:?} {:?}",
        *BOUND,
        BOUND.guard(&Asked::good().to, || redactor::Guesses::default().of(0, || {}))
    );
    assert!(!shown.contains("0123456789"), "{shown}");
}

/// Runs `work` with a wallet for a request that is bound.
fn filled<T>(work: impl FnOnce(&mut Wallet<'_>) -> Result<T, Denial>) -> Result<T, String> {
    let asked = Asked::good();
    let mut wallet = Wallet::new(&BOUND, asked.request());
    work(&mut wallet).map_err(|denial| denial.detail)
}

fn header(name: &'static str, value: &str) -> Result<Vec<u8>, String> {
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    filled(|wallet| head::headers(&mut headers, wallet))?;
    Ok(headers[name].as_bytes().to_vec())
}

#[test]
fn header_values_and_both_halves_of_basic_are_filled() {
    let bearer = header("authorization", "Bearer cofferdam:cred:github").unwrap();
    assert_eq!(bearer, format!("Bearer {KEY}").into_bytes());
    assert_eq!(
        header("x-any", "a cofferdam:cred:github,cofferdam:cred:github.").unwrap(),
        format!("a {KEY},{KEY}.").into_bytes()
    );
    assert_eq!(header("x-any", "cofferdam").unwrap(), b"cofferdam");
    let base64 = &base64::engine::general_purpose::STANDARD;
    for (pair, wanted) in
        [("me:cofferdam:cred:github", format!("me:{KEY}")), ("cofferdam:cred:github:x", format!("{KEY}:x"))]
    {
        for scheme in ["Basic", "basic"] {
            let sent = header("authorization", &format!("{scheme} {}", base64.encode(pair))).unwrap();
            assert_eq!(sent, format!("{scheme} {}", base64.encode(&wanted)).into_bytes());
            // Without padding, too.
            let short = base64.encode(pair);
            let sent = header("authorization", &format!("Basic {}", short.trim_end_matches('='))).unwrap();
            assert_eq!(sent, format!("Basic {}", base64.encode(&wanted)).into_bytes());
        }
    }
    for (name, value) in [
        ("x-any", "cofferdam:cred:gitlab"),
        ("x-any", "cofferdam:cred:"),
        ("cookie", "t=cofferdam%3Acred%3Agithub"),
        ("cofferdam", "cred:github: x"),
    ] {
        assert!(header(name, value).unwrap_err().contains("credential"), "{name}: {value}");
    }
    let pair = base64.encode("me:cofferdam:cred:gitlab");
    assert!(header("authorization", &format!("Basic {pair}")).is_err());
    let mut many = HeaderMap::new();
    let text = "cofferdam:cred:github ".repeat(MAX_PLACEHOLDERS + 1);
    many.insert("x-any", HeaderValue::from_str(&text).unwrap());
    assert!(filled(|wallet| head::headers(&mut many, wallet)).unwrap_err().contains("more than"));
}

#[test]
fn a_field_that_names_a_second_resource_is_never_filled() {
    let value = "/repos/cofferdam:cred:github";
    for field in ["destination", "x-amz-copy-source"] {
        let asked = Asked::naming(field, value);
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static(field), HeaderValue::from_static(value));
        let mut wallet = Wallet::new(&BOUND, asked.request());
        let denial = head::headers(&mut headers, &mut wallet).unwrap_err();
        assert!(denial.detail.contains("second resource"), "{field}: {}", denial.detail);
        assert_eq!(headers[field], value);
    }
}

fn query(raw: &str) -> Result<Option<String>, String> {
    let query = Query::parse(Some(raw)).unwrap();
    filled(|wallet| head::query(&query, wallet)).map(|filled| filled.map(|filled| filled.to_string()))
}

#[test]
fn values_of_a_query_are_filled_and_encoded() {
    let key = percent_encoding::utf8_percent_encode(KEY, head::ENCODED).to_string();
    for raw in [
        "a=1&k=cofferdam:cred:github&b",
        "a=1&k=cofferdam%3acred%3Agithub&b",
        "a=1&k=c%6ffferdam:cred:github&b",
    ] {
        assert_eq!(query(raw).unwrap().unwrap(), format!("a=1&k={key}&b"), "{raw}");
    }
    assert_eq!(query("k=cofferdam").unwrap(), None);
    for raw in [
        "cofferdam:cred:github=1",
        "cofferdam:cred:github",
        "k=cofferdam:cred:gitlab",
        "k=cofferdam%253Acred%253Agithub",
        "k=cofferdam%253acred:github",
    ] {
        assert!(query(raw).is_err(), "{raw}");
    }
    for (path, fits) in
        [("/a/cofferdam:cred:github", false), ("/cofferdam%3Acred%3Agithub/x", false), ("/cofferdam", true)]
    {
        let path = CanonicalPath::parse(path, PathOptions::default()).unwrap();
        assert_eq!(head::path(&path).is_ok(), fits, "{path}");
    }
}

fn body(kind: Kind, text: &str) -> Result<Option<String>, String> {
    let out = filled(|wallet| rewrite(kind, text.as_bytes(), wallet))?;
    Ok(out.map(|out| String::from_utf8(out.to_vec()).unwrap()))
}

#[test]
fn bodies_are_filled_in_their_own_spelling() {
    let json = serde_json::to_string(KEY).unwrap();
    assert_eq!(
        body(
            Kind::Json,
            "{ \"a\": [1.50, \"cofferdam:cred:github\"],\n \"b\":\"\\u0063offerdam:cred\\u003agithub\" }"
        ),
        Ok(Some(format!("{{ \"a\": [1.50, {json}],\n \"b\":{json} }}")))
    );
    assert_eq!(body(Kind::Json, r#"{"a":"\"cofferdam"}"#), Ok(None));
    assert_eq!(body(Kind::Json, "{ not json"), Ok(None));
    for text in [
        r#"{"cofferdam:cred:github":1}"#,
        r#"{"cofferdam\u003acred:github" :1}"#,
        r#"{"a":"cofferdam:cred:gitlab"}"#,
        r#"{"a":"cofferdam%3Acred%3Agithub"}"#,
        r#"{"a":"cofferdam:cred:github"} {}"#,
        r#"{"a":"cofferdam:cred:github","a":1}"#,
        "{ cofferdam:cred:github",
    ] {
        assert!(body(Kind::Json, text).is_err(), "{text}");
    }
    let key = percent_encoding::utf8_percent_encode(KEY, head::ENCODED).to_string();
    assert_eq!(
        body(Kind::Form, "a=%20x+y&k=cofferdam%3Acred%3Agithub&c&d=="),
        Ok(Some(format!("a=%20x+y&k={key}&c&d==")))
    );
    for text in [
        "cofferdam%3Acred%3Agithub=1",
        "cofferdam:cred:github",
        "k=cofferdam%253Acred%253Agithub",
        "k=cofferdam:cred:no",
    ] {
        assert!(body(Kind::Form, text).is_err(), "{text}");
    }
    assert_eq!(body(Kind::Text, "key: cofferdam:cred:github\n"), Ok(Some(format!("key: {KEY}\n"))));
    for (kind, text) in [
        (Some(Kind::Json), r#"["\u0063offerdam:cred:x"]"#),
        (Some(Kind::Form), "a=c%6fff%65rdam:cred:x"),
        (None, "\0cofferdam:cred:x"),
    ] {
        assert_eq!(name_in(kind, text.as_bytes()).as_deref(), Some("x"), "{text}");
    }
}

#[test]
fn what_a_content_type_says() {
    for (said, kind) in [
        ("application/json", Some(Kind::Json)),
        ("Application/JSON; charset=utf-8", Some(Kind::Json)),
        ("application/vnd.api+json", Some(Kind::Json)),
        ("application/x-www-form-urlencoded", Some(Kind::Form)),
        ("text/plain", Some(Kind::Text)),
        ("multipart/form-data; boundary=x", None),
        ("application/octet-stream", None),
    ] {
        let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static(said))]);
        assert_eq!(Kind::of(&headers), kind, "{said}");
    }
    assert_eq!(Kind::of(&HeaderMap::new()), None);
}

#[test]
fn faults_of_the_section_say_where_and_how_to_mend() {
    let one = |said: Value| serde_json::from_value::<Section>(json!({ "github": said }));
    let good = json!({ "host": "a.test", "path": "/**", "binaries": ["/usr/bin/gh"] });
    let with = |field: &str, value: Value| {
        let mut place = good.clone();
        place[field] = value;
        json!({ "from": "env:TOKEN", "use": [place] })
    };
    one(json!({ "from": "env:TOKEN", "use": [good.clone()] })).unwrap().check().unwrap();
    for (said, wanted) in [
        (json!({ "from": "ghp_literal", "use": [good.clone()] }), "github.from: not a reference"),
        (json!({ "from": "env:TOKEN", "use": [] }), "github.use: without a place to go"),
        (
            json!({ "from": "env:TOKEN", "env": "1X", "use": [good.clone()] }),
            "github.env: `1X` is no variable",
        ),
        (with("host", json!("*")), "github.use[0].host: `*` can't be a host"),
        (with("path", json!("repos")), "github.use[0].path"),
        (with("ports", json!([0])), "github.use[0].ports"),
        (with("binaries", json!([])), "github.use[0].binaries: name the programs"),
        (with("binaries", json!(["gh"])), "github.use[0].binaries[0]: `gh` is no absolute path"),
        (with("binaries", json!([{ "path": "/x", "sha256": "ab" }])), "64 hexadecimal"),
        (with("binaries", json!([{ "path": "/x", "ancestors": true }])), "`ancestors` has no place here"),
    ] {
        let faults = one(said.clone()).unwrap().check().unwrap_err().to_string();
        assert!(faults.contains(wanted) && !faults.contains("ghp_"), "{said}: {faults}");
    }
    assert!(one(with("hosts", json!("a"))).is_err());
    let twice = json!({
        "a": { "from": "env:A", "env": "X", "use": [good.clone()] },
        "b c": { "from": "env:B", "env": "X", "use": [good] },
    });
    let faults = serde_json::from_value::<Section>(twice).unwrap().check().unwrap_err().to_string();
    assert!(
        faults.contains("b c: a name has") && faults.contains("X holds the placeholder of `a`"),
        "{faults}"
    );
    let short =
        Credentials::new(&section(json!([{ "host": "a.test", "path": "/**", "binaries": ["/x"] }])), |_| {
            Some(Secret::from("short"))
        });
    assert!(matches!(short, Err(Unusable::Short(_))));
}

#[test]
fn what_cant_work_under_a_policy_is_told() {
    let policy = |endpoint: &str| {
        let text = format!(
            "version: 1\nnetwork_policies: {{ a: {{ endpoints: [ {endpoint} ], binaries: [ {{ path: /x }} ] }} }}"
        );
        policy::parse("p.yaml", &text).unwrap().policy
    };
    let section = section(json!([{ "host": "api.test", "path": "/**", "binaries": ["/x"] }]));
    let warnings = |endpoint: &str| section.warnings(&policy(endpoint)).unwrap().join("\n");
    assert_eq!(warnings("{ host: api.test, port: 443, protocol: rest, access: full }"), "");
    assert!(warnings("{ host: api.test, port: 443, tls: skip }").contains("relayed entry only"));
    // One program's requests are inspected, another's bytes are relayed: at whichever port.
    for beside in ["443, tls: skip", "8443"] {
        let both = format!(
            "{{ host: api.test, port: 443, protocol: rest, access: full }} ], binaries: [ {{ path: /y }} ] }}, \
             b: {{ endpoints: [ {{ host: api.test, port: {beside} }}"
        );
        assert!(warnings(&both).contains("by a relayed entry, too"), "{beside}");
    }
    assert!(warnings("{ host: api.test, port: 80, protocol: rest, access: full }").contains("by no entry"));
}

/// A JSON value whose strings may hold placeholders, and what it becomes.
fn value() -> impl Strategy<Value = (Value, Value)> {
    let text =
        ("[a-z\"\\\\ é/\u{1F600}]{0,6}", any::<bool>(), "[. \"]{0,3}").prop_map(|(before, with, after)| {
            let of = |what: &str| Value::from(format!("{before}{what}{after}"));
            if with { (of("cofferdam:cred:github"), of(KEY)) } else { (of(""), of("")) }
        });
    let same = |value: Value| (value.clone(), value);
    let leaf = prop_oneof![
        text,
        any::<i32>().prop_map(move |n| same(n.into())),
        any::<bool>().prop_map(move |b| same(b.into())),
        Just((Value::Null, Value::Null)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let map = prop::collection::btree_map("[a-z\"\\\\: ]{0,5}", inner.clone(), 0..4);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(|items| {
                let (one, other): (Vec<_>, Vec<_>) = items.into_iter().unzip();
                (Value::from(one), Value::from(other))
            }),
            map.prop_map(|members| {
                let of = |pick: fn(&(Value, Value)) -> &Value| {
                    Value::Object(members.iter().map(|(k, v)| (k.clone(), pick(v).clone())).collect())
                };
                (of(|v| &v.0), of(|v| &v.1))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn json_stays_as_it_is_but_for_the_value((before, after) in value(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&before) } else { serde_json::to_string(&before) };
        let text = text.unwrap();
        match body(Kind::Json, &text).unwrap() {
            Some(out) => prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), after),
            None => prop_assert_eq!(before, after),
        }
    }

    #[test]
    fn forms_stay_as_they_are_but_for_the_value(
        pairs in prop::collection::vec(("[a-z+&=% é]{0,6}", "[a-z+&=% é]{0,6}", any::<bool>()), 1..6),
    ) {
        let write = |what: &str| -> String {
            let pair = |(name, value, with): &(String, String, bool)| {
                let value = if *with { format!("{value}{what}.") } else { value.clone() };
                let encode = |text: &str| percent_encoding::utf8_percent_encode(text, head::ENCODED).to_string();
                format!("{}={}", encode(name), encode(&value))
            };
            pairs.iter().map(pair).collect::<Vec<_>>().join("&")
        };
        let out = body(Kind::Form, &write("cofferdam:cred:github")).unwrap();
        let none = pairs.iter().all(|(_, _, with)| !with);
        prop_assert_eq!(out, (!none).then(|| write(KEY)));
    }

    #[test]
    fn no_body_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), at in 0_usize..64) {
        let mut text = bytes.clone();
        text.splice(at.min(bytes.len())..at.min(bytes.len()), *b"\"cofferdam:cred:github");
        for kind in [Kind::Json, Kind::Form, Kind::Text] {
            let _ = filled(|wallet| rewrite(kind, &text, wallet).map(drop));
            let _ = name_in(Some(kind), &text);
        }
    }
}
