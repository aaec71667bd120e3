//! The metrics' values: one cell for each series, found by name and labels, and the page that is made of
//! them.
//!
//! Written here rather than taken from an exporter, since those bring a clock that calibrates itself for
//! milliseconds at the start of every supervisor, and keep each sample of a histogram until it is collected.
//! A series, once made, stays. Reading and counting take no lock: the table is replaced as a whole when a
//! series is added, and series are few (their labels come from the configuration, the policy and closed
//! sets).

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, SharedString, Unit};

use super::names::{self, Metric};

/// Decisions take microseconds, a first hash of a large binary tenths of a second.
const DECISION_BUCKETS: &[f64] =
    &[1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 0.05, 0.25, 1.0];
/// Models answer within tenths of seconds to minutes.
const FIRST_BYTE_BUCKETS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0];

/// The upper bounds of a histogram's buckets, in seconds.
fn buckets(name: &str) -> &'static [f64] {
    if name == names::DECISION_SECONDS { DECISION_BUCKETS } else { FIRST_BYTE_BUCKETS }
}

/// Seconds as whole nanoseconds, so that a sum is one atomic addition.
const NANOS: f64 = 1e9;

/// One series' value.
#[derive(Debug, Clone)]
enum Cell {
    Counter(Arc<AtomicU64>),
    /// The bits of an `f64`.
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Buckets>),
}

/// A histogram: one count for each bucket, one for samples above the last bound, and the samples' sum in
/// nanoseconds.
#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    counts: Vec<AtomicU64>,
    nanos: AtomicU64,
}

impl Buckets {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            nanos: AtomicU64::new(0),
        }
    }
}

impl HistogramFn for Buckets {
    fn record(&self, seconds: f64) {
        let place = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.bounds.len());
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a negative or endless time counts as none or the longest: the cast saturates"
        )]
        self.nanos.fetch_add((seconds * NANOS) as u64, Ordering::Relaxed);
    }
}

/// All series. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Registry(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    series: ArcSwap<HashMap<Key, Cell>>,
    /// Held while the table is replaced.
    adding: Mutex<()>,
}

impl Registry {
    fn cell(&self, key: &Key, make: impl FnOnce() -> Cell) -> Cell {
        if let Some(cell) = self.0.series.load().get(key) {
            return cell.clone();
        }
        let _turn = self.0.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = HashMap::clone(&self.0.series.load());
        let cell = table.entry(key.clone()).or_insert_with(make).clone();
        self.0.series.store(Arc::new(table));
        cell
    }

    /// The Prometheus text format 0.0.4: metrics in the table's order, series in the order of their labels.
    pub(super) fn render(&self, table: &[Metric]) -> String {
        let series = self.0.series.load();
        let mut page = String::with_capacity(16 << 10);
        for metric in table {
            let mut found: Vec<_> = series
                .iter()
                .filter(|(key, _)| key.name() == metric.name)
                .map(|(key, cell)| (labels(key), cell))
                .collect();
            found.sort_by(|a, b| a.0.cmp(&b.0));
            // Writing to a string can't fail.
            let _ = writeln!(page, "# HELP {} {}", metric.name, escaped(metric.help, false));
            let _ = writeln!(page, "# TYPE {} {}", metric.name, metric.kind.as_str());
            for (labels, cell) in found {
                let _ = cell.write(&mut page, metric.name, &labels);
            }
            page.push('\n');
        }
        page
    }
}

impl Cell {
    fn write(&self, page: &mut String, name: &str, labels: &str) -> std::fmt::Result {
        let braced = |more: &str| match (labels, more) {
            ("", "") => String::new(),
            ("", one) | (one, "") => format!("{{{one}}}"),
            (both, more) => format!("{{{both},{more}}}"),
        };
        match self {
            Self::Counter(value) => writeln!(page, "{name}{} {}", braced(""), value.load(Ordering::Relaxed)),
            Self::Gauge(bits) => {
                writeln!(page, "{name}{} {}", braced(""), f64::from_bits(bits.load(Ordering::Relaxed)))
            }
            Self::Histogram(buckets) => {
                let mut total = 0;
                for (place, count) in buckets.counts.iter().enumerate() {
                    total += count.load(Ordering::Relaxed);
                    let bound = buckets.bounds.get(place).map_or("+Inf".to_owned(), f64::to_string);
                    writeln!(page, "{name}_bucket{} {total}", braced(&format!("le=\"{bound}\"")))?;
                }
                #[expect(clippy::cast_precision_loss, reason = "exact up to 104 days, and only shown")]
                let sum = buckets.nanos.load(Ordering::Relaxed) as f64 / NANOS;
                writeln!(page, "{name}_sum{} {sum}", braced(""))?;
                writeln!(page, "{name}_count{} {total}", braced(""))
            }
        }
    }
}

fn labels(key: &Key) -> String {
    let one = |label: &metrics::Label| format!("{}=\"{}\"", label.key(), escaped(label.value(), true));
    key.labels().map(one).collect::<Vec<_>>().join(",")
}

/// Escapes a text as the format requires: backslash and line feed in help texts, in label values also the
/// quotation mark.
fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

impl metrics::Recorder for Registry {
    // Help texts are in the table.
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.cell(key, || Cell::Counter(Arc::default())) {
            Cell::Counter(value) => Counter::from_arc(value),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        // All bits zero are 0.0.
        match self.cell(key, || Cell::Gauge(Arc::default())) {
            Cell::Gauge(bits) => Gauge::from_arc(bits),
            _ => Gauge::noop(),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match self.cell(key, || Cell::Histogram(Arc::new(Buckets::new(buckets(key.name()))))) {
            Cell::Histogram(buckets) => Histogram::from_arc(buckets),
            _ => Histogram::noop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::Kind;
    use super::*;
    use metrics::{counter, gauge, histogram};

    const ANY: &[Metric] = &[
        Metric { name: "c_total", kind: Kind::Counter, labels: &["l"], help: "A \\ and a\nline." },
        Metric { name: "g", kind: Kind::Gauge, labels: &[], help: "G." },
        Metric { name: "h_seconds", kind: Kind::Histogram, labels: &[], help: "H." },
    ];

    #[test]
    fn the_page_is_the_text_format_with_everything_escaped() {
        let registry = Registry::default();
        metrics::with_local_recorder(&registry, || {
            counter!("c_total", "l" => "b").increment(2);
            counter!("c_total", "l" => "a \"q\" \\ \n").increment(1);
            counter!("c_total", "l" => "b").absolute(1);
            gauge!("g").increment(2.5);
            gauge!("g").decrement(1.0);
            histogram!("h_seconds").record(0.05);
            histogram!("h_seconds").record(0.3);
            histogram!("h_seconds").record(1000.0);
        });
        let page = registry.render(ANY);
        assert!(page.starts_with("# HELP c_total A \\\\ and a\\nline.\n# TYPE c_total counter\n"), "{page}");
        assert!(page.contains("c_total{l=\"a \\\"q\\\" \\\\ \\n\"} 1\nc_total{l=\"b\"} 2\n"), "{page}");
        assert!(page.contains("\ng 1.5\n"), "{page}");
        assert!(page.contains("h_seconds_bucket{le=\"0.05\"} 1\n"), "{page}");
        assert!(page.contains("h_seconds_bucket{le=\"0.5\"} 2\n"), "{page}");
        assert!(
            page.contains("h_seconds_bucket{le=\"+Inf\"} 3\nh_seconds_sum 1000.35\nh_seconds_count 3\n"),
            "{page}"
        );
    }

    #[test]
    fn nothing_is_lost_when_many_threads_make_series_at_once() {
        let registry = Registry::default();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let registry = registry.clone();
                scope.spawn(move || {
                    metrics::with_local_recorder(&registry, || {
                        for n in 0..100 {
                            counter!("c_total", "l" => (n % 10).to_string()).increment(1);
                            counter!("c_total", "l" => format!("{thread}-{n}")).increment(1);
                        }
                    });
                });
            }
        });
        let page = registry.render(ANY);
        let sum: u64 = page
            .lines()
            .filter(|line| line.starts_with("c_total{"))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum();
        assert_eq!(sum, 1600);
    }
}
