//! What the machine wants done, done.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::ledger::{LastWords, News};
use super::listeners::{Busy, Change};
use super::process::{Ground, Process};
use super::release::{Exported, Pinned, Release};
use super::store::Store;
use super::survival::PER_INSTANCE;
use super::{Elsewhere, End, Pending, Service, StartError, Supervisor, inherited, release, story};
use crate::config;
use crate::control::types::{LastOutput, VerdictStatus};
use crate::core::event::InstanceEvent;
use crate::core::service::Role;
use crate::core::{
    Action, Event, Generation, InstanceId, Kind, Outcome, Reason, ReleaseId, ServiceId, Slot, Step, UpgradeId, Verdict,
};
use crate::sys::shim::Blank;

impl Supervisor {
    /// Does everything that the machine wants at the moment.
    pub(super) fn act(&mut self) {
        let mut told = false;
        loop {
            self.settle_stores();
            // Before a process is told to stop, no new connections go to it.
            self.steer();
            self.withdraw_hooks();
            // What is wanted is written down before it is done.
            self.record();
            let Some(action) = self.core.poll_action() else {
                if told {
                    // A successor would tell it once more.
                    self.survival.stale = true;
                    self.record();
                }
                if std::mem::take(&mut self.status_due) {
                    self.systemd.status(&self.status_line(None));
                }
                self.forget_removed();
                return;
            };
            match action {
                Action::Pin { service, upgrade, kind, again } => self.pin(service, upgrade, kind, again),
                Action::Prepare { instance, release } => self.prepare(instance, release),
                Action::Launch(instance) => self.launch(instance),
                Action::SetWeights { service, .. } => self.set_weights(service),
                Action::Hold { service, on } => self.hold(service, on),
                Action::RunHook { service, generation, release, hook, reason } => {
                    self.run_hook(service, generation, release, hook, reason.as_ref());
                }
                Action::Stop(instance) => self.stop(instance),
                Action::Abort(instance) => self.abort(instance),
                Action::Kill(instance) => self.kill(instance),
                Action::Sweep { instance, force } => self.sweep(instance, force),
                Action::Progress { service, upgrade, step } => {
                    self.progress(service, upgrade, &step);
                    told = true;
                }
                Action::Conclude { service, upgrade, verdict, reason } => {
                    self.conclude(service, upgrade, verdict, reason);
                    self.survival.stale = true;
                }
                Action::Discard(release) => {
                    self.survival.stale = true;
                    self.pending.retain(|_, pending| pending.release != release);
                    self.releases.remove(&release);
                    self.unwatch_unused();
                }
                Action::Remove(service) => self.remove(service),
                Action::Finish(outcome) => self.finish(outcome),
            }
        }
    }

    pub(super) fn tell_core(&mut self, event: Event) {
        let now = self.now();
        self.survival.stale = true;
        self.steer_due = true;
        self.core.handle(now, event);
    }

    pub(super) fn tell_core_of(&mut self, instance: InstanceId, event: InstanceEvent) {
        self.tell_core(Event::Instance(instance, event));
    }

    // ---- releases -------------------------------------------------------------------------------------------------

    fn pin(&mut self, service: ServiceId, upgrade: UpgradeId, kind: Kind, again: Option<ReleaseId>) {
        let name = self.name_of(service).to_owned();
        let listeners = self.services.get(&service).map(|service| service.listeners.clone()).unwrap_or_default();
        let surroundings = Arc::clone(&self.surroundings);
        let pinned = again.and_then(|release| self.releases.get(&release).map(Arc::clone));
        // Each that hangs holds a thread, and there are only so many.
        if !self.pinning.insert(service) {
            let reason =
                Reason::Resources("a former attempt to resolve the release still hangs: is a disk gone?".into());
            return self.tell_core(Event::PinFailed { upgrade, reason });
        }
        if let Some(reason) = self.survival.is_full(0) {
            self.pinning.remove(&service);
            return self.tell_core(Event::PinFailed { upgrade, reason });
        }
        let inherited = Arc::clone(&self.inherited);
        let taken = self.slots_taken(service);
        self.off_the_loop(move || {
            let result = match (kind, pinned) {
                (Kind::Restart, Some(release)) => release.again(listeners),
                (Kind::Rollback, Some(release)) => release.back(&listeners, taken),
                (Kind::Restart | Kind::Rollback, None) => Err(Reason::Pin("the release is gone".into())),
                (Kind::Start | Kind::Reload, _) => surroundings.pin(&name, kind, (&listeners, taken), &inherited),
            };
            Some(Elsewhere::Pinned { service, upgrade, result: Box::new(result) })
        });
        self.load_blank(service);
    }

    /// Makes the process that the next instance will be.
    pub(super) fn load_blank(&mut self, service: ServiceId) {
        if let Some(service) = self.services.get_mut(&service).filter(|service| service.blank.is_none()) {
            // What stands in the way is told when it is wanted.
            service.blank = Blank::start().ok();
        }
    }

    pub(super) fn on_pinned(
        &mut self,
        service: ServiceId,
        upgrade: UpgradeId,
        result: Result<release::Pinned, Reason>,
    ) {
        self.pinning.remove(&service);
        let mut pinned = match result {
            Ok(pinned) => pinned,
            Err(reason) => {
                inherited::lock(&self.inherited).give_back(self.name_of(service));
                return self.tell_core(Event::PinFailed { upgrade, reason });
            }
        };
        for warning in &pinned.warnings {
            tracing::warn!(service = self.name_of(service), "{warning}");
        }
        let configured = pinned.release.service.instances;
        let machine = self.core.services().get(&service);
        let instances = machine.map_or(configured, |machine| machine.instances_for(configured));
        let further = instances.saturating_sub(1) as usize * PER_INSTANCE;
        if let Some(reason) = self.survival.is_full(further + pinned.release.hooks.values().flatten().count()) {
            inherited::lock(&self.inherited).give_back(self.name_of(service));
            return self.tell_core(Event::PinFailed { upgrade, reason });
        }
        let id = ReleaseId(self.next_release);
        self.next_release += 1;
        let policy = release::policy(&pinned.release.service);
        let first = self.services.get_mut(&service).filter(|service| service.listeners.is_empty());
        if let Some(first) = first {
            // Bound once, kept from now on, whatever becomes of the upgrade.
            first.listeners = pinned.release.listeners.clone();
        }
        for listener in &pinned.release.listeners {
            self.watch(listener);
        }
        inherited::lock(&self.inherited).keep(self.name_of(service));
        pinned.release.share(self.releases.values().flat_map(|release| release.executables()));
        let Pinned { access, metrics, order, changes, release, .. } = pinned;
        self.releases.insert(id, Arc::new(release));
        self.pending.insert(upgrade, Pending { release: id, access, metrics, order, changes });
        self.tell_core(Event::Pinned { upgrade, release: id, policy });
    }

    pub(super) fn watch(&mut self, listener: &super::listeners::Listener) {
        for socket in listener.socket.all().into_iter().skip(1) {
            self.watch_socket(&listener.name, socket);
        }
        self.watch_socket(&listener.name, Arc::clone(&listener.socket));
    }

    fn watch_socket(&mut self, name: &str, socket: Arc<super::listeners::Socket>) {
        if self.watched.contains_key(&socket.token) {
            return;
        }
        if socket.is_mendable()
            && let Err(error) = self.hangups.add(socket.bound.fd.as_fd(), socket.token)
        {
            tracing::warn!("cannot watch listener {name}: {error}");
        }
        if let Some(path) = socket.path()
            && let Err(error) = self.paths.add(path, socket.token)
        {
            tracing::warn!("cannot watch {}: {error}", path.display());
        }
        self.watched.insert(socket.token, socket);
    }

    /// Takes sockets that nobody uses any more out of the watches; dropping the last hold on one closes it.
    pub(super) fn unwatch_unused(&mut self) {
        let of_services = self.services.values().map(|service| &service.listeners);
        let of_releases = self.releases.values().map(|release| &release.listeners);
        let used: std::collections::HashSet<u64> = of_services
            .chain(of_releases)
            .flatten()
            .flat_map(|listener| listener.socket.all())
            .map(|it| it.token)
            .collect();
        let unused: Vec<u64> = self.watched.keys().copied().filter(|token| !used.contains(token)).collect();
        for token in unused {
            if let Some(socket) = self.watched.remove(&token) {
                // One that was shut down has been taken out.
                let _ = self.hangups.remove(socket.bound.fd.as_fd());
                self.paths.remove(token);
            }
        }
    }

    // ---- processes ------------------------------------------------------------------------------------------------

    pub(super) fn prepare(&mut self, instance: InstanceId, id: ReleaseId) {
        let Some(release) = self.releases.get(&id).map(Arc::clone) else {
            return self.tell_core_of(instance, InstanceEvent::PrepareFailed("its release is gone".into()));
        };
        let slot = self.slot_of(instance);
        if !release.listeners.iter().all(|listener| listener.socket.has(slot)) {
            return self.make_room(instance, id, release.listeners.clone(), slot);
        }
        self.restore_blocking(&release, slot);
        let service = self.name_of(instance.service).to_owned();
        let blank = self.services.get_mut(&instance.service).and_then(|service| service.blank.take());
        let mut ground = Ground {
            notify_path: self.runtime_directory.notify_socket(instance),
            poller: &mut self.poller,
            service: &service,
            cgroups: self.cgroups.as_ref(),
            surroundings: &self.surroundings,
            stdout: &self.stdout,
            stderr: &self.stderr,
            terminal: self.terminal,
        };
        // A release that wants no store is not passed what others left there.
        let store = self.services.get(&instance.service).map(|service| &service.store);
        let stored = store.filter(|_| release.service.fd_store_max > 0).into_iter().flat_map(Store::passed).collect();
        match Process::start((instance, slot), release, blank, stored, &mut ground) {
            Ok(process) => {
                self.processes.insert(instance, process);
            }
            Err(error) => {
                let error = format!("cannot start a process: {error}");
                self.tell_core_of(instance, InstanceEvent::PrepareFailed(error));
            }
        }
    }

    /// O_NONBLOCK belongs to the socket, not to one holder of it: a service that left it set is gone, and the next may
    /// not expect it. Never taken from a process that lives: its loop would be stuck in accept.
    fn restore_blocking(&self, release: &Release, slot: Slot) {
        let nonblocking = release.service.non_blocking;
        for listener in &release.listeners {
            let socket = listener.socket.of(slot);
            let shared = self.processes.values().any(|process| process.sockets().any(|it| it.token == socket.token));
            if !shared && let Err(error) = socket.set_nonblocking(nonblocking) {
                tracing::warn!(
                    "cannot make listener {} what its service expects, blocking or not: {error}",
                    listener.name
                );
            }
        }
    }

    fn launch(&mut self, instance: InstanceId) {
        let now = self.now();
        if self.survival.admits(instance, now) {
            self.go(instance);
        }
    }

    /// Lets the prepared process run its program.
    pub(super) fn go(&mut self, instance: InstanceId) {
        let Some(process) = self.processes.get_mut(&instance) else { return };
        if let Err(error) = process.go() {
            // The shim is gone; its exit tells the rest.
            tracing::warn!(service = self.name_of(instance.service), "cannot start the program: {error}");
        }
    }

    fn stop(&mut self, instance: InstanceId) {
        // Whatever waits for it alone it takes before it is told.
        if !self.retire(instance) {
            self.tell_to_stop(instance);
        }
    }

    pub(super) fn tell_to_stop(&mut self, instance: InstanceId) {
        self.signal(instance, "stop", |service| service.drain.signal);
        self.tell_core(Event::Told(instance));
    }

    fn abort(&mut self, instance: InstanceId) {
        self.signal(instance, "watchdog's", |service| service.watchdog.signal);
    }

    fn signal(&mut self, instance: InstanceId, which: &str, signal: impl FnOnce(&config::Service) -> i32) {
        self.end_checkup(instance);
        let Some(process) = self.processes.get_mut(&instance) else { return };
        process.stop_probe(&mut self.poller);
        match process.signal(signal(&process.release.service)) {
            Ok(()) => {}
            // It is dead already, and its exit is on its way.
            Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {}
            Err(error) => {
                let service = self.name_of(instance.service);
                tracing::warn!(service, generation = instance.generation.0, "cannot send the {which} signal: {error}");
            }
        }
    }

    fn kill(&mut self, instance: InstanceId) {
        self.end_checkup(instance);
        if let Some(process) = self.processes.get_mut(&instance) {
            process.stop_probe(&mut self.poller);
            process.kill();
        }
    }

    fn sweep(&mut self, instance: InstanceId, force: bool) {
        self.end_checkup(instance);
        let Some(process) = self.processes.get_mut(&instance) else {
            return self.tell_core_of(instance, InstanceEvent::Emptied);
        };
        process.stop_probe(&mut self.poller);
        process.sweep(force, &mut self.poller);
        self.check_emptied(instance, Some(force));
    }

    /// Tells the machine when nothing is left of an instance. `signal`: end strays that are found (by force or not).
    pub(super) fn check_emptied(&mut self, instance: InstanceId, signal: Option<bool>) {
        let strangers = self.has_strangers();
        let Some(process) = self.processes.get_mut(&instance).filter(|process| process.lingering) else { return };
        match process.is_empty(strangers, &mut self.poller) {
            Some(true) => self.emptied(instance),
            Some(false) if signal.is_none() => {}
            Some(false) | None => self.search_strays(instance, signal),
        }
    }

    pub(super) fn emptied(&mut self, instance: InstanceId) {
        if let Some(mut process) = self.processes.remove(&instance) {
            if let Some(more) = process.ignored.take() {
                self.tell_more_ignored(instance, more);
            }
            process.forget(&mut self.poller);
        }
        self.tell_core_of(instance, InstanceEvent::Emptied);
    }

    /// A process did not become the program. Its own end is on its way, and nobody waits for it.
    pub(super) fn never_ran(&mut self, instance: InstanceId, error: String) {
        if let Some(process) = self.processes.get(&instance) {
            process.kill();
        }
        self.tell_core_of(instance, InstanceEvent::LaunchFailed(error));
    }

    // ---- what is said about it ------------------------------------------------------------------------------------

    fn progress(&mut self, service: ServiceId, upgrade: Option<UpgradeId>, step: &Step) {
        let now = self.now();
        let generation = story::generation(step);
        let pid = match step {
            Step::Spawned { instance }
            | Step::Stopping { instance }
            | Step::Aborting { instance, .. }
            | Step::Unhealthy { instance, .. }
            | Step::Healthy { instance }
            | Step::Overdue { instance }
            | Step::Undead { instance } => {
                self.processes.get(instance).and_then(|process| u32::try_from(process.pid.as_raw()).ok())
            }
            _ => None,
        };
        let several = generation.is_some_and(|number| self.has_several(service, number));
        let message = story::sentence(step, pid, several);
        self.tell_step(service, upgrade, step, &message);
        let name = self.name_of(service);
        let number = generation.map(|generation| generation.0);
        match step {
            Step::GaveUp { .. } | Step::Undead { .. } => {
                tracing::error!(service = name, generation = number, "{message}");
            }
            Step::Retrying { .. } | Step::Aborting { .. } | Step::Overdue { .. } | Step::Paused { .. } => {
                tracing::warn!(service = name, generation = number, "{message}");
            }
            _ => tracing::info!(service = name, generation = number, "{message}"),
        }
        if let (Some(upgrade), Step::TakingBack { upgrade: undone }) = (upgrade, step) {
            let from = self.serving(service);
            let name = self.name_of(service).to_owned();
            self.ledger.open(upgrade, &name, Kind::Rollback, from, now);
            self.ledger.takes_back(upgrade, *undone);
        }
        if let Some(upgrade) = upgrade {
            let from = self.serving(service);
            let news = News { event: story::name(step), message, generation };
            self.ledger.step(upgrade, now, step, from, news);
        }
        if let (Some(upgrade), Step::Returning { .. }) = (upgrade, step) {
            // Until the verdict falls, the process that is to blame may be forgotten.
            let blamed = self.core.services().get(&service).and_then(|service| service.blamed);
            let words = self.last_words(service, blamed.map(|blamed| blamed.generation));
            self.ledger.keep_last_words(upgrade, words);
        }
        self.note_step(service, upgrade, step);
        self.probe_step(service, upgrade, step);
        if let Step::Ready { instance, .. } = step {
            self.inspect(*instance);
        }
        self.tell_systemd(service, upgrade, step);
        if let Step::Exited { instance, .. } = step {
            self.keep_last_output(*instance);
        }
        if let Step::Drained { .. } = step {
            self.rest_releases();
            self.ask_again(service);
        }
    }

    /// Releases that nothing runs are kept to be gone back to; sockets that no other names are let go of.
    fn rest_releases(&mut self) {
        let services = self.core.services().values();
        let generations = services.flat_map(|service| service.generations.values());
        let run: std::collections::HashSet<ReleaseId> = generations.map(|generation| generation.release).collect();
        let pending: std::collections::HashSet<ReleaseId> = self.pending.values().map(|it| it.release).collect();
        for (id, release) in &mut self.releases {
            if !run.contains(id) && !pending.contains(id) && !release.listeners.is_empty() {
                *release = Arc::new(release.at_rest());
            }
        }
        self.unwatch_unused();
    }

    fn tell_systemd(&mut self, service: ServiceId, upgrade: Option<UpgradeId>, step: &Step) {
        if !self.systemd.is_listening() {
            return;
        }
        let first = self
            .core
            .services()
            .get(&service)
            .and_then(|service| service.upgrade.as_ref())
            .is_some_and(|u| u.kind == Kind::Start);
        match step {
            Step::Pinning if upgrade.is_some() && !first => self.systemd.reloading(&self.status_line(None)),
            _ => self.status_due = true,
        }
    }

    fn conclude(&mut self, service: ServiceId, upgrade: UpgradeId, verdict: Verdict, reason: Option<Reason>) {
        let now = self.now();
        let record = self.ledger.status(upgrade, now);
        let candidate = record.as_ref().and_then(|record| record.generation).map(Generation);
        let serving = self.serving(service);
        let words = match (verdict, &reason, self.ledger.take_last_words(upgrade)) {
            (Verdict::Upgraded, ..) => LastWords::default(),
            (_, Some(Reason::Hook { .. }), _) => {
                let lines = self.services.get_mut(&service).map(|it| it.hooks.take_last_output()).unwrap_or_default();
                LastWords { lines, ..LastWords::default() }
            }
            (_, _, Some(kept)) => kept,
            (_, _, None) => self.last_words(service, candidate),
        };
        let exit = story::exit_code(verdict, reason.as_ref());
        let (said, check) = (words.status.as_deref(), words.check.as_deref());
        let other = reason.as_ref().and_then(story::another).and_then(|other| self.ledger.service_of(other));
        let why = reason.as_ref().map(|reason| story::reason(reason, said, check, other));
        let status = VerdictStatus {
            verdict,
            exit_code: exit.code(),
            step: self.ledger.stage_of(upgrade).to_owned(),
            reason: why.clone(),
            hint: match &reason {
                Some(Reason::Overwritten(_) | Reason::NothingKept | Reason::ServesAlready(_)) => {
                    Some(self.kept_sentence(service))
                }
                reason => reason.as_ref().and_then(story::hint),
            },
            output: words.lines,
            output_elsewhere: words.elsewhere,
            because_of: reason.as_ref().and_then(story::another).map(|other| other.0),
            serving: serving.map(|serving| serving.0),
        };
        self.adopt_config(service, upgrade, verdict);
        let kind = record.as_ref().map(|record| record.kind);
        let from = record.as_ref().and_then(|record| record.from).map(Generation);
        let machine = self.core.services().get(&service);
        let lineage = machine.and_then(|machine| machine.serving()).map(|generation| generation.lineage);
        if (verdict == Verdict::Upgraded || (kind == Some(Kind::Restart) && verdict != Verdict::Refused))
            && let Some(service) = self.services.get_mut(&service)
        {
            // One that failed would fail again: that has been said.
            service.owes_restart = false;
        }
        let message = match &why {
            None => story::upgraded(kind.unwrap_or(Kind::Reload), self.name_of(service), (from, candidate), lineage),
            Some(why) => {
                let now = match serving {
                    Some(serving) => format!("{}@{serving} is still serving", self.name_of(service)),
                    None => "nothing is serving".to_owned(),
                };
                // A reason from the config goes on with the place in the file.
                let (why, place) = why.split_once('\n').unwrap_or((why, ""));
                format!("{verdict}: {why}; {now}\n{place}").trim_end().to_owned()
            }
        };
        let (name, number) = (self.name_of(service), candidate.map(|candidate| candidate.0));
        match verdict {
            Verdict::Upgraded => tracing::info!(service = name, generation = number, upgrade = upgrade.0, "{message}"),
            _ => tracing::error!(service = name, generation = number, upgrade = upgrade.0, "{message}"),
        }
        // One that is given up because of another's failure tells nothing of that.
        if kind == Some(Kind::Start) && verdict != Verdict::Upgraded && reason != Some(Reason::Stopping) {
            let mut text = format!("{name} did not start: {}", status.reason.as_deref().unwrap_or("unknown"));
            for line in &status.output {
                text.push_str("\n  | ");
                text.push_str(line);
            }
            if let Some(elsewhere) = &status.output_elsewhere {
                text.push_str("\n  ");
                text.push_str(elsewhere);
            }
            self.first_failure = Some(StartError { exit, message: text, hint: status.hint.clone() });
        }
        let drained = !self.core.services().get(&service).is_some_and(|service| {
            let leaving = |role| matches!(role, Role::Draining | Role::Ending);
            service.generations.values().any(|one| one.upgrade == Some(upgrade) && leaving(one.role))
        });
        let news = News { event: "verdict", message, generation: candidate };
        self.tell_verdict(service, upgrade, &status, &news);
        self.ledger.conclude(upgrade, now, status, drained, news);
        if !self.finish_probing(upgrade) {
            self.note_verdict(upgrade);
        }
        self.announce();
        self.close_unclaimed();
    }

    /// Tells whoever started us, or waits for a reload, how it stands: that we are there, unless something else is still
    /// to be waited for.
    pub(super) fn announce(&mut self) {
        let line = self.status_line(None);
        if self.core.is_ending() {
            self.systemd.stopping(&line);
        } else if self.core.is_starting() || (self.core.has_sequence() && self.systemd.is_told()) {
            // Whoever waits, waits for all of them; of a successor only that what served serves.
            self.systemd.status(&line);
        } else {
            self.systemd.ready(&line);
        }
    }

    /// Sockets that were passed to us and are nobody's, once every service has served.
    pub(super) fn close_unclaimed(&mut self) {
        if self.core.services().values().all(|service| service.pinned.is_some()) {
            inherited::lock(&self.inherited).close();
        }
    }

    /// After an upgrade the config that it was made from is in force; after any other verdict the former stays.
    fn adopt_config(&mut self, service: ServiceId, upgrade: UpgradeId, verdict: Verdict) {
        let Some(pending) = self.pending.remove(&upgrade).filter(|_| verdict == Verdict::Upgraded) else { return };
        let mut busy = Vec::new();
        for change in pending.changes {
            match change.try_apply() {
                Ok(warning) => warning.iter().for_each(|it| tracing::warn!(service = self.name_of(service), "{it}")),
                Err(Busy) => busy.push(change),
            }
        }
        if !busy.is_empty() {
            let service = self.name_of(service).to_owned();
            self.off_the_loop(move || {
                busy.iter().filter_map(Change::apply).for_each(|warning| tracing::warn!(service, "{warning}"));
                None
            });
        }
        if let Some(access) = pending.access {
            self.access.send_if_modified(|current| {
                let changed = *current != access;
                *current = access;
                changed
            });
        }
        if let Some(order) = &pending.order {
            self.adopt_order(order);
        }
        if let Some(Exported(address)) = pending.metrics {
            self.exporter.serve_at(address, &self.commands);
        }
        let release = self.releases.get(&pending.release);
        if let (Some(release), Some(service)) = (release, self.services.get_mut(&service)) {
            let mut listeners = release.listeners.clone();
            for listener in &mut listeners {
                // One that was made anew during the upgrade is not given up for the dead one in its release.
                let current = service.listeners.iter().find(|current| current.socket.asked == listener.socket.asked);
                if let Some(current) = current.filter(|current| current.socket.token > listener.socket.token) {
                    listener.socket = Arc::clone(&current.socket);
                }
            }
            service.listeners = listeners;
            if release.service.fd_store_max == 0 {
                let gone = service.store.clear(&mut self.poller);
                self.close(gone);
            }
        }
        self.unwatch_unused();
    }

    /// A process has ended. If it served, somebody will want to know why.
    fn keep_last_output(&mut self, id: InstanceId) {
        let serving = self.core.services().get(&id.service).and_then(|service| service.serving());
        let Some(process) = self.processes.get_mut(&id) else { return };
        let Some(service) = self.services.get_mut(&id.service) else { return };
        if serving.is_some_and(|serving| serving.number == id.generation) {
            process.drain_output();
            let instance = format!("{}.{}", id.generation, id.number);
            let (lines, elsewhere) = (process.tail.lines(), process.output_elsewhere.clone());
            service.last_output = Some((id, LastOutput { instance, lines, elsewhere }));
        }
    }

    /// What the process that an upgrade failed by has left to tell, else the latest of the candidate.
    fn last_words(&mut self, service: ServiceId, candidate: Option<Generation>) -> LastWords {
        let theirs = |id: &InstanceId| id.service == service && Some(id.generation) == candidate;
        let blamed = self.core.services().get(&service).and_then(|service| service.blamed);
        // It is swept only after the verdict, so it is still there.
        let one = self.processes.keys().filter(|id| theirs(id)).max_by_key(|id| (Some(**id) == blamed, **id)).copied();
        let Some(process) = one.and_then(|id| self.processes.get_mut(&id)) else {
            return LastWords::default();
        };
        process.drain_output();
        LastWords {
            lines: process.tail.lines(),
            elsewhere: process.output_elsewhere.clone(),
            status: process.status.clone(),
            check: process.checkup.as_ref().and_then(|checkup| checkup.failure()).map(str::to_owned),
        }
    }

    /// Whether a generation is meant to have more than one process.
    fn has_several(&self, service: ServiceId, number: Generation) -> bool {
        let generation = self.core.services().get(&service).and_then(|service| service.generations.get(&number));
        generation.is_some_and(|generation| generation.seats.len() > 1)
    }

    /// The generation that answers new connections.
    pub(super) fn serving(&self, service: ServiceId) -> Option<Generation> {
        Some(self.core.services().get(&service)?.answering()?.number)
    }

    /// A service is no more: its listeners are closed as soon as nothing else holds them.
    fn remove(&mut self, service: ServiceId) {
        self.survival.stale = true;
        let message = "removed, and its listeners are closed";
        tracing::info!(service = self.name_of(service), "{message}");
        self.tell_of_service(service, None, "removed", message);
        let Some(gone) = self.services.get_mut(&service) else { return };
        gone.removed = true;
        gone.blank = None;
        gone.listeners.clear();
        let stored = gone.store.clear(&mut self.poller);
        self.close(stored);
        self.unwatch_unused();
        self.close_unclaimed();
    }

    /// Services that were removed are forgotten once their last hooks have been run, which have a timeout.
    fn forget_removed(&mut self) {
        let gone = |service: &mut Service| service.removed && service.hooks.is_idle();
        let count = self.services.extract_if(|_, service| gone(service)).count();
        if count > 0 {
            self.survival.stale = true;
            self.ledger.make_room(self.services.len());
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        self.outcome = Some(End::Over(outcome));
    }
}
