//! Where new connections go, where traffic is steered. Derived from how things stand, never kept.
//!
//! - No connection goes to a process that is not ready, fails its checks, or is on its way out, as long as there is
//!   another. Where there is none, callers wait in the queues of the slots whose next process will take them.
//! - Until a candidate has passed its soak it has no part in the traffic.

use std::collections::BTreeSet;

use super::super::id::{Generation as Number, Slot};
use super::Service;
use super::generation::{Generation, Role};

/// A share of new connections, and the slots among which it is divided equally.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The generation.
    pub generation: Number,
    /// Its share, percent; all of them together are 100.
    pub percent: u32,
    /// Never empty.
    pub slots: Vec<Slot>,
}

impl Service {
    /// The generation that answers new connections: the one that serves; where none of its processes is left, the one
    /// that replaces it piece by piece, or serves until it is back.
    #[must_use]
    pub fn answering(&self) -> Option<&Generation> {
        let serving = self.serving()?;
        let takes_part = |one: &&Generation| {
            matches!(one.role, Role::Rolling { .. } | Role::Retreating) && !admitted(one).is_empty()
        };
        let other = || self.generations.values().rev().find(takes_part);
        Some(serving).filter(|serving| serving.is_up()).or_else(other)
    }

    /// The share of new connections of each generation, percent, oldest first.
    #[must_use]
    pub fn weights(&self) -> Vec<(Number, u32)> {
        let mut weights: Vec<(Number, u32)> = self.generations.keys().map(|number| (*number, 0)).collect();
        let mut give = |to: Option<Number>, percent: u32| {
            let entry = weights.iter_mut().find(|(number, _)| Some(*number) == to);
            entry.into_iter().for_each(|(_, weight)| *weight += percent);
        };
        let Some(serving) = self.serving() else {
            // Nothing serves: callers wait for the latest.
            give(self.generations.keys().next_back().copied(), 100);
            return weights;
        };
        let helper = self.generations.values().find(|generation| generation.role == Role::Retreating);
        let candidate = self.candidate();
        let share = candidate.map_or(0, |candidate| match candidate.role {
            Role::Switching => 100,
            Role::Stepping { step, .. } => candidate.weight_of_step(step),
            Role::Rolling { .. } => part(admitted(candidate).len(), [Some(serving), helper]),
            Role::Starting
            | Role::Soaking { .. }
            | Role::Held { .. }
            | Role::Serving
            | Role::Standby { .. }
            | Role::Retreating
            | Role::Draining
            | Role::Ending => 0,
        });
        let helps = helper.map_or(0, |helper| part(admitted(helper).len(), [Some(serving), None]));
        let helps = (100 - share) * helps / 100;
        give(candidate.map(|candidate| candidate.number), share);
        give(helper.map(|helper| helper.number), helps);
        give(Some(serving.number), 100 - share - helps);
        weights
    }

    /// Where new connections go. Empty only where there is no generation at all.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        let (serving, candidate) = (self.serving(), self.candidate());
        let together = |generation: &&Generation| matches!(generation.role, Role::Rolling { .. } | Role::Retreating);
        let mut others: Vec<&Generation> = self.generations.values().filter(together).collect();
        let rolling = candidate.is_some_and(|candidate| matches!(candidate.role, Role::Rolling { .. }));
        let alone = candidate.filter(|_| !rolling);
        let Some(serving) = serving else {
            let latest = self.generations.values().next_back();
            return latest.and_then(|latest| route(latest.number, 100, there(&[latest]))).into_iter().collect();
        };
        // Each instance of those that serve together has the same share.
        others.insert(0, serving);
        let weights = self.weights();
        let share = weights.iter().find(|(number, _)| alone.is_some_and(|alone| alone.number == *number));
        let share = share.map_or(0, |(_, percent)| *percent);
        let rest = route(serving.number, 100 - share, there(&others));
        let part = alone.and_then(|candidate| route(candidate.number, share, there(&[candidate])));
        rest.into_iter().chain(part).filter(|route| route.percent > 0).collect()
    }
}

/// The share, percent, of so many instances beside those of the others.
fn part(of: usize, others: [Option<&Generation>; 2]) -> u32 {
    let rest: usize = others.into_iter().flatten().map(|other| admitted(other).len()).sum();
    u32::try_from((of * 100).checked_div(of + rest).unwrap_or(0)).unwrap_or(0)
}

/// The slots of those that take part; where there are none, those in which callers wait.
fn there(generations: &[&Generation]) -> Vec<Slot> {
    let slots: Vec<Slot> = generations.iter().flat_map(|generation| admitted(generation)).collect();
    if slots.is_empty() {
        generations.iter().find_map(|generation| waiting(generation)).unwrap_or_default()
    } else {
        slots
    }
}

fn route(generation: Number, percent: u32, slots: Vec<Slot>) -> Option<Route> {
    // Two processes may share a slot for a while: one that died, and the one that takes its place.
    let slots: Vec<Slot> = slots.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    (!slots.is_empty()).then_some(Route { generation, percent, slots })
}

/// Those of a generation that take part while another is replaced by it, or it by another.
fn admitted(generation: &Generation) -> Vec<Slot> {
    let takes_part = |seat: &&super::Seat| seat.admitted || !matches!(generation.role, Role::Rolling { .. });
    let seats = generation.seats.iter().filter(takes_part).filter(|seat| generation.is_available(seat));
    seats.filter_map(|seat| seat.slot).collect()
}

/// Where callers wait for a process that is to come: one that lives is the nearest to it.
fn waiting(generation: &Generation) -> Option<Vec<Slot>> {
    let lives = generation.seats.iter().filter(|seat| seat.instance.is_some()).filter_map(|seat| seat.slot);
    let lives: Vec<Slot> = lives.collect();
    let slots = if lives.is_empty() { generation.seats.iter().filter_map(|seat| seat.slot).collect() } else { lives };
    Some(slots).filter(|slots| !slots.is_empty())
}
