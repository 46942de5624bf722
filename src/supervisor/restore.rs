//! What somebody has removed from the runtime directory is made anew: the control socket, the directory of the notify
//! sockets, the lock.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::survival::{Name, Part};
use super::{StartError, Supervisor};
use crate::control::server;
use crate::core::{InstanceId, Time};

/// What the watch of paths knows all of it by. Listeners have small numbers.
pub(super) const TOKEN: u64 = u64::MAX;
/// How long after the first sign it is looked at: whoever removes a whole directory has done so by then.
const SETTLES: Duration = Duration::from_millis(100);
/// How long until what could not be made anew is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// The control socket, served.
#[derive(Debug)]
pub(super) struct Control {
    pub(super) socket: OwnedFd,
    server: JoinHandle<()>,
}

impl Supervisor {
    /// Serves the control socket on this listener.
    pub(super) fn serve_control(
        listener: std::os::unix::net::UnixListener,
        access: tokio::sync::watch::Receiver<server::Access>,
        commands: tokio::sync::mpsc::Sender<server::Command>,
    ) -> Result<Control, StartError> {
        let unserved = |error: std::io::Error| StartError::internal("cannot serve the control socket", &error);
        let socket = listener.try_clone().map_err(unserved)?.into();
        let listener = tokio::net::UnixListener::from_std(listener).map_err(unserved)?;
        Ok(Control { socket, server: tokio::spawn(server::serve(listener, access, commands)) })
    }

    /// From now on clients wait in the backlog; whoever is connected is answered still.
    pub(super) fn stop_accepting(&self) {
        self.control.server.abort();
    }

    /// Takes clients again.
    pub(super) fn accept_again(&mut self) -> Result<(), StartError> {
        let listener = self.control.socket.try_clone();
        let listener = listener.map_err(|error| StartError::internal("cannot serve the control socket", &error))?;
        self.control = Self::serve_control(listener.into(), self.access.subscribe(), self.commands.clone())?;
        Ok(())
    }

    /// Watches what is there now. The same directory stays watched: nothing that happens meanwhile is missed.
    pub(super) fn watch_directory(&mut self) {
        self.runtime_directory.mark();
        let path = self.runtime_directory.path();
        if let Err(error) = self.paths.add_directory(path, TOKEN) {
            tracing::warn!("cannot watch {}: {error}", path.display());
        }
    }

    /// Something may have been removed.
    pub(super) fn on_directory(&mut self) {
        let now = self.now();
        self.restore_at.get_or_insert(now.after(SETTLES));
    }

    /// Looks, if it is time, and makes anew what is missing.
    pub(super) fn restore_directory(&mut self) {
        let now = self.now();
        if self.restore_at.is_none_or(|at| at > now) {
            return;
        }
        self.restore_at = None;
        if let Err(error) = self.restore(now) {
            tracing::error!("what was removed cannot be made anew: {error}");
            self.restore_at = Some(now.after(AGAIN));
        }
        self.watch_directory();
    }

    fn restore(&mut self, now: Time) -> Result<(), StartError> {
        let path = self.runtime_directory.path().display().to_string();
        if self.runtime_directory.restore()? {
            tracing::warn!("{path} was removed, or a part of it: it is made anew");
        }
        if self.runtime_directory.has_lost_control() {
            let listener = self.runtime_directory.listen()?;
            let control = Self::serve_control(listener, self.access.subscribe(), self.commands.clone())?;
            // Whoever is connected is answered still.
            std::mem::replace(&mut self.control, control).server.abort();
            self.survival.outdate(Name::Control);
            tracing::warn!("{path}/control.sock was removed: it is bound anew");
        }
        let lost = |process: &&super::process::Process| !process.lingering && !process.notify.it.path().exists();
        let lost: Vec<InstanceId> = self.processes.values().filter(lost).map(|process| process.id).collect();
        for id in lost {
            self.catch_up_with(id);
            let Some(process) = self.processes.get_mut(&id) else { continue };
            match process.rebind_notify(&mut self.poller) {
                Ok(()) => self.survival.outdate(Name::Process(process.token, Part::Notify)),
                Err(error) => {
                    tracing::error!("{} cannot be bound anew: {error}", process.notify.it.path().display());
                    self.restore_at = Some(now.after(AGAIN));
                }
            }
        }
        self.act();
        Ok(())
    }
}
