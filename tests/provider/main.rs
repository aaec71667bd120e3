//! `cofferdam provider …`: makes real requests as the gateway does, names every fault, and never prints the
//! key.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

#[path = "../common/mod.rs"]
mod common;
mod detect;
mod servers;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bed::corporate::{CREDENTIAL, Kind};
use bed::stage::{Finished, Mode, PATIENCE, finish};
use bed::{Stage, provider};
use serde_json::Value;

use common::COFFERDAM;
use detect::{
    what_another_person_serves_is_not_offered, what_this_machine_offers_is_found_and_no_value_shown,
    who_is_gone_when_it_answers_is_not_offered,
};
use servers::{asked, hold, http, listen, serve};

fn main() -> ExitCode {
    bed::harness::main(
        "provider",
        Path::new(COFFERDAM),
        bed::cases![
            kinds_and_a_files_providers_are_listed.only(Mode::Rootless),
            every_provider_is_asked_with_its_key.only(Mode::Rootless),
            each_fault_is_told_by_name_and_never_with_the_key.only(Mode::Rootless),
            whoever_answers_without_end_is_left.only(Mode::Rootless),
            the_way_is_that_of_the_file.only(Mode::Rootless),
            what_this_machine_offers_is_found_and_no_value_shown.only(Mode::Rootless),
            what_another_person_serves_is_not_offered.only(Mode::Rootless),
            who_is_gone_when_it_answers_is_not_offered.only(Mode::Rootless),
            what_is_no_file_or_no_provider_is_refused.only(Mode::Rootless),
        ],
    )
}

/// A key that the provider doesn't take.
const WRONG: &str = "sk-wrong-0c7a52e94b1f4d6e8a3b5c7d9e1f2a4bQ";

/// Calls it with both keys in the environment, and checks that it prints neither.
fn call(stage: &Stage, args: &[&str]) -> Result<Finished> {
    let mut command = stage.cofferdam([&["provider"], args].concat());
    command.env("BED_KEY", provider::KEY).env("WRONG_KEY", WRONG).env("CORP_PROXY", CREDENTIAL);
    let done = finish(command, PATIENCE)?;
    no_key(&done)?;
    Ok(done)
}

/// Checks that no key was printed: neither whole, nor its end, nor in base64, reversed or a letter at a time.
fn no_key(done: &Finished) -> Result<()> {
    use base64::Engine;
    let said = done.out() + &done.err();
    for key in [provider::KEY, WRONG, CREDENTIAL] {
        let base64 = base64::engine::general_purpose::STANDARD.encode(key);
        let reversed: String = key.chars().rev().collect();
        let spaced = key[..6].split("").collect::<Vec<_>>().join(" ");
        for part in [key, &key[key.len() - 12..], &base64[..24], &reversed[..9], &spaced] {
            ensure!(!said.contains(part), "{part} of a key: {said}");
        }
    }
    Ok(())
}

/// Writes a file with these lines under `inference.providers`, and gives its path.
fn file(stage: &Stage, providers: &[&str]) -> Result<String> {
    let lines: String = providers.iter().map(|line| format!("    {line}\n")).collect();
    let text = format!("name: x\ninference:\n  providers:\n{lines}");
    Ok(stage.write("cofferdam.yaml", text)?.display().to_string())
}

fn entry(name: &str, kind: &str, url: &str, key: &str) -> String {
    format!("{name}: {{ kind: {kind}, base_url: \"{url}\", credential: env:{key} }}")
}

/// Runs `provider test --json`, and returns the result for each name, and the exit code.
fn tested(stage: &Stage, file: &str, more: &[&str]) -> Result<(Value, i32)> {
    let done = call(stage, &[&["test", "-f", file, "--json"], more].concat())?;
    let rows: Value =
        serde_json::from_slice(&done.stdout).with_context(|| format!("{} {}", done.out(), done.err()))?;
    let by_name = rows.as_array().context("no list")?.iter();
    let by_name = by_name.map(|row| (row["provider"].as_str().unwrap_or_default().to_owned(), row.clone()));
    Ok((Value::Object(by_name.collect()), done.code()))
}

fn kinds_and_a_files_providers_are_listed(stage: &Stage) -> Result<()> {
    let kinds = call(stage, &["list"])?.expect_code(0)?.out();
    ensure!(
        kinds.contains("openai") && kinds.contains("anthropic") && kinds.contains("no cofferdam.yaml here"),
        "{kinds}"
    );
    let open = stage.write("open.key", provider::KEY)?;
    let closed = stage.write("closed.key", provider::KEY)?;
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o600))?;
    let file = file(
        stage,
        &[
            &entry("near", "openai", provider::BASE_URL, "BED_KEY"),
            &entry("gone", "anthropic", "https://llm.bed.test", "NOT_SET"),
            &format!(
                "open: {{ kind: openai, base_url: \"https://a.test/v1\", credential: \"file:{}\" }}",
                open.display()
            ),
            &format!(
                "closed: {{ kind: openai, base_url: \"https://a.test/v1\", credential: \"file:{}\" }}",
                closed.display()
            ),
            "free: { kind: openai, base_url: \"http://127.0.0.1:9/v1\", trust: self-hosted, cost: none }",
        ],
    )?;
    // Where no file is named, the one in the current directory is used.
    for args in [&["list"][..], &["list", "-f", &file]] {
        let shown = call(stage, args)?.expect_code(0)?.out();
        ensure!(shown.contains("env:BED_KEY is there") && shown.contains("NOT_SET is not set"), "{shown}");
        ensure!(shown.contains("self-hosted") && shown.contains("chmod 600"), "{shown}");
    }
    let done = call(stage, &["list", "-f", &file, "--json"])?.expect_code(0)?;
    let listed: Value = serde_json::from_slice(&done.stdout)?;
    ensure!(listed["kinds"].as_array().is_some_and(|kinds| kinds.len() == 2), "{listed}");
    ensure!(listed["experimental_kinds"].is_null(), "{listed}");
    for (name, resolves) in [
        ("near", Value::Bool(true)),
        ("gone", Value::Bool(false)),
        ("open", Value::Bool(false)),
        ("closed", Value::Bool(true)),
        ("free", Value::Null),
    ] {
        let row = listed["providers"].as_array().and_then(|all| all.iter().find(|row| row["name"] == name));
        ensure!(row.is_some_and(|row| row["resolves"] == resolves), "{name}: {listed}");
    }
    let mut command = stage.cofferdam(["provider", "list", "--json"]);
    command.env("COFFERDAM_EXPERIMENTAL", "1");
    let listed: Value = serde_json::from_slice(&finish(command, PATIENCE)?.expect_code(0)?.stdout)?;
    ensure!(listed["experimental_kinds"] == serde_json::json!([]), "{listed}");
    Ok(())
}

fn every_provider_is_asked_with_its_key(stage: &Stage) -> Result<()> {
    let file = file(
        stage,
        &[
            &entry("near", "openai", provider::BASE_URL, "BED_KEY"),
            &entry("far", "openai", provider::REMOTE_BASE_URL, "BED_KEY"),
            &entry("claude", "anthropic", provider::REMOTE_BASE_URL.trim_end_matches("/v1"), "BED_KEY"),
        ],
    )?;
    let before = stage.world().recorder().all().len();
    let shown = call(stage, &["test", "-f", &file])?.expect_code(0)?.out();
    ensure!(
        shown.matches(" ok ").count() == 3 && shown.contains("model") && shown.contains("first byte"),
        "{shown}"
    );
    let (rows, code) = tested(stage, &file, &[])?;
    ensure!(code == 0, "{rows}");
    for name in ["near", "far", "claude"] {
        let row = &rows[name];
        ensure!(
            row["ok"] == true && row["models"].as_u64() > Some(0) && row["first_byte_ms"].is_u64(),
            "{row}"
        );
    }
    let arrived = stage.world().recorder().all();
    let asked = |target: &str, header: &str, value: &str| {
        arrived
            .iter()
            .skip(before)
            .any(|it| it.method == "GET" && it.target == target && it.header(header) == Some(value))
    };
    ensure!(
        asked("/v1/models", "authorization", &format!("Bearer {}", provider::KEY)),
        "no GET with the key"
    );
    ensure!(asked("/v1/models?limit=1000", "x-api-key", provider::KEY), "no GET as Anthropic's");
    // A single provider, and a token from a model.
    let (rows, code) = tested(stage, &file, &["claude", "--model", "bed-echo"])?;
    ensure!(code == 0 && rows.as_object().is_some_and(|rows| rows.len() == 1), "{rows}");
    let (rows, code) = tested(stage, &file, &["near", "far", "--model", "bed-echo"])?;
    ensure!(code == 0 && rows["near"]["ok"] == true && rows["far"]["models"].is_null(), "{rows}");
    let words = stage.world().recorder().all().into_iter().filter(|it| it.target == "/v1/chat/completions");
    let asked_for_one = |body: &[u8]| {
        serde_json::from_slice(body)
            .is_ok_and(|body: Value| body["model"] == "bed-echo" && body["max_tokens"] == 1)
    };
    ensure!(words.filter(|it| asked_for_one(&it.body)).count() == 2, "not one token of each");
    Ok(())
}

fn each_fault_is_told_by_name_and_never_with_the_key(stage: &Stage) -> Result<()> {
    let nobody = bed::stage::free_port()?;
    // A server that answers 200 with something that isn't the protocol, and repeats the key that it was sent;
    // and one that repeats it in an error.
    let other = serve(|request| {
        let key = request.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or_default();
        http(200, "application/json", &format!("{{\"hello\":\"{key}\"}}"))
    })?;
    // A server that repeats what it was sent in ways that no search finds.
    let echoing = serve(|request| {
        let key = request.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or_default();
        let (reversed, spaced) = (key.chars().rev().collect::<String>(), key.split("").collect::<Vec<_>>());
        let said = format!("\\u001b[31mno {key} here\\nand {reversed} or {}", spaced.join(" "));
        http(404, "application/json", &format!("{{\"error\":{{\"message\":\"{said}\"}}}}"))
    })?;
    let open = serve(|_| {
        http(404, "application/json", r#"{"error":{"message":"\u001b[31mno model\n of that name"}}"#)
    })?;
    let first = listen(|mut stream| {
        let _ = stream.write_all(b"220 mail.test ESMTP\r\n");
        hold(&stream);
    })?;
    let garbled = serve(|_| b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())?;
    let file = file(
        stage,
        &[
            &entry("good", "openai", provider::BASE_URL, "BED_KEY"),
            &entry("wrong", "openai", provider::BASE_URL, "WRONG_KEY"),
            &entry("unset", "openai", provider::BASE_URL, "NOT_SET"),
            &format!("keyless: {{ kind: openai, base_url: \"{}\" }}", provider::BASE_URL),
            &entry("nobody", "openai", &format!("http://127.0.0.1:{nobody}/v1"), "BED_KEY"),
            &entry("nowhere", "openai", "https://no-such-host.bed.test/v1", "BED_KEY"),
            &entry("untrusted", "openai", "https://untrusted.bed.test/v1", "BED_KEY"),
            &entry("expired", "openai", "https://expired.bed.test/v1", "BED_KEY"),
            &entry("other", "openai", &format!("http://127.0.0.1:{other}/v1"), "BED_KEY"),
            &entry("echoing", "openai", &format!("http://127.0.0.1:{echoing}/v1"), "BED_KEY"),
            &format!("open: {{ kind: openai, base_url: \"http://127.0.0.1:{open}/v1\" }}"),
            &entry("first", "openai", &format!("http://127.0.0.1:{first}/v1"), "BED_KEY"),
            &entry("garbled", "openai", &format!("http://127.0.0.1:{garbled}/v1"), "BED_KEY"),
        ],
    )?;
    let (rows, code) = tested(stage, &file, &[])?;
    ensure!(code == 1 && rows["good"]["ok"] == true, "{rows}");
    let keys = |name: &str| rows[name].as_object().map(|row| row.keys().cloned().collect::<Vec<_>>());
    ensure!(keys("good") == keys("wrong") && rows["good"]["fault"].is_null(), "{rows}");
    for (name, fault, why, mend) in [
        ("wrong", "credential", "refused the credential (401)", "env:WRONG_KEY"),
        ("unset", "credential", "NOT_SET is not set", ""),
        ("keyless", "credential", "asks for a credential (401)", "credential: env:NAME"),
        ("nobody", "unreachable", "can't be connected to", "start the server"),
        ("nowhere", "unreachable", "can't be connected to", "upstream_proxy"),
        ("untrusted", "tls", "unknown issuer", "upstream_ca"),
        ("expired", "tls", "expired", ""),
        ("other", "protocol", "no list of models", "kind"),
        ("echoing", "status", "answered 404", "--model"),
        ("open", "status", "no model of that name", "--model"),
        ("first", "protocol", "", "base_url"),
        ("garbled", "protocol", "", "base_url"),
    ] {
        let row = &rows[name];
        let has = |field: &str, part: &str| row[field].as_str().unwrap_or_default().contains(part);
        ensure!(
            row["ok"] == false && row["fault"] == fault && has("why", why) && has("mend", mend),
            "{name}: {row}"
        );
    }
    let shown = call(stage, &["test", "-f", &file])?.expect_code(1)?.out();
    ensure!(shown.contains("FAILED") && !shown.contains('\u{1b}') && shown.lines().count() == 13, "{shown}");
    ensure!(rows["echoing"]["why"] == "answered 404" && !shown.contains("REDACTED"), "it is quoted: {shown}");
    // Models that fail in each way, among them the bed's model that repeats the key.
    for (model, part) in
        [("bed-leaky", "answered 400"), ("bed-error-429", "answered 429"), ("bed-error-403", "(403)")]
    {
        let (rows, code) = tested(stage, &file, &["good", "--model", model])?;
        ensure!(code == 1 && rows["good"]["why"].as_str().is_some_and(|why| why.contains(part)), "{rows}");
    }
    Ok(())
}

fn whoever_answers_without_end_is_left(stage: &Stage) -> Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n";
    // Servers that send nothing at all, one byte and no more, an endless body, and an endless head.
    let silent = listen(|stream| hold(&stream))?;
    let begun = listen(move |mut stream| {
        asked(&mut stream);
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(b"{"));
        hold(&stream);
    })?;
    let huge = listen(move |mut stream| {
        asked(&mut stream);
        let (_, piece) = (stream.write_all(head.as_bytes()), [b' '; 64 * 1024]);
        while stream.write_all(&piece).is_ok() {}
    })?;
    let heads = listen(|mut stream| {
        asked(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        while stream.write_all(b"x-more: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n").is_ok() {}
    })?;
    let lines: Vec<String> = [("silent", silent), ("begun", begun), ("huge", huge), ("heads", heads)]
        .iter()
        .map(|(name, port)| entry(name, "openai", &format!("http://127.0.0.1:{port}/v1"), "BED_KEY"))
        .collect();
    let file = file(stage, &lines.iter().map(String::as_str).collect::<Vec<_>>())?;
    let (rows, code) = tested(stage, &file, &["silent", "begun", "--timeout", "2s"])?;
    ensure!(code == 1, "{rows}");
    for (name, why) in [("silent", "no answer within 2s"), ("begun", "didn't end within 2s")] {
        let row = &rows[name];
        ensure!(row["fault"] == "timeout" && row["why"].as_str().is_some_and(|it| it.contains(why)), "{row}");
    }
    // These are ended by the bound on bytes, however long the time-out is.
    let (rows, code) = tested(stage, &file, &["huge", "heads", "--timeout", "100s"])?;
    ensure!(code == 1 && rows["huge"]["why"].as_str().is_some_and(|why| why.contains("more than")), "{rows}");
    ensure!(rows["heads"]["fault"] == "protocol", "{rows}");
    Ok(())
}

fn the_way_is_that_of_the_file(stage: &Stage) -> Result<()> {
    let providers = format!(
        "inference:\n  providers:\n    {}\n    {}\n",
        entry("near", "openai", provider::BASE_URL, "BED_KEY"),
        entry("far", "openai", provider::REMOTE_BASE_URL, "BED_KEY")
    );
    // Without the world's root certificate no provider is trusted; with it, named in the file alone, all are.
    let ca = stage.world().ca_file();
    let bare = |name: &str, text: String| -> Result<Finished> {
        let file = stage.write(name, text)?.display().to_string();
        let mut command = stage.cofferdam(["provider", "test", "-f", &file]);
        command
            .env_remove("SSL_CERT_FILE")
            .env("BED_KEY", provider::KEY)
            .env("CORP_PROXY", CREDENTIAL)
            .env("WRONG", "corp:no");
        let done = finish(command, PATIENCE)?;
        no_key(&done)?;
        Ok(done)
    };
    let done = bare("none.yaml", providers.clone())?.expect_code(1)?;
    ensure!(done.out().contains("unknown issuer"), "{}", done.out());
    bare("ca.yaml", format!("upstream_ca: {}\n{providers}", ca.display()))?.expect_code(0)?;
    // If there is a corporate proxy, it is used, except for providers on this machine.
    let proxied = |kind: Kind, credential: &str| {
        let url = format!("http://proxy.bed.test:{}", kind.port());
        format!(
            "upstream_ca: {}\nupstream_proxy: {{ url: \"{url}\"{credential} }}\n{providers}",
            ca.display()
        )
    };
    let before = stage.world().recorder().all().len();
    bare("proxy.yaml", proxied(Kind::Demanding, ", credential: env:CORP_PROXY"))?.expect_code(0)?;
    let arrived = stage.world().recorder().all();
    let mine = arrived.iter().skip(before).filter(|it| it.target == "/v1/models");
    ensure!(mine.clone().any(|it| it.tls && it.proxied), "it went around the proxy");
    ensure!(!mine.clone().any(|it| !it.tls && it.proxied), "what is near went through the proxy");
    let refused = bare("wrong.yaml", proxied(Kind::Demanding, ", credential: env:WRONG"))?.expect_code(1)?;
    ensure!(refused.out().contains("407"), "{}", refused.out());
    Ok(())
}

fn what_is_no_file_or_no_provider_is_refused(stage: &Stage) -> Result<()> {
    let refused = |args: &[&str]| -> Result<String> { Ok(call(stage, args)?.expect_code(125)?.err()) };
    ensure!(refused(&["test"])?.contains("no such file"), "a missing file");
    let none = stage.write("none.yaml", "name: x\n")?.display().to_string();
    ensure!(refused(&["test", "-f", &none])?.contains("provider detect"), "a file without providers");
    let file = file(stage, &[&entry("nvidia", "openai", provider::BASE_URL, "BED_KEY")])?;
    ensure!(refused(&["test", "-f", &file, "nvida"])?.contains("did you mean \"nvidia\""), "a misspelt one");
    for literal in [provider::KEY, "sk-other"] {
        let line =
            format!("x: {{ kind: openai, base_url: \"{}\", credential: {literal} }}", provider::BASE_URL);
        let file = stage.write("literal.yaml", format!("inference:\n  providers:\n    {line}\n"))?;
        let file = file.display().to_string();
        for args in [["list", "-f", &file], ["test", "-f", &file]] {
            let why = refused(&args)?;
            ensure!(why.contains("a literal key is refused") && !why.contains(literal), "{why}");
        }
    }
    let odd = stage.write(
        "odd.yaml",
        "inference: { providers: { x: { kind: vertex, base_url: \"https://a.test\" } } }\n",
    )?;
    let why = refused(&["list", "-f", &odd.display().to_string()])?;
    ensure!(why.contains("vertex") && why.contains("openai"), "{why}");
    Ok(())
}
