//! Which releases may still be run: that of what serves, those of former generations that may be gone back to.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::super::event::{Kind, Reason};
use super::super::id::{Generation as Number, ReleaseId};
use super::{Action, Outbox, Phase, Request, Role, Service};

/// The release of a generation that has served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The latest generation that it served as.
    pub generation: Number,
    /// The generation that it was pinned for first.
    pub lineage: Number,
    /// The release.
    pub release: ReleaseId,
}

/// What an upgrade that goes back goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Former {
    /// A generation that stands by.
    Standby(Number),
    /// A release that is started as a new generation.
    Release { release: ReleaseId, lineage: Number },
}

impl Service {
    /// The releases that served before and can be gone back to, the latest first.
    pub fn kept(&self) -> impl Iterator<Item = &Kept> {
        let current = self.serving().map(|serving| serving.lineage);
        self.kept.iter().rev().filter(move |kept| Some(kept.lineage) != current)
    }

    /// Every release that is kept, that of what serves too.
    #[cfg(test)]
    pub(in crate::core) fn every_kept(&self) -> impl Iterator<Item = &Kept> {
        self.kept.iter()
    }

    /// What to go back to; `to`: as which generation it is known.
    pub(super) fn former(&self, to: Option<Number>) -> Option<Former> {
        let kept = self.kept_release(to)?;
        let stands_by = |generation: &&super::Generation| {
            matches!(generation.role, Role::Standby { .. })
                && generation.lineage == kept.lineage
                && generation.is_ready()
        };
        Some(match self.generations.values().find(stands_by) {
            Some(generation) => Former::Standby(generation.number),
            None => Former::Release { release: kept.release, lineage: kept.lineage },
        })
    }

    /// What a rollback that names no generation means while an upgrade is in flight, by the generation that its release
    /// was pinned for first: what served before that, or what that goes back to. So it goes no further back where the
    /// upgrade fails, and not forth again where another rollback was quicker.
    pub(super) fn meant_to_go_back_to(&self, request: Request) -> Option<Number> {
        let upgrade = self.upgrade.as_ref().filter(|_| request.kind == Kind::Rollback && request.to.is_none())?;
        match (upgrade.kind, upgrade.phase) {
            (Kind::Reload, Phase::Pinning { .. } | Phase::Candidate(_) | Phase::Returning { .. }) => {
                self.serving().map(|serving| serving.lineage)
            }
            (Kind::Rollback, _) => upgrade.lineage,
            // The one before what serves when its turn comes.
            (Kind::Reload, Phase::Telling { .. }) | (Kind::Start | Kind::Restart, _) => None,
        }
    }

    /// Why there is nothing to go back to.
    pub(super) fn no_way_back(&self, to: Option<Number>) -> Reason {
        let meant = |serving: &&super::Generation| Some(serving.number) == to || Some(serving.lineage) == to;
        self.serving().filter(meant).map_or(Reason::NothingKept, |serving| Reason::ServesAlready(serving.number))
    }

    pub(super) fn kept_release(&self, to: Option<Number>) -> Option<&Kept> {
        match to {
            None => self.kept().next(),
            Some(to) => self.kept().find(|kept| kept.generation == to || kept.lineage == to),
        }
    }

    /// From now on this is the release to restart. Those before that are not kept are let go of, unless a process still
    /// runs them.
    pub(super) fn pin(&mut self, number: Number, out: &mut Outbox) {
        let Some(generation) = self.generations.get(&number) else { return };
        let (release, lineage, policy) = (generation.release, generation.lineage, generation.policy.clone());
        // What may have to be taken back is not let go of.
        let together = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.together);
        let keep = policy.keep_releases.max(u32::from(together)) as usize + 1;
        let before = self.pinned.replace((release, policy)).map(|(before, _)| before);
        let (mut let_go, kept) = std::mem::take(&mut self.kept).into_iter().partition(|kept| kept.lineage == lineage);
        self.kept = kept;
        self.kept.push(Kept { generation: number, lineage, release });
        let too_many = self.kept.len().saturating_sub(keep);
        let_go.extend(self.kept.drain(..too_many));
        let mut let_go: Vec<ReleaseId> = let_go.into_iter().map(|kept: Kept| kept.release).chain(before).collect();
        let_go.sort_unstable();
        let_go.dedup();
        for release in let_go {
            self.let_go(release, out);
        }
    }

    /// Lets go of a release, unless it may still be run.
    pub(super) fn let_go(&self, release: ReleaseId, out: &mut Outbox) {
        if !self.needs(release) {
            out.push(Action::Discard(release));
        }
    }

    /// Every release that may still be run, once each.
    pub(in crate::core) fn releases(&self) -> BTreeSet<ReleaseId> {
        let own = self.generations.values().map(|generation| generation.release);
        let pinned = self.pinned.iter().map(|(release, _)| *release);
        own.chain(pinned).chain(self.kept.iter().map(|kept| kept.release)).collect()
    }

    /// Whether a release may still be run.
    pub(in crate::core) fn needs(&self, release: ReleaseId) -> bool {
        self.pinned.as_ref().is_some_and(|(pinned, _)| *pinned == release)
            || self.kept.iter().any(|kept| kept.release == release)
            || self.generations.values().any(|generation| generation.release == release)
    }
}

/// The policy that a release was pinned with, where another number of instances is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaled {
    /// What the config said when an operator chose another number.
    pub configured: u32,
    /// That number.
    pub wanted: u32,
}

impl Scaled {
    /// Whether it holds where the config says so many.
    pub(super) fn holds(self, configured: u32) -> bool {
        self.configured == configured
    }
}
