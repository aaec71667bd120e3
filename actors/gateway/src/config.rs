//! The `inference:` section of cofferdam.yaml as data, and its check.
//!
//! Reading is done by serde, checking by [`Inference::check`], which reports *every* fault at once. A literal
//! key never leaves this file: it is dropped while it is read, so that neither an error text nor a `Debug`
//! print can show it. Nothing here opens a file or a socket, or reads an environment variable.

use std::{collections::BTreeMap, fmt, time::Duration};

use policy::NamedProgram;
use redactor::{Credential, Reference};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::IgnoredAny};
use smol_str::SmolStr;

use crate::{
    base_url::BaseUrl,
    budgets::{self, Budget},
    glob::Glob,
    programs::Programs,
};

/// Most providers in one file: each may hold a few idle connections.
pub const MAX_PROVIDERS: usize = 32;
/// Most routes in one file: they are tried in order, so the list is kept short.
pub const MAX_ROUTES: usize = 256;
/// Most targets of one route.
pub const MAX_TARGETS: usize = 8;
/// Longest model name or alias, in bytes. Published names stay under 100.
pub const MAX_MODEL_NAME: usize = 256;
/// Longest time-out that may be configured: a day. A longer one is taken for a typing error.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// `inference:` as written.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inference {
    /// Providers by name.
    #[serde(default)]
    pub providers: BTreeMap<SmolStr, Provider>,
    /// Routes, tried in the order of the file.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// The budgets: how much may be used in each window of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<Budget>,
    /// The programs that may ask the gateway, as a policy's entry names them. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binaries: Option<Vec<NamedProgram>>,
}

/// One upstream that answers model requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Which protocol it speaks.
    pub kind: Kind,
    /// Where it answers; see [`BaseUrl`].
    pub base_url: String,
    /// The reference to its key; absent for a server that needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
    /// How far the operator trusts it with what the agent says.
    #[serde(default)]
    pub trust: Trust,
    /// What it costs.
    #[serde(default)]
    pub cost: Cost,
    /// Whether it is asked what a stream used.
    #[serde(default)]
    pub stream_usage: StreamUsage,
}

/// The protocol of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Chat completions, completions, responses, embeddings; `Authorization: Bearer`.
    Openai,
    /// Messages, count_tokens; `x-api-key`.
    Anthropic,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Openai, Self::Anthropic];

    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Anthropic => "anthropic",
        }
    }
}

/// How far the operator trusts a provider. Changes no decision; `status` shows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// May see everything.
    High,
    /// The default.
    #[default]
    Standard,
    /// Should see nothing private.
    Low,
    /// The operator's own machine.
    SelfHosted,
}

/// What a provider costs. Assumed to cost money unless the file says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cost {
    /// Paid by the token.
    #[default]
    PerToken,
    /// A request adds no cost.
    None,
}

/// Whether a provider of OpenAI's protocol is asked for a stream's usage where the agent doesn't ask. Most
/// know the option; some refuse a request that has it (Mistral's, with 422).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamUsage {
    /// The gateway asks, and takes the usage out of the stream that the agent gets.
    #[default]
    Ask,
    /// The provider gets what the agent wrote.
    Leave,
}

/// Which targets serve which model names.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The name that the agent may use: literal, or with `*` for any run of characters.
    pub model: String,
    /// The targets in order of preference. A later one is asked if an earlier one can't be connected to, or
    /// answers that it doesn't serve the request (429, 5xx).
    pub to: Vec<Target>,
    /// Time-outs of this route.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// The programs that may use the route, of those that may ask the gateway at all. Absent: each of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binaries: Option<Vec<NamedProgram>>,
}

/// A provider and the name that the model has there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// A key of `providers`.
    pub provider: SmolStr,
    /// The model name that is written into the request. Absent: the agent's own name is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

/// Time-outs, each from 1 ms to [`MAX_TIMEOUT`]. Written as `10s`, `5m`, `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Name, TCP and TLS together.
    #[serde(with = "span")]
    pub connect: Duration,
    /// From the request's last byte to the answer's head.
    #[serde(with = "span")]
    pub first_byte: Duration,
    /// Between two pieces of the answer's body.
    #[serde(with = "span")]
    pub idle: Duration,
    /// The whole exchange.
    #[serde(with = "span")]
    pub total: Duration,
}

impl Timeouts {
    /// Ten seconds are enough to reach any host that is up.
    pub const CONNECT: Duration = Duration::from_secs(10);
    /// An unstreamed answer comes only when it is complete, and a reasoning model on local hardware takes
    /// minutes.
    pub const FIRST_BYTE: Duration = Duration::from_secs(300);
    /// Providers send a ping every 15–30 s while a stream thinks.
    pub const IDLE: Duration = Duration::from_secs(120);
    /// Longer than the longest turn that clients themselves wait for (ten minutes), with room.
    pub const TOTAL: Duration = Duration::from_secs(30 * 60);
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Self::CONNECT, first_byte: Self::FIRST_BYTE, idle: Self::IDLE, total: Self::TOTAL }
    }
}

/// A field of which only the presence counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present;

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(from).map(|_| Self)
    }
}

/// One fault in the section, with its place and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("inference.{at}: {what}")]
pub struct Fault {
    /// Path below `inference`, such as `routes[0].to[1].provider`.
    pub at: String,
    /// What is wrong and how to fix it.
    pub what: String,
}

/// All faults of one section.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl Inference {
    /// Every reference that a provider names, for the CLI to resolve before the start.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.providers.values().filter_map(|p| p.credential.as_ref()?.reference())
    }

    /// Warnings about what the operator may not have meant: a key that is sent in clear to another machine,
    /// so that everybody on the way can read it.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.providers.iter().filter(|(_, provider)| provider.credential.is_some()).filter_map(|(name, provider)| {
            let base = BaseUrl::parse(&provider.base_url).ok()?;
            (!base.tls && !base.is_loopback()).then(|| {
                format!(
                    "inference.providers.{name}: its key goes to {} in the clear: let `base_url` begin with https://",
                    base.authority()
                )
            })
        })
    }

    /// Checks the section without touching files, sockets or the environment.
    ///
    /// # Errors
    /// Every fault found.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Vec::new();
        let mut fault = |at: String, what: String| faults.push(Fault { at, what });
        if self.providers.len() > MAX_PROVIDERS {
            fault("providers".into(), format!("more than {MAX_PROVIDERS} providers"));
        }
        if self.routes.len() > MAX_ROUTES {
            fault("routes".into(), format!("more than {MAX_ROUTES} routes"));
        }
        for (name, provider) in &self.providers {
            check_provider(name, provider, &mut fault);
        }
        let mut seen = BTreeMap::new();
        for (n, route) in self.routes.iter().enumerate() {
            if let Some(first) = seen.insert(route.model.as_str(), n) {
                fault(
                    format!("routes[{n}].model"),
                    format!("\"{}\" is already routes[{first}]", route.model),
                );
            }
            self.check_route(n, route, &mut fault);
        }
        if let Err(found) = Programs::compile("", self.binaries.as_deref()) {
            found.into_iter().for_each(|Fault { at, what }| fault(at, what));
        }
        budgets::check(self, &mut fault);
        if faults.is_empty() { Ok(()) } else { Err(Faults(faults)) }
    }

    /// The message for a name that no provider has.
    #[must_use]
    pub fn no_provider(&self, name: &str) -> String {
        if self.providers.is_empty() {
            return format!("no provider is called \"{name}\": none is named under `providers`");
        }
        let known: Vec<_> = self.providers.keys().map(SmolStr::as_str).collect();
        let near = policy::nearest(name, &known).map(|near| format!("; did you mean \"{near}\"?"));
        format!(
            "no provider is called \"{name}\"; there are: {}{}",
            known.join(", "),
            near.unwrap_or_default()
        )
    }

    fn check_route(&self, n: usize, route: &Route, fault: &mut impl FnMut(String, String)) {
        if let Err(reason) = Glob::parse(&route.model) {
            fault(format!("routes[{n}].model"), reason.into());
        }
        if route.to.is_empty() {
            fault(format!("routes[{n}].to"), "no target: name at least one provider".into());
        }
        if route.to.len() > MAX_TARGETS {
            fault(format!("routes[{n}].to"), format!("more than {MAX_TARGETS} targets"));
        }
        if let Err(found) = Programs::compile(&format!("routes[{n}]."), route.binaries.as_deref()) {
            found.into_iter().for_each(|Fault { at, what }| fault(at, what));
        }
        for (m, target) in route.to.iter().enumerate() {
            if !self.providers.contains_key(&target.provider) {
                fault(format!("routes[{n}].to[{m}].provider"), self.no_provider(&target.provider));
            }
            if let Some(model) = &target.model
                && let Err(reason) = plain_name(model)
            {
                fault(format!("routes[{n}].to[{m}].model"), reason.into());
            }
        }
        let t = &route.timeouts;
        for (field, value) in
            [("connect", t.connect), ("first_byte", t.first_byte), ("idle", t.idle), ("total", t.total)]
        {
            if value < Duration::from_millis(1) || value > MAX_TIMEOUT {
                fault(format!("routes[{n}].timeouts.{field}"), "must lie between 1ms and 24h".into());
            }
        }
    }
}

fn check_provider(name: &str, provider: &Provider, fault: &mut impl FnMut(String, String)) {
    // The name becomes a metrics label, so it is held to a small alphabet.
    let tame = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(tame) {
        fault(
            "providers".into(),
            format!("provider name {name:?}: letters, digits, `-`, `_` and `.`, at most 64"),
        );
    }
    if let Err(reason) = BaseUrl::parse(&provider.base_url) {
        fault(format!("providers.{name}.base_url"), reason.to_string());
    }
    if let Some(Credential::Refused(reason)) = &provider.credential {
        fault(format!("providers.{name}.credential"), (*reason).into());
    }
}

/// Checks that a model name can stand in JSON, in a log line and in a label as it is.
pub(crate) fn plain_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > MAX_MODEL_NAME {
        return Err("a model name has 1 to 256 bytes");
    }
    if !name.chars().all(|c| c.is_ascii_graphic()) {
        return Err("a model name holds printable ASCII without spaces");
    }
    Ok(())
}

mod span {
    //! Durations as people write them.
    use super::{Deserialize, Deserializer, Duration, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_duration(&text).map_err(|_| {
            serde::de::Error::custom("not a duration: write a number and a unit, such as 500ms, 10s, 5m")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Inference {
        serde_json::from_str(text).expect("reads")
    }

    #[test]
    fn the_example_of_the_design_checks() {
        let it = read(
            r#"{"providers":{
                "nvidia":{"kind":"openai","base_url":"https://integrate.api.nvidia.com/v1","credential":"env:NVIDIA_API_KEY","trust":"high","cost":"per-token"},
                "local":{"kind":"openai","base_url":"http://127.0.0.1:8000/v1","trust":"self-hosted","cost":"none"}},
              "routes":[{"model":"*","to":[{"provider":"local","model":"llama-3.1-8b"},{"provider":"nvidia","model":"meta/llama-3.3-70b-instruct"}],
                         "timeouts":{"connect":"2s"}}]}"#,
        );
        assert_eq!(it.check(), Ok(()));
        assert_eq!(it.routes[0].timeouts.connect, Duration::from_secs(2));
        assert_eq!(it.routes[0].timeouts.idle, Timeouts::IDLE);
        assert_eq!(it.references().count(), 1);
        assert_eq!(it.providers["local"].stream_usage, StreamUsage::Ask);
        let again: Inference = serde_json::from_str(&serde_json::to_string(&it).unwrap()).unwrap();
        assert_eq!(again.check(), Ok(()));
    }

    #[test]
    fn a_key_that_goes_to_another_machine_in_the_clear_is_told_of() {
        let of = |base: &str, key: &str| {
            let text = format!(r#"{{"providers":{{"p":{{"kind":"openai","base_url":"{base}"{key}}}}}}}"#);
            read(&text).warnings().count()
        };
        let key = r#","credential":"env:K""#;
        assert_eq!(of("http://x.example/v1", key), 1);
        assert_eq!(of("http://10.0.0.5:8000/v1", key), 1);
        for (base, key) in [
            ("https://x.example/v1", key),
            ("http://x.example/v1", ""),
            ("http://127.0.0.1:8000/v1", key),
            ("http://[::1]:8000/v1", key),
            ("http://localhost:8000/v1", key),
        ] {
            assert_eq!(of(base, key), 0, "{base} {key}");
        }
    }

    #[test]
    fn a_literal_key_is_refused_and_never_shown() {
        let key = "sk-live-0123456789abcdef";
        let it = read(&format!(
            r#"{{"providers":{{"p":{{"kind":"openai","base_url":"https://x.example/v1","credential":"{key}"}}}}}}"#
        ));
        let faults = it.check().unwrap_err();
        assert!(faults.to_string().contains("inference.providers.p.credential"), "{faults}");
        assert!(!faults.to_string().contains("0123"), "{faults}");
        assert!(!format!("{it:?}").contains("0123"));
        assert!(!serde_json::to_string(&it).unwrap().contains("0123"));
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let it = read(
            r#"{"providers":{"p":{"kind":"anthropic","base_url":"ftp://x"}},
                "routes":[{"model":"a","to":[]},{"model":"a","to":[{"provider":"q","model":"two words"}],"timeouts":{"idle":"0s"}}],
                "budgets":[{"per":"day","tokens":0}]}"#,
        );
        let Faults(faults) = it.check().unwrap_err();
        let at: Vec<_> = faults.iter().map(|f| f.at.as_str()).collect();
        assert_eq!(
            at,
            [
                "providers.p.base_url",
                "routes[0].to",
                "routes[1].model",
                "routes[1].to[0].provider",
                "routes[1].to[0].model",
                "routes[1].timeouts.idle",
                "budgets[0].tokens"
            ]
        );
    }

    #[test]
    fn unknown_fields_are_errors() {
        assert!(serde_json::from_str::<Inference>(r#"{"provider":{}}"#).is_err());
        assert!(
            serde_json::from_str::<Inference>(r#"{"routes":[{"model":"*","to":[],"retry":1}]}"#).is_err()
        );
    }
}
