//! What is asked of a service.

use super::super::event::{Admission, Kind, Reason, Refusal, Step, Verdict};
use super::super::id::{Generation as Number, Time, UpgradeId};
use super::super::policy::{FirstFailure, TURN_TIMEOUT};
use super::generation::{Role, Seat, count};
use super::{Action, Outbox, Phase, Purpose, Request, Scaled, Service};

impl Service {
    pub(in crate::core) fn request(
        &mut self,
        now: Time,
        request: Request,
        out: &mut Outbox,
    ) -> Result<Admission, Refusal> {
        if self.purpose == Purpose::Stop {
            return Err(Refusal::Stopping);
        }
        self.purpose = Purpose::Run;
        let same = |other: &&Request| !other.of_sequence && (other.kind, other.to) == (request.kind, request.to);
        match self.queue.iter().find(same).filter(|_| !self.is_idle()) {
            Some(queued) => Ok(Admission::Joined(queued.id)),
            None => self.enqueue(now, Request { back_to: self.meant_to_go_back_to(request), ..request }, out),
        }
    }

    /// The same, and joins nobody.
    pub(in crate::core) fn enqueue(
        &mut self,
        now: Time,
        request: Request,
        out: &mut Outbox,
    ) -> Result<Admission, Refusal> {
        if self.purpose == Purpose::Stop {
            return Err(Refusal::Stopping);
        }
        self.purpose = Purpose::Run;
        let id = request.id;
        if self.is_idle() {
            self.begin(now, request, out);
            return Ok(Admission::Begun(id));
        }
        self.queue.push_back(request);
        Ok(Admission::Queued(id))
    }

    /// A first start that waits until it is its turn.
    pub(in crate::core) fn await_turn(&mut self, now: Time, request: Request) -> Result<Admission, Refusal> {
        if !self.is_idle() || self.purpose == Purpose::Stop {
            return Err(Refusal::Stopping);
        }
        self.purpose = Purpose::Run;
        self.awaits_turn_until = Some(now.after(TURN_TIMEOUT));
        self.queue.push_back(request);
        Ok(Admission::Queued(request.id))
    }

    /// It is its turn.
    pub(in crate::core) fn take_turn(&mut self, now: Time, out: &mut Outbox) {
        if self.awaits_turn_until.take().is_some() {
            self.next_in_queue(now, out);
        }
    }

    /// An upgrade that was to succeed together with this other one is given up, or not begun. Whether it is on its way to
    /// that only now.
    pub(in crate::core) fn give_up_together(
        &mut self,
        now: Time,
        id: UpgradeId,
        (upgrade, verdict): (UpgradeId, Verdict),
        out: &mut Outbox,
    ) -> bool {
        if let Some(place) = self.queue.iter().position(|request| request.id == id) {
            self.queue.remove(place);
            self.conclude(id, Verdict::Refused, Some(Reason::NotBegun { upgrade, verdict }), out);
            return true;
        }
        let own = self.upgrade.as_ref().filter(|own| own.id == id);
        match own.map(|own| own.phase) {
            Some(Phase::Pinning { .. } | Phase::Candidate(_)) => {
                self.give_up(now, Verdict::Aborted, Reason::NotAlone { upgrade, verdict }, out);
                true
            }
            Some(Phase::Telling { .. } | Phase::Returning { .. }) | None => false,
        }
    }

    /// Whether its first start waits for others to serve.
    #[must_use]
    pub fn awaits_turn(&self) -> bool {
        self.awaits_turn_until.is_some()
    }

    /// Whether nothing of it runs although it should, since its latest upgrade failed.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.down && self.purpose == Purpose::Run && self.is_idle() && self.serving().is_none()
    }

    /// Whether its failing first start is an answer that somebody waits for.
    pub(in crate::core) fn answers(&self) -> bool {
        self.first_failure == FirstFailure::Exit
    }

    /// Whether a request would begin at once.
    pub(in crate::core) fn is_idle(&self) -> bool {
        self.upgrade.is_none() && self.awaits_turn_until.is_none()
    }

    /// Whether there is something to go back to.
    pub(in crate::core) fn check_rollback(&self, to: Option<Number>) -> Result<(), Refusal> {
        match (to, self.serving().map(|generation| generation.number)) {
            // Something else may serve when its turn comes.
            (Some(to), Some(serving)) if to == serving && self.upgrade.is_some() => Ok(()),
            (Some(to), Some(serving)) if to == serving => Err(Refusal::Serves(to)),
            (Some(_), _) if self.kept_release(to).is_none() => Err(Refusal::NotKept(to)),
            (None, _) if self.upgrade.is_none() && self.kept_release(None).is_none() => Err(Refusal::NotKept(None)),
            _ => Ok(()),
        }
    }

    pub(in crate::core) fn abort(&mut self, now: Time, out: &mut Outbox) -> Result<UpgradeId, Refusal> {
        let upgrade = self.upgrade.as_ref().ok_or(Refusal::NothingInFlight)?;
        let id = upgrade.id;
        if upgrade.kind == Kind::Start && !self.is_rehearsing() {
            return Err(Refusal::FirstStart);
        }
        match upgrade.phase {
            Phase::Telling { .. } => Err(Refusal::TooLate),
            Phase::Returning { .. } => Err(Refusal::Returning),
            Phase::Pinning { .. } | Phase::Candidate(_) => {
                self.give_up(now, Verdict::Aborted, Reason::AbortedByOperator, out);
                Ok(id)
            }
        }
    }

    /// The canary step that waits is over: the next one begins, after the last one all of the traffic moves; at once
    /// with `full`.
    pub(in crate::core) fn promote(&mut self, now: Time, full: bool, out: &mut Outbox) -> Result<UpgradeId, Refusal> {
        let candidate = self.candidate().ok_or(Refusal::NothingToPromote)?;
        let Role::Stepping { step, until: Some(_) } = candidate.role else { return Err(Refusal::NothingToPromote) };
        let (number, id) = (candidate.number, candidate.upgrade.ok_or(Refusal::NothingToPromote)?);
        if full {
            self.switch(now, number, out)
        } else {
            self.step(now, number, step + 1, out)
        }
        Ok(id)
    }

    /// From now on it has so many instances, until the config says another number than it says now.
    pub(in crate::core) fn scale(&mut self, now: Time, instances: u32, out: &mut Outbox) -> Result<Number, Refusal> {
        if self.purpose == Purpose::Stop {
            return Err(Refusal::Stopping);
        }
        if self.upgrade.is_some() {
            return Err(Refusal::Upgrading);
        }
        let serving = self.serving().ok_or(Refusal::NotRunning)?;
        let number = serving.number;
        let configured = self.scaled.map_or(serving.policy.instances, |scaled| scaled.configured);
        self.scaled = Some(Scaled { configured, wanted: instances }).filter(|_| instances != configured);
        self.resize(now, number, instances, out);
        if let Some((_, policy)) = &mut self.pinned {
            policy.instances = instances;
        }
        Ok(number)
    }

    /// How many instances there are to be where the config says so many.
    #[must_use]
    pub fn instances_for(&self, configured: u32) -> u32 {
        self.scaled.filter(|scaled| scaled.holds(configured)).map_or(configured, |scaled| scaled.wanted)
    }

    /// A generation that serves from now on has as many as are wanted by now: one that stood by has as many as it had. Where
    /// its config says another number, nobody's choice holds any more.
    pub(super) fn scale_as_wanted(&mut self, now: Time, number: Number, out: &mut Outbox) {
        let Some(generation) = self.generations.get(&number) else { return };
        let (Some(configured), has) = (generation.configured, generation.policy.instances) else { return };
        self.scaled = self.scaled.filter(|scaled| scaled.holds(configured));
        let wanted = self.instances_for(configured);
        if wanted != has {
            self.resize(now, number, wanted, out);
        }
    }

    fn resize(&mut self, now: Time, number: Number, instances: u32, out: &mut Outbox) {
        let Some(generation) = self.generations.get_mut(&number) else { return };
        let step = Step::Scaled { generation: number, instances };
        out.push(Action::Progress { service: self.id, upgrade: None, step });
        generation.policy.instances = instances;
        let before = generation.seats.len();
        for place in instances as usize..before {
            generation.park(place, now, out);
        }
        generation.seats.resize(instances as usize, Seat { parked: true, ..Seat::default() });
        for place in before..instances as usize {
            self.start(now, number, place, out);
        }
    }

    /// It takes no upgrades any more: what is in flight is given up, what waits is not begun, and nobody goes back to what
    /// stands by. What serves goes on, until it is told to stop.
    pub(in crate::core) fn close(&mut self, now: Time, out: &mut Outbox) {
        if self.purpose != Purpose::Run {
            return;
        }
        self.end_pause(now, out);
        self.clear_queue(out);
        match self.upgrade.as_ref().map(|upgrade| upgrade.phase) {
            Some(Phase::Pinning { .. } | Phase::Candidate(_)) => {
                self.give_up(now, Verdict::Aborted, Reason::Stopping, out);
            }
            Some(Phase::Telling { .. } | Phase::Returning { .. }) | None => {}
        }
        self.forget_after_drain();
        for generation in self.generations.values_mut().filter(|one| matches!(one.role, Role::Standby { .. })) {
            Self::drain(self.id, generation, now, out);
        }
        self.settle(out);
    }

    fn clear_queue(&mut self, out: &mut Outbox) {
        self.awaits_turn_until = None;
        for request in std::mem::take(&mut self.queue) {
            self.conclude(request.id, Verdict::Aborted, Some(Reason::Stopping), out);
        }
    }

    /// Ends every process, gracefully.
    pub(in crate::core) fn stop(&mut self, now: Time, out: &mut Outbox) {
        if self.purpose != Purpose::Run {
            return;
        }
        self.purpose = Purpose::Stop;
        self.forget_after_drain();
        self.end_pause(now, out);
        self.clear_queue(out);
        match self.upgrade.as_ref().map(|upgrade| upgrade.phase) {
            Some(Phase::Pinning { .. } | Phase::Candidate(_)) => {
                self.give_up(now, Verdict::Aborted, Reason::Stopping, out);
            }
            Some(Phase::Returning { .. }) => self.return_late(now, out),
            Some(Phase::Telling { .. }) | None => {}
        }
        for generation in self.generations.values_mut() {
            if matches!(generation.role, Role::Serving | Role::Standby { .. } | Role::Retreating) {
                Self::drain(self.id, generation, now, out);
            }
            if generation.role == Role::Draining {
                // Nobody is to come back: there is nothing to wait for.
                generation.stop(now, out);
            }
        }
        self.settle(out);
    }

    /// Ends every process, at once. Comes after [`Self::stop`].
    pub(in crate::core) fn kill(&mut self, now: Time, out: &mut Outbox) {
        for generation in self.generations.values_mut() {
            for instance in generation.instances.values_mut() {
                instance.kill(now, out);
            }
        }
        // Nobody waits any more for a stop signal to have been sent.
        self.told(now, out);
    }

    /// How many processes the service is meant to have.
    #[must_use]
    pub fn desired(&self) -> u32 {
        self.serving().map_or(0, |serving| count(serving.seats.iter()))
    }
}
