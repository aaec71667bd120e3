//! Resolves a destination's host to judged addresses: one resolution, every answer judged.
//!
//! Two names are never looked up anywhere: `host.cofferdam.internal` is the host's own loopback, and
//! `inference.local` is served by the gateway and is nowhere on the network.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use policy::{AddressRule, Denial, DomainName, Host, Layer, Party};

use super::addresses::OwnAddresses;
use super::judge::{JudgedAddr, NEVER_OPENED, Refusal, judge};
use super::unnamed::Unnamed;

/// The one name that leads to the host's loopback.
pub const HOST_NAME: &str = "host.cofferdam.internal";
/// The name that the inference gateway answers to; no address stands behind it.
pub const INFERENCE_NAME: &str = "inference.local";
/// Most addresses a name may have. Real services have up to some twenty; what has more is refused rather than
/// cut, since every answer has to be judged.
pub const MAX_ANSWERS: usize = 64;
/// How long one resolution may take in all: two servers, two tries of a second each, and some.
pub const RESOLVE_DEADLINE: Duration = Duration::from_secs(5);

/// Looks names up. Implementations never judge.
pub trait Lookup: Send + Sync {
    /// All addresses of a name, in the order of preference.
    fn addresses<'a>(&'a self, name: &'a DomainName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>>;
}

/// Why a name has no addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name doesn't exist or has no addresses.
    #[error("no such name")]
    NotFound,
    /// No server answered, or none usefully.
    #[error("name resolution failed: {0}")]
    Failed(String),
}

/// Why a destination has no judged address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// An address is refused (answered with 403). Boxed, since a denial is large beside the rest.
    #[error("{0}")]
    Denied(Box<Denial>),
    /// The name has no address (answered with 502).
    #[error("`{host}` can't be resolved: {why}")]
    Unresolved {
        /// The name.
        host: String,
        /// What the resolver said.
        why: LookupError,
    },
    /// The resolution took longer than [`RESOLVE_DEADLINE`] (answered with 504).
    #[error("`{host}` was not resolved within {} s", RESOLVE_DEADLINE.as_secs())]
    TimedOut {
        /// The name.
        host: String,
    },
}

/// Resolves names and judges their addresses. Clones share the lookup, its cache and the record of unnamed
/// names that were looked up.
#[derive(Clone)]
pub struct Resolver {
    lookup: Arc<dyn Lookup>,
    own: OwnAddresses,
    unnamed: Arc<Unnamed>,
    #[cfg(test)]
    permit_loopback: bool,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    /// A resolver over this lookup, which refuses these addresses of the host.
    #[must_use]
    pub fn new(lookup: Arc<dyn Lookup>, own: OwnAddresses) -> Self {
        Self {
            lookup,
            own,
            unnamed: Arc::new(Unnamed::new()),
            #[cfg(test)]
            permit_loopback: false,
        }
    }

    /// Lets names resolve to loopback addresses, so that this crate's tests can run upstreams there. Not
    /// compiled into any program.
    #[cfg(test)]
    pub fn permitting_loopback_for_tests(mut self) -> Self {
        self.permit_loopback = true;
        self
    }

    /// Whether a name that no entry names may be looked up for `party`: the number of those is limited per
    /// minute.
    pub(crate) fn may_look_up_unnamed(&self, party: Party, name: &DomainName) -> bool {
        self.unnamed.takes(party, name)
    }

    /// The addresses of a destination that may be dialled: never empty, in the resolver's order.
    ///
    /// # Errors
    /// [`ResolveError::Denied`] if a single answer is refused; the other kinds if there is none.
    pub async fn resolve(
        &self,
        host: &Host,
        port: u16,
        rule: &AddressRule,
    ) -> Result<Vec<JudgedAddr>, ResolveError> {
        self.own.refresh_if_old();
        let name = match host {
            Host::Addr(addr) => return self.judge_all(host, &[*addr], port, rule),
            Host::Name(name) => name,
        };
        if name.as_str() == HOST_NAME {
            return host_loopback(port, rule);
        }
        permitted_name(name)?;
        let answers = match tokio::time::timeout(RESOLVE_DEADLINE, self.lookup.addresses(name)).await {
            Err(_) => return Err(ResolveError::TimedOut { host: name.to_string() }),
            Ok(Err(why)) => return Err(ResolveError::Unresolved { host: name.to_string(), why }),
            Ok(Ok(answers)) => answers,
        };
        if answers.is_empty() {
            return Err(ResolveError::Unresolved { host: name.to_string(), why: LookupError::NotFound });
        }
        if answers.len() > MAX_ANSWERS {
            return Err(denied(format!("`{name}` has more than {MAX_ANSWERS} addresses"), None));
        }
        self.judge_all(host, &answers, port, rule)
    }

    /// All or nothing: one refused answer refuses the destination.
    fn judge_all(
        &self,
        host: &Host,
        answers: &[IpAddr],
        port: u16,
        rule: &AddressRule,
    ) -> Result<Vec<JudgedAddr>, ResolveError> {
        let mut judged = Vec::with_capacity(answers.len());
        for answer in answers {
            let verdict = judge(*answer, port, rule, &self.own);
            #[cfg(test)]
            let verdict = verdict.or_else(|refusal| {
                // A list is exhaustive there too.
                let permitted = self.permit_loopback && rule.allowed_ips.is_empty();
                let test = permitted.then(|| JudgedAddr::loopback_for_tests(*answer, port)).flatten();
                test.ok_or(refusal)
            });
            match verdict {
                Ok(addr) if judged.contains(&addr) => {}
                Ok(addr) => judged.push(addr),
                Err(refusal) => return Err(refused(host, &refusal)),
            }
        }
        Ok(judged)
    }
}

/// Returns the host's loopback, if an entry names it exactly: a wildcard that happens to cover the name is
/// not enough.
fn host_loopback(port: u16, rule: &AddressRule) -> Result<Vec<JudgedAddr>, ResolveError> {
    if rule.exact_host {
        return Ok(JudgedAddr::host_loopback(port).to_vec());
    }
    Err(denied(
        format!("`{HOST_NAME}` leads to the host's loopback and was allowed by a wildcard"),
        Some(format!("name `{HOST_NAME}` exactly, with its port")),
    ))
}

/// Checks that the name may be looked up at all, whoever resolves it.
///
/// # Errors
/// [`ResolveError::Denied`].
pub(crate) fn permitted_name(name: &DomainName) -> Result<(), ResolveError> {
    match never_looked_up(name) {
        Some(why) => Err(denied(format!("`{name}` {why}"), hint_of(name))),
        None => Ok(()),
    }
}

fn hint_of(never_looked_up: &DomainName) -> Option<String> {
    (never_looked_up.as_str() != INFERENCE_NAME).then(|| NEVER_OPENED.to_owned())
}

/// Names that no resolver is asked for.
fn never_looked_up(name: &DomainName) -> Option<&'static str> {
    if name.as_str() == INFERENCE_NAME {
        return Some("is the inference gateway, which is not on the network");
    }
    // RFC 6761 section 6.3.
    (name.labels().next_back() == Some("localhost")).then_some("is loopback, which no rule can allow")
}

fn refused(host: &Host, refusal: &Refusal) -> ResolveError {
    let detail = match host {
        Host::Name(name) => format!("`{name}` resolves to an address that is refused: {refusal}"),
        Host::Addr(_) => refusal.to_string(),
    };
    denied(detail, refusal.hint().map(str::to_owned))
}

fn denied(detail: String, hint: Option<String>) -> ResolveError {
    ResolveError::Denied(Box::new(Denial { layer: Layer::Ssrf, detail, policy: None, hint }))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Answers from a table; a name outside it hangs for ever.
    struct Table(HashMap<&'static str, Vec<&'static str>>);

    impl Lookup for Table {
        fn addresses<'a>(&'a self, name: &'a DomainName) -> BoxFuture<'a, Result<Vec<IpAddr>, LookupError>> {
            Box::pin(async move {
                match self.0.get(name.as_str()) {
                    Some(answers) => Ok(answers.iter().map(|a| a.parse().unwrap()).collect()),
                    None => std::future::pending().await,
                }
            })
        }
    }

    fn resolver(table: &[(&'static str, &[&'static str])]) -> Resolver {
        let table = table.iter().map(|(name, answers)| (*name, answers.to_vec())).collect();
        Resolver::new(Arc::new(Table(table)), OwnAddresses::fixed(["93.184.216.99".parse().unwrap()]))
    }

    fn rule(exact_host: bool) -> AddressRule {
        AddressRule { allowed_ips: Arc::from([]), exact_host }
    }

    async fn resolve(resolver: &Resolver, host: &str, exact: bool) -> Result<Vec<String>, ResolveError> {
        let host = Host::parse(host).unwrap();
        let judged = resolver.resolve(&host, 443, &rule(exact)).await?;
        Ok(judged.iter().map(ToString::to_string).collect())
    }

    fn detail(result: Result<Vec<String>, ResolveError>) -> String {
        match result {
            Err(ResolveError::Denied(denial)) => {
                assert_eq!(denial.layer, Layer::Ssrf);
                denial.detail
            }
            other => panic!("not denied: {other:?}"),
        }
    }

    #[tokio::test]
    async fn every_answer_is_judged_and_one_bad_one_refuses_all() {
        let r = resolver(&[
            ("good.example", &["93.184.216.34", "2606:4700::1", "93.184.216.34"]),
            ("mixed.example", &["93.184.216.34", "127.0.0.1"]),
            ("mapped.example", &["::ffff:169.254.169.254"]),
            ("private.example", &["10.1.2.3"]),
            ("own.example", &["93.184.216.99"]),
        ]);
        assert_eq!(
            resolve(&r, "good.example", false).await.unwrap(),
            ["93.184.216.34:443", "[2606:4700::1]:443"]
        );
        assert!(detail(resolve(&r, "mixed.example", true).await).contains("127.0.0.1 is loopback"));
        assert!(detail(resolve(&r, "mapped.example", true).await).contains("169.254.169.254"));
        assert!(detail(resolve(&r, "private.example", false).await).contains("private use"));
        assert_eq!(resolve(&r, "private.example", true).await.unwrap(), ["10.1.2.3:443"]);
        assert!(detail(resolve(&r, "own.example", true).await).contains("the host itself"));
    }

    #[tokio::test]
    async fn literals_are_judged_without_a_resolver() {
        let r = resolver(&[]);
        assert_eq!(resolve(&r, "93.184.216.34", true).await.unwrap(), ["93.184.216.34:443"]);
        assert!(detail(resolve(&r, "127.0.0.1", true).await).contains("loopback"));
        assert!(detail(resolve(&r, "[::1]", true).await).contains("loopback"));
    }

    #[tokio::test]
    async fn the_host_is_reached_by_its_name_alone() {
        let r = resolver(&[("evil.example", &["127.0.0.1"])]);
        assert_eq!(resolve(&r, HOST_NAME, true).await.unwrap(), ["127.0.0.1:443", "[::1]:443"]);
        assert!(detail(resolve(&r, HOST_NAME, false).await).contains("wildcard"));
        for host in ["localhost", "a.localhost", "evil.example"] {
            assert!(detail(resolve(&r, host, true).await).contains("loopback"), "{host}");
        }
    }

    #[tokio::test]
    async fn the_gateways_name_is_never_looked_up() {
        assert!(detail(resolve(&resolver(&[]), INFERENCE_NAME, true).await).contains("gateway"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_resolver_times_out() {
        let got = resolve(&resolver(&[]), "silent.example", false).await;
        assert!(matches!(got, Err(ResolveError::TimedOut { .. })), "{got:?}");
    }

    #[tokio::test]
    async fn no_answer_is_not_found_and_too_many_are_refused() {
        static MANY: [&str; MAX_ANSWERS + 1] = ["93.184.216.34"; MAX_ANSWERS + 1];
        let r = resolver(&[("empty.example", &[]), ("many.example", &MANY)]);
        assert!(matches!(resolve(&r, "empty.example", false).await, Err(ResolveError::Unresolved { .. })));
        assert!(detail(resolve(&r, "many.example", false).await).contains("more than"));
    }

    #[tokio::test]
    async fn the_test_constructor_permits_loopback_and_nothing_else() {
        let r = resolver(&[("up.example", &["127.0.0.1"]), ("meta.example", &["169.254.169.254"])]);
        let r = r.permitting_loopback_for_tests();
        assert_eq!(resolve(&r, "up.example", false).await.unwrap(), ["127.0.0.1:443"]);
        assert!(detail(resolve(&r, "meta.example", false).await).contains("metadata"));
    }
}
