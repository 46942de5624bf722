//! An HTTP/1.1 server on hyper that is upgraded without a client noticing.
//!
//! ```text
//! cargo build --example hyper
//! zdsup run --listen http=127.0.0.1:8080 -- target/debug/examples/hyper     # or: zdsup run -c hyper.toml, see there
//! curl http://127.0.0.1:8080/                                              # in another terminal
//! zdsup reload                                                             # as often as you like
//! ```
//!
//! It also runs by itself: then it binds 127.0.0.1:8080.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::time::{sleep, timeout};
use zdsup::service::{self, LameDuck, Listeners, Shutdown};

/// How long answers say `Connection: close` before the server closes connections by itself.
const LAME_DUCK: Duration = Duration::from_secs(4);

/// How long requests may take to finish after that. Together less than `drain.timeout`.
const GRACE: Duration = Duration::from_secs(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    // First of all: until now, the stop signal would kill.
    let shutdown = Shutdown::install()?;
    let listener = Listeners::take()?.tokio_tcp_or_bind("http", "127.0.0.1:8080")?;
    let duck = LameDuck::new(&shutdown, LAME_DUCK);
    let body = Bytes::from(service::instance().unwrap_or("by hand".to_owned()) + "\n");

    // Whatever can fail or takes time belongs here: databases, caches, a first request to itself.
    service::status("answering on the listener http")?;
    service::ready()?;
    if let Some(interval) = service::watchdog() {
        // From the loop that serves: if that hangs, so does this, and zdsup starts another process.
        tokio::spawn(async move {
            loop {
                let _ = service::ping();
                sleep(interval / 2).await;
            }
        });
    }

    let connections = GracefulShutdown::new();
    loop {
        match duck.tokio_accept(&listener).await {
            Ok(Some((stream, _peer))) => {
                let (duck, body) = (duck.clone(), body.clone());
                let answer = service_fn(move |request| answer(duck.clone(), body.clone(), request));
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new());
                let connection = connections.watch(http.serve_connection(TokioIo::new(stream), answer));
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        eprintln!("connection: {error}");
                    }
                });
            }
            Ok(None) => break,
            // Out of descriptors or memory: the connections wait in the backlog until it is better.
            Err(error) => {
                eprintln!("accept: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    // Dropped, not shut down: the next generation accepts from the same listener.
    drop(listener);
    service::stopping()?;
    // Connections that are idle may carry one more request, until the lame-duck time is over.
    duck.over().await;
    if timeout(GRACE, connections.shutdown()).await.is_err() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "some requests did not end in time").into());
    }
    Ok(())
}

async fn answer(duck: LameDuck, body: Bytes, _request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(body));
    if let Some((name, value)) = duck.header() {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
