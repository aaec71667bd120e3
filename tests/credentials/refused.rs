//! What keeps a sandbox with credentials from starting: a configuration that can't work, and a key file that
//! agents could read.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use anyhow::{Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, finish};

use crate::common::{self, policy_file, workspace};
use crate::{CREDENTIALS, KEY};

pub fn what_cant_work_is_refused_at_the_start(stage: &Stage) -> Result<()> {
    let place = "use: [ { host: api.bed.test, path: /echo, binaries: [/usr/bin/curl] } ]";
    let file = stage.write("token", "from-a-file-0123456789\n")?.display().to_string();
    for (said, options, wanted) in [
        (format!("from: {KEY:?}, {place}"), &[][..], "credentials.github.from: not a reference"),
        (format!("from: env:NOT_SET_HERE, {place}"), &[], "NOT_SET_HERE is not set"),
        (format!("from: \"file:{file}\", {place}"), &[], "chmod 600"),
        (format!("from: env:BED_SHORT, {place}"), &[], "shorter than 8 bytes"),
        ("from: env:BED_TOKEN, use: []".to_owned(), &[], "without a place to go"),
        (format!("from: env:BED_TOKEN, key: x, {place}"), &[], "key"),
        (
            format!("from: env:BED_TOKEN, env: GITHUB_TOKEN, {place}"),
            &["--env", "GITHUB_TOKEN=x"],
            "set twice",
        ),
    ] {
        let config = stage.write("bad.yaml", format!("credentials:\n  github: {{ {said} }}\n"))?;
        let config = config.display().to_string();
        let words = [&["run", "--config", &config], options, &["--", "true"]].concat();
        let mut run = stage.cofferdam(words);
        run.env("BED_TOKEN", KEY).env("BED_SHORT", "short");
        let done = finish(run, PATIENCE)?.expect_code(125)?;
        ensure!(done.err().contains(wanted), "{said}: {}", done.err());
        ensure!(!done.err().contains("0123456789"), "the refusal shows the key: {}", done.err());
    }
    // A connection that can't be inspected is reported.
    let relayed = "  a: { name: a, endpoints: [ { host: api.bed.test, port: 443, tls: skip } ], binaries: [ { path: /usr/bin/curl } ] }";
    let (policy, config) = (policy_file(stage, relayed)?, stage.write("cofferdam.yaml", CREDENTIALS)?);
    let mut run = stage.cofferdam([
        "run",
        "--config",
        &config.display().to_string(),
        "--policy",
        &policy,
        "--",
        "true",
    ]);
    run.env("BED_TOKEN", KEY);
    let done = finish(run, PATIENCE)?.expect_code(0)?;
    ensure!(
        done.err().contains("credentials.github: api.bed.test is reached by a relayed entry only"),
        "{}",
        done.err()
    );
    ensure!(done.err().contains("h2.bed.test is reached by no entry of the policy"), "{}", done.err());
    Ok(())
}

/// A key file is refused wherever the policy, the workspace or another root shows it to agents, and in
/// whichever setting it is named.
pub fn a_keys_file_that_agents_can_read_is_refused(stage: &Stage) -> Result<()> {
    let at = |name: &str| stage.dir().join(name).display().to_string();
    for dir in ["workspace/sub", "shown", "written", "root", "private"] {
        std::fs::create_dir_all(stage.dir().join(dir))?;
    }
    let (cert, key) = stage.world().client_pair()?;
    stage.write("private/client.pem", cert)?;
    for (name, text) in [
        ("workspace/sub/key", "user:password-0123456789\n"),
        ("shown/key", "user:password-0123456789\n"),
        ("written/key", "user:password-0123456789\n"),
        ("root/key", "user:password-0123456789\n"),
        ("private/key", "user:password-0123456789\n"),
        ("workspace/client.key", key.as_str()),
        ("private/client.key", key.as_str()),
    ] {
        std::fs::set_permissions(stage.write(name, text)?, std::fs::Permissions::from_mode(0o600))?;
    }
    for (to, link) in [
        ("workspace/sub/key", "private/in"),
        ("workspace/sub", "private/way"),
        ("private", "workspace/out"),
        ("workspace/out", "private/through"),
    ] {
        symlink(stage.dir().join(to), stage.dir().join(link))?;
    }
    let policy = common::policy("")
        .replace("    - /etc ", &format!("    - {}\n    - /etc ", at("shown")))
        .replace("  read_write:\n", &format!("  read_write:\n    - {}\n", at("written")));
    let policy = stage.write("policy.yaml", policy)?.display().to_string();
    let credential = |key: &str| {
        let place = "use: [ { host: api.bed.test, path: /echo, binaries: [/usr/bin/curl] } ]";
        format!("credentials: {{ github: {{ from: \"file:{key}\", {place} }} }}\n")
    };
    let certificate = |key: &str| {
        let pem = at("private/client.pem");
        format!("client_certs: [ {{ host: mtls.bed.test, cert: {pem}, key: \"file:{key}\" }} ]\n")
    };
    let proxy = |key: &str| {
        format!("upstream_proxy: {{ url: \"http://127.0.0.1:9\", credential: \"file:{key}\" }}\n")
    };
    let provider = |key: &str| {
        let to = "kind: openai, base_url: \"http://127.0.0.1:9/v1\"";
        format!("inference: {{ providers: {{ a: {{ {to}, credential: \"file:{key}\" }} }} }}\n")
    };
    let start = |section: &str, service: bool, root: bool| {
        let root = if root { format!("root: {}\n", at("root")) } else { String::new() };
        let workspace = workspace(stage);
        let text = format!(
            "name: keys\npolicy: {policy}\nworkspace: {workspace}\n{root}agents: {{ a: {{ command: [\"true\"] }} }}\n{section}"
        );
        let file = stage.write("keys.yaml", text)?.display().to_string();
        match service {
            true => stage.call(&["up", "-f", &file, "--metrics", "off"]),
            false => stage.call(&["run", "--quiet", "--config", &file, "--", "true"]),
        }
    };
    for (section, key, root) in [
        (&credential as &dyn Fn(&str) -> String, "workspace/sub/key", false),
        (&credential, "private/in", false),
        (&credential, "private/way/key", false),
        (&credential, "workspace/out/key", false),
        (&credential, "private/through/key", false),
        (&credential, "shown/key", false),
        (&credential, "written/key", false),
        (&credential, "root/key", true),
        (&provider, "shown/key", false),
        (&proxy, "shown/key", false),
        (&certificate, "workspace/client.key", false),
    ] {
        for service in [false, true] {
            let refused = start(&section(&at(key)), service, root)?.expect_code(125)?.err();
            let named = refused.contains(&format!("credential file:{} lies in", at(key)));
            ensure!(named && refused.contains("move it out of"), "{key}: {refused}");
            ensure!(!refused.contains("0123456789"), "the refusal shows the key: {refused}");
        }
    }
    for (section, key) in [
        (&credential as &dyn Fn(&str) -> String, "private/key"),
        (&proxy, "private/key"),
        (&certificate, "private/client.key"),
    ] {
        start(&section(&at(key)), false, false)?.expect_code(0)?;
    }
    Ok(())
}
