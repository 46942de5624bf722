//! What the keeper holds, and what a datagram asks of it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::notify::{self, Lines};
use crate::sys::message::FDS_PER_MESSAGE;
use crate::sys::respawn::NAMES_MAX;
use crate::sys::{is_same_description, lift};

/// How many descriptors are held at most, and the longest name of one.
const CAPACITY: usize = 4096;
const NAME_MAX: usize = 64;
/// With room for fewer, a supervisor could not even keep one service and its next generation.
pub(super) const FEWEST: usize = 64;
/// Descriptors of the keeper's own, at most.
const OWN_FDS: usize = 16;
/// With how many of the same name a descriptor is compared: a storm must not cost more.
const COMPARED: usize = 64;

/// What is held, oldest first. Several may have the same name.
pub(super) struct Store {
    /// Memory is taken for [`CAPACITY`] of them at the start, and never more.
    pub(super) entries: Vec<(Name, OwnedFd)>,
    pub(super) capacity: usize,
    /// The bytes of all names, each with the colon behind it.
    names: usize,
    /// They are kept at this number and above: below is room for what arrives, and for the places from 3 on that the
    /// next supervisor finds them at.
    floor: u32,
}

impl Store {
    pub(super) fn new(open_files: u64) -> Self {
        let taken = 3 + OWN_FDS + FDS_PER_MESSAGE;
        let rest = usize::try_from(open_files).unwrap_or(usize::MAX).saturating_sub(taken);
        let capacity = CAPACITY.min(rest / 2);
        let floor = u32::try_from(taken + capacity).unwrap_or(u32::MAX);
        Self { entries: Vec::with_capacity(capacity), capacity, names: 0, floor }
    }

    /// Keeps a copy, unless it has one under this name. False when there is no room.
    pub(super) fn add(&mut self, name: Name, fd: &OwnedFd) -> bool {
        let mut namesakes = self.entries.iter().filter(|(known, _)| *known == name).take(COMPARED);
        if namesakes.any(|(_, held)| is_same_description(held.as_fd(), fd.as_fd())) {
            return true;
        }
        let names = self.names + name.as_bytes().len() + 1;
        if self.entries.len() == self.capacity || names > NAMES_MAX {
            return false;
        }
        let Ok(copy) = lift(fd.as_fd(), self.floor) else { return false };
        self.entries.push((name, copy));
        self.names = names;
        true
    }

    pub(super) fn remove(&mut self, name: &[u8]) {
        self.entries.retain(|(known, _)| known.as_bytes() != name);
        self.names = self.entries.iter().map(|(name, _)| name.as_bytes().len() + 1).sum();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], BorrowedFd<'_>)> + Clone {
        self.entries.iter().map(|(name, fd)| (name.as_bytes(), fd.as_fd()))
    }
}

/// What a descriptor is called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    bytes: [u8; NAME_MAX],
    len: u8,
}

impl Name {
    pub(super) fn new(text: &[u8]) -> Option<Self> {
        let mut bytes = [0; NAME_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text);
        let len = u8::try_from(text.len()).ok()?;
        notify::is_fd_name(text).then_some(Self { bytes, len })
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len.into()]
    }
}

/// What a datagram of the supervisor asks of us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// It breaks the protocol, or is answered by closing what came with it.
    Nothing,
    Store(&'a [u8]),
    Remove(&'a [u8]),
    /// It is for whoever started us.
    Foreign,
}

impl<'a> Request<'a> {
    /// Removal wins over storing, as in systemd.
    pub(super) fn read(datagram: &'a [u8]) -> Self {
        let Ok(lines) = Lines::of(datagram) else { return Self::Nothing };
        let name = lines.first("FDNAME");
        if lines.has("BARRIER", "1") {
            Self::Nothing
        } else if lines.has("FDSTOREREMOVE", "1") {
            name.map_or(Self::Nothing, Self::Remove)
        } else if lines.has("FDSTORE", "1") {
            Self::Store(name.unwrap_or(notify::DEFAULT_FD_NAME.as_bytes()))
        } else {
            Self::Foreign
        }
    }
}

#[cfg(test)]
mod tests;
