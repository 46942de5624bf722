//! Sockets that were passed to the supervisor, until listeners have claimed them.
//!
//! ```text
//!  passed by systemd, or by ourselves before a reexec ─► waits ─► lent to a service that is being pinned ─► its own
//!                                                         ▲                      │ it cannot be pinned
//!                                                         └──────────────────────┘
//! ```
//!
//! - A listener takes the socket with its address, else one with its name that has no other listener's address: several
//!   may have one name.
//! - What is lent is a duplicate: whatever becomes of the attempt, the socket is not lost with it.
//! - They wait until every service has served: one that cannot be started, or was stopped before its turn, wants them
//!   as it is started later.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use crate::config;
use crate::core::Reason;
use crate::sys::socket::{Bound, Endpoint};
use crate::sys::steer;

/// Sockets that nobody has claimed.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    passed: Vec<Passed>,
    /// Each must be of use: a successor's may have been of a service that is no more.
    strict: bool,
    /// Of a predecessor that we do not go on with: what is of no use is closed.
    left: Vec<Bound>,
}

/// One that was passed to us (sd_listen_fds(3)).
#[derive(Debug)]
pub(super) struct Passed {
    /// FileDescriptorName=.
    pub(super) name: Option<String>,
    endpoint: Endpoint,
    pub(super) fd: OwnedFd,
    /// The service that is being pinned with it.
    lent_to: Option<String>,
}

/// A listener that wants a socket.
pub(super) struct Wish<'a> {
    pub(super) name: &'a str,
    pub(super) endpoint: Endpoint,
}

impl<'a> Wish<'a> {
    /// Blocks: a name may have to be resolved. One that cannot be wants nothing.
    fn of(listen: &'a config::Listen) -> Option<Self> {
        Some(Self { name: &listen.name, endpoint: listen.address.resolve().ok()? })
    }
}

impl Passed {
    fn new((name, fd): (Option<String>, OwnedFd)) -> io::Result<Self> {
        let endpoint = Bound::from_inherited(fd.try_clone()?)?.endpoint.clone();
        Ok(Self { name, endpoint, fd, lent_to: None })
    }

    fn has_address_of(&self, wish: &Wish<'_>) -> bool {
        self.endpoint == wish.endpoint
    }

    /// Whether it may be claimed by its name: it is nobody's by its address.
    fn has_name_of(&self, wish: &Wish<'_>, others: &[Wish<'_>]) -> bool {
        self.name.as_deref() == Some(wish.name)
            && is_like(&self.endpoint, &wish.endpoint)
            && !others.iter().any(|other| self.has_address_of(other))
    }
}

impl Inherited {
    /// Those that were passed to us, and those that somebody before us had bound.
    pub(super) fn new(passed: Vec<(Option<String>, OwnedFd)>, left: Vec<OwnedFd>) -> io::Result<Self> {
        Ok(Self {
            passed: passed.into_iter().map(Passed::new).collect::<io::Result<_>>()?,
            strict: true,
            left: left.into_iter().filter_map(|fd| Bound::from_inherited(fd).ok()).collect(),
        })
    }

    /// Those that a predecessor had not claimed. What cannot be used is no reason not to go on.
    pub(super) fn of_successor(passed: Vec<(Option<String>, OwnedFd)>) -> Self {
        let passed = passed.into_iter().filter_map(|passed| Passed::new(passed).ok()).collect();
        Self { passed, strict: false, left: Vec::new() }
    }

    /// Those that nobody has.
    pub(super) fn passed(&self) -> &[Passed] {
        &self.passed
    }

    /// Lends the one that a listener of this service wants. `all`: every listener there is.
    fn lend(&mut self, service: &str, wish: &Wish<'_>, all: &[Wish<'_>]) -> Option<Bound> {
        let free = || self.passed.iter().enumerate().filter(|(_, passed)| passed.lent_to.is_none());
        let by_address = free().find(|(_, passed)| passed.has_address_of(wish));
        let found = by_address.or_else(|| free().find(|(_, passed)| passed.has_name_of(wish, all)));
        let found = found.map(|(place, _)| place);
        let bound = match found.and_then(|place| self.passed.get_mut(place)) {
            Some(passed) => {
                let bound = Bound::from_inherited(passed.fd.try_clone().ok()?).ok()?;
                passed.lent_to = Some(service.to_owned());
                bound
            }
            None => {
                let place = self.left.iter().position(|bound| bound.endpoint == wish.endpoint)?;
                self.left.swap_remove(place)
            }
        };
        // Whoever may have paused it is gone. Only TCP can have been.
        let _ = steer::release(&bound);
        Some(bound)
    }

    /// Whether each that is left will be claimed by one of these. `service`: the one that has claimed what it could.
    fn check_leftover(&self, service: &str, others: &[Wish<'_>]) -> Result<(), Reason> {
        let wanted = |passed: &Passed, wish: &Wish<'_>| passed.has_address_of(wish) || passed.has_name_of(wish, &[]);
        let left = self.passed.iter().filter(|passed| self.strict && passed.lent_to.is_none());
        let Some(passed) = left.into_iter().find(|passed| !others.iter().any(|wish| wanted(passed, wish))) else {
            return Ok(());
        };
        let whose = if others.is_empty() { format!("service {service}") } else { "any service".to_owned() };
        let message = format!(
            "systemd passed the socket {}, which no listener of {whose} matches by name or address",
            passed.describe()
        );
        Err(Reason::Config(message))
    }

    /// The service has what it was lent.
    pub(super) fn keep(&mut self, service: &str) {
        self.passed.retain(|passed| passed.lent_to.as_deref() != Some(service));
    }

    /// The service could not be pinned: what it was lent waits on.
    pub(super) fn give_back(&mut self, service: &str) {
        for passed in self.passed.iter_mut().filter(|passed| passed.lent_to.as_deref() == Some(service)) {
            passed.lent_to = None;
        }
    }

    /// Nobody will claim any: they are closed.
    pub(super) fn close(&mut self) {
        for passed in self.passed.drain(..).filter(|_| self.strict) {
            tracing::warn!("systemd passed the socket {}, which no service has claimed: closed", passed.describe());
        }
        self.left.clear();
    }
}

impl Passed {
    fn describe(&self) -> String {
        match &self.name {
            Some(name) => format!("{name} ({})", self.endpoint),
            None => self.endpoint.to_string(),
        }
    }
}

/// What a service that is being pinned may claim.
pub(super) enum Claims<'a> {
    /// Nothing.
    None,
    /// Whatever was passed.
    Of {
        /// That. Locked for no longer than it takes to choose: the loop wants it, too.
        inherited: &'a Mutex<Inherited>,
        /// The listeners of the other services.
        others: Vec<Wish<'a>>,
    },
}

impl<'a> Claims<'a> {
    /// Blocks: names may have to be resolved.
    pub(super) fn of(inherited: &'a Mutex<Inherited>, others: impl Iterator<Item = &'a config::Listen>) -> Self {
        let any = !lock(inherited).passed.is_empty();
        Self::Of { inherited, others: others.filter(|_| any).filter_map(Wish::of).collect() }
    }

    /// Takes what the listeners of a service want, by their places. `new`: whether one has no socket yet.
    ///
    /// # Errors
    /// When a socket is left that nobody will claim.
    pub(super) fn take(
        self,
        service: &str,
        wishes: &[Wish<'a>],
        new: impl Fn(&Wish<'_>) -> bool,
    ) -> Result<HashMap<usize, Bound>, Reason> {
        let Self::Of { inherited, mut others } = self else { return Ok(HashMap::new()) };
        let count = others.len();
        let copy = |wish: &Wish<'a>| Wish { name: wish.name, endpoint: wish.endpoint.clone() };
        others.extend(wishes.iter().map(copy));
        let mut inherited = lock(inherited);
        let wanted = wishes.iter().enumerate().filter(|(_, wish)| new(wish));
        let taken = wanted.filter_map(|(place, wish)| Some((place, inherited.lend(service, wish, &others)?))).collect();
        inherited.check_leftover(service, &others[..count]).map(|()| taken)
    }
}

/// Never held for long.
pub(super) fn lock(inherited: &Mutex<Inherited>) -> std::sync::MutexGuard<'_, Inherited> {
    inherited.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether two endpoints are of one kind: a listener that was asked for by name may be at another address, but a
/// service that expects TCP must not be handed UDP.
fn is_like(one: &Endpoint, other: &Endpoint) -> bool {
    match (one, other) {
        (Endpoint::Unix { kind: one, .. }, Endpoint::Unix { kind: other, .. }) => one == other,
        _ => std::mem::discriminant(one) == std::mem::discriminant(other),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::*;

    /// Sockets of one name, and where they are.
    fn passed(count: usize) -> (Mutex<Inherited>, Vec<SocketAddr>) {
        let sockets: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let addresses = sockets.iter().map(|socket| socket.local_addr().expect("it is bound")).collect();
        let named = sockets.into_iter().map(|socket| (Some("http".to_owned()), socket.into()));
        (Mutex::new(Inherited::new(named.collect(), Vec::new()).expect("sockets")), addresses)
    }

    fn wish(address: SocketAddr) -> Wish<'static> {
        Wish { name: "http", endpoint: Endpoint::Tcp(address) }
    }

    fn take(inherited: &Mutex<Inherited>, service: &str, own: SocketAddr, others: &[SocketAddr]) -> Option<SocketAddr> {
        let claims = Claims::Of { inherited, others: others.iter().copied().map(wish).collect() };
        let mut taken = claims.take(service, &[wish(own)], |_| true).expect("nothing is left over");
        let Endpoint::Tcp(address) = taken.remove(&0)?.endpoint.clone() else { panic!("it is TCP") };
        Some(address)
    }

    #[test]
    fn of_several_with_one_name_each_service_gets_the_one_at_its_address() {
        let (inherited, at) = passed(2);
        assert_eq!(take(&inherited, "web", at[1], &at[..1]), Some(at[1]));
        lock(&inherited).keep("web");
        assert_eq!(take(&inherited, "db", at[0], &at[1..]), Some(at[0]));
        lock(&inherited).keep("db");
        assert!(lock(&inherited).passed().is_empty());
    }

    #[test]
    fn a_name_is_enough_for_what_is_at_nobodys_address() {
        let (inherited, at) = passed(2);
        let elsewhere = "127.0.0.1:1".parse().expect("an address");
        assert_eq!(take(&inherited, "web", elsewhere, &at[..1]), Some(at[1]));
        // By its name nobody takes what another has, or will have.
        assert_eq!(take(&inherited, "ads", elsewhere, &at[..1]), None);
    }

    #[test]
    fn what_could_not_be_used_waits_on() {
        let (inherited, at) = passed(1);
        assert_eq!(take(&inherited, "web", at[0], &[]), Some(at[0]));
        assert_eq!(take(&inherited, "ads", at[0], &[]), None, "it is lent");
        lock(&inherited).give_back("web");
        assert_eq!(take(&inherited, "web", at[0], &[]), Some(at[0]));
    }

    #[test]
    fn what_nobody_wants_is_an_error_but_not_in_a_successor() {
        let (inherited, at) = passed(1);
        let elsewhere: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let none = || Claims::Of { inherited: &inherited, others: Vec::new() };
        let other = Wish { name: "other", endpoint: Endpoint::Tcp(elsewhere) };
        let refused = none().take("web", &[other], |_| true).map(drop).expect_err("it is of no use");
        let message = format!("socket http ({}), which no listener of service web matches", Endpoint::Tcp(at[0]));
        assert!(refused.to_string().contains(&message), "{refused}");
        lock(&inherited).strict = false;
        assert!(none().take("web", &[], |_| true).is_ok());
    }
}
