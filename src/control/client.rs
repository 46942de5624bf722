//! Talks to a supervisor over its control socket.
//!
//! A [`Client`] keeps its connection between requests. A [`Watch`] is the story of one upgrade: it survives being cut
//! off, and where the supervisor has no stream left it asks again and again instead; either way each event comes once.

mod follow;

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::types::{
    Done, HistoryPage, Kpi, PauseRequest, Problem, Promotion, Replacement, Scaling, Status, Target, UpgradeAccepted,
    UpgradeEvent, UpgradeRequest, UpgradeStatus,
};
use crate::sys::{Pid, peer};
pub use follow::Follow;

/// How long a supervisor that is there may be too busy to take a connection.
const BUSY_PATIENCE: Duration = Duration::from_secs(10);
/// How long a socket at which nobody listens may be one whose supervisor is just starting.
const START_PATIENCE: Duration = Duration::from_millis(250);
/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// What to do about a supervisor that does not answer.
pub(super) const NO_ANSWER_HINT: &str = "its log may say what keeps it, and what it runs goes on meanwhile; \
    what was asked for may still be done: ask again, first with `zdsup status`";
/// The pause between attempts: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));
/// The largest answer, and the longest line of a stream, bytes.
const ANSWER_MAX: usize = 16 << 20;
/// How often in a row a stream may be cut off without having brought anything.
const CUTS_MAX: u32 = 10;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no supervisor listens at {}", .0.display())]
    NotRunning(PathBuf),
    /// The socket, or a directory on the way to it, is closed to this user.
    #[error("not permitted to connect to {}", .0.display())]
    NotPermitted(PathBuf),
    /// It cannot be connected to for another reason.
    #[error("cannot connect to {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The supervisor says no.
    #[error("{}", .problem.error)]
    Rejected {
        /// The HTTP status.
        status: u16,
        /// What it says.
        problem: Problem,
    },
    /// The supervisor knows nothing of this upgrade: it began anew, or has seen many since.
    #[error("the supervisor no longer knows upgrade #{0}")]
    Forgotten(u64),
    /// The connection ended before the answer.
    #[error("the supervisor closed the connection")]
    Cut,
    /// There was no answer in time.
    #[error("the supervisor did not answer in {} s", ANSWER_TIMEOUT.as_secs())]
    NoAnswer,
    /// The answer is not what is expected; another version, or no supervisor at all.
    #[error("the supervisor's answer is not understood: {0}")]
    NotUnderstood(String),
}

impl ClientError {
    /// Whether the supervisor was there and had no answer just now: another attempt may get one.
    #[must_use]
    pub fn is_for_now(&self) -> bool {
        matches!(self, Self::Rejected { status, .. } if is_for_now(*status))
    }

    /// What would mend it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Rejected { problem, .. } => problem.hint.as_deref(),
            Self::Forgotten(_) | Self::Cut => Some("`zdsup status` shows how things stand"),
            Self::NoAnswer => Some(NO_ANSWER_HINT),
            Self::NotPermitted(_) => Some("root and the user that the supervisor runs as are permitted"),
            _ => None,
        }
    }
}

/// A client of one supervisor.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    connection: Option<SendRequest<Full<Bytes>>>,
    supervisor: Option<Pid>,
}

impl Client {
    /// Of the supervisor at this control socket. Connects when there is something to ask.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, connection: None, supervisor: None }
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process that listened at the socket when it was last connected to, as this pid namespace sees it.
    #[must_use]
    pub fn supervisor(&self) -> Option<Pid> {
        self.supervisor
    }

    /// How everything stands.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// Asks for an upgrade.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn request(&mut self, request: &UpgradeRequest) -> Result<UpgradeAccepted, ClientError> {
        self.post("/v1/upgrades", request).await
    }

    /// The upgrades that are remembered, oldest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn upgrades(&mut self) -> Result<Vec<UpgradeStatus>, ClientError> {
        self.get("/v1/upgrades").await
    }

    /// How an upgrade stands.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn upgrade(&mut self, id: u64) -> Result<UpgradeStatus, ClientError> {
        self.get(&format!("/v1/upgrades/{id}")).await
    }

    /// What became of former upgrades: `query` is that of `GET /v1/history`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn history(&mut self, query: &str) -> Result<HistoryPage, ClientError> {
        self.get(&format!("/v1/history?{query}")).await
    }

    /// What they come to, in figures: `query` is that of `GET /v1/kpi`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn kpi(&mut self, query: &str) -> Result<Kpi, ClientError> {
        self.get(&format!("/v1/kpi?{query}")).await
    }

    /// Gives the upgrade in flight up.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn abort(&mut self, target: &Target) -> Result<Done, ClientError> {
        self.post("/v1/abort", target).await
    }

    /// Ends the step of a canary that waits.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn promote(&mut self, promotion: &Promotion) -> Result<Done, ClientError> {
        self.post("/v1/promote", promotion).await
    }

    /// Gives a service another number of instances.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn scale(&mut self, scaling: &Scaling) -> Result<Done, ClientError> {
        self.post("/v1/scale", scaling).await
    }

    /// Ends a service, or everything.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stop(&mut self, target: &Target) -> Result<Done, ClientError> {
        self.post("/v1/stop", target).await
    }

    /// Makes new connections to a service wait.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn pause(&mut self, request: &PauseRequest) -> Result<Done, ClientError> {
        self.post("/v1/pause", request).await
    }

    /// Lets them in again.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn resume(&mut self, target: &Target) -> Result<Done, ClientError> {
        self.post("/v1/resume", target).await
    }

    /// Replaces the supervisor's own program.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn reexec(&mut self, replacement: &Replacement) -> Result<Done, ClientError> {
        self.post("/v1/reexec", replacement).await
    }

    /// The story of an upgrade after event `after`, as it happens.
    #[must_use]
    pub fn watch(&mut self, upgrade: u64, after: u64) -> Watch<'_> {
        Watch {
            client: self,
            upgrade,
            last: after,
            concluded: false,
            body: None,
            partial: Vec::new(),
            events: VecDeque::new(),
            over: false,
            polling: false,
            cuts: 0,
        }
    }

    async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        let answer = self.send(Method::GET, path, Bytes::new()).await?;
        read(answer).await
    }

    async fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::NotUnderstood(error.to_string()))?;
        let answer = self.send(Method::POST, path, body.into()).await?;
        read(answer).await
    }

    async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        tokio::time::timeout(ANSWER_TIMEOUT, self.sent(method, path, body)).await.unwrap_or(Err(ClientError::NoAnswer))
    }

    async fn sent(&mut self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::new(Full::new(body));
        let target = path.parse().map_err(|_| ClientError::NotUnderstood(format!("{path} is not a path")))?;
        let repeatable = method == Method::GET;
        *request.method_mut() = method;
        *request.uri_mut() = target;
        request.headers_mut().insert(hyper::header::HOST, hyper::header::HeaderValue::from_static("zdsup"));
        if let Some(mut kept) = self.connection.take() {
            // The connection may have been closed meanwhile; what was surely not sent, or may be sent twice, is.
            let again = repeatable.then(|| request.clone());
            if kept.ready().await.is_ok() {
                match kept.try_send_request(request).await {
                    Ok(answer) => {
                        self.connection = Some(kept);
                        return Ok(answer);
                    }
                    Err(mut error) => request = error.take_message().or(again).ok_or(ClientError::Cut)?,
                }
            }
        }
        let mut fresh = self.connect().await?;
        let answer = fresh.send_request(request).await.map_err(|_| ClientError::Cut)?;
        self.connection = Some(fresh);
        Ok(answer)
    }

    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let stream = connect(&self.socket).await?;
        // Of a connected socket these are the credentials of whoever called listen(2) (unix(7)).
        self.supervisor = peer::credentials(stream.as_fd()).ok().and_then(|peer| peer.pid);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| ClientError::Cut)?;
        // How it ends is told to whoever waits for an answer.
        tokio::spawn(async { drop(connection.await) });
        Ok(sender)
    }
}

/// The story of one upgrade, see [`Client::watch`].
#[derive(Debug)]
pub struct Watch<'a> {
    client: &'a mut Client,
    upgrade: u64,
    last: u64,
    concluded: bool,
    body: Option<Incoming>,
    partial: Vec<u8>,
    events: VecDeque<UpgradeEvent>,
    over: bool,
    polling: bool,
    cuts: u32,
}

impl Watch<'_> {
    /// The next event, or `None` when there will be none: the verdict has fallen and the old generation is gone.
    /// Nothing is lost when it is dropped before it is done.
    ///
    /// # Errors
    /// When the supervisor is gone, or has forgotten this upgrade.
    pub async fn next(&mut self) -> Result<Option<UpgradeEvent>, ClientError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                if event.seq <= self.last {
                    continue;
                }
                self.cuts = 0;
                self.last = event.seq;
                self.concluded |= event.verdict.is_some();
                return Ok(Some(event));
            }
            if self.over {
                return Ok(None);
            }
            let frame = match &mut self.body {
                Some(body) => body.frame().await,
                None => {
                    self.open().await?;
                    continue;
                }
            };
            self.take(frame).await?;
        }
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        self.partial.clear();
        let (upgrade, after, follow) = (self.upgrade, self.last, !self.polling);
        let path = format!("/v1/upgrades/{upgrade}/events?after={after}&follow={follow}");
        match self.client.send(Method::GET, &path, Bytes::new()).await {
            Ok(answer) if answer.status().is_success() => self.body = Some(answer.into_body()),
            Ok(answer) if follow && is_for_now(answer.status().as_u16()) => self.polling = true,
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => return Err(ClientError::Forgotten(upgrade)),
            Ok(answer) => return Err(rejected(answer).await),
            Err(ClientError::Cut) => self.cut().await?,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn take(&mut self, frame: Option<Result<Frame<Bytes>, hyper::Error>>) -> Result<(), ClientError> {
        if let Some(Ok(frame)) = frame {
            return frame.into_data().map_or(Ok(()), |data| self.take_lines(&data));
        }
        self.body = None;
        match frame {
            Some(_) => self.cut().await?,
            None if !self.partial.is_empty() => self.cut().await?,
            None if !self.polling => self.over = true,
            None if !self.events.is_empty() => {}
            None => {
                let status = self.client.upgrade(self.upgrade).await?;
                self.over = self.concluded && status.drained;
                if !self.over {
                    tokio::time::sleep(jittered(PAUSE.1)).await;
                }
            }
        }
        Ok(())
    }

    fn take_lines(&mut self, data: &[u8]) -> Result<(), ClientError> {
        self.partial.extend_from_slice(data);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            let event = serde_json::from_slice(&line).map_err(|error| ClientError::NotUnderstood(error.to_string()))?;
            self.events.push_back(event);
        }
        if self.partial.len() > ANSWER_MAX {
            return Err(ClientError::NotUnderstood("a line without end".into()));
        }
        Ok(())
    }

    /// The stream ended before its story did.
    async fn cut(&mut self) -> Result<(), ClientError> {
        self.cuts += 1;
        if self.cuts > CUTS_MAX {
            return Err(ClientError::Cut);
        }
        tokio::time::sleep(jittered(pause(self.cuts))).await;
        Ok(())
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, ClientError> {
    let began = Instant::now();
    let mut attempts = 0;
    loop {
        let error = match UnixStream::connect(socket).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let patience = match error.kind() {
            // The backlog is full (unix(7)): there is no event that says when it no longer is.
            io::ErrorKind::WouldBlock => BUSY_PATIENCE,
            io::ErrorKind::ConnectionRefused => START_PATIENCE,
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                return Err(ClientError::NotRunning(socket.to_owned()));
            }
            io::ErrorKind::PermissionDenied => return Err(ClientError::NotPermitted(socket.to_owned())),
            _ => Duration::ZERO,
        };
        if began.elapsed() >= patience {
            return Err(match error.kind() {
                io::ErrorKind::ConnectionRefused => ClientError::NotRunning(socket.to_owned()),
                _ => ClientError::Connect { path: socket.to_owned(), source: error },
            });
        }
        attempts += 1;
        tokio::time::sleep(jittered(pause(attempts))).await;
    }
}

/// The pause after so many attempts.
fn pause(attempts: u32) -> Duration {
    PAUSE.1.min(PAUSE.0 * 2u32.saturating_pow(attempts.saturating_sub(1)))
}

/// Differs a little from process to process, so that those that were turned away together do not come back together.
fn jittered(pause: Duration) -> Duration {
    pause + pause * (std::process::id() % 64) / 64
}

async fn read<T: DeserializeOwned>(answer: Response<Incoming>) -> Result<T, ClientError> {
    if !answer.status().is_success() {
        return Err(rejected(answer).await);
    }
    let body = collect(answer.into_body()).await?;
    serde_json::from_slice(&body).map_err(|error| ClientError::NotUnderstood(error.to_string()))
}

/// 503 and 504: not now, or no answer just now.
fn is_for_now(status: u16) -> bool {
    matches!(status, 503 | 504)
}

async fn rejected(answer: Response<Incoming>) -> ClientError {
    let status = answer.status();
    match collect(answer.into_body()).await {
        Ok(body) => {
            let problem = serde_json::from_slice(&body)
                .unwrap_or_else(|_| Problem { error: format!("the supervisor answered {status}"), hint: None });
            ClientError::Rejected { status: status.as_u16(), problem }
        }
        Err(error) => error,
    }
}

async fn collect(body: Incoming) -> Result<Bytes, ClientError> {
    let body = tokio::time::timeout(ANSWER_TIMEOUT, Limited::new(body, ANSWER_MAX).collect()).await;
    body.map_err(|_| ClientError::NoAnswer)?.map(|body| body.to_bytes()).map_err(|_| ClientError::Cut)
}
