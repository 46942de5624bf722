//! What instances say at their notify sockets, and whether it counts.

use std::io;
use std::os::fd::OwnedFd;

use super::Supervisor;
use super::ledger::News;
use crate::core::event::InstanceEvent;
use crate::core::{Event, InstanceId};
use crate::notify::{self, Message};
use crate::sys::notify::{Datagram, Sender};
use crate::sys::{Pid, proc};

/// Datagrams read from one notify socket before others have their turn.
pub(super) const BATCH: usize = 64;
/// Datagrams read before something is decided without hearing more: no queue holds so many (net.unix.max_dgram_qlen).
pub(super) const LAST_WORDS: usize = 16 * BATCH;

impl Supervisor {
    /// Reads what was said until now: before a deadline is held against anybody.
    pub(super) fn catch_up(&mut self) {
        let ids: Vec<InstanceId> = self.processes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.catch_up_with(id));
    }

    pub(super) fn catch_up_with(&mut self, id: InstanceId) {
        self.read_notify(id, LAST_WORDS);
    }

    pub(super) fn read_notify(&mut self, id: InstanceId, limit: usize) {
        // One byte more than may come, so that what is too long is seen to be.
        let mut buffer = [0; notify::MAX_DATAGRAM + 1];
        for _ in 0..limit {
            let Some(process) = self.processes.get(&id) else { return };
            match process.notify.it.peek(&mut buffer) {
                Ok(Some(datagram)) => {
                    self.on_datagram(id, &buffer, datagram);
                    // Only now, when what it changed is written down: a successor would read it again.
                    if let Some(Err(error)) = self.processes.get(&id).map(|process| process.notify.it.take()) {
                        tracing::warn!(service = self.name_of(id.service), "cannot read a notify socket: {error}");
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(service = self.name_of(id.service), "cannot read a notify socket: {error}");
                    return;
                }
            }
        }
    }

    fn on_datagram(&mut self, id: InstanceId, buffer: &[u8], mut datagram: Datagram) {
        if datagram.truncated || datagram.control_truncated {
            return self.ignored(id, "a notify message", "it is too large");
        }
        if let Err(why) = self.authenticate(id, datagram.sender.as_ref()) {
            return self.ignored(id, "a notify message", &why);
        }
        let messages = match notify::parse(&buffer[..datagram.len]) {
            Ok(messages) => messages,
            Err(error) => return self.ignored(id, "a notify message", &error.to_string()),
        };
        self.assume_launched(id);
        for rejected in &messages.rejected {
            self.ignored(id, "a notify message", &rejected.to_string());
        }
        for message in messages.messages {
            self.on_message(id, message, &mut datagram.fds);
            self.act();
        }
        // Descriptors that nobody took are closed here; for BARRIER=1 that is the answer.
        drop(datagram);
    }

    pub(super) fn ignored(&mut self, id: InstanceId, what: &str, why: &str) {
        self.tell_ignored();
        let now = self.now();
        if self.processes.get_mut(&id).is_none_or(|process| process.ignored.is_to_be_said(now, why)) {
            let (service, generation) = (self.name_of(id.service), id.generation.0);
            tracing::warn!(service, generation, "{what} was ignored: {why}");
        }
    }

    /// Says how many messages more were ignored, where that is due.
    pub(super) fn tell_ignored(&mut self) {
        let now = self.now();
        let turn = |process: &mut super::process::Process| Some((process.id, process.ignored.turn(now)?));
        let due: Vec<(InstanceId, u64)> = self.processes.values_mut().filter_map(turn).collect();
        for (id, more) in due {
            self.tell_more_ignored(id, more);
        }
    }

    pub(super) fn tell_more_ignored(&self, id: InstanceId, more: u64) {
        let (service, generation) = (self.name_of(id.service), id.generation.0);
        tracing::warn!(service, generation, "{more} more of its notify messages were ignored");
    }

    /// Whether a message counts: credentials of root, the supervisor or the service's user, and a sender that belongs
    /// to the instance where it still exists.
    fn authenticate(&self, id: InstanceId, sender: Option<&Sender>) -> Result<(), String> {
        let Some(process) = self.processes.get(&id) else { return Err("its instance is gone".into()) };
        let sender = sender.ok_or("it carries no credentials")?;
        let own = nix::unistd::geteuid().as_raw();
        let service = process.release.identity.as_ref().map_or(own, |identity| identity.uid);
        if sender.uid != 0 && sender.uid != own && sender.uid != service {
            return Err(format!("it comes from user {}", sender.uid));
        }
        let Some(pid) = sender.pid else { return Ok(()) };
        let gone = match &sender.pidfd {
            Some(pidfd) => pidfd.has_exited(),
            None => !proc::exists(pid),
        };
        if gone || process.owns(pid) { Ok(()) } else { Err(format!("process {pid} is not one of this instance's")) }
    }

    fn on_message(&mut self, id: InstanceId, message: Message, fds: &mut Vec<OwnedFd>) {
        match message {
            Message::Ready => {
                let by_notify = self
                    .processes
                    .get(&id)
                    .is_some_and(|process| matches!(process.release.service.ready.by, crate::config::ReadyBy::Notify));
                if by_notify {
                    self.tell_core_of(id, InstanceEvent::Ready);
                }
            }
            Message::Stopping => self.tell_core_of(id, InstanceEvent::Stopping),
            Message::Status(text) => {
                let text = Some(text).filter(|text| !text.is_empty());
                if let Some(process) = self.processes.get_mut(&id)
                    && process.status != text
                {
                    process.status.clone_from(&text);
                    self.tell_status(id, text.as_deref().unwrap_or_default());
                }
            }
            Message::ExtendTimeout(by) => self.tell_core_of(id, InstanceEvent::Extend(by)),
            // Frequent, so it must stay cheap: it moves a deadline, and nothing is told or logged. Nor is it recorded: a
            // successor gives everybody a whole interval anew.
            Message::Watchdog => {
                let now = self.now();
                self.core.handle(now, Event::Instance(id, InstanceEvent::KeepAlive));
            }
            Message::WatchdogUsec(span) => self.tell_core_of(id, InstanceEvent::WatchdogInterval(span)),
            Message::WatchdogTrigger => self.tell_core_of(id, InstanceEvent::WatchdogTrigger),
            Message::MainPid(pid) => self.follow(id, pid),
            // Answered by closing its descriptor, once everything before it has been taken.
            Message::Barrier => {}
            // Known, and nothing follows from them here.
            Message::Reloading { .. } | Message::Errno(_) | Message::BusError(_) | Message::ExitStatus(_) => {}
            Message::FdStore { name, poll } => self.store(id, &name, poll, std::mem::take(fds)),
            Message::FdStoreRemove { name } => self.store_remove(id, &name),
        }
    }

    fn follow(&mut self, id: InstanceId, pid: i32) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let pid = Pid::from_raw(pid).filter(|pid| *pid != Pid::own());
        let followed = match pid {
            Some(pid) => process.follow(pid, &mut self.poller),
            None => Err(io::Error::other("not a process that can be followed")),
        };
        if let Err(error) = followed {
            self.ignored(id, "MAINPID=", &error.to_string());
        }
    }

    /// A service says what it is doing: part of the story while its generation is being upgraded or drained.
    pub(super) fn tell_status(&mut self, id: InstanceId, text: &str) {
        let now = self.now();
        let generation = self.core.services().get(&id.service).and_then(|s| s.generations.get(&id.generation));
        let Some(upgrade) = generation.and_then(|generation| generation.upgrade) else { return };
        let news = News { event: "status", message: text.to_owned(), generation: Some(id.generation) };
        self.ledger.tell(upgrade, now, news);
    }

    // ---- listeners ------------------------------------------------------------------------------------------------
}
