//! What stays of the demo: the table of upgrades, the sums, and the sentence at the end. At most 80 columns wide.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use super::answered_otherwise;
use super::upgrade::Outcome;
use crate::cli::terminal::{Style, clean};
use crate::load::{Latency, Report};

/// The column where a reason begins.
const INDENT: usize = 39;

/// Columns that a reason may take.
const REASON: usize = 80 - INDENT;

/// What is to be seen, and the head of the table of upgrades.
pub(super) fn opening(address: SocketAddr, clients: usize, upgrades: usize, style: Style) -> String {
    format!(
        "A small server runs under zdsup on {address}, and {clients} clients ask it all the\n\
         time. Now it is upgraded {upgrades} times; some of the new releases are broken.\n\n  {}\n",
        style.faint(" #  new   verdict      took  serves  reason"),
    )
}

/// One upgrade: how it ended, and the release that serves behind it.
pub(super) fn row(number: usize, outcome: &Outcome, serving: &str, style: Style) -> String {
    let verdict = format!("{:<8}", outcome.verdict.verdict.to_string());
    let verdict = match (outcome.is_as_it_must(), outcome.is_good()) {
        (true, true) => style.good(&verdict),
        (true, false) => style.unsure(&verdict),
        (false, _) => style.bad(&verdict),
    };
    let mut reasons = Vec::new();
    if !outcome.is_as_it_must() {
        let code = outcome.exit_code.map_or("none".to_owned(), |code| code.to_string());
        reasons.push(format!("NOT AS EXPECTED (exit code {code})"));
    }
    reasons.extend(outcome.verdict.reason.as_deref().map(|reason| clean(without_advice(reason))));
    // The last line that the process wrote says more than how it ended.
    reasons.extend(outcome.verdict.output.last().map(|line| format!("it said: {}", clean(line))));
    let mut lines = reasons.iter().flat_map(|reason| wrap(reason, REASON));
    let first = format!(
        "  {number:>2}  {:<4}  {verdict}  {:>5.2} s  {serving:<6}  {}",
        outcome.release.name,
        outcome.took.as_secs_f64(),
        lines.next().unwrap_or_default(),
    );
    let mut text = format!("{}\n", first.trim_end());
    for line in lines {
        let _ = writeln!(text, "{:INDENT$}{line}", "");
    }
    text
}

/// Advice in brackets is for whoever can follow it, and here nobody can.
fn without_advice(reason: &str) -> &str {
    match reason.split_once(" (") {
        Some((reason, advice)) if advice.ends_with(')') => reason,
        _ => reason,
    }
}

/// The sums, and the sentence at the end.
pub(super) fn closing(report: &Report, split: &(Report, Report), outcomes: &[Outcome], style: Style) -> String {
    let (during, between) = split;
    let head = format!("{:<18}{:>10}{:>9}{:>12}{:>12}{:>12}", "", "requests", "failed", "p50", "p99", "max");
    let mut text = format!("\n  {}\n", style.faint(&head));
    for (name, part) in [("between upgrades", between), ("during upgrades", during), ("all", report)] {
        let Latency { p50, p99, max, .. } = part.percentiles();
        let failed = format!("{:>9}", thousands(part.failed()));
        let _ = writeln!(
            text,
            "  {name:<18}{:>10}{}{:>12}{:>12}{:>12}",
            thousands(part.total),
            if part.failed() == 0 { style.good(&failed) } else { style.bad(&failed) },
            latency(p50),
            latency(p99),
            latency(max),
        );
    }
    text.push('\n');
    for (class, count) in &report.errors {
        let _ = writeln!(text, "  {}: {}", style.bad(&class.to_string()), thousands(*count));
    }
    for example in report.examples.iter().take(5) {
        let after = example.at.saturating_duration_since(report.started());
        let _ = writeln!(text, "  after {:.3} s: {}: {}", after.as_secs_f64(), example.class, example.detail);
    }
    text.push_str(&sentence(report, outcomes, style));
    text
}

fn sentence(report: &Report, outcomes: &[Outcome], style: Style) -> String {
    let live = outcomes.iter().filter(|outcome| outcome.is_good()).count();
    let refused = outcomes.len() - live;
    let astray = outcomes.iter().filter(|outcome| !outcome.is_as_it_must()).count();
    let requests = thousands(report.total);
    if report.failed() > 0 {
        let failed = thousands(report.failed());
        return style.bad(&format!("{failed} of {requests} requests failed.")) + "\n";
    }
    if astray > 0 {
        let line =
            format!("No request failed, but {astray} of {} upgrades ended otherwise than they must.", outcomes.len());
        return style.bad(&line) + "\n";
    }
    let otherwise = answered_otherwise(report, outcomes);
    if !otherwise.is_empty() {
        let line = format!("No request failed, but who answered does not fit the verdicts: {}.", otherwise.join(", "));
        return style.bad(&line) + "\n";
    }
    format!(
        "{}\n{live} releases went live, {refused} broken ones were turned away, and no client noticed.\n",
        style.good(&format!("{requests} requests, not one failed.")),
    )
}

/// `12,345 requests, 0 failed`.
pub(super) fn counted(total: u64, failed: u64) -> String {
    format!("{} requests, {} failed", thousands(total), thousands(failed))
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Milliseconds, with three digits that count.
fn latency(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    match ms {
        ..10.0 => format!("{ms:.2} ms"),
        10.0..100.0 => format!("{ms:.1} ms"),
        _ => format!("{ms:.0} ms"),
    }
}

/// Lines of at most so many characters, broken at spaces, and within words that are longer than a line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => {
                let chars: Vec<char> = word.chars().collect();
                lines.extend(chars.chunks(width).map(String::from_iter));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::cli::demo::{Fault, Release};
    use crate::control::types::{Verdict, VerdictStatus};
    use crate::load::Mode;

    fn outcome(fault: Fault, verdict: Verdict, exit_code: u8, reason: Option<&str>) -> Outcome {
        let now = Instant::now();
        Outcome {
            release: Release { name: "v7", fault },
            verdict: VerdictStatus {
                verdict,
                exit_code,
                step: "starting".to_owned(),
                reason: reason.map(str::to_owned),
                hint: None,
                output: Vec::new(),
                output_elsewhere: None,
                because_of: None,
                serving: Some(3),
            },
            took: Duration::from_millis(1234),
            exit_code: Some(exit_code.into()),
            window: now..now,
        }
    }

    #[test]
    fn rows_fit_into_80_columns() {
        let reason = "it was never ready in 1 s, and that for a reason which takes more words than there is room for";
        let bad = outcome(Fault::NeverReady, Verdict::Failed, 4, Some(reason));
        let text = row(10, &bad, "v6", Style::default());
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.lines().count() > 1);
        assert_eq!(
            row(7, &outcome(Fault::None, Verdict::Upgraded, 0, None), "v7", Style::default()),
            "   7  v7    upgraded   1.23 s  v7\n"
        );
    }

    #[test]
    fn a_verdict_that_must_not_be_stands_out() {
        let text = row(1, &outcome(Fault::Crash, Verdict::Upgraded, 0, None), "v7", Style::default());
        assert!(text.contains("NOT AS EXPECTED (exit code 0)"), "{text}");
    }

    #[test]
    fn the_sentence_tells_the_truth() {
        let good = outcome(Fault::None, Verdict::Upgraded, 0, None);
        let bad = outcome(Fault::Crash, Verdict::Failed, 4, Some("exit status 1"));
        let plain = Style::default();
        let mut report = Report::new(Instant::now());
        assert!(sentence(&report, std::slice::from_ref(&good), plain).contains("does not fit the verdicts: v7"));
        report.record(Instant::now(), Duration::from_millis(1), Mode::New, Ok("v7".to_owned()));
        assert!(sentence(&report, &[bad], plain).contains("does not fit the verdicts: v7"));
        assert!(sentence(&report, std::slice::from_ref(&good), plain).contains("1 releases went live, 0 broken"));
        let astray = outcome(Fault::Crash, Verdict::Upgraded, 0, None);
        assert!(sentence(&report, &[good, astray], plain).contains("1 of 2 upgrades ended otherwise"));
    }

    #[test]
    fn long_words_are_broken() {
        assert_eq!(wrap("to execute /a/long/path: no", 8), ["to", "execute", "/a/long/", "path: no"]);
        assert_eq!(wrap("", 8), Vec::<String>::new());
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(latency(Duration::from_micros(211)), "0.21 ms");
        assert_eq!(latency(Duration::from_micros(12_345)), "12.3 ms");
        assert_eq!(latency(Duration::from_secs(1)), "1000 ms");
    }
}
