//! When the commands of a hook are run.
//!
//! - `before-start` and `after-ready` are waited for, and fail the upgrade. Either may be run twice, where a supervisor
//!   died meanwhile.
//! - `after-switch`, `on-failure` and `on-rollback` follow the verdict.
//! - `after-drain` follows the end of the last process of any generation that served before: also of one that an
//!   earlier upgrade left draining, or that stands by.

use super::super::event::{Hook, Reason, Verdict};
use super::super::id::{Generation as Number, ReleaseId, Time};
use super::super::policy::HOOK_GRACE;
use super::{Action, Generation, Outbox, Phase, Role, Service, Step, Upgrade};

impl Service {
    /// A hook of the candidate has ended.
    pub(in crate::core) fn hook_done(
        &mut self,
        now: Time,
        number: Number,
        hook: Hook,
        result: Result<(), String>,
        out: &mut Outbox,
    ) {
        let Some(generation) = self.generations.get_mut(&number) else { return };
        if !matches!(generation.hook, Some((awaited, _)) if awaited == hook) {
            return;
        }
        generation.hook = None;
        if let Err(error) = result {
            return self.give_up(now, Verdict::Failed, Reason::Hook { hook, error }, out);
        }
        match hook {
            Hook::BeforeStart => self.launch(now, number, out),
            Hook::AfterReady => {
                generation.hooked = true;
                self.go_on(now, number, out);
            }
            Hook::AfterSwitch | Hook::AfterDrain | Hook::OnFailure | Hook::OnRollback => {}
        }
    }

    /// Whether the candidate's hook for those that are ready is still to be run.
    pub(super) fn needs_hook(&self, number: Number) -> bool {
        let generation = self.generations.get(&number);
        generation.is_some_and(|one| !one.hooked && one.hook.is_none() && one.policy.hooks.has(Hook::AfterReady))
    }

    pub(super) fn run_ready_hook(&mut self, now: Time, number: Number, out: &mut Outbox) {
        self.await_hook(now, number, Hook::AfterReady, out);
    }

    /// Runs a hook that the candidate waits for.
    pub(super) fn await_hook(&mut self, now: Time, number: Number, hook: Hook, out: &mut Outbox) {
        let service = self.id;
        let Some(generation) = self.generations.get_mut(&number) else { return };
        let timeout = generation.policy.hooks.timeout.saturating_add(HOOK_GRACE);
        generation.hook = Some((hook, now.after(timeout)));
        let step = Step::HookBegun { generation: number, hook };
        out.push(Action::Progress { service, upgrade: generation.upgrade, step });
        out.push(Action::RunHook { service, generation: number, release: generation.release, hook, reason: None });
    }

    /// The hook took too long, and whoever runs it has not said so.
    pub(super) fn hook_late(&mut self, now: Time, number: Number, hook: Hook, out: &mut Outbox) {
        self.hook_done(now, number, hook, Err("it did not end in time".into()), out);
    }

    /// Says again which hook is waited for.
    pub(super) fn ask_for_hooks_again(&self, out: &mut Outbox) {
        for generation in self.generations.values() {
            if let Some((hook, _)) = generation.hook {
                let (generation, release) = (generation.number, generation.release);
                out.ask_again(Action::RunHook { service: self.id, generation, release, hook, reason: None });
            }
        }
    }

    /// What follows a verdict. `candidate`: whose hooks they are; without one, those of what serves.
    pub(super) fn run_verdict_hook(
        &mut self,
        upgrade: &Upgrade,
        verdict: Verdict,
        reason: Option<&Reason>,
        out: &mut Outbox,
    ) {
        let candidate = match upgrade.phase {
            Phase::Candidate(number) | Phase::Returning { candidate: number, .. } => Some(number),
            Phase::Pinning { .. } | Phase::Telling { .. } => None,
        };
        let hook = match verdict {
            Verdict::Upgraded => Hook::AfterSwitch,
            Verdict::Failed | Verdict::Aborted => Hook::OnFailure,
            Verdict::RolledBack => Hook::OnRollback,
            Verdict::Refused => return,
        };
        let candidate = candidate.and_then(|number| self.generations.get(&number)).or_else(|| self.serving());
        if let Some(generation) = candidate.filter(|generation| generation.policy.hooks.has(hook)) {
            out.push(self.hook_of(generation, hook, reason.cloned()));
        }
    }

    fn hook_of(&self, generation: &Generation, hook: Hook, reason: Option<Reason>) -> Action {
        let (number, release): (Number, ReleaseId) = (generation.number, generation.release);
        Action::RunHook { service: self.id, generation: number, release, hook, reason }
    }

    /// This generation has replaced others: its hook is owed once they are gone.
    pub(super) fn owe_after_drain(&mut self, number: Number) {
        let has = self.generations.get(&number).is_some_and(|one| one.policy.hooks.has(Hook::AfterDrain));
        self.owes_after_drain = Some(number).filter(|_| has);
    }

    /// All of it ends, in no order: what is gone by then is not gone because of the upgrade.
    pub(super) fn forget_after_drain(&mut self) {
        self.owes_after_drain = None;
    }

    pub(super) fn run_owed_hook(&mut self, out: &mut Outbox) {
        let Some(number) = self.owes_after_drain else { return };
        let former = |role| matches!(role, Role::Draining | Role::Standby { .. });
        if self.generations.values().any(|generation| former(generation.role)) || self.upgrade.is_some() {
            return;
        }
        self.owes_after_drain = None;
        let serving = self.generations.get(&number).filter(|generation| generation.role == Role::Serving);
        if let Some(generation) = serving {
            out.push(self.hook_of(generation, Hook::AfterDrain, None));
        }
    }
}
