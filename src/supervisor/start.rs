//! How a supervisor begins: as the first of its kind, or where another has left off.

use std::collections::{HashMap, HashSet};
use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::libc::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook_tokio::Signals;
use tokio::sync::{mpsc, watch};

use super::event_loop::Intake;
use super::exporter::Exporter;
use super::feed::Feed;
use super::history::History;
use super::inherited::Inherited;
use super::ledger::Ledger;
use super::metrics::Counters;
use super::paths::RuntimeDirectory;
use super::poller::{Poller, Source};
use super::release::Surroundings;
use super::several::{Asks, Order};
use super::sink::Sink;
use super::survival::{Adoption, FdStore, Memory, Name, Owner, Predecessor, Survival, listeners_among, names};
use super::systemd::Systemd;
use super::{Options, Supervisor, adoption, leftovers, release};
use crate::config::{self, Config};
use crate::control::server::Access;
use crate::core::{self, Core, FirstFailure, Kind, Time};
use crate::exit::Exit;
use crate::history::place::StatePlaces;
use crate::sys::fdwatch::{HangupWatch, PathWatch};
use crate::sys::{cgroup, clock, describe, limits, pidfd, signal};

/// Why the supervisor could not start, or what its first start came to.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StartError {
    /// The exit code that says so.
    pub exit: Exit,
    /// What went wrong.
    pub message: String,
    /// What would mend it.
    pub hint: Option<String>,
}

impl StartError {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn internal(what: &str, error: &io::Error) -> Self {
        Self::new(Exit::Internal, format!("{what}: {error}"))
    }

    pub(super) fn directory(path: &Path, error: &io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::NotPermitted } else { Exit::Usage };
        let this = Self::new(exit, format!("cannot use the runtime directory {}: {}", path.display(), describe(error)));
        this.hint("choose another with --runtime-dir")
    }

    pub(super) fn no_runtime_directory() -> Self {
        let this = Self::new(Exit::Usage, "there is no runtime directory: XDG_RUNTIME_DIR is not set");
        this.hint("name one with --runtime-dir")
    }

    pub(super) fn everybodys(path: &Path) -> Self {
        let message = format!("cannot use the runtime directory {}: everybody may write to it", path.display());
        Self::new(Exit::Usage, message).hint("choose one that is for this supervisor alone with --runtime-dir")
    }

    pub(super) fn path_too_long(path: &Path, limit: usize) -> Self {
        let message = format!(
            "the runtime directory {} is too long: a socket's path in it would exceed {limit} bytes",
            path.display()
        );
        Self::new(Exit::Usage, message).hint("choose a shorter one with --runtime-dir")
    }

    pub(super) fn already_running(path: &Path) -> Self {
        let message = format!("a supervisor already runs in {}, or is about to be started there again", path.display());
        Self::new(Exit::Refused, message).hint("give this one another --name, or see `zdsup status`")
    }
}

impl Supervisor {
    pub(super) async fn new(
        options: Options,
        adoption: Adoption,
        sockets: Vec<(Option<String>, OwnedFd)>,
        stdout: Sink,
        stderr: Sink,
    ) -> Result<Self, StartError> {
        let now = Time(clock::monotonic());
        let nofile =
            limits::raise_nofile().map_err(|error| StartError::internal("cannot raise RLIMIT_NOFILE", &error))?;
        pidfd::become_subreaper().map_err(|error| StartError::internal("cannot become a subreaper", &error))?;
        let (mut predecessor, impossible) = match adoption {
            Adoption::Nothing => (None, None),
            Adoption::All(predecessor) => (Some(*predecessor), None),
            Adoption::Impossible(impossible) => (None, Some(impossible)),
        };
        let source = match (options.source, &options.config) {
            (Some(path), _) => release::Source::File { path, name: options.name.clone() },
            (None, Some(config)) => release::Source::Given(Box::new(config.clone())),
            (None, None) => return Err(StartError::new(Exit::Usage, "there is nothing to run")),
        };
        let nofile = predecessor.as_ref().map_or(nofile, |predecessor| predecessor.document.nofile);
        let directory = match &predecessor {
            Some(_) => config::last_directory(),
            None => config::logical_directory()
                .map_err(|error| StartError::internal("cannot read the current directory", &error))?,
        };
        let surroundings = Surroundings::of_this_process(source, directory, nofile, options.rehearsal);
        let runtime_directory = match &mut predecessor {
            Some(Predecessor { document, fds, .. }) => {
                let (path, is_ours) = (document.runtime_directory.clone(), document.runtime_directory_is_ours);
                RuntimeDirectory::adopt(path, is_ours, fds.remove(&Name::Lock))?
            }
            None => {
                let path = RuntimeDirectory::find(options.runtime_dir.as_deref(), &options.name)?;
                // What was passed and cannot be gone on with may have a control socket among it.
                match &impossible {
                    Some(_) => RuntimeDirectory::open(path)?,
                    None => RuntimeDirectory::open_anew(path)?,
                }
            }
        };
        let mut systemd = Systemd::from_environment(now);
        if predecessor.is_none() {
            leftovers::end_before_start(&runtime_directory, options.config.as_ref(), &mut systemd).await?;
        }
        let mut poller = Poller::new().map_err(|error| StartError::internal("cannot make an epoll", &error))?;
        let internal = |error: io::Error| StartError::internal("cannot watch listeners", &error);
        let hangups = HangupWatch::new().map_err(internal)?;
        let paths = PathWatch::new().map_err(internal)?;
        poller.add(&hangups, Source::Hangup).map_err(internal)?;
        poller.add(&paths, Source::Path).map_err(internal)?;
        let (elsewhere, elsewhere_out) = mpsc::unbounded_channel();
        let (commands_in, commands) = mpsc::channel(64);
        let access = match (&predecessor, &options.config) {
            (Some(predecessor), _) => predecessor.document.access.clone(),
            (None, Some(config)) => release::access(config),
            (None, None) => Access::default(),
        };
        let (access, access_seen) = watch::channel(access);
        let signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGCHLD, SIGUSR1, SIGUSR2])
            .map_err(|error| StartError::internal("cannot handle signals", &error))?;
        // A predecessor in this process had blocked them until now, and the keeper starts us with them blocked.
        signal::unblock_all();
        let left = predecessor.as_ref().map(|it| &it.fds).or(impossible.as_ref().map(|it| &it.fds));
        let stored = left.map(names).unwrap_or_default();
        let control = predecessor.as_mut().and_then(|predecessor| predecessor.fds.remove(&Name::Control));
        let listener = runtime_directory.listen_on(control)?;
        let control = Self::serve_control(listener, access_seen, commands_in.clone())?;

        let memory = match &mut predecessor {
            Some(predecessor) => predecessor.memory.try_clone(),
            None => Memory::new(),
        };
        let memory = memory.map_err(|error| StartError::internal("cannot make a memfd", &error))?;
        let mut store = FdStore::from_environment(stored);
        if let Some(store) = &mut store {
            // It may have been bound anew.
            store.outdate(Name::Control);
        }
        let mut left = Vec::new();
        if let Some(impossible) = impossible {
            // What listens is used again; what else it was about is not ours.
            let aside = (!impossible.text.is_empty()).then(|| runtime_directory.keep_aside(&impossible.text));
            let kept = aside.map(|path| format!("; it is kept as {}", path.display())).unwrap_or_default();
            tracing::error!("{}{kept}", impossible.reason);
            left = listeners_among(impossible.fds);
            if let Some(store) = &mut store {
                store.outdate(Name::State);
            }
        }
        let inherited = match &mut predecessor {
            // What it had is passed once more.
            Some(predecessor) => Inherited::of_successor(predecessor.unclaimed(sockets)),
            None => Inherited::new(sockets, left).map_err(|error| {
                StartError::new(Exit::Usage, format!("the sockets passed by systemd cannot be used: {error}"))
            })?,
        };
        let state_directory = StatePlaces::of_this_process().own(options.state_dir.as_deref(), &options.name);
        let history = History::new(state_directory);
        let mut this = Self {
            core: Core::new(),
            name: options.name.clone(),
            started: now,
            poller,
            surroundings: Arc::new(surroundings),
            inherited: Arc::new(Mutex::new(inherited)),
            services: HashMap::new(),
            releases: HashMap::new(),
            next_release: 1,
            pending: HashMap::new(),
            pinning: HashSet::new(),
            asks: Asks::default(),
            atomic: options.config.as_ref().is_some_and(|config| config.atomic),
            processes: HashMap::new(),
            probing: HashMap::new(),
            ledger: Ledger::default(),
            history,
            feed: Feed::new(),
            counters: Counters::default(),
            exporter: Exporter::default(),
            systemd,
            runtime_directory,
            control,
            commands: commands_in,
            restore_at: None,
            survival: Survival::new(Owner::this(&options.name), memory, store),
            unsettled: HashSet::new(),
            look_again_at: None,
            look_again_after: adoption::LOOK_AGAIN.0,
            incarnation: 1,
            reexec: None,
            settled_at: None,
            // Those of a rehearsal could have the names of those of the real one, in the very same place.
            cgroups: cgroup::delegated().filter(|_| options.rehearsal.is_none()),
            hangups,
            paths,
            watched: HashMap::new(),
            access,
            elsewhere,
            stdout,
            stderr,
            terminal: io::stderr().is_terminal(),
            tidy_at: None,
            steer_due: true,
            status_due: false,
            stopping: false,
            stop_asked: false,
            outcome: None,
            first_failure: None,
            intake: Some(Intake { signals, commands, elsewhere: elsewhere_out }),
        };
        this.watch_directory();
        let metrics = match &predecessor {
            Some(predecessor) => predecessor.document.metrics,
            None => options.config.as_ref().and_then(|config| config.metrics),
        };
        this.exporter.serve_at(metrics, &this.commands);
        match predecessor {
            Some(predecessor) => this.take_over(predecessor),
            None => this.begin(options.config).await,
        }
        Ok(this)
    }

    /// The first of its kind.
    async fn begin(&mut self, config: Option<Config>) {
        tracing::info!(
            "zdsup {} supervises {} as process {}",
            env!("CARGO_PKG_VERSION"),
            self.name,
            std::process::id()
        );
        self.tell("started", &format!("zdsup {} supervises {}", env!("CARGO_PKG_VERSION"), self.name));
        let first_failure = match self.systemd.is_listening() {
            _ if self.surroundings.rehearsal.is_some() => FirstFailure::Rehearse,
            true => FirstFailure::Exit,
            false => FirstFailure::Retry,
        };
        let order = config.as_ref().map(Order::of);
        let services: Vec<config::Service> = config.into_iter().flat_map(|config| config.services).collect();
        // Numbers go on from those of former supervisors.
        let numbers = self.history.numbers(services.iter().map(|service| service.name.clone()).collect()).await;
        self.core.number_upgrades_from(numbers.upgrade + 1);
        for service in services {
            let last = numbers.generations.get(&service.name).copied().unwrap_or(0);
            let id = self.core.add_service(core::Generation(last + 1), first_failure);
            self.add(id, &service.name);
        }
        if let Some(order) = order {
            self.adopt_order(&order);
        }
        for id in self.core.in_order() {
            // A machine that was just made refuses nothing.
            let _ = self.request(id, Kind::Start, None);
        }
    }

    /// A successor. That it lives is noted later: if it dies at what follows, the next one knows.
    fn take_over(&mut self, predecessor: Predecessor) {
        let (deaths, was_us) = (predecessor.deaths, predecessor.was_us);
        self.settled_at = Some(self.now().after(adoption::SETTLED_AFTER));
        self.go_on(predecessor, deaths);
        if was_us {
            self.tell("adopted", "the supervisor has replaced itself, and goes on with everything");
        } else {
            self.tell("adopted", "the supervisor died, and this one goes on with everything");
            self.note_what_is_missing();
        }
        self.settle();
        self.go_on_with_hooks();
        self.go_on_probing();
        self.announce();
        self.close_unclaimed();
    }
}
