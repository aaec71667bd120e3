//! The recorder, which keeps all metrics. There is one in a process; it is made before the actors and
//! outlives them.

use std::sync::{Mutex, OnceLock, PoisonError};

use metrics::{counter, gauge, histogram};
use thiserror::Error;

use super::names::{self, Kind, TABLE};
use super::registry::Registry;

/// Why the recorder could not be set up.
#[derive(Debug, Error)]
pub enum MetricsError {
    /// Something else in this process installed a recorder.
    #[error("another metrics recorder is installed in this process")]
    Installed,
}

/// A handle on the recorder. Clones share it.
#[derive(Debug, Clone)]
pub struct Recorder(Registry);

static INSTALLED: OnceLock<Recorder> = OnceLock::new();

impl Recorder {
    /// Installs the process's recorder, or returns the one installed before.
    ///
    /// # Errors
    /// When a recorder that is not ours is installed.
    pub fn install() -> Result<Self, MetricsError> {
        // One caller at a time: between installing the recorder in the library and storing it in `INSTALLED`
        // there is a moment in which a second caller would take ours for another's.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(installed) = INSTALLED.get() {
            return Ok(installed.clone());
        }
        let registry = Registry::default();
        match metrics::set_global_recorder(registry.clone()) {
            Ok(()) => {
                begin();
                Ok(INSTALLED.get_or_init(|| Self(registry)).clone())
            }
            Err(_) => Err(MetricsError::Installed),
        }
    }

    /// All metrics in the Prometheus text format 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render(TABLE)
    }
}

/// Starts every metric without labels at 0, so that rates have a start.
fn begin() {
    for metric in TABLE.iter().filter(|metric| metric.labels.is_empty()) {
        match metric.kind {
            Kind::Counter => counter!(metric.name).increment(0),
            Kind::Gauge => gauge!(metric.name).increment(0.0),
            Kind::Histogram => drop(histogram!(metric.name)),
        }
    }
    for direction in ["up", "down"] {
        counter!(names::PROXY_BYTES, "direction" => direction).increment(0);
    }
    for result in ["loaded", "rejected", "unchanged"] {
        counter!(names::POLICY_RELOADS, "result" => result).increment(0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::{Registry, begin};
    use std::time::Duration;

    /// A page with every metric on it.
    fn page() -> String {
        let registry = Registry::default();
        metrics::with_local_recorder(&registry, || {
            begin();
            build_info("0.1.0", "rootless");
            actor_up("proxy", true);
            actor_restarted("proxy");
            agent_up("main", true);
            agent_gave_up("main", true);
            agent_healthy("main", true);
            agent_restarted("main");
            log_lost("main", 9);
            supervisor_restarts(2);
            policy_generation(3);
            policy_reload(PolicyResult::Loaded);
            decision("l7", Verdict::Denied, "github");
            decision_seconds(Duration::from_micros(40));
            drop(proxy_connection());
            proxy_bytes(Direction::Up, 10);
            inference_request("local", "llama", 200);
            inference_request("local", "llama", 999);
            inference_tokens("local", "llama", TokenKind::Output, 5);
            inference_budget(("day", "*", "*"), BudgetCounts::Tokens, 5, 20);
            inference_first_byte(Duration::from_millis(300));
            redactions("jwt", 2);
            control_missing("landlock", true);
            audit_records(1);
            audit_refused();
        });
        registry.render(TABLE)
    }

    #[test]
    fn a_fresh_page_names_every_metric() {
        let registry = Registry::default();
        metrics::with_local_recorder(&registry, begin);
        let page = registry.render(TABLE);
        for metric in TABLE {
            assert!(
                page.contains(&format!("# TYPE {} {}", metric.name, metric.kind.as_str())),
                "{}",
                metric.name
            );
        }
    }

    #[test]
    fn the_page_holds_every_metric_with_its_help_and_type() {
        let page = page();
        for metric in TABLE {
            let name = metric.name;
            assert!(page.contains(&format!("# HELP {name} {}", metric.help)), "{name}");
            assert!(page.contains(&format!("# TYPE {name} {}", metric.kind.as_str())), "{name}");
            for label in metric.labels {
                let found =
                    page.lines().any(|line| line.starts_with(name) && line.contains(&format!("{label}=\"")));
                assert!(found, "{name}{{{label}}}");
            }
        }
        assert!(page.contains("cofferdam_supervisor_restarts_total 2"));
        assert!(page.contains("cofferdam_proxy_decision_seconds_bucket{le=\"0.00005\"} 1"));
        assert!(page.contains("code=\"other\""));
    }

    #[test]
    fn names_follow_the_conventions() {
        for metric in TABLE {
            assert!(metric.name.starts_with("cofferdam_"));
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Histogram, metric.name.ends_with("_seconds"), "{}", metric.name);
            assert!(metric.help.ends_with('.'));
        }
    }

    /// For `promtool check metrics`, by hand and in the checks that have it.
    #[test]
    fn the_page_can_be_written_out() {
        if let Some(path) = std::env::var_os("COFFERDAM_METRICS_PAGE") {
            std::fs::write(path, page()).unwrap();
        }
    }
}
