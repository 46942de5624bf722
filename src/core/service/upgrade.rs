//! The upgrade, in the order in which it happens.

use super::super::event::{Hook, Kind, Reason, Verdict};
use super::super::id::{Generation as Number, ReleaseId, ServiceId, Time, UpgradeId};
use super::super::instance::Instance;
use super::super::policy::{
    FirstFailure, HOLD_TIMEOUT, KILL_TIMEOUT, PIN_TIMEOUT, PROMOTE_TIMEOUT, Policy, SWITCH_TIMEOUT, Strategy,
};
use super::releases::Former;
use super::{Action, Generation, Outbox, Phase, Purpose, Request, Role, Service, Step, Upgrade};

impl Service {
    // ---- the release ----------------------------------------------------------------------------------------------

    pub(super) fn begin(&mut self, now: Time, request: Request, out: &mut Outbox) {
        let (service, Request { id, kind, together, .. }) = (self.id, request);
        self.blamed = None;
        let refused =
            |reason| Action::Conclude { service, upgrade: id, verdict: Verdict::Refused, reason: Some(reason) };
        let (again, lineage) = match kind {
            Kind::Start | Kind::Reload => (None, None),
            Kind::Restart => match &self.pinned {
                Some((release, _)) => (Some(*release), self.kept.last().map(|kept| kept.lineage)),
                None => return out.push(refused(Reason::NothingPinned)),
            },
            Kind::Rollback => {
                let to = request.to.or(request.back_to);
                match self.former(to) {
                    Some(Former::Release { release, lineage }) => (Some(release), Some(lineage)),
                    Some(Former::Standby(number)) => return self.begin_switch_back(now, request, number, out),
                    None => return out.push(refused(self.no_way_back(to))),
                }
            }
        };
        let phase = Phase::Pinning { deadline: now.after(PIN_TIMEOUT) };
        self.upgrade = Some(Upgrade { lineage, again, together, ..Upgrade::new(id, kind, phase) });
        self.down = false;
        out.push(Action::Progress { service, upgrade: Some(id), step: Step::Pinning });
        out.push(Action::Pin { service, upgrade: id, kind, again });
    }

    /// A rollback to a generation that stands by: all there is to do is the switch.
    fn begin_switch_back(&mut self, now: Time, request: Request, number: Number, out: &mut Outbox) {
        let Request { id, kind, .. } = request;
        let lineage = self.generations.get(&number).map(|generation| generation.lineage);
        self.upgrade = Some(Upgrade { lineage, ..Upgrade::new(id, kind, Phase::Candidate(number)) });
        if let Some(generation) = self.generations.get_mut(&number) {
            generation.upgrade = Some(id);
            if let Role::Standby { until } = generation.role {
                generation.stood_by = Some(until);
            }
        }
        let step = Step::SwitchingBack { generation: number };
        out.push(Action::Progress { service: self.id, upgrade: Some(id), step });
        self.switch(now, number, out);
    }

    /// Whether this upgrade is waiting for its release.
    pub(in crate::core) fn is_pinning(&self, id: UpgradeId) -> bool {
        self.upgrade.as_ref().is_some_and(|up| up.id == id && matches!(up.phase, Phase::Pinning { .. }))
    }

    pub(in crate::core) fn pinned(&mut self, now: Time, release: ReleaseId, mut policy: Policy, out: &mut Outbox) {
        // By the policy that was just read: one that allows more is meant for this upgrade too.
        if let Some(reason) = self.too_many_draining(&policy) {
            self.give_up(now, Verdict::Refused, reason, out);
            return self.let_go(release, out);
        }
        let configured = policy.instances;
        policy.instances = self.instances_for(configured);
        let Some(upgrade) = &mut self.upgrade else { return };
        let number = self.next;
        self.next = Number(number.0 + 1);
        upgrade.phase = Phase::Candidate(number);
        let lineage = upgrade.lineage.unwrap_or(number);
        let hooked = policy.hooks.has(Hook::BeforeStart);
        let candidate = Generation::new(number, lineage, release, policy, upgrade.id);
        self.generations.insert(number, Generation { configured: Some(configured), ..candidate });
        self.hold_new_listeners(out);
        if hooked { self.await_hook(now, number, Hook::BeforeStart, out) } else { self.launch(now, number, out) }
    }

    fn too_many_draining(&self, policy: &Policy) -> Option<Reason> {
        let draining = self.generations.values().filter(|generation| generation.is_on_its_way_out()).count();
        let (draining, limit) = (u32::try_from(draining).unwrap_or(u32::MAX), policy.max_draining);
        // While nothing serves, an upgrade is the way out.
        (self.serving().is_some() && draining >= limit).then_some(Reason::TooManyDraining { draining, limit })
    }

    pub(in crate::core) fn pin_failed(&mut self, now: Time, reason: Reason, out: &mut Outbox) {
        let refused = matches!(reason, Reason::Config(_) | Reason::Resources(_) | Reason::Overwritten(_));
        let verdict = if refused { Verdict::Refused } else { Verdict::Failed };
        self.give_up(now, verdict, reason, out);
    }

    // ---- the candidate --------------------------------------------------------------------------------------------

    /// Its processes are started: all of them beside what serves, or a few at a time in its place.
    pub(super) fn launch(&mut self, now: Time, number: Number, out: &mut Outbox) {
        let drain = self.serving().map(|serving| serving.policy.drain_timeout);
        let Some(generation) = self.generations.get_mut(&number) else { return };
        let step = Step::Starting { generation: number };
        out.push(Action::Progress { service: self.id, upgrade: generation.upgrade, step });
        if let (Some(drain), Some(_)) = (drain, generation.policy.pace()) {
            generation.role = Role::Rolling { gate: None };
            if let Some(upgrade) = &mut self.upgrade {
                upgrade.clear_by = Some(now.after(drain.saturating_add(KILL_TIMEOUT.saturating_mul(2))));
            }
            return self.roll(now, out);
        }
        for place in 0..generation.seats.len() {
            self.start(now, number, place, out);
        }
    }

    /// Something has happened that the candidate may have waited for.
    pub(super) fn go_on(&mut self, now: Time, number: Number, out: &mut Outbox) {
        let Some(generation) = self.generations.get(&number) else { return };
        match generation.role {
            Role::Starting if generation.hook.is_some() || !generation.is_ready() => {}
            Role::Starting if self.needs_hook(number) => self.run_ready_hook(now, number, out),
            Role::Starting => self.soak(now, number, out),
            Role::Rolling { .. } | Role::Serving | Role::Retreating => self.roll(now, out),
            Role::Soaking { .. }
            | Role::Held { .. }
            | Role::Stepping { .. }
            | Role::Switching
            | Role::Standby { .. }
            | Role::Draining
            | Role::Ending => {}
        }
    }

    fn soak(&mut self, now: Time, number: Number, out: &mut Outbox) {
        let unprotected = self.is_unprotected();
        let Some(generation) = self.generations.get_mut(&number) else { return };
        let span = generation.policy.soak;
        if unprotected || span.is_zero() {
            return self.soaked(now, number, out);
        }
        generation.role = Role::Soaking { until: now.after(span) };
        let step = Step::Soaking { generation: number, span };
        out.push(Action::Progress { service: self.id, upgrade: generation.upgrade, step });
    }

    pub(super) fn soaked(&mut self, now: Time, number: Number, out: &mut Outbox) {
        if self.is_unprotected() { self.switch(now, number, out) } else { self.step(now, number, 0, out) }
    }

    /// When nothing serves any more, a ready candidate takes over without further soak.
    pub(super) fn unprotected(&mut self, now: Time, out: &mut Outbox) {
        let waits = |candidate: &&Generation| {
            matches!(candidate.role, Role::Soaking { .. } | Role::Held { .. } | Role::Stepping { .. })
        };
        let waiting = self.candidate().filter(waits).map(|candidate| candidate.number);
        if let Some(number) = waiting.filter(|_| self.is_unprotected()) {
            self.switch(now, number, out);
        }
    }

    fn is_unprotected(&self) -> bool {
        !self.is_rehearsing() && !self.serving().is_some_and(Generation::is_up)
    }

    /// Whether the upgrade in flight is the first start of a service that is only started to see how that goes.
    pub(super) fn is_rehearsing(&self) -> bool {
        let is_first = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.kind == Kind::Start);
        is_first && self.first_failure == FirstFailure::Rehearse
    }

    // ---- the traffic ----------------------------------------------------------------------------------------------

    /// The candidate gets the share of a canary's step; all of it after the last one, or where there is none. One that is
    /// switched together with others waits for them.
    pub(super) fn step(&mut self, now: Time, number: Number, step: u32, out: &mut Outbox) {
        let together = self.upgrade.as_ref().is_some_and(|upgrade| upgrade.together);
        let Some(generation) = self.generations.get_mut(&number) else { return };
        if together && matches!(generation.policy.strategy, Strategy::BlueGreen { .. }) {
            generation.role = Role::Held { until: now.after(HOLD_TIMEOUT) };
            let step = Step::Held { generation: number };
            return out.push(Action::Progress { service: self.id, upgrade: generation.upgrade, step });
        }
        if generation.canary().is_none_or(|(steps, _)| step as usize >= steps.len()) {
            return self.switch(now, number, out);
        }
        generation.role = Role::Stepping { step, until: None };
        generation.switch_by = Some(now.after(SWITCH_TIMEOUT));
        self.set_weights(out);
    }

    /// Those that the candidate is to be switched with are ready too.
    pub(in crate::core) fn let_switch(&mut self, now: Time, out: &mut Outbox) {
        let held = self.candidate().filter(|candidate| matches!(candidate.role, Role::Held { .. }));
        if let Some(number) = held.map(|candidate| candidate.number) {
            self.switch(now, number, out);
        }
    }

    pub(super) fn switch(&mut self, now: Time, number: Number, out: &mut Outbox) {
        if let Some(generation) = self.generations.get_mut(&number) {
            generation.role = Role::Switching;
            generation.switch_by = Some(now.after(SWITCH_TIMEOUT));
        }
        self.set_weights(out);
    }

    pub(super) fn set_weights(&mut self, out: &mut Outbox) {
        self.weights_awaited += 1;
        out.push(Action::SetWeights { service: self.id, weights: self.weights() });
    }

    pub(in crate::core) fn weights_set(&mut self, now: Time, out: &mut Outbox) {
        // Answers come in order. While another is awaited, this one is about weights that were set before.
        self.weights_awaited = self.weights_awaited.saturating_sub(1);
        if self.weights_awaited > 0 {
            return;
        }
        let Some((number, role)) = self.candidate().map(|candidate| (candidate.number, candidate.role)) else { return };
        match role {
            Role::Switching => self.commit(now, number, out),
            Role::Stepping { step, until: None } => self.stay_at_step(now, number, step, out),
            Role::Stepping { until: Some(_), .. }
            | Role::Starting
            | Role::Soaking { .. }
            | Role::Held { .. }
            | Role::Rolling { .. }
            | Role::Serving
            | Role::Standby { .. }
            | Role::Retreating
            | Role::Draining
            | Role::Ending => {}
        }
    }

    /// The candidate has the share of this step, and keeps it for its time, or until somebody promotes it.
    fn stay_at_step(&mut self, now: Time, number: Number, step: u32, out: &mut Outbox) {
        let Some(generation) = self.generations.get_mut(&number) else { return };
        generation.switch_by = None;
        let Some((steps, manual)) = generation.canary() else { return };
        let Some(canary) = steps.get(step as usize) else { return };
        let hold = Some(canary.hold).filter(|_| !manual);
        let until = now.after(hold.unwrap_or(PROMOTE_TIMEOUT));
        let weighted = Step::Weighted { generation: number, weight: canary.weight, hold };
        generation.role = Role::Stepping { step, until: Some(until) };
        out.push(Action::Progress { service: self.id, upgrade: generation.upgrade, step: weighted });
    }

    /// A step of the canary is over.
    pub(super) fn step_over(&mut self, now: Time, number: Number, step: u32, out: &mut Outbox) {
        let manual = self.generations.get(&number).and_then(Generation::canary).is_some_and(|(_, manual)| manual);
        if manual {
            return self.give_up(now, Verdict::RolledBack, Reason::NeverPromoted(PROMOTE_TIMEOUT), out);
        }
        self.step(now, number, step + 1, out);
    }

    // ---- the verdict ----------------------------------------------------------------------------------------------

    /// New connections go to the candidate: the service is committed to it.
    fn commit(&mut self, now: Time, number: Number, out: &mut Outbox) {
        let old = self.serving().map(|generation| generation.number);
        let Some((id, kind)) = self.upgrade.as_ref().map(|upgrade| (upgrade.id, upgrade.kind)) else { return };
        let Some(generation) = self.generations.get_mut(&number) else { return };
        generation.role = Role::Serving;
        generation.switch_by = None;
        generation.stood_by = None;
        self.unrelieved.clear();
        let standby = match generation.policy.strategy {
            // What one goes back from is no use to go back to.
            Strategy::BlueGreen { standby } if kind != Kind::Rollback => Some(standby).filter(|span| !span.is_zero()),
            Strategy::BlueGreen { .. }
            | Strategy::Overlap
            | Strategy::Rolling { .. }
            | Strategy::Canary { .. }
            | Strategy::StopStart => None,
        };
        out.push(Action::Progress { service: self.id, upgrade: Some(id), step: Step::Serving { generation: number } });
        self.scale_as_wanted(now, number, out);
        self.pin(number, out);
        self.supersede(now, id, out);
        let Some(old) = old else { return self.upgraded(now, id, out) };
        let Some(generation) = self.generations.get_mut(&old) else { return self.upgraded(now, id, out) };
        generation.upgrade = Some(id);
        if let Some(span) = standby.filter(|_| generation.is_up()) {
            generation.role = Role::Standby { until: now.after(span) };
            let step = Step::Standby { generation: old, span };
            out.push(Action::Progress { service: self.id, upgrade: Some(id), step });
            return self.upgraded(now, id, out);
        }
        Self::drain(self.id, generation, now, out);
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.phase = Phase::Telling { old };
        }
        self.told(now, out);
    }

    /// Nobody goes back to what stood by until now, and what served in place of another is not needed any more.
    fn supersede(&mut self, now: Time, by: UpgradeId, out: &mut Outbox) {
        let helps = |role| matches!(role, Role::Standby { .. } | Role::Retreating);
        for generation in self.generations.values_mut().filter(|one| helps(one.role)) {
            generation.upgrade = Some(by);
            Self::drain(self.id, generation, now, out);
        }
    }

    pub(super) fn drain(service: ServiceId, generation: &mut Generation, now: Time, out: &mut Outbox) {
        generation.role = Role::Draining;
        // Where it was replaced piece by piece, that has been said.
        if generation.seats.iter().any(|seat| !seat.parked) {
            let step = Step::Draining { generation: generation.number, timeout: generation.policy.drain_timeout };
            out.push(Action::Progress { service, upgrade: generation.upgrade, step });
        }
        generation.stop_in_turn(now, out);
    }

    /// The verdict, once every instance of the old generation has been told to stop.
    pub(super) fn told(&mut self, now: Time, out: &mut Outbox) {
        let Some(Upgrade { id, phase: Phase::Telling { old }, .. }) = self.upgrade else { return };
        let untold = self.generations.get(&old).is_some_and(|old| old.instances.values().any(Instance::is_untold));
        if !untold {
            self.upgraded(now, id, out);
        }
    }

    fn upgraded(&mut self, now: Time, id: UpgradeId, out: &mut Outbox) {
        let Some(upgrade) = self.upgrade.take() else { return };
        let serving = self.generations.values_mut().find(|generation| generation.role == Role::Serving);
        let number = serving.map(|serving| {
            serving.upgrade = None;
            serving.number
        });
        self.conclude(id, Verdict::Upgraded, None, out);
        self.run_verdict_hook(&upgrade, Verdict::Upgraded, None, out);
        if let Some(number) = number {
            self.owe_after_drain(number);
        }
        self.settle(out);
        self.next_in_queue(now, out);
    }

    /// What clients were answered by the candidate is not good enough: it is given up, unless it serves already or has
    /// answered nobody.
    pub(in crate::core) fn condemn(&mut self, now: Time, id: UpgradeId, reason: &str, out: &mut Outbox) {
        let answers = |candidate: &&Generation| match candidate.role {
            Role::Soaking { .. }
            | Role::Held { .. }
            | Role::Rolling { .. }
            | Role::Stepping { .. }
            | Role::Switching => candidate.upgrade == Some(id) && candidate.is_up(),
            Role::Starting
            | Role::Serving
            | Role::Standby { .. }
            | Role::Retreating
            | Role::Draining
            | Role::Ending => false,
        };
        let protected = self.is_rehearsing() || self.serving().is_some();
        if protected && self.candidate().filter(answers).is_some() {
            self.give_up(now, Verdict::RolledBack, Reason::Condemned(reason.to_owned()), out);
        }
    }

    /// Gives the upgrade in flight up. What served goes on serving, or comes back.
    pub(super) fn give_up(&mut self, now: Time, verdict: Verdict, reason: Reason, out: &mut Outbox) {
        let Some(upgrade) = self.upgrade.take() else { return };
        let mut retried = false;
        if let Phase::Candidate(number) = upgrade.phase {
            if self.retreat(now, &upgrade, number, (verdict, &reason), out) {
                return;
            }
            let had_traffic = self.generations.get_mut(&number).is_some_and(|candidate| {
                candidate.switch_by.take().is_some()
                    || matches!(candidate.role, Role::Stepping { .. } | Role::Rolling { .. })
            });
            retried = self.retry_first_start(now, &upgrade, number, &reason, out);
            if !retried {
                self.end_candidate(now, number, out);
            }
            if self.serving().is_some() && had_traffic && !retried {
                self.set_weights(out);
            }
        }
        self.give_verdict(now, &upgrade, verdict, reason, retried, out);
    }

    /// A candidate that is of no more use goes; one that stood by before goes on standing by, unless its time is over.
    pub(super) fn end_candidate(&mut self, now: Time, number: Number, out: &mut Outbox) {
        let stopping = self.purpose != Purpose::Run;
        let Some(candidate) = self.generations.get_mut(&number) else { return };
        candidate.hook = None;
        if let Some(until) = candidate.stood_by.take().filter(|until| !stopping && *until > now) {
            candidate.role = Role::Standby { until };
            return;
        }
        candidate.role = Role::Ending;
        candidate.stop(now, out);
    }

    pub(super) fn give_verdict(
        &mut self,
        now: Time,
        upgrade: &Upgrade,
        verdict: Verdict,
        reason: Reason,
        retried: bool,
        out: &mut Outbox,
    ) {
        self.conclude(upgrade.id, verdict, Some(reason.clone()), out);
        self.run_verdict_hook(upgrade, verdict, Some(&reason), out);
        let is_answer = upgrade.kind == Kind::Start && self.first_failure != FirstFailure::Rehearse;
        self.never_started |= is_answer && !retried && self.purpose == Purpose::Run;
        self.down = self.serving().is_none();
        self.settle(out);
        if !self.never_started {
            self.next_in_queue(now, out);
        }
    }

    /// A first generation that fails where nobody waits for the answer is started again with backoff, since callers
    /// wait in the backlogs; a program that cannot be executed at all is not worth a second attempt, nor is one whose
    /// hook failed.
    fn retry_first_start(
        &mut self,
        now: Time,
        upgrade: &Upgrade,
        number: Number,
        reason: &Reason,
        out: &mut Outbox,
    ) -> bool {
        let hopeless = matches!(reason, Reason::Exec(_) | Reason::Stopping | Reason::Hook { .. });
        if upgrade.kind != Kind::Start || self.first_failure != FirstFailure::Retry || hopeless {
            return false;
        }
        let service = self.id;
        let Some(generation) = self.generations.get_mut(&number) else { return false };
        generation.role = Role::Serving;
        generation.upgrade = None;
        generation.hook = None;
        // One that fails its checks has been told of once, and would never be ended.
        for instance in generation.instances.values_mut().filter(|instance| !instance.is_available()) {
            instance.stop(now, &generation.policy, out);
        }
        for place in 0..generation.seats.len() {
            let seated = generation.seats[place].instance;
            generation.seats[place].parked = false;
            if seated.is_none() {
                Self::retry(service, generation, place, now, out);
            } else if !seated.and_then(|n| generation.instances.get(&n)).is_some_and(Instance::is_available) {
                generation.seats[place].doomed = Some(reason.clone());
            }
        }
        self.pin(number, out);
        true
    }

    /// Its first start failed for good, and others go on: what was asked for meanwhile is done.
    pub(in crate::core) fn stay_down(&mut self, now: Time, out: &mut Outbox) {
        if std::mem::take(&mut self.never_started) {
            self.next_in_queue(now, out);
        }
    }

    pub(super) fn next_in_queue(&mut self, now: Time, out: &mut Outbox) {
        while self.upgrade.is_none() {
            let Some(request) = self.queue.pop_front() else { return };
            self.begin(now, request, out);
        }
    }

    pub(super) fn conclude(&self, upgrade: UpgradeId, verdict: Verdict, reason: Option<Reason>, out: &mut Outbox) {
        out.push(Action::Conclude { service: self.id, upgrade, verdict, reason });
    }
}
