//! Which index the kernel has each slot at.

use serde::{Deserialize, Serialize};

use super::SlotIndex;

/// Stands for the dam of a row ([`super::Row::dam`]), which has a place in the group and is no slot.
pub(super) const DAM: SlotIndex = SlotIndex(u32::MAX as usize);

/// The slots of a row in the kernel's order: at each index of the SO_REUSEPORT group, the slot that is there.
///
/// The kernel keeps the sockets of a group in an array. One that begins to listen is appended; one that is shut down is
/// taken out, and the last one is moved into its place (`__reuseport_add_sock` and `__reuseport_detach_sock` in
/// net/core/sock_reuseport.c; hazard 37).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Order(Vec<SlotIndex>);

impl Order {
    /// That of a row whose slots began to listen one after the other, none of which was ever shut down.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        Self((0..slots).map(SlotIndex).collect())
    }

    /// At which index the kernel has it; `None` where it does not listen.
    #[must_use]
    pub fn index_of(&self, slot: SlotIndex) -> Option<u32> {
        self.0.iter().position(|other| *other == slot).and_then(|index| u32::try_from(index).ok())
    }

    /// The slots, by their index.
    #[must_use]
    pub fn slots(&self) -> &[SlotIndex] {
        &self.0
    }

    /// Whether it names each of these once, and no other.
    pub(super) fn is_of(&self, members: &[SlotIndex]) -> bool {
        self.0.len() == members.len() && members.iter().all(|member| self.0.contains(member))
    }

    pub(super) fn from_slots(slots: Vec<SlotIndex>) -> Self {
        Self(slots)
    }

    /// It began to listen.
    pub(super) fn append(&mut self, slot: SlotIndex) {
        self.0.push(slot);
    }

    /// It was shut down.
    pub(super) fn remove(&mut self, slot: SlotIndex) {
        if let Some(index) = self.0.iter().position(|other| *other == slot) {
            self.0.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_moves_into_the_hole() {
        let mut order = Order::new(4);
        order.remove(SlotIndex(1));
        let index = |order: &Order| [0, 1, 2, 3].map(|slot| order.index_of(SlotIndex(slot)));
        assert_eq!(index(&order), [Some(0), None, Some(2), Some(1)]);
        order.append(SlotIndex(1));
        assert_eq!(index(&order), [Some(0), Some(3), Some(2), Some(1)]);
        assert_eq!(serde_json::to_string(&order).unwrap(), "[0,3,2,1]");
    }
}
