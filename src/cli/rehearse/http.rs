//! What `--http` asks for, as a client would ask.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::core::spoken;
use crate::sys::describe;

/// How often it is asked for.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A path and query, for clap.
pub(super) fn path(text: &str) -> Result<String, String> {
    let uri: hyper::Uri = text.parse().map_err(|error: hyper::http::uri::InvalidUri| error.to_string())?;
    match uri.path_and_query() {
        Some(path) if text.starts_with('/') && path.as_str() == text => Ok(text.to_owned()),
        _ => Err("a path begins with `/`".into()),
    }
}

/// Asks again and again until an answer is not good, and says what was wrong with it; `None` when `over` comes first.
/// It asks at least once, and whatever was asked is waited for.
pub(super) async fn failure(address: SocketAddr, path: &str, over: impl Future<Output = ()>) -> Option<String> {
    tokio::pin!(over);
    let mut ticks = tokio::time::interval_at(Instant::now() + INTERVAL, INTERVAL);
    loop {
        let answer = tokio::time::timeout(TIMEOUT, status(address, path)).await;
        let wrong = match answer {
            Ok(Ok(status)) if status.is_success() || status.is_redirection() => None,
            Ok(Ok(status)) => Some(status.to_string()),
            Ok(Err(error)) => Some(error),
            Err(_) => Some(format!("no answer in {}", spoken(TIMEOUT))),
        };
        if let Some(wrong) = wrong {
            return Some(format!("GET {path}: {wrong}"));
        }
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut over => return None,
        }
    }
}

async fn status(address: SocketAddr, path: &str) -> Result<StatusCode, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| describe(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // How it ends is told to the sender.
    let connection = tokio::spawn(async { drop(connection.await) });
    let request = Request::get(path).header(HOST, address.to_string()).header(USER_AGENT, "zdsup");
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| error.to_string());
    connection.abort();
    Ok(answer?.status())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one() {
        assert_eq!(path("/healthz?deep=1"), Ok("/healthz?deep=1".to_owned()));
        for bad in ["", "healthz", "http://web/", "/a b", "/#top", "*"] {
            assert!(path(bad).is_err(), "{bad}");
        }
    }
}
