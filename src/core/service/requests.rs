//! What is asked of a service.

use super::super::event::{Admission, Kind, Reason, Refusal, Step, Verdict};
use super::super::id::{Generation as Number, Time, UpgradeId};
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
        let id = request.id;
        if self.upgrade.is_none() {
            self.begin(now, request, out);
            return Ok(Admission::Begun(id));
        }
        let same = |other: &&Request| (other.kind, other.to) == (request.kind, request.to);
        if let Some(queued) = self.queue.iter().find(same) {
            return Ok(Admission::Joined(queued.id));
        }
        self.queue.push_back(request);
        Ok(Admission::Queued(id))
    }

    /// Whether there is something to go back to.
    pub(in crate::core) fn check_rollback(&self, to: Option<Number>) -> Result<(), Refusal> {
        match (to, self.serving().map(|generation| generation.number)) {
            (Some(to), Some(serving)) if to == serving && self.upgrade.is_none() => Err(Refusal::Serves(to)),
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
        let service = self.id;
        let serving = self.generations.values_mut().find(|generation| generation.role == Role::Serving);
        let serving = serving.ok_or(Refusal::NotRunning)?;
        let number = serving.number;
        let configured = self.scaled.map_or(serving.policy.instances, |scaled| scaled.configured);
        self.scaled = Some(Scaled { configured, wanted: instances }).filter(|_| instances != configured);
        serving.policy.instances = instances;
        if let Some((_, policy)) = &mut self.pinned {
            policy.instances = instances;
        }
        let before = serving.seats.len();
        for place in instances as usize..before {
            serving.park(place, now, out);
        }
        serving.seats.resize(instances as usize, Seat { parked: true, ..Seat::default() });
        out.push(Action::Progress { service, upgrade: None, step: Step::Scaled { generation: number, instances } });
        for place in before..instances as usize {
            self.start(now, number, place, out);
        }
        Ok(number)
    }

    /// Ends every process, gracefully.
    pub(in crate::core) fn stop(&mut self, now: Time, out: &mut Outbox) {
        if self.purpose != Purpose::Run {
            return;
        }
        self.purpose = Purpose::Stop;
        self.release(now, out);
        for request in std::mem::take(&mut self.queue) {
            self.conclude(request.id, Verdict::Aborted, Some(Reason::Stopping), out);
        }
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
