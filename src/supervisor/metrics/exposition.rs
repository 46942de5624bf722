//! The text format of OpenMetrics 1.0 (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).

use std::fmt::Write;

use super::counters::Histogram;
use super::table::{Kind, Metric};

/// A text in the making. Each metric comes once, with all of its samples.
#[derive(Debug, Default)]
pub(in crate::supervisor) struct Exposition(String);

impl Exposition {
    /// A metric. Its samples follow.
    pub(super) fn metric(&mut self, metric: &'static Metric) -> Samples<'_> {
        let kind = match metric.kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        };
        let Metric { name, help, .. } = metric;
        let help = help.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        if let Some(unit) = ["seconds", "bytes"].into_iter().find(|unit| name.ends_with(&format!("_{unit}"))) {
            let _ = writeln!(self.0, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.0, "# HELP {name} {help}");
        Samples { text: &mut self.0, metric }
    }

    /// The whole of it.
    pub(in crate::supervisor) fn finish(mut self) -> String {
        self.0.push_str("# EOF\n");
        self.0
    }
}

/// Labels with their values.
type Labels<'a> = &'a [(&'a str, &'a str)];

/// The samples of a metric.
#[derive(Debug)]
pub(super) struct Samples<'a> {
    text: &'a mut String,
    metric: &'static Metric,
}

impl Samples<'_> {
    /// A sample of a gauge or a counter.
    pub(super) fn add(&mut self, labels: Labels<'_>, value: f64) {
        let suffix = if self.metric.kind == Kind::Counter { "_total" } else { "" };
        self.line(suffix, labels, value);
    }

    /// The samples of a histogram.
    pub(super) fn spread(&mut self, labels: Labels<'_>, histogram: &Histogram) {
        for (bound, count) in histogram.buckets() {
            let bound = bound.map_or_else(|| "+Inf".to_owned(), float);
            self.line("_bucket", &[labels, &[("le", &bound)]].concat(), count as f64);
        }
        self.line("_sum", labels, histogram.sum());
        self.line("_count", labels, histogram.count() as f64);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, value: f64) {
        self.text.push_str(self.metric.name);
        self.text.push_str(suffix);
        for (at, (name, value)) in labels.iter().enumerate() {
            let value = value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
            let _ = write!(self.text, "{}{name}=\"{value}\"", if at == 0 { '{' } else { ',' });
        }
        self.text.push_str(if labels.is_empty() { " " } else { "} " });
        let _ = match value {
            _ if value.is_nan() => writeln!(self.text, "NaN"),
            _ if value.is_infinite() => writeln!(self.text, "{}Inf", if value > 0.0 { '+' } else { '-' }),
            _ => writeln!(self.text, "{value}"),
        };
    }
}

/// As canonical as bounds are to be: with a point.
fn float(value: f64) -> String {
    format!("{value:?}")
}
