//! Listeners whose traffic is steered: each is a row of slots, of which a process is given one.
//!
//! The rows are changed by the loop (shares) and off it (slots that are bound, slots that are healed, dams that are filled), which
//! may take half a second, so each has a lock; the loop only tries it, and comes back when whoever has it is done. How a row
//! stands is read from a copy that each change ends with, and whose lock nobody has for longer than that takes.

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
    /// Before the other lock, where both are taken.
    row: Mutex<Row>,
    standing: Mutex<Standing>,
    dam: u64,
}

/// How a row stood after the last change.
#[derive(Debug)]
struct Standing {
    /// By their numbers.
    sockets: Vec<Arc<Socket>>,
    dam: Option<Arc<Bound>>,
    order: Order,
    held: bool,
    division: Division,
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
        let standing = Mutex::new(Standing::of(&row, sockets));
        let slots = Self { row: Mutex::new(row), standing, dam };
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
        let standing = self.standing();
        RowEntry {
            slots: standing.sockets.iter().map(|socket| socket.token).collect(),
            dam: standing.dam.as_ref().map(|_| self.dam),
            order: standing.order.clone(),
            held: standing.held,
            division: standing.division.clone(),
        }
    }

    /// Every descriptor of it but the first slot's, each with its token.
    pub(super) fn others(&self) -> Vec<(u64, Arc<Bound>)> {
        let standing = self.standing();
        let slots = standing.sockets.iter().skip(1).map(|socket| (socket.token, Arc::clone(&socket.bound)));
        let dam = standing.dam.as_ref().map(|dam| (self.dam, Arc::clone(dam)));
        slots.chain(dam).collect()
    }

    /// What holds new connections back, once there is something.
    pub(super) fn dam(&self) -> Option<(u64, Arc<Bound>)> {
        self.standing().dam.as_ref().map(|dam| (self.dam, Arc::clone(dam)))
    }

    /// Its sockets, by their numbers.
    pub(super) fn sockets(&self) -> Vec<Arc<Socket>> {
        self.standing().sockets.clone()
    }

    /// The socket of this slot.
    pub(super) fn socket(&self, slot: Slot) -> Option<Arc<Socket>> {
        self.standing().sockets.get(slot.0 as usize).map(Arc::clone)
    }

    /// Divides new connections so. `None`: somebody is at it, and this has to be tried again.
    pub(super) fn divide(&self, division: &Division) -> Option<Result<(), RowError>> {
        let mut row = self.try_lock()?;
        if row.division() == division {
            return Some(Ok(()));
        }
        Some(self.change(&mut row, |row| row.divide(division.clone())))
    }

    /// Sets what can be set on live sockets; says which options cannot. `None`: somebody is at it.
    pub(super) fn try_apply(&self, options: &Options) -> Option<Vec<&'static str>> {
        Some(self.try_lock()?.apply(options))
    }

    // ---- off the loop ---------------------------------------------------------------------------------------------

    /// Sees to it that there are at least so many slots. It dumps a table of the kernel.
    pub(super) fn ensure(&self, count: usize) -> Result<(), RowError> {
        let mut row = self.lock();
        while row.slots().len() < count {
            self.change(&mut row, |row| row.append().map(drop))?;
        }
        Ok(())
    }

    /// The same as [`Self::try_apply`], once whoever is at it is done.
    pub(super) fn apply(&self, options: &Options) -> Vec<&'static str> {
        self.lock().apply(options)
    }

    /// Lets slots that a service shut down listen again. May take a while.
    pub(super) fn heal(&self) -> Result<Vec<SlotIndex>, RowError> {
        self.change(&mut self.lock(), Row::heal)
    }

    /// Makes new connections wait. May take a while.
    pub(super) fn hold(&self) -> Result<(), RowError> {
        self.change(&mut self.lock(), Row::hold)
    }

    /// Lets them in again.
    pub(super) fn release(&self) -> Result<(), RowError> {
        self.change(&mut self.lock(), Row::release)
    }

    /// Changes a row, and sees to it that this is known, also where it was changed in part.
    fn change<T>(&self, row: &mut Row, change: impl FnOnce(&mut Row) -> T) -> T {
        let result = change(row);
        let mut standing = self.standing();
        let mut sockets = std::mem::take(&mut standing.sockets);
        if let Some((asked, origin)) = sockets.first().map(|first| (first.asked.clone(), first.origin)) {
            let new = row.slots().iter().skip(sockets.len());
            let socket = |bound| Arc::new(Socket::slot(tokens::fresh(), asked.clone(), Arc::clone(bound), origin));
            sockets.extend(new.map(socket));
        }
        *standing = Standing::of(row, sockets);
        result
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Row>> {
        match self.row.try_lock() {
            Ok(row) => Some(row),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Row> {
        // Whoever panics ends the whole supervisor.
        self.row.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    fn of(row: &Row, sockets: Vec<Arc<Socket>>) -> Self {
        let dam = row.dam().map(Arc::clone);
        let (order, held, division) = (row.order().clone(), row.is_held(), row.division().clone());
        Self { sockets, dam, order, held, division }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Arc<Socket> {
        let asked = Endpoint::Tcp("127.0.0.1:0".parse().unwrap());
        Slots::bind(&asked, &Options::default()).unwrap()
    }

    #[test]
    fn nobody_waits_for_whoever_is_at_a_row() {
        let socket = row();
        let slots = socket.slots.as_ref().unwrap();
        slots.ensure(2).unwrap();
        let busy = slots.lock();
        // Each of these would never come back.
        assert_eq!((slots.sockets().len(), slots.entry().slots.len(), slots.others().len()), (2, 2, 1));
        assert!(slots.socket(Slot(1)).is_some() && slots.socket(Slot(2)).is_none() && slots.dam().is_none());
        assert!(slots.divide(&Division::all_to([SlotIndex(1)])).is_none());
        assert!(slots.try_apply(&Options::default()).is_none());
        drop(busy);
        assert!(slots.divide(&Division::all_to([SlotIndex(1)])).is_some_and(|done| done.is_ok()));
    }

    #[test]
    fn what_changes_is_known() {
        let socket = row();
        let slots = socket.slots.as_ref().unwrap();
        let first = slots.entry();
        slots.ensure(3).unwrap();
        let division = Division::all_to([SlotIndex(2)]);
        slots.divide(&division).unwrap().unwrap();
        let entry = slots.entry();
        assert_eq!((entry.slots.len(), entry.slots[0], &entry.division), (3, first.slots[0], &division));
        assert!(entry.order != first.order && !entry.held);
        slots.hold().unwrap();
        let held = slots.entry();
        assert!(held.held && held.dam.is_some() && slots.dam().is_some());
        assert_eq!((held.slots, slots.others().len()), (entry.slots, 3));
        slots.release().unwrap();
        assert!(!slots.entry().held);
    }
}
