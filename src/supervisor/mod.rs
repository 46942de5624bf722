//! The shell around the machine: it waits for whatever happens, tells [`crate::core`], and does what that says.
//!
//! ```text
//!  signals ─┐
//!  descriptors (poller) ─┤                       ┌─► actions.rs: processes, listeners, verdicts
//!  control requests ─────┼─► Event ─► core ─► Action
//!  work done elsewhere ──┤                       └─► story.rs: what is said about it (log, ledger, systemd)
//!  deadlines ────────────┘
//! ```
//!
//! - The loop never waits for anything else. What can block (disks, name servers, /proc, journald, a terminal) is done
//!   by a thread of tokio's blocking pool or by a `sink`, and comes back as one more thing that happened.
//! - Notify sockets are read before an exit is handled, so that last words count.
//! - Nothing in here decides: which generation lives and which verdict falls is the machine's business.

mod actions;
mod adoption;
mod callers;
mod errand;
mod events;
mod exporter;
mod feed;
mod health;
mod history;
mod hold;
mod hooks;
mod ignored;
mod inherited;
pub mod leftovers;
mod listeners;
pub mod log;
mod metrics;
mod output;
mod paths;
mod pause;
mod poller;
mod prober;
mod process;
mod reexec;
mod release;
mod requests;
mod restore;
mod rows;
mod several;
mod sink;
mod status;
mod steering;
mod store;
mod story;
mod survival;
mod systemd;
mod tokens;

mod ledger;

use std::collections::{HashMap, HashSet};
use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use nix::libc::{SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook_tokio::Signals;
use tokio::sync::{mpsc, watch};

use crate::config::{self, Config};
use crate::control::server::{Access, Command};
use crate::control::types::LastOutput;
use crate::core::{self, Core, Event, FirstFailure, InstanceId, Kind, Outcome, ReleaseId, ServiceId, Time, UpgradeId};
use crate::exit::Exit;
use crate::history::KernelFigures;
use crate::history::place::StatePlaces;
use crate::sys::cgroup::{self, Delegated};
use crate::sys::fdwatch::{HangupWatch, PathWatch};
use crate::sys::shim::{self, Blank, Program};
use crate::sys::{Pid, clock, describe, limits, pidfd, proc, signal};
use callers::Vacant;
use exporter::Exporter;
use feed::Feed;
use history::History;
use hooks::Hooks;
use inherited::Inherited;
use ledger::Ledger;
use listeners::{Change, Listeners, Socket};
use metrics::Counters;
use paths::RuntimeDirectory;
use pause::{Pausing, Unheld};
use poller::{Poller, Source};
use prober::{Prober, Stage};
use process::{Ground, Process};
use reexec::Reexec;
pub use reexec::{check_state, check_state_if_asked};
use release::{Exported, Pinned, Release, Surroundings};
use restore::Control;
use several::{Ask, Asks, Order, Wanted};
use sink::Sink;
use store::Store;
pub use survival::Passed;
use survival::{Adoption, FdStore, Memory, Name, Owner, Predecessor, Survival, listeners_among, names};
use systemd::Systemd;

/// How often what a service has hidden is looked for at the end, and the pause in between.
const STRANGERS_ROUNDS: u32 = 100;
const STRANGERS_PAUSE: Duration = Duration::from_millis(10);
/// How long requests of clients that are connected are waited for before the supervisor replaces itself.
const LAST_REQUESTS: Duration = Duration::from_millis(3);
/// How long the last lines of output may take to be read when the supervisor ends.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What `zdsup run` was asked for.
#[derive(Debug)]
pub struct Options {
    /// The supervisor's name.
    pub name: String,
    /// The config, read and checked. A successor does without: it goes on with the one that is in force.
    pub config: Option<Config>,
    /// Where it was read, and is read again.
    pub source: Option<PathBuf>,
    /// `--runtime-dir`.
    pub runtime_dir: Option<PathBuf>,
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// How log lines look.
    pub log_format: log::Format,
    /// Nobody is served: the services are only started to see how that goes. What they are told so by is in their
    /// environment, they have no cgroups, and a first start that fails is reported and left at that. The number is that
    /// of the first slot, as they are told it: none that a process of the real service has.
    pub rehearsal: Option<u32>,
}

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
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn internal(what: &str, error: &io::Error) -> Self {
        Self::new(Exit::Internal, format!("{what}: {error}"))
    }

    fn directory(path: &Path, error: &io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::PermissionDenied { Exit::NotPermitted } else { Exit::Usage };
        let this = Self::new(exit, format!("cannot use the runtime directory {}: {}", path.display(), describe(error)));
        this.hint("choose another with --runtime-dir")
    }

    fn no_runtime_directory() -> Self {
        let this = Self::new(Exit::Usage, "there is no runtime directory: XDG_RUNTIME_DIR is not set");
        this.hint("name one with --runtime-dir")
    }

    fn path_too_long(path: &Path, limit: usize) -> Self {
        let message = format!(
            "the runtime directory {} is too long: a socket's path in it would exceed {limit} bytes",
            path.display()
        );
        Self::new(Exit::Usage, message).hint("choose a shorter one with --runtime-dir")
    }

    fn already_running(path: &Path) -> Self {
        let this = Self::new(Exit::Refused, format!("a supervisor already runs in {}", path.display()));
        this.hint("give this one another --name, or see `zdsup status`")
    }
}

/// How often the control server gets its turn before the supervisor ends.
const ANSWER_TURNS: u32 = 32;

/// How long after the last thing that happened memory is given back to the kernel: a storm leaves none behind, and an
/// idle supervisor sleeps.
const TIDY_AFTER: Duration = Duration::from_secs(1);

/// Runs a supervisor until it has ended everything that it started.
///
/// # Errors
/// When it cannot start, or the first start of its service fails where somebody waits for that.
pub fn run(options: Options, passed: Passed) -> Result<Exit, StartError> {
    limits::share_one_heap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(1))
        .thread_stack_size(512 * 1024)
        // They are for the loop.
        .on_thread_start(signal::block_all)
        .build()
        .map_err(|error| StartError::internal("cannot start the event loop", &error))?;
    let result = runtime.block_on(supervise(options, passed));
    // A thread that hangs in a system call must not keep us.
    runtime.shutdown_background();
    result
}

/// Whatever a service has hidden from us, with a session and an environment of its own, has become our child as its
/// parents died. It may hold a listener, and goes with everything else. `ours` is on its way out by itself.
async fn end_strangers() {
    let mut told = std::collections::HashSet::new();
    for _ in 0..STRANGERS_ROUNDS {
        let children = proc::children_of_self().unwrap_or_default();
        if children.is_empty() {
            return;
        }
        for pid in children {
            // One that was to become a process of a service, and is on its way out.
            let may_be_ours = shim::may_be_shim(pid);
            // A child's number is its own until we reap it.
            if let Ok(child) = pidfd::PidFd::open(pid)
                && !child.has_exited()
                && child.signal(SIGKILL).is_ok()
                && !may_be_ours
                && told.insert(pid)
            {
                let name = proc::name(pid).unwrap_or_default();
                tracing::warn!("{name}, process {pid}, was left behind by a service: killed");
            }
            // What is not dead yet is looked at again.
            let _ = pidfd::reap_pid(pid);
        }
        tokio::time::sleep(STRANGERS_PAUSE).await;
    }
}

async fn supervise(options: Options, passed: Passed) -> Result<Exit, StartError> {
    let stdout = Sink::spawn("stdout", io::stdout()).map_err(|e| StartError::internal("cannot start a thread", &e))?;
    let stderr = Sink::spawn("stderr", io::stderr()).map_err(|e| StartError::internal("cannot start a thread", &e))?;
    log::start(options.log_format, &stderr);
    let mut passed = passed;
    let result = match passed.adoption(&options.name) {
        Adoption::Impossible(impossible) if !impossible.foreign => hold::hold(&options, impossible).await,
        adoption => match Supervisor::new(options, adoption, passed.sockets, stdout.clone(), stderr.clone()).await {
            Ok(supervisor) => supervisor.run().await,
            Err(error) => Err(error),
        },
    };
    stdout.flush(LAST_WORDS);
    stderr.flush(LAST_WORDS);
    result
}

/// A supervisor.
struct Supervisor {
    core: Core,
    name: String,
    started: Time,
    poller: Poller,
    surroundings: Arc<Surroundings>,
    /// Sockets from systemd, until first starts have claimed them.
    inherited: Arc<Mutex<Inherited>>,
    services: HashMap<ServiceId, Service>,
    releases: HashMap<ReleaseId, Arc<Release>>,
    next_release: u64,
    /// What becomes of an upgrade's release and config once it has its verdict.
    pending: HashMap<UpgradeId, Pending>,
    /// Services whose release is being resolved, or whose resolving hangs.
    pinning: HashSet<ServiceId>,
    /// Requests for upgrades of several services that wait until the config is read.
    asks: Asks,
    /// Unless it is said otherwise, several services are upgraded together or not at all.
    atomic: bool,
    processes: HashMap<InstanceId, Process>,
    /// Who asks in the place of clients during upgrades.
    probing: HashMap<UpgradeId, Prober>,
    ledger: Ledger,
    history: History,
    feed: Feed,
    counters: Counters,
    exporter: Exporter,
    systemd: Systemd,
    runtime_directory: RuntimeDirectory,
    control: Control,
    /// The way in of what operators ask for.
    commands: mpsc::Sender<Command>,
    /// When it is looked whether something of the runtime directory is missing.
    restore_at: Option<Time>,
    survival: Survival,
    /// Instances of a predecessor of which it is not known whether they have become their program.
    unsettled: HashSet<InstanceId>,
    /// When that is looked at again.
    look_again_at: Option<Time>,
    /// How many supervisors there have been in this place.
    incarnation: u64,
    /// A replacement of our own program on its way.
    reexec: Option<Reexec>,
    /// When this successor has lived long enough not to be one of a row that die at once.
    settled_at: Option<Time>,
    cgroups: Option<Delegated>,
    hangups: HangupWatch,
    paths: PathWatch,
    /// Every socket that the watches know.
    watched: HashMap<u64, Arc<Socket>>,
    access: watch::Sender<Access>,
    elsewhere: mpsc::UnboundedSender<Elsewhere>,
    stdout: Sink,
    stderr: Sink,
    terminal: bool,
    /// When memory is to be given back.
    tidy_at: Option<Time>,
    /// How new connections are divided may have changed.
    steer_due: bool,
    /// What systemd shows may have changed.
    status_due: bool,
    /// Stop was asked for once already.
    stopping: bool,
    /// That was asked of this process, and not only of a predecessor.
    stop_asked: bool,
    outcome: Option<End>,
    /// Why the first start failed, for whoever started us.
    first_failure: Option<StartError>,
    /// Filled in while the loop runs.
    intake: Option<Intake>,
}

/// What the shell knows of a service beside the machine.
struct Service {
    name: String,
    /// The listeners of the config in force.
    listeners: Listeners,
    /// What serves has a socket that was shut down, and the restart that would give it the new one was refused or is
    /// not yet asked for.
    owes_restart: bool,
    /// What the process that ended last while serving had printed.
    last_output: Option<(InstanceId, LastOutput)>,
    /// The process that the next instance will be, loaded while its release is pinned.
    blank: Option<Blank>,
    /// What it keeps for its successors.
    store: Store,
    /// So many times the machine waits for traffic to be divided.
    weights_owed: u32,
    /// Processes whose slots are being emptied before they are told to stop.
    retiring: HashSet<InstanceId>,
    /// Slots that no process has, and callers in them.
    vacant: Vacant,
    /// Clients that are sent to one slot: health checks.
    probers: HashMap<std::net::SocketAddr, core::Slot>,
    /// What is run at moments of its upgrades.
    hooks: Hooks,
    /// What is being done about new connections that are to wait.
    pausing: Pausing,
    /// It is none any more, but for the hooks that are still to be run.
    removed: bool,
}

impl Service {
    fn new(name: String, listeners: Listeners, store: Store) -> Self {
        Self {
            name,
            listeners,
            owes_restart: false,
            last_output: None,
            blank: None,
            store,
            weights_owed: 0,
            retiring: HashSet::new(),
            vacant: Vacant::default(),
            probers: HashMap::new(),
            hooks: Hooks::default(),
            pausing: Pausing::default(),
            removed: false,
        }
    }

    /// Whether this is the process that the next instance will be.
    fn is_loading(&self, pid: Pid) -> bool {
        self.blank.as_ref().is_some_and(|blank| blank.pid == pid)
    }
}

/// What becomes of an upgrade's release once it has its verdict.
struct Pending {
    release: ReleaseId,
    access: Option<Access>,
    /// Where metrics are served, if the config was read.
    metrics: Option<Exported>,
    /// How its services follow each other, likewise.
    order: Option<Order>,
    changes: Vec<Change>,
}

/// What comes in by channels.
struct Intake {
    signals: Signals,
    commands: mpsc::Receiver<Command>,
    elsewhere: mpsc::UnboundedReceiver<Elsewhere>,
}

/// Work that was done off the loop.
enum Elsewhere {
    /// A release is pinned, or cannot be.
    Pinned { service: ServiceId, upgrade: UpgradeId, result: Box<Result<Pinned, core::Reason>> },
    /// The config was read for whoever asks for upgrades of several services, or cannot be.
    Read(Option<Box<Wanted>>),
    /// The parent of an instance's main process, which is not us, has reaped it or had the time to.
    Reaped { instance: InstanceId },
    /// The binary that is to replace us is found, or cannot be.
    Binary(Box<Result<Program, String>>),
    /// A socket that was shut down has a successor, or cannot have one.
    Replaced { service: ServiceId, token: u64, result: Result<listeners::Listener, core::Reason> },
    /// Nothing is left in the slots of an instance, or nobody waits for it any longer.
    Retired { instance: InstanceId, left: Option<String> },
    /// An instance has a slot of its own, or there cannot be one.
    Room { instance: InstanceId, release: ReleaseId, result: Result<(), String> },
    /// A row that a service had shut a slot of down listens again, or cannot.
    Healed { tokens: Vec<u64>, result: Result<(), String> },
    /// New connections wait at all listeners of a service, or are let in at all, or that cannot be.
    Held { service: ServiceId, on: bool, result: Result<(), Unheld> },
    /// How clients are answered before an upgrade is known.
    Measured { upgrade: UpgradeId },
    /// What they are answered during an upgrade is not good enough.
    Condemned { upgrade: UpgradeId, reason: String },
    /// The last request of an upgrade that is over has been answered.
    Probed { upgrade: UpgradeId, kernel: Option<KernelFigures> },
    /// Leftovers of an instance were searched for and signalled; so many were found.
    Swept { instance: InstanceId, found: usize },
    /// Something an operator should know about an instance.
    Noted { instance: InstanceId, note: String },
    /// A health check has come to something.
    Checked { instance: InstanceId, outcome: health::Outcome },
    /// How many connections draining generations still have.
    Counted(Box<crate::control::types::Status>),
}

/// How the loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Everything has ended.
    Over(Outcome),
    /// The supervisor leaves, and everything goes on: whoever starts the next one keeps it.
    Leave,
    /// The supervisor executes another binary.
    Reexec,
}

/// What the loop woke up for.
enum Wake {
    Signal(i32),
    Ready(io::Result<Vec<(poller::Token, Source)>>),
    Command(Command),
    Elsewhere(Elsewhere),
    Deadline,
}

impl Supervisor {
    async fn new(
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
            None => RuntimeDirectory::open(RuntimeDirectory::find(options.runtime_dir.as_deref(), &options.name)?)?,
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
        this.exporter.serve_at(options.config.as_ref().and_then(|config| config.metrics), &this.commands);
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

    async fn run(mut self) -> Result<Exit, StartError> {
        let Some(mut intake) = self.intake.take() else { return Ok(Exit::Internal) };
        let outcome = loop {
            match self.serve(&mut intake).await? {
                End::Reexec => self.replace(&mut intake).await,
                outcome => break outcome,
            }
        };
        // Answers that were given are sent first: whoever asked to stop must not be cut off.
        self.answer_asks();
        self.answer_all(&mut intake).await;
        self.history.flush(LAST_WORDS);
        if let End::Over(_) = outcome {
            end_strangers().await;
            self.runtime_directory.clear();
            self.survival.clear();
        }
        self.systemd.finish(LAST_WORDS).await;
        match (outcome, self.first_failure.take()) {
            (End::Over(Outcome::NeverStarted), Some(error)) => Err(error),
            (End::Over(Outcome::NeverStarted), None) => Ok(Exit::Failed),
            (End::Over(Outcome::Stopped), _) => Ok(Exit::Done),
            (End::Leave | End::Reexec, _) => {
                // Nothing that we hold may be cleaned up.
                std::mem::forget(self);
                Ok(Exit::Done)
            }
        }
    }

    /// The loop.
    async fn serve(&mut self, intake: &mut Intake) -> Result<End, StartError> {
        loop {
            self.act();
            self.begin_checkups();
            // What a successor is handed it takes for stored.
            if let Some(outcome) = self.outcome.filter(|end| self.may_end(*end)) {
                return Ok(outcome);
            }
            let wake = self.wake(intake).await;
            // Checks go on while nothing happens.
            if !matches!(wake, Wake::Deadline | Wake::Elsewhere(Elsewhere::Checked { .. })) {
                self.tidy_at = Some(self.now().after(TIDY_AFTER));
            }
            match wake {
                Wake::Signal(signal) => self.on_signal(signal),
                Wake::Ready(Ok(ready)) => {
                    for (token, source) in ready {
                        if self.poller.is_current(token) {
                            self.on_ready(source);
                            self.act();
                        }
                    }
                }
                Wake::Ready(Err(error)) => {
                    return Err(StartError::internal("cannot wait for events", &error));
                }
                Wake::Command(command) => self.on_command(command),
                Wake::Elsewhere(done) => self.on_elsewhere(done),
                Wake::Deadline => {}
            }
            self.on_time();
        }
    }

    /// Whether nothing has to be waited for first: hooks of the last verdict, a store that a successor relies on.
    fn may_end(&self, end: End) -> bool {
        match end {
            End::Over(_) => self.services.values().all(|service| service.hooks.is_idle()) && self.probing.is_empty(),
            End::Leave => true,
            End::Reexec => self.survival.is_complete(),
        }
    }

    /// Executes the binary that was asked for; comes back only if that fails.
    async fn replace(&mut self, intake: &mut Intake) {
        // Whoever has been taken until now is answered by us, the others by the successor.
        self.stop_accepting();
        let last_requests = tokio::time::sleep(LAST_REQUESTS);
        tokio::pin!(last_requests);
        loop {
            tokio::select! {
                Some(command) = intake.commands.recv() => {
                    self.on_command(command);
                    self.act();
                }
                () = &mut last_requests => break,
            }
        }
        self.answer_asks();
        self.settle_probing();
        self.announce_reexec();
        self.answer_all(intake).await;
        self.history.flush(LAST_WORDS);
        self.stdout.flush(LAST_WORDS);
        self.stderr.flush(LAST_WORDS);
        // Handlers are lost with the program, and what they have taken with them: what comes from here on waits in the
        // kernel until the successor has its own, and what came before joins it.
        signal::block_all();
        answer().await;
        while let Some(Some(taken)) = intake.signals.next().now_or_never() {
            signal::raise(taken);
        }
        self.replace_ourselves();
        if let Err(error) = self.accept_again() {
            tracing::error!("{error}");
        }
    }

    /// Lets the control server send what it was given, and what its streams ask for on that.
    async fn answer_all(&mut self, intake: &mut Intake) {
        for _ in 0..ANSWER_TURNS {
            while let Ok(command) = intake.commands.try_recv() {
                self.on_command(command);
                self.answer_asks();
                self.act();
            }
            tokio::task::yield_now().await;
        }
    }

    async fn wake(&mut self, intake: &mut Intake) -> Wake {
        let deadline = self.deadline();
        // In no fixed order: a service that floods us must not keep operators waiting.
        tokio::select! {
            Some(signal) = intake.signals.next() => Wake::Signal(signal),
            ready = self.poller.ready() => Wake::Ready(ready),
            Some(done) = intake.elsewhere.recv() => Wake::Elsewhere(done),
            Some(command) = intake.commands.recv() => Wake::Command(command),
            () = until(deadline) => Wake::Deadline,
        }
    }

    /// When something has to be done if nothing happens.
    fn deadline(&mut self) -> Option<Time> {
        let now = self.now();
        let busy = self.is_busy();
        let probes = self.processes.values().filter_map(|process| process.probe.as_ref().and_then(|probe| probe.due));
        let probes = probes.min();
        let checks = self.processes.values().filter_map(Process::check_deadline).min();
        let ignored = self.processes.values().filter_map(|process| process.ignored.due()).min();
        let others =
            self.systemd.deadline(now, busy).into_iter().chain(probes).chain(checks).chain(ignored).chain(self.tidy_at);
        let hooks = self.services.values().filter_map(|service| service.hooks.deadline()).min();
        let others = others.chain(self.restore_at).chain(self.adoption_deadline()).chain(hooks);
        self.core.poll_timeout().into_iter().chain(others).min()
    }

    /// Whether something goes on that systemd should give time to.
    fn is_busy(&self) -> bool {
        self.core.is_ending()
            || self.core.is_starting()
            || self.core.has_sequence()
            || self.core.services().values().any(|service| service.upgrade.is_some() || service.generations.len() > 1)
    }

    /// Does what is due.
    fn on_time(&mut self) {
        let now = self.now();
        if self.core.poll_timeout().is_some_and(|at| at <= now) {
            // If we were late, others were not: what waits to be read was said in time.
            self.catch_up();
            self.tell_core(Event::Tick);
        }
        self.on_adoption_time();
        if self.systemd.tick(now) {
            self.count_connections();
        }
        self.run_probes();
        self.run_checks();
        self.on_hook_time();
        self.tell_ignored();
        self.restore_directory();
        if self.tidy_at.is_some_and(|at| at <= now) {
            self.tidy_at = None;
            limits::trim_memory();
            limits::let_go_of_code();
        }
    }

    fn on_signal(&mut self, signal: i32) {
        match signal {
            SIGCHLD => self.on_children(),
            SIGHUP => {
                tracing::info!("SIGHUP: reload");
                self.ask(Ask { names: Vec::new(), kind: Kind::Reload, atomic: None, by: None });
            }
            SIGUSR1 => self.leave(),
            SIGUSR2 => {
                tracing::info!("SIGUSR2: reexec");
                self.reexec(None, None);
            }
            _ => self.stop_everything(),
        }
    }

    /// Ends without touching anything, for a successor.
    fn leave(&mut self) {
        if self.survival.store.is_some() {
            tracing::info!("leaving: everything that runs goes on, for the next supervisor");
        } else {
            tracing::warn!("leaving, although nobody keeps the listeners: what runs goes on, and no other finds it");
        }
        // Leaving soon after the start is no death.
        if let Err(error) = self.survival.memory.set_deaths(0) {
            tracing::warn!("the state cannot be written down: {error}");
        }
        self.settle_probing();
        self.survival.stale = true;
        self.record();
        self.outcome = Some(End::Leave);
    }

    /// The first time gracefully, the second time at once. What a predecessor was asked does not count: the keeper asks
    /// us once more.
    fn stop_everything(&mut self) {
        let now = self.now();
        let again = std::mem::replace(&mut self.stop_asked, true);
        if self.stopping && !again {
            return;
        }
        if self.stopping {
            tracing::warn!("asked to stop again: ending everything at once");
            self.core.kill(now);
            self.settle_probing();
            self.stop_hooks(true);
            self.survival.stale = true;
            return;
        }
        self.stopping = true;
        self.end_probing(|_| true, Stage::Ended);
        tracing::info!("stopping: every service drains first (ask again to end them at once)");
        self.systemd.stopping("stopping");
        self.tell("ending", "stopping: every service drains first");
        self.core.stop(now);
        self.stop_hooks(false);
        self.survival.stale = true;
    }

    fn now(&self) -> Time {
        Time(clock::monotonic())
    }

    /// What starting something for an instance takes, and the processes themselves.
    fn ground(&mut self, id: InstanceId) -> (Ground<'_>, &mut HashMap<InstanceId, Process>) {
        let ground = Ground {
            notify_path: self.runtime_directory.notify_socket(id),
            poller: &mut self.poller,
            service: self.services.get(&id.service).map_or("", |service| &service.name),
            cgroups: self.cgroups.as_ref(),
            surroundings: &self.surroundings,
            stdout: &self.stdout,
            stderr: &self.stderr,
            terminal: self.terminal,
        };
        (ground, &mut self.processes)
    }

    fn name_of(&self, service: ServiceId) -> &str {
        self.services.get(&service).map_or("", |service| &service.name)
    }

    /// Runs `work` where it may block, and takes its result as one more thing that happened.
    fn off_the_loop(&self, work: impl FnOnce() -> Option<Elsewhere> + Send + 'static) {
        let elsewhere = self.elsewhere.clone();
        tokio::task::spawn_blocking(move || {
            if let Some(done) = work() {
                // The loop has ended: nobody wants to know.
                let _ = elsewhere.send(done);
            }
        });
    }
}

/// Lets the control server send what it was given.
async fn answer() {
    for _ in 0..ANSWER_TURNS {
        tokio::task::yield_now().await;
    }
}

async fn until(deadline: Option<Time>) {
    match deadline {
        Some(at) => tokio::time::sleep(at.since(Time(clock::monotonic()))).await,
        None => std::future::pending().await,
    }
}
