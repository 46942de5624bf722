//! Hooks: commands that are run at moments of an upgrade, one hook of a service at a time.
//!
//! ```text
//!  RunHook ─► waiting ─► running: one command after the other ─► HookDone, or a warning where nobody waits for it
//!                           │ timeout, not wanted any more
//!                           └─► SIGTERM ─► SIGKILL to its group
//! ```
//!
//! - What the machine waits for goes before what nobody waits for, but not before `after-drain`: what one release
//!   contracts comes before what the next one expands.
//! - A supervisor that dies leaves a hook half done, and nobody can know how far it came: its successor ends what is left
//!   of it and runs it again. So hooks must be repeatable.
//! - Hooks have neither listeners nor a notify socket: they are no part of an instance.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::Supervisor;
use super::ledger::News;
use super::poller::Poller;
use super::release::Release;
use crate::control::types::UpgradeStatus;
use crate::core::event::Hook;
use crate::core::{Event, Generation, Reason, ReleaseId, ServiceId, Time, UpgradeId, spoken};
use crate::sys::Pid;

mod adopted;
mod running;

use adopted::Leftover;
use running::{Ground, Running, Step};

/// Hooks that may wait for their turn; so many more upgrades have ended than hooks that nobody waits for.
const WAITING: usize = 16;

/// The hooks of one service.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    running: Option<Running>,
    waiting: VecDeque<Order>,
    /// What a predecessor had begun, on its way out.
    leftover: Option<Leftover>,
    /// What the hook that failed an upgrade printed last, until its verdict.
    last_output: Vec<String>,
}

/// A hook that is to be run.
#[derive(Debug)]
struct Order {
    hook: Hook,
    generation: Generation,
    release_id: ReleaseId,
    /// Without its listeners, which may have to be closed meanwhile.
    release: Arc<Release>,
    /// The upgrade that it is part of.
    upgrade: Option<UpgradeId>,
    /// What its environment says beside the release's.
    environment: BTreeMap<String, String>,
    /// Until when it is waited for, if it is: its turn may come late.
    until: Option<Time>,
}

impl Order {
    /// Whether the machine waits for it.
    fn is_awaited(&self) -> bool {
        is_awaited(self.hook)
    }
}

fn is_awaited(hook: Hook) -> bool {
    matches!(hook, Hook::BeforeStart | Hook::AfterReady)
}

impl Hooks {
    /// Nothing runs, and nothing is to be run.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_none() && self.waiting.is_empty() && self.leftover.is_none()
    }

    /// Whether this is the process of one.
    pub(super) fn is(&self, pid: Pid) -> bool {
        self.errand().is_some_and(|errand| errand.is(pid))
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Time> {
        let running = self.running.as_ref().and_then(Running::deadline);
        let waiting = self.waiting.iter().filter_map(|order| order.until);
        running.into_iter().chain(self.leftover.as_ref().map(Leftover::deadline)).chain(waiting).min()
    }

    /// The one that runs.
    pub(super) fn describe(&self) -> Option<String> {
        let order = &self.running.as_ref()?.order;
        Some(format!("{} of generation {}", order.hook, order.generation))
    }

    /// What the hook that failed an upgrade printed last.
    pub(super) fn take_last_output(&mut self) -> Vec<String> {
        std::mem::take(&mut self.last_output)
    }

    /// Puts one in its place.
    fn wait(&mut self, order: Order) {
        let after_drain = self.waiting.iter().rposition(|other| other.hook == Hook::AfterDrain);
        match (order.is_awaited(), after_drain) {
            (true, Some(last)) => self.waiting.insert(last + 1, order),
            (true, None) => self.waiting.push_front(order),
            (false, _) => self.waiting.push_back(order),
        }
    }

    /// Nothing is wanted any more: what runs is told to end, at once where that is wanted.
    pub(super) fn stop(&mut self, now: Time, at_once: bool, poller: &mut Poller) {
        self.waiting.clear();
        if let Some(running) = &mut self.running {
            running.withdraw(now);
        }
        if at_once {
            if let Some(running) = self.running.take() {
                running.end(poller);
            }
            if let Some(leftover) = self.leftover.take() {
                leftover.end(poller);
            }
        }
    }
}

impl Supervisor {
    /// A hook is to be run.
    pub(super) fn run_hook(
        &mut self,
        service: ServiceId,
        generation: Generation,
        release_id: ReleaseId,
        hook: Hook,
        reason: Option<&Reason>,
    ) {
        let release = self.releases.get(&release_id).filter(|release| release.hooks.contains_key(&hook));
        let Some(release) = release.map(|release| Arc::new(release.at_rest())) else {
            return self.hook_done(service, generation, hook, None, Ok(()));
        };
        let upgrade = self.upgrade_of_hook(service, generation, hook);
        let record = upgrade.and_then(|upgrade| self.ledger.status(upgrade, self.now()));
        let environment = environment(self.name_of(service), generation, &release, hook, record.as_ref(), reason);
        let until = is_awaited(hook).then(|| self.now().after(release.service.hooks.timeout));
        let order = Order { hook, generation, release_id, release, upgrade, environment, until };
        let Some(shell) = self.services.get_mut(&service) else { return };
        if !order.is_awaited() {
            if self.stopping {
                tracing::info!(service = shell.name, "the {hook} hook is not run: the supervisor is being stopped");
                return;
            }
            if shell.hooks.waiting.len() >= WAITING {
                let error = "too many others wait for their turn".to_owned();
                return self.hook_done(service, generation, hook, upgrade, Err(error));
            }
        }
        shell.hooks.wait(order);
        self.next_hook(service);
    }

    /// The upgrade that a hook belongs to.
    fn upgrade_of_hook(&self, service: ServiceId, generation: Generation, hook: Hook) -> Option<UpgradeId> {
        let name = self.name_of(service);
        match hook {
            Hook::BeforeStart | Hook::AfterReady => Some(self.core.services().get(&service)?.upgrade.as_ref()?.id),
            Hook::AfterSwitch | Hook::AfterDrain => self.ledger.latest_to(name, generation),
            // It has just had its verdict, maybe before it had a generation.
            Hook::OnFailure | Hook::OnRollback => self.ledger.latest_ended(name),
        }
    }

    /// Runs the next one, if nothing else runs.
    pub(super) fn next_hook(&mut self, service: ServiceId) {
        let now = self.now();
        let Some(shell) = self.services.get_mut(&service) else { return };
        if shell.hooks.running.is_some() || shell.hooks.leftover.is_some() {
            return;
        }
        let Some(order) = shell.hooks.waiting.pop_front() else { return };
        self.survival.stale = true;
        let (generation, hook, upgrade) = (order.generation, order.hook, order.upgrade);
        if !order.is_awaited() {
            // Of the others the machine tells.
            tracing::info!(service = shell.name, generation = generation.0, "running the {hook} hook");
        }
        let mut ground = Ground {
            poller: &mut self.poller,
            service,
            name: &shell.name,
            nofile: self.surroundings.nofile,
            sink: &self.stderr,
            terminal: self.terminal,
        };
        match Running::begin(order, now, &mut ground) {
            Ok(running) => shell.hooks.running = Some(running),
            Err(error) => {
                self.hook_done(service, generation, hook, upgrade, Err(error));
                self.next_hook(service);
            }
        }
    }

    /// The supervisor is being stopped: no hook is wanted any more.
    pub(super) fn stop_hooks(&mut self, at_once: bool) {
        let now = self.now();
        for service in self.services.values_mut() {
            service.hooks.stop(now, at_once, &mut self.poller);
        }
    }

    // ---- what happens to the one that runs ------------------------------------------------------------------------

    pub(super) fn on_hook_shim(&mut self, service: ServiceId) {
        let Some(running) = self.services.get_mut(&service).and_then(|it| it.hooks.running.as_mut()) else { return };
        if let Err(error) = running.launch(&mut self.poller) {
            self.end_hook(service, Err(error));
        }
    }

    pub(super) fn on_hook_output(&mut self, service: ServiceId) {
        let now = self.now();
        let Some(running) = self.services.get_mut(&service).and_then(|it| it.hooks.running.as_mut()) else { return };
        running.pump(&mut self.poller);
        self.tell_hook_output(service, now);
    }

    pub(super) fn on_hook_exit(&mut self, service: ServiceId) {
        let now = self.now();
        let Some(shell) = self.services.get_mut(&service) else { return };
        if shell.hooks.leftover.as_ref().is_some_and(|leftover| leftover.exit().is_some()) {
            return self.leftover_is_gone(service);
        }
        let Some(running) = &mut shell.hooks.running else { return };
        let mut ground = Ground {
            poller: &mut self.poller,
            service,
            name: &shell.name,
            nofile: self.surroundings.nofile,
            sink: &self.stderr,
            terminal: self.terminal,
        };
        match running.exited(&mut ground) {
            Step::Goes => {}
            Step::Next => self.survival.stale = true,
            Step::Over(result) => self.end_hook(service, result),
        }
        self.tell_hook_output(service, now);
    }

    /// Does what is due.
    pub(super) fn on_hook_time(&mut self) {
        let now = self.now();
        let due = |(id, service): (&ServiceId, &super::Service)| {
            service.hooks.deadline().is_some_and(|at| at <= now).then_some(*id)
        };
        let due: Vec<ServiceId> = self.services.iter().filter_map(due).collect();
        for service in due {
            self.tell_hook_output(service, now);
            self.expire_hooks(service, now);
            let Some(shell) = self.services.get_mut(&service) else { continue };
            if shell.hooks.leftover.as_mut().is_some_and(|leftover| leftover.is_lost(now)) {
                self.leftover_is_gone(service);
            } else if let Some(running) = &mut shell.hooks.running
                && let Some(result) = running.on_time(now)
            {
                self.end_hook(service, result);
            }
        }
    }

    /// Those whose turn has not come while they were waited for.
    fn expire_hooks(&mut self, service: ServiceId, now: Time) {
        let Some(hooks) = self.services.get_mut(&service).map(|service| &mut service.hooks) else { return };
        let before = hooks.describe().unwrap_or_else(|| "what is left of another hook".to_owned());
        let late = |order: &Order| order.until.is_some_and(|until| until <= now);
        let Some(place) = hooks.waiting.iter().position(late) else { return };
        let Some(order) = hooks.waiting.remove(place) else { return };
        let span = spoken(order.release.service.hooks.timeout);
        let error = format!("its turn did not come in {span}, for {before} was not over");
        self.hook_done(service, order.generation, order.hook, order.upgrade, Err(error));
    }

    /// Ends those that the machine waited for, and waits for no more. Called after whatever may have changed its mind.
    pub(super) fn withdraw_hooks(&mut self) {
        let now = self.now();
        for (id, shell) in &mut self.services {
            if shell.hooks.is_idle() {
                continue;
            }
            let machine = self.core.services().get(id);
            let wanted = |order: &Order| {
                let generation = machine.and_then(|machine| machine.generations.get(&order.generation));
                let awaited = generation.and_then(|generation| generation.hook.as_ref());
                !order.is_awaited() || awaited.is_some_and(|(hook, _)| *hook == order.hook)
            };
            shell.hooks.waiting.retain(wanted);
            if let Some(running) = shell.hooks.running.as_mut().filter(|running| !wanted(&running.order)) {
                running.withdraw(now);
            }
        }
    }

    /// It is over, whichever way.
    fn end_hook(&mut self, service: ServiceId, result: Result<(), String>) {
        let Some(shell) = self.services.get_mut(&service) else { return };
        let Some(running) = shell.hooks.running.take() else { return };
        self.survival.stale = true;
        let Order { hook, generation, upgrade, .. } = running.order;
        let withdrawn = running.is_withdrawn();
        let last_output = running.end(&mut self.poller);
        if withdrawn {
            tracing::info!(service = shell.name, generation = generation.0, "the {hook} hook was ended");
        } else {
            if result.is_err() {
                shell.hooks.last_output = last_output;
            }
            self.hook_done(service, generation, hook, upgrade, result);
        }
        self.next_hook(service);
    }

    /// Tells the machine; of one that nobody waits for, what a person should know.
    fn hook_done(
        &mut self,
        service: ServiceId,
        generation: Generation,
        hook: Hook,
        upgrade: Option<UpgradeId>,
        result: Result<(), String>,
    ) {
        if is_awaited(hook) {
            return self.tell_core(Event::HookDone { service, generation, hook, result });
        }
        let Err(error) = result else { return };
        let message = Reason::Hook { hook, error }.to_string();
        tracing::warn!(service = self.name_of(service), generation = generation.0, "{message}");
        if let Some(upgrade) = upgrade {
            self.warn_of_upgrade(service, upgrade, News { event: "warning", message, generation: Some(generation) });
        }
        self.survival.stale = true;
    }

    /// Whoever waits for the upgrade sees what its hook does.
    fn tell_hook_output(&mut self, service: ServiceId, now: Time) {
        let Some(running) = self.services.get_mut(&service).and_then(|it| it.hooks.running.as_mut()) else { return };
        let (generation, upgrade) = (running.order.generation, running.order.upgrade);
        if !running.order.is_awaited() {
            return;
        }
        if let Some(message) = running.says(now)
            && let Some(upgrade) = upgrade
        {
            self.ledger.tell(upgrade, now, News { event: "output", message, generation: Some(generation) });
        }
    }
}

/// What the environment of a hook says beside the release's.
fn environment(
    service: &str,
    generation: Generation,
    release: &Release,
    hook: Hook,
    record: Option<&UpgradeStatus>,
    reason: Option<&Reason>,
) -> BTreeMap<String, String> {
    let verdict = record.and_then(|record| record.verdict.as_ref()).map(|verdict| verdict.verdict);
    let verdict = verdict.filter(|_| matches!(hook, Hook::OnFailure | Hook::OnRollback));
    let from = record.and_then(|record| record.from);
    let pairs = [
        ("ZDSUP_SERVICE", Some(service.to_owned())),
        ("ZDSUP_GENERATION", Some(generation.to_string())),
        ("ZDSUP_HOOK", Some(hook.to_string())),
        ("ZDSUP_RELEASE", Some(release.program.program.path.to_string_lossy().into_owned())),
        ("ZDSUP_FROM", from.map(|from| from.to_string())),
        ("ZDSUP_VERDICT", verdict.map(|verdict| verdict.to_string())),
        ("ZDSUP_REASON", reason.map(Reason::to_string)),
    ];
    pairs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
