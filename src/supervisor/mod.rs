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
mod event_loop;
mod events;
mod exporter;
mod feed;
mod health;
mod history;
mod hold;
mod hooks;
mod http;
mod ignored;
mod inherited;
mod ledger;
pub mod leftovers;
mod listeners;
pub mod log;
mod metrics;
mod notify;
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
mod start;
mod status;
mod steering;
mod store;
mod story;
mod summary;
mod survival;
mod systemd;
mod tokens;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::control::server::{Access, Command};
use crate::control::types::LastOutput;
use crate::core::{self, Core, InstanceId, ReleaseId, ServiceId, Time, UpgradeId};
use crate::exit::Exit;
use crate::history::KernelFigures;
use crate::sys::cgroup::Delegated;
use crate::sys::fdwatch::{HangupWatch, PathWatch};
use crate::sys::shim::{Blank, Program};
use crate::sys::{Pid, clock, limits, signal};
use callers::Vacant;
use event_loop::{End, Intake};
use exporter::Exporter;
use feed::Feed;
use history::History;
use hooks::Hooks;
use inherited::Inherited;
use ledger::Ledger;
pub(crate) use listeners::TRAFFIC_STAYS;
use listeners::{Change, Listeners, Socket};
use metrics::Counters;
use paths::RuntimeDirectory;
use pause::{Pausing, Unheld};
use poller::Poller;
use prober::Prober;
use process::{Ground, Process};
use reexec::Reexec;
pub use reexec::{check_state, check_state_if_asked};
use release::{Exported, Pinned, Release, Surroundings};
use restore::Control;
use several::{Asks, Order, Wanted};
use sink::Sink;
pub use start::StartError;
use store::Store;
pub use survival::Passed;
use survival::{Adoption, Survival};
use systemd::Systemd;

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
    /// How long after that once more.
    look_again_after: Duration,
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

impl Supervisor {
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
