//! What /proc tells about processes. Each question costs a few file reads; those over [`all`] processes belong off the
//! loop. A process may end at any moment: then the answer is an error, ESRCH or `NotFound`.

use std::ffi::{CStr, OsStr};
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::SysconfVar;

use super::{Pid, answer, constant};

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Resident memory, bytes.
    pub memory: u64,
    /// Time on a processor, in user and kernel mode, without its children's.
    pub cpu: Duration,
}

/// The session that a process belongs to (getsid(2)); `None` when it was begun outside our pid namespace, as where a
/// container's first process, or a shell that was put into one, never began its own.
///
/// # Errors
/// ESRCH when there is no such process.
pub fn session(pid: Pid) -> io::Result<Option<Pid>> {
    // SAFETY: getsid takes an integer.
    answer(unsafe { libc::getsid(pid.as_raw()) }).map(Pid::from_raw)
}

/// Whether a process belongs to the session that this one leads or led.
#[must_use]
pub fn is_in_session(pid: Pid, leader: Pid) -> bool {
    session(pid).is_ok_and(|session| session == Some(leader))
}

/// Whether there is a process of that number, a zombie counted.
#[must_use]
pub fn exists(pid: Pid) -> bool {
    !session(pid).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

/// The parent of a process.
///
/// # Errors
/// As for every question here; `InvalidData` when it has none in this pid namespace.
pub fn parent(pid: Pid) -> io::Result<Pid> {
    let stat = Stat::read(pid)?;
    stat.field(4).and_then(Pid::from_raw).ok_or_else(malformed)
}

/// Whether the environment that a process was started with holds exactly `KEY=VALUE`. During execve(2) it is empty for
/// a moment.
///
/// # Errors
/// EACCES for a process that is not ours to look at.
pub fn environ_has(pid: Pid, key: &str, value: &str) -> io::Result<bool> {
    Ok(environ_find(pid, key, |found| (found == value.as_bytes()).then_some(()))?.is_some())
}

/// The first value that `pick` takes of those that this variable has in the environment that a process was started
/// with. As [`environ_has`] otherwise.
///
/// # Errors
/// EACCES for a process that is not ours to look at.
pub fn environ_find<T>(pid: Pid, key: &str, pick: impl FnMut(&[u8]) -> Option<T>) -> io::Result<Option<T>> {
    let environment = fs::read(format!("/proc/{pid}/environ"))?;
    let entries = environment.split(|byte| *byte == 0);
    let values = entries.filter_map(|entry| entry.strip_prefix(key.as_bytes())?.strip_prefix(b"="));
    Ok({ values }.find_map(pick))
}

/// Whether a process has the same numbers for processes as we have: another's `/run` is another place. It has one in each
/// namespace from that of our /proc down to its own (NSpid, proc_pid_status(5)), which anybody may read, unlike the link
/// `ns/pid`.
///
/// # Errors
/// As for every question here.
pub fn is_in_our_pid_namespace(pid: Pid) -> io::Result<bool> {
    Ok(status(pid, "NSpid:")?.split_ascii_whitespace().count() == 1)
}

/// Every process that is visible.
///
/// # Errors
/// Those of reading /proc.
pub fn all() -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw));
    }
    Ok(found)
}

/// The path that this program was executed by, whatever is there by now. Where that was a link, it is the link and not
/// what it led to. Where only a relative path was given, it is the file's own.
///
/// # Errors
/// Those of reading /proc.
pub fn own_path() -> io::Result<PathBuf> {
    // SAFETY: getauxval takes an integer.
    let executed = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const libc::c_char;
    if !executed.is_null() {
        // SAFETY: it points at a string that was put there by execve(2) and stays for as long as the program
        // (getauxval(3)).
        let executed = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(executed) }.to_bytes()));
        if executed.is_absolute() && !["/proc", "/dev"].iter().any(|made_up| executed.starts_with(made_up)) {
            return Ok(executed.to_owned());
        }
    }
    let path = fs::read_link("/proc/self/exe")?;
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    Ok(Path::new(OsStr::from_bytes(bytes)).to_owned())
}

/// Our own children, unreaped ones among them.
///
/// # Errors
/// Those of reading /proc.
pub fn children_of_self() -> io::Result<Vec<Pid>> {
    match listed_children() {
        // Needs CONFIG_PROC_CHILDREN.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let own = Pid::own();
            Ok(all()?.into_iter().filter(|pid| parent(*pid).is_ok_and(|parent| parent == own)).collect())
        }
        other => other,
    }
}

/// Memory and processor time.
///
/// # Errors
/// As for every question here.
pub fn usage(pid: Pid) -> io::Result<Usage> {
    let stat = Stat::read(pid)?;
    let ticks: u64 = stat.field::<u64>(14).zip(stat.field::<u64>(15)).map(|(u, s)| u + s).ok_or_else(malformed)?;
    let pages: u64 = stat.field(24).ok_or_else(malformed)?;
    // In nanoseconds, so that no tick is lost to rounding; 100 ticks a second everywhere in practice.
    let cpu = Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / constant(SysconfVar::CLK_TCK, 100)));
    Ok(Usage { memory: pages.saturating_mul(constant(SysconfVar::PAGE_SIZE, 4096)), cpu })
}

/// The inodes of the sockets that a process has open, as sock_diag names them.
///
/// # Errors
/// EACCES for a process that is not ours to look at.
pub fn socket_inodes(pid: Pid) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A descriptor may be closed while we look.
        let Ok(target) = entry.and_then(|entry| fs::read_link(entry.path())) else { continue };
        let inode = target.as_os_str().as_bytes().strip_prefix(b"socket:[").and_then(|rest| rest.strip_suffix(b"]"));
        found.extend(inode.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok()));
    }
    Ok(found)
}

/// Whether a process has a handler for this signal.
///
/// # Errors
/// As for every question here.
pub fn catches(pid: Pid, signal: i32) -> io::Result<bool> {
    let mask = u64::from_str_radix(status(pid, "SigCgt:")?.trim(), 16).map_err(|_| malformed())?;
    Ok(u32::try_from(signal - 1).ok().and_then(|bit| mask.checked_shr(bit)).is_some_and(|bits| bits & 1 == 1))
}

/// Whether a process still has memory. One that is ending has none, nor has a zombie; what /proc tells of its memory is
/// root's to read then.
///
/// # Errors
/// As for every question here.
pub fn has_memory(pid: Pid) -> io::Result<bool> {
    Stat::read(pid)?.field::<u64>(23).map(|bytes| bytes > 0).ok_or_else(malformed)
}

/// What a process calls itself (its `comm`), at most 15 bytes.
///
/// # Errors
/// As for every question here.
pub fn name(pid: Pid) -> io::Result<String> {
    Ok(String::from_utf8_lossy(fs::read(format!("/proc/{pid}/comm"))?.trim_ascii_end()).into_owned())
}

/// When a process started, in clock ticks since boot: together with its number it is unique within a boot.
///
/// # Errors
/// As for every question here.
pub fn started(pid: Pid) -> io::Result<u64> {
    Stat::read(pid)?.field(22).ok_or_else(malformed)
}

/// Whether no process is left in the group that this one leads or led, zombies counted. Only while the number is known
/// to be no other group's.
#[must_use]
pub fn group_is_empty(leader: Pid) -> bool {
    super::pidfd::kill_group(leader, 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

/// This field of /proc/PID/status (proc_pid_status(5)).
fn status(pid: Pid, field: &str) -> io::Result<String> {
    // Its name need not be UTF-8.
    let status = fs::read(format!("/proc/{pid}/status"))?;
    let status = String::from_utf8_lossy(&status);
    status.lines().find_map(|line| line.strip_prefix(field)).map(str::to_owned).ok_or_else(malformed)
}

/// /proc/PID/stat (proc_pid_stat(5)), after the name: that may hold spaces and parentheses.
struct Stat {
    rest: String,
}

impl Stat {
    fn read(pid: Pid) -> io::Result<Self> {
        let mut bytes = Vec::with_capacity(512);
        fs::File::open(format!("/proc/{pid}/stat"))?.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let (_, rest) = text.rsplit_once(") ").ok_or_else(malformed)?;
        Ok(Self { rest: rest.to_owned() })
    }

    /// By its number in the manual, from 3.
    fn field<T: std::str::FromStr>(&self, number: usize) -> Option<T> {
        self.rest.split_ascii_whitespace().nth(number - 3)?.parse().ok()
    }
}

fn listed_children() -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        let children = match fs::read_to_string(task?.path().join("children")) {
            // That thread has ended meanwhile, unless there is no such file at all.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => continue,
            other => other?,
        };
        found.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw));
    }
    Ok(found)
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Kept(Child);

    impl Kept {
        fn sleeping() -> Self {
            let mut command = Command::new("/bin/cat");
            command.env("ZDSUP_TEST", "1.2").stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            // Once it answers, its execution is complete: before, its environment is empty for a moment.
            child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
            child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            Self(child)
        }

        fn pid(&self) -> Pid {
            Pid::try_from(self.0.id()).unwrap()
        }
    }

    impl Drop for Kept {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn our_own_path_leads_to_us() {
        let (path, file) = (fs::metadata(own_path().unwrap()).unwrap(), fs::metadata("/proc/self/exe").unwrap());
        assert_eq!((path.dev(), path.ino()), (file.dev(), file.ino()));
    }

    #[test]
    fn a_child_is_found_and_described() {
        let child = Kept::sleeping();
        let pid = child.pid();
        let stat = || fs::read_to_string(format!("/proc/{pid}/stat"));
        assert_eq!(parent(pid).ok(), Some(Pid::own()), "{:?}", stat());
        assert_eq!(session(pid).unwrap(), session(Pid::own()).unwrap());
        assert!(exists(pid));
        assert!(children_of_self().unwrap().contains(&pid));
        assert!(all().unwrap().contains(&pid));
        assert!(environ_has(pid, "ZDSUP_TEST", "1.2").unwrap());
        assert!(!environ_has(pid, "ZDSUP_TEST", "1").unwrap());
        assert!(!environ_has(pid, "DSUP_TEST", "1.2").unwrap());
        let first = |value: &[u8]| value.first().copied();
        assert_eq!(environ_find(pid, "ZDSUP_TEST", first).unwrap(), Some(b'1'));
        assert_eq!(environ_find(pid, "ZDSUP_TES", first).unwrap(), None);
        assert!(is_in_our_pid_namespace(pid).unwrap());
        assert_eq!(name(pid).unwrap(), "cat");
        assert!(usage(pid).unwrap().memory > 0);
        assert!(has_memory(pid).unwrap());
        assert!(started(pid).unwrap() >= started(Pid::own()).unwrap());
        assert!(!catches(pid, libc::SIGTERM).unwrap());
    }

    #[test]
    fn a_session_that_began_outside_is_none() {
        // Those of the kernel itself, and in a container where nobody began one all others, have none that we can see.
        for pid in all().unwrap() {
            let session = session(pid);
            assert!(!exists(pid) || session.is_ok(), "{pid}: {session:?}");
        }
        assert!(session(Pid::own()).unwrap().is_none_or(|leader| is_in_session(Pid::own(), leader)));
    }

    #[test]
    fn handlers_are_seen() {
        // The test harness has Rust's handler for stack overflows.
        assert!(catches(Pid::own(), libc::SIGSEGV).unwrap());
        assert!(!catches(Pid::own(), libc::SIGUSR2).unwrap());
        assert!(!catches(Pid::own(), 0).unwrap());
        assert!(!catches(Pid::own(), 1000).unwrap());
    }

    #[test]
    fn sockets_are_known_by_inode() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inodes = socket_inodes(Pid::own()).unwrap();
        assert!(inodes.iter().any(|inode| link.as_os_str() == format!("socket:[{inode}]").as_str()));
    }

    #[test]
    fn a_group_is_empty_once_its_leader_is_reaped() {
        use std::os::unix::process::CommandExt;
        let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).process_group(0).spawn().unwrap();
        let pid = Pid::try_from(child.id()).unwrap();
        assert!(!group_is_empty(pid));
        drop(child.stdin.take());
        while has_memory(pid).unwrap() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(group_is_empty(pid));
    }

    #[test]
    fn nobody_is_an_error() {
        let nobody = Pid::from_raw(i32::MAX).unwrap();
        assert!(parent(nobody).is_err());
        assert!(usage(nobody).is_err());
        assert!(session(nobody).is_err());
        assert!(!exists(nobody));
        assert!(!is_in_session(nobody, nobody));
    }
}
