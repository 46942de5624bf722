//! Listeners whose traffic is steered: each is a row of slots, of which a process is given one.
//!
//! The rows are changed by the loop (shares) and off it (slots that are bound, slots that are healed), so each has a lock;
//! the loop only tries it, and comes back when whoever has it is done.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use serde::{Deserialize, Serialize};

use super::listeners::{Origin, Socket};
use super::tokens;
use crate::core::Slot;
use crate::sys::socket::{Bound, Endpoint, Options};
use crate::sys::steer::{Division, Kept, Order, Row, RowError, SlotIndex};

/// The row of a listener, and what the watches and a successor know its sockets by.
#[derive(Debug)]
pub(super) struct Slots {
    inner: Mutex<Inner>,
    dam: u64,
}

#[derive(Debug)]
struct Inner {
    row: Row,
    /// By their numbers.
    sockets: Vec<Arc<Socket>>,
}

/// A row, as a successor reads it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RowEntry {
    /// The tokens of its slots, by their numbers.
    pub(crate) slots: Vec<u64>,
    /// The token of its dam, if it has one.
    pub(crate) dam: Option<u64>,
    /// The order that the kernel has them in.
    pub(crate) order: Order,
    /// New connections are made to wait.
    pub(crate) held: bool,
    /// How they are divided.
    pub(crate) division: Division,
}

impl Slots {
    /// A listener that is bound for it.
    pub(super) fn bind(asked: &Endpoint, options: &Options) -> Result<Arc<Socket>, RowError> {
        Ok(Self::of(asked, Row::bind(asked, options)?, Origin::Bound))
    }

    /// A listener that came from systemd.
    pub(super) fn over(asked: &Endpoint, bound: Bound, options: &Options) -> Result<Arc<Socket>, RowError> {
        Ok(Self::of(asked, Row::over(bound, options)?, Origin::Inherited))
    }

    fn of(asked: &Endpoint, row: Row, origin: Origin) -> Arc<Socket> {
        let tokens: Vec<u64> = row.slots().iter().map(|_| tokens::fresh()).collect();
        Self::with_tokens(asked, row, origin, &tokens, tokens::fresh())
    }

    fn with_tokens(asked: &Endpoint, row: Row, origin: Origin, tokens: &[u64], dam: u64) -> Arc<Socket> {
        let slots = row.slots().iter().zip(tokens);
        let socket = |(bound, token): (&Arc<Bound>, &u64)| {
            Arc::new(Socket::slot(*token, asked.clone(), Arc::clone(bound), origin))
        };
        let sockets: Vec<Arc<Socket>> = slots.map(socket).collect();
        let (token, bound) = (tokens[0], Arc::clone(&row.slots()[0]));
        let slots = Self { inner: Mutex::new(Inner { row, sockets }), dam };
        Arc::new(Socket::steered(token, asked.clone(), bound, origin, slots))
    }

    /// What a predecessor held.
    pub(super) fn adopt(
        asked: &Endpoint,
        entry: &RowEntry,
        origin: Origin,
        mut fd: impl FnMut(u64) -> Option<OwnedFd>,
    ) -> io::Result<Arc<Socket>> {
        let mut take = |token: u64| -> io::Result<Arc<Bound>> {
            tokens::was_given_out(token);
            let fd = fd(token).ok_or_else(|| io::Error::other("one of its slots was lost"))?;
            Ok(Arc::new(Bound::adopt(fd, origin == Origin::Bound)?))
        };
        let slots = entry.slots.iter().map(|token| take(*token)).collect::<io::Result<Vec<_>>>()?;
        let dam = entry.dam.map(&mut take).transpose()?;
        let division = entry.division.clone();
        let kept = Kept { slots, dam, order: entry.order.clone(), held: entry.held, division };
        let row = Row::adopt(kept, &Options::default()).map_err(io::Error::other)?;
        Ok(Self::with_tokens(asked, row, origin, &entry.slots, entry.dam.unwrap_or_else(tokens::fresh)))
    }

    /// What a successor needs to know of it.
    pub(super) fn entry(&self) -> RowEntry {
        let inner = self.lock();
        RowEntry {
            slots: inner.sockets.iter().map(|socket| socket.token).collect(),
            dam: inner.row.dam().map(|_| self.dam),
            order: inner.row.order().clone(),
            held: inner.row.is_held(),
            division: inner.row.division().clone(),
        }
    }

    /// Every descriptor of it but the first slot's, each with its token.
    pub(super) fn others(&self) -> Vec<(u64, Arc<Bound>)> {
        let inner = self.lock();
        let slots = inner.sockets.iter().skip(1).map(|socket| (socket.token, Arc::clone(&socket.bound)));
        let dam = inner.row.dam().map(|dam| (self.dam, Arc::clone(dam)));
        slots.chain(dam).collect()
    }

    /// What holds new connections back, once there is something.
    pub(super) fn dam(&self) -> Option<(u64, Arc<Bound>)> {
        self.lock().row.dam().map(|dam| (self.dam, Arc::clone(dam)))
    }

    /// Its sockets, by their numbers.
    pub(super) fn sockets(&self) -> Vec<Arc<Socket>> {
        self.lock().sockets.clone()
    }

    /// The socket of this slot.
    pub(super) fn socket(&self, slot: Slot) -> Option<Arc<Socket>> {
        self.lock().sockets.get(slot.0 as usize).map(Arc::clone)
    }

    /// Sees to it that there are at least so many slots. It dumps a table of the kernel.
    pub(super) fn ensure(&self, count: usize) -> Result<(), RowError> {
        let mut inner = self.lock();
        while inner.sockets.len() < count {
            let slot = inner.row.append()?;
            let Some(bound) = inner.row.slot(slot).map(Arc::clone) else { return Ok(()) };
            let (asked, origin) = inner.sockets.first().map(|it| (it.asked.clone(), it.origin)).unzip();
            let (Some(asked), Some(origin)) = (asked, origin) else { return Ok(()) };
            inner.sockets.push(Arc::new(Socket::slot(tokens::fresh(), asked, bound, origin)));
        }
        Ok(())
    }

    /// Divides new connections so. `None`: somebody is at it, and this has to be tried again.
    pub(super) fn divide(&self, division: &Division) -> Option<Result<(), RowError>> {
        let mut inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::WouldBlock) => return None,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        };
        if inner.row.division() == division {
            return Some(Ok(()));
        }
        Some(inner.row.divide(division.clone()))
    }

    /// Sets what can be set on live sockets; says which options cannot.
    pub(super) fn apply(&self, options: &Options) -> Vec<&'static str> {
        self.lock().row.apply(options)
    }

    /// Lets slots that a service shut down listen again. May take a while.
    pub(super) fn heal(&self) -> Result<Vec<SlotIndex>, RowError> {
        self.lock().row.heal()
    }

    /// Makes new connections wait. May take a while.
    pub(super) fn hold(&self) -> Result<(), RowError> {
        self.lock().row.hold()
    }

    /// Lets them in again.
    pub(super) fn release(&self) -> Result<(), RowError> {
        self.lock().row.release()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panics ends the whole supervisor.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
