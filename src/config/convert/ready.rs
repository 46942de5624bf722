//! The proof of readiness, and the keys that belong to each.

use std::time::Duration;

use toml::Spanned;

use super::super::{Ready, ReadyBy, explain, raw, units};
use super::{Origin, Problem, Result, command, duration, nonzero, number};

const PROOFS: [&str; 4] = ["notify", "fd", "exec", "alive"];
const LATER: [&str; 3] = ["http", "tcp", "listening"];

/// The highest descriptor: below the usual soft limit of open files.
const FD_MAX: i64 = 1023;

/// `passed`: how many listeners there are, and how many stored descriptors may follow them.
pub(super) fn ready(raw: raw::Ready, passed: (usize, u32), anchored: bool, origin: Origin<'_>) -> Result<Ready> {
    let default = Ready::default();
    let timeout = raw.timeout.as_ref().map_or(Ok(default.timeout), |timeout| {
        nonzero(timeout, "the ready timeout", "write how long the service may take to become ready")
    })?;
    let by = match &raw.by {
        None => "notify",
        Some(by) => known(by, origin)?,
    };
    only_with(by, "fd", raw.fd.as_ref(), origin)?;
    only_with(by, "exec", raw.exec.as_ref(), origin)?;
    only_with(by, "exec", raw.interval.as_ref(), origin)?;
    only_with(by, "alive", raw.alive_for.as_ref(), origin)?;
    let place = raw.by.map_or(0..0, |by| by.span());
    let needs = |what: &str| format!("readiness by `{by}` needs {what}");
    let missing = |what: &str, in_file: String, in_flags: String| match origin {
        Origin::File => Problem::new(place.clone(), needs(what)).hint(format!("add `{in_file}`")),
        Origin::Flags { .. } => Problem::new(place.clone(), needs(what)).hint(format!("write `--ready {in_flags}`")),
    };
    let by = match by {
        "fd" => match raw.fd {
            Some(fd) => ReadyBy::Fd(descriptor(&fd, passed)?),
            None => {
                let free = 3 + passed.0 + passed.1 as usize;
                return Err(missing("a descriptor", format!("fd = {free}"), format!("fd={free}")));
            }
        },
        "exec" => match raw.exec {
            Some(words) => ReadyBy::Exec {
                command: command(&words, anchored)?,
                interval: raw.interval.map_or(Ok(Ready::INTERVAL), |interval| {
                    nonzero(&interval, "the pause between attempts", "write at least `1ms`")
                })?,
            },
            None => {
                let in_file = "exec = [\"/path/to/program\", \"argument\"]".to_owned();
                return Err(missing("a command", in_file, "exec=COMMAND".to_owned()));
            }
        },
        "alive" => match raw.alive_for {
            Some(text) => ReadyBy::Alive(alive(&text, timeout, raw.timeout.as_ref())?),
            None => return Err(missing("a time", "alive-for = \"5s\"".to_owned(), "alive=5s".to_owned())),
        },
        _ => ReadyBy::Notify,
    };
    Ok(Ready { by, timeout })
}

fn known(by: &Spanned<String>, origin: Origin<'_>) -> Result<&'static str> {
    let text = by.get_ref().as_str();
    if let Some(known) = PROOFS.into_iter().find(|known| *known == text) {
        return Ok(known);
    }
    let problem = Problem::new(by.span(), format!("`{}` is not a proof of readiness", text.escape_debug()));
    let forms = match origin {
        Origin::File => "`notify`, `fd`, `exec` and `alive`",
        Origin::Flags { .. } => "`notify`, `fd=N`, `exec=COMMAND` and `alive=TIME`",
    };
    Err(if LATER.contains(&text) {
        problem.hint(format!("`{text}` is not in this version of zdsup; there are {forms}"))
    } else {
        match explain::nearest(text, PROOFS) {
            Some(nearest) => problem.hint(format!("did you mean `{nearest}`?")),
            None => problem.hint(format!("there are {forms}")),
        }
    })
}

/// Refuses a key whose proof is not the chosen one: it would have no effect.
fn only_with<T>(by: &str, needed: &str, value: Option<&Spanned<T>>, origin: Origin<'_>) -> Result<()> {
    match value {
        Some(value) if by != needed => {
            let message = format!("this belongs to readiness by `{needed}`, not by `{by}`");
            Err(Problem::new(value.span(), message).hint(match origin {
                Origin::File => format!("write `by = \"{needed}\"`, or remove it"),
                Origin::Flags { .. } => format!("write `--ready {needed}=...`, or remove it"),
            }))
        }
        _ => Ok(()),
    }
}

/// Descriptors 0 to 2 are the standard ones, the listeners' begin at 3 (sd_listen_fds(3)), and those that the service
/// has stored come after them.
fn descriptor(fd: &Spanned<i64>, (listeners, stored): (usize, u32)) -> Result<u32> {
    let after = 3 + i64::try_from(listeners).unwrap_or(FD_MAX);
    let first = after + i64::from(stored);
    match *fd.get_ref() {
        0..3 => Err(Problem::new(fd.span(), format!("descriptor {} is standard input or output", fd.get_ref()))
            .hint(format!("choose {first} or a higher one"))),
        taken if (3..first).contains(&taken) => Err(Problem::new(
            fd.span(),
            match listeners {
                _ if taken >= after => {
                    format!("descriptor {taken} may be a stored one: `fd-store-max` takes {after} to {}", first - 1)
                }
                1 => "descriptor 3 is the listener's".to_owned(),
                _ => format!("descriptor {taken} is a listener's: they take 3 to {}", after - 1),
            },
        )
        .hint(format!("choose {first} or a higher one"))),
        _ => number(fd, first..=FD_MAX.max(first), "the descriptor"),
    }
}

fn alive(
    text: &Spanned<raw::DurationText>,
    timeout: Duration,
    written: Option<&Spanned<raw::DurationText>>,
) -> Result<Duration> {
    let time = duration(text)?;
    if time <= timeout {
        return Ok(time);
    }
    let timeout = units::format_duration(timeout);
    let problem = Problem::new(text.span(), format!("it would never be ready: the timeout is {timeout}"))
        .hint("make the timeout longer, or this shorter");
    Err(match written {
        Some(written) => problem.also(written.span(), "the timeout"),
        None => problem,
    })
}
