//! What is run, pinned when an upgrade begins: the executable held open, argv, environment, the real working directory.
//!
//! Pinning blocks (disks, name servers, user databases), so it is done off the loop, and touches nothing that runs.

mod digest;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Group, User};
use serde_json::value::RawValue;

use super::inherited::{Claims, Inherited};
use super::listeners::{self, Change, Listeners, Opened};
use super::several::Order;
use super::survival::{ReleaseEntry, STATE_FD};
use super::tokens;
use crate::config::health::Check;
use crate::config::{self, Config, Log, ReadyBy};
use crate::control::server::Access;
use crate::core::event::Hook;
use crate::core::{Backoff, CanaryStep, Hooks, Kind, Policy, Readiness, Reason, Slot, Strategy};
use crate::sys::describe;
use crate::sys::limits::{self, Nofile};
use crate::sys::shim::{Identity, Program, Stands};

/// Descriptors that must stay free for the supervisor itself when an upgrade begins: for its control clients, its
/// blocking work, and the processes that are on their way out.
const RESERVE: u64 = 128;
/// Descriptors that one more process costs the supervisor, at most: pidfds, notify socket, pipes, shim, cgroup, its
/// private listener and a health check.
const PER_INSTANCE: u64 = 14;

/// The first number that no descriptor that a service stores may have: those from there on are the supervisor's own
/// reserve.
pub(super) fn spare() -> u64 {
    limits::limit(limits::Resource::NOFILE).map_or(0, |(limit, _)| limit - reserve(limit))
}

fn reserve(limit: u64) -> u64 {
    RESERVE.min(limit / 4)
}

/// Variables that belong to one process and must not reach another (PRIOR-ART: who else sets them).
const STALE: [&str; 24] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "FDSTORE",
    "ZDSUP_SERVICE",
    "ZDSUP_GENERATION",
    "ZDSUP_INSTANCE",
    "ZDSUP_SLOT",
    DRAIN_SPREAD,
    "ZDSUP_HOOK",
    "ZDSUP_RELEASE",
    "ZDSUP_FROM",
    "ZDSUP_REASON",
    "ZDSUP_VERDICT",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "MAINPID",
    "ZDSUP_NAME",
    REHEARSAL,
    STATE_FD,
];

/// What tells a service that nobody is served by it: `1`.
const REHEARSAL: &str = "ZDSUP_REHEARSAL";

/// Tells a process over how many microseconds after its stop signal it had better spread the ends of its connections.
const DRAIN_SPREAD: &str = "ZDSUP_DRAIN_SPREAD_USEC";

/// A pinned release.
#[derive(Debug)]
pub(super) struct Release {
    /// The config of the service that it was made from.
    pub(super) service: config::Service,
    /// The executable.
    pub(super) program: Arc<Held>,
    /// The program's arguments, its name first.
    pub(super) argv: Vec<OsString>,
    /// The environment, without what belongs to one process.
    pub(super) environment: BTreeMap<OsString, OsString>,
    /// The working directory, every symlink resolved.
    pub(super) directory: PathBuf,
    /// Who runs it.
    pub(super) identity: Option<Identity>,
    /// The readiness command, where there is one.
    pub(super) probe: Option<Arc<Held>>,
    /// The command of its health checks, where that is what checks it.
    pub(super) check: Option<Arc<Held>>,
    /// The programs of its hooks, one a command.
    pub(super) hooks: BTreeMap<Hook, Vec<Arc<Held>>>,
    /// Where its output goes, with `log = { file = ... }`.
    pub(super) log_file: Option<Arc<File>>,
    /// The sockets, in the order of their descriptors.
    pub(super) listeners: Listeners,
    /// All of it, as a successor reads it.
    pub(super) written: OnceLock<Box<RawValue>>,
}

/// An executable, and what its descriptor is called by.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) token: u64,
    pub(super) program: Program,
}

/// What pinning yields.
pub(super) struct Pinned {
    /// Who may use the control socket once the upgrade has succeeded. `None`: the config was not read.
    pub(super) access: Option<Access>,
    /// Where metrics are served from then on, likewise.
    pub(super) metrics: Option<Exported>,
    /// How its services follow each other, likewise.
    pub(super) order: Option<Order>,
    /// What will be run.
    pub(super) release: Release,
    /// Things an operator should know.
    pub(super) warnings: Vec<String>,
    /// What becomes of sockets that are in use once the upgrade has succeeded.
    pub(super) changes: Vec<Change>,
}

/// Where metrics are served, if they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exported(pub(super) Option<SocketAddr>);

/// Where a config comes from, each time that it is wanted.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// It was given on the command line, and stays.
    Given(Box<Config>),
    /// It is read from this file again.
    File {
        /// The file.
        path: PathBuf,
        /// The supervisor's name.
        name: String,
    },
}

impl Source {
    /// The config file, if there is one.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Given(_) => None,
            Self::File { path, .. } => Some(path),
        }
    }
}

/// Who may use the control socket. A group that does not exist has no members, which is said.
pub(super) fn access(config: &Config) -> Access {
    let numbers = |names: &[String]| {
        let number = |name: &String| {
            let found = gid_of(name);
            if found.is_none() {
                tracing::warn!("there is no group {name}: nobody has its rights on the control socket");
            }
            found
        };
        names.iter().filter_map(number).collect()
    };
    Access {
        uid: nix::unistd::geteuid().as_raw(),
        operators: numbers(&config.operators),
        viewers: numbers(&config.viewers),
    }
}

/// What does not change from one upgrade to the next.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// Where the config comes from.
    pub(super) source: Source,
    /// The environment that the supervisor was started with.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// The directory it was started in, as the user would name it: a symlink on the way is followed anew each time.
    pub(super) directory: PathBuf,
    /// The limits on open files that it was started with.
    pub(super) nofile: Nofile,
    /// Nobody is served: what the first slot is called.
    pub(super) rehearsal: Option<u32>,
}

impl Surroundings {
    /// Reads them.
    pub(super) fn of_this_process(source: Source, directory: PathBuf, nofile: Nofile, rehearsal: Option<u32>) -> Self {
        Self { source, environment: std::env::vars_os().collect(), directory, nofile, rehearsal }
    }

    /// What a slot is called where a process is told of it.
    pub(super) fn name_of_slot(&self, slot: Slot) -> u32 {
        self.rehearsal.unwrap_or(0).saturating_add(slot.0)
    }

    /// Pins the release that the config names now.
    pub(super) fn pin(
        &self,
        service: &str,
        kind: Kind,
        (existing, taken): (&Listeners, usize),
        inherited: &Mutex<Inherited>,
    ) -> Result<Pinned, Reason> {
        let config = self.config()?;
        let Some(service) = config.services.iter().find(|found| found.name == service).cloned() else {
            return Err(Reason::Config(format!("the config no longer has a service {service}")));
        };
        self.check_descriptors(&service, kind)?;
        let directory = self.directory_of(&service)?;
        let identity = identity(&service.privileges)?;
        let environment = self.environment_of(&service, identity.as_ref())?;
        let path = environment.get(OsStr::new("PATH")).cloned().unwrap_or_else(|| "/usr/bin:/bin".into());
        let program = resolve(&service.command[0], &directory, &path)?;
        let probe = match &service.ready.by {
            ReadyBy::Exec { command, .. } => Some(resolve(&command[0], &directory, &path)?),
            ReadyBy::Notify | ReadyBy::Fd(_) | ReadyBy::Alive(_) => None,
        };
        let check = match service.health.as_ref().map(|health| &health.check) {
            Some(Check::Exec(command)) => Some(resolve(&command[0], &directory, &path)?),
            Some(Check::Http(_) | Check::Tcp(_)) | None => None,
        };
        let hooks = resolve_hooks(&service.hooks, &directory, &path)?;
        let argv = service.command.clone();
        let log_file = match &service.log {
            Log::File(path) => Some(Arc::new(open_log(path)?)),
            Log::Capture | Log::Inherit | Log::Journal => None,
        };
        let others = config.services.iter().filter(|other| other.name != service.name);
        let claims = Claims::of(inherited, others.flat_map(|other| &other.listen));
        let opened = listeners::open(&service, existing, taken, claims)?;
        let listeners = opened.listeners;
        let release = Release {
            service,
            program,
            argv,
            environment,
            directory,
            identity,
            probe,
            check,
            hooks,
            log_file,
            listeners,
            written: OnceLock::new(),
        };
        let (access, metrics, order) =
            (Some(access(&config)), Some(Exported(config.metrics)), Some(Order::of(&config)));
        Ok(Pinned { access, metrics, order, release, warnings: opened.warnings, changes: opened.changes })
    }

    /// The config as it is now.
    pub(super) fn config(&self) -> Result<Config, Reason> {
        match &self.source {
            Source::Given(config) => Ok((**config).clone()),
            Source::File { path, name } => {
                config::load(path, Some(name)).map_err(|error| Reason::Config(picture(&error)))
            }
        }
    }

    fn check_descriptors(&self, service: &config::Service, kind: Kind) -> Result<(), Reason> {
        let hooks: usize = service.hooks.commands.values().map(Vec::len).sum();
        let wait = match kind {
            Kind::Start => "",
            Kind::Reload | Kind::Restart | Kind::Rollback => "wait for old generations to end, or ",
        };
        check_descriptors(service.instances, service.listen.len() + hooks, &kind.to_string(), wait)
            .map_err(Reason::Resources)
    }

    fn directory_of(&self, service: &config::Service) -> Result<PathBuf, Reason> {
        let default = match self.source {
            Source::Given(_) => self.directory.as_path(),
            Source::File { .. } => Path::new("/"),
        };
        let asked = service.working_directory.as_deref().unwrap_or(default);
        let real = asked
            .canonicalize()
            .and_then(|path| if path.is_dir() { Ok(path) } else { Err(std::io::ErrorKind::NotADirectory.into()) });
        real.map_err(|error| Reason::Pin(format!("working directory {}: {}", asked.display(), describe(&error))))
    }

    fn environment_of(
        &self,
        service: &config::Service,
        identity: Option<&Identity>,
    ) -> Result<BTreeMap<OsString, OsString>, Reason> {
        let mut environment: BTreeMap<OsString, OsString> =
            if service.clear_environment { BTreeMap::new() } else { self.environment.iter().cloned().collect() };
        for name in STALE {
            environment.remove(OsStr::new(name));
        }
        environment.retain(|name, _| !name.as_bytes().starts_with(b"LISTEN_FDS_"));
        if let Some(user) = identity.and_then(|identity| User::from_uid(identity.uid.into()).ok().flatten()) {
            environment.insert("HOME".into(), user.dir.into());
            environment.insert("USER".into(), user.name.clone().into());
            environment.insert("LOGNAME".into(), user.name.into());
            environment.insert("SHELL".into(), user.shell.into());
        }
        if let Some(path) = &service.environment_file {
            let text = config::read_bytes(path);
            let text = text.map_err(|why| Reason::Pin(format!("environment file {}: {why}", path.display())))?;
            environment.extend(parse_environment(&text, path)?);
        }
        environment.extend(service.environment.iter().map(|(name, value)| (name.into(), value.into())));
        // A file could say them too.
        environment.remove(OsStr::new(REHEARSAL));
        environment.remove(OsStr::new(DRAIN_SPREAD));
        let spread = service.drain.spread_of_one(service.instances);
        if !spread.is_zero() {
            environment.insert(DRAIN_SPREAD.into(), spread.as_micros().to_string().into());
        }
        if self.rehearsal.is_some() {
            environment.insert(REHEARSAL.into(), "1".into());
        }
        Ok(environment)
    }
}

/// Whether so many more instances can be held, and so many descriptors beside them. `wait`: what else would help.
pub(super) fn check_descriptors(instances: u32, others: usize, what: &str, wait: &str) -> Result<(), String> {
    let (Ok(open), Ok((limit, _))) = (limits::open_fds(), limits::limit(limits::Resource::NOFILE)) else {
        return Ok(());
    };
    let needed = PER_INSTANCE * u64::from(instances) + others as u64 + reserve(limit);
    if open as u64 + needed <= limit {
        return Ok(());
    }
    Err(format!(
        "the supervisor has {open} of at most {limit} descriptors open and wants {needed} free for a {what}: {wait}raise \
         its limit (LimitNOFILE=)"
    ))
}

impl Release {
    /// The files that it runs.
    pub(super) fn executables(&self) -> impl Iterator<Item = &Arc<Held>> {
        let own = [Some(&self.program), self.probe.as_ref(), self.check.as_ref()].into_iter().flatten();
        own.chain(self.hooks.values().flatten())
    }

    /// Holds a file that another release holds already together with that: so that what is kept to be gone back to costs
    /// a descriptor for each program, not for each upgrade.
    pub(super) fn share<'a>(&mut self, others: impl Iterator<Item = &'a Arc<Held>>) {
        let others: Vec<&Arc<Held>> = others.collect();
        let own = [Some(&mut self.program), self.probe.as_mut(), self.check.as_mut()].into_iter().flatten();
        for held in own.chain(self.hooks.values_mut().flatten()) {
            if let Some(same) = others.iter().find(|other| other.program.is_same(&held.program)) {
                *held = Arc::clone(same);
            }
        }
    }

    /// All of it, as a successor reads it. It never changes, so it is written once.
    pub(super) fn written(&self) -> Option<&RawValue> {
        if self.written.get().is_none() {
            // Whoever was quicker wrote the same.
            let _ = self.written.set(serde_json::value::to_raw_value(&ReleaseEntry::of(self)).ok()?);
        }
        self.written.get().map(|written| &**written)
    }

    /// Pins it again, on these sockets.
    pub(super) fn again(&self, listeners: Listeners) -> Result<Pinned, Reason> {
        self.check_program()?;
        let (warnings, changes) = (Vec::new(), Vec::new());
        let release = self.on(listeners);
        Ok(Pinned { access: None, metrics: None, order: None, release, warnings, changes })
    }

    /// Pins it again, on the sockets that its own config names: those of them that exist are kept.
    pub(super) fn back(&self, existing: &Listeners, taken: usize) -> Result<Pinned, Reason> {
        self.check_program()?;
        let opened = listeners::open(&self.service, existing, taken, Claims::None)?;
        let release = self.on(opened.listeners.clone());
        let Opened { warnings, changes, .. } = opened;
        Ok(Pinned { access: None, metrics: None, order: None, release, warnings, changes })
    }

    /// The same, holding no sockets: it is only kept to be gone back to.
    pub(super) fn at_rest(&self) -> Self {
        self.on(Vec::new())
    }

    /// Whether it can be run again.
    fn check_program(&self) -> Result<(), Reason> {
        match self.program.program.check() {
            Ok(Stands::SameFile | Stands::PathMoved) => Ok(()),
            Err(error) => Err(Reason::Exec(format!("{}: {error}", self.program.program.path.display()))),
            Ok(Stands::OverwrittenInPlace) => Err(Reason::Overwritten(format!(
                "{} was overwritten in place since it was pinned, so the release cannot be run again: `zdsup reload` \
                 takes the new one",
                self.program.program.path.display()
            ))),
        }
    }

    /// The same release on other sockets.
    fn on(&self, listeners: Listeners) -> Self {
        Self {
            service: self.service.clone(),
            program: Arc::clone(&self.program),
            argv: self.argv.clone(),
            environment: self.environment.clone(),
            directory: self.directory.clone(),
            identity: self.identity.clone(),
            probe: self.probe.clone(),
            check: self.check.clone(),
            hooks: self.hooks.clone(),
            log_file: self.log_file.clone(),
            listeners,
            written: OnceLock::new(),
        }
    }
}

/// The policies of a service, in the terms of the machine.
pub(super) fn policy(service: &config::Service) -> Policy {
    Policy {
        instances: service.instances,
        readiness: match service.ready.by {
            ReadyBy::Alive(span) => Readiness::Alive(span),
            ReadyBy::Notify | ReadyBy::Fd(_) | ReadyBy::Exec { .. } => Readiness::Reported,
        },
        ready_timeout: service.ready.timeout,
        soak: service.upgrade.soak,
        watchdog: service.watchdog.timeout,
        drain_timeout: service.drain.timeout,
        drain_spread: service.drain.spread,
        max_draining: service.upgrade.max_draining,
        backoff: Backoff { min: service.restart.backoff_min, max: service.restart.backoff_max },
        give_up_after: service.restart.give_up_after,
        strategy: strategy(&service.upgrade.strategy),
        health: service.health.is_some(),
        hooks: Hooks { present: service.hooks.commands.keys().copied().collect(), timeout: service.hooks.timeout },
        keep_releases: service.upgrade.keep_releases,
    }
}

fn strategy(strategy: &config::Strategy) -> Strategy {
    match strategy {
        config::Strategy::Overlap => Strategy::Overlap,
        config::Strategy::Rolling { max_surge, max_unavailable } => {
            Strategy::Rolling { max_surge: *max_surge, max_unavailable: *max_unavailable }
        }
        config::Strategy::Canary(canary) => Strategy::Canary {
            steps: canary.steps.iter().map(|step| CanaryStep { weight: step.weight, hold: step.hold }).collect(),
            manual: canary.manual,
        },
        config::Strategy::BlueGreen { standby } => Strategy::BlueGreen { standby: *standby },
        config::Strategy::StopStart => Strategy::StopStart,
    }
}

/// A user's number, by name or number.
pub(super) fn uid_of(name: &str) -> Option<u32> {
    name.parse().ok().or_else(|| User::from_name(name).ok().flatten().map(|user| user.uid.as_raw()))
}

/// A group's number, by name or number.
pub(super) fn gid_of(name: &str) -> Option<u32> {
    name.parse().ok().or_else(|| Group::from_name(name).ok().flatten().map(|group| group.gid.as_raw()))
}

/// The error with the place in the file, as what follows "refused: ".
fn picture(error: &config::ConfigError) -> String {
    let text = error.render(false);
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    match text.split_once("\nhelp: ") {
        // Nothing is pictured: the file itself is what is wrong.
        Some((error, hint)) if !error.contains('\n') => format!("{error} ({hint})"),
        _ => text.to_owned(),
    }
}

fn resolve(command: &OsStr, directory: &Path, path: &OsStr) -> Result<Arc<Held>, Reason> {
    let held = |program| Arc::new(Held { token: tokens::fresh(), program });
    Program::resolve(command, directory, path).map(held).map_err(|error| {
        let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        Reason::Exec(format!("cannot {error}{hint}"))
    })
}

/// The program of each command, held open once however often it is named.
fn resolve_hooks(
    hooks: &config::Hooks,
    directory: &Path,
    path: &OsStr,
) -> Result<BTreeMap<Hook, Vec<Arc<Held>>>, Reason> {
    let mut known: BTreeMap<&OsStr, Arc<Held>> = BTreeMap::new();
    let mut resolved: BTreeMap<Hook, Vec<Arc<Held>>> = BTreeMap::new();
    for (hook, commands) in &hooks.commands {
        for command in commands {
            let word = command.0[0].as_os_str();
            let held = match known.get(word) {
                Some(held) => Arc::clone(held),
                None => resolve(word, directory, path).map_err(|reason| of_hook(*hook, reason))?,
            };
            known.insert(word, Arc::clone(&held));
            resolved.entry(*hook).or_default().push(held);
        }
    }
    Ok(resolved)
}

/// Which program it is that cannot be executed.
fn of_hook(hook: Hook, reason: Reason) -> Reason {
    match reason {
        Reason::Exec(error) => Reason::Exec(format!("the {hook} hook: {error}")),
        other => other,
    }
}

pub(super) fn open_log(path: &Path) -> Result<File, Reason> {
    let failed = |why: String| Reason::Pin(format!("log file {}: {why}", path.display()));
    // O_NONBLOCK: opening a FIFO must not wait for a reader. The service writes to it as to any file.
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = File::options().append(true).create(true).custom_flags(flags.bits()).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(nix::libc::ENXIO) if is_pipe(path) => failed("it is a pipe, and nobody reads it".to_owned()),
        _ => failed(describe(&error)),
    })?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND)).map_err(|errno| failed(describe(&errno.into())))?;
    Ok(file)
}

fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

fn identity(privileges: &config::Privileges) -> Result<Option<Identity>, Reason> {
    if privileges.user.is_none() && privileges.group.is_none() && privileges.supplementary_groups.is_none() {
        return Ok(None);
    }
    let missing = |what: &str, name: &str| Reason::Pin(format!("there is no {what} {name}"));
    let user = match &privileges.user {
        None => None,
        Some(name) => {
            let uid = uid_of(name).ok_or_else(|| missing("user", name))?;
            Some((uid, User::from_uid(uid.into()).ok().flatten()))
        }
    };
    let uid = user.as_ref().map_or_else(|| nix::unistd::geteuid().as_raw(), |(uid, _)| *uid);
    let gid = match (&privileges.group, &user) {
        (Some(name), _) => gid_of(name).ok_or_else(|| missing("group", name))?,
        (None, Some((_, Some(entry)))) => entry.gid.as_raw(),
        (None, Some((uid, None))) => {
            return Err(Reason::Pin(format!("user {uid} is not in the user database: name a group for it too")));
        }
        (None, None) => nix::unistd::getegid().as_raw(),
    };
    let groups = match (&privileges.supplementary_groups, &user) {
        (Some(names), _) => {
            names.iter().map(|name| gid_of(name).ok_or_else(|| missing("group", name))).collect::<Result<_, _>>()?
        }
        (None, Some((_, Some(entry)))) => {
            let name = std::ffi::CString::new(entry.name.clone()).map_err(|_| missing("user", &entry.name))?;
            let groups = nix::unistd::getgrouplist(&name, gid.into());
            let groups = groups.map_err(|errno| Reason::Pin(format!("groups of user {}: {errno}", entry.name)))?;
            groups.into_iter().map(nix::unistd::Gid::as_raw).collect()
        }
        (None, Some((_, None)) | None) => vec![gid],
    };
    Ok(Some(Identity { uid, gid, groups }))
}

/// `KEY=VALUE` lines, as systemd's EnvironmentFile= in its plain form: `#` and `;` begin comments, a value may be in
/// quotes.
fn parse_environment(text: &[u8], path: &Path) -> Result<Vec<(OsString, OsString)>, Reason> {
    let mut found = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") || line.starts_with(b";") {
            continue;
        }
        let wrong = |what: &str| Reason::Pin(format!("environment file {}:{}: {what}", path.display(), number + 1));
        let equals = line.iter().position(|byte| *byte == b'=').ok_or_else(|| wrong("expected KEY=VALUE"))?;
        let (name, value) = (line[..equals].trim_ascii(), line[equals + 1..].trim_ascii());
        if name.is_empty() || name.iter().any(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_') {
            return Err(wrong("a name is made of letters, digits and `_`"));
        }
        if value.contains(&0) {
            return Err(wrong("a value cannot hold a NUL byte"));
        }
        let value = match value {
            [quote @ (b'"' | b'\''), inner @ .., last] if quote == last => inner,
            [b'"' | b'\'', ..] => return Err(wrong("the quote is not closed")),
            plain => plain,
        };
        found.push((OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec())));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_files() {
        let parse = |text: &str| parse_environment(text.as_bytes(), Path::new("/e"));
        let pairs = parse("# note\n\nA=1\n B = two words \nC=\"quoted \"\nD='x'\nE=\n").expect("valid");
        let pairs: Vec<(&str, &str)> =
            pairs.iter().map(|(n, v)| (n.to_str().expect("text"), v.to_str().expect("text"))).collect();
        assert_eq!(pairs, [("A", "1"), ("B", "two words"), ("C", "quoted "), ("D", "x"), ("E", "")]);
        let place = |text: &str| parse(text).expect_err("invalid").to_string();
        assert_eq!(place("A=1\nnonsense"), "environment file /e:2: expected KEY=VALUE");
        assert_eq!(place("A=\"open"), "environment file /e:1: the quote is not closed");
        assert_eq!(place("A B=1"), "environment file /e:1: a name is made of letters, digits and `_`");
    }
}
