//! What the user wants, as types that cannot be invalid.
//!
//! `raw` mirrors the file (serde, unknown keys refused); `convert` turns it into a [`Config`] once, with every check;
//! nothing is validated later. Flags of `zdsup run` produce the same raw form, so a file and a command line that say
//! the same give the same [`Config`]. `address` is the grammar of `--listen`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::core::event::Hook;

mod address;
mod convert;
mod diff;
pub(crate) mod error;
mod explain;
pub mod health;
mod order;
pub(crate) mod raw;
mod read;
mod rehearse;
pub(crate) mod source;
mod units;
mod upgrade;

#[cfg(test)]
mod tests;

pub use crate::sys::steer::{Affinity, Network, NetworkError};
pub use address::{Address, AddressError, Inet, ResolveError, UNIX_NAME_MAX, split_listen};
pub use diff::{KeptListener, ListenDiff};
pub use error::ConfigError;
pub use health::Health;
pub use read::FILE_MAX;
pub(crate) use read::bytes as read_bytes;
pub use rehearse::RehearsalError;
pub(crate) use units::duration as parse_duration;
pub use units::format_duration;
pub use upgrade::{Canary, CanaryStep, ErrorBudget, Strategy, Traffic, Upgrade, UpgradeProbe};

use convert::Origin;
use error::Problem;
use source::{CommandLine, Source};

/// Reads a config file. It asks nothing but the file, so it says nothing about what is on this machine.
///
/// `name` is the supervisor's; the file's stem without it.
///
/// # Errors
///
/// Where the file cannot be read, or what it says cannot be meant.
pub fn load(path: &Path, name: Option<&str>) -> Result<Config, ConfigError> {
    parse(&read::read(path)?, path, name)
}

/// What a file of this path and this text means. See [`load`].
///
/// # Errors
///
/// Where what it says cannot be meant.
pub fn parse(text: &str, path: &Path, name: Option<&str>) -> Result<Config, ConfigError> {
    let source = Arc::new(Source::file(path, text));
    let error = |problem| ConfigError::new(&source, problem);
    let raw: raw::File = toml::from_str(text).map_err(|error| explain::toml_error(&error, text)).map_err(error)?;
    let name = name_of(path, name)?;
    let absolute = std::path::absolute(path).map_err(|reason| {
        ConfigError::of_file(path, format!("its directory cannot be known: {reason}"), "write the whole path, from `/`")
    })?;
    Ok(Config {
        name,
        source: Some(absolute),
        operators: convert::accounts(raw.supervisor.operators).map_err(error)?,
        viewers: convert::accounts(raw.supervisor.viewers).map_err(error)?,
        atomic: raw.supervisor.atomic,
        metrics: convert::metrics(raw.supervisor.metrics).map_err(error)?,
        services: convert::services(raw.service).map_err(error)?,
    })
}

/// The name of the supervisor that runs this file: the one that was given, else the file's stem.
///
/// # Errors
///
/// Where neither can be a name.
pub fn name_of(path: &Path, given: Option<&str>) -> Result<String, ConfigError> {
    if let Some(name) = given {
        return supervisor_name(name);
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match convert::name_error(&stem) {
        None => Ok(stem.into_owned()),
        Some(_) => {
            let message = format!("its stem `{}` cannot be a supervisor's name", stem.escape_debug());
            Err(ConfigError::of_file(path, message, "rename the file, or give a name with `--name`"))
        }
    }
}

/// What flags mean: `raw` holds their values, each with its place in `line`. Relative paths start at `directory`.
///
/// The service is called after its command, and so is the supervisor unless `name` is given.
pub(crate) fn from_flags(
    supervisor: raw::Supervisor,
    service: raw::Service,
    line: CommandLine,
    name: Option<&str>,
    directory: &Path,
) -> Result<Config, ConfigError> {
    let end = line.end();
    let source = Arc::new(line.finish());
    let error = |problem: Problem| ConfigError::new(&source, problem);
    let program = service.command.as_ref().and_then(|words| words.get_ref().first());
    let base = program.and_then(|program| Path::new(&program.get_ref().0).file_name()).unwrap_or(OsStr::new(""));
    let service_name = convert::name_from(base);
    let origin = Origin::Flags { directory };
    Ok(Config {
        name: name.map_or_else(|| Ok(service_name.clone()), supervisor_name)?,
        source: None,
        operators: convert::accounts(supervisor.operators).map_err(error)?,
        viewers: convert::accounts(supervisor.viewers).map_err(error)?,
        atomic: supervisor.atomic,
        metrics: convert::metrics(supervisor.metrics).map_err(error)?,
        services: vec![convert::service(&Spanned::new(end, service_name), service, origin).map_err(error)?],
    })
}

fn supervisor_name(name: &str) -> Result<String, ConfigError> {
    match convert::name_error(name) {
        None => Ok(name.to_owned()),
        Some(rule) => {
            let message = format!("`{}` cannot be a supervisor's name", name.escape_debug());
            Err(ConfigError::of_flag("--name", message, rule))
        }
    }
}

/// The directory that the user is in, by the name that they know it by: through its symlinks, so that a `current` on
/// the way is followed anew at each upgrade. The kernel's own name for it where `PWD` is not that directory.
///
/// # Errors
///
/// Where the directory has been removed, or may not be read.
pub fn logical_directory() -> std::io::Result<PathBuf> {
    use std::os::unix::fs::MetadataExt;

    let here = std::fs::metadata(".")?;
    let is_here = |path: &PathBuf| {
        path.is_absolute()
            && std::fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino()))
    };
    match std::env::var_os("PWD").map(PathBuf::from).filter(is_here) {
        Some(path) => Ok(path),
        None => std::env::current_dir(),
    }
}

/// The same for a successor, which must come up whatever has become of the directory that its predecessor was started
/// in: the path that it had.
#[must_use]
pub fn last_directory() -> PathBuf {
    logical_directory().unwrap_or_else(|_| {
        let path = std::fs::read_link("/proc/self/cwd").unwrap_or_else(|_| "/".into()).into_os_string().into_vec();
        let gone = path.strip_suffix(b" (deleted)").map(<[u8]>::to_vec);
        PathBuf::from(OsString::from_vec(gone.unwrap_or(path)))
    })
}

/// A whole config: one supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The supervisor's name: `--name`, else the file's stem, else the command's base name.
    pub name: String,
    /// The file it came from; absolute.
    pub source: Option<PathBuf>,
    /// Groups whose members may operate, and look.
    pub operators: Vec<String>,
    /// Groups whose members may look.
    pub viewers: Vec<String>,
    /// Where metrics are served to whoever asks.
    pub metrics: Option<SocketAddr>,
    /// Whether a reload of several services takes those already upgraded back when a later one fails. Default false.
    pub atomic: bool,
    /// The services in the order of the file; at least one. Names are distinct, listeners do not overlap, and each
    /// `after` names others of them, without a circle.
    pub services: Vec<Service>,
}

impl Config {
    /// The services in the order in which they are started and upgraded: each after those that it names, else as in the
    /// file. They are stopped the other way round.
    #[must_use]
    pub fn in_order(&self) -> Vec<&Service> {
        let place = |name: &String| self.services.iter().position(|service| service.name == *name);
        let after: Vec<_> =
            self.services.iter().map(|service| service.after.iter().filter_map(place).collect()).collect();
        // There is no circle: that was refused.
        order::in_order(&after).unwrap_or_default().into_iter().map(|number| &self.services[number]).collect()
    }
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name: `[A-Za-z0-9_.-]+`.
    pub name: String,
    /// The program and its arguments; never empty.
    #[serde(with = "crate::sys::written::list")]
    pub command: Vec<OsString>,
    /// How many processes a generation has: 1 to 1024. Default 1.
    #[serde(default = "one")]
    pub instances: u32,
    /// How new connections are divided between generations.
    #[serde(default)]
    pub traffic: Traffic,
    /// The services that it starts and is upgraded after, and stopped before.
    #[serde(default)]
    pub after: Vec<String>,
    /// Where it runs, unresolved: a symlink on the way is followed anew at each upgrade. Absolute.
    /// `None`: the root directory for a config file's service, the supervisor's own (logical) directory for `-- CMD`.
    #[serde(with = "crate::sys::written::option")]
    pub working_directory: Option<PathBuf>,
    /// Added to the environment.
    pub environment: BTreeMap<String, String>,
    /// `KEY=VALUE` lines, read anew at each upgrade. Absolute.
    #[serde(with = "crate::sys::written::option")]
    pub environment_file: Option<PathBuf>,
    /// Start from an empty environment instead of the supervisor's.
    pub clear_environment: bool,
    /// Whether O_NONBLOCK is set on its listeners (NonBlocking= in systemd.service(5)): for programs whose processes wait
    /// for the same socket with poll(2) and its like, and count on that without setting it themselves.
    #[serde(default)]
    pub non_blocking: bool,
    /// Who it runs as, and with what limits.
    pub privileges: Privileges,
    /// Where its output goes.
    pub log: Log,
    /// Its listeners, in the order of their descriptors. Names and addresses are distinct.
    pub listen: Vec<Listen>,
    /// Whether LISTEN_PID and WATCHDOG_PID are set (`listen-pid = false` for wrappers that start the real program as a child).
    pub listen_pid: bool,
    /// How many descriptors are kept for its successors. Default 0: none.
    pub fd_store_max: u32,
    /// How it becomes ready.
    pub ready: Ready,
    /// How it is seen from outside that it is well. Default: it is not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// How it says that it lives.
    pub watchdog: Watchdog,
    /// How it is upgraded.
    pub upgrade: Upgrade,
    /// How it is ended.
    pub drain: Drain,
    /// What happens when it dies while serving.
    pub restart: Restart,
    /// What is run at which moment of an upgrade.
    #[serde(default)]
    pub hooks: Hooks,
}

fn one() -> u32 {
    1
}

/// Who a service runs as, and with what limits. `None` leaves things as the supervisor has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// User name or number, resolved when a release is pinned.
    pub user: Option<String>,
    /// Group name or number; the user's own when absent.
    pub group: Option<String>,
    /// Further groups; the user's own when absent and `user` is set.
    pub supplementary_groups: Option<Vec<String>>,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// setrlimit(2) resource name in lower case without RLIMIT_ (`nofile`) to (soft, hard); `u64::MAX` is infinity.
    pub limits: BTreeMap<String, (u64, u64)>,
    /// -20 to 19.
    pub nice: Option<i32>,
    /// -1000 to 1000.
    pub oom_score_adjust: Option<i32>,
    /// prctl(PR_SET_NO_NEW_PRIVS).
    pub no_new_privileges: bool,
}

/// Where a service's output goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Log {
    /// Copied through, its last lines kept.
    #[default]
    Capture,
    /// The supervisor's own stdout and stderr.
    Inherit,
    /// A stream of its own to journald.
    Journal,
    /// Appended to this file. Absolute.
    File(#[serde(with = "crate::sys::written")] PathBuf),
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Its LISTEN_FDNAMES entry.
    pub name: String,
    /// Where.
    pub address: Address,
    /// How.
    pub options: ListenOptions,
}

/// Socket options of a listener; `None` is the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenOptions {
    /// listen(2) backlog; the kernel caps it at net.core.somaxconn. Default 4096.
    pub backlog: Option<u32>,
    /// SO_REUSEPORT, where it is asked for; steered traffic has it without.
    pub reuse_port: bool,
    /// IPV6_V6ONLY.
    pub only_v6: Option<bool>,
    /// IP_FREEBIND.
    pub free_bind: bool,
    /// IP_TRANSPARENT.
    pub transparent: bool,
    /// TCP_NODELAY, inherited by accepted connections.
    pub no_delay: bool,
    /// SO_KEEPALIVE, inherited by accepted connections.
    pub keep_alive: bool,
    /// TCP_DEFER_ACCEPT, whole seconds.
    pub defer_accept: Option<Duration>,
    /// TCP_FASTOPEN queue length.
    pub fast_open: Option<u32>,
    /// SO_RCVBUF, bytes.
    pub receive_buffer: Option<u32>,
    /// SO_SNDBUF, bytes.
    pub send_buffer: Option<u32>,
    /// SO_BINDTODEVICE.
    pub bind_to_device: Option<String>,
    /// Mode of a unix socket's file.
    pub mode: Option<u32>,
    /// Owner of a unix socket's file.
    pub user: Option<String>,
    /// Group of a unix socket's file.
    pub group: Option<String>,
}

impl ListenOptions {
    /// The backlog of a socket that accepts connections, unless another is asked for.
    pub const BACKLOG: u32 = 4096;
}

/// How a service becomes ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The proof.
    pub by: ReadyBy,
    /// How long it may take. Default 30 s.
    pub timeout: Duration,
}

/// The proof of readiness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadyBy {
    /// READY=1 on the instance's notify socket.
    Notify,
    /// A newline on this descriptor of the service (s6).
    Fd(u32),
    /// This command succeeds; it is run again until it does, with MAINPID in its environment.
    Exec {
        /// The command.
        #[serde(with = "crate::sys::written::list")]
        command: Vec<OsString>,
        /// The pause between attempts. Default 200 ms.
        interval: Duration,
    },
    /// It has run for this long; at most `timeout`.
    Alive(Duration),
}

impl Ready {
    /// The default pause between attempts of [`ReadyBy::Exec`].
    pub const INTERVAL: Duration = Duration::from_millis(200);
}

impl Default for Ready {
    fn default() -> Self {
        Self { by: ReadyBy::Notify, timeout: Duration::from_secs(30) }
    }
}

/// How a ready service says that it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watchdog {
    /// It sends WATCHDOG=1 at least so often. Default: it need not.
    pub timeout: Option<Duration>,
    /// The number of the signal that ends one that does not. Default SIGABRT, so that it dumps core.
    pub signal: i32,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self { timeout: None, signal: nix::libc::SIGABRT }
    }
}

/// How a process is ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// The signal's number. Default SIGTERM.
    pub signal: i32,
    /// Then SIGKILL. Default 30 s.
    pub timeout: Duration,
    /// Over what time the instances of a generation that was replaced get the signal, one after the other. Default 0.
    #[serde(default)]
    pub spread: Duration,
}

impl Drain {
    /// The part of the spread that is an instance's own: until the next one gets its signal.
    #[must_use]
    pub fn spread_of_one(&self, instances: u32) -> Duration {
        self.spread / instances.max(1)
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { signal: nix::libc::SIGTERM, timeout: Duration::from_secs(30), spread: Duration::ZERO }
    }
}

/// What happens when a service dies while serving.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// The first delay. Default 100 ms.
    pub backoff_min: Duration,
    /// The longest delay. Default 30 s.
    pub backoff_max: Duration,
    /// Failures in a row until it is given up. Default 10; 0 never.
    pub give_up_after: u32,
}

impl Default for Restart {
    fn default() -> Self {
        Self { backoff_min: Duration::from_millis(100), backoff_max: Duration::from_secs(30), give_up_after: 10 }
    }
}

/// What is run at which moment of an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// The commands of each hook, run one after the other; a hook without any is not in here.
    pub commands: BTreeMap<Hook, Vec<HookCommand>>,
    /// How long all the commands of one hook may take together. Default 60 s.
    pub timeout: Duration,
}

/// A program and its arguments; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HookCommand(#[serde(with = "crate::sys::written::list")] pub Vec<OsString>);

impl Default for Hooks {
    fn default() -> Self {
        Self { commands: BTreeMap::new(), timeout: Duration::from_secs(60) }
    }
}
