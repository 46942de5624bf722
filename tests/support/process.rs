//! What processes are and hold, from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) fn all() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("there is a /proc");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The processes that were started with a notify socket in this directory, and live.
pub(crate) fn instances_of(runtime: &Path) -> Vec<u32> {
    let wanted = format!("NOTIFY_SOCKET={}/", runtime.display());
    let belongs = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry.starts_with(wanted.as_bytes()))
    };
    all().into_iter().filter(belongs).filter(|pid| state(*pid).is_some_and(|state| state != 'Z')).collect()
}

/// The state letter of proc_pid_stat(5); none where there is no such process.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

pub(crate) fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

pub(crate) fn children(pid: u32) -> Vec<u32> {
    let parent = |child: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    all().into_iter().filter(|child| parent(*child) == Some(pid)).collect()
}

/// What a process holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// Open descriptors, counted by kind: numbers in their names are left out.
    pub(crate) fds: BTreeMap<String, usize>,
    pub(crate) children: usize,
    pub(crate) threads: usize,
    /// Files under its runtime directory.
    pub(crate) files: usize,
}

impl Holdings {
    /// Whether it is nothing more than that was. What was counted then may have been on its way out.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        let fds = self.fds.iter().all(|(kind, count)| other.fds.get(kind).is_some_and(|before| count <= before));
        fds && self.children <= other.children && self.files <= other.files
    }
}

pub(crate) fn holdings(pid: u32, runtime: &Path) -> Holdings {
    let mut fds = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives").flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let kind: String = target.display().to_string().chars().filter(|c| !c.is_ascii_digit()).collect();
        *fds.entry(kind).or_default() += 1;
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives").count();
    Holdings { fds, children: children(pid).len(), threads, files: files(runtime) }
}

/// The same without threads, which come and go, once it is what is expected, or does not become it in a while.
pub(crate) fn settled_holdings(pid: u32, runtime: &Path, expected: Option<&Holdings>) -> Holdings {
    let look = || Holdings { threads: 0, ..holdings(pid, runtime) };
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut last = look();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let now = look();
        let settled = expected.map_or(now == last, |expected| now == *expected);
        if settled || Instant::now() > deadline {
            return now;
        }
        last = now;
    }
}

fn files(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { 1 + files(&entry.path()) } else { 1 }).sum()
}

/// Resident memory that is its own, in KiB.
pub(crate) fn anonymous_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a process has memory");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

/// SIGSTOP, until no thread of it runs any more.
pub(crate) fn freeze(pid: u32) {
    kill(pid, nix::sys::signal::Signal::SIGSTOP);
    super::eventually("it is frozen", || {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives").flatten();
        let stopped = |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T"));
        let mut stats = tasks.map(|task| fs::read_to_string(task.path().join("stat")).unwrap_or_default());
        stats.all(stopped).then_some(())
    });
}

pub(crate) fn kill(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process number"));
    // It may have ended by itself.
    let _ = nix::sys::signal::kill(pid, signal);
}
