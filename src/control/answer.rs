//! From an HTTP request to its answer.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::access::{Access, Permission};
use super::client::NO_ANSWER_HINT;
use super::events::{self, Ask, Interrupted, Line, Tail};
use super::places::{Kept, Place};
use super::request::{
    BODY_MAX, parse_events_query, parse_history_query, parse_kpi_query, parse_pause, parse_promotion,
    parse_replacement, parse_scaling, parse_target, parse_upgrade_request,
};
use super::routes::{Endpoint, Lookup, look_up};
use super::scrape::OPENMETRICS;
use super::server::{Command, FeedLine, Rejection, RejectionKind};
use super::types::{Problem, UpgradeEvent};
use crate::sys::peer::Credentials;

/// How long a peer may take for a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the supervisor's loop may take for an answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
const OPENAPI: &str = include_str!("openapi.json");

/// What every connection shares.
#[derive(Debug)]
pub(super) struct Shared {
    commands: mpsc::Sender<Command>,
    access: watch::Receiver<Access>,
    streams: Arc<Semaphore>,
}

impl Shared {
    pub(super) fn new(
        commands: mpsc::Sender<Command>,
        access: watch::Receiver<Access>,
        streams: Arc<Semaphore>,
    ) -> Self {
        Self { commands, access, streams }
    }

    /// What a peer may do now; that changes with the config.
    pub(super) fn permission(&self, peer: &Credentials) -> Permission {
        self.access.borrow().permission(peer)
    }

    /// Asks the supervisor's loop.
    pub(super) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Answer> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.commands.send(command(reply)).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(REPLY_TIMEOUT, asked).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(problem(StatusCode::SERVICE_UNAVAILABLE, "the supervisor is ending", None)),
            Err(_) => {
                Err(problem(StatusCode::GATEWAY_TIMEOUT, "the supervisor did not answer in 10 s", Some(NO_ANSWER_HINT)))
            }
        }
    }
}

/// The other end of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) credentials: Credentials,
    pub(super) shared: Arc<Shared>,
    pub(super) place: Arc<Place>,
}

type Answer = Response<UnsyncBoxBody<Bytes, Interrupted>>;

/// Answers one request.
pub(super) async fn answer(request: Request<Incoming>, peer: Arc<Peer>) -> Result<Answer, Infallible> {
    Ok(granted(request, &peer).await.unwrap_or_else(|refused| refused))
}

async fn granted(request: Request<Incoming>, peer: &Peer) -> Result<Answer, Answer> {
    let permission = peer.shared.permission(&peer.credentials);
    if permission == Permission::Nothing {
        return Err(closing(forbidden(&peer.credentials)));
    }
    let (route, id) = match look_up(request.method().as_str(), request.uri().path()) {
        Lookup::Found(route, id) => (route, id),
        Lookup::WrongMethod(methods) => {
            let answer = problem(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method", None);
            return Err(with(answer, ALLOW, &methods.join(", ")));
        }
        Lookup::Unknown => {
            return Err(problem(
                StatusCode::NOT_FOUND,
                "there is no such path",
                Some("GET /v1/openapi.json lists them"),
            ));
        }
    };
    if permission < route.needs {
        return Err(closing(forbidden(&peer.credentials)));
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    if !query.is_empty() && !route.endpoint.takes_query() {
        return Err(problem(StatusCode::BAD_REQUEST, "this path takes no query", None));
    }
    let body = if route.method == "POST" { read(request.into_body()).await? } else { Bytes::new() };
    let kept = peer.place.keep();
    match route.endpoint {
        Endpoint::Openapi => Ok(json(StatusCode::OK, Bytes::from_static(OPENAPI.as_bytes()))),
        Endpoint::Status => Ok(encode(StatusCode::OK, &peer.shared.ask(|reply| Command::Status { reply }).await?)),
        Endpoint::Upgrades => Ok(encode(StatusCode::OK, &peer.shared.ask(|reply| Command::Upgrades { reply }).await?)),
        Endpoint::Upgrade => match peer.shared.ask(|reply| Command::Upgrade { id, reply }).await? {
            Some(upgrade) => Ok(encode(StatusCode::OK, &upgrade)),
            None => Err(no_such_upgrade(id)),
        },
        Endpoint::Events => {
            let ask: Ask<UpgradeEvent> = |id, after, reply| Command::Events { id, after, reply };
            stream(peer, kept, (id, ask), &query, || no_such_upgrade(id)).await
        }
        Endpoint::Feed => {
            let ask: Ask<FeedLine> = |_, after, reply| Command::Feed { after, reply };
            stream(peer, kept, (0, ask), &query, || problem(StatusCode::SERVICE_UNAVAILABLE, HOLDS, None)).await
        }
        Endpoint::History => {
            let wanted = parse_history_query(&query).map_err(invalid)?;
            let page = peer.shared.ask(|reply| Command::History { wanted, reply }).await?.map_err(rejected)?;
            Ok(encode(StatusCode::OK, &page))
        }
        Endpoint::Kpi => {
            let query = parse_kpi_query(&query).map_err(invalid)?;
            let kpi = peer.shared.ask(|reply| Command::Kpi { query, reply }).await?.map_err(rejected)?;
            Ok(encode(StatusCode::OK, &kpi))
        }
        Endpoint::Metrics => {
            let text = peer.shared.ask(|reply| Command::Metrics { reply }).await?;
            Ok(with(json(StatusCode::OK, text.into()), CONTENT_TYPE, OPENMETRICS))
        }
        Endpoint::Request => {
            let request = parse_upgrade_request(&body).map_err(invalid)?;
            let uid = peer.credentials.uid;
            let accepted =
                peer.shared.ask(|reply| Command::Request { request, uid, reply }).await?.map_err(rejected)?;
            let location = format!("/v1/upgrades/{}", accepted.id);
            Ok(with(encode(StatusCode::ACCEPTED, &accepted), LOCATION, &location))
        }
        Endpoint::Abort => {
            let (target, uid) = (parse_target(&body).map_err(invalid)?, peer.credentials.uid);
            let done = peer.shared.ask(|reply| Command::Abort { target, uid, reply }).await?.map_err(rejected)?;
            Ok(encode(StatusCode::OK, &done))
        }
        Endpoint::Promote => {
            let (promotion, uid) = (parse_promotion(&body).map_err(invalid)?, peer.credentials.uid);
            let asked = |reply| Command::Promote { promotion, uid, reply };
            Ok(encode(StatusCode::OK, &peer.shared.ask(asked).await?.map_err(rejected)?))
        }
        Endpoint::Scale => {
            let (scaling, uid) = (parse_scaling(&body).map_err(invalid)?, peer.credentials.uid);
            let asked = |reply| Command::Scale { scaling, uid, reply };
            Ok(encode(StatusCode::OK, &peer.shared.ask(asked).await?.map_err(rejected)?))
        }
        Endpoint::Reexec => {
            let (replacement, uid) = (parse_replacement(&body).map_err(invalid)?, peer.credentials.uid);
            let asked = |reply| Command::Reexec { replacement, uid, reply };
            Ok(encode(StatusCode::OK, &peer.shared.ask(asked).await?.map_err(rejected)?))
        }
        Endpoint::Pause => {
            let (request, uid) = (parse_pause(&body).map_err(invalid)?, peer.credentials.uid);
            let done = peer.shared.ask(|reply| Command::Pause { request, uid, reply }).await?.map_err(rejected)?;
            Ok(encode(StatusCode::OK, &done))
        }
        Endpoint::Resume => {
            let (target, uid) = (parse_target(&body).map_err(invalid)?, peer.credentials.uid);
            let done = peer.shared.ask(|reply| Command::Resume { target, uid, reply }).await?.map_err(rejected)?;
            Ok(encode(StatusCode::OK, &done))
        }
        Endpoint::Stop => {
            let (target, uid) = (parse_target(&body).map_err(invalid)?, peer.credentials.uid);
            let done = peer.shared.ask(|reply| Command::Stop { target, uid, reply }).await?.map_err(rejected)?;
            Ok(encode(StatusCode::OK, &done))
        }
    }
}

const HOLDS: &str = "the supervisor only holds what runs, and tells nothing of it";

async fn stream<E: Line + 'static>(
    peer: &Peer,
    kept: Kept,
    (id, ask): (u64, Ask<E>),
    query: &str,
    nothing: impl FnOnce() -> Answer,
) -> Result<Answer, Answer> {
    let query = parse_events_query(query).map_err(invalid)?;
    let permit = match (query.follow, Arc::clone(&peer.shared.streams).try_acquire_owned()) {
        (false, _) => None,
        (true, Ok(permit)) => Some(permit),
        (true, Err(_)) => {
            let hint = "ask again later, or for what there is with follow=false";
            let answer = problem(StatusCode::SERVICE_UNAVAILABLE, "too many event streams are open", Some(hint));
            return Err(with(answer, RETRY_AFTER, "1"));
        }
    };
    let after = query.after;
    let page = peer.shared.ask(|reply| ask(id, after, reply)).await?.ok_or_else(nothing)?;
    let tail = Tail { shared: Arc::clone(&peer.shared), id, ask, follow: query.follow, held: (kept, permit) };
    let body = UnsyncBoxBody::new(StreamBody::new(events::body(tail, page)));
    Ok(with(with(Response::new(body), CONTENT_TYPE, "application/x-ndjson"), CACHE_CONTROL, "no-store"))
}

/// Reads a body, bounded in size and time.
async fn read(body: Incoming) -> Result<Bytes, Answer> {
    let too_large = || closing(problem(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 64 KiB", None));
    if body.size_hint().lower() > BODY_MAX as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if is_too_large(&*error) => Err(too_large()),
        Ok(Err(_)) => Err(closing(problem(StatusCode::BAD_REQUEST, "the body is cut off or malformed", None))),
        Err(_) => Err(closing(problem(StatusCode::REQUEST_TIMEOUT, "the body took over 5 s", None))),
    }
}

fn is_too_large(error: &(dyn Error + 'static)) -> bool {
    error.is::<LengthLimitError>()
}

fn forbidden(peer: &Credentials) -> Answer {
    let error = format!("user {} is not permitted to do this", peer.uid);
    let hint = "root and the supervisor's own user are; groups can be, by `operators` and `viewers` of its config";
    problem(StatusCode::FORBIDDEN, &error, Some(hint))
}

fn no_such_upgrade(id: u64) -> Answer {
    let hint = "only the latest are remembered: GET /v1/upgrades lists them";
    problem(StatusCode::NOT_FOUND, &format!("there is no upgrade {id}"), Some(hint))
}

fn invalid(problem: Problem) -> Answer {
    encode(StatusCode::BAD_REQUEST, &problem)
}

fn rejected(rejection: Rejection) -> Answer {
    let status = match rejection.kind {
        RejectionKind::Invalid => StatusCode::BAD_REQUEST,
        RejectionKind::NotFound => StatusCode::NOT_FOUND,
        RejectionKind::Refused => StatusCode::CONFLICT,
        RejectionKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    problem(status, &rejection.error, rejection.hint.as_deref())
}

fn problem(status: StatusCode, error: &str, hint: Option<&str>) -> Answer {
    encode(status, &Problem { error: error.to_owned(), hint: hint.map(str::to_owned) })
}

fn encode(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            json(status, bytes.into())
        }
        Err(error) => {
            tracing::error!("failed to encode an answer: {error}");
            json(
                StatusCode::INTERNAL_SERVER_ERROR,
                Bytes::from_static(b"{\"error\":\"the answer cannot be encoded\"}\n"),
            )
        }
    }
}

fn json(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(UnsyncBoxBody::new(Full::new(body).map_err(Interrupted::from)));
    *answer.status_mut() = status;
    with(answer, CONTENT_TYPE, "application/json")
}

fn closing(answer: Answer) -> Answer {
    with(answer, CONNECTION, "close")
}

fn with(mut answer: Answer, name: HeaderName, value: &str) -> Answer {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}
