//! `zdsup history` and `zdsup kpi`.

use crate::cli::terminal::{Style, clean, clean_lines, wrap};
use crate::control::types::{
    KernelFigures, Kpi, PhaseRecord, ProbeErrors, ProbeFigures, Spread, SupervisorEvent, UpgradeRecord, Verdict,
};
use crate::text::count;

use super::table::Table;
use super::units::{instant, span};

/// As wide as a timeline is drawn, characters.
const TIMELINE: usize = 36;

/// Upgrades, in the order that they are in.
pub(in crate::cli) fn history(records: &[UpgradeRecord], style: Style) -> String {
    if records.is_empty() {
        return "no upgrade is on record\n".to_owned();
    }
    let mut table = Table::new(["UPGRADE", "VERDICT", "BEGAN", "KIND", "TOOK", "DRAIN", "BY"]);
    for record in records {
        let cells = [
            subject(record),
            record.verdict.to_string(),
            instant(record.at),
            record.kind.to_string(),
            span(record.duration),
            record.drain.map(span).unwrap_or_default(),
            match record.takes_back {
                Some(undone) => format!("takes #{undone} back"),
                None => record.requested_by.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
            },
        ];
        let reason = record.reason.iter().flat_map(|reason| reason.lines().next());
        let errors = record.probe.as_ref().filter(|probe| probe.inside.errors > 0);
        let errors = errors.map(|probe| figures("clients saw", &probe.inside));
        table.row(cells, paint(record.verdict), reason.map(clean).chain(errors).collect());
    }
    table.text(style)
}

/// A line of what happens to the services, as the log has it; with the verdict of an upgrade that failed, several.
pub(in crate::cli) fn told(event: &SupervisorEvent, style: Style) -> String {
    let subject = match (&event.service, event.generation) {
        (Some(service), Some(generation)) => format!("{service}@{generation}: "),
        (Some(service), None) => format!("{service}: "),
        (None, _) => String::new(),
    };
    let message = clean_lines(&event.message, "    ");
    let message = match &event.verdict {
        Some(verdict) => paint(verdict.verdict)(style, &message),
        None if matches!(event.event.as_str(), "gave-up" | "undead" | "adopted") => style.bad(&message),
        None if matches!(event.event.as_str(), "retrying" | "aborting" | "overdue" | "paused") => {
            style.unsure(&message)
        }
        None => message,
    };
    format!("{} {}{message}\n", style.faint(&instant(event.at)), style.strong(&clean(&subject)))
}

/// What one upgrade went through.
pub(in crate::cli) fn timeline(record: &UpgradeRecord, style: Style) -> String {
    let from = record.from.map(|from| format!(", from {}@{from}", record.service)).unwrap_or_default();
    let verdict = paint(record.verdict)(style, &record.verdict.to_string());
    let mut out = format!(
        "{}  {} #{}: {verdict} in {}{from}\n",
        style.strong(&subject(record)),
        record.kind,
        record.id,
        span(record.duration)
    );
    let users = record.requested_by.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let by = match record.requested_by.len() {
        0 => "by zdsup itself or a signal".to_owned(),
        1 => format!("by user {users}"),
        _ => format!("by users {users}"),
    };
    let why = match record.takes_back {
        Some(undone) => format!("takes upgrade #{undone} back, since another of the same request failed"),
        None => format!("asked for {by}"),
    };
    out.push_str(&format!("  began {}, {why}\n", instant(record.at)));
    if let Some(release) = &record.release {
        out.push_str(&format!("  release {}\n", clean(release)));
    }
    if !record.argv.is_empty() {
        let words: Vec<String> = record.argv.iter().map(|word| word_of(word)).collect();
        out.push_str(&format!("  command {}\n", words.join(" ")));
    }
    out.extend(record.directory.iter().map(|directory| format!("  in {}\n", clean(directory))));
    out.extend(record.digest.iter().map(|digest| format!("  digest {}\n", clean(digest))));
    if let Some(reason) = &record.reason {
        let step = if record.step.is_empty() { String::new() } else { format!(" at step {}", clean(&record.step)) };
        out.push_str(&format!("  given up{step}: {}\n", clean_lines(reason, "    ")));
    }
    if let Some(rollback) = record.rollback {
        out.push_str(&format!("  the traffic was back after {}\n", span(rollback)));
    }
    if let Some(probe) = &record.probe {
        out.push_str(&format!("  {}\n", figures("clients saw", &probe.inside)));
        out.extend(failed(&probe.errors).map(|errors| format!("    of these {errors}\n")));
        out.extend(probe.before.iter().map(|before| format!("  {}\n", figures("and before", before))));
        if probe.partial {
            out.push_str("  at least: a supervisor was replaced or died; times are of the latest\n");
        }
        out.extend(probe.kernel.iter().map(|kernel| format!("  {}\n", counted(kernel))));
    }
    out.push('\n');
    out.push_str(&drawn(record, style));
    out
}

/// An argument, as a shell would have it.
fn word_of(word: &str) -> String {
    let plain = |char: char| char.is_alphanumeric() || "-_=+.,:/@%^…".contains(char);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", clean(word).replace('\'', "'\\''")),
    }
}

/// How requests failed, if any did.
pub(super) fn failed(errors: &ProbeErrors) -> Option<String> {
    let ProbeErrors { refused, unreachable, reset, timed_out, cut, malformed, status } = *errors;
    let classes = [
        (status, "by their status"),
        (refused, "refused"),
        (unreachable, "unreachable"),
        (reset, "reset"),
        (timed_out, "not answered in time"),
        (cut, "cut off"),
        (malformed, "answered, and not in HTTP"),
    ];
    let there = classes.into_iter().filter(|(count, _)| *count > 0);
    let said: Vec<String> = there.map(|(count, class)| format!("{count} {class}")).collect();
    (!said.is_empty()).then(|| said.join(", "))
}

/// What the kernel counted.
fn counted(kernel: &KernelFigures) -> String {
    let KernelFigures { queue, overflows, drops, resets } = *kernel;
    let [overflows, resets] = [count(overflows, "overflow"), count(resets, "reset")];
    format!("at most {queue} waited to be accepted; on the host {overflows}, {drops} dropped, {resets}")
}

/// A line for each phase, with a bar where it lies in the whole.
fn drawn(record: &UpgradeRecord, style: Style) -> String {
    let mut bars: Vec<PhaseRecord> = record.phases.clone();
    // The last phase goes on behind the verdict.
    if let Some(drain) = record.drain {
        match bars.iter_mut().rfind(|phase| phase.name == "draining") {
            Some(draining) => draining.duration = drain,
            None => bars.push(PhaseRecord { name: "draining".into(), start: record.duration, duration: drain }),
        }
    }
    let total =
        bars.iter().map(|phase| phase.start + phase.duration).fold(record.duration, f64::max).max(f64::MIN_POSITIVE);
    let names = bars.iter().map(|phase| clean(&phase.name).chars().count()).max().unwrap_or(0).max("verdict".len());
    let column = |at: f64| ((at / total).clamp(0.0, 1.0) * TIMELINE as f64).round() as usize;
    let line = |name: &str, start: f64, duration: &str, bar: String| {
        format!("  {name:<names$}  {:>7}  {duration:>7}  {}", span(start), bar).trim_end().to_owned() + "\n"
    };
    let mut lines: Vec<(f64, String)> = bars
        .iter()
        .map(|phase| {
            let begin = column(phase.start).min(TIMELINE - 1);
            let length = column(phase.start + phase.duration).saturating_sub(begin).max(1);
            let bar = format!("{:begin$}{}", "", "█".repeat(length));
            (phase.start, line(&clean(&phase.name), phase.start, &span(phase.duration), bar))
        })
        .collect();
    let mark = format!("{:1$}▲", "", column(record.duration).min(TIMELINE - 1));
    let verdict = line("verdict", record.duration, "", mark);
    let at = lines.iter().rposition(|(start, _)| *start <= record.duration).map_or(0, |at| at + 1);
    lines.insert(at, (record.duration, verdict));
    let head = style.faint(&format!("  {:<names$}  {:>7}  {:>7}", "PHASE", "AFTER", "TOOK"));
    head + "\n" + &lines.into_iter().map(|(_, line)| line).collect::<String>()
}

/// Figures.
pub(in crate::cli) fn kpi(kpi: &Kpi, style: Style) -> String {
    let whose = kpi.service.as_deref().unwrap_or("every service");
    let mut out = format!("{}, the last {}\n", style.strong(whose), span(kpi.since));
    let verdicts = [
        (kpi.upgraded, "upgraded"),
        (kpi.failed, "failed"),
        (kpi.rolled_back, "rolled-back"),
        (kpi.aborted, "aborted"),
        (kpi.refused, "refused"),
    ];
    let verdicts = verdicts.iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}"));
    let verdicts = verdicts.collect::<Vec<_>>().join(", ");
    let mut line = |what: &str, figure: String, more: String| {
        out.push_str(format!("  {what:<18}  {figure:<9}  {more}").trim_end());
        out.push('\n');
    };
    line("deployments", kpi.deployments.to_string(), verdicts);
    let percent = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), percent);
    line("success rate", percent(kpi.success_rate), String::new());
    let seen = match kpi.client_requests {
        0 => String::new(),
        requests => format!("{} of {requests}", count(kpi.client_errors, "error")),
    };
    line("client error rate", percent(kpi.client_error_rate), seen);
    let time = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), span);
    let p50 = |spread: &Spread| time(spread.p50);
    let worst = |spread: &Spread| {
        spread.max.map_or_else(String::new, |max| format!("worst {}, of {}", span(max), spread.count))
    };
    line("time to upgrade", p50(&kpi.upgrade), worst(&kpi.upgrade));
    line("time to rollback", p50(&kpi.rollback), worst(&kpi.rollback));
    line("time to drain", time(kpi.drain.mean), worst(&kpi.drain));
    let note = "times to upgrade and to rollback: what half of them do not exceed; to drain: the mean";
    for note in wrap(note, style.width.map_or(usize::MAX, |width| width.saturating_sub(2))) {
        out.push_str(&format!("  {}\n", style.faint(&note)));
    }
    out
}

/// `web@4`; without a candidate the upgrade's number.
fn subject(record: &UpgradeRecord) -> String {
    match record.generation {
        Some(generation) => format!("{}@{generation}", record.service),
        None => format!("{} #{}", record.service, record.id),
    }
}

fn paint(verdict: Verdict) -> fn(Style, &str) -> String {
    match verdict {
        Verdict::Upgraded => Style::good,
        Verdict::Failed | Verdict::RolledBack => Style::bad,
        Verdict::Aborted | Verdict::Refused => Style::unsure,
    }
}

/// A share, with as many digits as tell something.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        // Never rounded to what it is not.
        _ if percent > 0.0 && percent < 0.01 => "< 0.01 %".to_owned(),
        _ if percent > 99.99 && percent < 100.0 => "> 99.99 %".to_owned(),
        _ if percent.fract() == 0.0 => format!("{percent:.0} %"),
        _ => format!("{percent:.2} %"),
    }
}

pub(super) fn figures(who: &str, figures: &ProbeFigures) -> String {
    let ProbeFigures { requests, errors, p50, p99 } = figures;
    if *requests == 0 {
        return format!("{who} nothing: nobody was asked");
    }
    let (errors, requests) = (count(*errors, "error"), count(*requests, "request"));
    // An answer takes a while: there was none.
    if *p99 <= 0.0 {
        return format!("{who} {errors} in {requests}, and no answer");
    }
    format!("{who} {errors} in {requests}, p50 {}, p99 {}", span(*p50), span(*p99))
}
