//! What we tell systemd about ourselves (sd_notify(3)), without ever waiting for it.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;

use crate::core::Time;
use crate::sys::describe;
use crate::sys::notify::NotifyClient;

/// How often systemd is told that something long is still going on, and how much longer it may take each time.
const EXTEND_EVERY: Duration = Duration::from_secs(5);
const EXTEND_BY: Duration = Duration::from_secs(15);

/// The connection to systemd, where there is one.
#[derive(Debug)]
pub(super) struct Systemd {
    messages: Option<mpsc::Sender<String>>,
    deliverer: Option<tokio::task::JoinHandle<()>>,
    watchdog: Option<Duration>,
    next_ping: Option<Time>,
    next_extension: Option<Time>,
    status: String,
    /// It was told that we are ready.
    told: bool,
}

impl Systemd {
    /// Takes NOTIFY_SOCKET and WATCHDOG_USEC from the environment. The service gets its own.
    pub(super) fn from_environment(now: Time) -> Self {
        let connection = std::env::var_os("NOTIFY_SOCKET").and_then(|address| match connect(&address) {
            Ok(socket) => {
                let (sender, receiver) = mpsc::channel(64);
                Some((sender, tokio::spawn(deliver(socket, receiver))))
            }
            Err(error) => {
                tracing::warn!("cannot reach systemd at NOTIFY_SOCKET={}: {error}", address.display());
                None
            }
        });
        let (messages, deliverer) = connection.unzip();
        let watchdog = watchdog().filter(|_| messages.is_some());
        let next_ping = watchdog.map(|_| now);
        Self { messages, deliverer, watchdog, next_ping, next_extension: None, status: String::new(), told: false }
    }

    /// Whether somebody waits to hear that the first start succeeded.
    pub(super) fn is_listening(&self) -> bool {
        self.messages.is_some()
    }

    /// Whether it has heard of this process that it is ready.
    pub(super) fn is_told(&self) -> bool {
        self.told
    }

    /// The service is ready, or an upgrade has its verdict.
    pub(super) fn ready(&mut self, status: &str) {
        self.told = true;
        self.status = status.to_owned();
        self.send(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// An upgrade begins.
    pub(super) fn reloading(&mut self, status: &str) {
        self.status = status.to_owned();
        let Ok(monotonic) = NotifyState::monotonic_usec_now() else { return };
        self.send(&[NotifyState::Reloading, monotonic, NotifyState::Status(status)]);
    }

    /// The supervisor is on its way out.
    pub(super) fn stopping(&mut self, status: &str) {
        self.status = status.to_owned();
        self.send(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// What `systemctl status` shows.
    pub(super) fn status(&mut self, status: &str) {
        // A state must never find the queue full of these.
        let room = self.messages.as_ref().is_some_and(|messages| messages.capacity() > messages.max_capacity() / 4);
        if self.status != status && room {
            self.status = status.to_owned();
            self.send(&[NotifyState::Status(status)]);
        }
    }

    /// When [`Self::tick`] wants to be called. `busy`: something is going on that may take long.
    pub(super) fn deadline(&mut self, now: Time, busy: bool) -> Option<Time> {
        self.next_extension = match self.next_extension {
            _ if !busy || self.messages.is_none() => None,
            Some(time) => Some(time),
            None => Some(now),
        };
        self.next_ping.into_iter().chain(self.next_extension).min()
    }

    /// Sends what is due. True when more time was asked for: a good moment to say what goes on.
    pub(super) fn tick(&mut self, now: Time) -> bool {
        if let (Some(at), Some(interval)) = (self.next_ping, self.watchdog)
            && at <= now
        {
            self.next_ping = Some(now.after(interval));
            self.send(&[NotifyState::Watchdog]);
        }
        if self.next_extension.is_none_or(|at| at > now) {
            return false;
        }
        self.next_extension = Some(now.after(EXTEND_EVERY));
        self.send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(EXTEND_BY.as_micros()).unwrap_or(u32::MAX))]);
        true
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        let Some(messages) = &self.messages else { return };
        let message: String = states.iter().map(|state| format!("{state}\n")).collect();
        // systemd has not read the last 64: it has worse troubles than missing this one.
        let _ = messages.try_send(message);
    }

    /// Ends the connection and waits until everything is delivered, at most `patience`.
    pub(super) async fn finish(&mut self, patience: Duration) {
        self.messages = None;
        if let Some(deliverer) = self.deliverer.take() {
            // Nothing can be done about a systemd that does not listen.
            let _ = tokio::time::timeout(patience, deliverer).await;
        }
    }
}

async fn deliver(socket: UnixDatagram, mut messages: mpsc::Receiver<String>) {
    let mut hears = true;
    while let Some(message) = messages.recv().await {
        // A datagram socket of systemd that is full becomes writable again; any other error is beyond mending here.
        let sent = socket.send(message.as_bytes()).await;
        if let (true, Err(error)) = (hears, &sent) {
            tracing::warn!("nobody hears at NOTIFY_SOCKET, neither systemd nor a keeper: {}", describe(error));
        }
        hears = sent.is_ok();
    }
}

fn connect(address: &std::ffi::OsStr) -> io::Result<UnixDatagram> {
    UnixDatagram::from_std(NotifyClient::connect(address)?.into())
}

/// Half of the interval at which systemd expects to hear from us (sd_watchdog_enabled(3)).
fn watchdog() -> Option<Duration> {
    let pid: Option<u32> = std::env::var("WATCHDOG_PID").ok().and_then(|pid| pid.parse().ok());
    if pid.is_some_and(|pid| pid != std::process::id()) {
        return None;
    }
    let interval: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    Some(Duration::from_micros(interval / 2)).filter(|half| !half.is_zero())
}
