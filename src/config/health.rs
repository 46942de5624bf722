//! How it is seen from outside that an instance is well.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hyper::Uri;
use serde::{Deserialize, Serialize};

use crate::core::health::Thresholds;

/// The health checks of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What is tried.
    pub check: Check,
    /// From the begin of one check to that of the next. Default 1 s.
    pub interval: Duration,
    /// How long one may take. Default 1 s.
    pub timeout: Duration,
    /// How many in a row make a verdict. Default: 1 that passes, 3 that fail.
    pub thresholds: Thresholds,
}

impl Health {
    /// The default interval.
    pub const INTERVAL: Duration = Duration::from_secs(1);
    /// The default timeout.
    pub const TIMEOUT: Duration = Duration::from_secs(1);
    /// The default thresholds.
    pub const THRESHOLDS: Thresholds = Thresholds { successes: 1, failures: 3 };

    /// The private listener that an instance is passed for its checks, by its name.
    #[must_use]
    pub fn private(&self) -> Option<&str> {
        match &self.check {
            Check::Http(HttpCheck { target: HttpTarget::Path { place: Place::Private(name), .. }, .. })
            | Check::Tcp(Place::Private(name)) => Some(name),
            Check::Http(_) | Check::Tcp(Place::Listener(_)) | Check::Exec(_) => None,
        }
    }
}

/// What a health check tries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// A GET request is answered well.
    Http(HttpCheck),
    /// A connection is accepted.
    Tcp(Place),
    /// This command succeeds, with MAINPID in its environment.
    Exec(#[serde(with = "crate::sys::written::list")] Vec<OsString>),
}

/// A request, and what a good answer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// Where it is sent.
    pub target: HttpTarget,
    /// The Host header; where it is sent, when `None`.
    pub host: Option<String>,
    /// The status codes of a good answer. Default 200-399.
    pub statuses: Statuses,
    /// What the first [`BODY_MAX`] bytes of its body must have in them.
    pub body: Option<String>,
}

/// How much of an answer's body is looked at, bytes.
pub const BODY_MAX: usize = 64 << 10;

/// Where a request is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HttpTarget {
    /// To a listener of the instance.
    Path {
        /// The path, with its query.
        path: String,
        /// Which listener.
        place: Place,
    },
    /// To an address that the instance binds itself.
    Url(UrlPattern),
}

/// A listener over which an instance is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The listener of the service that has this name: the connection is steered to the instance.
    Listener(String),
    /// One that the instance alone is passed, under this name in LISTEN_FDNAMES.
    Private(String),
}

/// Ranges of status codes, each with both its ends; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Statuses(pub(crate) Vec<(u16, u16)>);

impl Statuses {
    /// Whether this is the status of a good answer.
    #[must_use]
    pub fn contain(&self, status: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self(vec![(200, 399)])
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "," })?;
            if first == last { write!(f, "{first}")? } else { write!(f, "{first}-{last}")? }
        }
        Ok(())
    }
}

/// A URL in which `{slot}` and `{pid}` stand for those of the instance, and `{9100+slot}` for that sum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UrlPattern(pub(crate) String);

impl fmt::Display for UrlPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The URL of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Where to connect.
    pub address: SocketAddr,
    /// The path, with its query.
    pub path: String,
    /// What the URL calls the place: the Host header.
    pub authority: String,
}

/// What stands for a part of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placeholder {
    /// The number of the instance's slot, added to this.
    Slot(u32),
    /// The number of its main process.
    Pid,
}

impl Placeholder {
    fn from_text(text: &str) -> Option<Self> {
        match text.split_once('+') {
            None if text == "slot" => Some(Self::Slot(0)),
            None if text == "pid" => Some(Self::Pid),
            Some((base, "slot")) => base.parse().ok().map(Self::Slot),
            _ => None,
        }
    }
}

impl UrlPattern {
    /// What stands between braces: whether there is anything, and the first that means nothing.
    pub(crate) fn placeholders(&self) -> (bool, Option<&str>) {
        let mut between = self.0.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0)).peekable();
        (between.peek().is_some(), between.find(|text| Placeholder::from_text(text).is_none()))
    }

    /// The URL of the instance in this slot, whose main process is this one.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence about it.
    pub fn of(&self, slot: u32, pid: u32) -> Result<Url, UrlError> {
        let mut parts = self.0.split('{');
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            match part.split_once('}').and_then(|(inner, rest)| Some((Placeholder::from_text(inner)?, rest))) {
                Some((Placeholder::Slot(base), rest)) => {
                    text.push_str(&base.saturating_add(slot).to_string());
                    text.push_str(rest);
                }
                Some((Placeholder::Pid, rest)) => {
                    text.push_str(&pid.to_string());
                    text.push_str(rest);
                }
                None => {
                    text.push('{');
                    text.push_str(part);
                }
            }
        }
        Url::parse(&text)
    }
}

/// Why a text is no URL that can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UrlError {
    /// What is wrong with it.
    pub message: &'static str,
    /// What would mend it.
    pub hint: &'static str,
}

impl Url {
    fn parse(text: &str) -> Result<Self, UrlError> {
        const FORM: &str = "write one such as `http://127.0.0.1:9100/healthz`";
        let wrong = |message, hint| UrlError { message, hint };
        let uri: Uri = text.parse().map_err(|_| wrong("is not a URL", FORM))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong("is not a whole URL", FORM));
        };
        if scheme != "http" {
            return Err(wrong("is not an `http` one", "for anything else run a command, with `exec`"));
        }
        if authority.as_str().contains('@') {
            return Err(wrong("has a user in it", "for a check that logs in run a command, with `exec`"));
        }
        let port = match authority.as_str().rsplit_once(':') {
            // A port that is none, such as 91000000, is taken for a missing one.
            Some((_, port)) if !port.ends_with(']') => port.parse().ok().filter(|port| *port != 0),
            _ => Some(80),
        };
        let port = port.ok_or(wrong("has a port that is none", "they go from 1 to 65535"))?;
        let host = authority.host();
        let ip = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => ip,
            Err(_) if host == "localhost" => Ipv4Addr::LOCALHOST.into(),
            Err(_) => {
                return Err(wrong(
                    "has a name for its host",
                    "write an address, or `localhost`: a name server has no say in whether a service is well",
                ));
            }
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self { address: (ip, port).into(), path: path.to_owned(), authority: authority.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = |text: &str| UrlPattern(text.into()).of(3, 77);
        let good = |text: &str| url(text).map(|url| (url.address.to_string(), url.path, url.authority)).expect(text);
        let parts = |address: &str, path: &str, host: &str| (address.to_owned(), path.to_owned(), host.to_owned());
        assert_eq!(good("http://127.0.0.1:910{slot}/healthz"), parts("127.0.0.1:9103", "/healthz", "127.0.0.1:9103"));
        assert_eq!(good("http://127.0.0.1:{9100+slot}/"), parts("127.0.0.1:9103", "/", "127.0.0.1:9103"));
        assert_eq!(good("http://localhost:8080/{pid}?a=b"), parts("127.0.0.1:8080", "/77?a=b", "localhost:8080"));
        assert_eq!(good("http://[::1]:8080"), parts("[::1]:8080", "/", "[::1]:8080"));
        assert_eq!(good("http://127.0.1.{slot}/"), parts("127.0.1.3:80", "/", "127.0.1.3"));
        assert_eq!(good("http://[::1]/"), parts("[::1]:80", "/", "[::1]"));
        for (text, message) in [
            ("", "is not a URL"),
            ("/healthz", "is not a whole URL"),
            ("127.0.0.1:80", "is not a whole URL"),
            ("https://127.0.0.1/", "is not an `http` one"),
            ("http://a@127.0.0.1/", "has a user in it"),
            ("http://127.0.0.1:91000{slot}/", "has a port that is none"),
            ("http://127.0.0.1:0/", "has a port that is none"),
            ("http://web.internal/", "has a name for its host"),
            ("http://127.0.0.1:80 /", "is not a URL"),
            ("http://127.0.0.1:{port}/", "is not a URL"),
        ] {
            assert_eq!(url(text).expect_err(text).message, message, "{text}");
        }
    }

    #[test]
    fn statuses() {
        let statuses = Statuses(vec![(200, 299), (404, 404)]);
        assert_eq!(
            [199, 200, 299, 300, 404, 405].map(|status| statuses.contain(status)),
            [false, true, true, false, true, false]
        );
        assert_eq!((statuses.to_string(), Statuses::default().to_string()), ("200-299,404".into(), "200-399".into()));
    }
}
