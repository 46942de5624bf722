//! The slots of one listener.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::socket::{getsockopt, setsockopt, sockopt};

use super::hold::{any_first, filter, unfilter};
use super::order::DAM;
use super::{Division, Family, Order, Program, SlotIndex, attach};
use crate::sys::diag;
use crate::sys::socket::{BindCause, BindError, Bound, Endpoint, Options, bind_with, set_int};

mod dam;
mod error;
mod heal;

pub use error::RowError;

/// The sockets of one listener, in one SO_REUSEPORT group under one program. Nothing of it needs a privilege.
///
/// Invariants: a slot is never closed while the row lives, and keeps its number. The program that is attached names only
/// slots that listen, so a slot that is appended gets nothing before a division names it.
#[derive(Debug)]
pub struct Row {
    slots: Vec<Arc<Bound>>,
    /// Where new connections go while they are held.
    dam: Option<Arc<Bound>>,
    held: bool,
    address: SocketAddr,
    family: Family,
    options: Options,
    order: Order,
    division: Division,
    group: KernelGroup,
}

/// What outlives a supervisor of a row. The kernel goes on by the program that it has as long as somebody has all of the
/// sockets.
#[derive(Clone, Debug)]
pub struct Kept {
    /// By their numbers.
    pub slots: Vec<Arc<Bound>>,
    /// [`Row::dam`].
    pub dam: Option<Arc<Bound>>,
    /// [`Row::order`].
    pub order: Order,
    /// [`Row::is_held`].
    pub held: bool,
    /// What is in force, or is to be.
    pub division: Division,
}

/// Whether the kernel has a group for the first slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KernelGroup {
    Formed,
    /// It began to listen without SO_REUSEPORT: the group is made when a second slot begins to, and only then can a
    /// program be attached.
    WithSecond,
}

impl Row {
    /// Binds the first slot, listens, and sends everything to it.
    ///
    /// It is bound without SO_REUSEPORT, which is set before it listens: so the kernel refuses an address that anybody
    /// else has, also with SO_REUSEPORT (hazard 30). Only sockets of the same user could join the group later.
    ///
    /// As [`crate::sys::socket::bind`] it may look for whoever has the address: run it off the loop.
    ///
    /// # Errors
    /// `Bind`, `NotTcp`, `Attach`.
    pub fn bind(endpoint: &Endpoint, options: &Options) -> Result<Self, RowError> {
        let Endpoint::Tcp(_) = endpoint else { return Err(RowError::NotTcp(endpoint.clone())) };
        let alone = Options { reuse_port: false, ..options.clone() };
        let share = |fd: BorrowedFd<'_>| set_int(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
        let first = bind_with(endpoint, &alone, share).map_err(|mut error| {
            if error.cause == (BindCause::MixedReusePort { ours: false }) {
                error.cause = BindCause::ForeignGroup;
            }
            error
        })?;
        Self::over(first, options)
    }

    /// A row over a socket that listens already: one from systemd. It gets SO_REUSEPORT if it lacks it, which works on a
    /// socket that listens; the kernel forms the group when a second slot is appended.
    ///
    /// # Errors
    /// `NotTcp`, `ReusePort`, `Attach`. A socket of another user is found out when a slot is appended: `Join`.
    pub fn over(first: Bound, options: &Options) -> Result<Self, RowError> {
        let (slots, division) = (vec![Arc::new(first)], Division::all_to([SlotIndex(0)]));
        Self::adopt(Kept { slots, dam: None, order: Order::new(1), held: false, division }, options)
    }

    /// A row that a predecessor had. Slots that were shut down meanwhile are healed; an order that is not one of these
    /// sockets is found out anew, by probes.
    ///
    /// # Errors
    /// `Empty`, `NotTcp`, `Mixed`, and those of [`Row::divide`], [`Row::heal`] and [`Row::hold`].
    pub fn adopt(kept: Kept, options: &Options) -> Result<Self, RowError> {
        let Kept { slots, dam, order, held, division } = kept;
        let first = slots.first().ok_or(RowError::Empty)?;
        let Endpoint::Tcp(address) = first.endpoint else { return Err(RowError::NotTcp(first.endpoint.clone())) };
        if let Some(other) = slots.iter().chain(&dam).find(|slot| slot.endpoint != first.endpoint) {
            return Err(RowError::Mixed(first.endpoint.clone(), other.endpoint.clone()));
        }
        let only_v6 = address.is_ipv6() && getsockopt(first, sockopt::Ipv6V6Only).unwrap_or(false);
        let family = match address.ip().to_canonical() {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(v6) if v6.is_unspecified() && !only_v6 => Family::Dual,
            IpAddr::V6(_) => Family::V6,
        };
        for slot in &slots {
            setsockopt(slot, sockopt::ReusePort, &true).map_err(|errno| RowError::ReusePort(errno.into()))?;
        }
        // Slots of one group have this in common (`inet_reuseport_add_sock`).
        let only_v6 = if address.is_ipv6() { Some(only_v6) } else { options.only_v6 };
        let options = Options { reuse_port: true, only_v6, ..options.clone() };
        let mut members: Vec<_> = (0..slots.len()).map(SlotIndex).collect();
        members.extend(dam.is_some().then_some(DAM));
        let is_order = order.is_of(&members);
        let order = if is_order { order } else { Order::from_slots(members) };
        // Without its dam it is held anew, below.
        let still_held = held && dam.is_some();
        let group = KernelGroup::Formed;
        let mut row = Self { slots, dam, held: still_held, address, family, options, order, division, group };
        if is_order && row.shut_down().is_empty() {
            row.put(row.in_force(&row.division))?;
        } else {
            row.heal_all()?;
        }
        if held != still_held {
            row.hold()?;
        }
        Ok(row)
    }

    /// One more slot, which listens and gets nothing before a division names it.
    ///
    /// Where the first slot had no SO_REUSEPORT when it began to listen, no program can be attached before a second one
    /// listens, and for that moment the kernel divides between the two. So the second one then drops first segments, if
    /// that is permitted ([`super::hold`]), and has a backlog of 0, which makes the kernel answer with a SYN cookie: the
    /// segment that completes the handshake is steered by the program that is attached by then. A handshake that is
    /// over in these microseconds waits in the new slot's queue for the process that gets the slot.
    ///
    /// It dumps a table of the kernel: run it off the loop.
    ///
    /// # Errors
    /// `Bind`, with `ForeignGroup` where somebody else's socket has joined the group; `Join`, `Attach`.
    pub fn append(&mut self) -> Result<SlotIndex, RowError> {
        let slot = SlotIndex(self.slots.len());
        let bound = self.join(slot, &self.options.clone())?;
        self.slots.push(bound);
        Ok(slot)
    }

    /// Has a new socket listen, as the last one of the group.
    fn join(&mut self, member: SlotIndex, options: &Options) -> Result<Arc<Bound>, RowError> {
        let endpoint = Endpoint::Tcp(self.address);
        self.refuse_strangers(&endpoint)?;
        let forms = self.group == KernelGroup::WithSecond;
        let backlog = if forms { 0 } else { options.backlog };
        let first_options = Options { backlog, ..options.clone() };
        let quiet = |fd: BorrowedFd<'_>| {
            // It may not be permitted.
            let _ = forms.then(|| filter(fd, &any_first()));
            Ok(())
        };
        let bound = bind_with(&endpoint, &first_options, quiet)
            .map_err(|error| if forms { RowError::Join(error) } else { RowError::Bind(error) })?;
        self.order.append(member);
        if forms {
            self.group = KernelGroup::Formed;
            if let Err(error) = self.put(self.division.clone()) {
                self.group = KernelGroup::WithSecond;
                self.order.remove(member);
                return Err(error);
            }
            let _ = unfilter(bound.as_fd());
            bound.set_backlog(options.backlog).map_err(|error| RowError::Listen { slot: member, error })?;
        }
        Ok(Arc::new(bound))
    }

    /// Divides new connections in this way from now on. While they are held, it is what they will be divided by; the
    /// clients that it names get in even so.
    ///
    /// # Errors
    /// `Program`, `Attach`; the division before stays in force.
    pub fn divide(&mut self, division: Division) -> Result<(), RowError> {
        Program::new(&division, self.family, &self.order)?;
        self.put(self.in_force(&division))?;
        self.division = division;
        Ok(())
    }

    /// Sets what can be set on live sockets, at every slot there is and will be. Returns the names of the options that
    /// differ and cannot be ([`Bound::apply`]). SO_REUSEPORT stays, whatever they say.
    pub fn apply(&mut self, options: &Options) -> Vec<&'static str> {
        let options = Options { reuse_port: true, ..options.clone() };
        let mut refused: Vec<_> = self.slots.iter().flat_map(|slot| slot.apply(&options)).collect();
        refused.sort_unstable();
        refused.dedup();
        // Slots of one group have these in common, so what stays here stays for the next slot.
        let only_v6 = self.options.only_v6;
        let stays = refused.contains(&"bind-to-device");
        let bind_to_device = if stays { self.options.bind_to_device.take() } else { options.bind_to_device.clone() };
        self.options = Options { only_v6, bind_to_device, ..options };
        refused
    }

    fn put(&mut self, division: Division) -> Result<(), RowError> {
        let program = Program::new(&division, self.family, &self.order)?;
        let alone = self.order.slots().len() == 1;
        match attach(self.someone().as_fd(), &program) {
            // All there is goes to it anyway.
            Err(error) if alone && error.raw_os_error() == Some(libc::EINVAL) => self.group = KernelGroup::WithSecond,
            Err(error) => return Err(RowError::Attach { length: program.len(), error }),
            Ok(()) => self.group = KernelGroup::Formed,
        }
        Ok(())
    }

    /// What the kernel is to do for the division.
    fn in_force(&self, division: &Division) -> Division {
        if !self.held {
            return division.clone();
        }
        Division { clients: division.clients.clone(), ..Division::all_to([DAM]) }
    }

    /// The slots, by their numbers.
    #[must_use]
    pub fn slots(&self) -> &[Arc<Bound>] {
        &self.slots
    }

    /// One slot.
    #[must_use]
    pub fn slot(&self, slot: SlotIndex) -> Option<&Arc<Bound>> {
        self.slots.get(slot.0)
    }

    /// Where the slots listen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What can arrive there.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// The order that the kernel has the sockets in.
    #[must_use]
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// What was asked for last.
    #[must_use]
    pub fn division(&self) -> &Division {
        &self.division
    }

    fn member(&self, member: SlotIndex) -> Option<&Arc<Bound>> {
        if member == DAM { self.dam.as_ref() } else { self.slots.get(member.0) }
    }

    /// A slot to attach through: one that listens, as far as we can see.
    fn someone(&self) -> &Bound {
        let members = self.order.slots().iter().filter_map(|member| self.member(*member));
        members.into_iter().find(|member| !member.is_shut_down()).unwrap_or(&self.slots[0])
    }

    /// Somebody else's socket in the group has an index of its own, and ours behind it would not be where we think.
    /// Where sock_diag is missing, this is taken on trust.
    fn refuse_strangers(&self, endpoint: &Endpoint) -> Result<(), BindError> {
        let Ok(listening) = diag::listening_at(self.address) else { return Ok(()) };
        let ours: Vec<u64> = self.slots.iter().chain(&self.dam).filter_map(|slot| slot.inode().ok()).collect();
        if listening.iter().all(|inode| ours.contains(inode)) {
            return Ok(());
        }
        let error = io::Error::from_raw_os_error(libc::EADDRINUSE);
        Err(BindError { endpoint: endpoint.clone(), error, holder: None, cause: BindCause::ForeignGroup })
    }
}
