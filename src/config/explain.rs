//! Turns what toml and serde say into errors that a person can act on.

use super::error::Problem;

/// The keys of every table, for advice about a key in the wrong one. A test compares them with the raw types.
pub(crate) const TABLES: [(&str, &[&str]); 14] = [
    ("", &["supervisor", "service"]),
    ("[supervisor]", &["operators", "viewers", "atomic", "metrics"]),
    (
        "[service.NAME]",
        &[
            "command",
            "instances",
            "traffic",
            "after",
            "working-directory",
            "user",
            "group",
            "supplementary-groups",
            "umask",
            "limits",
            "nice",
            "oom-score-adjust",
            "no-new-privileges",
            "environment",
            "environment-file",
            "clear-environment",
            "non-blocking",
            "log",
            "listen-pid",
            "fd-store-max",
            "listen",
            "ready",
            "health",
            "watchdog",
            "upgrade",
            "drain",
            "restart",
            "hooks",
        ],
    ),
    (
        "[[service.NAME.listen]]",
        &[
            "name",
            "address",
            "backlog",
            "reuse-port",
            "only-v6",
            "free-bind",
            "transparent",
            "no-delay",
            "keep-alive",
            "defer-accept",
            "fast-open",
            "receive-buffer",
            "send-buffer",
            "bind-to-device",
            "mode",
            "user",
            "group",
        ],
    ),
    ("[service.NAME.ready]", &["by", "timeout", "fd", "exec", "interval", "alive-for"]),
    (
        "[service.NAME.health]",
        &[
            "http",
            "url",
            "tcp",
            "exec",
            "listener",
            "private",
            "host",
            "status",
            "body",
            "interval",
            "timeout",
            "successes",
            "failures",
        ],
    ),
    ("[service.NAME.watchdog]", &["timeout", "signal"]),
    (
        "[service.NAME.upgrade]",
        &[
            "strategy",
            "max-surge",
            "max-unavailable",
            "canary",
            "standby",
            "soak",
            "max-draining",
            "keep-releases",
            "probe",
            "max-error-rate",
        ],
    ),
    ("[service.NAME.upgrade.canary]", &["steps", "manual", "from", "affinity"]),
    ("[[service.NAME.upgrade.canary.steps]]", &["weight", "hold"]),
    ("[service.NAME.upgrade.probe]", &["http", "host", "rate", "listener"]),
    ("[service.NAME.drain]", &["signal", "timeout", "spread"]),
    ("[service.NAME.restart]", &["backoff", "give-up-after"]),
    (
        "[service.NAME.hooks]",
        &["before-start", "after-ready", "after-switch", "after-drain", "on-failure", "on-rollback", "timeout"],
    ),
];

/// Keys that the design has and this version has not.
const LATER: [&str; 6] = ["capabilities", "handoff", "log-format", "metrics", "mptcp", "protocol"];

/// The error of a TOML document.
pub(crate) fn toml_error(error: &toml::de::Error, text: &str) -> Problem {
    let span = error.span().unwrap_or(0..0);
    let message = error.message();
    if let Some(rest) = message.strip_prefix("unknown field ") {
        return unknown_key(span, rest);
    }
    if let Some((found, expected)) =
        message.strip_prefix("invalid type: ").and_then(|rest| rest.rsplit_once(", expected "))
    {
        return wrong_type(span, found, expected);
    }
    if let Some(key) = message.strip_prefix("missing field ") {
        return Problem::new(span, format!("the key {key} is missing"));
    }
    let line = message.lines().collect::<Vec<_>>().join(", ");
    let problem = Problem::new(span, if line.is_empty() { "not TOML".to_owned() } else { line });
    match message {
        _ if message.contains("duplicate key") => problem.hint("remove one of the two"),
        _ if message.contains("string values must be quoted") => unquoted(problem.span, text),
        _ => problem,
    }
}

/// toml takes whatever it cannot read for a string, also what is not there.
fn unquoted(span: std::ops::Range<usize>, text: &str) -> Problem {
    match text.get(span.clone()).map(str::trim) {
        None | Some("") => Problem::new(span, "the value is missing").hint("write it after the `=`"),
        Some(value) if value.contains(['`', '"', '\'']) => {
            Problem::new(span, "the value is not in quotes").hint("put it in quotes")
        }
        Some(value) => {
            let hint = format!("put it in quotes: `\"{value}\"`");
            Problem::new(span, "the value is not in quotes").hint(hint)
        }
    }
}

/// The candidate that is written most like the text, if any is.
pub(crate) fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(text, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|(one, _), (two, _)| one.total_cmp(two))
        .map(|(_, candidate)| candidate)
}

/// The names in a message, which stand between backticks.
fn names(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(1).step_by(2)
}

/// `rest` is serde's "`key`, expected one of `a`, `b`"; the key itself may hold a backtick.
fn unknown_key(span: std::ops::Range<usize>, rest: &str) -> Problem {
    let (key, expected) = rest.rsplit_once("`, expected ").unwrap_or((rest, ""));
    let key = key.trim_matches('`');
    let known: Vec<&str> = names(expected).collect();
    let problem = Problem::new(span, format!("unknown key `{}`", key.escape_debug()));
    let kebab = key.replace('_', "-").to_lowercase();
    if known.contains(&kebab.as_str()) {
        return problem.hint(format!("did you mean `{kebab}`?"));
    }
    if LATER.contains(&kebab.as_str()) {
        return problem.hint(format!("`{kebab}` is not in this version of zdsup"));
    }
    let homes: Vec<String> = TABLES
        .iter()
        .filter(|(_, keys)| keys.contains(&kebab.as_str()))
        .map(|(table, _)| if table.is_empty() { "the top of the file".to_owned() } else { format!("`{table}`") })
        .collect();
    if !homes.is_empty() {
        return problem.hint(format!("`{kebab}` belongs in {}", homes.join(" or ")));
    }
    match nearest(&kebab, known.iter().copied()) {
        Some(nearest) => problem.hint(format!("did you mean `{nearest}`?")),
        None => problem.hint(format!("known here: {}", known.join(", "))),
    }
}

fn wrong_type(span: std::ops::Range<usize>, found: &str, expected: &str) -> Problem {
    let (kind, literal) = found.split_once(' ').unwrap_or((found, ""));
    let found = match kind {
        "map" => "a table".to_owned(),
        "sequence" => "an array".to_owned(),
        "string" if literal.chars().count() > 40 => "a string".to_owned(),
        "string" => format!("the string {literal}"),
        "boolean" => literal.to_owned(),
        _ => format!("the {found}"),
    };
    let expected = match expected {
        "a map" => "a table",
        "a sequence" => "an array",
        "i64" => "a whole number",
        "a boolean" => "true or false",
        other => other,
    };
    let problem = Problem::new(span, format!("expected {expected}, found {found}"));
    match (expected, kind) {
        ("an array of commands", _) => {
            problem.hint("write each command as an array of its own: `[[\"first\", \"argument\"], [\"second\"]]`")
        }
        ("an array", "string") => problem.hint("write an array, each word by itself: `[\"first\", \"second\"]`"),
        ("an array", "map") => problem.hint("write the table's name in double brackets"),
        ("a string", "integer" | "boolean" | "floating") => {
            let value = names(literal).next().unwrap_or_default();
            problem.hint(format!("put it in quotes: `\"{value}\"`"))
        }
        ("a whole number", "string") => problem.hint("write it without quotes"),
        ("true or false", "string") => problem.hint("write `true` or `false`, without quotes"),
        _ => problem,
    }
}
