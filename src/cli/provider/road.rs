//! The way from this command to a provider: the same as the supervisor's, made once, and gone with the
//! process.

use std::sync::Arc;
use std::time::Duration;

use gateway::config::{Faults, Inference, Provider};
use gateway::probe::{Answer, Fault, Probe, Question};
use gateway::routes::{self, Routes};
use redactor::{Redactor, Secret, SharedRedactor};
use smol_str::SmolStr;

use crate::compose::adapters::Providers;
use crate::compose::outward::{self, Keys, Said};
use crate::config::Config;
use crate::failure::Failure;
use crate::plan::{Secrets, mark_of};
use crate::start::{self, way_out};

/// Asks providers as the supervisor would; see the module.
pub struct Road {
    probe: Probe,
    redactor: SharedRedactor,
}

impl Road {
    /// Makes the way to servers on this machine, to which no key is sent.
    ///
    /// # Errors
    /// This machine's resolver or root certificates can't be used.
    pub fn near(within: Duration) -> Result<Self, Failure> {
        let said = Said { upstream_ca: None, client_certs: &[], upstream_proxy: None };
        Self::new(said, &[], &[], within)
    }

    /// Makes the way that a configuration describes. `keys` are its providers' keys, by reference.
    ///
    /// # Errors
    /// A certificate, a key or the proxy of the configuration can't be read or used.
    pub fn of(config: &Config, keys: &[(String, Secret)], within: Duration) -> Result<Self, Failure> {
        let mut secrets = Secrets::default();
        let client_certs = way_out::client_certs(&config.client_certs, &mut secrets)?;
        let upstream_proxy = config.upstream_proxy.as_ref();
        if let Some(proxy) = upstream_proxy {
            way_out::upstream_proxy(proxy, &mut secrets)?;
        }
        let upstream_ca = config.upstream_ca.as_deref().map(start::read_pem).transpose()?;
        let said = Said { upstream_ca: upstream_ca.as_deref(), client_certs: &client_certs, upstream_proxy };
        Self::new(said, &secrets.pairs().collect::<Vec<_>>(), keys, within)
    }

    fn new(
        said: Said<'_>,
        ways: &[(String, Secret)],
        keys: &[(String, Secret)],
        within: Duration,
    ) -> Result<Self, Failure> {
        let refused = |why: String| Failure::refused(why);
        let known =
            ways.iter().chain(keys).map(|(reference, key)| (mark_of(reference).to_owned(), key.clone()));
        let known = known.chain(outward::password(said, ways));
        let redactor = SharedRedactor::new(Redactor::new(known).map_err(|e| refused(e.to_string()))?);
        let trusted = outward::trusted(said, &Keys::new(ways)).map_err(|e| refused(e.to_string()))?;
        let scrubber = redactor.clone();
        let probe = Probe {
            dial: Arc::new(Providers(trusted)),
            scrub: Arc::new(move |text| scrubber.redact(text).into_inner()),
            within,
        };
        Ok(Self { probe, redactor })
    }

    /// Asks one provider.
    ///
    /// # Errors
    /// See [`Fault`].
    pub async fn ask(&self, provider: &routes::Provider, question: Question<'_>) -> Result<Answer, Fault> {
        self.probe.ask(provider, question).await
    }

    /// Masks every key that this road knows in a text. For any text, before it is shown.
    pub fn clean(&self, text: &str) -> String {
        self.redactor.redact(text).into_inner()
    }
}

/// Compiles a provider's entry into one that can be asked.
///
/// # Errors
/// What is wrong with its entry.
pub fn ready(name: &SmolStr, said: &Provider, key: Option<&Secret>) -> Result<Arc<routes::Provider>, Faults> {
    let inference = Inference { providers: [(name.clone(), said.clone())].into(), ..Inference::default() };
    let reference = said.credential.as_ref().and_then(|credential| credential.reference());
    let keys = reference.zip(key).map(|(reference, key)| (reference.to_string(), key.clone()));
    let routes = Routes::compile(&inference, &gateway::Credentials::new(keys), &Routes::default())?;
    routes.providers().first().cloned().ok_or_else(|| Faults(Vec::new()))
}
