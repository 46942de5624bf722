//! `zdsup rehearse`: what `reload` would show, about what nobody is served by.

use std::time::Duration;

use super::progress::output;
use super::span;
use crate::cli::terminal::{Style, clean, clean_lines};
use crate::control::types::{UpgradeEvent, VerdictStatus};
use crate::core::Verdict;

/// What is about to be done.
pub(in crate::cli) fn rehearsing(service: &str, time: Duration) -> String {
    let time = span(time.as_secs_f64());
    format!(
        "{service}: rehearsing one instance for {time}, on private sockets and without hooks; production is untouched"
    )
}

/// How it ended, in a line.
pub(in crate::cli) fn rehearsed_in_short(verdict: &VerdictStatus) -> String {
    match &verdict.reason {
        Some(reason) => format!("{}: {reason}", would(verdict.verdict)),
        None => would(verdict.verdict).to_owned(),
    }
}

/// How it ended: where it would not have succeeded, which step, the reason, the last lines of output, and what would
/// mend it.
pub(in crate::cli) fn rehearsed(event: &UpgradeEvent, style: Style) -> String {
    let time = style.faint(&format!("{:>9}", format!("{:.3} s", event.elapsed)));
    let subject = style.strong(&event.service);
    let Some(verdict) = event.verdict.as_deref().filter(|verdict| verdict.verdict != Verdict::Upgraded) else {
        return format!("{time}  {subject}: {}\n", style.good(would(Verdict::Upgraded)));
    };
    let reason = clean_lines(verdict.reason.as_deref().unwrap_or("no reason is known"), "  ");
    // What is refused has not begun.
    let step = match verdict.verdict {
        Verdict::Refused => String::new(),
        _ => format!(" at step {}", verdict.step),
    };
    let mut out = format!("{time}  {subject}: {}{step}: {reason}\n", style.bad(would(verdict.verdict)));
    out.push_str(&output(verdict, usize::MAX, "  ", style));
    out.push_str("  production is untouched\n");
    if let Some(hint) = &verdict.hint {
        out.push_str(&format!("hint: {}\n", clean(hint)));
    }
    out
}

fn would(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Upgraded => "a reload would succeed",
        Verdict::Failed => "a reload would fail",
        Verdict::RolledBack => "a reload would be rolled back",
        Verdict::Aborted => "a reload would be aborted",
        Verdict::Refused => "a reload would be refused",
    }
}

/// It had to be killed.
pub(in crate::cli) fn rehearsal_overdue(style: Style) -> String {
    let warning = style.unsure("warning");
    format!("{warning}: it outlived its drain timeout and was killed: connections that it has then would be cut off")
}
