//! `zdsup reload`, `zdsup restart` and `zdsup rollback`: an upgrade as it happens.

use crate::cli::terminal::{Style, clean, clean_lines};
use crate::control::types::{AdmissionKind, UpgradeAccepted, UpgradeEvent, VerdictStatus};
use crate::core::Verdict;

/// How the request was taken.
pub(in crate::cli) fn accepted(accepted: &UpgradeAccepted) -> String {
    let UpgradeAccepted { id, service, admission, then, atomic, removes, left_out } = accepted;
    let mut line = match admission {
        AdmissionKind::Begun => format!("{service}: upgrade #{id} has begun"),
        AdmissionKind::Queued => format!("{service}: another upgrade is in flight; this one, #{id}, begins after it"),
        AdmissionKind::Joined => {
            format!("{service}: another upgrade is in flight; this request shares the next one, #{id}")
        }
    };
    if !then.is_empty() {
        let then: Vec<String> = then.iter().map(|then| format!("{} (#{})", then.service, then.id)).collect();
        let together = if *atomic { ", all of them or none" } else { "" };
        line.push_str(&format!("; then {}{together}", then.join(", ")));
    }
    for service in removes {
        line.push_str(&format!("\n{service}: the config does not have it any more; it is removed at the end"));
    }
    for service in left_out {
        line.push_str(&format!("\n{service}: it is being stopped, and takes no part"));
    }
    line
}

/// A line of the story; with the verdict of an upgrade that failed, several.
pub(in crate::cli) fn event(event: &UpgradeEvent, style: Style) -> String {
    let subject = subject(event);
    let time = style.faint(&format!("{:>9}", format!("{:.3} s", event.elapsed)));
    match &event.verdict {
        Some(verdict) if verdict.verdict == Verdict::Upgraded => {
            let message = event.message.strip_prefix("upgraded").unwrap_or_default();
            format!("{time}  {}: {}{}\n", style.strong(&subject), style.good("upgraded"), clean(message))
        }
        Some(verdict) => format!("{time}  {}", given_up(&subject, &event.service, verdict, style)),
        None if event.event == "status" => {
            format!("{time}  {}: status: {}\n", style.strong(&subject), clean(&event.message))
        }
        None if event.event == "output" => {
            format!("{time}  {}: {} {}\n", style.strong(&subject), style.faint("|"), clean(&event.message))
        }
        None => format!("{time}  {}: {}\n", style.strong(&subject), clean(&event.message)),
    }
}

/// The moving line: where it is, what it waits for, and what the candidate last said of itself.
pub(in crate::cli) fn waiting(last: Option<&UpgradeEvent>, said: &str) -> String {
    let message = last.map(|event| clean(&event.message)).unwrap_or_default();
    let what = match last.map(|event| event.event.as_str()) {
        Some("verdict") if last.is_some_and(|event| !has_succeeded(event)) => "waiting until what was started is gone",
        None => "asking for an upgrade",
        Some("queued") => "waiting for the upgrade in flight to end",
        Some("pinning") => "resolving the release",
        Some("starting") => "starting the new generation",
        Some("spawned") => "waiting until it is ready",
        Some("ready" | "soaking") => "soaking: it must stay up",
        Some("switching-back" | "promoted") => "moving new connections",
        // It says itself what it waits for.
        Some("hook" | "weighted" | "awaiting-promotion") => &message,
        Some("rolled") => "replacing the next instances",
        Some("returning") => "waiting until what was replaced serves again",
        Some("standby") => "the old generation stands by",
        Some("serving") => "telling the old generation to stop",
        Some(_) => "waiting until the old generation is gone",
    };
    let subject = last.map(|event| format!("{}: ", subject(event))).unwrap_or_default();
    let said = if said.is_empty() { String::new() } else { format!(" · {}", clean(said)) };
    format!("{subject}{}{said}", clean(what))
}

/// The last lines of output of a candidate, or where to look for them.
pub(super) fn output(verdict: &VerdictStatus, most: usize, indent: &str, style: Style) -> String {
    let lines = &verdict.output[verdict.output.len().saturating_sub(most)..];
    last_output("its last output", lines, verdict.output_elsewhere.as_deref(), indent, style)
}

/// Some lines of output under a heading, or where to look for them.
pub(super) fn last_output(
    heading: &str,
    lines: &[String],
    elsewhere: Option<&str>,
    indent: &str,
    style: Style,
) -> String {
    let mut out = String::new();
    if !lines.is_empty() {
        out.push_str(&format!("{indent}{heading}:\n"));
    }
    for line in lines {
        out.push_str(&format!("{indent}  {} {}\n", style.faint("|"), clean(line)));
    }
    if let Some(elsewhere) = elsewhere {
        out.push_str(&format!("{indent}{}\n", clean(elsewhere)));
    }
    out
}

/// How it ended, and at which step; one that was refused had not begun.
pub(super) fn ended(verdict: &VerdictStatus, style: Style) -> String {
    let name = style.bad(&verdict.verdict.to_string());
    if verdict.verdict == Verdict::Refused { name } else { format!("{name} at step {}", verdict.step) }
}

fn has_succeeded(event: &UpgradeEvent) -> bool {
    event.verdict.as_ref().is_some_and(|verdict| verdict.verdict == Verdict::Upgraded)
}

fn subject(event: &UpgradeEvent) -> String {
    match event.generation {
        Some(generation) => format!("{}@{generation}", event.service),
        None => event.service.clone(),
    }
}

/// Which step, the reason, the last lines of output, what is serving now, and what would mend it.
fn given_up(subject: &str, service: &str, verdict: &VerdictStatus, style: Style) -> String {
    let mut out = format!(
        "{}: {}: {}\n",
        style.strong(subject),
        ended(verdict, style),
        clean_lines(verdict.reason.as_deref().unwrap_or("no reason is known"), "  "),
    );
    out.push_str(&output(verdict, usize::MAX, "  ", style));
    out.push_str(&match verdict.serving {
        Some(serving) => format!("  {} is still serving\n", style.good(&format!("{service}@{serving}"))),
        None => format!("  {}\n", style.bad("nothing is serving")),
    });
    if let Some(hint) = &verdict.hint {
        out.push_str(&format!("hint: {}\n", clean(hint)));
    }
    out
}
