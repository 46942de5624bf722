//! What a service keeps with us for its successors: descriptors (sd_notify(3), FDSTORE=1), a store for each service.
//!
//! - A process that is started is passed what the store holds then, after its listeners.
//! - The store is the serving generation's. What a process that does not serve yet stores and removes is *staged*: it
//!   happens when the process comes to serve, and never if it does not, so that a failed candidate leaves the store as it
//!   was. What a process on its way out says is refused: its successor has begun without it, and what it would leave or
//!   take away would reach the one after.
//! - The store is bounded, in descriptors and in what their names take in an environment. A descriptor that is there under
//!   its name already is not stored again.
//! - A descriptor that hangs up is let go of, unless FDPOLL=0 came with it.
//!
//! Closing can block (a socket that lingers, a file of a server that is gone). So nothing is closed in here: what is let
//! go of is handed to the caller.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::poller::{Poller, Source, Token};
use super::survival::{Name, StoredEntry};
use super::{Supervisor, release};
use crate::core::instance::State;
use crate::core::service::{Purpose, Role};
use crate::core::{InstanceId, ServiceId, service};
use crate::sys::fd::is_same_file;

/// What the names of all descriptors of a store may take together, bytes: one variable of an environment has at most
/// 128 KiB (execve(2)), and the listeners' names are in it too.
const NAMES_MAX: usize = 64 << 10;

/// The store of one service.
#[derive(Debug)]
pub(super) struct Store {
    service: ServiceId,
    /// In the order of their ids, which is that of their coming.
    fds: Vec<Stored>,
    next: u64,
}

/// One descriptor.
#[derive(Debug)]
pub(super) struct Stored {
    /// Its number in its service's store; never given twice.
    pub(super) id: u64,
    /// Its entry in LISTEN_FDNAMES.
    pub(super) name: String,
    pub(super) fd: OwnedFd,
    /// Whether it is let go of when it hangs up.
    pub(super) poll: bool,
    /// The process that stored it and does not serve yet.
    pub(super) staged_by: Option<InstanceId>,
    /// The processes that want it removed and do not serve yet.
    pub(super) removed_by: Vec<InstanceId>,
    /// Its registration; none where it is not polled, or cannot be.
    token: Option<Token>,
}

/// What a process may do to its service's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It serves: what it says is done.
    Serving,
    /// It may come to serve: what it says is staged.
    Candidate,
    /// It is on its way out, or gone.
    Leaving,
}

/// Why something is not stored, or not removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no store.
    Off,
    /// It holds as many as it may.
    Full(u32),
    /// Their names would not fit into an environment.
    Names,
    /// The supervisor needs the rest of its own descriptors.
    Descriptors,
    /// Whoever keeps it for a successor of the supervisor has no room for more than that needs itself.
    Successor,
    /// The process is on its way out.
    Leaving,
    /// No descriptor came with the message.
    Nothing,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("fd-store-max is 0, so that there is no store"),
            Self::Full(max) => write!(f, "the store is full: fd-store-max is {max}"),
            Self::Names => write!(f, "the names of its descriptors would have more than {NAMES_MAX} bytes"),
            Self::Descriptors => f.write_str("zdsup itself is short of descriptors (LimitNOFILE=)"),
            Self::Successor => f.write_str(
                "as much is kept for a successor of zdsup as fits beside an upgrade (FileDescriptorStoreMax=)",
            ),
            Self::Leaving => f.write_str("it is on its way out, and its successor runs already"),
            Self::Nothing => f.write_str("no descriptor came with it"),
        }
    }
}

impl Standing {
    /// How a process stands.
    pub(super) fn of(service: Option<&service::Service>, id: InstanceId) -> Self {
        let generation = service.and_then(|service| service.generations.get(&id.generation));
        let Some(generation) = generation else { return Self::Leaving };
        let Some(instance) = generation.instances.get(&id.number) else { return Self::Leaving };
        match (generation.role, instance.state) {
            (Role::Draining | Role::Ending, _)
            | (_, State::Aborting { .. } | State::Stopping { .. } | State::Killing { .. } | State::Leftovers { .. }) => {
                Self::Leaving
            }
            (Role::Serving, State::Ready { .. }) => Self::Serving,
            // Whoever stands by, or goes, does not serve.
            (Role::Standby { .. } | Role::Retreating, _) => Self::Leaving,
            (
                Role::Serving,
                State::Preparing { .. } | State::Launching { .. } | State::Starting { .. } | State::Proving { .. },
            )
            | (
                Role::Starting
                | Role::Soaking { .. }
                | Role::Held { .. }
                | Role::Rolling { .. }
                | Role::Stepping { .. }
                | Role::Switching,
                _,
            ) => Self::Candidate,
        }
    }
}

impl Stored {
    /// Whether this process sees it: it is in the store as it would be if the process came to serve.
    fn is_seen_by(&self, staging: Option<InstanceId>) -> bool {
        self.staged_by.is_none_or(|by| Some(by) == staging) && !self.removed_by.iter().any(|by| Some(*by) == staging)
    }
}

impl Store {
    pub(super) fn new(service: ServiceId) -> Self {
        Self { service, fds: Vec::new(), next: 1 }
    }

    /// What a predecessor had, as far as it was left. `next`: the id after all that it had given.
    pub(super) fn adopt(
        service: ServiceId,
        next: u64,
        entries: Vec<StoredEntry<'_>>,
        fds: &mut HashMap<Name, OwnedFd>,
        poller: &mut Poller,
    ) -> Self {
        let mut store = Self { service, fds: Vec::new(), next: next.max(1) };
        for StoredEntry { id, name, poll, staged_by, removed_by } in entries {
            let (name, removed_by) = (name.into_owned(), removed_by.into_owned());
            match fds.remove(&Name::Stored(service, id)) {
                Some(fd) => store.insert(Stored { id, name, fd, poll, staged_by, removed_by, token: None }, poller),
                // A store that keeps a descriptor once has it under another name.
                None => tracing::warn!("stored descriptor {name} was lost"),
            }
        }
        store
    }

    /// The id of the next that is stored.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Everything that it holds, staged or not.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Stored> {
        self.fds.iter()
    }

    /// What a process that is started now is passed.
    pub(super) fn passed(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        let passed = self.iter().filter(|stored| stored.is_seen_by(None));
        passed.map(|stored| (stored.name.as_str(), stored.fd.as_fd()))
    }

    /// Stores what came with one message, as many as may be. `spare`: the first number that no descriptor of ours should
    /// have. `room`: for how many there is some with whoever keeps them for a successor. Gives back what is not stored, with
    /// the reason unless it was there already.
    pub(super) fn add(
        &mut self,
        by: (InstanceId, Standing),
        (name, poll): (&str, bool),
        fds: Vec<OwnedFd>,
        (max, spare, mut room): (u32, u64, usize),
        poller: &mut Poller,
    ) -> (Vec<OwnedFd>, Option<Refusal>) {
        let staged_by = match by {
            _ if max == 0 => return (fds, Some(Refusal::Off)),
            (_, Standing::Leaving) => return (fds, Some(Refusal::Leaving)),
            (instance, Standing::Candidate) => Some(instance),
            (_, Standing::Serving) => None,
        };
        if fds.is_empty() {
            return (fds, Some(Refusal::Nothing));
        }
        let (mut rest, mut refusal) = (Vec::new(), None);
        for fd in fds {
            if refusal.is_none() && !self.has(staged_by, name, fd.as_fd()) {
                refusal = self.refusal(staged_by, name, fd.as_fd(), max, spare);
                refusal = refusal.or((room == 0).then_some(Refusal::Successor));
                if refusal.is_none() {
                    room -= 1;
                    let id = self.next;
                    let name = name.to_owned();
                    self.insert(Stored { id, name, fd, poll, staged_by, removed_by: Vec::new(), token: None }, poller);
                    continue;
                }
            }
            rest.push(fd);
        }
        (rest, refusal)
    }

    fn has(&self, staging: Option<InstanceId>, name: &str, fd: BorrowedFd<'_>) -> bool {
        let mut seen = self.iter().filter(|stored| stored.is_seen_by(staging) && stored.name == name);
        seen.any(|stored| is_same_file(stored.fd.as_fd(), fd))
    }

    fn refusal(
        &self,
        staging: Option<InstanceId>,
        name: &str,
        fd: BorrowedFd<'_>,
        max: u32,
        spare: u64,
    ) -> Option<Refusal> {
        let seen = || self.iter().filter(|stored| stored.is_seen_by(staging));
        if seen().count() >= max as usize {
            return Some(Refusal::Full(max));
        }
        if seen().map(|stored| stored.name.len() + 1).sum::<usize>() + name.len() + 1 > NAMES_MAX {
            return Some(Refusal::Names);
        }
        // The kernel gives out the lowest number that is free: all below this one are taken.
        (u64::from(fd.as_raw_fd().cast_unsigned()) >= spare).then_some(Refusal::Descriptors)
    }

    /// Takes in one descriptor as it is.
    pub(super) fn insert(&mut self, mut stored: Stored, poller: &mut Poller) {
        self.next = self.next.max(stored.id + 1);
        if stored.poll {
            // What cannot be polled (EPERM: files, memfds) cannot hang up.
            stored.token = poller.add_hangup(&stored.fd, Source::Stored(self.service, stored.id)).ok();
        }
        let place = self.fds.partition_point(|other| other.id < stored.id);
        self.fds.insert(place, stored);
    }

    /// Removes the descriptors of a name; gives back those that are gone by that.
    pub(super) fn remove(
        &mut self,
        by: (InstanceId, Standing),
        name: &str,
        poller: &mut Poller,
    ) -> Result<Vec<OwnedFd>, Refusal> {
        match by {
            (_, Standing::Leaving) => Err(Refusal::Leaving),
            (_, Standing::Serving) => {
                Ok(self.let_go(|stored| stored.staged_by.is_none() && stored.name == name, poller))
            }
            (instance, Standing::Candidate) => {
                let gone = self.let_go(|stored| stored.staged_by == Some(instance) && stored.name == name, poller);
                for stored in self.fds.iter_mut().filter(|stored| stored.name == name) {
                    if stored.is_seen_by(Some(instance)) {
                        stored.removed_by.push(instance);
                    }
                }
                Ok(gone)
            }
        }
    }

    /// Does what was staged by processes that serve now, and forgets what was by those that never will. Gives back what is
    /// gone by that, and whether something did not fit any more.
    pub(super) fn settle(
        &mut self,
        standing: impl Fn(InstanceId) -> Standing,
        max: impl Fn(InstanceId) -> u32,
        poller: &mut Poller,
    ) -> (Vec<OwnedFd>, Option<(InstanceId, Refusal)>) {
        let mut staging: Vec<InstanceId> = self
            .iter()
            .flat_map(|stored| stored.staged_by.into_iter().chain(stored.removed_by.iter().copied()))
            .collect();
        staging.sort_unstable();
        staging.dedup();
        let (mut gone, mut refusal) = (Vec::new(), None);
        for instance in staging {
            match standing(instance) {
                Standing::Candidate => {}
                Standing::Leaving => {
                    gone.extend(self.let_go(|stored| stored.staged_by == Some(instance), poller));
                    self.fds.iter_mut().for_each(|stored| stored.removed_by.retain(|by| *by != instance));
                }
                Standing::Serving => {
                    gone.extend(self.let_go(|stored| stored.removed_by.contains(&instance), poller));
                    let max = max(instance);
                    // Whoever served until now may have gone on storing.
                    let mut room = (max as usize).saturating_sub(self.passed().count());
                    for stored in self.fds.iter_mut().filter(|stored| stored.staged_by == Some(instance)) {
                        if room > 0 {
                            room -= 1;
                            stored.staged_by = None;
                        } else {
                            refusal = Some((instance, Refusal::Full(max)));
                        }
                    }
                    gone.extend(self.let_go(|stored| stored.staged_by == Some(instance), poller));
                }
            }
        }
        (gone, refusal)
    }

    /// Whether anything is staged.
    pub(super) fn is_unsettled(&self) -> bool {
        self.iter().any(|stored| stored.staged_by.is_some() || !stored.removed_by.is_empty())
    }

    /// One of them hung up. Its name, and the descriptor.
    pub(super) fn hung_up(&mut self, id: u64, poller: &mut Poller) -> Option<(String, OwnedFd)> {
        let name = self.iter().find(|stored| stored.id == id)?.name.clone();
        self.let_go(|stored| stored.id == id, poller).pop().map(|fd| (name, fd))
    }

    /// Empties it.
    pub(super) fn clear(&mut self, poller: &mut Poller) -> Vec<OwnedFd> {
        self.let_go(|_| true, poller)
    }

    fn let_go(&mut self, which: impl Fn(&Stored) -> bool, poller: &mut Poller) -> Vec<OwnedFd> {
        let gone = self.fds.extract_if(.., |stored| which(stored));
        let end = |stored: Stored| {
            if let Some(token) = stored.token {
                poller.remove(&stored.fd, token);
            }
            stored.fd
        };
        gone.map(end).collect()
    }
}

// ---- what services say about it ----------------------------------------------------------------------------------------

impl Supervisor {
    fn standing(&self, id: InstanceId) -> Standing {
        Standing::of(self.core.services().get(&id.service), id)
    }

    /// FDSTORE=1.
    pub(super) fn store(&mut self, id: InstanceId, name: &str, poll: bool, fds: Vec<OwnedFd>) {
        let by = (id, self.standing(id));
        let max = self.processes.get(&id).map_or(0, |process| process.release.service.fd_store_max);
        let Some(service) = self.services.get_mut(&id.service) else { return };
        let bounds = (max, release::spare(), self.survival.room_to_store());
        let (rest, refusal) = service.store.add(by, (name, poll), fds, bounds, &mut self.poller);
        self.survival.stale = true;
        self.close(rest);
        if let Some(refusal) = refusal {
            self.ignored(id, &format!("FDSTORE=1 with FDNAME={name}"), &refusal.to_string());
        }
    }

    /// FDSTOREREMOVE=1.
    pub(super) fn store_remove(&mut self, id: InstanceId, name: &str) {
        let by = (id, self.standing(id));
        let Some(service) = self.services.get_mut(&id.service) else { return };
        let removed = service.store.remove(by, name, &mut self.poller);
        self.survival.stale = true;
        match removed {
            Ok(gone) => self.close(gone),
            Err(refusal) => self.ignored(id, &format!("FDSTOREREMOVE=1 with FDNAME={name}"), &refusal.to_string()),
        }
    }

    /// What was staged happens once its process serves, and is forgotten once that cannot be any more. A service that is
    /// stopped has no successors.
    pub(super) fn settle_stores(&mut self) {
        let (mut gone, mut refused) = (Vec::new(), None);
        for (id, service) in &mut self.services {
            let machine = self.core.services().get(id);
            if machine.is_some_and(|machine| machine.purpose != Purpose::Run) {
                gone.extend(service.store.clear(&mut self.poller));
            } else if service.store.is_unsettled() {
                let max = |id| self.processes.get(&id).map_or(0, |process| process.release.service.fd_store_max);
                let standing = |id| Standing::of(machine, id);
                let (released, overflow) = service.store.settle(standing, max, &mut self.poller);
                gone.extend(released);
                refused = overflow.or(refused);
            }
        }
        self.survival.stale |= !gone.is_empty();
        self.close(gone);
        if let Some((id, refusal)) = refused {
            self.ignored(id, "a part of what was stored", &refusal.to_string());
        }
    }

    /// A stored descriptor hung up.
    pub(super) fn on_stored_hangup(&mut self, service: ServiceId, id: u64) {
        let Some(store) = self.services.get_mut(&service).map(|service| &mut service.store) else { return };
        let Some((name, fd)) = store.hung_up(id, &mut self.poller) else { return };
        self.survival.stale = true;
        self.close(vec![fd]);
        tracing::debug!(service = self.name_of(service), "stored descriptor {name} hung up");
    }

    /// Closes descriptors of services where it may block.
    pub(super) fn close(&self, fds: Vec<OwnedFd>) {
        if !fds.is_empty() {
            self.off_the_loop(move || {
                drop(fds);
                None
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::core::Generation;

    const SERVICE: ServiceId = ServiceId(1);
    const MANY: (u32, u64, usize) = (100, u64::MAX, usize::MAX);

    fn instance(generation: u64) -> InstanceId {
        InstanceId { service: SERVICE, generation: Generation(generation), number: 1 }
    }

    fn serving() -> (InstanceId, Standing) {
        (instance(1), Standing::Serving)
    }

    fn candidate() -> (InstanceId, Standing) {
        (instance(2), Standing::Candidate)
    }

    fn file() -> Vec<OwnedFd> {
        vec![File::open("/dev/null").expect("it is there").into()]
    }

    fn again(fds: &[OwnedFd]) -> Vec<OwnedFd> {
        fds.iter().map(|fd| fd.try_clone().expect("a descriptor can be duplicated")).collect()
    }

    fn names(store: &Store) -> Vec<&str> {
        store.passed().map(|(name, _)| name).collect()
    }

    /// Adds, and expects all of it to be kept.
    fn keep(store: &mut Store, by: (InstanceId, Standing), name: &str, fds: Vec<OwnedFd>, poller: &mut Poller) {
        let (rest, refusal) = store.add(by, (name, true), fds, MANY, poller);
        assert_eq!((rest.len(), refusal), (0, None), "{name}");
    }

    fn settle(store: &mut Store, standing: Standing, max: u32, poller: &mut Poller) -> (usize, Option<Refusal>) {
        let (gone, refusal) = store.settle(|_| standing, |_| max, poller);
        assert!(standing == Standing::Candidate || !store.is_unsettled());
        (gone.len(), refusal.map(|(_, refusal)| refusal))
    }

    #[tokio::test]
    async fn it_is_bounded() {
        let mut poller = Poller::new().expect("an epoll");
        let mut store = Store::new(SERVICE);
        let three = || (0..3).flat_map(|_| file()).collect::<Vec<_>>();
        let (rest, refusal) = store.add(serving(), ("a", true), three(), (2, u64::MAX, usize::MAX), &mut poller);
        assert_eq!((rest.len(), refusal), (1, Some(Refusal::Full(2))));
        assert_eq!(names(&store), ["a", "a"]);
        let (rest, refusal) = store.add(serving(), ("a", true), three(), (0, u64::MAX, usize::MAX), &mut poller);
        assert_eq!((rest.len(), refusal), (3, Some(Refusal::Off)));
        let (_, refusal) = store.add(serving(), ("a", true), file(), (100, 3, usize::MAX), &mut poller);
        assert_eq!(refusal, Some(Refusal::Descriptors));
        let (rest, refusal) = store.add(serving(), ("b", true), three(), (100, u64::MAX, 2), &mut poller);
        assert_eq!((rest.len(), refusal), (1, Some(Refusal::Successor)));
        assert_eq!(store.remove(serving(), "b", &mut poller).map(|gone| gone.len()), Ok(2));
        let (_, refusal) = store.add(serving(), ("a", true), Vec::new(), MANY, &mut poller);
        assert_eq!(refusal, Some(Refusal::Nothing));
        let long = "x".repeat(255);
        let room = NAMES_MAX / 256;
        for number in 0..room - 1 {
            let (_, refusal) = store.add(serving(), (&long, true), file(), (1000, u64::MAX, usize::MAX), &mut poller);
            assert_eq!(refusal, None, "{number}");
        }
        let (_, refusal) = store.add(serving(), (&long, true), file(), (1000, u64::MAX, usize::MAX), &mut poller);
        assert_eq!(refusal, Some(Refusal::Names));
        assert_eq!(store.clear(&mut poller).len(), room + 1);
    }

    #[tokio::test]
    async fn what_is_there_under_its_name_is_not_stored_again() {
        let mut poller = Poller::new().expect("an epoll");
        let mut store = Store::new(SERVICE);
        let fds = file();
        keep(&mut store, serving(), "a", again(&fds), &mut poller);
        // Neither a refusal, although it is full.
        let (rest, refusal) = store.add(serving(), ("a", true), again(&fds), (1, u64::MAX, usize::MAX), &mut poller);
        assert_eq!((rest.len(), refusal), (1, None));
        keep(&mut store, serving(), "b", again(&fds), &mut poller);
        keep(&mut store, serving(), "a", file(), &mut poller);
        assert_eq!(names(&store), ["a", "b", "a"]);
        assert_eq!(store.remove(serving(), "a", &mut poller).expect("it may").len(), 2);
        assert_eq!(names(&store), ["b"]);
        let ids: Vec<u64> = store.iter().map(|stored| stored.id).collect();
        assert_eq!(ids, [2]);
    }

    #[tokio::test]
    async fn what_a_candidate_does_happens_when_it_serves() {
        let mut poller = Poller::new().expect("an epoll");
        let mut store = Store::new(SERVICE);
        let fds = file();
        keep(&mut store, serving(), "way", again(&fds), &mut poller);
        keep(&mut store, serving(), "data", file(), &mut poller);
        // It replaces one, by the same descriptor even, and stores and removes another.
        assert!(store.remove(candidate(), "way", &mut poller).expect("it may").is_empty());
        keep(&mut store, candidate(), "way", again(&fds), &mut poller);
        keep(&mut store, candidate(), "extra", file(), &mut poller);
        assert_eq!(store.remove(candidate(), "extra", &mut poller).expect("it may").len(), 1);
        keep(&mut store, candidate(), "more", file(), &mut poller);
        // Its own view counts.
        let (_, refusal) = store.add(candidate(), ("more", true), file(), (3, u64::MAX, usize::MAX), &mut poller);
        assert_eq!(refusal, Some(Refusal::Full(3)));
        assert_eq!(names(&store), ["way", "data"]);
        assert_eq!(settle(&mut store, Standing::Candidate, 3, &mut poller), (0, None));
        assert_eq!(names(&store), ["way", "data"]);
        // What is stored under a name after it was removed stays.
        keep(&mut store, serving(), "way", file(), &mut poller);
        let ids = |store: &Store| store.iter().map(|stored| stored.id).collect::<Vec<_>>();
        assert_eq!(ids(&store), [1, 2, 3, 5, 6]);
        // There is room for three, and two of them are the former one's.
        assert_eq!(settle(&mut store, Standing::Serving, 3, &mut poller), (2, Some(Refusal::Full(3))));
        assert_eq!(ids(&store), [2, 3, 6]);
        assert_eq!(names(&store), ["data", "way", "way"]);
    }

    #[tokio::test]
    async fn what_a_candidate_did_that_never_serves_is_forgotten() {
        let mut poller = Poller::new().expect("an epoll");
        let mut store = Store::new(SERVICE);
        keep(&mut store, serving(), "way", file(), &mut poller);
        store.remove(candidate(), "way", &mut poller).expect("it may");
        keep(&mut store, candidate(), "way", file(), &mut poller);
        assert_eq!(settle(&mut store, Standing::Leaving, 3, &mut poller), (1, None));
        assert_eq!(names(&store), ["way"]);
        let leaving = (instance(1), Standing::Leaving);
        let (rest, refusal) = store.add(leaving, ("late", true), file(), MANY, &mut poller);
        assert_eq!((rest.len(), refusal), (1, Some(Refusal::Leaving)));
        assert_eq!(store.remove(leaving, "way", &mut poller).expect_err("too late"), Refusal::Leaving);
        assert_eq!(names(&store), ["way"]);
    }

    #[tokio::test]
    async fn what_hangs_up_is_told_of_unless_nobody_asked() {
        let mut poller = Poller::new().expect("an epoll");
        let mut store = Store::new(SERVICE);
        let (polled, theirs) = UnixStream::pair().expect("a pair");
        let (unpolled, others) = UnixStream::pair().expect("a pair");
        keep(&mut store, serving(), "polled", vec![polled.into()], &mut poller);
        let _ = store.add(serving(), ("unpolled", false), vec![unpolled.into()], MANY, &mut poller);
        keep(&mut store, serving(), "file", file(), &mut poller);
        // What can be read is nothing to us.
        std::io::Write::write_all(&mut &theirs, b"x").expect("it can be written");
        drop((theirs, others));
        let ready = poller.ready().await.expect("the epoll works");
        assert_eq!(ready.iter().map(|(_, source)| *source).collect::<Vec<_>>(), [Source::Stored(SERVICE, 1)]);
        let (name, _) = store.hung_up(1, &mut poller).expect("it is there");
        assert_eq!(name, "polled");
        assert!(store.hung_up(1, &mut poller).is_none());
        assert_eq!(names(&store), ["unpolled", "file"]);
    }

    #[tokio::test]
    async fn it_can_be_built_from_what_it_gives_out() {
        let mut poller = Poller::new().expect("an epoll");
        let mut store = Store::new(SERVICE);
        keep(&mut store, serving(), "a", file(), &mut poller);
        keep(&mut store, serving(), "b", file(), &mut poller);
        store.remove(candidate(), "a", &mut poller).expect("it may");
        keep(&mut store, candidate(), "b", file(), &mut poller);
        keep(&mut store, serving(), "lost", file(), &mut poller);
        let named =
            |stored: &Stored| (Name::Stored(SERVICE, stored.id), again(std::slice::from_ref(&stored.fd)).remove(0));
        let mut fds: HashMap<Name, OwnedFd> = store.iter().filter(|stored| stored.name != "lost").map(named).collect();
        let entries = store.iter().map(StoredEntry::of).collect();
        let mut other = Store::adopt(SERVICE, store.next(), entries, &mut fds, &mut poller);
        assert!(fds.is_empty());
        assert_eq!(names(&other), ["a", "b"]);
        keep(&mut other, serving(), "c", file(), &mut poller);
        assert_eq!(settle(&mut other, Standing::Serving, 9, &mut poller), (1, None));
        assert_eq!(other.iter().map(|stored| stored.id).collect::<Vec<_>>(), [2, 3, 5]);
    }
}
