//! Whole files: policies in the form that OpenShell and NemoClaw users write load unchanged and mean what
//! they mean there, and the built-in ones let the real clients' requests through and no others.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test")]

use cofferdam_policy::{
    Builtin, Candidate, Compiled, Difference, Executable, Landlock, Layer, Policy, Question, Verdict,
    compose, parse, parse_preset, preset, presets, profile, profiles,
};

const AGENT: &str = include_str!("policies/agent-sandbox.yaml");
const OVERLAPPING: &str = include_str!("policies/overlapping.yaml");
const PRESET: &str = include_str!("policies/preset.yaml");

fn load(name: &str, text: &str) -> Policy {
    parse(name, text).unwrap_or_else(|errors| panic!("{errors}")).policy
}

/// Asks by URL (a `ws` or `wss` URL is a handshake).
fn verdict(compiled: &Compiled, program: &str, method: &str, url: &str) -> Verdict {
    let question = Question::parse(program, Some(method), url).unwrap();
    compiled.explain(&question).verdict
}

#[track_caller]
fn check(compiled: &Compiled, cases: &[(&str, &str, &str, Verdict)]) {
    for (program, method, url, wanted) in cases {
        assert_eq!(verdict(compiled, program, method, url), *wanted, "{program} {method} {url}");
    }
}

use Verdict::{Allow, Audit, Deny};

#[test]
fn an_agent_policy_in_nemoclaw_form_loads_unchanged() {
    let policy = load("agent-sandbox.yaml", AGENT);
    assert_eq!(policy.landlock(), Landlock::BestEffort);
    assert!(policy.filesystem().read_only.iter().all(|path| path.optional));
    let compiled = Compiled::new(&policy).unwrap();
    let (agent, gh, git, node) = ("/usr/local/bin/agent", "/usr/bin/gh", "/usr/bin/git", "/usr/bin/node");
    check(
        &compiled,
        &[
            (agent, "DELETE", "https://api.vendor.example/v1/x", Allow),
            (agent, "POST", "https://telemetry.vendor.example/", Allow),
            (gh, "DELETE", "https://api.vendor.example/v1/x", Deny),
            (gh, "POST", "https://code.example/anything", Allow),
            (git, "GET", "https://code.example/o/r.git/info/refs?service=git-upload-pack", Allow),
            (git, "GET", "https://code.example/o/r.git/info/refs", Deny),
            (git, "POST", "https://code.example/o/r.git/git-upload-pack", Allow),
            (git, "POST", "https://code.example/o/r.git/git-receive-pack", Deny),
            (node, "POST", "https://api.messenger.example/bot1:x/send", Allow),
            (node, "POST", "https://api.messenger.example/user/send", Deny),
            (node, "GET", "wss://gateway.messenger.example/?v=10", Allow),
            (node, "GET", "https://gateway.messenger.example/?v=10", Deny),
            (node, "GET", "wss://eu.messenger.example:8443/live/1", Allow),
            (node, "GET", "wss://eu.messenger.example:8443/other", Deny),
        ],
    );
}

#[test]
fn overlapping_entries_wildcards_and_deny_rules_load_and_decide() {
    let compiled = Compiled::new(&load("overlapping.yaml", OVERLAPPING)).unwrap();
    let (gh, curl, psql) = ("/usr/bin/gh", "/usr/bin/curl", "/usr/bin/psql");
    check(
        &compiled,
        &[
            (curl, "GET", "https://repos.api.example/repos/o/r", Allow),
            (curl, "POST", "https://repos.api.example/repos/o/r", Deny),
            (gh, "POST", "https://repos.api.example/repos/o/r/pulls", Allow),
            (gh, "POST", "https://repos.api.example/repos/o/r/pulls/7/reviews", Deny),
            (gh, "GET", "https://repos.api.example/repos/o/r/rulesets", Deny),
            (gh, "GET", "https://repos.api.example/search?q=cats", Allow),
            (gh, "GET", "https://repos.api.example/search?q=cats&q=secrets", Deny),
            (gh, "DELETE", "https://repos.api.example/repos/o/r", Deny),
            // Deny rules bind those who match their entry: curl reads what gh may not.
            (curl, "GET", "https://repos.api.example/repos/o/r/rulesets", Allow),
            (curl, "GET", "https://a.b.mirror.example/x", Allow),
            (curl, "GET", "http://a.mirror.example/x", Allow),
            (curl, "GET", "https://mirror.example/x", Deny),
            (curl, "GET", "https://eu-region.cloud.example/x", Allow),
            (curl, "GET", "https://eu.cloud.example/x", Deny),
        ],
    );
    for (place, wanted) in [
        ("db.internal.example:5432", Allow),
        ("any.example:5433", Allow),
        ("192.168.7.7:22", Allow),
        ("192.168.7.8:22", Deny),
        ("10.0.8.3:5433", Allow),
        ("10.0.9.3:5433", Deny),
        ("mtls.internal.example:8883", Allow),
    ] {
        let question = Question::parse(psql, None, place).unwrap();
        assert_eq!(compiled.explain(&question).verdict, wanted, "{place}");
    }
    let mut question =
        Question::parse("/sandbox/v/bin/python3.12", Some("POST"), "https://beta.api.example:8443/@s%2Fx")
            .unwrap();
    let refused = compiled.explain(&question);
    assert_eq!(refused.denial.unwrap().layer, Layer::Identity);
    assert!(matches!(refused.nearest.unwrap().differs[0], Difference::Content(_)));
    question.caller.executable = Executable { sha256: [3; 32], ..question.caller.executable };
    assert_eq!(compiled.explain(&question).verdict, Audit);
}

#[test]
fn a_preset_in_nemoclaw_form_loads_and_composes() {
    let (weather, warnings) = parse_preset("preset.yaml", PRESET).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!((&*weather.name, weather.network().len()), ("weather", 1));
    assert!(!warnings.is_empty());
    let policy = compose(load("agent-sandbox.yaml", AGENT), &[weather]).unwrap();
    let compiled = Compiled::new(&policy).unwrap();
    assert_eq!(verdict(&compiled, "/usr/bin/curl", "GET", "https://forecast.example/today"), Allow);
}

#[test]
fn every_built_in_policy_loads_without_a_warning() {
    for builtin in profiles() {
        let parsed = builtin.policy().unwrap_or_else(|errors| panic!("{errors}"));
        assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
    }
    for builtin in presets() {
        let (preset, warnings) =
            parse_preset(builtin.name, builtin.text).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(&*preset.name, builtin.name);
        assert!(warnings.is_empty(), "{warnings}");
    }
}

#[test]
fn the_entries_of_a_profile_are_those_of_the_presets_of_that_name() {
    for builtin in profiles() {
        let all: Vec<_> = presets().iter().map(|p| p.preset().unwrap()).collect();
        if let Err(errors) = compose(builtin.policy().unwrap().policy, &all) {
            panic!("{}: {errors}", builtin.name);
        }
    }
}

#[test]
fn locked_down_has_no_network() {
    let policy = profile("locked-down").unwrap().policy().unwrap().policy;
    assert!(policy.network().is_empty());
    let compiled = Compiled::new(&policy).unwrap();
    assert_eq!(verdict(&compiled, "/usr/bin/curl", "GET", "https://example.com/"), Deny);
    let writable: Vec<_> = policy.filesystem().read_write.iter().map(|p| p.path.to_str().unwrap()).collect();
    assert!(
        writable.iter().all(|p| ["/sandbox", "/tmp", "/var/tmp"].contains(p) || p.starts_with("/dev/")),
        "{writable:?}"
    );
}

fn with(builtin: &Builtin) -> Compiled {
    let base = load("empty", "version: 1\n");
    Compiled::new(&compose(base, &[builtin.preset().unwrap()]).unwrap()).unwrap()
}

#[test]
fn pypi_is_for_python_reading() {
    let python = "/usr/bin/python3.11";
    check(
        &with(preset("pypi").unwrap()),
        &[
            (python, "GET", "https://pypi.org/simple/requests/", Allow),
            (python, "HEAD", "https://pypi.org/simple/requests", Allow),
            (
                python,
                "GET",
                "https://files.pythonhosted.org/packages/ab/cd/ef/x-1.0-py3-none-any.whl.metadata",
                Allow,
            ),
            ("/sandbox/venv/bin/python3", "GET", "https://pypi.org/simple/pip/", Allow),
            (
                "/sandbox/.local/share/uv/python/cpython-3.12/bin/python3.12",
                "GET",
                "https://pypi.org/simple/pip/",
                Allow,
            ),
            ("/usr/local/bin/uv", "GET", "https://files.pythonhosted.org/packages/x.whl", Allow),
            (python, "POST", "https://upload.pypi.org/legacy/", Deny),
            (python, "POST", "https://pypi.org/simple/requests/", Deny),
            (python, "GET", "https://pypi.org/manage/account/", Deny),
            ("/usr/bin/curl", "GET", "https://pypi.org/simple/requests/", Deny),
            ("/sandbox/evil", "GET", "https://pypi.org/simple/requests/", Deny),
        ],
    );
}

#[test]
fn npm_is_for_node_reading() {
    let node = "/usr/bin/node";
    check(
        &with(preset("npm").unwrap()),
        &[
            (node, "GET", "https://registry.npmjs.org/lodash", Allow),
            (node, "GET", "https://registry.npmjs.org/@types%2fnode", Allow),
            (node, "GET", "https://registry.npmjs.org/@types/node", Allow),
            (node, "GET", "https://registry.npmjs.org/lodash/-/lodash-4.17.21.tgz", Allow),
            (node, "GET", "https://registry.npmjs.org/@types/node/-/node-20.0.0.tgz", Allow),
            (node, "GET", "https://registry.yarnpkg.com/lodash", Allow),
            ("/sandbox/.nvm/versions/node/v22/bin/node", "GET", "https://registry.npmjs.org/lodash", Allow),
            (node, "PUT", "https://registry.npmjs.org/lodash", Deny),
            (node, "POST", "https://registry.npmjs.org/-/npm/v1/security/advisories/bulk", Deny),
            (node, "GET", "https://registry.npmjs.org/-/npm/v1/user", Deny),
            ("/usr/bin/curl", "GET", "https://registry.npmjs.org/lodash", Deny),
        ],
    );
}

#[test]
fn github_is_for_clones_and_reading() {
    let helper = "/usr/lib/git-core/git-remote-http";
    check(
        &with(preset("github").unwrap()),
        &[
            (helper, "GET", "https://github.com/o/r.git/info/refs?service=git-upload-pack", Allow),
            (helper, "GET", "https://github.com/o/r/info/refs?service=git-upload-pack", Allow),
            (helper, "POST", "https://github.com/o/r.git/git-upload-pack", Allow),
            (
                "/usr/local/libexec/git-core/git-remote-http",
                "POST",
                "https://github.com/o/r.git/git-upload-pack",
                Allow,
            ),
            (helper, "GET", "https://github.com/o/r.git/info/refs?service=git-receive-pack", Deny),
            (
                helper,
                "GET",
                "https://github.com/o/r.git/info/refs?service=git-upload-pack&service=git-receive-pack",
                Deny,
            ),
            (helper, "POST", "https://github.com/o/r.git/git-receive-pack", Deny),
            (helper, "GET", "https://github.com/o/r", Deny),
            ("/usr/bin/gh", "GET", "https://api.github.com/repos/o/r/issues", Allow),
            ("/usr/bin/gh", "POST", "https://api.github.com/graphql", Deny),
            ("/usr/bin/curl", "GET", "https://api.github.com/user", Deny),
        ],
    );
}

#[test]
fn huggingface_is_for_python_reading() {
    let python = "/usr/local/bin/python3.12";
    check(
        &with(preset("huggingface").unwrap()),
        &[
            (python, "GET", "https://huggingface.co/api/models/gpt2/revision/main", Allow),
            (python, "HEAD", "https://huggingface.co/gpt2/resolve/main/config.json", Allow),
            (python, "GET", "https://huggingface.co/o/m/resolve/main/a/b.safetensors", Allow),
            (python, "GET", "https://huggingface.co/datasets/o/d/resolve/main/x.parquet", Allow),
            (python, "GET", "https://huggingface.co/api/models/o/m/xet-read-token/abc", Allow),
            (python, "GET", "https://cdn-lfs.huggingface.co/x", Allow),
            (python, "GET", "https://cdn-lfs-us-1.hf.co/x", Allow),
            (python, "GET", "https://cas-bridge.xethub.hf.co/x", Allow),
            (python, "POST", "https://huggingface.co/api/repos/create", Deny),
            (python, "GET", "https://evil.hf.co/x", Deny),
            (python, "POST", "https://router.huggingface.co/v1/chat/completions", Deny),
            ("/usr/bin/curl", "GET", "https://huggingface.co/gpt2/resolve/main/config.json", Deny),
        ],
    );
}

#[test]
fn local_inference_is_for_talking_to_models_not_for_managing_them() {
    let python = "/usr/bin/python3.11";
    check(
        &with(preset("local-inference").unwrap()),
        &[
            (python, "POST", "http://host.cofferdam.internal:8000/v1/chat/completions", Allow),
            (python, "GET", "http://host.cofferdam.internal:11434/api/tags", Allow),
            ("/usr/bin/node", "POST", "http://host.cofferdam.internal:11434/api/chat", Allow),
            (python, "POST", "http://host.cofferdam.internal:11434/api/pull", Deny),
            (python, "DELETE", "http://host.cofferdam.internal:11434/api/delete", Deny),
            (python, "POST", "http://host.cofferdam.internal:9000/v1/chat/completions", Deny),
            ("/usr/bin/curl", "POST", "http://host.cofferdam.internal:8000/v1/chat/completions", Deny),
        ],
    );
}

#[test]
fn integration_testing_reaches_local_services_only() {
    let compiled = Compiled::new(&profile("integration-testing").unwrap().policy().unwrap().policy).unwrap();
    check(
        &compiled,
        &[
            ("/usr/bin/curl", "DELETE", "http://host.cofferdam.internal:8080/items/1", Allow),
            ("/usr/bin/curl", "GET", "ws://host.cofferdam.internal:8080/ws", Allow),
            ("/usr/bin/curl", "GET", "ws://host.cofferdam.internal:8080/other", Deny),
            ("/usr/bin/curl", "GET", "http://host.cofferdam.internal:22/", Deny),
            ("/usr/bin/curl", "GET", "https://example.com/", Deny),
            ("/usr/bin/python3.11", "GET", "https://pypi.org/simple/pytest/", Allow),
        ],
    );
}

#[test]
fn a_candidate_of_a_profile_with_every_preset_compiles() {
    let all: Vec<_> = presets().iter().map(|p| p.preset().unwrap()).collect();
    for builtin in profiles() {
        assert!(Candidate::new(builtin.name, builtin.text, &all).is_ok());
    }
}
