//! Leftovers: processes of instances whose supervisor is gone, and which no other has taken over.
//!
//! They are known by three things: the notify socket in their environment, which is in their supervisor's runtime
//! directory; the mark on their cgroup, which names that directory; and the session that a process with such a notify
//! socket leads, or led. They are ended as a supervisor ends an instance: a signal to those that lead (whose parent is
//! none of them), to the others once these are gone, and SIGKILL to all when the time is over.
//!
//! Whoever does this holds the lock of the runtime directory, so no supervisor lives, and none begins meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc::{SIGKILL, SIGTERM};

use super::paths::RuntimeDirectory;
use super::systemd::Systemd;
use super::{StartError, Time};
use crate::config::Config;
use crate::control::locate;
use crate::core::spoken;
use crate::exit::Exit;
use crate::sys::cgroup::{self, Cgroup, Delegated};
use crate::sys::pidfd::PidFd;
use crate::sys::{Pid, clock, describe, proc, signal};
use crate::text::count_as;

/// How long they may take to end where nobody says: the default of `drain.timeout`.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is looked whether one has ended, and whether there are others.
const LOOK: Duration = Duration::from_millis(10);
const SEARCH: Duration = Duration::from_millis(500);
/// How long the kernel may take to end what was killed.
const KILLED: Duration = Duration::from_secs(10);
/// How long a cgroup may take to be empty once its last process has ended.
const EMPTIED: Duration = Duration::from_secs(1);

/// A process that was left.
#[derive(Debug)]
struct Leftover {
    process: PidFd,
    pid: Pid,
    /// What it calls itself.
    name: String,
    /// The instance, as `web@3.1`; where nobody can say, the name of its notify socket.
    instance: String,
    /// The last signal that it was sent.
    told: Option<i32>,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, process {} ({})", self.instance, self.pid, self.name)
    }
}

/// Processes whose environment is not ours to read, and which nothing else tells anything about.
#[derive(Debug, Default)]
struct Unseen(Vec<Pid>);

/// What a search has found.
struct Search {
    left: Vec<Leftover>,
    unseen: Unseen,
}

/// What has become of them.
struct Ended {
    count: usize,
    /// Why it cannot be said that these were all.
    doubt: Option<String>,
}

/// How they are ended.
#[derive(Clone, Copy, Debug)]
struct Manner {
    signal: i32,
    timeout: Duration,
}

impl Manner {
    /// For what any of the services may have left: the signal that is theirs if they agree, and the longest time.
    fn of(config: &Config) -> Self {
        let drains = config.services.iter().map(|service| &service.drain);
        let signals: BTreeSet<i32> = drains.clone().map(|drain| drain.signal).collect();
        let agreed = signals.first().filter(|_| signals.len() == 1);
        Self {
            signal: agreed.copied().unwrap_or(SIGTERM),
            timeout: drains.map(|drain| drain.timeout).max().unwrap_or(TIMEOUT),
        }
    }
}

/// Ends the leftovers of the supervisor with this runtime directory, and removes what it has left there. `tell` hears a
/// sentence for each process. `is_final`: it is known that no supervisor comes any more.
///
/// # Errors
/// When a supervisor lives there or is expected, the directory or a process is not ours to deal with, an instance is not
/// found among processes that can be looked into, or a process does not end.
pub async fn end(
    directory: &Path,
    is_final: bool,
    timeout: Duration,
    tell: &mut dyn FnMut(&str),
) -> Result<usize, StartError> {
    // Whoever is to start the next one (systemd, the keeper) keeps the socket open for it.
    if !is_final && locate::is_alive(&directory.join(locate::SOCKET)) {
        let message = format!("a supervisor runs in {}, or is about to be started there again", directory.display());
        return Err(StartError::new(Exit::Refused, message).hint("`zdsup stop` ends it, and all that it runs"));
    }
    if !directory.exists() && search(directory)?.left.is_empty() {
        return Ok(0);
    }
    let directory = RuntimeDirectory::open_as_left(directory.to_owned()).map_err(|error| match error.exit {
        Exit::Refused => error.hint("`zdsup stop` ends it, and all that it runs"),
        _ => error,
    })?;
    let manner = Manner { signal: SIGTERM, timeout };
    let Ended { count, doubt } = end_in(&directory, manner, tell, &mut || ()).await?;
    if let Some(doubt) = doubt {
        let hint = format!(
            "run it as root with CAP_SYS_PTRACE (in a container: --cap-add SYS_PTRACE); if none of them is of the \
             service, remove {}",
            directory.notify_sockets().display()
        );
        return Err(StartError::new(Exit::NotPermitted, doubt).hint(hint));
    }
    directory.clear();
    Ok(count)
}

/// The notify sockets that processes have in their environment, leftovers and others.
///
/// # Errors
/// When /proc cannot be read.
pub fn notify_sockets() -> io::Result<HashSet<PathBuf>> {
    let path = |pid| {
        let path = |value: &[u8]| Some(PathBuf::from(std::ffi::OsStr::from_bytes(value)));
        proc::environ_find(pid, "NOTIFY_SOCKET", path)
            .ok()?
            .filter(|_| proc::is_in_our_pid_namespace(pid).is_ok_and(|is| is))
    };
    Ok(proc::all()?.into_iter().filter_map(path).collect())
}

/// Before a supervisor that has nothing to go on with starts what it is to run: what a predecessor has left holds the
/// addresses. Costs a search only where something may be there.
pub(super) async fn end_before_start(
    directory: &RuntimeDirectory,
    config: Option<&Config>,
    systemd: &mut Systemd,
) -> Result<(), StartError> {
    // systemd removes the directory of a unit that failed; the cgroups stay.
    let may_be_there = directory.was_used()
        || match cgroup::delegated() {
            Some(delegated) => has_marked(directory.path(), &delegated),
            None => std::env::var_os("RUNTIME_DIRECTORY").is_some(),
        };
    if !may_be_there {
        return Ok(());
    }
    let manner = config.map_or(Manner { signal: SIGTERM, timeout: TIMEOUT }, Manner::of);
    end_while_telling(directory, manner, systemd).await
}

/// Once a supervisor that only holds has ended the processes that it has handles of: their children.
pub(super) async fn end_after_holding(
    directory: &RuntimeDirectory,
    timeout: Duration,
    systemd: &mut Systemd,
) -> Result<(), StartError> {
    end_while_telling(directory, Manner { signal: SIGTERM, timeout }, systemd).await
}

async fn end_while_telling(
    directory: &RuntimeDirectory,
    manner: Manner,
    systemd: &mut Systemd,
) -> Result<(), StartError> {
    let mut tell = |line: &str| tracing::warn!("{line}");
    let mut pass = || {
        let now = Time(clock::monotonic());
        // It may take longer than a start should.
        systemd.deadline(now, true);
        systemd.tick(now);
    };
    if let Some(doubt) = end_in(directory, manner, &mut tell, &mut pass).await?.doubt {
        tracing::warn!("{doubt}");
    }
    Ok(())
}

fn has_marked(owner: &Path, delegated: &Delegated) -> bool {
    !cgroup::marked(owner, Some(delegated.path())).is_empty()
}

/// Ends all of them. `pass` is called again and again meanwhile.
async fn end_in(
    runtime: &RuntimeDirectory,
    manner: Manner,
    tell: &mut dyn FnMut(&str),
    pass: &mut dyn FnMut(),
) -> Result<Ended, StartError> {
    let (directory, began) = (runtime.path(), Instant::now());
    let (mut left, mut count, mut kill) = (BTreeMap::<Pid, Leftover>::new(), 0, false);
    let (mut instances, mut unseen) = (BTreeSet::new(), Unseen::default());
    let mut searched: Option<Instant> = None;
    loop {
        left.retain(|_, one| {
            let ended = one.process.has_exited();
            if ended {
                tell(&format!("{one}, was left by a supervisor that is gone: {}", how(one.told)));
            }
            !ended
        });
        if left.is_empty() || searched.is_none_or(|at| at.elapsed() >= SEARCH) {
            let search = search(directory)?;
            unseen = search.unseen;
            for one in search.left {
                instances.insert(one.instance.clone());
                left.entry(one.pid).or_insert_with(|| {
                    count += 1;
                    one
                });
            }
            searched = Some(Instant::now());
        }
        if left.is_empty() {
            break;
        }
        if began.elapsed() >= manner.timeout && !kill {
            kill = true;
            for cgroup in cgroup::marked(directory, None) {
                // What it does not reach is killed one by one.
                let _ = cgroup.kill();
            }
        }
        tell_to_end(&mut left, manner.signal, kill)?;
        if kill && began.elapsed() >= manner.timeout + KILLED {
            let names: Vec<String> = left.values().map(ToString::to_string).collect();
            let message = format!("killed, and not gone after {}: {}", spoken(KILLED), names.join("; "));
            return Err(StartError::new(Exit::Internal, message));
        }
        pass();
        tokio::time::sleep(LOOK).await;
    }
    remove_cgroups(directory).await;
    let missing = runtime.instances_before().saturating_sub(instances.len());
    Ok(Ended { count, doubt: unseen.doubt(missing) })
}

impl Unseen {
    /// How many of them are named.
    const NAMED: usize = 8;

    /// What it means for instances that were not found.
    fn doubt(&self, missing: usize) -> Option<String> {
        if missing == 0 || self.0.is_empty() {
            return None;
        }
        let name = |pid: &Pid| format!("{pid} ({})", proc::name(*pid).unwrap_or_default());
        let mut names: Vec<String> = self.0.iter().take(Self::NAMED).map(name).collect();
        if self.0.len() > Self::NAMED {
            names.push("...".to_owned());
        }
        Some(format!(
            "{} not found and may serve still: {} cannot be looked into: {}",
            count_as(missing as u64, "instance was", "instances were"),
            count_as(self.0.len() as u64, "process", "processes"),
            names.join(", ")
        ))
    }
}

fn how(told: Option<i32>) -> String {
    match told {
        Some(SIGKILL) => "killed".to_owned(),
        Some(number) => format!("ended by {}", signal::Name(number)),
        None => "it has ended".to_owned(),
    }
}

/// The signal to those that lead; SIGKILL to all.
fn tell_to_end(left: &mut BTreeMap<Pid, Leftover>, signal: i32, kill: bool) -> Result<(), StartError> {
    let led: HashSet<Pid> =
        left.keys().copied().filter(|pid| proc::parent(*pid).is_ok_and(|p| left.contains_key(&p))).collect();
    let signal = if kill { SIGKILL } else { signal };
    for one in left.values_mut().filter(|one| one.told != Some(signal) && (kill || !led.contains(&one.pid))) {
        match one.process.signal(signal) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let message = format!("cannot end {one}: {}", describe(&error));
                return Err(StartError::new(Exit::NotPermitted, message).hint("root may, and the service's own user"));
            }
            // One that is gone is what was wanted.
            _ => one.told = Some(signal),
        }
    }
    Ok(())
}

/// Every leftover that can be found.
fn search(directory: &Path) -> Result<Search, StartError> {
    let failed = |error: io::Error| StartError::internal("cannot look for what was left", &error);
    let cgroups = cgroup::marked(directory, None);
    let mut known: HashMap<Pid, String> = HashMap::new();
    for cgroup in &cgroups {
        // One that is removed meanwhile is empty.
        known.extend(cgroup.all_procs().unwrap_or_default().into_iter().map(|pid| (pid, instance_of(cgroup))));
    }
    let all = proc::all().map_err(failed)?;
    let mut denied = Vec::new();
    for pid in &all {
        match by_environment(*pid, directory) {
            Ok(Some(instance)) => _ = known.insert(*pid, instance),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => denied.push(*pid),
            Ok(None) | Err(_) => {}
        }
    }
    let mut sessions: HashMap<Pid, String> = HashMap::new();
    for (pid, instance) in &known {
        // A session is theirs if its leader is, or is gone: then nobody else can have joined it.
        if let Ok(Some(session)) = proc::session(*pid)
            && (known.contains_key(&session) || !proc::exists(session))
        {
            sessions.insert(session, instance.clone());
        }
    }
    let by_session = |pid: Pid| sessions.get(&proc::session(pid).ok()??);
    let whose = |pid: Pid| {
        let within = || cgroups.iter().find(|it| it.contains(pid).unwrap_or(false)).map(instance_of);
        by_environment(pid, directory).ok().flatten().or_else(within).or_else(|| by_session(pid).cloned())
    };
    let is_theirs = |pid: &Pid| known.contains_key(pid) || by_session(*pid).is_some();
    denied.retain(|pid| !is_theirs(pid) && may_be_theirs(*pid));
    let candidates = all.into_iter().filter(|pid| *pid != Pid::own() && is_theirs(pid));
    let leftover = |pid: Pid| {
        // Once it is open the number cannot be given to another, so it is looked at again.
        let process = PidFd::open(pid).ok().filter(|process| !process.has_exited())?;
        let instance = whose(pid)?;
        Some(Leftover { process, pid, name: proc::name(pid).unwrap_or_default(), instance, told: None })
    };
    Ok(Search { left: candidates.filter_map(leftover).collect(), unseen: Unseen(denied) })
}

/// Whether a process that cannot be looked into may be a leftover. Only root runs services as another user. The first
/// process is none: nobody in its namespace has started it.
fn may_be_theirs(pid: Pid) -> bool {
    nix::unistd::geteuid().is_root() && pid.as_raw() != 1 && proc::has_memory(pid).unwrap_or(false)
}

/// The instance that a process belongs to by its environment, if that is one of this supervisor.
fn by_environment(pid: Pid, directory: &Path) -> io::Result<Option<String>> {
    let notify = directory.join("n");
    let socket = |value: &[u8]| {
        let path = Path::new(std::ffi::OsStr::from_bytes(value));
        Some(path.strip_prefix(&notify).ok()?.to_string_lossy().into_owned())
    };
    let Some(socket) = proc::environ_find(pid, "NOTIFY_SOCKET", socket)? else { return Ok(None) };
    // In a container the same path is another place.
    if !proc::is_in_our_pid_namespace(pid)? {
        return Ok(None);
    }
    let name = |value: &[u8]| Some(String::from_utf8_lossy(value).into_owned());
    Ok(Some(proc::environ_find(pid, "ZDSUP_INSTANCE", name)?.unwrap_or(socket)))
}

fn instance_of(cgroup: &Cgroup) -> String {
    cgroup.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

async fn remove_cgroups(directory: &Path) {
    let began = Instant::now();
    for cgroup in cgroup::marked(directory, None) {
        while let Err(error) = cgroup.remove() {
            if began.elapsed() > EMPTIED {
                tracing::warn!("cannot remove cgroup {}: {error}", cgroup.path().display());
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
