//! Reads the figures that are shown from the sandbox's own metrics, in Prometheus' text format.

use bytesize::ByteSize;
use tui::Text;
use tui::facts::{Figure, Tone};

/// Returns the figures to show.
pub fn of(metrics: &str) -> Vec<Figure> {
    let sum = |name: &str, label: &str| sum(metrics, name, label);
    let decisions = |verdict: &str| sum("cofferdam_decisions_total", &format!("verdict=\"{verdict}\""));
    let tokens = |kind: &str| sum("cofferdam_inference_tokens_total", &format!("kind=\"{kind}\""));
    let bytes = |direction: &str| sum("cofferdam_proxy_bytes_total", &format!("direction=\"{direction}\""));
    let of_bytes = |direction| ByteSize::b(bytes(direction)).to_string();
    let toned = |count: u64, tone| if count > 0 { tone } else { Tone::Plain };
    let (denied, audited) = (decisions("denied"), decisions("audited"));
    let refused = sum("cofferdam_audit_refused_total", "");
    [
        ("decisions allowed", decisions("allowed").to_string(), Tone::Plain),
        ("decisions denied", denied.to_string(), toned(denied, Tone::Bad)),
        ("decisions audited", audited.to_string(), toned(audited, Tone::Warn)),
        ("tunnels and names asked about", decisions("asked").to_string(), Tone::Plain),
        ("connections open", sum("cofferdam_proxy_connections", "").to_string(), Tone::Plain),
        ("bytes out", of_bytes("up"), Tone::Plain),
        ("bytes in", of_bytes("down"), Tone::Plain),
        ("model requests", sum("cofferdam_inference_requests_total", "").to_string(), Tone::Plain),
        ("tokens in prompts", tokens("input").to_string(), Tone::Plain),
        ("tokens in answers", tokens("output").to_string(), Tone::Plain),
        ("secrets masked", sum("cofferdam_redactions_total", "").to_string(), Tone::Plain),
        ("audit records", sum("cofferdam_audit_records_total", "").to_string(), Tone::Plain),
        ("audit records refused", refused.to_string(), toned(refused, Tone::Bad)),
        ("supervisor restarts", sum("cofferdam_supervisor_restarts_total", "").to_string(), Tone::Plain),
    ]
    .map(|(name, value, tone)| Figure { name: Text::new(name), value: Text::new(&value), tone })
    .into()
}

/// Sums all series of a name that have this label. Quotes in a label's value are escaped with a backslash, so
/// no value can pass for a label.
fn sum(metrics: &str, name: &str, label: &str) -> u64 {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
        let (labels, value) = rest.rsplit_once(' ')?;
        if !labels.contains(label) {
            return None;
        }
        value.parse::<f64>().ok()
    });
    // The values are counts, so converting to an integer loses no fraction.
    values.sum::<f64>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_added_up_by_their_label_alone() {
        let metrics = "# HELP cofferdam_decisions_total Decisions\n\
            cofferdam_decisions_total{layer=\"l4\",verdict=\"denied\",policy=\"\"} 3\n\
            cofferdam_decisions_total{layer=\"l7\",verdict=\"denied\",policy=\"a b\"} 4\n\
            cofferdam_decisions_total{layer=\"l7\",verdict=\"allowed\",policy=\"verdict=\\\"denied\\\" } 9\"} 5\n\
            cofferdam_decisions_total_more 100\n\
            cofferdam_proxy_connections 7\n";
        assert_eq!(sum(metrics, "cofferdam_decisions_total", "verdict=\"denied\""), 7);
        assert_eq!(sum(metrics, "cofferdam_decisions_total", "verdict=\"allowed\""), 5);
        assert_eq!(sum(metrics, "cofferdam_proxy_connections", ""), 7);
        assert_eq!(sum(metrics, "cofferdam_nothing", ""), 0);
        let all = of(metrics);
        let denied = all.iter().find(|figure| figure.name.as_str() == "decisions denied").unwrap();
        assert_eq!((denied.value.as_str(), denied.tone), ("7", Tone::Bad));
    }

    /// Each is a metric that there is: a new name would show zeros for ever.
    #[test]
    fn every_metric_that_is_asked_for_exists() {
        let source = include_str!("figures.rs");
        let asked = source.split("\n#[cfg(test)]").next().unwrap();
        let names: Vec<&str> = asked.split('"').filter(|word| word.starts_with("cofferdam_")).collect();
        assert!(names.len() > 7, "{names:?}");
        for name in names {
            assert!(telemetry::metrics::TABLE.iter().any(|metric| metric.name == name), "{name}");
        }
    }
}
