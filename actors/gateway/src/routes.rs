//! The compiled, immutable table from model names to providers.
//!
//! A request loads one snapshot and decides from it alone. A new table takes over the lanes (connections,
//! health) and rests of the providers that stayed the same, so a publication closes no connection of theirs.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use policy::Caller;
use redactor::{Mask, Screen, Secret};
use smol_str::SmolStr;

use crate::{
    base_url::BaseUrl,
    config::{Cost, Fault, Faults, Inference, Kind, StreamUsage, Timeouts, Trust},
    credential::Credentials,
    glob::Glob,
    lane::Lane,
    programs::Programs,
    rest::Rest,
};

/// What replaces a key in an answer.
const MASK: Mask = Mask::Words(b"[REDACTED:provider-key]");

/// A provider, ready for use.
pub struct Provider {
    /// Its name in the file; a metrics label.
    pub name: SmolStr,
    /// Its protocol.
    pub kind: Kind,
    /// Where it answers.
    pub base: BaseUrl,
    /// How far the operator trusts it.
    pub trust: Trust,
    /// What it costs.
    pub cost: Cost,
    /// Whether the gateway asks it for a stream's usage.
    pub stream_usage: StreamUsage,
    /// The reference behind `key`, for `status`.
    pub reference: Option<String>,
    pub(crate) key: Option<Secret>,
    pub(crate) screen: Screen,
    pub(crate) lane: Arc<Lane>,
}

/// A route, ready for use.
pub struct Route {
    /// The alias; a metrics label.
    pub alias: Glob,
    /// Its targets in order of preference, never empty.
    pub targets: Vec<Target>,
    /// Its time-outs.
    pub timeouts: Timeouts,
    pub(crate) programs: Programs,
}

/// A provider, and the model's name there.
pub struct Target {
    /// The provider that is asked.
    pub provider: Arc<Provider>,
    /// The name to write into the request; `None` keeps the agent's.
    pub model: Option<SmolStr>,
    /// The rest after it answered that it didn't serve. Shared by all routes that have this target.
    rest: Arc<Rest>,
}

impl Target {
    /// Whether the target is avoided, since it or its provider failed a short time ago.
    pub(crate) fn rests(&self, now: Instant) -> bool {
        self.rest.lasts(now) || self.provider.lane.rest.lasts(now)
    }

    /// Avoids the target for `how_long`, since it didn't serve.
    pub(crate) fn rest(&self, now: Instant, how_long: Duration) {
        self.rest.begin(now, how_long);
    }

    /// Ends the target's rest: it served.
    pub(crate) fn works(&self) {
        self.rest.end();
        self.provider.lane.rest.end();
    }
}

/// One generation of the table.
#[derive(Default)]
pub struct Routes {
    providers: Vec<Arc<Provider>>,
    routes: Vec<Arc<Route>>,
    /// The programs that may ask the gateway at all.
    pub(crate) programs: Programs,
}

impl Routes {
    /// Compiles a section.
    ///
    /// # Errors
    /// All faults of [`Inference::check`], and every credential that was not resolved.
    pub fn compile(
        inference: &Inference,
        credentials: &Credentials,
        previous: &Self,
    ) -> Result<Self, Faults> {
        inference.check()?;
        let mut faults = Vec::new();
        let mut providers = Vec::with_capacity(inference.providers.len());
        for (name, said) in &inference.providers {
            let reference = said.credential.as_ref().and_then(|c| c.reference());
            let key = reference.and_then(|r| credentials.key(r).cloned());
            if let (Some(reference), None) = (reference, &key) {
                faults.push(Fault {
                    at: format!("providers.{name}.credential"),
                    what: format!(
                        "{reference} was not resolved when the sandbox started: restart the sandbox"
                    ),
                });
            }
            let base = BaseUrl::parse(&said.base_url).map_err(|e| {
                Faults(vec![Fault { at: format!("providers.{name}.base_url"), what: e.to_string() }])
            })?;
            let screen = Screen::new(&key, MASK).map_err(|e| {
                Faults(vec![Fault { at: format!("providers.{name}.credential"), what: e.to_string() }])
            })?;
            providers.push(Arc::new(Provider {
                lane: previous.lane(name, &base).unwrap_or_default(),
                name: name.clone(),
                kind: said.kind,
                base,
                trust: said.trust,
                cost: said.cost,
                stream_usage: said.stream_usage,
                reference: reference.map(ToString::to_string),
                screen,
                key,
            }));
        }
        let mut routes = Vec::with_capacity(inference.routes.len());
        for (n, said) in inference.routes.iter().enumerate() {
            let alias = Glob::parse(&said.model)
                .map_err(|e| Faults(vec![Fault { at: format!("routes[{n}].model"), what: e.into() }]))?;
            let mut targets = Vec::with_capacity(said.to.len());
            for target in &said.to {
                let Some(provider) = providers.iter().find(|p| p.name == target.provider) else { continue };
                let model = target.model.as_deref().map(SmolStr::new);
                let same = |other: &&Target| {
                    Arc::ptr_eq(&other.provider.lane, &provider.lane) && other.model == model
                };
                let before = previous.routes.iter().chain(&routes).flat_map(|route| &route.targets);
                let rest = before.chain(&targets).find(same).map(|other| Arc::clone(&other.rest));
                targets.push(Target {
                    provider: Arc::clone(provider),
                    model,
                    rest: rest.unwrap_or_default(),
                });
            }
            let programs =
                Programs::compile(&format!("routes[{n}]."), said.binaries.as_deref()).map_err(Faults)?;
            routes.push(Arc::new(Route { alias, targets, timeouts: said.timeouts, programs }));
        }
        let programs = Programs::compile("", inference.binaries.as_deref()).map_err(Faults)?;
        if faults.is_empty() { Ok(Self { providers, routes, programs }) } else { Err(Faults(faults)) }
    }

    /// The route for a model: the one whose alias is literally its name, else the first in the order of the
    /// file whose pattern matches.
    pub fn find(&self, model: &str) -> Option<Arc<Route>> {
        let first = |fits: &dyn Fn(&Glob) -> bool| self.routes.iter().find(|route| fits(&route.alias));
        first(&|alias| alias.is(model))
            .or_else(|| first(&|alias| alias.is_literal() && alias.matches(model)))
            .or_else(|| first(&|alias| alias.matches(model)))
            .cloned()
    }

    /// The names that this caller may send and be served: literal aliases, and the models behind a pattern
    /// whose own names match it. A name is left out if the route found for it isn't for this caller. Sorted,
    /// each once.
    pub fn listed(&self, caller: &Caller) -> Vec<SmolStr> {
        let mut names: Vec<SmolStr> = Vec::new();
        for route in self.routes.iter().filter(|route| route.programs.admit(caller)) {
            if route.alias.is_literal() {
                names.push(route.alias.as_str().into());
            } else {
                names.extend(
                    route.targets.iter().filter_map(|t| t.model.clone()).filter(|m| route.alias.matches(m)),
                );
            }
        }
        names.retain(|name| self.find(name).is_some_and(|route| route.programs.admit(caller)));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// All providers, by name.
    pub fn providers(&self) -> &[Arc<Provider>] {
        &self.providers
    }

    /// Whether there are no routes, so that nothing can be asked.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    fn lane(&self, name: &str, base: &BaseUrl) -> Option<Arc<Lane>> {
        self.providers.iter().find(|p| p.name == name && p.base == *base).map(|p| p.lane.clone())
    }
}

impl fmt::Debug for Routes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let aliases: Vec<_> = self.routes.iter().map(|r| r.alias.as_str()).collect();
        f.debug_struct("Routes").field("aliases", &aliases).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Routes {
        let it: Inference = serde_json::from_str(text).unwrap();
        Routes::compile(&it, &Credentials::default(), &Routes::default()).unwrap()
    }

    const TWO: &str = r#"{"providers":{"a":{"kind":"openai","base_url":"http://127.0.0.1:1/v1"},
                                       "b":{"kind":"openai","base_url":"http://127.0.0.1:2/v1"}},
        "routes":[{"model":"gpt-*","to":[{"provider":"a","model":"gpt-big"}]},
                  {"model":"gpt-mini","to":[{"provider":"b","model":"tiny"}]},
                  {"model":"*","to":[{"provider":"b","model":"llama"},{"provider":"a"}]}]}"#;

    fn anybody() -> Caller {
        let executable = policy::Executable { path: "/usr/bin/curl".into(), sha256: [0; 32] };
        Caller { executable, ancestors: [].into(), foreign_code: false, party: policy::Party::UNKNOWN }
    }

    #[test]
    fn a_literal_alias_wins_and_then_the_order() {
        let it = table(TWO);
        assert_eq!(it.find("gpt-mini").unwrap().alias.as_str(), "gpt-mini");
        assert_eq!(it.find("gpt-4").unwrap().alias.as_str(), "gpt-*");
        assert_eq!(it.find("meta/x").unwrap().alias.as_str(), "*");
        assert!(Routes::default().find("x").is_none());
        assert_eq!(it.find("GPT-Mini").unwrap().alias.as_str(), "gpt-mini");
        assert_eq!(it.find("GPT-4").unwrap().alias.as_str(), "gpt-*");
        let both = table(&TWO.replace(r#""model":"*""#, r#""model":"GPT-mini""#));
        assert_eq!(both.find("GPT-mini").unwrap().alias.as_str(), "GPT-mini");
        assert_eq!(both.find("gpt-MINI").unwrap().alias.as_str(), "gpt-mini");
    }

    #[test]
    fn what_is_listed_is_served() {
        let it = table(TWO);
        assert_eq!(it.listed(&anybody()), ["gpt-big", "gpt-mini", "llama"]);
        assert!(it.listed(&anybody()).iter().all(|name| it.find(name).is_some()));
        let apart = TWO.replace(r#""gpt-mini","#, r#""gpt-mini","binaries":["/opt/agent"],"#);
        assert_eq!(table(&apart).listed(&anybody()), ["gpt-big", "llama"]);
    }

    #[test]
    fn no_spelling_of_a_name_goes_past_the_programs_of_its_route() {
        for (alias, names) in [("big", ["big", "Big", "BIG"]), ("big-*", ["big-1", "Big-1", "bIG-"])] {
            let text = format!(
                r#"{{"providers":{{"a":{{"kind":"openai","base_url":"http://127.0.0.1:1/v1"}}}},
                    "routes":[{{"model":"{alias}","to":[{{"provider":"a"}}],"binaries":["/opt/agent"]}},
                              {{"model":"*","to":[{{"provider":"a"}}]}}]}}"#
            );
            let it = table(&text);
            for name in names {
                assert!(!it.find(name).unwrap().programs.admit(&anybody()), "{name}");
            }
            assert!(it.find("small").unwrap().programs.admit(&anybody()));
        }
    }

    #[test]
    fn lanes_survive_a_publication_unless_the_place_changes() {
        let one = table(TWO);
        let it: Inference = serde_json::from_str(&TWO.replace(":2/v1", ":3/v1")).unwrap();
        let two = Routes::compile(&it, &Credentials::default(), &one).unwrap();
        assert!(Arc::ptr_eq(&one.providers[0].lane, &two.providers[0].lane));
        assert!(!Arc::ptr_eq(&one.providers[1].lane, &two.providers[1].lane));
    }

    #[test]
    fn an_unresolved_credential_is_a_fault() {
        let it: Inference = serde_json::from_str(
            r#"{"providers":{"a":{"kind":"openai","base_url":"https://x.example","credential":"env:K"}}}"#,
        )
        .unwrap();
        let fault = Routes::compile(&it, &Credentials::default(), &Routes::default()).unwrap_err();
        assert!(fault.to_string().contains("env:K"), "{fault}");
    }
}
