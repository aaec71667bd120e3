//! How long a decision takes on a policy of a thousand entries, and what it allocates; canonicalisation;
//! compiling.
//!
//! `cargo bench -p cofferdam-policy`. The allocation columns must be empty for `connect_allowed` and
//! `request_allowed`. Divan tells means of samples; the table before its own is of single decisions, and its
//! 99th percentile is what the goal of 5 µs is about.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a benchmark of inputs that are known to be good, for a reader"
)]

use std::fmt::Write;
use std::time::{Duration, Instant};

use cofferdam_policy::{
    Caller, CanonicalPath, Compiled, Destination, Executable, Host, PathOptions, Query, RequestFacts, parse,
};
use divan::{AllocProfiler, Bencher, black_box};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    if std::env::args().any(|argument| argument == "--bench") {
        percentiles();
    }
    divan::main();
}

/// Decisions timed one by one: the clock is looked at twice for each, which takes some 50 ns.
const DECISIONS: usize = 200_000;

fn percentiles() {
    let compiled = compiled();
    let (known, unknown) = (to("h500.example.com"), to("nowhere.example.org"));
    let (gh, curl) = (caller("/usr/bin/gh"), caller("/usr/bin/curl"));
    let path = CanonicalPath::parse("/repos/owner/name/issues", PathOptions::default()).unwrap();
    let query = Query::parse(Some("state=open&page=2")).unwrap();
    let content = cofferdam_policy::Content::Unread;
    let facts = |method| RequestFacts { method, path: &path, query: &query, websocket: false, content };
    println!("{ENTRIES} entries, {DECISIONS} decisions each, µs      p50    p99    p99.9");
    let tell = |what: &str, decide: &dyn Fn() -> bool| {
        let mut took: Vec<Duration> = (0..DECISIONS)
            .map(|_| {
                let start = Instant::now();
                black_box(decide());
                start.elapsed()
            })
            .collect();
        took.sort_unstable();
        let at = |part: usize| took[DECISIONS * part / 1000].as_secs_f64() * 1e6;
        println!("  {what:<42} {:>6.2} {:>6.2} {:>6.2}", at(500), at(990), at(999));
    };
    tell("a connection, allowed", &|| compiled.connect(black_box(&known), &gh).is_ok());
    tell("a connection, refused for its program", &|| compiled.connect(black_box(&known), &curl).is_ok());
    tell("a connection, refused for its host", &|| compiled.connect(black_box(&unknown), &gh).is_ok());
    tell("a request, allowed", &|| compiled.request(black_box(&known), &gh, &facts("POST")).is_ok());
    tell("a request, refused", &|| compiled.request(black_box(&known), &gh, &facts("DELETE")).is_ok());
    println!();
}

const ENTRIES: usize = 1000;

/// A thousand entries: exact hosts, label and deep wildcards, rules with and without queries.
fn text() -> String {
    let mut out = String::from("version: 1\nnetwork_policies:\n");
    for i in 0..ENTRIES {
        let host = match i % 10 {
            8 => format!("*.w{i}.example.com"),
            9 => format!("**.d{i}.example.com"),
            _ => format!("h{i}.example.com"),
        };
        write!(
            out,
            "  e{i}:\n    endpoints:\n      - host: '{host}'\n        port: 443\n        protocol: rest\n        rules:\n          \
             - allow: {{ method: GET, path: '/repos/**' }}\n          - allow: {{ method: POST, path: '/repos/*/*/issues', query: {{ state: 'open*' }} }}\n        \
             deny_rules: [ {{ method: '*', path: '/repos/*/*/rulesets' }} ]\n    binaries:\n      - {{ path: /usr/bin/gh }}\n      - {{ path: '/sandbox/**/bin/python3*' }}\n"
        )
        .unwrap();
    }
    out
}

fn compiled() -> Compiled {
    Compiled::new(&parse("bench", &text()).unwrap().policy).unwrap()
}

fn caller(path: &str) -> Caller {
    let program = |p: &str| Executable { path: p.into(), sha256: [0; 32] };
    Caller {
        foreign_code: false,
        party: cofferdam_policy::Party::UNKNOWN,
        executable: program(path),
        ancestors: [program("/usr/bin/bash"), program("/usr/bin/node")].into(),
    }
}

fn to(host: &str) -> Destination {
    Destination { host: Host::parse(host).unwrap(), port: 443 }
}

#[divan::bench(args = ["h500.example.com", "x.w508.example.com", "a.b.c.d509.example.com"])]
fn connect_allowed(bencher: Bencher<'_, '_>, host: &str) {
    let (compiled, to, caller) = (compiled(), to(host), caller("/sandbox/venv/bin/python3.11"));
    assert!(compiled.connect(&to, &caller).is_ok());
    bencher.bench_local(|| compiled.connect(black_box(&to), black_box(&caller)).is_ok());
}

#[divan::bench(args = ["h500.example.com", "nowhere.example.org"])]
fn connect_denied(bencher: Bencher<'_, '_>, host: &str) {
    let (compiled, to, caller) = (compiled(), to(host), caller("/usr/bin/curl"));
    assert!(compiled.connect(&to, &caller).is_err());
    bencher.bench_local(|| compiled.connect(black_box(&to), black_box(&caller)).is_err());
}

#[divan::bench]
fn request_allowed(bencher: Bencher<'_, '_>) {
    request(bencher, "POST", true);
}

#[divan::bench]
fn request_denied(bencher: Bencher<'_, '_>) {
    request(bencher, "DELETE", false);
}

fn request(bencher: Bencher<'_, '_>, method: &str, allowed: bool) {
    let (compiled, to, caller) = (compiled(), to("h500.example.com"), caller("/usr/bin/gh"));
    let path = CanonicalPath::parse("/repos/owner/name/issues", PathOptions::default()).unwrap();
    let query = Query::parse(Some("state=open&page=2")).unwrap();
    let facts = RequestFacts {
        method,
        path: &path,
        query: &query,
        websocket: false,
        content: cofferdam_policy::Content::Unread,
    };
    assert_eq!(compiled.request(&to, &caller, &facts).is_ok(), allowed);
    bencher.bench_local(|| compiled.request(black_box(&to), black_box(&caller), black_box(&facts)).is_ok());
}

/// Requests that cost as much as an agent can make one cost, against thirty deny rules: a long path of many
/// segments that every reading changes, and a query that is long or names other methods.
#[divan::bench(args = ["methods", "parameters", "resources"], sample_count = 20)]
fn hostile(bencher: Bencher<'_, '_>, what: &str) {
    let mut text = String::from(
        "version: 1\nnetwork_policies: { a: { endpoints: [ { host: a.example.com, port: 443, protocol: rest, access: full, deny_rules: [\n",
    );
    for n in 0..10 {
        let deep =
            format!("{{ method: '*', path: '/**/secret{n}/**' }}, {{ method: '*', path: '/**/s*a{n}/**' }}");
        let asking = format!("{{ method: '*', path: '/**/*aaa?/**/x{n}/**', query: {{ q{n}: 'a*b*c' }} }}");
        writeln!(text, "{deep}, {asking},").unwrap();
    }
    text.push_str("] } ] } }\n");
    let compiled = Compiled::new(&parse("bench", &text).unwrap().policy).unwrap();
    let (to, caller) = (to("a.example.com"), caller("/usr/bin/gh"));
    // All that rules say by the letter is in it, and never where they say it.
    let near: String = (0..10).map(|n| format!("/ssecret{n}./xa{n}./yx{n}.")).collect();
    let long = |n: usize| format!("{}{near}/", "/S1AAAA.".repeat(n));
    let path = CanonicalPath::parse(&long(860), PathOptions::default()).unwrap();
    let query = match what {
        "methods" => (0..8).map(|n| format!("_method=M{n}&")).collect(),
        "parameters" => "q1=aaaaaaaaaa&".repeat(1000),
        _ => String::new(),
    };
    let query = Query::parse(Some(&query)).unwrap();
    let mut headers = http::HeaderMap::new();
    if what == "resources" {
        for _ in 0..3 {
            headers.append("destination", long(860).parse().unwrap());
        }
    }
    let seconds = cofferdam_policy::second::named_in(&headers, "GET", &path);
    let content = cofferdam_policy::Content::Unread;
    let facts = RequestFacts { method: "GET", path: &path, query: &query, websocket: false, content };
    let treatment = compiled.connect(&to, &caller).unwrap().treatment;
    let judge = || compiled.request_as_sent((&to, treatment), &caller, black_box(&facts), &seconds);
    assert!(judge().is_ok(), "{:?}", judge().err());
    bencher.bench_local(|| judge().is_ok());
}

#[divan::bench(args = ["/repos/owner/name/issues", "/a/./b//c/%7euser/..;x=1/%E2%82%AC/d%20e"])]
fn canonical_path(path: &str) -> CanonicalPath {
    CanonicalPath::parse(black_box(path), PathOptions::default()).unwrap()
}

#[divan::bench]
fn canonical_query() -> Query {
    Query::parse(Some(black_box("state=open&labels=bug%2Cui&per_page=100&q=a+b"))).unwrap()
}

#[divan::bench]
fn host_name() -> Host {
    Host::parse(black_box("registry.npmjs.org")).unwrap()
}

#[divan::bench(sample_count = 10)]
fn parse_thousand_entries(bencher: Bencher<'_, '_>) {
    let text = text();
    bencher.bench_local(|| parse("bench", black_box(&text)).unwrap().policy);
}

#[divan::bench(sample_count = 10)]
fn compile_thousand_entries(bencher: Bencher<'_, '_>) {
    let policy = parse("bench", &text()).unwrap().policy;
    bencher.bench_local(|| Compiled::new(black_box(&policy)).unwrap());
}
