//! What a client sends, turned into what it means. Pure: bytes in, a value or a sentence about the mistake out.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::types::{PauseRequest, Problem, Promotion, Replacement, Scaling, Target, UpgradeRequest};
use super::{locate, routes};
use crate::core::Kind;
use crate::history::read::Wanted;

/// The largest body that is read, bytes.
pub const BODY_MAX: usize = 64 * 1024;

/// The body of `POST /v1/upgrades`.
///
/// # Errors
/// The mistake, with its place.
pub fn parse_upgrade_request(body: &[u8]) -> Result<UpgradeRequest, Problem> {
    const HINT: &str = r#"it looks like {"kind": "reload"} or {"service": "web", "kind": "rollback", "to": 3}"#;
    let request: UpgradeRequest = parse(body, HINT)?;
    let UpgradeRequest { service, services, atomic, .. } = &request;
    if service.is_some() && services.is_some() {
        return Err(problem("the body names both a `service` and `services`", HINT));
    }
    if request.kind == Kind::Rollback && (services.is_some() || atomic.is_some()) {
        return Err(problem("a rollback is of one service: the body has `services` or `atomic`", HINT));
    }
    if request.kind != Kind::Rollback && request.to.is_some() {
        let error = format!("the body says where `to`, and a {} goes nowhere else", request.kind);
        return Err(problem(&error, HINT));
    }
    Ok(request)
}

/// The body of `POST /v1/promote`. An empty one is like `{}`.
///
/// # Errors
/// The mistake, with its place.
pub fn parse_promotion(body: &[u8]) -> Result<Promotion, Problem> {
    parse_or_default(body, r#"it looks like {} or {"service": "web", "full": true}"#)
}

/// The most instances of a service; a config may not ask for more either.
pub const INSTANCES_MAX: u32 = 1024;

/// The body of `POST /v1/scale`.
///
/// # Errors
/// The mistake, with its place.
pub fn parse_scaling(body: &[u8]) -> Result<Scaling, Problem> {
    const HINT: &str = r#"it looks like {"instances": 3} or {"service": "web", "instances": 3}"#;
    let scaling: Scaling = parse(body, HINT)?;
    match scaling.instances {
        1..=INSTANCES_MAX => Ok(scaling),
        0 => Err(problem("a service has at least 1 instance", "`zdsup stop SERVICE` ends all of them")),
        _ => Err(problem("a service has at most 1024 instances", HINT)),
    }
}

/// The body of `POST /v1/abort`, `/v1/stop` and `/v1/resume`. An empty one is like `{}`.
///
/// # Errors
/// The mistake, with its place.
pub fn parse_target(body: &[u8]) -> Result<Target, Problem> {
    parse_or_default(body, r#"it looks like {} or {"service": "web"}"#)
}

/// The body of `POST /v1/pause`. An empty one is like `{}`.
///
/// # Errors
/// The mistake, with its place.
pub fn parse_pause(body: &[u8]) -> Result<PauseRequest, Problem> {
    parse_or_default(body, r#"it looks like {} or {"service": "web", "max": 30}"#)
}

/// The body of `POST /v1/reexec`. An empty one is like `{}`.
///
/// # Errors
/// The mistake, with its place.
pub fn parse_replacement(body: &[u8]) -> Result<Replacement, Problem> {
    parse_or_default(body, r#"it looks like {} or {"binary": "/usr/bin/zdsup"}"#)
}

/// What the query of `GET /v1/upgrades/{id}/events` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventsQuery {
    /// Events up to this one are known already.
    pub after: u64,
    /// Go on with events as they happen; otherwise end with those that there are.
    pub follow: bool,
}

/// The query of `GET /v1/upgrades/{id}/events`.
///
/// # Errors
/// The parameter that is wrong.
pub fn parse_events_query(query: &str) -> Result<EventsQuery, Problem> {
    const HINT: &str = "it takes after=NUMBER and follow=true|false";
    let mut parsed = EventsQuery { after: 0, follow: true };
    for (key, value) in pairs(query) {
        match key {
            "after" => parsed.after = number(key, value, HINT)?,
            "follow" => {
                parsed.follow = match value {
                    "true" => true,
                    "false" => false,
                    _ => return Err(problem("the parameter `follow` is neither true nor false", HINT)),
                }
            }
            _ => return Err(problem("the query has an unknown parameter", HINT)),
        }
    }
    Ok(parsed)
}

/// The most records that are given at once.
pub const RECORDS_MAX: u64 = 1000;
/// As many as that without being asked for more or fewer.
const RECORDS: u64 = 100;

/// The query of `GET /v1/history`.
///
/// # Errors
/// The parameter that is wrong.
pub fn parse_history_query(query: &str) -> Result<Wanted, Problem> {
    const HINT: &str =
        "it takes service=NAME, generation=NUMBER, after=UPGRADE and limit=NUMBER, which is at most 1000";
    let mut wanted = Wanted { limit: RECORDS as usize, ..Wanted::default() };
    for (key, value) in pairs(query) {
        match key {
            "service" => wanted.service = Some(service(value, HINT)?),
            "generation" => wanted.generation = Some(number(key, value, HINT)?),
            "after" => wanted.after = number(key, value, HINT)?,
            "limit" => match number(key, value, HINT)? {
                limit @ 1..=RECORDS_MAX => wanted.limit = limit as usize,
                _ => return Err(problem("the parameter `limit` is not between 1 and 1000", HINT)),
            },
            _ => return Err(problem("the query has an unknown parameter", HINT)),
        }
    }
    Ok(wanted)
}

/// What the query of `GET /v1/kpi` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KpiQuery {
    /// Of this service only.
    pub service: Option<String>,
    /// Of so many seconds until now.
    pub since: u64,
}

/// The query of `GET /v1/kpi`.
///
/// # Errors
/// The parameter that is wrong.
pub fn parse_kpi_query(query: &str) -> Result<KpiQuery, Problem> {
    const HINT: &str = "it takes service=NAME and since=SECONDS";
    let mut parsed = KpiQuery { service: None, since: KPI_SINCE.as_secs() };
    for (key, value) in pairs(query) {
        match key {
            "service" => parsed.service = Some(service(value, HINT)?),
            "since" => parsed.since = number(key, value, HINT)?,
            _ => return Err(problem("the query has an unknown parameter", HINT)),
        }
    }
    Ok(parsed)
}

/// The time that figures are about unless another is asked for.
pub const KPI_SINCE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn number(key: &str, value: &str, hint: &str) -> Result<u64, Problem> {
    routes::number(value).ok_or_else(|| problem(&format!("the parameter `{key}` is not a number"), hint))
}

/// The name of a service needs no percent-encoding (RFC 3986, section 2.3).
fn service(value: &str, hint: &str) -> Result<String, Problem> {
    match locate::is_name(value) {
        true => Ok(value.to_owned()),
        false => Err(problem("the parameter `service` is not a name", hint)),
    }
}

fn parse_or_default<T: DeserializeOwned + Default>(body: &[u8], hint: &str) -> Result<T, Problem> {
    if body.trim_ascii().is_empty() { Ok(T::default()) } else { parse(body, hint) }
}

fn parse<T: DeserializeOwned>(body: &[u8], hint: &str) -> Result<T, Problem> {
    // Serde would take the fields from an array as well.
    if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(problem("the body is not a JSON object", hint));
    }
    serde_json::from_slice(body).map_err(|error| problem(&format!("the body is not what is expected: {error}"), hint))
}

fn problem(error: &str, hint: &str) -> Problem {
    Problem { error: error.to_owned(), hint: Some(hint.to_owned()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request_of(kind: Kind) -> UpgradeRequest {
        UpgradeRequest { service: None, services: None, kind, atomic: None, to: None }
    }

    #[test]
    fn requests_for_several() {
        let several = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let request = parse_upgrade_request(br#"{"services":["web","api"],"kind":"reload","atomic":true}"#).unwrap();
        let expected =
            UpgradeRequest { services: several(&["web", "api"]), atomic: Some(true), ..request_of(Kind::Reload) };
        assert_eq!(request, expected);
        assert_eq!(parse_upgrade_request(br#"{"services":[],"kind":"restart"}"#).unwrap().services, several(&[]));
        for bad in [
            &br#"{"service":"web","services":[],"kind":"reload"}"#[..],
            br#"{"services":"web","kind":"reload"}"#,
            br#"{"services":["web"],"kind":"rollback"}"#,
            br#"{"kind":"rollback","atomic":true}"#,
            br#"{"kind":"reload","atomic":1}"#,
        ] {
            assert!(parse_upgrade_request(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn upgrade_requests() {
        let request = parse_upgrade_request(br#" {"kind": "restart", "service": "web"} "#).unwrap();
        assert_eq!(request, UpgradeRequest { service: Some("web".into()), ..request_of(Kind::Restart) });
        assert_eq!(parse_upgrade_request(br#"{"kind":"rollback","to":3}"#).unwrap().to, Some(3));
        assert_eq!(parse_upgrade_request(br#"{"kind":"rollback","to":null}"#).unwrap().to, None);
        assert_eq!(parse_upgrade_request(br#"{"kind":"reload","service":null}"#).unwrap().service, None);
        let bad: [(&[u8], &str); 11] = [
            (b"", "EOF"),
            (b"{}", "missing field `kind`"),
            (br#"{"kind":"start"}"#, "unknown variant `start`, expected one of `reload`, `restart`, `rollback` at"),
            (br#"{"kind":"reload","to":3}"#, "a reload goes nowhere else"),
            (br#"{"kind":"rollback","to":-1}"#, "invalid value"),
            (br#"{"kind":"rollback","to":"web@3"}"#, "invalid type"),
            (br#"{"kind":"explode"}"#, "unknown variant `explode`, expected one of `reload`, `restart`, `rollback` at"),
            (br#"{"kind":"reload","force":true}"#, "unknown field `force`"),
            (br#"{"kind":"reload","kind":"reload"}"#, "duplicate field"),
            (br#"{"kind":"reload"}}"#, "trailing characters"),
            (b"{\"kind\":\"reload\",\"service\":\"\xff\"}", "line 1 column"),
        ];
        for (body, expected) in bad {
            let problem = parse_upgrade_request(body).unwrap_err();
            assert!(problem.error.contains(expected), "{problem:?}");
            assert!(problem.hint.is_some());
        }
    }

    #[test]
    fn targets() {
        assert_eq!(parse_target(b"").unwrap().service, None);
        assert_eq!(parse_target(b" \n").unwrap().service, None);
        assert_eq!(parse_target(b"{}").unwrap().service, None);
        assert_eq!(parse_target(br#"{"service":"web"}"#).unwrap().service.as_deref(), Some("web"));
        assert!(parse_target(br#"["web"]"#).is_err());
        assert!(parse_target(b"null").is_err());
        assert!(parse_target(br#"{"services":"web"}"#).is_err());
        assert!(parse_target(&br#"{"a":"#.repeat(BODY_MAX / 5)).is_err(), "depth is bounded");
    }

    #[test]
    fn pauses() {
        assert_eq!(parse_pause(b"").unwrap(), PauseRequest::default());
        assert_eq!(parse_pause(br#"{"max":1.5}"#).unwrap(), PauseRequest { service: None, max: Some(1.5) });
        for bad in [&br#"{"max":"30s"}"#[..], br#"{"max":1e999}"#, br#"{"for":1}"#] {
            assert!(parse_pause(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn promotions() {
        assert_eq!(parse_promotion(b"").unwrap(), Promotion::default());
        let full = Promotion { service: Some("web".into()), full: true };
        assert_eq!(parse_promotion(br#"{"full":true,"service":"web"}"#).unwrap(), full);
        for bad in [&b"[]"[..], b"true", br#"{"full":1}"#, br#"{"full":null}"#, br#"{"weight":5}"#] {
            assert!(parse_promotion(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn scalings() {
        assert_eq!(parse_scaling(br#"{"instances":1024}"#).unwrap(), Scaling { service: None, instances: 1024 });
        let bad: [(&[u8], &str); 6] = [
            (b"", "EOF"),
            (b"{}", "missing field `instances`"),
            (br#"{"instances":0}"#, "at least 1"),
            (br#"{"instances":1025}"#, "at most 1024"),
            (br#"{"instances":-1}"#, "invalid value"),
            (br#"{"instances":2,"by":1}"#, "unknown field `by`"),
        ];
        for (body, expected) in bad {
            let problem = parse_scaling(body).unwrap_err();
            assert!(problem.error.contains(expected) && problem.hint.is_some(), "{problem:?}");
        }
    }

    #[test]
    fn queries() {
        assert_eq!(parse_events_query("").unwrap(), EventsQuery { after: 0, follow: true });
        assert_eq!(parse_events_query("after=7&follow=false").unwrap(), EventsQuery { after: 7, follow: false });
        for bad in ["after", "after=", "after=-1", "after=+1", "after=x", "follow=1", "before=3", "after=1&x"] {
            assert!(parse_events_query(bad).is_err(), "{bad}");
        }
        let wanted = Wanted { service: Some("web".into()), after: 3, generation: Some(4), limit: 1000 };
        assert_eq!(parse_history_query("service=web&after=3&generation=4&limit=1000").unwrap(), wanted);
        assert_eq!(parse_history_query("").unwrap().limit, 100);
        for bad in ["limit=0", "limit=1001", "service=", "service=a/b", "service=%41", "follow=true", "after=x"] {
            assert!(parse_history_query(bad).is_err(), "{bad}");
        }
        let month = KpiQuery { service: None, since: 2_592_000 };
        assert_eq!(parse_kpi_query("").unwrap(), month);
        assert_eq!(
            parse_kpi_query("since=60&service=web").unwrap(),
            KpiQuery { service: Some("web".into()), since: 60 }
        );
        for bad in ["since=30d", "since=-1", "service=..", "after=1"] {
            assert!(parse_kpi_query(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_survives_a_round_trip(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(request) = parse_upgrade_request(&body) {
                prop_assert_eq!(parse_upgrade_request(&serde_json::to_vec(&request).unwrap()).unwrap(), request);
            }
            if let Ok(target) = parse_target(&body) {
                prop_assert_eq!(parse_target(&serde_json::to_vec(&target).unwrap()).unwrap(), target);
            }
            if let Ok(promotion) = parse_promotion(&body) {
                prop_assert_eq!(parse_promotion(&serde_json::to_vec(&promotion).unwrap()).unwrap(), promotion);
            }
            if let Ok(scaling) = parse_scaling(&body) {
                prop_assert_eq!(parse_scaling(&serde_json::to_vec(&scaling).unwrap()).unwrap(), scaling);
            }
        }

        #[test]
        fn every_number_of_instances_is_taken_or_refused(service in any::<Option<String>>(), instances in any::<u32>()) {
            let scaling = Scaling { service, instances };
            let parsed = parse_scaling(&serde_json::to_vec(&scaling).unwrap());
            prop_assert_eq!(parsed.ok(), Some(scaling).filter(|_| (1..=1024).contains(&instances)));
        }

        #[test]
        fn every_rollback_survives(service in any::<Option<String>>(), to in any::<Option<u64>>(), full in any::<bool>()) {
            let request = UpgradeRequest { service: service.clone(), to, ..request_of(Kind::Rollback) };
            prop_assert_eq!(parse_upgrade_request(&serde_json::to_vec(&request).unwrap()).unwrap(), request);
            let promotion = Promotion { service, full };
            prop_assert_eq!(parse_promotion(&serde_json::to_vec(&promotion).unwrap()).unwrap(), promotion);
        }

        #[test]
        fn every_service_name_survives(service in any::<Option<String>>()) {
            let request = UpgradeRequest { service: service.clone(), ..request_of(Kind::Reload) };
            prop_assert_eq!(parse_upgrade_request(&serde_json::to_vec(&request).unwrap()).unwrap(), request);
            let target = Target { service };
            prop_assert_eq!(parse_target(&serde_json::to_vec(&target).unwrap()).unwrap(), target);
        }

        #[test]
        fn queries_never_panic(query in "[a-z0-9=&+%-]{0,40}") {
            let _ = (parse_events_query(&query), parse_history_query(&query), parse_kpi_query(&query));
        }
    }
}
