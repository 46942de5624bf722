//! Slots that a service shut down (hazard 37).

use std::sync::Arc;

use crate::sys::socket::Bound;
use crate::sys::steer::locate::Search;
use crate::sys::steer::{Row, RowError, SlotIndex};

impl Row {
    /// The slots that somebody shut down and that nobody let listen again.
    #[must_use]
    pub fn shut_down(&self) -> Vec<SlotIndex> {
        let shut = |(place, slot): (usize, &Arc<Bound>)| slot.is_shut_down().then_some(SlotIndex(place));
        self.slots.iter().enumerate().filter_map(shut).collect()
    }

    /// Lets slots that were shut down listen again, works out where the kernel has them now, and attaches the program
    /// anew (hazard 37). Returns which they were.
    ///
    /// Call it when the watch of a slot reports a hang-up. If none is shut down by then, its service has let it listen
    /// again itself; then, and where there are several, the order cannot be worked out and is found out by probes, which
    /// may take a while: run it off the loop.
    ///
    /// # Errors
    /// `Listen`, `Order`, `Program`, `Attach`.
    pub fn heal(&mut self) -> Result<Vec<SlotIndex>, RowError> {
        let shut = self.shut_down();
        let known = if shut.len() == 1 { Known::Before } else { Known::Nothing };
        self.listen_again(&shut, known)?;
        Ok(shut)
    }

    /// As [`Row::heal`], where the order is not known.
    pub(super) fn heal_all(&mut self) -> Result<(), RowError> {
        self.listen_again(&self.shut_down(), Known::Nothing)
    }

    fn listen_again(&mut self, shut: &[SlotIndex], known: Known) -> Result<(), RowError> {
        let mut failed = None;
        for slot in shut {
            self.order.remove(*slot);
        }
        for slot in shut {
            match self.slots[slot.0].listen_again() {
                Ok(()) => self.order.append(*slot),
                Err(error) => failed = Some(RowError::Listen { slot: *slot, error }),
            }
        }
        if known == Known::Nothing && self.order.slots().len() > 1 {
            self.order = self.search().run().map_err(RowError::Order)?;
        }
        let put = self.put(self.in_force(&self.division));
        failed.map_or(put, Err)
    }

    /// Where everything that listens is, by probes.
    pub(in crate::sys::steer) fn search(&self) -> Search<'_> {
        Search {
            address: self.address,
            family: self.family,
            sockets: self.order.slots().iter().filter_map(|member| self.member(*member)).map(Arc::as_ref).collect(),
            presumed: &self.order,
            division: self.in_force(&self.division),
        }
    }
}

/// What is known of the kernel's order when slots are to listen again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// What it was before the one slot was shut down, which tells what it is now.
    Before,
    Nothing,
}
