//! What happens to all services, as it happens, past supervisors that replace one another.

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use tokio::time::Instant;

use super::{ANSWER_MAX, Client, ClientError, PAUSE, jittered, rejected};
use crate::control::types::SupervisorEvent;

/// How long a supervisor may be gone until nobody is taken to follow it.
const SUCCESSION: Duration = Duration::from_secs(5);

/// The events of a supervisor, see [`Client::events`].
#[derive(Debug)]
pub struct Follow<'a> {
    client: &'a mut Client,
    follow: bool,
    last: u64,
    body: Option<Incoming>,
    partial: Vec<u8>,
    events: VecDeque<SupervisorEvent>,
    /// Since when there is no stream, where there has been one.
    cut: Option<Instant>,
}

impl Client {
    /// What happened to all services after event `after`, as far as it is remembered; with `follow` on and on.
    #[must_use]
    pub fn events(&mut self, after: u64, follow: bool) -> Follow<'_> {
        let (partial, events) = (Vec::new(), VecDeque::new());
        Follow { client: self, follow, last: after, body: None, partial, events, cut: None }
    }
}

impl Follow<'_> {
    /// The next event; `None` at the end of those that there are, unless they are followed.
    ///
    /// # Errors
    /// When the supervisor is gone and no other takes its place.
    pub async fn next(&mut self) -> Result<Option<SupervisorEvent>, ClientError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                self.last = event.seq;
                self.cut = None;
                return Ok(Some(event));
            }
            let Some(body) = &mut self.body else {
                self.open().await?;
                continue;
            };
            match body.frame().await {
                Some(Ok(frame)) => frame.into_data().map_or(Ok(()), |data| self.take(&data))?,
                None if !self.follow => return Ok(None),
                Some(Err(_)) | None => {
                    self.body = None;
                    self.again(ClientError::Cut).await?;
                }
            }
        }
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        self.partial.clear();
        let path = format!("/v1/events?after={}&follow={}", self.last, self.follow);
        match self.client.send(Method::GET, &path, Bytes::new()).await {
            Ok(answer) if answer.status().is_success() => self.body = Some(answer.into_body()),
            Ok(answer) => return Err(rejected(answer).await),
            // Only one that was there can be followed by another.
            Err(error @ (ClientError::Cut | ClientError::NotRunning(_))) if self.cut.is_some() => {
                self.again(error).await?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn again(&mut self, error: ClientError) -> Result<(), ClientError> {
        if self.cut.get_or_insert_with(Instant::now).elapsed() > SUCCESSION {
            return Err(error);
        }
        tokio::time::sleep(jittered(PAUSE.1 / 4)).await;
        Ok(())
    }

    fn take(&mut self, data: &[u8]) -> Result<(), ClientError> {
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
}
