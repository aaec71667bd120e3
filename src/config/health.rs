//! `agents.NAME.health`: how an agent is asked whether it still answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use policy::{Destination, Host};
use serde::{Deserialize, Serialize};

use super::duration;

/// An agent's health check: how it is asked, and when it is given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// The URL that is requested, on the sandbox's loopback.
    pub http: HealthUrl,
    /// The time between two requests; a second at least.
    #[serde(default = "every", with = "duration")]
    pub every: Duration,
    /// How long an answer may take; a minute at most.
    #[serde(default = "timeout", with = "duration")]
    pub timeout: Duration,
    /// After so many failures in a row the process is ended; 1 at least.
    #[serde(default = "failures")]
    pub failures: u32,
    /// Until the agent has answered once, failures count only after this time.
    #[serde(default = "start", with = "duration")]
    pub start: Duration,
}

const fn every() -> Duration {
    Duration::from_secs(10)
}
const fn timeout() -> Duration {
    Duration::from_secs(2)
}
const fn failures() -> u32 {
    3
}
/// The slowest agent that we know takes eighty seconds.
const fn start() -> Duration {
    Duration::from_secs(120)
}

/// The shortest time between two requests: more frequent ones would cost noticeable work.
const EVERY_MIN: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

impl Health {
    /// # Errors
    /// Which value is out of range.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.every < EVERY_MIN {
            return Err("`every` is less than a second".into());
        }
        if self.timeout.is_zero() || self.timeout > TIMEOUT_MAX {
            return Err("`timeout` must be between 1ms and 60s".into());
        }
        if self.failures == 0 {
            return Err("`failures` is 0: after how many silences in a row is it ended?".into());
        }
        Ok(())
    }
}

/// `http://127.0.0.1:PORT/PATH`: a URL on the sandbox's loopback, and nowhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HealthUrl {
    /// Where to connect, inside.
    pub address: SocketAddr,
    /// The request target: path and query.
    pub target: String,
}

impl TryFrom<String> for HealthUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // The text isn't repeated: it may hold a password.
        let wrong =
            || "this is not on the sandbox's loopback, such as http://127.0.0.1:8642/health".to_owned();
        let url: http::Uri = text.parse().map_err(|_| wrong())?;
        let authority = url.authority().filter(|_| url.scheme_str() == Some("http")).ok_or_else(wrong)?;
        let Destination { host, port } =
            Destination::of_authority(authority.as_str(), Some(80)).map_err(|_| wrong())?;
        let ip = match host {
            Host::Addr(ip) if ip.is_loopback() => ip,
            Host::Name(name) if name.as_str() == "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            _ => return Err(wrong()),
        };
        let target = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        Ok(Self { address: SocketAddr::new(ip, port), target })
    }
}

impl From<HealthUrl> for String {
    fn from(HealthUrl { address, target }: HealthUrl) -> Self {
        format!("http://{address}{target}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_inside_is_asked() {
        let of = |text: &str| {
            HealthUrl::try_from(text.to_owned()).map(|url| (url.address.to_string(), url.target))
        };
        assert_eq!(of("http://127.0.0.1:8642/health"), Ok(("127.0.0.1:8642".into(), "/health".into())));
        assert_eq!(of("http://localhost:1/a?b=c"), Ok(("127.0.0.1:1".into(), "/a?b=c".into())));
        assert_eq!(of("http://[::1]:80"), Ok(("[::1]:80".into(), "/".into())));
        for bad in [
            "",
            "127.0.0.1:80",
            "/health",
            "https://127.0.0.1/",
            "http://192.0.2.1/",
            "http://example.com/",
            "http://user@127.0.0.1/",
            "http://127.0.0.1:0/",
            "http://127.0.0.1:99999/",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
        let there_and_back = String::from(HealthUrl::try_from("http://[::1]:8/x".to_owned()).unwrap());
        assert_eq!(there_and_back, "http://[::1]:8/x");
    }
}
