//! `inference.local`: the real SDKs get real answers from a local provider, and the key is nowhere inside.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a test fails by panic"
)]

mod common;

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use bed::stage::{Finished, PATIENCE, finish};
use bed::{Stage, provider};
use serde_json::Value;

use common::{COFFERDAM, START, audit, files_below, policy_file, program, python_with_packages, workspace};

fn main() -> ExitCode {
    bed::harness::main(
        "inference",
        Path::new(COFFERDAM),
        bed::cases![
            openai_sdk,
            anthropic_sdk,
            plain_http_and_curl,
            what_no_route_names_is_refused,
            only_programs_that_are_named_may_ask,
            errors_never_carry_the_key,
            the_key_is_nowhere_inside,
            literal_keys_are_refused,
            a_stream_outlives_a_crash,
            the_next_target_serves_what_one_does_not,
            an_agent_that_asks_without_end_leaves_room_to_others,
        ],
    )
}

/// Aliases that lead to the world's provider, as OpenAI and as Anthropic, over loopback and over TLS.
fn config(stage: &Stage) -> Result<String> {
    let text = format!(
        "inference:\n  providers:\n    \
         near: {{ kind: openai, base_url: \"{near}\", credential: env:BED_KEY, trust: self-hosted, cost: none }}\n    \
         far: {{ kind: openai, base_url: \"{far}\", credential: env:BED_KEY }}\n    \
         claude: {{ kind: anthropic, base_url: \"{claude}\", credential: env:BED_KEY }}\n  routes:\n    \
         - {{ model: near, to: [ {{ provider: near, model: bed-echo }} ] }}\n    \
         - {{ model: far, to: [ {{ provider: far, model: bed-echo }} ] }}\n    \
         - {{ model: claude, to: [ {{ provider: claude, model: bed-echo }} ] }}\n    \
         - {{ model: slow, to: [ {{ provider: near, model: bed-ticks-400 }} ] }}\n    \
         - {{ model: leaky, to: [ {{ provider: far, model: bed-leaky }} ] }}\n    \
         - {{ model: second, to: [ {{ provider: near, model: bed-error-503 }}, {{ provider: far, model: bed-echo }} ] }}\n    \
         - {{ model: spent, to: [ {{ provider: near, model: bed-error-529 }}, {{ provider: far, model: bed-error-429 }} ] }}\n    \
         - {{ model: broken, to: [ {{ provider: near, model: bed-broken }}, {{ provider: far, model: bed-echo }} ] }}\n    \
         - {{ model: silent, to: [ {{ provider: near, model: bed-slow-60000 }}, {{ provider: far, model: bed-echo }} ],\
         timeouts: {{ first_byte: 1s }} }}\n    \
         - {{ model: \"bed-*\", to: [ {{ provider: near }} ] }}\n",
        near = provider::BASE_URL,
        far = provider::REMOTE_BASE_URL,
        claude = provider::REMOTE_BASE_URL.trim_end_matches("/v1"),
    );
    Ok(stage.write("cofferdam.yaml", text)?.display().to_string())
}

fn command(stage: &Stage, name: &str, command: &[&str]) -> Result<Command> {
    let (config, policy) = (config(stage)?, policy_file(stage, "")?);
    let workspace = workspace(stage);
    let options = [
        "run",
        "--quiet",
        "--name",
        name,
        "--config",
        &config,
        "--policy",
        &policy,
        "--workspace",
        &workspace,
    ];
    let mut run = stage.cofferdam([&options[..], &["--allow-fault-injection", "--"], command].concat());
    run.env("BED_KEY", provider::KEY);
    Ok(run)
}

fn ask(stage: &Stage, name: &str, run: &[&str]) -> Result<Finished> {
    finish(command(stage, name, run)?, PATIENCE)
}

fn openai_sdk(stage: &Stage) -> Result<()> {
    let python = python_with_packages()?;
    let script = r#"
import openai
client = openai.OpenAI(max_retries=0, timeout=60)
messages = [dict(role="user", content="hello there")]
for model in ("near", "far"):
    answer = client.chat.completions.create(model=model, messages=messages)
    assert answer.choices[0].message.content == "You said: hello there", answer
    assert answer.usage.total_tokens > 0
    text = "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(model=model, messages=messages, stream=True))
    assert text == "You said: hello there", text
    assert client.responses.create(model=model, input="hi").output_text == "You said: hi"
    kinds = [e.type for e in client.responses.create(model=model, input="hi", stream=True)]
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds
    assert len(client.embeddings.create(model=model, input="hi").data[0].embedding) == 2
    assert client.completions.create(model=model, prompt="hi").choices[0].text
names = [m.id for m in client.models.list()]
assert "near" in names and "claude" in names, names
assert client.models.retrieve("near").id == "near"
try:
    client.models.retrieve("nothing/of-the-kind")
    assert False, "a model that no list has is there"
except openai.NotFoundError:
    pass
print("fine")
"#;
    let done = ask(stage, "openai", &[&python, "-c", script])?.expect_code(0)?;
    ensure!(done.out() == "fine\n", "{}", done.out());
    let arrived = stage.world().recorder().all();
    let with_key = format!("Bearer {}", provider::KEY);
    let ours = arrived
        .iter()
        .filter(|s| s.target == "/v1/chat/completions" && s.header("authorization") == Some(&with_key));
    ensure!(ours.clone().count() >= 4, "the key was not added");
    ensure!(
        ours.clone().all(|s| String::from_utf8_lossy(&s.body).contains("bed-")),
        "the model's name was not written"
    );
    Ok(())
}

fn anthropic_sdk(stage: &Stage) -> Result<()> {
    let python = python_with_packages()?;
    let script = r#"
import anthropic
client = anthropic.Anthropic(max_retries=0, timeout=60)
ask = dict(model="claude", max_tokens=50, messages=[dict(role="user", content="hello there")])
answer = client.messages.create(**ask)
assert answer.content[0].text == "You said: hello there", answer
with client.messages.stream(**ask) as stream:
    text = "".join(stream.text_stream)
assert text == "You said: hello there", text
assert client.messages.count_tokens(model="claude", messages=ask["messages"]).input_tokens == 2
print("fine")
"#;
    let done = ask(stage, "anthropic", &[&python, "-c", script])?.expect_code(0)?;
    ensure!(done.out() == "fine\n", "{}", done.out());
    let keyed =
        |s: &bed::Seen| s.target.starts_with("/v1/messages") && s.header("x-api-key") == Some(provider::KEY);
    ensure!(stage.world().recorder().all().iter().any(keyed), "the key was not added");
    Ok(())
}

const BODY: &str = r#"{"model":"near","messages":[{"role":"user","content":"by hand"}]}"#;

fn plain_http_and_curl(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    for (scheme, port) in [("https", 443), ("http", 80)] {
        let url = format!("{scheme}://inference.local/v1/chat/completions");
        let run =
            [&curl, "-sSf", "--max-time", "60", "-H", "content-type: application/json", "-d", BODY, &url];
        let done = ask(stage, &format!("by-{scheme}"), &run.map(|s| s as &str))?.expect_code(0)?;
        ensure!(done.out().contains("You said: by hand"), "{}", done.out());
        // A refusal names what was asked.
        let other = BODY.replace("near", "no-such-model");
        let run =
            [&curl, "-s", "--max-time", "60", "-H", "content-type: application/json", "-d", &other, &url];
        let done = ask(stage, &format!("refused-{scheme}"), &run.map(|s| s as &str))?.expect_code(0)?;
        let answer: serde_json::Value = serde_json::from_str(&done.out())?;
        ensure!(answer["host"] == "inference.local" && answer["port"] == port, "{answer}");
    }
    Ok(())
}

fn what_no_route_names_is_refused(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let marker = stage.marker();
    let body = BODY.replace("near", "no-such-model").replace("by hand", &marker);
    let script = format!(
        "for path in /v1/chat/completions /v1/files /admin /v1/fine_tuning/jobs; do {curl} -s --max-time 60 -o /dev/null \
         -w '%{{http_code}} ' -H 'content-type: application/json' -d '{body}' https://inference.local$path; done; \
         {curl} -s --max-time 60 -o /dev/null -w '%{{http_code}}' -H 'content-type: application/json' -d '{{' \
         https://inference.local/v1/chat/completions"
    );
    let done = ask(stage, "no-route", &["sh", "-c", &script])?;
    let codes: Vec<&str> =
        done.stdout.split(|b| *b == b' ').map(|c| std::str::from_utf8(c).unwrap()).collect();
    ensure!(codes.len() == 5 && codes.iter().all(|c| c.starts_with('4')), "{codes:?} {}", done.err());
    let arrived = stage.world().recorder().all();
    ensure!(
        !arrived.iter().any(|s| String::from_utf8_lossy(&s.body).contains(&marker)),
        "it reached the provider"
    );
    Ok(())
}

fn only_programs_that_are_named_may_ask(stage: &Stage) -> Result<()> {
    let (curl, python) = (program("curl")?, program("python3")?);
    let text = format!(
        "inference:\n  binaries: [ {curl} ]\n  providers:\n    near: {{ kind: openai, base_url: \"{near}\", credential: env:BED_KEY }}\n  routes:\n    \
         - {{ model: near, to: [ {{ provider: near, model: bed-echo }} ] }}\n    \
         - {{ model: apart, to: [ {{ provider: near, model: bed-echo }} ], binaries: [ {{ path: /opt/other }} ] }}\n",
        near = provider::BASE_URL,
    );
    let file = stage.write("named.yaml", text)?.display().to_string();
    let url = "https://inference.local/v1";
    let apart = BODY.replace("near", "apart");
    let post = format!(
        "{curl} -s --max-time 60 -w '\\n' -H 'content-type: application/json' {url}/chat/completions -d"
    );
    let script = format!(
        "{post} '{BODY}'; {post} '{apart}'; {curl} -s --max-time 60 -w '\\n' {url}/models; {python} -c '\
         import urllib.error, urllib.request\n\
         try: urllib.request.urlopen(\"{url}/models\", timeout=60)\n\
         except urllib.error.HTTPError as e: print(e.code, e.read().decode())'"
    );
    let options = [
        "run",
        "--quiet",
        "--config",
        &file,
        "--policy",
        &policy_file(stage, "")?,
        "--name",
        &stage.name(),
        "--",
    ];
    let mut run = stage.cofferdam([&options[..], &["sh", "-c", &script]].concat());
    run.env("BED_KEY", provider::KEY);
    let done = finish(run, PATIENCE)?.expect_code(0)?.out();
    let lines: Vec<&str> = done.lines().filter(|line| !line.is_empty()).collect();
    let [served, refused, listed, other] = lines[..] else { anyhow::bail!("four answers: {done}") };
    ensure!(served.contains("You said: by hand"), "{served}");
    ensure!(refused.contains("policy_denied") && refused.contains("routes[].binaries"), "{refused}");
    ensure!(listed.contains("near") && !listed.contains("apart"), "only what this program may use: {listed}");
    ensure!(other.starts_with("403") && other.contains("\"layer\":\"inference\""), "{other}");
    ensure!(other.contains("inference.binaries"), "{other}");
    Ok(())
}

fn errors_never_carry_the_key(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let body = BODY.replace("near", "leaky");
    let url = "https://inference.local/v1/chat/completions";
    let run = [
        &curl,
        "-s",
        "--max-time",
        "20",
        "-w",
        "\n%{http_code}",
        "-H",
        "content-type: application/json",
        "-d",
        &body,
        url,
    ];
    let done = ask(stage, "leaky", &run.map(|s| s as &str))?;
    ensure!(done.out().ends_with("\n400"), "{}", done.out());
    ensure!(!done.out().contains(provider::KEY), "the key came in: {}", done.out());
    ensure!(done.out().contains("try another"), "the rest of the error is lost: {}", done.out());
    Ok(())
}

fn the_key_is_nowhere_inside(stage: &Stage) -> Result<()> {
    let (python, curl) = (program("python3")?, program("curl")?);
    stage.script("search.py", include_str!("inside/search_for_key.py"))?;
    let control = format!("control{}", stage.marker());
    stage.write("workspace/control.txt", &control)?;
    let (first, second) = provider::KEY.split_at(provider::KEY.len() / 2);
    let reversed = |s: &str| s.chars().rev().collect::<String>();
    // A child with the control word in its environment runs during the search, and a request was made before
    // it.
    let script = format!(
        "{curl} -sSf --max-time 60 -H 'content-type: application/json' -d '{BODY}' https://inference.local/v1/chat/completions \
         >/dev/null; CONTROL={control} sleep 600 & {python} /sandbox/search.py {} {} {control}; kill $!; env",
        reversed(second),
        reversed(first),
    );
    let done = ask(stage, "search", &["sh", "-c", &script])?.expect_code(0)?;
    let report: Value = serde_json::from_str(done.out().lines().next().unwrap_or_default())
        .with_context(|| format!("{} {}", done.out(), done.err()))?;
    ensure!(report["found"] == serde_json::json!([]), "{report}");
    let controls = report["controls"].to_string();
    ensure!(controls.contains("file") && controls.contains("environ"), "the search is blind: {report}");
    ensure!(!done.out().contains(provider::KEY) && !done.err().contains(provider::KEY));
    // Outside, in what was written down: audit, logs, everything in the state directory.
    ensure!(!audit(stage, "search")?.is_empty());
    for path in files_below(&stage.state()) {
        let bytes = std::fs::read(&path)?;
        let holds = bytes.windows(provider::KEY.len()).any(|w| w == provider::KEY.as_bytes());
        ensure!(!holds, "the key is in {}", path.display());
    }
    Ok(())
}

fn literal_keys_are_refused(stage: &Stage) -> Result<()> {
    let text = format!(
        "inference:\n  providers:\n    a: {{ kind: openai, base_url: \"{}\", credential: {} }}\n  routes:\n    - {{ model: \"*\", \
         to: [ {{ provider: a }} ] }}\n",
        provider::BASE_URL,
        provider::KEY
    );
    let file = stage.write("literal.yaml", text)?.display().to_string();
    let done = stage.run(&["--config", &file], &["true"])?.expect_code(125)?;
    ensure!(!done.err().contains(provider::KEY), "the refusal shows the key");
    let text = "inference:\n  providers:\n    a: { kind: openai, base_url: \"http://127.0.0.1:8000/v1\", credential: env:NOT_SET_HERE }\n";
    let file = stage.write("absent.yaml", text)?.display().to_string();
    let done = stage.run(&["--config", &file], &["true"])?.expect_code(125)?;
    ensure!(done.err().contains("NOT_SET_HERE"), "{}", done.err());
    Ok(())
}

fn a_stream_outlives_a_crash(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let body = r#"{"model":"slow","stream":true,"messages":[{"role":"user","content":"go"}]}"#;
    let url = "https://inference.local/v1/chat/completions";
    // A stream of twenty seconds: the two commands take a few seconds on a busy machine.
    let run = [&curl, "-sSfN", "--max-time", "120", "-H", "content-type: application/json", "-d", body, url];
    let mut running = stage.start(command(stage, "stream", &run.map(|s| s as &str))?)?;
    running.wait_for("tick 3", START)?;
    for actor in ["gateway", "proxy"] {
        stage.call(&["crash", "stream", actor])?.expect_code(0)?;
    }
    let done = running.finish(PATIENCE)?.expect_code(0)?;
    let text = done.out();
    let missing = (1..=400).filter(|n| !text.contains(&format!("tick {n}"))).count();
    ensure!(missing == 0 && text.ends_with("data: [DONE]\n\n"), "{missing} ticks are missing");
    Ok(())
}

/// If no provider can have served a request, the next target is asked; if one may have, no other is.
fn the_next_target_serves_what_one_does_not(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    let script = r#"
import http.client, json, sys
def ask(model, stream=False):
    connection = http.client.HTTPConnection("inference.local", 80, timeout=60)
    body = json.dumps(dict(model=model, stream=stream, messages=[dict(role="user", content=sys.argv[1])]))
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    try:
        text, whole = answer.read().decode(), True
    except http.client.IncompleteRead as broken:
        text, whole = broken.partial.decode(), False
    print(json.dumps([model, answer.status, answer.headers.get("retry-after"), whole, text]), flush=True)
for model in ("second", "second", "spent", "spent", "silent"):
    ask(model)
ask("broken", stream=True)
"#;
    let marker = stage.marker();
    let done = ask(stage, "failover", &[&python, "-c", script, &marker])?.expect_code(0)?;
    let answers: Vec<Value> =
        done.out().lines().map(serde_json::from_str).collect::<Result<_, _>>().context(done.err())?;
    let came: Vec<(&str, u64, &str)> = answers
        .iter()
        .map(|a| (a[0].as_str().unwrap(), a[1].as_u64().unwrap(), a[2].as_str().unwrap_or("-")))
        .collect();
    // The second time both targets rest, and are asked all the same.
    let retry = provider::RETRY_AFTER.to_string();
    let wanted = [
        ("second", 200, "-"),
        ("second", 200, "-"),
        ("spent", 429, &*retry),
        ("spent", 429, &retry),
        ("silent", 504, "-"),
        ("broken", 200, "-"),
    ];
    ensure!(came == wanted, "{came:?} {}", done.out());
    let (first, broken) = (answers[0][4].as_str().unwrap(), &answers[5]);
    ensure!(first.contains(&format!("You said: {marker}")), "{first}");
    ensure!(broken[3] == false && broken[4].as_str().unwrap().contains("piece 3"), "{broken}");
    ensure!(!broken[4].as_str().unwrap().contains("You said"), "{broken}");
    let arrived = stage.world().recorder().all();
    let asked = |model: &str| {
        let with = |body: &str| body.contains(&marker) && body.contains(&format!("\"{model}\""));
        arrived.iter().filter(|s| with(&String::from_utf8_lossy(&s.body))).count()
    };
    let counts =
        ["bed-error-503", "bed-error-529", "bed-error-429", "bed-echo", "bed-slow-60000", "bed-broken"]
            .map(|model| (model, asked(model)));
    let wanted = [
        // This target rests the second time.
        ("bed-error-503", 1),
        ("bed-error-529", 2),
        ("bed-error-429", 2),
        ("bed-echo", 2),
        ("bed-slow-60000", 1),
        ("bed-broken", 1),
    ];
    ensure!(counts == wanted, "{counts:?}");
    let records = audit(stage, "failover")?;
    let code_of = |provider: &str, code: u64| {
        let fits = |event: &Value| event["provider"] == provider && event["code"] == code;
        records.iter().filter(|r| r["event"]["kind"] == "inference" && fits(&r["event"])).count()
    };
    let codes = [code_of("near", 503), code_of("far", 200), code_of("near", 529), code_of("far", 429)];
    ensure!(codes == [1, 2, 2, 2], "{codes:?}");
    Ok(())
}

/// One agent makes more requests than the gateway takes, from programs that were reparented; then an
/// operator's program makes one.
fn an_agent_that_asks_without_end_leaves_room_to_others(stage: &Stage) -> Result<()> {
    // One process only: identifying a crowd of processes would be slow, which has a limit of its own.
    const GREEDY: &str = r#"
import json, socket, time
body = json.dumps({"model": "bed-ticks-1200", "stream": True, "messages": [{"role": "user", "content": "go"}]})
head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: inference.local\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
kept = []
for n in range(150):
    one = socket.create_connection(("inference.local", 80), 60)
    one.sendall((head + body).encode())
    kept.append(one)
for one in kept:
    print("answered", one.recv(12)[-3:].decode(), flush=True)
time.sleep(1000)
"#;
    let (curl, python) = (program("curl")?, program("python3")?);
    let mut running = stage.start(command(stage, "greedy", &[&python, "-c", GREEDY])?)?;
    running.wait_for("answered 503", START)?;
    let body = r#"{"model":"bed-ticks-2","stream":true,"messages":[{"role":"user","content":"go"}]}"#;
    let url = "http://inference.local/v1/chat/completions";
    let ask = [&curl, "-sSfN", "--max-time", "60", "-H", "content-type: application/json", "-d", body, url];
    let done = stage.call(&[&["exec", "greedy", "--"], &ask[..]].concat())?.expect_code(0)?;
    ensure!(done.out().contains("tick 2"), "{}", done.out());
    stage.call(&["stop", "greedy"])?.expect_code(0)?;
    running.finish(PATIENCE)?;
    Ok(())
}
