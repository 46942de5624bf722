//! `zdsup rehearse`: what `reload` would show, about what nobody is served by.

use std::time::Duration;

use super::history::{failed, figures};
use super::progress::output;
use crate::cli::terminal::{Style, clean, clean_lines};
use crate::control::types::{ProbeSummary, UpgradeEvent, VerdictStatus};
use crate::core::{Verdict, spoken};

/// What is about to be done.
pub(in crate::cli) fn rehearsing(service: &str, time: Duration) -> String {
    let time = spoken(time);
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

/// What a prober saw of it in the place of clients.
pub(in crate::cli) fn rehearsal_seen(probe: &ProbeSummary) -> String {
    let seen = figures("clients would have seen", &probe.inside);
    failed(&probe.errors).map_or(seen.clone(), |errors| format!("{seen}; of these {errors}"))
}

/// It had to be killed.
pub(in crate::cli) fn rehearsal_overdue(style: Style) -> String {
    let warning = style.unsure("warning");
    format!("{warning}: it outlived its drain timeout and was killed: connections that it has then would be cut off")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::types::{ProbeErrors, ProbeFigures};

    fn event(verdict: Verdict, reason: Option<&str>) -> UpgradeEvent {
        let verdict = VerdictStatus {
            verdict,
            exit_code: 0,
            step: "soaking".into(),
            reason: reason.map(str::to_owned),
            hint: reason.map(|_| "look again".to_owned()),
            output: reason.map(|_| "no \x1b[31msession\x1b[0m store".to_owned()).into_iter().collect(),
            output_elsewhere: None,
            because_of: None,
            serving: None,
        };
        UpgradeEvent {
            seq: 6,
            at: 0.0,
            elapsed: 1.5,
            upgrade: 1,
            service: "web".into(),
            event: "verdict".into(),
            message: rehearsed_in_short(&verdict),
            generation: None,
            verdict: Some(Box::new(verdict)),
        }
    }

    #[test]
    fn what_clients_would_have_seen() {
        let inside = ProbeFigures { requests: 100, errors: 3, p50: 0.001, p99: 0.002 };
        let errors = ProbeErrors { status: 2, cut: 1, ..ProbeErrors::default() };
        let seen = "clients would have seen 3 errors in 100 requests, p50 1 ms, p99 2 ms";
        let probe = ProbeSummary { inside, ..ProbeSummary::default() };
        assert_eq!(rehearsal_seen(&probe), seen);
        let failed = ProbeSummary { errors, ..probe };
        assert_eq!(rehearsal_seen(&failed), format!("{seen}; of these 2 by their status, 1 cut off"));
    }

    #[test]
    fn what_a_reload_would_come_to() {
        let good = event(Verdict::Upgraded, None);
        assert_eq!(rehearsed(&good, Style::default()), "  1.500 s  web: a reload would succeed\n");
        assert_eq!(good.message, "a reload would succeed");
        let bad = event(Verdict::RolledBack, Some("GET /: 500 Internal Server Error"));
        let text = rehearsed(&bad, Style::default());
        let lines = [
            "  1.500 s  web: a reload would be rolled back at step soaking: GET /: 500 Internal Server Error",
            "  its last output:",
            "    | no session store",
            "  production is untouched",
            "hint: look again",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), lines);
        assert_eq!(bad.message, "a reload would be rolled back: GET /: 500 Internal Server Error");
        let refused = rehearsed(&event(Verdict::Refused, Some("no")), Style::default());
        assert!(refused.starts_with("  1.500 s  web: a reload would be refused: no\n"), "{refused}");
    }
}
