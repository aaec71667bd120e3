//! The environment of an agent: built from scratch, so that no variable of the operator's passes unless it
//! was named.
//!
//! A pure function. Values of the operator's choice never override what the cage depends on: `PATH`, home,
//! the proxies and the certificate bundle. Variables that make programs load foreign code are dropped.

use crate::plan::{CA_BUNDLE, RUN_DIR, WORKSPACE};
use std::collections::BTreeMap;

/// Marks every process that an agent starts as this agent's.
pub const AGENT_VARIABLE: &str = "COFFERDAM_AGENT";
/// The only `PATH`.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin";
/// Stands in for a key where one is expected: the gateway puts the true one in, outside.
pub const PLACEHOLDER_KEY: &str = "cofferdam-placeholder-key";
/// The explicit proxy inside.
pub const PROXY: &str = "http://127.0.0.1:3128";

/// Variables that make a loader or runtime execute arbitrary code in every program started.
const PRELOAD: &[&str] = &[
    "LD_PRELOAD",
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "LD_BIND_NOT",
    "LD_DEBUG_OUTPUT",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "NODE_OPTIONS",
    "PYTHONSTARTUP",
    "PYTHONHOME",
    "PYTHONINSPECT",
    "PERL5OPT",
    "PERL5LIB",
    "PERL5DB",
    "RUBYOPT",
    "RUBYLIB",
    "JAVA_TOOL_OPTIONS",
    "_JAVA_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "BASH_ENV",
    "ENV",
    "PROMPT_COMMAND",
];

/// The fixed part. What is here can't be overridden.
const FIXED: &[(&str, &str)] = &[
    ("HOME", WORKSPACE),
    ("USER", "sandbox"),
    ("LOGNAME", "sandbox"),
    ("PATH", PATH),
    ("TMPDIR", "/tmp"),
    ("HTTP_PROXY", PROXY),
    ("HTTPS_PROXY", PROXY),
    ("ALL_PROXY", PROXY),
    ("http_proxy", PROXY),
    ("https_proxy", PROXY),
    ("all_proxy", PROXY),
    ("NODE_USE_ENV_PROXY", "1"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// Defaults which the operator may override.
const DEFAULT: &[(&str, &str)] = &[
    ("SHELL", "/bin/bash"),
    ("LANG", "C.UTF-8"),
    ("TERM", "dumb"),
    ("NO_PROXY", "localhost,127.0.0.1,::1"),
    ("no_proxy", "localhost,127.0.0.1,::1"),
    ("OPENAI_BASE_URL", "https://inference.local/v1"),
    ("ANTHROPIC_BASE_URL", "https://inference.local"),
    ("OPENAI_API_KEY", PLACEHOLDER_KEY),
    ("ANTHROPIC_API_KEY", PLACEHOLDER_KEY),
    // OpenClaw's file library uses only openat2(2), which isn't available here, unless it is told otherwise.
    ("FS_SAFE_NATIVE_MODE", "off"),
];

/// The variables in which programs look for the bundle of trusted roots; no single one serves all.
const BUNDLE: &[&str] = &[
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "NPM_CONFIG_CAFILE",
    "DENO_CERT",
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    // gRPC's libraries bring roots of their own, and read no other variable.
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
];

/// The environment, and the names of the extras that were not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// `NAME=value`, sorted, for [`crate::protocol::SpawnSpec`].
    pub variables: Vec<Vec<u8>>,
    /// Names among the extras that were dropped: locked, preloading or malformed.
    pub dropped: Vec<String>,
}

/// Builds the environment of an agent from defaults and named extras; a later extra wins over an earlier one.
#[must_use]
pub fn build(agent: &str, extras: &[(String, String)]) -> Environment {
    let bundle = format!("{RUN_DIR}/{CA_BUNDLE}");
    let mut fixed: BTreeMap<&str, String> =
        FIXED.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    fixed.extend(BUNDLE.iter().map(|name| (*name, bundle.clone())));
    fixed.insert(AGENT_VARIABLE, agent.to_owned());

    let mut all: BTreeMap<&str, String> =
        DEFAULT.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    let mut dropped = Vec::new();
    for (name, value) in extras {
        if fixed.contains_key(name.as_str()) || is_preload(name) || !is_well_formed(name, value) {
            dropped.push(name.clone());
        } else {
            all.insert(name, value.clone());
        }
    }
    all.extend(fixed);
    let variables = all.into_iter().map(|(name, value)| format!("{name}={value}").into_bytes()).collect();
    Environment { variables, dropped }
}

fn is_preload(name: &str) -> bool {
    PRELOAD.contains(&name) || name.starts_with("LD_") || name.starts_with("BASH_FUNC_")
}

/// Whether a variable can stand in an environment at all.
pub fn is_well_formed(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value<'a>(environment: &'a Environment, name: &str) -> Option<&'a str> {
        let prefix = format!("{name}=");
        environment
            .variables
            .iter()
            .find_map(|v| std::str::from_utf8(v).unwrap().strip_prefix(prefix.as_str()))
    }

    fn extra(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn every_variable_of_the_contract_is_there() {
        let environment = build("hermes", &[]);
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            assert_eq!(value(&environment, name), Some("http://127.0.0.1:3128"), "{name}");
        }
        for name in BUNDLE {
            assert_eq!(value(&environment, name), Some("/run/cofferdam/ca-bundle.pem"), "{name}");
        }
        assert_eq!(value(&environment, "HOME"), Some("/sandbox"));
        assert_eq!(value(&environment, "NO_PROXY"), Some("localhost,127.0.0.1,::1"));
        assert_eq!(value(&environment, "OPENAI_BASE_URL"), Some("https://inference.local/v1"));
        assert_eq!(value(&environment, "ANTHROPIC_BASE_URL"), Some("https://inference.local"));
        assert_eq!(value(&environment, "AWS_EC2_METADATA_DISABLED"), Some("true"));
        assert_eq!(value(&environment, "COFFERDAM_AGENT"), Some("hermes"));
    }

    #[test]
    fn what_is_named_passes_and_what_locks_stays() {
        let extras = [
            extra("TZ", "UTC"),
            extra("PATH", "/sandbox/bin"),
            extra("LD_PRELOAD", "/sandbox/x.so"),
            extra("LD_ANYTHING", "1"),
            extra("NODE_OPTIONS", "--require /sandbox/x.js"),
            extra("HTTPS_PROXY", "http://elsewhere"),
            extra("OPENAI_BASE_URL", "https://mine"),
            extra("A=B", "c"),
        ];
        let environment = build("a", &extras);
        assert_eq!(value(&environment, "TZ"), Some("UTC"));
        assert_eq!(value(&environment, "PATH"), Some(PATH));
        assert_eq!(value(&environment, "OPENAI_BASE_URL"), Some("https://mine"));
        assert_eq!(
            environment.dropped,
            ["PATH", "LD_PRELOAD", "LD_ANYTHING", "NODE_OPTIONS", "HTTPS_PROXY", "A=B"]
        );
    }

    proptest! {
        #[test]
        fn no_extra_ever_changes_what_is_fixed(name in "[A-Za-z_=]{0,12}", text in ".{0,20}") {
            let environment = build("a", &[(name, text)]);
            prop_assert_eq!(value(&environment, "PATH"), Some(PATH));
            let preload = environment.variables.iter().any(|v| v.starts_with(b"LD_"));
            prop_assert!(!preload);
            let zero = environment.variables.iter().any(|v| v.contains(&0));
            prop_assert!(!zero);
        }
    }
}
