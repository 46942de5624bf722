//! What is exposed is well-formed, and everything that speaks of metrics speaks of those that there are.

use std::collections::BTreeSet;

use super::counters::Histogram;
use super::exposition::Exposition;
use super::table::{self, ALL, Kind};

#[test]
fn text_is_escaped_and_histograms_add_up() {
    let mut histogram = Histogram::default();
    for value in [0.01, 0.02, 7.0, 1e9] {
        histogram.observe(value);
    }
    let mut out = Exposition::default();
    out.metric(&table::RESTARTS).add(&[("service", "a\"b\\c\nd")], 3.0);
    out.metric(&table::DRAIN).spread(&[("service", "web")], &histogram);
    out.metric(&table::MEMORY).add(&[], f64::INFINITY);
    insta::assert_snapshot!(out.finish());
}

/// Names of samples, as a query has them.
fn samples() -> BTreeSet<String> {
    let suffixes = |kind| match kind {
        Kind::Gauge => &[""][..],
        Kind::Counter => &["_total"],
        Kind::Histogram => &["_bucket", "_sum", "_count"],
    };
    ALL.iter().flat_map(|one| suffixes(one.kind).iter().map(move |suffix| format!("{}{suffix}", one.name))).collect()
}

fn spoken_of(text: &str) -> BTreeSet<&str> {
    let words = text.split(|char: char| !(char.is_ascii_alphanumeric() || char == '_'));
    words.filter(|word| word.starts_with("zdsup_")).collect()
}

#[test]
fn names_say_what_they_are() {
    let names: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), ALL.len(), "each once");
    for metric in ALL {
        assert!(metric.name.starts_with("zdsup_") && metric.help.ends_with('.'), "{metric:?}");
        assert!(!["_total", "_count", "_sum", "_bucket"].iter().any(|end| metric.name.ends_with(end)), "{metric:?}");
        assert_eq!(metric.kind == Kind::Histogram, metric.name.ends_with("_duration_seconds"), "{metric:?}");
    }
}

#[test]
fn dashboard_and_alerts_speak_of_metrics_that_there_are() {
    let samples = samples();
    for text in [
        include_str!("../../../packaging/grafana-dashboard.json"),
        include_str!("../../../packaging/prometheus-alerts.yml"),
    ] {
        let spoken_of = spoken_of(text);
        assert!(spoken_of.len() > 5);
        let unknown: Vec<_> = spoken_of.into_iter().filter(|name| !samples.contains(*name)).collect();
        assert_eq!(unknown, [""; 0]);
    }
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../../../packaging/grafana-dashboard.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 5);
}

#[test]
fn the_manual_has_every_metric_and_no_other() {
    let manual = include_str!("../../../docs/operate.md");
    let known = samples();
    let rows: BTreeSet<String> = manual
        .lines()
        .filter_map(|line| line.strip_prefix("| `zdsup_"))
        .map(|row| format!("zdsup_{}", row.split(['`', '{']).next().unwrap()))
        .collect();
    // One row a histogram.
    let expected: BTreeSet<String> = known
        .into_iter()
        .filter(|name| !name.ends_with("_sum") && !name.ends_with("_count"))
        .map(|name| name.strip_suffix("_bucket").map(str::to_owned).unwrap_or(name))
        .collect();
    assert_eq!(rows, expected);
}
