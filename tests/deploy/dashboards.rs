//! `deploy/grafana`: the metrics and labels in a dashboard's queries exist, and the queries are valid PromQL.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use bed::Stage;
use bed::stage::{PATIENCE, finish};
use serde_json::Value;

use crate::{as_ourselves, deploy};

/// Labels that Prometheus itself adds: for histograms, and for the target (deploy/prometheus/prometheus.yml).
const ADDED: [&str; 2] = ["le", "sandbox"];

fn dashboard() -> Result<Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(deploy("grafana/cofferdam.json"))?)?)
}

/// Every expression, of panels and of variables.
fn expressions(dashboard: &Value) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        for target in panel["targets"].as_array().into_iter().flatten() {
            all.push(target["expr"].as_str().context("a target without an expression")?.to_owned());
        }
    }
    Ok(all)
}

/// The metrics of docs/metrics.md, each with whether it is a histogram, and its labels.
fn metrics() -> BTreeMap<&'static str, (bool, BTreeSet<&'static str>)> {
    let page = include_str!("../../docs/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `cofferdam_").map(|_| line));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels =
            cells[3].split(' ').map(|label| label.trim_matches('`')).filter(|label| !label.is_empty());
        (cells[1].trim_matches('`'), (cells[2] == "histogram", labels.collect()))
    })
    .collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

pub fn dashboards_show_only_what_exists(_stage: &Stage) -> Result<()> {
    let (dashboard, metrics) = (dashboard()?, metrics());
    ensure!(metrics.len() > 20, "the control: {metrics:?}");
    let mut shown = BTreeSet::new();
    for expression in expressions(&dashboard)? {
        let mut labels: BTreeSet<&str> = ADDED.into();
        let named: Vec<&str> = words(&expression).filter(|word| word.starts_with("cofferdam_")).collect();
        ensure!(!named.is_empty(), "{expression}");
        for word in named {
            let of_histogram = word.strip_suffix("_bucket");
            let name = of_histogram.unwrap_or(word);
            let found = metrics.get(name).with_context(|| format!("{word} is no metric: {expression}"))?;
            ensure!(found.0 == of_histogram.is_some(), "{word}, by its kind: {expression}");
            labels.extend(&found.1);
            shown.insert(name.to_owned());
        }
        let by = expression.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
        let matched = expression.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let matched = matched.flat_map(|all| all.split(',').filter_map(|one| words(one).next()));
        for label in by.flat_map(words).chain(matched) {
            ensure!(labels.contains(label), "{label} is no label of it: {expression}");
        }
    }
    for variable in dashboard["templating"]["list"].as_array().context("no variables")? {
        for text in [&variable["definition"], &variable["query"]["query"]] {
            for word in words(text.as_str().unwrap_or_default()).filter(|word| word.starts_with("cofferdam_"))
            {
                ensure!(metrics.contains_key(word), "{word} is no metric");
            }
        }
    }
    // The dashboard's purpose: every metric is on it somewhere.
    let mut missing: Vec<&&str> = metrics.keys().filter(|name| !shown.contains(**name)).collect();
    missing.retain(|name| **name != "cofferdam_build_info");
    ensure!(missing.is_empty(), "not shown: {missing:?}");
    let ids: Vec<u64> =
        dashboard["panels"].as_array().into_iter().flatten().filter_map(|p| p["id"].as_u64()).collect();
    ensure!(ids.iter().collect::<BTreeSet<_>>().len() == ids.len() && ids.len() > 20, "{ids:?}");
    Ok(())
}

/// Each query as Grafana would send it, with a value for each variable.
pub fn dashboards_ask_what_prometheus_understands(stage: &Stage) -> Result<()> {
    let mut rules = String::from("groups:\n  - name: dashboard\n    rules:\n");
    for (n, expression) in expressions(&dashboard()?)?.iter().enumerate() {
        let asked = expression.replace("$__rate_interval", "1m").replace("$sandbox", ".*");
        ensure!(!asked.contains('$'), "{asked}");
        rules.push_str(&format!(
            "      - record: panel:{n}\n        expr: {}\n",
            serde_json::to_string(&asked)?
        ));
    }
    let file = stage.write("dashboard.yml", rules)?.display().to_string();
    let checked = finish(as_ourselves(&["check", "rules", &file])?, PATIENCE)?.expect_code(0)?;
    ensure!(checked.out().contains("SUCCESS"), "{}", checked.out());
    Ok(())
}
