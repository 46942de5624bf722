//! One GET over a connection of its own, as checks and probes send it.

use std::convert::Infallible;
use std::pin::pin;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode, header, http};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// The most that the head of an answer may have, bytes.
pub(super) const HEAD_MAX: usize = 64 << 10;

/// The connection, which has to be looked after as long as anything is to come over it.
type Conversation<S> = http1::Connection<TokioIo<S>, Empty<Bytes>>;

/// An answer whose head has come.
pub(super) struct Answer<S: AsyncRead + AsyncWrite + Unpin> {
    response: Response<Incoming>,
    conversation: Conversation<S>,
}

/// A request that ends its connection. `agent`: the User-Agent header.
pub(super) fn get(path: &str, host: &str, agent: &str) -> http::Result<Request<Empty<Bytes>>> {
    Request::get(path)
        .header(header::HOST, host)
        .header(header::USER_AGENT, agent)
        .header(header::CONNECTION, "close")
        .body(Empty::new())
}

/// Asks, and waits for the head of the answer.
pub(super) async fn ask<S>(stream: S, request: Request<Empty<Bytes>>) -> hyper::Result<Answer<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = http1::Builder::new().max_buf_size(HEAD_MAX).handshake(TokioIo::new(stream));
    let (mut sender, mut conversation) = handshake.await?;
    let response = along(&mut conversation, sender.send_request(request)).await?;
    Ok(Answer { response, conversation })
}

impl<S: AsyncRead + AsyncWrite + Unpin> Answer<S> {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Reads the body, until all of it has come or `wants_more` has seen enough.
    pub(super) async fn read(mut self, mut wants_more: impl FnMut(&[u8]) -> bool) -> hyper::Result<()> {
        let body = self.response.body_mut();
        let read = async {
            while let Some(frame) = body.frame().await {
                if frame?.data_ref().is_some_and(|data| !wants_more(data)) {
                    break;
                }
            }
            Ok(())
        };
        along(&mut self.conversation, read).await
    }
}

/// Does something over a connection, and looks after that meanwhile.
async fn along<S, T>(conversation: &mut Conversation<S>, something: impl Future<Output = T>) -> T
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let looked_after = async {
        // How it ends is told to whoever waits for something.
        let _ = conversation.await;
        std::future::pending::<Infallible>().await
    };
    let (something, looked_after) = (pin!(something), pin!(looked_after));
    tokio::select! {
        biased;
        done = something => done,
        never = looked_after => match never {},
    }
}
