//! Credentials by placeholder, from inside a real sandbox: the value arrives at the hosts that it is bound
//! to, nowhere else, and is nowhere inside.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

mod common;
#[path = "credentials/guesses.rs"]
mod guesses;
#[path = "credentials/held.rs"]
mod held;
#[path = "credentials/refused.rs"]
mod refused;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use bed::stage::{Finished, PATIENCE, finish};
use bed::{Seen, Stage};
use serde_json::Value;

use guesses::pieces_tell_little_of_how_the_value_begins;
use held::{
    a_crash_and_another_process_change_nothing, heart_and_init_never_held_it, the_value_is_nowhere_inside,
};
use refused::{a_keys_file_that_agents_can_read_is_refused, what_cant_work_is_refused_at_the_start};

use common::{COFFERDAM, audit, ensure_audited, policy_file, program, record_has, workspace};

fn main() -> ExitCode {
    bed::harness::main(
        "credentials",
        Path::new(COFFERDAM),
        bed::cases![
            the_value_arrives_where_it_is_bound,
            it_arrives_nowhere_else,
            split_and_oddly_spelled_placeholders_never_leave,
            messages_are_filled_where_the_endpoint_says_so,
            no_echo_tells_how_the_value_begins,
            pieces_tell_little_of_how_the_value_begins,
            the_value_is_nowhere_inside,
            a_crash_and_another_process_change_nothing,
            heart_and_init_never_held_it,
            what_cant_work_is_refused_at_the_start,
            a_keys_file_that_agents_can_read_is_refused,
        ],
    )
}

/// The key, with bytes that need escapes in a query and in JSON.
const KEY: &str = "ghp+0123456789/abcdefghij\"=KLMNOP";
/// Reading every file and all memory takes its time on a busy machine; only a hang takes longer.
const SEARCH: Duration = Duration::from_secs(800);
/// Masking may reveal that a guess is right only if the guess lacks fewer letters than this.
const SCREEN_MIN: usize = 8;
const PLACEHOLDER: &str = "cofferdam:cred:github";

const ENTRIES: &str = r#"  api:
    name: api
    endpoints:
      - { host: api.bed.test, ports: [443, 8443], protocol: rest, access: full, request_body_credential_rewrite: true }
      - { host: api.bed.test, port: 80, protocol: rest, access: full }
      - { host: files.bed.test, port: 443, protocol: rest, access: full }
      - { host: h1.bed.test, port: 443, protocol: rest, access: full, request_body_credential_rewrite: true }
      - { host: h2.bed.test, port: 443, protocol: rest, access: full }
      - { host: h1.bed.test, port: 8443, protocol: websocket, access: full, websocket_credential_rewrite: true }
    binaries: [ { path: "/**", allow_foreign_code: true } ]"#;

const CREDENTIALS: &str = r#"credentials:
  github:
    from: env:BED_TOKEN
    env: GITHUB_TOKEN
    use:
      - { host: api.bed.test, ports: [443], path: "/echo", binaries: [/usr/bin/curl] }
      - { host: api.bed.test, ports: [443], path: "/redirect", binaries: [/usr/bin/curl] }
      - { host: h2.bed.test, path: "/**", binaries: [/usr/bin/curl] }
      - { host: h1.bed.test, ports: [8443], path: "/ws", binaries: [ { path: "/usr/bin/python3*", allow_foreign_code: true } ] }
"#;

/// `cofferdam run` with the credential, under the entries above.
fn command(stage: &Stage, name: &str, command: &[&str]) -> Result<Command> {
    let config = stage.write("cofferdam.yaml", CREDENTIALS)?.display().to_string();
    let (policy, workspace) = (policy_file(stage, ENTRIES)?, workspace(stage));
    let options = ["--config", &config, "--policy", &policy, "--workspace", &workspace];
    let words =
        [&["run", "--quiet", "--name", name], &options[..], &["--allow-fault-injection", "--"], command];
    let mut run = stage.cofferdam(words.concat());
    run.env("BED_TOKEN", KEY);
    Ok(run)
}

fn ask(stage: &Stage, name: &str, script: &str) -> Result<Finished> {
    ask_within(stage, name, script, PATIENCE)
}

fn ask_within(stage: &Stage, name: &str, script: &str, patience: Duration) -> Result<Finished> {
    let done = finish(command(stage, name, &["sh", "-c", script])?, patience)?;
    ensure!(!done.out().contains(KEY) && !done.err().contains(KEY), "the key came in: {}", done.out());
    Ok(done)
}

/// `/usr/bin/curl`, which the credential is for.
fn curl() -> Result<&'static str> {
    match program("curl")?.as_str() {
        "/usr/bin/curl" => Ok("/usr/bin/curl --max-time 40"),
        other => bed::skip!("curl is at {other}, and not at /usr/bin/curl"),
    }
}

fn with_marker(stage: &Stage, marker: &str) -> Vec<Seen> {
    stage.world().recorder().with_marker(marker)
}

fn is(seen: &Seen, header: &str, value: &str) -> bool {
    seen.header(header) == Some(value)
}

fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |out, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            out + &char::from(byte).to_string()
        }
        _ => out + &format!("%{byte:02X}"),
    })
}

fn the_value_arrives_where_it_is_bound(stage: &Stage) -> Result<()> {
    let (curl, mark) = (curl()?, stage.marker());
    let url = "https://api.bed.test/echo";
    let steps = [
        format!("-H \"Authorization: Bearer $GITHUB_TOKEN\" '{url}?n={mark}-1'"),
        format!(
            "-H \"Authorization: token $GITHUB_TOKEN\" -H \"X-Api-Key: $GITHUB_TOKEN\" '{url}?n={mark}-2'"
        ),
        format!("-u \"me:$GITHUB_TOKEN\" '{url}?n={mark}-3'"),
        format!("\"{url}?n={mark}-4&key=$GITHUB_TOKEN\""),
        format!("'{url}?n={mark}-5&key=cofferdam%3Acred%3Agithub'"),
        format!(
            "-H 'Content-Type: application/json' -d \"{{\\\"a\\\": [1, \\\"$GITHUB_TOKEN\\\"]}}\" '{url}?n={mark}-6'"
        ),
        format!("--data-urlencode \"key=$GITHUB_TOKEN\" -d more=1 '{url}?n={mark}-7'"),
        format!(
            "-H 'Content-Type: text/plain' -H 'Transfer-Encoding: chunked' -d \"is $GITHUB_TOKEN.\" '{url}?n={mark}-8'"
        ),
        // Captured: a program that knows no proxy.
        format!("--noproxy '*' -H \"Authorization: Bearer $GITHUB_TOKEN\" '{url}?n={mark}-9'"),
        format!("--http2 -H \"Authorization: Bearer $GITHUB_TOKEN\" 'https://h2.bed.test/echo?n={mark}-h2'"),
        // Bodies without a placeholder stay as they are.
        format!("-H 'Content-Type: application/json' -d '{{\"a\":  1.50}}' '{url}?n={mark}-same'"),
    ];
    let script: String =
        steps.iter().map(|step| format!("{curl} -sSf -o /dev/null {step} || exit 1\n")).collect();
    ask(stage, "arrives", &format!("test \"$GITHUB_TOKEN\" = {PLACEHOLDER} || exit 9\n{script}"))?
        .expect_code(0)?;
    let seen = |n: &str| -> Result<Seen> {
        let found = with_marker(stage, &format!("n={mark}-{n}"));
        found.into_iter().next_back().with_context(|| format!("request {n} did not arrive"))
    };
    let bearer = format!("Bearer {KEY}");
    ensure!(is(&seen("1")?, "authorization", &bearer));
    let two = seen("2")?;
    ensure!(is(&two, "authorization", &format!("token {KEY}")) && is(&two, "x-api-key", KEY));
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("me:{KEY}"));
    ensure!(is(&seen("3")?, "authorization", &format!("Basic {basic}")));
    for n in ["4", "5"] {
        ensure!(seen(n)?.target.ends_with(&format!("&key={}", percent(KEY))), "{}", seen(n)?.target);
    }
    let json = serde_json::to_string(KEY)?;
    ensure!(seen("6")?.body == format!("{{\"a\": [1, {json}]}}").into_bytes());
    ensure!(seen("7")?.body == format!("key={}&more=1", percent(KEY)).into_bytes());
    ensure!(seen("8")?.body == format!("is {KEY}.").into_bytes());
    ensure!(is(&seen("9")?, "authorization", &bearer));
    ensure!(is(&seen("h2")?, "authorization", &bearer) && seen("h2")?.version == "HTTP/2.0");
    ensure!(seen("same")?.body == b"{\"a\":  1.50}");
    let carried = |record: &&Value| record.to_string().contains("\"credentials\":[\"github\"]");
    let told = audit(stage, "arrives")?
        .iter()
        .filter(carried)
        .filter(|r| record_has(r, &[("phase", "decided")]))
        .count();
    ensure!(told == steps.len() - 1, "{told} records say that they carry it");
    Ok(())
}

fn it_arrives_nowhere_else(stage: &Stage) -> Result<()> {
    let (curl, python, mark) = (curl()?, program("python3")?, stage.marker());
    let bearer = format!("-H 'Authorization: Bearer {PLACEHOLDER}'");
    let url = "https://api.bed.test/echo";
    let basic = base64::engine::general_purpose::STANDARD.encode("me:cofferdam:cred:nobody");
    let json = "-H 'Content-Type: application/json'";
    let steps = [
        ("host", format!("{bearer} 'https://h1.bed.test/echo?{mark}'"), "is not for h1.bed.test:443"),
        ("port", format!("{bearer} 'https://api.bed.test:8443/echo?{mark}'"), "is not for api.bed.test:8443"),
        ("plain", format!("{bearer} 'http://api.bed.test/echo?{mark}'"), "is not for api.bed.test:80"),
        (
            "captured",
            format!("--noproxy '*' {bearer} 'http://api.bed.test/echo?{mark}'"),
            "is not for api.bed.test:80",
        ),
        ("path", format!("{bearer} 'https://api.bed.test/upload?{mark}'"), "is not for the path /upload"),
        ("unknown", format!("-H 'X-Key: cofferdam:cred:nobody' '{url}?{mark}'"), "called `nobody`"),
        ("longer", format!("-H 'X-Key: {PLACEHOLDER}s' '{url}?{mark}'"), "called `githubs`"),
        ("basic", format!("-H 'Authorization: Basic {basic}' '{url}?{mark}'"), "called `nobody`"),
        ("twice", format!("'{url}?{mark}&a=cofferdam%253Acred%253Agithub'"), "escapes"),
        ("name", format!("'{url}?{mark}&{PLACEHOLDER}=1'"), "the name of a query parameter"),
        ("in the path", format!("'https://api.bed.test/{PLACEHOLDER}?{mark}'"), "in the path"),
        ("header", format!("-H '{PLACEHOLDER}: x' '{url}?{mark}'"), "the name of a header"),
        ("member", format!("{json} -d '{{\"{PLACEHOLDER}\":1}}' '{url}?{mark}'"), "a JSON member"),
        (
            "other body",
            format!("-H 'Content-Type: x/y' -d '{PLACEHOLDER}' '{url}?{mark}'"),
            "is not rewritten",
        ),
        (
            "no rewriting",
            format!("{json} -d '[\"{PLACEHOLDER}\"]' 'https://files.bed.test/echo?{mark}'"),
            "is not rewritten",
        ),
        (
            "bound body",
            format!("{json} -d '[\"{PLACEHOLDER}\"]' 'https://h1.bed.test/echo?{mark}'"),
            "is not for h1",
        ),
        ("compressed", format!("{json} -H 'Content-Encoding: gzip' -d '[1]' '{url}?{mark}'"), "compressed"),
    ];
    let mut script: String =
        steps.iter().map(|(_, step, _)| format!("{curl} -s -w '\\n%{{http_code}}\\n' {step}\n")).collect();
    script += &format!(
        "{python} -c \"\nimport urllib.request, urllib.error\nasked = urllib.request.Request('{url}?{mark}', headers={{'X-Key': \
         '{PLACEHOLDER}'}})\ntry: print(urllib.request.urlopen(asked).read(), 200, sep='\\n')\nexcept urllib.error.HTTPError as e: \
         print(e.read().decode(), e.code, sep='\\n')\"\n"
    );
    // The living control.
    script += &format!("{curl} -sSf -o /dev/null {bearer} '{url}?{mark}-control'\n");
    let done = ask(stage, "elsewhere", &script)?.expect_code(0)?;
    let out = done.out();
    let mut lines = out.lines();
    let wanted =
        steps.iter().map(|(what, _, why)| (*what, *why)).chain([("program", "is not for /usr/bin/python3")]);
    for (what, why) in wanted {
        let (body, code) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        ensure!(code == "403", "{what}: {code} {body}\n{out}\n{}", done.err());
        let told: Value = serde_json::from_str(body).with_context(|| format!("{what}: {body}"))?;
        ensure!(told["error"] == "policy_denied" && told["layer"] == "l7", "{what}: {told}");
        ensure!(told["detail"].as_str().is_some_and(|detail| detail.contains(why)), "{what}: {told}");
    }
    let arrived = with_marker(stage, &mark);
    ensure!(arrived.len() == 1 && arrived[0].target.ends_with("-control"), "{arrived:?}");
    ensure!(is(&arrived[0], "authorization", &format!("Bearer {KEY}")));
    let denied = audit(stage, "elsewhere")?
        .iter()
        .filter(|r| record_has(r, &[("verdict", "denied"), ("layer", "l7")]))
        .count();
    ensure!(denied == steps.len() + 1, "{denied} denials on record");
    Ok(())
}

fn split_and_oddly_spelled_placeholders_never_leave(stage: &Stage) -> Result<()> {
    let (python, mark) = (program("python3")?, stage.marker());
    stage.script("tunnel.py", include_str!("inside/tunnel.py"))?;
    stage.script("sends.py", include_str!("inside/sends.py"))?;
    let head = |path: &str, more: &str| {
        format!(
            "POST {path}?{mark} HTTP/1.1\\r\\nHost: api.bed.test\\r\\nConnection: close\\r\\n{more}\\r\\n"
        )
    };
    let chunked = head("/upload", "Transfer-Encoding: chunked\\r\\n");
    let long = "x".repeat(70_000);
    let requests = [
        // The placeholder split over chunks, in every spelling, on a path where nothing is rewritten.
        format!(
            "{chunked}5\\r\\nbegin\\r\\n\nc\\r\\ncofferdam:cr\\r\\n\n9\\r\\ned:github\\r\\n0\\r\\n\\r\\n\n"
        ),
        format!(
            "{chunked}c\\r\\ncofferdam%3A\\r\\n\n9\\r\\ncred%3agi\\r\\n\n4\\r\\nthub\\r\\n0\\r\\n\\r\\n\n"
        ),
        // Behind more bytes than are examined in advance, with a Content-Length.
        format!(
            "{}{long}\ncofferdam:cr\ned:github\n",
            head("/upload", &format!("Content-Length: {}\\r\\n", 70_000 + 21))
        ),
        // In a trailer.
        format!("{chunked}5\\r\\nbegin\\r\\n\n0\\r\\nX-Sum: {PLACEHOLDER}\\r\\n\\r\\n\n"),
    ];
    let mut script = String::new();
    for (index, request) in requests.iter().enumerate() {
        stage.write(&format!("workspace/{index}.txt"), request)?;
        script += &format!(
            "{python} /sandbox/sends.py api.bed.test:443 < /sandbox/{index}.txt | head -c 200; echo\n"
        );
    }
    let fine =
        format!("{chunked}5\\r\\nbegin\\r\\n\nc\\r\\ncofferdam:cr\\r\\n\n1\\r\\nx\\r\\n0\\r\\n\\r\\n\n");
    stage.write("workspace/fine.txt", &fine)?;
    script += &format!("{python} /sandbox/sends.py api.bed.test:443 < /sandbox/fine.txt\n");
    let done = ask(stage, "split", &script)?.expect_code(0)?;
    ensure!(done.out().contains("\"length\":18"), "the control did not arrive: {}", done.out());
    // Whatever came of them, not one was answered as a whole upload.
    ensure!(done.out().matches("HTTP/1.1 200").count() == 1, "{}", done.out());
    ensure!(done.out().matches("HTTP/1.1 403").count() == requests.len(), "{}", done.out());
    ensure_audited(stage, "split", &[("verdict", "denied"), ("layer", "l7"), ("path", "/upload")])
}

fn messages_are_filled_where_the_endpoint_says_so(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    let talk = include_str!("inside/websocket.py").replace("f\"echo {i + 1}\"", "sys.argv[4 + i]");
    stage.script("talk.py", &talk)?;
    let say = |name: &str, messages: &str| {
        ask(stage, name, &format!("{python} -u /sandbox/talk.py h1.bed.test:8443 /ws 2 {messages}"))
    };
    let json = serde_json::to_string(KEY)?;
    let done = say("talks", &format!("'is {PLACEHOLDER}.' '[\"{PLACEHOLDER}\"]'"))?.expect_code(0)?;
    // The echo is as long as the value: it arrived there, and came back as stars.
    let wanted = format!("open\nis {}.\n[\"{}\"]\n", "*".repeat(KEY.len()), "*".repeat(json.len() - 2));
    ensure!(done.out() == wanted, "{}", done.out());
    let done = say("unknown", "'hello' 'cofferdam:cred:nobody'")?;
    ensure!(done.out().starts_with("open\nhello\n") && !done.out().contains("nobody\n"), "{}", done.out());
    ensure_audited(stage, "unknown", &[("verdict", "denied"), ("method", "WEBSOCKET_TEXT"), ("layer", "l7")])
}

/// An agent that has a server echo guesses, and sees which of them become stars, must not find the value
/// letter by letter. In hexadecimal that would take sixteen guesses for each half of a letter, one message
/// each.
fn no_echo_tells_how_the_value_begins(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    let talk = include_str!("inside/websocket.py").replace("f\"echo {i + 1}\"", "sys.argv[4 + i]");
    stage.script("talk.py", &talk)?;
    let hexadecimal: String = KEY.bytes().map(|byte| format!("{byte:02x}")).collect();
    let beginnings = |form: &str| {
        (1..=form.len() - SCREEN_MIN).map(|end| form.get(..end).unwrap_or_default().to_owned()).collect()
    };
    let guesses: Vec<String> =
        [beginnings(KEY), beginnings(&hexadecimal), vec![hexadecimal.clone()]].concat();
    let said: String = guesses.iter().map(|guess| format!(" '{guess}'")).collect();
    let count = guesses.len();
    let done =
        ask(stage, "guesses", &format!("{python} -u /sandbox/talk.py h1.bed.test:8443 /ws {count}{said}"))?;
    let (echo, whole) = (done.expect_code(0)?.out(), "*".repeat(hexadecimal.len()));
    let heard: Vec<&str> = echo.lines().skip(1).collect();
    ensure!(heard.last() == Some(&whole.as_str()), "the control, all of it, is not masked: {echo}");
    for (guess, heard) in guesses.iter().zip(&heard).take(count - 1) {
        ensure!(guess == heard, "{} letters right are told by {heard}", guess.len());
    }
    Ok(())
}
