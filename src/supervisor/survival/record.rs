//! Writing down what a successor needs, before it can be needed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::document::{
    Document, ListenerEntry, Name, Owner, PendingEntry, ProcessEntry, ProgramEntry, ReleaseEntry, ServiceEntry,
    SocketEntry, StoredEntry, VERSION,
};
use super::memory::Memory;
use super::store::FdStore;
use crate::core::{InstanceId, Reason, Time};
use crate::supervisor::listeners::{Listener, Origin};
use crate::supervisor::process::Process;
use crate::supervisor::release::{Held, Release};
use crate::supervisor::rows::Slots;
use crate::supervisor::store::Stored;
use crate::supervisor::{Pending, Supervisor, inherited};
use crate::sys::Pid;
use crate::sys::socket::Bound;

/// How long until a store that did not listen is tried again.
const STORE_AGAIN: Duration = Duration::from_millis(20);
/// The same for one that is not there.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Descriptors that one more generation of one instance keeps, at most, without new listeners.
const PER_UPGRADE: usize = 16;
/// Descriptors that each further instance keeps, at most.
pub(in crate::supervisor) const PER_INSTANCE: usize = 8;
/// How long a process waits for it before it becomes its program all the same.
const PATIENCE: Duration = Duration::from_secs(1);
/// How much of it is kept between two documents.
const TEXT_KEPT: usize = 64 * 1024;

/// What is kept for a successor, and where.
#[derive(Debug)]
pub(crate) struct Survival {
    pub(crate) owner: Owner,
    /// `None` where there can be no successor but by `reexec`.
    pub(crate) store: Option<FdStore>,
    pub(crate) memory: Memory,
    /// The memory that the document is made in.
    text: Vec<u8>,
    /// The machine has changed since it was written down.
    pub(crate) stale: bool,
    /// The memory could not be written: said once.
    failed: bool,
    /// When the store is tried again.
    pub(crate) again_at: Option<Time>,
    /// Processes that are not to become their program before their pidfds are in the store, and since when.
    held_back: Vec<(InstanceId, Time)>,
}

impl Survival {
    pub(crate) fn new(owner: Owner, memory: Memory, store: Option<FdStore>) -> Self {
        Self {
            owner,
            store,
            memory,
            text: Vec::new(),
            stale: true,
            failed: false,
            again_at: None,
            held_back: Vec::new(),
        }
    }

    /// Another descriptor has this name now.
    pub(crate) fn outdate(&mut self, name: Name) {
        self.stale = true;
        if let Some(store) = &mut self.store {
            store.outdate(name);
        }
    }

    /// Whether the store has everything, where there is somebody who keeps it.
    pub(crate) fn is_complete(&self) -> bool {
        self.again_at.is_none() || self.store.as_ref().is_none_or(FdStore::is_unreachable)
    }

    /// Everything has ended: there is nothing to go on with.
    pub(crate) fn clear(&mut self) {
        if let Some(store) = &mut self.store {
            // Whatever stays is of processes that are gone, and goes with the unit.
            let _ = store.drop_others(&BTreeSet::new());
        }
    }

    /// Why no upgrade can begin: what it would hold, with so many descriptors beside those of one instance, does not fit
    /// into the store, which would drop it without a word.
    pub(crate) fn is_full(&self, beside: usize) -> Option<Reason> {
        self.lacks(PER_UPGRADE + beside, "an upgrade", "wait for old generations to end, or ").map(Reason::Resources)
    }

    /// The same of whatever wants to hold so many more. `wait`: what else would help.
    pub(crate) fn lacks(&self, wanted: usize, what: &str, wait: &str) -> Option<String> {
        let (limit, used) = self.store.as_ref()?.room();
        (used + wanted > limit).then(|| {
            format!(
                "{used} of at most {limit} descriptors are kept for a successor, and {what} wants {wanted} more: {wait}raise \
                 FileDescriptorStoreMax= and FDSTORE= (with --keeper: its limit on open files)"
            )
        })
    }

    /// How many descriptors services may still store: what an upgrade wants is not for them.
    pub(crate) fn room_to_store(&self) -> usize {
        let room = self.store.as_ref().map(FdStore::room);
        room.map_or(usize::MAX, |(limit, used)| limit.saturating_sub(used + PER_UPGRADE))
    }

    /// Whether a process may become its program: a successor would find it, or nobody is there who would start one.
    /// Otherwise it is held back.
    pub(crate) fn admits(&mut self, instance: InstanceId, now: Time) -> bool {
        let admitted = self.is_complete();
        if !admitted {
            self.held_back.push((instance, now));
        }
        admitted
    }

    /// Those that need not wait any longer: a store that does not listen is no reason not to serve.
    fn released(&mut self, complete: bool, now: Time) -> Vec<InstanceId> {
        let due = |since: Time| complete || since.after(PATIENCE) <= now;
        if !complete && self.held_back.iter().any(|(_, since)| due(*since)) {
            tracing::warn!("the fd store does not listen: should the supervisor die now, a process may be lost");
        }
        let (go, wait) = std::mem::take(&mut self.held_back).into_iter().partition(|(_, since)| due(*since));
        self.held_back = wait;
        let go: Vec<(InstanceId, Time)> = go;
        go.into_iter().map(|(instance, _)| instance).collect()
    }
}

impl Supervisor {
    /// Writes down how things stand, if somebody could need it and something has changed. Comes before each action.
    pub(in crate::supervisor) fn record(&mut self) {
        if self.survival.stale && self.survival.store.is_some() {
            self.survival.stale = false;
            self.write_down();
        }
    }

    /// Everything that is held by descriptor goes into the store before the document names it, and leaves it after.
    fn write_down(&mut self) {
        let mut store = self.survival.store.take();
        let dams = self.dams();
        let held = self.holdings(&dams);
        let mut complete = store.as_mut().is_none_or(|store| store.put(&held));
        let names = held.iter().map(|(name, _)| *name).collect();
        drop(held);
        let kept = store.as_ref().map(|store| store.of(&names)).unwrap_or_default();
        let written = self.write(kept, BTreeMap::new());
        if complete {
            complete = store.as_mut().is_none_or(|store| store.drop_others(&names));
        }
        if let Err(error) = &written
            && !std::mem::replace(&mut self.survival.failed, true)
        {
            tracing::error!("the state cannot be written down, so a successor would find an old one: {error}");
        }
        self.survival.failed = written.is_err();
        let again = if store.as_ref().is_some_and(FdStore::is_unreachable) { LOOK_AGAIN } else { STORE_AGAIN };
        self.survival.store = store;
        let now = self.now();
        self.survival.again_at = (!complete).then(|| now.after(again));
        for instance in self.survival.released(complete, now) {
            self.go(instance);
        }
    }

    /// Writes the document. `kept`, `handed`: see there.
    pub(in crate::supervisor) fn write(&mut self, kept: BTreeSet<Name>, handed: BTreeMap<Name, i32>) -> io::Result<()> {
        self.keep_probed();
        let mut text = std::mem::take(&mut self.survival.text);
        text.clear();
        serde_json::to_writer(&mut text, &self.document(kept, handed))?;
        let written = self.survival.memory.write(&text);
        text.shrink_to(TEXT_KEPT);
        self.survival.text = text;
        written
    }

    /// Writes the document elsewhere.
    pub(in crate::supervisor) fn write_to(&self, memory: &mut Memory, handed: BTreeMap<Name, i32>) -> io::Result<()> {
        memory.write(&serde_json::to_vec(&self.document(BTreeSet::new(), handed))?)
    }

    /// Every descriptor that a successor needs, each under its own name.
    /// `dams`: [`Self::dams`].
    pub(in crate::supervisor) fn holdings<'a>(&'a self, dams: &'a [(u64, Arc<Bound>)]) -> Vec<(Name, BorrowedFd<'a>)> {
        let mut held = vec![
            (Name::State, self.survival.memory.as_fd()),
            (Name::Control, self.control.socket.as_fd()),
            (Name::Lock, self.runtime_directory.lock()),
        ];
        let of_hooks = self.services.values().flat_map(|service| service.hooks.releases()).map(|(_, release)| release);
        let executables = self.releases.values().chain(of_hooks).flat_map(|release| release.executables());
        held.extend(executables.map(|held| (Name::Program(held.token), held.program.held.as_fd())));
        held.extend(self.watched.values().map(|socket| (Name::Socket(socket.token), socket.bound.fd.as_fd())));
        held.extend(dams.iter().map(|(token, dam)| (Name::Socket(*token), dam.fd.as_fd())));
        for process in self.processes.values() {
            process.holdings(&mut held);
        }
        for (id, service) in &self.services {
            held.extend(service.hooks.holding());
            held.extend(service.store.iter().map(|stored| (Name::Stored(*id, stored.id), stored.fd.as_fd())));
        }
        held.sort_unstable_by_key(|(name, _)| *name);
        held.dedup_by_key(|(name, _)| *name);
        held
    }

    /// A process of a predecessor that is not known to have become its program is not known to a successor either.
    fn entry<'a>(&self, process: &'a Process) -> ProcessEntry<'a> {
        let mut entry = process.entry();
        entry.launched &= !self.unsettled.contains(&process.id);
        entry
    }

    /// All that a successor needs to know.
    fn document(&self, kept: BTreeSet<Name>, handed: BTreeMap<Name, i32>) -> Document<'_> {
        // They are in the entries of their rows.
        let slots: std::collections::HashSet<u64> =
            self.rows().flat_map(Slots::others).map(|(token, _)| token).collect();
        Document {
            version: VERSION,
            owner: self.survival.owner.clone(),
            pid: Pid::own(),
            started: self.started,
            incarnation: self.incarnation,
            nofile: self.surroundings.nofile,
            runtime_directory: self.runtime_directory.path().to_owned(),
            runtime_directory_is_ours: self.runtime_directory.is_ours(),
            core: Cow::Borrowed(&self.core),
            services: self
                .services
                .iter()
                .map(|(id, service)| ServiceEntry {
                    id: *id,
                    name: service.name.as_str().into(),
                    listeners: service.listeners.iter().map(ListenerEntry::of).collect(),
                    owes_restart: service.owes_restart,
                    last_output: service.last_output.as_ref().map(|(id, output)| (*id, Cow::Borrowed(output))),
                    stored: service.store.iter().map(StoredEntry::of).collect(),
                    next_stored: service.store.next(),
                    hooks: service.hooks.entries(|release| self.releases.contains_key(&release)),
                    hook_process: service.hooks.process(),
                })
                .collect(),
            sockets: self
                .watched
                .values()
                .filter(|socket| !slots.contains(&socket.token))
                .map(|socket| SocketEntry {
                    token: socket.token,
                    asked: Cow::Borrowed(&socket.asked),
                    inherited: socket.origin == Origin::Inherited,
                    row: socket.slots.as_ref().map(|slots| Cow::Owned(slots.entry())),
                })
                .collect(),
            releases: self
                .services
                .values()
                .flat_map(|service| service.hooks.releases())
                .filter(|(id, _)| !self.releases.contains_key(id))
                .chain(self.releases.iter().map(|(id, release)| (*id, release)))
                .filter_map(|(id, release)| Some((id, Cow::Borrowed(release.written()?))))
                .collect(),
            next_release: self.next_release,
            pending: self.pending.iter().map(|(id, pending)| (*id, PendingEntry::of(pending))).collect(),
            processes: self.processes.values().map(|process| self.entry(process)).collect(),
            access: self.access.borrow().clone(),
            metrics: self.exporter.address(),
            ledger: self.ledger.written(),
            stopping: self.stopping,
            atomic: self.atomic,
            unclaimed: inherited::lock(&self.inherited).passed().iter().map(|passed| passed.name.clone()).collect(),
            kept,
            handed,
        }
    }
}

impl<'a> ListenerEntry<'a> {
    fn of(listener: &'a Listener) -> Self {
        Self { name: listener.name.as_str().into(), socket: listener.socket.token }
    }
}

impl<'a> StoredEntry<'a> {
    pub(in crate::supervisor) fn of(stored: &'a Stored) -> Self {
        Self {
            id: stored.id,
            name: stored.name.as_str().into(),
            poll: stored.poll,
            staged_by: stored.staged_by,
            removed_by: stored.removed_by.as_slice().into(),
        }
    }
}

impl<'a> PendingEntry<'a> {
    fn of(pending: &'a Pending) -> Self {
        let changes = pending.changes.iter();
        Self {
            release: pending.release,
            access: pending.access.as_ref().map(Cow::Borrowed),
            order: pending.order.as_ref().map(Cow::Borrowed),
            changes: changes
                .map(|change| (ListenerEntry::of(&change.listener), Cow::Borrowed(&change.options)))
                .collect(),
        }
    }
}

impl<'a> ReleaseEntry<'a> {
    pub(crate) fn of(release: &'a Release) -> Self {
        Self {
            service: Cow::Borrowed(&release.service),
            program: ProgramEntry::of(&release.program),
            probe: release.probe.as_deref().map(ProgramEntry::of),
            check: release.check.as_deref().map(ProgramEntry::of),
            hooks: release.hooks.iter().map(|(hook, held)| (*hook, programs(held))).collect(),
            argv: release.argv.clone(),
            environment: release.environment.clone(),
            directory: release.directory.clone(),
            identity: release.identity.as_ref().map(Cow::Borrowed),
            listeners: release.listeners.iter().map(ListenerEntry::of).collect(),
        }
    }
}

fn programs(held: &[Arc<Held>]) -> Vec<ProgramEntry> {
    held.iter().map(|held| ProgramEntry::of(held)).collect()
}

impl ProgramEntry {
    fn of(held: &Held) -> Self {
        let program = &held.program;
        Self {
            token: held.token,
            path: program.path.clone(),
            real: program.real.clone(),
            identity: program.identity,
            interpreter: program.interpreter.clone(),
        }
    }
}
