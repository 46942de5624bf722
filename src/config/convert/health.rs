//! Health checks, and whether each can reach the very instance that it means.

use std::ops::Range;

use hyper::header::HeaderValue;
use hyper::http::uri::PathAndQuery;
use toml::Spanned;

use super::super::health::{Check, Health, HttpCheck, HttpTarget, Place, Statuses, UrlPattern};
use super::super::{Address, Listen, Traffic, raw, units};
use super::upgrade::Around;
use super::{Origin, Problem, Result, at, check_name, command, named, nonzero, number, optional};
use crate::core::health::Thresholds;

/// The most outcomes in a row that can be asked for.
const IN_A_ROW_MAX: i64 = 1000;

/// A process number as long as they get: what stands for `{pid}` has to fit.
const LONGEST_PID: u32 = 4_194_304;

/// The health checks of a service. `anchored`: whether a relative program has something to be relative to.
pub(super) fn health(raw: Spanned<raw::Health>, anchored: bool, around: &Around<'_>) -> Result<Health> {
    let table = raw.span();
    let raw = raw.into_inner();
    let kind = Kind::of((raw.http, raw.url, raw.tcp, raw.exec), table, around.origin)?;
    let name = kind.name();
    only_with(name, &["http", "tcp"], "listener", raw.listener.as_ref())?;
    only_with(name, &["http", "tcp"], "private", raw.private.as_ref())?;
    only_with(name, &["http", "url"], "status", raw.status.as_ref())?;
    only_with(name, &["http", "url"], "body", raw.body.as_ref())?;
    only_with(name, &["http", "url"], "host", raw.host.as_ref())?;
    let (listener, private) = (raw.listener, raw.private);
    let place = |span| self::place(span, listener, private, around);
    let (host, status, body) = (raw.host, raw.status, raw.body);
    let http = |target| {
        Ok(Check::Http(HttpCheck {
            target,
            host: optional(host, self::host)?,
            statuses: status.map_or(Ok(Statuses::default()), |status| statuses(&status))?,
            body: optional(body, self::body)?,
        }))
    };
    let check = match kind {
        Kind::Http(path) => http(HttpTarget::Path { place: place(path.span())?, path: self::path(path)? })?,
        Kind::Url(url) => http(HttpTarget::Url(self::url(url)?))?,
        Kind::Tcp(span) => Check::Tcp(place(span)?),
        Kind::Exec(words) => Check::Exec(command(&words, anchored)?),
    };
    let time = |time, what, default| match time {
        Some(time) => nonzero(&time, what, "write at least `1ms`"),
        None => Ok(default),
    };
    let in_a_row = |count: Option<Spanned<i64>>, default| match count {
        Some(count) => number(&count, 1..=IN_A_ROW_MAX, "the number of checks in a row"),
        None => Ok(default),
    };
    Ok(Health {
        check,
        interval: time(raw.interval, "the interval of checks", Health::INTERVAL)?,
        timeout: time(raw.timeout, "the timeout of a check", Health::TIMEOUT)?,
        thresholds: Thresholds {
            successes: in_a_row(raw.successes, Health::THRESHOLDS.successes)?,
            failures: in_a_row(raw.failures, Health::THRESHOLDS.failures)?,
        },
    })
}

/// What a check is, by the one key that says so.
enum Kind {
    Http(Spanned<String>),
    Url(Spanned<String>),
    Tcp(Range<usize>),
    Exec(raw::Command),
}

type Keys = (Option<Spanned<String>>, Option<Spanned<String>>, Option<Spanned<bool>>, Option<raw::Command>);

impl Kind {
    fn of((http, url, tcp, exec): Keys, table: Range<usize>, origin: Origin<'_>) -> Result<Self> {
        if let Some(off) = tcp.as_ref().filter(|tcp| !tcp.get_ref()) {
            return Err(Problem::new(off.span(), "a check that is off is no check")
                .hint("write `tcp = true`, or another check in its place"));
        }
        let kinds =
            [http.map(Self::Http), url.map(Self::Url), tcp.map(|tcp| Self::Tcp(tcp.span())), exec.map(Self::Exec)];
        let mut kinds: Vec<Self> = kinds.into_iter().flatten().collect();
        kinds.sort_by_key(|kind| kind.span().start);
        let mut kinds = kinds.into_iter();
        let Some(first) = kinds.next() else {
            return Err(Problem::new(table, "it is not said what is checked").hint(match origin {
                Origin::File => "add one of `http = \"/healthz\"`, `url = ...`, `tcp = true` and `exec = [...]`",
                Origin::Flags { .. } => {
                    "write one of `--health-http`, `--health-url`, `--health-tcp` and `--health-exec`"
                }
            }));
        };
        match kinds.next() {
            None => Ok(first),
            Some(second) => {
                let hint = match (&first, &second) {
                    (Self::Http(_), Self::Url(_)) | (Self::Url(_), Self::Http(_)) => {
                        "remove `http`: a URL has its own path"
                    }
                    _ => "remove one: a command can check as much as is wanted",
                };
                Err(Problem::new(second.span(), "a second check").also(first.span(), "the first one").hint(hint))
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "http",
            Self::Url(_) => "url",
            Self::Tcp(_) => "tcp",
            Self::Exec(_) => "exec",
        }
    }

    fn span(&self) -> Range<usize> {
        match self {
            Self::Http(text) | Self::Url(text) => text.span(),
            Self::Tcp(span) => span.clone(),
            Self::Exec(words) => words.span(),
        }
    }
}

/// Refuses a key that the check has no use for.
fn only_with<T>(kind: &str, users: &[&str], key: &str, value: Option<&Spanned<T>>) -> Result<()> {
    match value {
        Some(value) if !users.contains(&kind) => {
            let message = format!("a check by `{kind}` has no use for `{key}`");
            Err(Problem::new(value.span(), message)
                .hint(format!("it belongs to `{}`; remove it", users.join("` and `"))))
        }
        _ => Ok(()),
    }
}

/// Where a check over a listener connects. `check`: the place of the check itself.
fn place(
    check: Range<usize>,
    listener: Option<Spanned<String>>,
    private: Option<Spanned<String>>,
    around: &Around<'_>,
) -> Result<Place> {
    match (listener, private) {
        (Some(listener), Some(private)) => Err(Problem::new(private.span(), "a second listener for the check")
            .also(listener.span(), "the first one")
            .hint("remove one")),
        (None, Some(private)) => self::private(private, around.listen),
        (Some(name), None) => {
            let names = around.listen.iter().map(|listen| listen.name.as_str());
            let found = named(&name, names, "a listener of this service")?;
            match around.listen.iter().find(|listen| listen.name == found) {
                Some(listen) => reached(name.span(), listen, around),
                None => Ok(Place::Listener(found.to_owned())),
            }
        }
        (None, None) => {
            let tcp: Vec<&Listen> =
                around.listen.iter().filter(|listen| matches!(listen.address, Address::Tcp(_))).collect();
            match &tcp[..] {
                [listen] => reached(check, listen, around),
                [] => Err(Problem::new(check, "there is no TCP listener to check")
                    .hint("check over a listener of the instance's own with `private`, or run a command with `exec`")),
                several => {
                    let names: Vec<&str> = several.iter().map(|listen| listen.name.as_str()).collect();
                    Err(Problem::new(check, "it is not said over which listener")
                        .hint(format!("name one with `listener`: {}", names.join(", "))))
                }
            }
        }
    }
}

fn private(name: Spanned<String>, listen: &[Listen]) -> Result<Place> {
    check_name(&name, "a listener's name")?;
    if listen.iter().any(|listen| listen.name == *name.get_ref()) {
        return Err(Problem::new(name.span(), format!("the service has a listener `{}` already", name.get_ref()))
            .hint("give the private one a name of its own"));
    }
    Ok(Place::Private(name.into_inner()))
}

/// A check over a listener of the service, if it reaches the instance that it means.
fn reached(span: Range<usize>, listen: &Listen, around: &Around<'_>) -> Result<Place> {
    const ELSEWHERE: &str = "check over a listener of the instance's own with `private`, or run a command with `exec`";
    let name = &listen.name;
    match (&listen.address, around.traffic) {
        (Address::Tcp(_), Traffic::Steered) => Ok(Place::Listener(name.clone())),
        (Address::Tcp(_), Traffic::Shared) => {
            let message = format!("a check over listener `{name}` could reach any generation, since they share it");
            let steered = around.origin.either("traffic = \"steered\"", "--traffic steered");
            Err(Problem::new(span, message).hint(format!(
                    "check over a listener of the instance's own with `private`, at a `url` that has `{{slot}}` or `{{pid}}` \
                     in it, or by a command with `exec`; or write `{steered}`"
                )))
        }
        (Address::Udp(_), _) => {
            Err(Problem::new(span, format!("nobody can connect to listener `{name}`: it is for UDP")).hint(ELSEWHERE))
        }
        (Address::Unix { .. } | Address::Vsock { .. }, _) => {
            let message = format!("a check over listener `{name}` could reach any generation, since they share it");
            Err(Problem::new(span, message).hint(format!("only TCP can be steered: {ELSEWHERE}")))
        }
    }
}

/// The target of a request, RFC 9112 section 3.2.1: it goes into the first line as it is.
pub(super) fn path(path: Spanned<String>) -> Result<String> {
    let text = path.get_ref();
    let known = |text: &str| text.parse::<PathAndQuery>().is_ok_and(|known| known.as_str() == text);
    if text.starts_with('/') && known(text) {
        return Ok(path.into_inner());
    }
    let problem = Problem::new(path.span(), format!("`{}` is not the path of a request", text.escape_debug()));
    Err(problem.hint(if text.starts_with("http") {
        "write a whole URL as `url`"
    } else {
        "begin with `/`, without spaces: `/`, `/health?full`"
    }))
}

fn url(url: Spanned<String>) -> Result<UrlPattern> {
    let pattern = UrlPattern(url.get_ref().clone());
    let (varies, unknown) = pattern.placeholders();
    if let Some(unknown) = unknown {
        let message = format!("`{{{}}}` stands for nothing", unknown.escape_debug());
        return Err(Problem::new(url.span(), message).hint("there are `{slot}`, `{9100+slot}` and `{pid}`"));
    }
    if let Err(error) = pattern.of(0, LONGEST_PID) {
        let message = format!("`{}` {}", url.get_ref().escape_debug(), error.message);
        return Err(Problem::new(url.span(), message).hint(error.hint));
    }
    if !varies {
        return Err(Problem::new(
            url.span(),
            "this is the same for every instance, so that a check could reach another",
        )
        .hint(
            "put the instance's slot into it, as in `http://127.0.0.1:{9100+slot}/healthz`: it finds that as ZDSUP_SLOT; or \
                 check over a listener of its own with `private`",
        ));
    }
    Ok(pattern)
}

pub(super) fn host(host: Spanned<String>) -> Result<String> {
    if host.get_ref().is_empty() || HeaderValue::from_str(host.get_ref()).is_err() {
        let message = format!("`{}` cannot be a Host header", host.get_ref().escape_debug());
        return Err(Problem::new(host.span(), message).hint("write a name such as `example.org`"));
    }
    Ok(host.into_inner())
}

fn body(body: Spanned<String>) -> Result<String> {
    if body.get_ref().is_empty() {
        return Err(
            Problem::new(body.span(), "every answer has this in it").hint("remove it, or write what to look for")
        );
    }
    Ok(body.into_inner())
}

fn statuses(status: &Spanned<raw::Amount>) -> Result<Statuses> {
    let text = match status.get_ref() {
        raw::Amount::Number(number) => number.to_string(),
        raw::Amount::Text(text) => text.clone(),
    };
    units::statuses(&text).map(Statuses).map_err(at(status.span()))
}
