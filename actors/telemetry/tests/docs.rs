//! The page says what the code has: every metric, its kind, its labels and its meaning, no more and no less.

use cofferdam_telemetry::metrics::TABLE;

#[test]
fn the_page_lists_every_metric_as_the_code_has_it() {
    let page = include_str!("../../../docs/metrics.md");
    let listed: Vec<&str> = page.lines().filter(|line| line.starts_with("| `cofferdam_")).collect();
    let expected: Vec<String> = TABLE
        .iter()
        .map(|metric| {
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{} ", labels.join(" ")) };
            format!("| `{}` | {} | {labels}| {} |", metric.name, metric.kind.as_str(), metric.help)
        })
        .collect();
    assert_eq!(listed, expected);
}
