//! The listening sockets: bound once, kept until the config drops them and no generation uses them.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::inherited::{Claims, Wish};
use super::rows::Slots;
use super::tokens;
use crate::config::{self, Traffic};
use crate::core::{Reason, Slot};
use crate::sys::socket::{self, Bound, Endpoint, Options, UnixName};
use crate::sys::steer::RowError;

/// One listener of one release: a socket under a name.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    /// Its name among the descriptors of the service.
    pub(super) name: String,
    /// The socket.
    pub(super) socket: Arc<Socket>,
}

/// One listening socket. Every release that runs on it holds it; the last to let go closes it.
#[derive(Debug)]
pub(super) struct Socket {
    /// What the config asked for: a socket is known again by this at a reload.
    pub(super) asked: Endpoint,
    /// The socket itself; the first slot, where its traffic is steered.
    pub(super) bound: Arc<Bound>,
    /// Where it came from.
    pub(super) origin: Origin,
    /// What the watches know it by.
    pub(super) token: u64,
    /// Whether it was non-blocking when we last looked.
    nonblocking: AtomicBool,
    /// The row that it is the first of, where traffic is steered.
    pub(super) slots: Option<Slots>,
}

/// What waits to be accepted at a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Queues {
    /// Connections that wait, in all of its queues.
    pub(super) queued: u32,
    /// How many may.
    pub(super) backlog: u32,
    /// How full the fullest of the queues is, from 0 to 1; over 1 where the kernel has let one more in.
    pub(super) fullest: f64,
}

/// Where a listener came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// We bound it.
    Bound,
    /// Socket activation.
    Inherited,
}

impl Socket {
    fn new(asked: Endpoint, bound: Bound, origin: Origin) -> Arc<Self> {
        Self::with_token(tokens::fresh(), asked, bound, origin)
    }

    /// One that a predecessor held.
    pub(super) fn with_token(token: u64, asked: Endpoint, bound: Bound, origin: Origin) -> Arc<Self> {
        Arc::new(Self::slot(token, asked, Arc::new(bound), origin))
    }

    /// One socket of a row.
    pub(super) fn slot(token: u64, asked: Endpoint, bound: Arc<Bound>, origin: Origin) -> Self {
        let nonblocking = AtomicBool::new(bound.is_nonblocking().unwrap_or(false));
        Self { asked, bound, origin, token, nonblocking, slots: None }
    }

    /// The first of a row, and with it all of them.
    pub(super) fn steered(token: u64, asked: Endpoint, bound: Arc<Bound>, origin: Origin, slots: Slots) -> Self {
        let mut first = Self::slot(token, asked, bound, origin);
        first.slots = Some(slots);
        first
    }

    /// The one that a process in this slot accepts from.
    pub(super) fn of(self: &Arc<Self>, slot: Slot) -> Arc<Self> {
        self.slots.as_ref().and_then(|slots| slots.socket(slot)).unwrap_or_else(|| Arc::clone(self))
    }

    /// All of them: it alone, unless traffic is steered.
    pub(super) fn all(self: &Arc<Self>) -> Vec<Arc<Self>> {
        self.slots.as_ref().map_or_else(|| vec![Arc::clone(self)], Slots::sockets)
    }

    /// What waits in its queues; `None` where it has none, or they cannot be known.
    pub(super) fn queues(self: &Arc<Self>) -> Option<Queues> {
        Queues::sum(self.all().iter().filter_map(|socket| socket.bound.queue()))
    }

    /// Whether a shutdown(2) of it can be mended: by listening again, or by another socket at its address. A UDP socket
    /// keeps its port for as long as anybody has it, so nothing can take its place.
    pub(super) fn is_mendable(&self) -> bool {
        match &self.bound.endpoint {
            Endpoint::Tcp(_) | Endpoint::Vsock { .. } | Endpoint::Unix { .. } => true,
            Endpoint::Udp(_) => false,
        }
    }

    /// The path of its file, if it has one.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.bound.endpoint {
            Endpoint::Unix { name: UnixName::Path(path), .. } => Some(path),
            Endpoint::Unix { name: UnixName::Abstract(_), .. }
            | Endpoint::Tcp(_)
            | Endpoint::Udp(_)
            | Endpoint::Vsock { .. } => None,
        }
    }

    /// Whether listen(2) mends it after a shutdown(2): a TCP socket on a port that was asked for. One on a port that
    /// the kernel chose has lost it, and a unix socket refuses connections for ever.
    pub(super) fn heals(&self) -> bool {
        matches!(self.asked, Endpoint::Tcp(address) if address.port() != 0)
    }

    /// Whether there is a socket for this slot. Without steered traffic there is one for all of them.
    pub(super) fn has(&self, slot: Slot) -> bool {
        self.slots.as_ref().is_none_or(|slots| slots.socket(slot).is_some())
    }

    /// Whether it became non-blocking since this was last asked.
    pub(super) fn was_made_nonblocking(&self) -> bool {
        let now = self.bound.is_nonblocking().unwrap_or(false);
        now && !self.nonblocking.swap(now, Ordering::Relaxed)
    }

    /// Makes it blocking, as it was at its bind, or what its service expects instead.
    pub(super) fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.nonblocking.store(nonblocking, Ordering::Relaxed);
        self.bound.set_nonblocking(nonblocking)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.origin == Origin::Bound {
            self.bound.remove_files();
        }
    }
}

/// The listeners of one release, in the order of their descriptors.
pub(super) type Listeners = Vec<Listener>;

/// What binding a service's listeners came to.
pub(super) struct Opened {
    /// All of them.
    pub(super) listeners: Listeners,
    /// Things an operator should know.
    pub(super) warnings: Vec<String>,
    /// What the config says of sockets that are in use. They stay as they are until the upgrade has succeeded.
    pub(super) changes: Vec<Change>,
}

impl Queues {
    /// All of them together; each has so many that wait, of so many that may.
    fn sum(queues: impl Iterator<Item = (u32, u32)>) -> Option<Self> {
        queues.fold(None, |sum: Option<Self>, (queued, backlog)| {
            let sum = sum.unwrap_or_default();
            // A backlog of 0 still lets one wait.
            let fullness = f64::from(queued) / f64::from(backlog.max(1));
            Some(Self {
                queued: sum.queued.saturating_add(queued),
                backlog: sum.backlog.saturating_add(backlog),
                fullest: sum.fullest.max(fullness),
            })
        })
    }
}

/// Somebody changes the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

/// The options of a socket that is in use.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) listener: Listener,
    pub(super) options: Options,
}

impl Change {
    /// Makes it so, as far as it can be; says what cannot. `Err`: somebody is at it, which may take a while.
    pub(super) fn try_apply(&self) -> Result<Option<String>, Busy> {
        let Socket { slots, bound, .. } = &*self.listener.socket;
        let refused = match slots {
            Some(slots) => slots.try_apply(&self.options).ok_or(Busy)?,
            None => bound.apply(&self.options),
        };
        Ok(cannot_change(refused, &self.listener.name))
    }

    /// The same off the loop, once whoever is at it is done.
    pub(super) fn apply(&self) -> Option<String> {
        let Socket { slots, bound, .. } = &*self.listener.socket;
        let refused = slots.as_ref().map_or_else(|| bound.apply(&self.options), |slots| slots.apply(&self.options));
        cannot_change(refused, &self.listener.name)
    }
}

/// The listeners that `service` names: those that exist are kept, the others are claimed from systemd or bound.
/// Blocks: names may have to be resolved. On failure whatever was bound for this is closed again. `taken`: so many slots
/// are in use where traffic is steered.
pub(super) fn open(
    service: &config::Service,
    existing: &Listeners,
    taken: usize,
    claims: Claims<'_>,
) -> Result<Opened, Reason> {
    let mut asked = Vec::new();
    for listen in &service.listen {
        let endpoint = listen.address.resolve();
        let endpoint = endpoint.map_err(|error| Reason::Pin(format!("listener {}: {error}", listen.name)))?;
        asked.push((listen, endpoint, options(listen)?));
    }
    let steered = service.traffic == Traffic::Steered;
    let kept: HashMap<&Endpoint, &Arc<Socket>> =
        existing.iter().map(|listener| (&listener.socket.asked, &listener.socket)).collect();
    let wishes = asked.iter().map(|(listen, endpoint, _)| Wish { name: &listen.name, endpoint: endpoint.clone() });
    let mut claimed =
        claims.take(&service.name, &wishes.collect::<Vec<_>>(), |wish| !kept.contains_key(&wish.endpoint))?;
    let (mut warnings, mut changes) = (Vec::new(), Vec::new());
    let mut listeners = Listeners::new();
    for (place, (listen, asked, options)) in asked.into_iter().enumerate() {
        let name = &listen.name;
        let socket = if let Some(socket) = kept.get(&asked) {
            if socket.slots.is_some() != steered {
                return Err(traffic_changes(name));
            }
            let listener = Listener { name: name.clone(), socket: Arc::clone(socket) };
            changes.push(Change { listener, options });
            Arc::clone(socket)
        } else if let Some(bound) = claimed.remove(&place) {
            warnings.extend(cannot_change(bound.apply(&options), name));
            match steered {
                true => Slots::over(&asked, bound, &options).map_err(|error| row_failed(name, &error))?,
                false => Socket::new(asked, bound, Origin::Inherited),
            }
        } else if steered {
            Slots::bind(&asked, &options).map_err(|error| row_failed(name, &error))?
        } else {
            let bound = socket::bind(&asked, &options).map_err(|error| bind_failed(name, &error))?;
            Socket::new(asked, bound, Origin::Bound)
        };
        if let Some(slots) = &socket.slots {
            // The slots that are free are taken first, so that these are enough.
            slots.ensure(taken + service.instances as usize).map_err(|error| row_failed(name, &error))?;
        }
        listeners.push(Listener { name: name.clone(), socket });
    }
    Ok(Opened { listeners, warnings, changes })
}

/// What takes the place of a socket that was shut down and cannot listen again: another one at the same address.
pub(super) fn replace(listener: &Listener, service: &config::Service) -> Result<Listener, Reason> {
    let name = listener.name.clone();
    let options = match service.listen.iter().find(|listen| listen.name == name) {
        Some(listen) => options(listen)?,
        None => Options::default(),
    };
    // Where the kernel chose the port, that is the port by now.
    let bound = socket::bind(&listener.socket.bound.endpoint, &options).map_err(|error| bind_failed(&name, &error))?;
    let (asked, origin) = (listener.socket.asked.clone(), listener.socket.origin);
    Ok(Listener { name, socket: Socket::new(asked, bound, origin) })
}

fn cannot_change(stuck: Vec<&'static str>, name: &str) -> Option<String> {
    (!stuck.is_empty())
        .then(|| format!("listener {name}: {} cannot change on a live socket, and stays as it is", stuck.join(", ")))
}

/// Why a reload is refused that asks for another `traffic`.
pub(crate) const TRAFFIC_STAYS: &str = "how traffic is divided cannot change while a socket is in use: `zdsup stop`, and \
                                        start anew, or give the listener another address";

fn traffic_changes(name: &str) -> Reason {
    Reason::Config(format!("listener {name}: {TRAFFIC_STAYS}"))
}

fn row_failed(name: &str, error: &RowError) -> Reason {
    let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    match error {
        RowError::Bind(error) => bind_failed(name, error),
        _ => Reason::Pin(format!("listener {name}: cannot {error}{hint}")),
    }
}

fn bind_failed(name: &str, error: &socket::BindError) -> Reason {
    let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    Reason::Pin(format!("listener {name}: {error}{hint}"))
}

fn options(listen: &config::Listen) -> Result<Options, Reason> {
    let given = &listen.options;
    let unknown = |what: &str, name: &str| Reason::Pin(format!("listener {}: there is no {what} {name}", listen.name));
    let uid = match &given.user {
        None => None,
        Some(name) => Some(super::release::uid_of(name).ok_or_else(|| unknown("user", name))?),
    };
    let gid = match &given.group {
        None => None,
        Some(name) => Some(super::release::gid_of(name).ok_or_else(|| unknown("group", name))?),
    };
    Ok(Options {
        backlog: given.backlog.unwrap_or(Options::default().backlog),
        reuse_port: given.reuse_port,
        only_v6: given.only_v6,
        free_bind: given.free_bind,
        transparent: given.transparent,
        no_delay: given.no_delay,
        keep_alive: given.keep_alive,
        defer_accept: given.defer_accept.map(|span| u32::try_from(span.as_secs()).unwrap_or(u32::MAX)),
        fast_open: given.fast_open,
        receive_buffer: given.receive_buffer,
        send_buffer: given.send_buffer,
        bind_to_device: given.bind_to_device.clone(),
        mode: given.mode,
        uid,
        gid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_full_queue_among_several_is_seen() {
        let queues = Queues::sum([(0, 128), (128, 128), (3, 128)].into_iter());
        assert_eq!(queues, Some(Queues { queued: 131, backlog: 384, fullest: 1.0 }));
        assert_eq!(Queues::sum([].into_iter()), None);
    }
}
