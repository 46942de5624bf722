//! Taking over from a predecessor: what it left, whether it is ours to go on with, and the supervisor made of it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use super::document::{
    Document, ListenerEntry, Name, Owner, PREFIX, PendingEntry, ProgramEntry, ReleaseEntry, SocketEntry,
};
use super::memory::Memory;
use crate::config::Log;
use crate::core::event::Hook;
use crate::supervisor::listeners::{Change, Listener, Listeners, Origin, Socket};
use crate::supervisor::release::{self, Held, Release};
use crate::supervisor::rows::Slots;
use crate::supervisor::{Pending, tokens};
use crate::sys::Pid;
use crate::sys::shim::Program;
use crate::sys::socket::{Bound, Endpoint, Options};
use crate::sys::systemd;

/// The variable with the number of the state's descriptor, for a successor in the same process.
pub(crate) const STATE_FD: &str = "ZDSUP_STATE_FD";

/// What was passed to this process as it was started.
#[derive(Debug)]
pub struct Passed {
    /// Descriptors of a predecessor.
    left: HashMap<Name, OwnedFd>,
    /// The predecessor was this very process, and hands them over itself.
    by_hand: bool,
    /// Sockets of whoever activated us.
    pub(crate) sockets: Vec<(Option<String>, OwnedFd)>,
}

/// A predecessor's state, and what it held.
#[derive(Debug)]
pub(crate) struct Predecessor {
    pub(crate) document: Document<'static>,
    pub(crate) memory: Memory,
    pub(crate) fds: HashMap<Name, OwnedFd>,
    /// It was this very process: its children are ours.
    pub(crate) was_us: bool,
    /// How many successors in a row have died at once, before this one.
    pub(crate) deaths: u32,
}

/// What there is to go on with.
#[derive(Debug)]
pub(crate) enum Adoption {
    /// Nothing: a first start.
    Nothing,
    /// All of it.
    All(Box<Predecessor>),
    /// There is something, and it cannot be gone on with.
    Impossible(Impossible),
}

/// A state that cannot be gone on with.
#[derive(Debug)]
pub(crate) struct Impossible {
    /// Why.
    pub(crate) reason: String,
    /// It is somebody else's, or of another time: what it describes does not concern us. Otherwise it describes what
    /// runs, and must not be lost.
    pub(crate) foreign: bool,
    /// What was held.
    pub(crate) fds: HashMap<Name, OwnedFd>,
    /// The state itself, where there is one and it could be opened, and what is in it.
    pub(crate) memory: Option<Memory>,
    pub(crate) text: Vec<u8>,
}

/// So many successors in a row have died at once: the next one does not look into the state.
const HOLDING: u32 = 4;

impl Passed {
    /// Takes what the environment names.
    ///
    /// # Errors
    /// When it names what is not open, or what is no socket of a kind that we know.
    pub fn take() -> io::Result<Self> {
        let mut passed = Self { left: HashMap::new(), by_hand: false, sockets: Vec::new() };
        for (name, fd) in systemd::inherited_sockets()? {
            match name.as_deref().filter(|name| name.starts_with(PREFIX)).map(str::parse::<Name>) {
                Some(Ok(name)) => {
                    // Also by one that died before it could write that down.
                    if let Name::Socket(token) | Name::Program(token) | Name::Process(token, _) = name {
                        tokens::was_given_out(token);
                    }
                    passed.left.insert(name, fd);
                }
                // Of a version that we do not know: with it goes what it was for.
                Some(Err(_)) => drop(fd),
                None => passed.sockets.push((name, fd)),
            }
        }
        if let Some(number) = std::env::var(STATE_FD).ok().and_then(|number| number.parse().ok()) {
            passed.left.insert(Name::State, systemd::handed(number)?);
            passed.by_hand = true;
        }
        Ok(passed)
    }

    /// Whether a predecessor left its state.
    #[must_use]
    pub fn has_state(&self) -> bool {
        self.left.contains_key(&Name::State)
    }

    /// What there is to go on with, for the supervisor of this name.
    pub(crate) fn adoption(&mut self, name: &str) -> Adoption {
        let mut fds = std::mem::take(&mut self.left);
        let impossible = |reason: String, foreign, fds, memory, text| {
            Adoption::Impossible(Impossible { reason, foreign, fds, memory, text })
        };
        let Some(state) = fds.remove(&Name::State) else {
            if fds.is_empty() {
                return Adoption::Nothing;
            }
            let reason = "descriptors of a supervisor were passed without its state".to_owned();
            return impossible(reason, true, fds, None, Vec::new());
        };
        let (memory, text) = match Memory::open(state) {
            Ok(opened) => opened,
            Err(error) => {
                let reason = format!("the state that a predecessor left cannot be read: {error}");
                return impossible(reason, false, fds, None, Vec::new());
            }
        };
        let deaths = if self.by_hand { 0 } else { memory.deaths() };
        if deaths >= HOLDING {
            let reason = format!("the supervisor died {deaths} times in a row as it took over");
            return impossible(reason, false, fds, Some(memory), text);
        }
        // Should we die at what follows, the next one knows.
        if let Err(error) = memory.set_deaths(deaths + 1) {
            tracing::warn!("the state cannot be written down: {error}");
        }
        let document = match Document::read(&text) {
            Ok(document) => document,
            Err(error) => {
                let reason = format!("the state that a predecessor left cannot be used: {error}");
                return impossible(reason, false, fds, Some(memory), text);
            }
        };
        let ours = Owner::this(name);
        if document.owner != ours {
            let reason = foreign(&document.owner, &ours);
            return impossible(reason, true, fds, Some(memory), text);
        }
        if !self.by_hand
            && let Some(lost) = lost(&document, &fds)
        {
            tracing::warn!("{lost}");
        }
        // Numbers are of the process that wrote them down.
        let was_us = self.by_hand && document.pid == Pid::own();
        for (name, number) in document.handed.iter().filter(|(name, _)| was_us && **name != Name::State) {
            match systemd::handed(*number) {
                Ok(fd) => drop(fds.insert(*name, fd)),
                Err(error) => tracing::warn!("{name} was not handed over: {error}"),
            }
        }
        Adoption::All(Box::new(Predecessor { document, memory, fds, was_us, deaths }))
    }
}

impl Predecessor {
    /// Sockets that it had not claimed: those that were passed once more, or that it hands over.
    pub(crate) fn unclaimed(&mut self, passed: Vec<(Option<String>, OwnedFd)>) -> Vec<(Option<String>, OwnedFd)> {
        let claimed = self.fds.iter().filter(|(name, _)| matches!(name, Name::Socket(_)));
        let claimed: Vec<Endpoint> = claimed.filter_map(|(_, fd)| Endpoint::of(fd.as_fd()).ok()).collect();
        let is_claimed = |fd: &OwnedFd| Endpoint::of(fd.as_fd()).is_ok_and(|endpoint| claimed.contains(&endpoint));
        let names = std::mem::take(&mut self.document.unclaimed).into_iter().enumerate();
        let handed = names.filter_map(|(place, name)| Some((name, self.fds.remove(&Name::Unclaimed(place))?)));
        passed.into_iter().filter(|(_, fd)| !is_claimed(fd)).chain(handed.collect::<Vec<_>>()).collect()
    }
}

/// How many descriptors that were lost are named.
const NAMED: usize = 16;

/// What the fd store was given and has not passed on: a store that is full drops without a word.
fn lost(document: &Document<'_>, fds: &HashMap<Name, OwnedFd>) -> Option<String> {
    let lost = || document.kept.iter().filter(|name| **name != Name::State && !fds.contains_key(name));
    let count = lost().count();
    let called = |name: &Name| {
        let Name::Process(token, _) = name else { return name.to_string() };
        let id = document.processes.iter().find(|process| process.token == *token).map(|process| process.id);
        let service = document.services.iter().find(|service| id.is_some_and(|id| id.service == service.id));
        match id.zip(service) {
            Some((id, service)) => format!("{name} (of {}@{}.{})", service.name, id.generation, id.number),
            None => name.to_string(),
        }
    };
    let mut names: Vec<String> = lost().take(NAMED).map(called).collect();
    if count > NAMED {
        names.push(format!("{} more", count - NAMED));
    }
    (count > 0).then(|| {
        format!(
            "{count} of {} descriptors were not kept for this supervisor, which goes on without them: {}; raise \
             FileDescriptorStoreMax= to what FDSTORE= says (with --keeper: its limit on open files)",
            document.kept.len(),
            names.join(", ")
        )
    })
}

fn foreign(theirs: &Owner, ours: &Owner) -> String {
    let differs = if theirs.boot != ours.boot {
        "it is of another boot".to_owned()
    } else if theirs.uid != ours.uid {
        format!("it is of user {}, and this is user {}", theirs.uid, ours.uid)
    } else {
        format!("it is of supervisor {}, and this is {}", theirs.name, ours.name)
    };
    format!("the state that was passed is not ours: {differs}")
}

/// The listening sockets among what was held, to be used again by their addresses.
pub(crate) fn listeners_among(fds: HashMap<Name, OwnedFd>) -> Vec<OwnedFd> {
    let socket = |(name, fd)| matches!(name, Name::Socket(_)).then_some(fd);
    fds.into_iter().filter_map(socket).collect()
}

/// Every name that something was left under: what the store holds.
pub(crate) fn names(fds: &HashMap<Name, OwnedFd>) -> BTreeSet<Name> {
    fds.keys().copied().chain([Name::State]).filter(|name| name.is_stored()).collect()
}

/// Sockets by their tokens.
#[derive(Debug, Default)]
pub(crate) struct Sockets(HashMap<u64, Arc<Socket>>);

impl Sockets {
    /// Takes them over; says of which that was not possible.
    pub(crate) fn adopt(entries: Vec<SocketEntry<'_>>, fds: &mut HashMap<Name, OwnedFd>) -> Self {
        let mut sockets = HashMap::new();
        for entry in entries {
            tokens::was_given_out(entry.token);
            if let Some(row) = &entry.row {
                let origin = if entry.inherited { Origin::Inherited } else { Origin::Bound };
                match Slots::adopt(&entry.asked, row, origin, |token| fds.remove(&Name::Socket(token))) {
                    Ok(socket) => {
                        sockets.insert(entry.token, socket);
                    }
                    Err(error) => tracing::error!("listener {} cannot be taken over: {error}", entry.asked),
                }
                continue;
            }
            let Some(fd) = fds.remove(&Name::Socket(entry.token)) else {
                tracing::error!("listener {} was lost: it is bound anew at the next reload", entry.asked);
                continue;
            };
            let origin = if entry.inherited { Origin::Inherited } else { Origin::Bound };
            match Bound::adopt(fd, origin == Origin::Bound) {
                Ok(bound) => {
                    let socket = Socket::with_token(entry.token, entry.asked.into_owned(), bound, origin);
                    sockets.insert(entry.token, socket);
                }
                Err(error) => tracing::error!("listener {} cannot be taken over: {error}", entry.asked),
            }
        }
        Self(sockets)
    }

    /// The listeners of a service or a release.
    pub(crate) fn listeners(&self, entries: Vec<ListenerEntry<'_>>) -> Listeners {
        entries.into_iter().filter_map(|entry| self.listener(entry)).collect()
    }

    fn listener(&self, entry: ListenerEntry<'_>) -> Option<Listener> {
        let socket = self.0.get(&entry.socket)?;
        Some(Listener { name: entry.name.into_owned(), socket: Arc::clone(socket) })
    }

    /// What becomes of a release with the verdict of its upgrade.
    pub(crate) fn pending(&self, entry: PendingEntry<'_>) -> Pending {
        let change = |(listener, options): (ListenerEntry<'_>, Cow<'_, Options>)| {
            Some(Change { listener: self.listener(listener)?, options: options.into_owned() })
        };
        Pending {
            release: entry.release,
            access: entry.access.map(Cow::into_owned),
            metrics: None,
            order: entry.order.map(Cow::into_owned),
            changes: entry.changes.into_iter().filter_map(change).collect(),
        }
    }
}

/// Executables by their tokens: releases may share one.
#[derive(Debug, Default)]
pub(crate) struct Programs(HashMap<u64, Arc<Held>>);

impl Programs {
    /// A release as it was pinned.
    ///
    /// # Errors
    /// When its executable was lost and another is at its path.
    pub(crate) fn release(
        &mut self,
        entry: ReleaseEntry<'_>,
        sockets: &Sockets,
        fds: &mut HashMap<Name, OwnedFd>,
    ) -> io::Result<Release> {
        let service = entry.service.into_owned();
        let log_file = match &service.log {
            // Opened anew: what cannot be opened is said when a process is started.
            Log::File(path) => release::open_log(path).ok().map(Arc::new),
            Log::Capture | Log::Inherit | Log::Journal => None,
        };
        Ok(Release {
            program: self.take(entry.program, fds)?,
            probe: entry.probe.map(|probe| self.take(probe, fds)).transpose()?,
            check: entry.check.map(|check| self.take(check, fds)).transpose()?,
            hooks: self.take_hooks(entry.hooks, fds)?,
            service,
            argv: entry.argv,
            environment: entry.environment,
            directory: entry.directory,
            identity: entry.identity.map(Cow::into_owned),
            log_file,
            listeners: sockets.listeners(entry.listeners),
            written: OnceLock::new(),
        })
    }

    fn take_hooks(
        &mut self,
        hooks: BTreeMap<Hook, Vec<ProgramEntry>>,
        fds: &mut HashMap<Name, OwnedFd>,
    ) -> io::Result<BTreeMap<Hook, Vec<Arc<Held>>>> {
        let mut taken = BTreeMap::new();
        for (hook, entries) in hooks {
            let programs = entries.into_iter().map(|entry| self.take(entry, fds)).collect::<io::Result<_>>()?;
            taken.insert(hook, programs);
        }
        Ok(taken)
    }

    fn take(&mut self, entry: ProgramEntry, fds: &mut HashMap<Name, OwnedFd>) -> io::Result<Arc<Held>> {
        if let Some(held) = self.0.get(&entry.token) {
            return Ok(Arc::clone(held));
        }
        tokens::was_given_out(entry.token);
        let ProgramEntry { token, path, real, identity, interpreter } = entry;
        let held = match fds.remove(&Name::Program(token)) {
            Some(fd) => fd,
            None => Program::open_again(&real, identity)?,
        };
        let held = Arc::new(Held { token, program: Program { path, real, held, identity, interpreter } });
        self.0.insert(token, Arc::clone(&held));
        Ok(held)
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::{Part, VERSION};
    use super::*;
    use crate::control::server::Access;
    use crate::core::{Core, Time};
    use crate::sys::limits::Nofile;

    fn document(owner: Owner) -> Document<'static> {
        Document {
            version: VERSION,
            owner,
            pid: Pid::own(),
            started: Time(1),
            incarnation: 1,
            nofile: Nofile { soft: 1024, hard: 4096 },
            runtime_directory: "/run/zdsup/web".into(),
            runtime_directory_is_ours: true,
            core: Cow::Owned(Core::new()),
            services: Vec::new(),
            sockets: Vec::new(),
            releases: BTreeMap::new(),
            next_release: 1,
            pending: BTreeMap::new(),
            processes: Vec::new(),
            access: Access::default(),
            metrics: None,
            ledger: BTreeMap::new(),
            stopping: false,
            atomic: false,
            unclaimed: Vec::new(),
            kept: BTreeSet::new(),
            handed: BTreeMap::new(),
        }
    }

    fn passed(text: &[u8]) -> (Passed, Memory) {
        let mut memory = Memory::new().expect("a memfd");
        memory.write(text).expect("room");
        let state = memory.try_clone().expect("a descriptor").into();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").into();
        let left = HashMap::from([(Name::State, state), (Name::Socket(1), listener)]);
        (Passed { left, by_hand: false, sockets: Vec::new() }, memory)
    }

    fn written(owner: Owner) -> Vec<u8> {
        serde_json::to_vec(&document(owner)).expect("it can be written")
    }

    #[test]
    fn what_is_ours_is_gone_on_with_and_deaths_are_counted() {
        let (mut first, memory) = passed(&written(Owner::this("web")));
        let Adoption::All(predecessor) = first.adoption("web") else { panic!("it is ours") };
        assert_eq!((predecessor.deaths, predecessor.was_us), (0, false));
        assert_eq!(memory.deaths(), 1, "should it die now, the next one knows");
        assert!(matches!(first.adoption("web"), Adoption::Nothing), "it is taken once");
        memory.set_deaths(HOLDING).expect("room");
        let mut fifth =
            Passed { left: HashMap::from([(Name::State, memory.into())]), by_hand: false, sockets: Vec::new() };
        let Adoption::Impossible(impossible) = fifth.adoption("web") else { panic!("it kills") };
        assert!(!impossible.foreign && impossible.reason.contains("died 4 times in a row"), "{}", impossible.reason);
    }

    #[test]
    fn what_the_store_dropped_is_named_once() {
        let mut ours = document(Owner::this("web"));
        ours.kept = [Name::State, Name::Control, Name::Socket(1), Name::Process(2, Part::Stdout)].into();
        let (first, _memory) = passed(&serde_json::to_vec(&ours).expect("it can be written"));
        let said = lost(&ours, &first.left).expect("two are missing");
        assert!(said.starts_with("2 of 4 descriptors were not kept"), "{said}");
        assert!(said.contains(": zdsup.control, zdsup.process.2.stdout; raise FileDescriptorStoreMax="), "{said}");
        ours.kept = [Name::State, Name::Socket(1)].into();
        assert_eq!(lost(&ours, &first.left), None);
    }

    #[test]
    fn what_is_somebody_elses_is_refused() {
        let ours = Owner::this("web");
        let cases = [
            (Owner { boot: "another".into(), ..ours.clone() }, "it is of another boot"),
            (Owner { uid: ours.uid + 1, ..ours.clone() }, "it is of user"),
            (Owner { name: "api".into(), ..ours.clone() }, "it is of supervisor api, and this is web"),
        ];
        for (owner, reason) in cases {
            let (mut passed, _memory) = passed(&written(owner));
            let Adoption::Impossible(impossible) = passed.adoption("web") else { panic!("{reason}") };
            assert!(impossible.foreign && impossible.reason.contains(reason), "{}", impossible.reason);
            assert_eq!(listeners_among(impossible.fds).len(), 1, "what listens is used again");
        }
    }

    #[test]
    fn what_was_passed_and_not_claimed_waits_on() {
        let (mut first, _memory) = passed(&written(Owner::this("web")));
        let Adoption::All(mut predecessor) = first.adoption("web") else { panic!("it is ours") };
        let claimed = predecessor.fds[&Name::Socket(1)].try_clone().expect("a descriptor");
        let other = || OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
        predecessor.document.unclaimed = vec![Some("handed".into())];
        predecessor.fds.insert(Name::Unclaimed(0), other());
        let waits = predecessor.unclaimed(vec![(Some("claimed".into()), claimed), (Some("other".into()), other())]);
        let names: Vec<_> = waits.into_iter().filter_map(|(name, _)| name).collect();
        assert_eq!(names, ["other", "handed"]);
    }

    #[test]
    fn what_has_no_state_is_let_go_of_but_for_listeners() {
        let (mut passed, _memory) = passed(b"{}");
        passed.left.remove(&Name::State);
        let stream = std::os::unix::net::UnixStream::pair().expect("a pair").0.into();
        passed.left.insert(Name::Process(2, Part::Stdout), stream);
        let Adoption::Impossible(impossible) = passed.adoption("web") else { panic!("there is something") };
        assert!(impossible.foreign && impossible.reason.contains("without its state"), "{}", impossible.reason);
        assert!(names(&impossible.fds).contains(&Name::Process(2, Part::Stdout)), "so that the store forgets it");
        assert_eq!(listeners_among(impossible.fds).len(), 1, "what listens is used again");
    }

    /// Row 15: a state of another version keeps what runs, and says so.
    #[test]
    fn what_cannot_be_understood_is_held() {
        for (text, reason) in [(&b"{\"version\":4000}"[..], "of version 4000"), (b"nonsense", "cannot be understood")] {
            let (mut passed, _memory) = passed(text);
            let Adoption::Impossible(impossible) = passed.adoption("web") else { panic!("{reason}") };
            assert!(!impossible.foreign && impossible.reason.contains(reason), "{}", impossible.reason);
        }
    }

    #[test]
    fn numbers_of_another_process_mean_nothing() {
        let mut theirs = document(Owner::this("web"));
        theirs.handed.insert(Name::Control, 0);
        let (mut passed, _memory) = passed(&serde_json::to_vec(&theirs).expect("it can be written"));
        let Adoption::All(predecessor) = passed.adoption("web") else { panic!("it is ours") };
        assert!(!predecessor.fds.contains_key(&Name::Control));
    }
}
