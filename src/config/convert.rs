//! What was written becomes what is meant, once, with every check.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::error::Problem;
use super::raw::{self, Amount, DurationText, Native, Octal};
use super::units::{self, UnitError};
use super::{Drain, Log, Privileges, Restart, Service, Strategy, Traffic, Watchdog, explain};

mod health;
mod hooks;
mod listen;
mod probe;
mod ready;
mod several;
mod upgrade;

pub(crate) use several::services;

use upgrade::Around;

type Result<T> = std::result::Result<T, Problem>;

/// Where the settings come from, which decides what a relative path means.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin<'a> {
    /// A file: it would depend on where zdsup was started, so it is refused.
    File,
    /// Flags: it starts where the user is.
    Flags {
        /// Absolute.
        directory: &'a Path,
    },
}

impl Origin<'_> {
    /// How something is written there.
    fn either(self, in_file: &'static str, in_flags: &'static str) -> &'static str {
        match self {
            Self::File => in_file,
            Self::Flags { .. } => in_flags,
        }
    }
}

/// The longest name, bytes: the limit for names of descriptors in systemd, and for a file's name.
const NAME_MAX: usize = 255;

/// The most descriptors that a store can be made for: each is compared with those that are there.
const FD_STORE_MAX: i64 = 1024;

/// The most instances of a service.
const INSTANCES_MAX: i64 = 1024;

/// Variables that zdsup sets in a service's environment itself.
const OWN_VARIABLES: [&str; 19] = [
    "FDSTORE",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "ZDSUP_DRAIN_SPREAD_USEC",
    "ZDSUP_FROM",
    "ZDSUP_GENERATION",
    "ZDSUP_HOOK",
    "ZDSUP_INSTANCE",
    "ZDSUP_REASON",
    "ZDSUP_REHEARSAL",
    "ZDSUP_RELEASE",
    "ZDSUP_SERVICE",
    "ZDSUP_SLOT",
    "ZDSUP_VERDICT",
];

/// One service.
pub(crate) fn service(name: &Spanned<String>, raw: raw::Service, origin: Origin<'_>) -> Result<Service> {
    check_name(name, "a service's name")?;
    let working_directory = optional(raw.working_directory, |path| absolute_path(path, origin))?;
    let anchored = working_directory.is_some() || matches!(origin, Origin::Flags { .. });
    let command = match &raw.command {
        Some(words) => command(words, anchored)?,
        None => return Err(missing_command(name, origin)),
    };
    let instances =
        raw.instances.map_or(Ok(1), |instances| number(&instances, 1..=INSTANCES_MAX, "the number of instances"))?;
    let traffic_place = raw.traffic.as_ref().map(Spanned::span);
    let traffic = raw.traffic.as_ref().map_or(Ok(Traffic::default()), traffic)?;
    let steered = traffic_place.clone().filter(|_| traffic == Traffic::Steered);
    let listen = listen::listeners(name.get_ref(), raw.listen, steered, origin)?;
    let fd_store_max = raw
        .fd_store_max
        .map_or(Ok(0), |max| number(&max, 0..=FD_STORE_MAX, "the number of stored descriptors (0 stores none)"))?;
    let around = Around { instances, traffic, traffic_place, listen: &listen, origin };
    let upgrade = upgrade::upgrade(raw.upgrade, &around)?;
    let health = optional(raw.health, |health| health::health(health, anchored, &around))?;
    let passed = listen.len() + usize::from(health.as_ref().is_some_and(|health| health.private().is_some()));
    Ok(Service {
        name: name.get_ref().clone(),
        command,
        instances,
        traffic,
        after: raw.after.into_iter().map(Spanned::into_inner).collect(),
        working_directory,
        environment: raw.environment.into_iter().map(variable).collect::<Result<_>>()?,
        environment_file: optional(raw.environment_file, |path| absolute_path(path, origin))?,
        clear_environment: raw.clear_environment,
        non_blocking: raw.non_blocking,
        privileges: Privileges {
            user: optional(raw.user, account)?,
            group: optional(raw.group, account)?,
            supplementary_groups: raw
                .supplementary_groups
                .map(|groups| groups.into_iter().map(account).collect())
                .transpose()?,
            umask: optional(raw.umask, |mask| octal(&mask))?,
            limits: raw.limits.into_iter().map(limit).collect::<Result<_>>()?,
            nice: optional(raw.nice, |nice| number(&nice, -20..=19, "the niceness"))?,
            oom_score_adjust: optional(raw.oom_score_adjust, |score| {
                number(&score, -1000..=1000, "the OOM score adjustment")
            })?,
            no_new_privileges: raw.no_new_privileges,
        },
        log: raw.log.map_or(Ok(Log::default()), |log| self::log(log, origin))?,
        ready: ready::ready(raw.ready, (passed, fd_store_max), anchored, origin)?,
        health,
        listen,
        listen_pid: raw.listen_pid.unwrap_or(true),
        watchdog: watchdog(raw.watchdog)?,
        fd_store_max,
        drain: drain(raw.drain, instances, &upgrade.strategy)?,
        upgrade,
        restart: restart(raw.restart)?,
        hooks: hooks::hooks(raw.hooks, anchored)?,
    })
}

/// Names of groups.
pub(crate) fn accounts(names: Vec<Spanned<String>>) -> Result<Vec<String>> {
    names.into_iter().map(account).collect()
}

/// The address at which metrics are served.
pub(crate) fn metrics(address: Option<Spanned<String>>) -> Result<Option<SocketAddr>> {
    optional(address, |address| {
        address.get_ref().parse().map_err(|_| {
            let text = address.get_ref().escape_debug();
            Problem::new(address.span(), format!("`{text}` is not an IP address with a port"))
                .hint("write both, such as `127.0.0.1:9100` or `[::1]:9100`: whoever reaches it may read the metrics")
        })
    })
}

/// Why a text cannot be a name, if it cannot.
///
/// Names become file names, and words in logs and commands.
pub(crate) fn name_error(name: &str) -> Option<&'static str> {
    const RULE: &str = "use letters, digits, `.`, `_` and `-`";
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match name {
        "" | "." | ".." => Some(RULE),
        _ if name.len() > NAME_MAX => Some("at most 255 characters"),
        _ if name.starts_with('-') => Some("a name that begins with `-` reads like an option"),
        _ if name.bytes().all(allowed) => None,
        _ => Some(RULE),
    }
}

/// A text with every character that a name cannot have replaced by `-`.
pub(crate) fn name_from(text: &OsStr) -> String {
    let name: String = text
        .to_string_lossy()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .take(64)
        .collect();
    let name = name.trim_start_matches('-');
    if name_error(name).is_none() { name.to_owned() } else { "service".to_owned() }
}

fn check_name(name: &Spanned<String>, what: &str) -> Result<()> {
    match name_error(name.get_ref()) {
        Some(rule) => {
            let message = format!("`{}` cannot be {what}", name.get_ref().escape_debug());
            Err(Problem::new(name.span(), message).hint(rule))
        }
        None => Ok(()),
    }
}

/// One of a few words.
fn choice(word: &Spanned<String>, choices: &[&'static str], what: &str) -> Result<&'static str> {
    let text = word.get_ref().as_str();
    choices.iter().find(|choice| **choice == text).copied().ok_or_else(|| not_among(word, choices, what))
}

/// One of the names that there are.
fn named<'a>(name: &Spanned<String>, names: impl Iterator<Item = &'a str> + Clone, what: &str) -> Result<&'a str> {
    let is_meant = |found: &&str| *found == name.get_ref().as_str();
    names.clone().find(is_meant).ok_or_else(|| not_among(name, &names.collect::<Vec<_>>(), what))
}

fn not_among(word: &Spanned<String>, known: &[&str], what: &str) -> Problem {
    let problem = Problem::new(word.span(), format!("`{}` is not {what}", word.get_ref().escape_debug()));
    if let Some(nearest) = explain::nearest(word.get_ref(), known.iter().copied()) {
        return problem.hint(format!("did you mean `{nearest}`?"));
    }
    match known {
        [] => problem.hint("there is none: remove it"),
        [one] => problem.hint(format!("there is `{one}`")),
        [all @ .., last] => problem.hint(format!("there are `{}` and `{last}`", all.join("`, `"))),
    }
}

fn traffic(word: &Spanned<String>) -> Result<Traffic> {
    Ok(match choice(word, &["shared", "steered"], "a kind of traffic")? {
        "steered" => Traffic::Steered,
        _ => Traffic::Shared,
    })
}

fn missing_command(name: &Spanned<String>, origin: Origin<'_>) -> Problem {
    match origin {
        Origin::File => Problem::new(name.span(), format!("the service `{}` has no command", name.get_ref()))
            .hint("add one: `command = [\"/path/to/program\", \"argument\"]`"),
        Origin::Flags { .. } => Problem::new(name.span(), "no command")
            .hint("write it at the end, after `--`, or name a config file with `-c`"),
    }
}

/// `anchored`: whether a relative program has something to be relative to.
fn command(words: &Spanned<Vec<Spanned<Native>>>, anchored: bool) -> Result<Vec<OsString>> {
    let Some(program) = words.get_ref().first() else {
        return Err(Problem::new(words.span(), "the command is empty")
            .hint("write the program and its arguments: `[\"/path/to/program\", \"argument\"]`"));
    };
    let bytes = program.get_ref().0.as_bytes();
    if bytes.is_empty() {
        return Err(Problem::new(program.span(), "the program's name is empty").hint("write its path"));
    }
    if bytes.ends_with(b"/") {
        return Err(
            Problem::new(program.span(), "the program's path names a directory").hint("write the path of a file")
        );
    }
    if !anchored && bytes.contains(&b'/') && !bytes.starts_with(b"/") {
        return Err(Problem::new(program.span(), "the program's path is relative, and to what is ambiguous")
            .hint("write the whole path, from `/`, or set `working-directory`"));
    }
    words.get_ref().iter().map(|word| without_nul(word).map(|()| word.get_ref().0.clone())).collect()
}

fn without_nul(text: &Spanned<Native>) -> Result<()> {
    if text.get_ref().0.as_bytes().contains(&0) {
        return Err(Problem::new(text.span(), "it contains a NUL byte").hint("remove it: `\\u0000`"));
    }
    Ok(())
}

fn absolute_path(path: Spanned<Native>, origin: Origin<'_>) -> Result<PathBuf> {
    without_nul(&path)?;
    let (span, path) = (path.span(), path.into_inner().path());
    if path.as_os_str().is_empty() {
        return Err(Problem::new(span, "the path is empty").hint("write the whole path, from `/`"));
    }
    match origin {
        Origin::File if path.is_relative() => {
            Err(Problem::new(span, format!("the path `{}` is relative, and to what is ambiguous", path.display()))
                .hint("write the whole path, from `/`"))
        }
        Origin::File => Ok(path),
        // A symlink on the way stays one: it is followed anew at each upgrade.
        Origin::Flags { directory } => {
            Ok(directory.join(path).components().filter(|part| *part != Component::CurDir).collect())
        }
    }
}

fn variable((key, value): (Spanned<String>, Spanned<String>)) -> Result<(String, String)> {
    if OWN_VARIABLES.contains(&key.get_ref().as_str()) {
        return Err(Problem::new(key.span(), format!("`{}` is set by zdsup itself", key.get_ref())).hint("remove it"));
    }
    if key.get_ref().is_empty() || key.get_ref().contains(['=', '\0']) {
        let message = format!("`{}` cannot be a variable's name", key.get_ref().escape_debug());
        return Err(Problem::new(key.span(), message).hint("write a name without `=`"));
    }
    if value.get_ref().contains('\0') {
        return Err(Problem::new(value.span(), "it contains a NUL byte").hint("remove it: `\\u0000`"));
    }
    Ok((key.into_inner(), value.into_inner()))
}

/// A user's or a group's name or number. Whether it exists is seen when it is needed.
fn account(name: Spanned<String>) -> Result<String> {
    let text = name.get_ref();
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | ',' | '/')) {
        let message = format!("`{}` cannot be a user or a group", text.escape_debug());
        return Err(Problem::new(name.span(), message).hint("write one name, or one number"));
    }
    Ok(name.into_inner())
}

fn limit((name, value): (Spanned<String>, Spanned<Amount>)) -> Result<(String, (u64, u64))> {
    let Some((known, bytes)) = units::LIMITS.into_iter().find(|(known, _)| known == name.get_ref()) else {
        let written = name.get_ref().to_lowercase();
        let names = || units::LIMITS.into_iter().map(|(name, _)| name);
        let meant = written.trim_start_matches("rlimit_").trim_start_matches("limit");
        let hint = match explain::nearest(meant, names()) {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => format!("known here: {}", names().collect::<Vec<_>>().join(", ")),
        };
        return Err(Problem::new(name.span(), format!("unknown limit `{}`", name.get_ref().escape_debug())).hint(hint));
    };
    let text = match value.get_ref() {
        Amount::Number(number) => number.to_string(),
        Amount::Text(text) => text.clone(),
    };
    let limits = units::limit(&text, bytes).map_err(at(value.span()))?;
    Ok((known.to_owned(), limits))
}

fn log(log: Spanned<raw::Log>, origin: Origin<'_>) -> Result<Log> {
    let span = log.span();
    let word = match log.into_inner() {
        raw::Log::File(path) => return Ok(Log::File(absolute_path(path, origin)?)),
        raw::Log::Word(word) => word,
    };
    match word.as_str() {
        "capture" => Ok(Log::Capture),
        "inherit" => Ok(Log::Inherit),
        "journal" => Ok(Log::Journal),
        _ => {
            let hint = match (explain::nearest(&word, ["capture", "inherit", "journal"]), origin) {
                (Some(nearest), _) => format!("did you mean `{nearest}`?"),
                (None, Origin::File) => {
                    "write `\"capture\"`, `\"inherit\"`, `\"journal\"` or `{ file = \"/path\" }`".to_owned()
                }
                (None, Origin::Flags { .. }) => "write `capture`, `inherit`, `journal` or `file=PATH`".to_owned(),
            };
            Err(Problem::new(span, format!("`{}` is not a place for output", word.escape_debug())).hint(hint))
        }
    }
}

fn watchdog(raw: raw::Watchdog) -> Result<Watchdog> {
    let default = Watchdog::default();
    Ok(Watchdog {
        timeout: optional(raw.timeout, |timeout| {
            nonzero(&timeout, "the watchdog's timeout", "leave it out to have no watchdog")
        })?,
        signal: raw.signal.map_or(Ok(default.signal), |name| signal(&name))?,
    })
}

fn drain(raw: raw::Drain, instances: u32, strategy: &Strategy) -> Result<Drain> {
    let default = Drain::default();
    let spread = raw.spread.as_ref().map(Spanned::span);
    let drain = Drain {
        signal: raw.signal.map_or(Ok(default.signal), |name| signal(&name))?,
        timeout: raw.timeout.map_or(Ok(default.timeout), |timeout| {
            nonzero(&timeout, "the drain timeout", "to end a service at once, choose the signal `SIGKILL`")
        })?,
        spread: raw.spread.as_ref().map_or(Ok(default.spread), duration)?,
    };
    let Some(place) = spread.filter(|_| !drain.spread.is_zero()) else { return Ok(drain) };
    if let Strategy::Rolling { .. } | Strategy::StopStart = strategy {
        let why = match strategy {
            Strategy::StopStart => "its callers wait until all of the old one has ended",
            _ => "it replaces a few instances at a time as it is",
        };
        let message = format!("the strategy `{}` has no use for a spread: {why}", strategy.word());
        return Err(Problem::new(place, message).hint("leave the spread out, or choose another strategy"));
    }
    let own = drain.spread_of_one(instances);
    if own >= drain.timeout {
        let (own, timeout) = (units::format_duration(own), units::format_duration(drain.timeout));
        let message = format!("{own} of it are one instance's own, which is killed {timeout} after its signal");
        return Err(Problem::new(place, message).hint("make the drain timeout longer, or the spread shorter"));
    }
    Ok(drain)
}

fn restart(raw: raw::Restart) -> Result<Restart> {
    let default = Restart::default();
    let (backoff_min, backoff_max) = match raw.backoff {
        None => (default.backoff_min, default.backoff_max),
        Some(text) => {
            let (min, max) = units::duration_range(&text.get_ref().0).map_err(at(text.span()))?;
            if min.is_zero() {
                return Err(Problem::new(text.span(), "the first delay is zero")
                    .hint("a service that dies at once would be started without a pause: write at least `1ms`"));
            }
            if min > max {
                return Err(Problem::new(text.span(), "the first delay is longer than the longest")
                    .hint("write the shorter one first, such as `100ms..30s`"));
            }
            (min, max)
        }
    };
    Ok(Restart {
        backoff_min,
        backoff_max,
        give_up_after: raw.give_up_after.map_or(Ok(default.give_up_after), |failures| {
            number(&failures, 0..=u32::MAX.into(), "the number of failures (0 never gives up)")
        })?,
    })
}

fn optional<T, U>(value: Option<T>, convert: impl FnOnce(T) -> Result<U>) -> Result<Option<U>> {
    value.map(convert).transpose()
}

fn at(span: Range<usize>) -> impl FnOnce(UnitError) -> Problem {
    move |error| Problem::new(span, error.message).hint(error.hint)
}

fn duration(text: &Spanned<DurationText>) -> Result<Duration> {
    units::duration(&text.get_ref().0).map_err(at(text.span()))
}

fn nonzero(text: &Spanned<DurationText>, what: &str, hint: &str) -> Result<Duration> {
    match duration(text)? {
        Duration::ZERO => Err(Problem::new(text.span(), format!("{what} is zero")).hint(hint)),
        duration => Ok(duration),
    }
}

fn signal(name: &Spanned<String>) -> Result<i32> {
    units::signal(name.get_ref()).map_err(at(name.span()))
}

fn octal(text: &Spanned<Octal>) -> Result<u32> {
    units::octal(&text.get_ref().0).map_err(at(text.span()))
}

fn number<T: TryFrom<i64>>(number: &Spanned<i64>, range: RangeInclusive<i64>, what: &str) -> Result<T> {
    let (least, most) = (range.start(), range.end());
    T::try_from(*number.get_ref()).ok().filter(|_| range.contains(number.get_ref())).ok_or_else(|| {
        Problem::new(number.span(), format!("{what} cannot be {}", number.get_ref()))
            .hint(format!("write a number from {least} to {most}"))
    })
}
