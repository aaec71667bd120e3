//! `approvals`: what becomes of a request that no policy entry names.

use std::time::Duration;

use serde::Deserialize;

/// The range of `hold`, how long a request may wait: clients give up by themselves after minutes.
const HOLD: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// The section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Approvals {
    unlisted: Unlisted,
    #[serde(with = "super::duration")]
    hold: Duration,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Unlisted {
    /// It is refused at once.
    #[default]
    Deny,
    /// It waits for the operator's answer.
    Ask,
}

impl Default for Approvals {
    fn default() -> Self {
        Self { unlisted: Unlisted::Deny, hold: Duration::from_secs(30) }
    }
}

impl Approvals {
    /// How long requests wait for the operator. `None`: the operator isn't asked.
    #[must_use]
    pub fn hold(&self) -> Option<Duration> {
        (self.unlisted == Unlisted::Ask).then_some(self.hold)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        match HOLD.contains(&self.hold) {
            true => Ok(()),
            false => Err(format!(
                "`hold: {}` is not from {} to {}",
                humantime::format_duration(self.hold),
                humantime::format_duration(*HOLD.start()),
                humantime::format_duration(*HOLD.end())
            )),
        }
    }
}
