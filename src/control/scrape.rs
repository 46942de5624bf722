//! A TCP address at which a monitoring system reads the metrics, and nothing else can be done.
//!
//! Whoever reaches it may read: it has no credentials to go by. So it takes few connections, each for a short time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::patient::Patient;
use super::server::Command;

/// What metrics are sent as.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections that are served at once; further ones wait in the backlog.
const CONNECTIONS_MAX: usize = 8;
/// How long a connection may last in all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a peer may take for the head of a request, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a peer may leave unread what is written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the supervisor's loop may take for an answer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// The most that is buffered of a connection, bytes.
const BUFFER_MAX: usize = 16 * 1024;
/// The pause after an accept(2) that failed.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Listens at this address. To be called where there is a runtime.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2).
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    // std sets SO_REUSEADDR: connections of a predecessor do not keep us from it.
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves it for as long as it is not dropped.
pub async fn serve(listener: TcpListener, commands: mpsc::Sender<Command>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let commands = commands.clone();
                tokio::spawn(async move {
                    // However slow a peer is, its place is free after that.
                    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection(stream, commands)).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn connection(stream: TcpStream, commands: mpsc::Sender<Command>) {
    let service = service_fn(move |request| answer(request, commands.clone()));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER_MAX).auto_date_header(false);
    // How it ends is the peer's concern.
    let _ = builder.serve_connection(TokioIo::new(Patient::new(stream, WRITE_TIMEOUT)), service).await;
}

async fn answer(
    request: Request<Incoming>,
    commands: mpsc::Sender<Command>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match metrics(&commands).await {
            Some(text) => with(StatusCode::OK, OPENMETRICS, text),
            None => with(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "the supervisor does not answer\n".into()),
        },
        (_, "/metrics") => {
            let mut answer = with(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET\n".into());
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            answer
        }
        _ => with(StatusCode::NOT_FOUND, "text/plain", "there is only /metrics\n".into()),
    })
}

async fn metrics(commands: &mpsc::Sender<Command>) -> Option<String> {
    let (reply, answer) = oneshot::channel();
    let asked = async {
        commands.send(Command::Metrics { reply }).await.ok()?;
        answer.await.ok()
    };
    tokio::time::timeout(REPLY_TIMEOUT, asked).await.ok().flatten()
}

fn with(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(text.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
