//! The windows of budgets: each minute, hour or day of UTC, by the wall clock, since bills and people go by
//! that.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// How often a budget starts anew: at each full minute, hour or day of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// 60 s.
    Minute,
    /// 3600 s.
    Hour,
    /// 86400 s, from midnight UTC.
    Day,
}

impl Per {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    /// The length of a window, in seconds.
    pub fn seconds(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }

    /// The beginning of the window that `now` lies in, in seconds since the epoch.
    pub fn begin(self, now: u64) -> u64 {
        now - now % self.seconds()
    }
}

/// The wall clock, in seconds since the epoch; 0 where it is set before that.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

/// A moment as people write it: RFC 3339, UTC.
pub fn written(seconds: u64) -> String {
    let moment = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    moment.map_or_else(|| "never".to_owned(), |moment| moment.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_those_of_the_clock_in_utc() {
        // 2026-11-30T01:46:21Z
        let now = 1_796_003_181;
        for (per, begins) in [
            (Per::Minute, "2026-11-30T01:46:00Z"),
            (Per::Hour, "2026-11-30T01:00:00Z"),
            (Per::Day, "2026-11-30T00:00:00Z"),
        ] {
            assert_eq!(written(per.begin(now)), begins);
            assert_eq!(per.begin(per.begin(now)), per.begin(now));
            assert_eq!(per.begin(per.begin(now) + per.seconds()), per.begin(now) + per.seconds());
        }
        assert_eq!(written(u64::MAX), "never");
    }
}
