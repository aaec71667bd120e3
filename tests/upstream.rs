//! The way to upstream servers: faults of certificates are named, a client certificate is shown to one server
//! only, and where there is a corporate proxy everything goes through it.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "a test fails by panic")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bed::corporate::{CREDENTIAL, Kind};
use bed::stage::{Finished, PATIENCE, finish};
use bed::{Seen, Stage, provider};
use serde_json::Value;

use common::{COFFERDAM, ensure_audited, files_below, policy_file, program, workspace};

fn main() -> ExitCode {
    bed::harness::main(
        "upstream",
        Path::new(COFFERDAM),
        bed::cases![
            a_bad_certificate_is_told_by_what_is_wrong,
            a_hidden_server_name_is_refused,
            a_client_certificate_is_shown_to_its_server_alone,
            a_client_certificate_that_cannot_be_used_is_refused_at_start,
            a_pipe_in_a_certificates_place_holds_nothing_up,
            everything_goes_through_the_proxy,
            a_proxy_that_fails_is_never_passed_by,
            a_wrong_credential_is_told_and_never_shown,
            the_proxy_resolves_what_this_machine_cannot.alone(),
            a_proxy_that_cannot_be_used_is_refused_at_start,
        ],
    )
}

/// Any program may go to these, at 443 judged and at 8080 relayed.
fn entry(hosts: &[&str]) -> String {
    if hosts.is_empty() {
        return String::new();
    }
    let endpoints: Vec<String> = hosts
        .iter()
        .map(|host| {
            format!(
                "      - {{ host: {host}, port: 443, protocol: rest, access: full }}\n      - {{ host: {host}, port: 8080 }}"
            )
        })
        .collect();
    format!(
        "  hosts:\n    name: hosts\n    endpoints:\n{}\n    binaries: [ {{ path: \"/**\", allow_foreign_code: true }} ]",
        endpoints.join("\n")
    )
}

/// A sandbox with this configuration, these hosts, and a shell script.
fn run(stage: &Stage, config: &str, hosts: &[&str], script: &str) -> Result<Finished> {
    let config = stage.write("cofferdam.yaml", config)?.display().to_string();
    let policy = policy_file(stage, &entry(hosts))?;
    let (name, workspace) = (stage.name(), workspace(stage));
    let options = [
        "run",
        "--quiet",
        "--name",
        &name,
        "--config",
        &config,
        "--policy",
        &policy,
        "--workspace",
        &workspace,
    ];
    let mut command = stage.cofferdam([&options[..], &["--", "sh", "-c", script]].concat());
    command
        .env("CORP_PROXY", CREDENTIAL)
        .env("WRONG", "corp:not-the-password-93")
        .env("BED_KEY", provider::KEY);
    finish(command, PATIENCE)
}

/// A line of a script that prints the status and the whole body of a request.
fn get(curl: &str, url: &str) -> String {
    format!("{curl} -s --max-time 30 -w '\\n%{{http_code}} %{{http_connect}}\\n' '{url}'\n")
}

/// What [`get`] printed, request by request.
fn answers(said: &str) -> Vec<(u16, Value)> {
    let lines: Vec<&str> = said.lines().collect();
    // For a refused CONNECT curl shows only the status code.
    let code = |line: &&str| {
        let (inner, connect) = line.split_once(' ')?;
        let (inner, connect) = (inner.parse::<u16>().ok()?, connect.parse::<u16>().ok()?);
        Some(if inner == 0 { connect } else { inner })
    };
    lines
        .split_inclusive(|line| code(line).is_some())
        .filter_map(|part| {
            let (last, body) = part.split_last()?;
            Some((code(last)?, serde_json::from_str(&body.join("")).unwrap_or(Value::Null)))
        })
        .collect()
}

fn a_bad_certificate_is_told_by_what_is_wrong(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let cases = [
        ("expired.bed.test", "its certificate has expired"),
        ("othername.bed.test", "its certificate is for another name"),
        ("selfsigned.bed.test", "its certificate is self-signed"),
        ("untrusted.bed.test", "its certificate is from an unknown issuer"),
        ("mtls.bed.test", "it demands a client certificate"),
    ];
    let hosts: Vec<&str> = cases.iter().map(|(host, _)| *host).chain(["api.bed.test"]).collect();
    let script: String = hosts.iter().map(|host| get(&curl, &format!("https://{host}/fine"))).collect();
    let done = run(stage, "{}", &hosts, &script)?;
    let answers = answers(&done.out());
    ensure!(answers.len() == hosts.len(), "{}", done.out());
    for ((host, wanted), (code, body)) in cases.iter().zip(&answers) {
        let detail = body["detail"].as_str().unwrap_or_default();
        ensure!(*code == 502 && body["error"] == "upstream_unreachable", "{host}: {code} {body}");
        ensure!(detail.contains(host) && detail.contains(wanted), "{host}: {detail}");
    }
    ensure!(answers.last().is_some_and(|(code, _)| *code == 200), "a good one: {answers:?}");
    Ok(())
}

fn a_hidden_server_name_is_refused(stage: &Stage) -> Result<()> {
    let python = program("python3")?;
    stage.script("hidden_hello.py", include_str!("inside/hidden_hello.py"))?;
    let policy = "  relayed:\n    name: relayed\n    endpoints: [ { host: files.bed.test, port: 443 } ]\n    \
                  binaries: [ { path: \"/**\", allow_foreign_code: true } ]";
    let file = policy_file(stage, policy)?;
    let script = format!(
        "{python} /sandbox/hidden_hello.py files.bed.test plain; {python} /sandbox/hidden_hello.py files.bed.test encrypted"
    );
    let options = ["--name", "hidden", "--policy", &file, "--workspace", &workspace(stage)];
    let done = stage.run(&options, &["sh", "-c", &script])?.expect_code(0)?;
    ensure!(done.out() == "100\n0\n", "{} {}", done.out(), done.err());
    let records = common::audit(stage, "hidden")?;
    let told = records.iter().any(|record| record.to_string().contains("encrypted ClientHello"));
    ensure!(told, "it is not on record");
    Ok(())
}

/// Writes the client certificate and key that the world's servers accept to files of this case; others can't
/// read the key.
fn client_pair(stage: &Stage) -> Result<(String, String)> {
    let (cert, key) = stage.world().client_pair()?;
    let cert = stage.write("client.pem", cert)?;
    let key = stage.write("client.key", key)?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
    Ok((cert.display().to_string(), key.display().to_string()))
}

fn a_client_certificate_is_shown_to_its_server_alone(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let (_, key) = client_pair(stage)?;
    let mark = stage.marker();
    // A path beside the file, and an absolute one of the key.
    let config =
        format!("client_certs:\n  - {{ host: mtls.bed.test, cert: client.pem, key: \"file:{key}\" }}\n");
    let hosts = ["mtls.bed.test", "asks.bed.test"];
    let one = |host: &str| get(&curl, &format!("https://{host}/fine?m={mark}"));
    // Each twice, in turn: a session or connection of one host must not be used for the other.
    let script = format!("{}{}{}{}", one(hosts[0]), one(hosts[1]), one(hosts[0]), one(hosts[1]));
    let search = "! grep -rIl 'PRIVATE KEY' /sandbox /tmp /run /proc/self/environ 2>/dev/null";
    let done = run(stage, &config, &hosts, &format!("{script}{search}"))?.expect_code(0)?;
    let codes: Vec<u16> = answers(&done.out()).iter().map(|(code, _)| *code).collect();
    ensure!(codes == [200; 4], "{}", done.out());
    let seen = stage.world().recorder().with_marker(&mark);
    ensure!(seen.len() == 4, "{seen:?}");
    for Seen { host, certified, .. } in seen {
        ensure!(certified == (host == "mtls.bed.test"), "{host} saw a certificate: {certified}");
    }
    Ok(())
}

fn a_client_certificate_that_cannot_be_used_is_refused_at_start(stage: &Stage) -> Result<()> {
    let (cert, key) = client_pair(stage)?;
    let other = stage.write("other.pem", std::fs::read(stage.world().ca_file())?)?.display().to_string();
    let open = stage.write("open.key", std::fs::read(&key)?)?.display().to_string();
    for (host, cert, key, wanted) in [
        ("mtls.bed.test", &cert, "env:BED_KEY".to_owned(), "environment is no place"),
        ("mtls.bed.test", &cert, format!("file:{open}"), "chmod 600"),
        ("mtls.bed.test", &other, format!("file:{key}"), "don't belong together"),
        ("mtls.bed.test", &key, format!("file:{key}"), "no certificate"),
        ("'*.bed.test'", &cert, format!("file:{key}"), "without wildcard"),
    ] {
        let config = format!("client_certs: [ {{ host: {host}, cert: {cert}, key: \"{key}\" }} ]\n");
        let done = run(stage, &config, &[], "true")?.expect_code(125)?;
        ensure!(done.err().contains(wanted) && !done.err().contains("BEGIN"), "{config}: {}", done.err());
    }
    Ok(())
}

/// Opening a pipe would block until another process opens it for writing (fifo(7)).
fn a_pipe_in_a_certificates_place_holds_nothing_up(stage: &Stage) -> Result<()> {
    let (_, key) = client_pair(stage)?;
    let pipe = stage.dir().join("pipe.pem");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR)?;
    // Also for the gateway, which reads what SSL_CERT_FILE names.
    std::fs::set_permissions(&pipe, std::fs::Permissions::from_mode(0o644))?;
    for (config, wanted) in [
        ("upstream_ca: pipe.pem\n".to_owned(), "upstream_ca "),
        (
            format!("client_certs: [ {{ host: mtls.bed.test, cert: pipe.pem, key: \"file:{key}\" }} ]\n"),
            "client_certs: mtls.bed.test:443: ",
        ),
    ] {
        let refused = run(stage, &config, &[], "true")?.expect_code(125)?.err();
        ensure!(refused.contains(wanted) && refused.contains("it is a pipe"), "{config}: {refused}");
    }
    let refused = run(stage, "upstream_ca: none.pem\n", &[], "true")?.expect_code(125)?.err();
    ensure!(refused.contains("upstream_ca ") && refused.contains("name the right one"), "{refused}");
    let mut command = stage.cofferdam(["run", "--quiet", "--", "true"]);
    command.env("SSL_CERT_FILE", &pipe);
    let refused = finish(command, PATIENCE)?.expect_code(125)?.err();
    ensure!(refused.contains("SSL_CERT_FILE") && refused.contains("it is a pipe"), "{refused}");
    Ok(())
}

/// A configuration with the proxy at this port, and providers on loopback and in the world.
fn through(url: &str, more: &str) -> String {
    format!(
        "upstream_proxy: {{ url: \"{url}\"{more} }}\ninference:\n  providers:\n    \
         near: {{ kind: openai, base_url: \"{}\", credential: env:BED_KEY }}\n    \
         far: {{ kind: openai, base_url: \"{}\", credential: env:BED_KEY }}\n  routes:\n    \
         - {{ model: near, to: [ {{ provider: near, model: bed-echo }} ] }}\n    \
         - {{ model: far, to: [ {{ provider: far, model: bed-echo }} ] }}\n",
        provider::BASE_URL,
        provider::REMOTE_BASE_URL,
    )
}

fn at(kind: Kind) -> String {
    format!("http://proxy.bed.test:{}", kind.port())
}

/// Asks a model by its alias.
fn ask(curl: &str, model: &str, mark: &str) -> String {
    let body = format!(
        "{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"{mark} {model}\"}}]}}"
    );
    format!(
        "{curl} -s --max-time 30 -o /dev/null -w '\\n%{{http_code}} %{{http_connect}}\\n' -H 'content-type: application/json' -d '{body}' \
         https://inference.local/v1/chat/completions\n"
    )
}

fn everything_goes_through_the_proxy(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let mark = stage.marker();
    let more = ", credential: env:CORP_PROXY, no_proxy: [files.bed.test, 93.184.215.17/32]";
    let url = |scheme: &str, host: &str| get(&curl, &format!("{scheme}://{host}/fine?m={mark}"));
    let script = [
        url("https", "api.bed.test"),
        // Relayed, by CONNECT and as absolute form.
        get(&format!("{curl} -p"), &format!("http://api.bed.test:8080/fine?m={mark}")),
        url("http", "api.bed.test:8080"),
        url("https", "files.bed.test"),
        url("https", "h1.bed.test"),
        ask(&curl, "near", &mark),
        ask(&curl, "far", &mark),
    ]
    .concat();
    let config = through(&at(Kind::Demanding), more);
    let done = run(stage, &config, &["api.bed.test", "files.bed.test", "h1.bed.test"], &script)?;
    let codes: Vec<u16> = answers(&done.out()).iter().map(|(code, _)| *code).collect();
    ensure!(codes == [200; 7], "{codes:?}\n{}\n{}", done.out(), done.err());
    let recorder = stage.world().recorder();
    let seen = recorder.with_marker(&mark);
    ensure!(seen.len() == 5, "{seen:?}");
    for seen in &seen {
        let straight = ["files.bed.test", "h1.bed.test"].contains(&seen.host.as_str());
        ensure!(seen.proxied != straight, "{} came through the proxy: {}", seen.host, seen.proxied);
    }
    let asked: Vec<_> =
        recorder.all().into_iter().filter(|s| String::from_utf8_lossy(&s.body).contains(&mark)).collect();
    ensure!(asked.len() == 2, "{asked:?}");
    for seen in asked {
        let far = String::from_utf8_lossy(&seen.body).contains(&format!("{mark} far"));
        ensure!(seen.proxied == far, "{seen:?}");
    }
    let granted: Vec<String> =
        recorder.tunnels().into_iter().filter(|t| t.code == 200).map(|t| t.to).collect();
    for to in ["api.bed.test:443", "api.bed.test:8080", "llm.bed.test:443"] {
        ensure!(granted.iter().any(|granted| granted == to), "{to} is not in {granted:?}");
    }
    Ok(())
}

fn a_proxy_that_fails_is_never_passed_by(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let mark = stage.marker();
    let script = [
        get(&curl, &format!("https://api.bed.test/fine?m={mark}")),
        get(&curl, &format!("http://api.bed.test:8080/fine?m={mark}")),
        ask(&curl, "far", &mark),
        // What is exempt still goes.
        get(&curl, "https://files.bed.test/fine"),
    ]
    .concat();
    for (url, wanted) in [
        ("http://closed.bed.test:9".to_owned(), "closed.bed.test:9 can't be reached"),
        ("http://127.0.0.1:9".to_owned(), "127.0.0.1:9 can't be reached"),
        (at(Kind::Refusing), "refused the connection (403)"),
        (at(Kind::Babbling), "gave no answer to CONNECT in HTTP"),
    ] {
        let config = through(&url, ", no_proxy: [files.bed.test]");
        let done = run(stage, &config, &["api.bed.test", "files.bed.test"], &script)?;
        let answers = answers(&done.out());
        let codes: Vec<u16> = answers.iter().map(|(code, _)| *code).collect();
        ensure!(codes == [502, 502, 502, 200], "{url}: {codes:?}\n{}", done.out());
        for (_, body) in answers.iter().take(2) {
            let detail = body["detail"].as_str().unwrap_or_default();
            ensure!(body["error"] == "upstream_unreachable" && detail.contains(wanted), "{url}: {body}");
        }
    }
    let recorder = stage.world().recorder();
    ensure!(recorder.with_marker(&mark).is_empty(), "something was dialled past the proxy");
    let bodies = recorder.all();
    ensure!(
        !bodies.iter().any(|s| String::from_utf8_lossy(&s.body).contains(&mark)),
        "a model was asked past it"
    );
    Ok(())
}

fn a_wrong_credential_is_told_and_never_shown(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let mark = stage.marker();
    let script = format!(
        "{}{}env; cat /proc/self/environ /sandbox/* 2>/dev/null; true",
        get(&curl, &format!("https://api.bed.test/fine?m={mark}")),
        ask(&curl, "far", &mark)
    );
    let mut said = String::new();
    for (more, wanted) in [
        (", credential: env:WRONG", "does not take its credential (407)"),
        ("", "demands a credential (407), and has none"),
    ] {
        let done = run(stage, &through(&at(Kind::Demanding), more), &["api.bed.test"], &script)?;
        let answers = answers(&done.out());
        let (code, body) = answers.first().context("no answer")?;
        let detail = body["detail"].as_str().unwrap_or_default();
        ensure!(*code == 502 && detail.contains(wanted) && detail.contains("proxy.bed.test:3181"), "{body}");
        said += &(done.out() + &done.err());
    }
    // With the right credential; then everything that was recorded meanwhile is searched.
    let right = through(&at(Kind::Demanding), ", credential: env:CORP_PROXY");
    let done = run(stage, &right, &["api.bed.test"], &script)?;
    ensure!(answers(&done.out()).first().is_some_and(|(code, _)| *code == 200), "{}", done.out());
    said += &(done.out() + &done.err());
    for file in files_below(&stage.state()) {
        said += &String::from_utf8_lossy(&std::fs::read(&file).unwrap_or_default());
    }
    ensure!(stage.world().recorder().with_marker(&mark).iter().all(|seen| seen.proxied), "not by the proxy");
    for pair in [CREDENTIAL, "corp:not-the-password-93"] {
        let password = pair.split(':').nth(1).context("a pair")?;
        for secret in [pair.to_owned(), password.to_owned(), STANDARD.encode(pair)] {
            ensure!(!said.contains(&secret), "{secret} was shown");
        }
    }
    ensure_audited(stage, &stage.name(), &[("verdict", "allowed"), ("host", "api.bed.test")])
}

fn the_proxy_resolves_what_this_machine_cannot(stage: &Stage) -> Result<()> {
    let curl = program("curl")?;
    let mark = stage.marker();
    let hosts = ["beyond.bed.test", "api.bed.test", "10.0.0.7", "169.254.169.254"];
    let script = format!(
        "{}{}{}",
        get(&curl, &format!("https://beyond.bed.test/fine?m={mark}")),
        get(&curl, &format!("http://169.254.169.254:8080/fine?m={mark}")),
        get(&curl, "https://api.bed.test/fine"),
    );
    let codes = |resolve: &str| -> Result<Vec<u16>> {
        let config = through(&at(Kind::Open), &format!(", resolve: {resolve}"));
        let done = run(stage, &config, &hosts, &script)?;
        Ok(answers(&done.out()).iter().map(|(code, _)| *code).collect())
    };
    // Tunnels of the other mode's case were recorded before.
    let before = stage.world().recorder().tunnels().len();
    let asked =
        |to: &str| stage.world().recorder().tunnels().iter().skip(before).any(|tunnel| tunnel.to == to);
    ensure!(codes("local")? == [502, 403, 200], "a name that nobody here knows");
    ensure!(!asked("beyond.bed.test:443"), "the proxy heard of a name that was not judged");
    ensure!(codes("pinned")? == [502, 403, 200]);
    ensure!(asked("93.184.215.14:443"), "not by its address");
    ensure!(codes("proxy")? == [200, 403, 200]);
    ensure!(asked("beyond.bed.test:443"));
    ensure!(!asked("169.254.169.254:8080"), "a refused address was asked for");
    ensure!(stage.world().recorder().with_marker(&mark).iter().all(|seen| seen.host == "beyond.bed.test"));
    Ok(())
}

fn a_proxy_that_cannot_be_used_is_refused_at_start(stage: &Stage) -> Result<()> {
    for (proxy, wanted) in [
        ("{ url: \"https://proxy.bed.test:3180\" }", "http://HOST:PORT"),
        ("{ url: \"http://corp:hunter2@proxy.bed.test:3180\" }", "by reference"),
        ("{ url: \"http://proxy.bed.test:3180\", credential: \"corp:hunter2\" }", "env:NAME"),
        ("{ url: \"http://proxy.bed.test:3180\", credential: env:NOT_SET }", "NOT_SET is not set"),
        ("{ url: \"http://proxy.bed.test:3180\", credential: env:BED_KEY }", "user:password"),
        ("{ url: \"http://proxy.bed.test:3180\", no_proxy: [\"*\"] }", "no_proxy"),
        ("{ url: \"http://proxy.bed.test:3180\", resolve: both }", "pinned"),
        ("{ url: \"http://proxy.bed.test:3180\", nonsense: 1 }", "nonsense"),
    ] {
        let done = run(stage, &format!("upstream_proxy: {proxy}\n"), &[], "true")?.expect_code(125)?;
        ensure!(done.err().contains(wanted) && !done.err().contains("hunter2"), "{proxy}: {}", done.err());
    }
    Ok(())
}
