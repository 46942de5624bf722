//! What a successor is told of an instance, and how it takes it over.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::readiness::Probe;
use super::streams::prefixes;
use super::{Ground, Process, Stream, Tail, Watched};
use crate::config::ReadyBy;
use crate::core::Slot;
use crate::supervisor::ignored::Ignored;
use crate::supervisor::poller::Source;
use crate::supervisor::release::Release;
use crate::supervisor::survival::{Name, Part, ProcessEntry};
use crate::supervisor::tokens;
use crate::sys::Pid;
use crate::sys::notify::NotifySocket;
use crate::sys::pidfd::PidFd;
use crate::sys::proc;
use crate::sys::shim::Shim;
use crate::sys::socket::Bound;

impl Process {
    /// Every descriptor that a successor needs.
    pub(in crate::supervisor) fn holdings<'a>(&'a self, held: &mut Vec<(Name, BorrowedFd<'a>)>) {
        let mut hold = |part, fd| held.push((Name::Process(self.token, part), fd));
        hold(Part::Pid(self.pid), self.main.it.as_fd());
        hold(Part::Notify, self.notify.it.as_fd());
        let optional = [
            (Part::Pid(self.leader_pid), self.leader.as_ref().map(|leader| leader.it.as_fd())),
            (Part::Stdout, self.stdout.as_ref().map(|stream| stream.it.as_fd())),
            (Part::Stderr, self.stderr.as_ref().map(|stream| stream.it.as_fd())),
            (Part::Ready, self.ready_fd.as_ref().map(|fd| fd.it.as_fd())),
            (Part::Shim, self.shim.as_ref().map(|shim| shim.it.as_fd())),
            (Part::Private, self.private.as_ref().map(|private| private.fd.as_fd())),
        ];
        for (part, fd) in optional {
            if let Some(fd) = fd {
                hold(part, fd);
            }
        }
    }

    /// The rest of what it needs.
    pub(in crate::supervisor) fn entry(&self) -> ProcessEntry<'_> {
        ProcessEntry {
            id: self.id,
            token: self.token,
            pid: self.pid,
            leader: self.leader_pid,
            leader_reaped: self.leader_reaped,
            launched: self.is_launched(),
            notify: self.notify.it.path().to_owned(),
            cgroup: self.cgroup.as_ref().map(Cow::Borrowed),
            tail: self.tail.0.iter().map(|line| line.as_str().into()).collect(),
            output_elsewhere: self.output_elsewhere.as_deref().map(Cow::Borrowed),
            status: self.status.as_deref().map(Cow::Borrowed),
            notes: self.notes.iter().map(|note| note.as_str().into()).collect(),
            lingering: self.lingering,
            orphaned: !self.is_ours,
        }
    }

    /// Takes an instance over. `was_us`: the predecessor was this very process, whose children are still ours.
    ///
    /// # Errors
    /// When its main process cannot be found any more.
    pub(in crate::supervisor) fn adopt(
        entry: ProcessEntry<'_>,
        slot: Slot,
        was_us: bool,
        release: Arc<Release>,
        fds: &mut HashMap<Name, OwnedFd>,
        ground: &mut Ground<'_>,
    ) -> io::Result<Self> {
        let ProcessEntry { id, token, pid, leader, .. } = entry;
        tokens::was_given_out(token);
        let mut take = |part| fds.remove(&Name::Process(token, part));
        let main = match take(Part::Pid(pid)) {
            Some(fd) => PidFd::from(fd),
            None => found_again(pid, &entry)?,
        };
        let leader_fd = if leader == pid { None } else { take(Part::Pid(leader)).map(PidFd::from) };
        let notify = match take(Part::Notify) {
            Some(fd) => NotifySocket::adopt(fd, entry.notify)?,
            None => NotifySocket::bind(&entry.notify)?,
        };
        let name = format!("{}@{}.{}", ground.service, id.generation, id.number);
        let (out, err) = prefixes(&name, ground.terminal);
        let stdout = take(Part::Stdout).map(|fd| Stream::adopt(fd, ground.stdout.clone(), out));
        let stderr = take(Part::Stderr).map(|fd| Stream::adopt(fd, ground.stderr.clone(), err));
        let ready_fd = take(Part::Ready).map(File::from);
        let private = take(Part::Private).and_then(|fd| Bound::adopt(fd, true).ok());
        let shim = match take(Part::Shim) {
            Some(socket) => Some(Shim::adopt(pid, PidFd::from(main.as_fd().try_clone_to_owned()?), socket)),
            None => None,
        };
        let probe = match &release.service.ready.by {
            ReadyBy::Exec { interval, .. } => Some(Probe { interval: *interval, due: None, running: None }),
            ReadyBy::Notify | ReadyBy::Fd(_) | ReadyBy::Alive(_) => None,
        };
        let mut notes: Vec<String> = entry.notes.into_iter().map(Cow::into_owned).collect();
        if private.is_none() && release.service.health.as_ref().is_some_and(|health| health.private().is_some()) {
            notes.push("its private listener was lost: its health is not checked".into());
        }
        let poller = &mut *ground.poller;
        let mut watch =
            |stream: Option<Stream>, source| stream.map(|stream| Watched::new(stream, source, poller)).transpose();
        let stdout = watch(stdout, Source::Stdout(id))?;
        let stderr = watch(stderr, Source::Stderr(id))?;
        let main = Watched::new(main, Source::Exit(id), poller)?;
        if entry.lingering {
            // Its end has been told.
            poller.remove(&main.it, main.token);
        }
        Ok(Self {
            id,
            slot,
            token,
            is_ours: was_us && !entry.orphaned,
            release,
            notify: Watched::new(notify, Source::Notify(id), poller)?,
            shim: shim.map(|shim| Watched::new(shim, Source::Shim(id), poller)).transpose()?,
            told_to_go: true,
            main,
            pid,
            leader: leader_fd.map(|fd| Watched::new(fd, Source::LeaderExit(id), poller)).transpose()?,
            leader_pid: leader,
            leader_reaped: entry.leader_reaped,
            cgroup: entry.cgroup.map(Cow::into_owned),
            cgroup_events: None,
            stdout,
            stderr,
            tail: Tail(entry.tail.into_iter().map(Cow::into_owned).collect()),
            output_elsewhere: entry.output_elsewhere.map(Cow::into_owned),
            ready_fd: ready_fd.map(|fd| Watched::new(fd, Source::ReadyFd(id), poller)).transpose()?,
            probe,
            private: private.map(Arc::new),
            checkup: None,
            status: entry.status.map(Cow::into_owned),
            notes,
            ignored: Ignored::default(),
            lingering: entry.lingering,
            search_at: None,
        })
    }
}

/// A main process whose pidfd was lost: by its number, if it shows that it is the one.
fn found_again(pid: Pid, entry: &ProcessEntry<'_>) -> io::Result<PidFd> {
    let process = PidFd::open(pid)?;
    match proc::environ_has(pid, "NOTIFY_SOCKET", &entry.notify.to_string_lossy()) {
        Ok(true) => Ok(process),
        _ => Err(io::ErrorKind::NotFound.into()),
    }
}
