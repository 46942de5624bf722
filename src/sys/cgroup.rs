//! A cgroup for each instance, where systemd (or whoever) delegated ours to us.
//!
//! No controller is enabled, ever: with any in its cgroup.subtree_control, systemd 252 cannot restart the main process
//! of the unit. cgroup.procs, cgroup.events and cgroup.kill are there without.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::pidfd::PidFd;
use super::{Pid, answer};

/// The cgroup that this process was started in, delegated to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegated {
    directory: PathBuf,
    /// As /proc/PID/cgroup has it: from the root of our cgroup namespace.
    name: Vec<u8>,
}

/// The cgroup of one instance. Not removed on drop: its processes outlive us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    #[serde(with = "super::written")]
    directory: PathBuf,
    name: Vec<u8>,
}

/// Our own cgroup, if it is marked as delegated (the extended attribute user.delegate or trusted.delegate is `1`, which
/// systemd sets for `Delegate=`) and we may write to it.
#[must_use]
pub fn delegated() -> Option<Delegated> {
    let name = own_name(&fs::read("/proc/self/cgroup").ok()?)?;
    let directory = directory_of(&fs::read("/proc/self/mountinfo").ok()?, &name)?;
    Delegated::at(directory, name)
}

impl Delegated {
    fn at(directory: PathBuf, name: Vec<u8>) -> Option<Self> {
        let marked = [c"user.delegate", c"trusted.delegate"]
            .iter()
            .any(|key| attribute(&directory, key).is_some_and(|v| v == b"1"));
        let writable = |path: &Path| nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok();
        (marked && writable(&directory) && writable(&directory.join("cgroup.procs")))
            .then_some(Self { directory, name })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Makes a cgroup below, or takes the one that is there.
    ///
    /// # Errors
    /// EACCES, EROFS, ENOSPC (the kernel's limits on depth and number); `InvalidInput` for a name with a slash.
    pub fn create(&self, name: &str) -> io::Result<Cgroup> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("not a cgroup's name: {name:?}")));
        }
        let directory = self.directory.join(name);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut full = self.name.clone();
        if full.last() != Some(&b'/') {
            full.push(b'/');
        }
        full.extend_from_slice(name.as_bytes());
        Ok(Cgroup { directory, name: full })
    }
}

/// The mark of a cgroup that was made by a supervisor: its runtime directory. (Extended attributes `user.` of cgroups:
/// since Linux 5.7.)
const MARK: &CStr = c"user.zdsup";

/// Every cgroup below this directory, or below all that is visible, that was marked as this supervisor's.
#[must_use]
pub fn marked(owner: &Path, below: Option<&Path>) -> Vec<Cgroup> {
    let Some(root) = fs::read("/proc/self/mountinfo").ok().and_then(|mounts| directory_of(&mounts, b"/")) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut open = vec![below.unwrap_or(&root).to_owned()];
    while let Some(directory) = open.pop() {
        if attribute(&directory, MARK).is_some_and(|mark| mark == owner.as_os_str().as_bytes()) {
            // What is below goes with it.
            let name = directory.strip_prefix(&root).map(|below| Path::new("/").join(below)).unwrap_or_default();
            found.push(Cgroup { directory, name: name.into_os_string().into_vec() });
        } else {
            // One that is removed meanwhile has nothing to show.
            open.extend(subdirectories(&directory).unwrap_or_default());
        }
    }
    found
}

/// Disables what is enabled for the cgroups below the unit that this process belongs to, as one of its commands
/// (ExecStopPost=, which runs in a cgroup `.control` of a delegated unit). Says what that was; nothing, where there is
/// no such unit.
///
/// # Errors
/// Those of reading and writing cgroup.subtree_control.
pub fn disable_controllers_of_unit() -> io::Result<Vec<String>> {
    let Some(name) = own_name(&fs::read("/proc/self/cgroup")?) else { return Ok(Vec::new()) };
    let Some(own) = directory_of(&fs::read("/proc/self/mountinfo")?, &name) else { return Ok(Vec::new()) };
    let Some(unit) = own.parent().filter(|_| own.ends_with(".control")) else { return Ok(Vec::new()) };
    let file = unit.join("cgroup.subtree_control");
    let enabled: Vec<String> = fs::read_to_string(&file)?.split_whitespace().map(str::to_owned).collect();
    if !enabled.is_empty() {
        fs::write(&file, enabled.iter().map(|name| format!("-{name} ")).collect::<String>())?;
    }
    Ok(enabled)
}

impl Cgroup {
    /// Notes that it is of the supervisor with this runtime directory, for whoever looks for what it has left.
    ///
    /// # Errors
    /// EPERM in a sandbox, ENOTSUP before Linux 5.7.
    pub fn mark(&self, owner: &Path) -> io::Result<()> {
        let path = CString::new(self.directory.as_os_str().as_bytes())?;
        let value = owner.as_os_str().as_bytes();
        // SAFETY: both strings end with NUL, and the value is as long as given.
        answer(unsafe { libc::setxattr(path.as_ptr(), MARK.as_ptr(), value.as_ptr().cast(), value.len(), 0) }).map(drop)
    }

    /// Its processes, and those of cgroups below it.
    ///
    /// # Errors
    /// Those of reading it; one that is removed is empty.
    pub fn all_procs(&self) -> io::Result<Vec<Pid>> {
        let mut found = Vec::new();
        collect(&self.directory, &mut found)?;
        Ok(found)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Its processes, without those of cgroups below it.
    ///
    /// # Errors
    /// ENODEV or `NotFound` once it is removed.
    pub fn procs(&self) -> io::Result<Vec<Pid>> {
        let text = fs::read_to_string(self.directory.join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw).collect())
    }

    /// Whether no process is left in it and below it; zombies do not count. A removed one is empty.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn is_empty(&self) -> io::Result<bool> {
        match fs::read_to_string(self.directory.join("cgroup.events")) {
            Ok(text) => Ok(text.lines().any(|line| line == "populated 0")),
            Err(error) if gone(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// SIGKILL to every process in it and below it: cgroup.kill, or where that is missing (before Linux 5.14) one by
    /// one, again until no new one appears.
    ///
    /// # Errors
    /// Those of writing to it; one that is removed is no error.
    pub fn kill(&self) -> io::Result<()> {
        match fs::write(self.directory.join("cgroup.kill"), "1") {
            Err(error) if gone(&error) && self.directory.exists() => self.kill_each(),
            Err(error) if !gone(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether a process is in it or below it.
    ///
    /// # Errors
    /// ESRCH or `NotFound` when there is no such process.
    pub fn contains(&self, pid: Pid) -> io::Result<bool> {
        let name = own_name(&fs::read(format!("/proc/{pid}/cgroup"))?).unwrap_or_default();
        Ok(name.strip_prefix(self.name.as_slice()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/")))
    }

    /// What [`Self::is_empty`] says, read from [`Self::events_fd`]. That must be read to be quiet again: an unread one
    /// polls EPOLLPRI for ever.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn is_empty_by(events: BorrowedFd<'_>) -> io::Result<bool> {
        let mut text = [0; 256];
        match nix::sys::uio::pread(events, &mut text, 0) {
            Ok(length) => Ok(text[..length].split(|byte| *byte == b'\n').any(|line| line == b"populated 0")),
            // The cgroup was removed.
            Err(nix::errno::Errno::ENODEV) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// A descriptor that polls EPOLLPRI whenever [`Self::is_empty`] may have changed since it was read.
    ///
    /// # Errors
    /// `NotFound`; EMFILE.
    pub fn events_fd(&self) -> io::Result<OwnedFd> {
        Ok(fs::File::open(self.directory.join("cgroup.events"))?.into())
    }

    /// Removes it, and those that its processes made below it. One that is gone already is no error.
    ///
    /// # Errors
    /// EBUSY while a process is left.
    pub fn remove(&self) -> io::Result<()> {
        remove_tree(&self.directory)
    }

    fn kill_each(&self) -> io::Result<()> {
        // Each round signals what it sees; a fork bomb may outrun us, and is seen again at the next call.
        for _ in 0..10 {
            let found = self.all_procs()?;
            if found.is_empty() {
                return Ok(());
            }
            for pid in found {
                let Ok(pidfd) = PidFd::open(pid) else { continue };
                // The number may have become another's since it was read; the descriptor no longer can.
                if self.contains(pid).unwrap_or(false) {
                    let _ = pidfd.signal(libc::SIGKILL);
                }
            }
        }
        Ok(())
    }
}

/// The name in the unified hierarchy, from /proc/PID/cgroup (cgroups(7)).
fn own_name(table: &[u8]) -> Option<Vec<u8>> {
    let line = table.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    // What systemd, or anyone, removed under its processes.
    Some(line.strip_suffix(b" (deleted)").unwrap_or(line).to_owned())
}

/// Where that name is mounted, from /proc/self/mountinfo (proc_pid_mountinfo(5)).
fn directory_of(mounts: &[u8], name: &[u8]) -> Option<PathBuf> {
    mounts.split(|byte| *byte == b'\n').find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let separator = fields.iter().position(|field| *field == b"-")?;
        if *fields.get(separator + 1)? != b"cgroup2" {
            return None;
        }
        let (root, point) = (unescape(fields.get(3)?), unescape(fields.get(4)?));
        let below = if root == b"/" { name } else { name.strip_prefix(root.as_slice())? };
        if !(below.is_empty() || below.starts_with(b"/")) {
            return None;
        }
        let below = std::ffi::OsStr::from_bytes(below.strip_prefix(b"/").unwrap_or(below));
        let mut directory = PathBuf::from(std::ffi::OsString::from_vec(point));
        if !below.is_empty() {
            directory.push(below);
        }
        Some(directory)
    })
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            None => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

/// An extended attribute; `None` where it is missing, or longer than a path.
fn attribute(path: &Path, key: &CStr) -> Option<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut value = [0u8; 4096];
    // SAFETY: both strings end with NUL, and the kernel writes at most as many bytes as the buffer has.
    let length = unsafe { libc::getxattr(path.as_ptr(), key.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    Some(value.get(..usize::try_from(length).ok()?)?.to_owned())
}

fn collect(directory: &Path, found: &mut Vec<Pid>) -> io::Result<()> {
    let text = match fs::read_to_string(directory.join("cgroup.procs")) {
        Err(error) if gone(&error) => return Ok(()),
        other => other?,
    };
    found.extend(text.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw));
    for below in subdirectories(directory)? {
        collect(&below, found)?;
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    for below in subdirectories(directory)? {
        remove_tree(&below)?;
    }
    match fs::remove_dir(directory) {
        Err(error) if !gone(&error) => Err(error),
        _ => Ok(()),
    }
}

fn subdirectories(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if gone(&error) => return Ok(Vec::new()),
        other => other?,
    };
    let directories = entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(directories.map(|entry| entry.path()).collect())
}

fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::{Child, Command};

    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;

    /// A delegated cgroup that goes with its owner.
    struct Playground(Delegated);

    impl Playground {
        fn new(name: &str) -> Option<Self> {
            let found = directory_of(
                &fs::read("/proc/self/mountinfo").ok()?,
                &own_name(&fs::read("/proc/self/cgroup").ok()?)?,
            )?;
            let own = own_name(&fs::read("/proc/self/cgroup").ok()?)?;
            let name = format!("zdsup-{name}-{}", std::process::id());
            let directory = found.join(&name);
            fs::create_dir(&directory).ok()?;
            let full = [own.strip_suffix(b"/").unwrap_or(&own), b"/", name.as_bytes()].concat();
            assert_eq!(Delegated::at(directory.clone(), full.clone()), None, "nobody has delegated it yet");
            let path = CString::new(directory.as_os_str().as_bytes()).unwrap();
            let value = b"1";
            // SAFETY: both strings end with NUL, and the value is as long as given.
            let set = unsafe { libc::setxattr(path.as_ptr(), c"user.delegate".as_ptr(), value.as_ptr().cast(), 1, 0) };
            let delegated = if set == 0 { Delegated::at(directory.clone(), full) } else { None };
            if delegated.is_none() {
                let _ = fs::remove_dir(&directory);
            }
            delegated.map(Self)
        }
    }

    impl Drop for Playground {
        fn drop(&mut self) {
            let _ = remove_tree(self.0.path());
        }
    }

    struct Kept(Child);

    impl Kept {
        fn within(cgroup: &Path) -> Self {
            let child = Self(Command::new("sleep").arg("60").spawn().unwrap());
            fs::write(cgroup.join("cgroup.procs"), child.0.id().to_string()).unwrap();
            child
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

    fn emptied(cgroup: &Cgroup, events: &OwnedFd) {
        while !cgroup.is_empty().unwrap() {
            let ready = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], 10_000u16);
            assert_eq!(ready, Ok(1), "it was not emptied in time");
        }
    }

    #[test]
    fn an_instance_is_found_and_ended() {
        let Some(ground) = Playground::new("kill") else {
            eprintln!("skipped: there is no cgroup2 here that may be written to");
            return;
        };
        assert!(ground.0.create("a/b").is_err());
        assert!(ground.0.create("..").is_err());
        let cgroup = ground.0.create("web@3.1").unwrap();
        assert_eq!(ground.0.create("web@3.1").unwrap(), cgroup, "it may be there already");
        assert!(cgroup.is_empty().unwrap());
        let mut child = Kept::within(cgroup.path());
        let below = cgroup.path().join("below");
        fs::create_dir(&below).unwrap();
        let mut deep = Kept::within(&below);
        let events = cgroup.events_fd().unwrap();
        assert_eq!(cgroup.procs().unwrap(), [child.pid()]);
        assert_eq!(cgroup.all_procs().unwrap(), [child.pid(), deep.pid()]);
        let owner = Path::new("/run/zdsup/cgroup-test");
        assert_eq!(marked(owner, Some(ground.0.path())), []);
        cgroup.mark(owner).unwrap();
        assert_eq!(marked(owner, Some(ground.0.path())), std::slice::from_ref(&cgroup));
        assert_eq!(marked(owner, None), std::slice::from_ref(&cgroup));
        assert_eq!(marked(Path::new("/run/zdsup/cgroup"), Some(ground.0.path())), []);
        assert!(!cgroup.is_empty().unwrap());
        assert!(cgroup.contains(child.pid()).unwrap());
        assert!(cgroup.contains(deep.pid()).unwrap());
        assert!(!cgroup.contains(Pid::own()).unwrap());
        assert!(cgroup.remove().is_err());
        cgroup.kill().unwrap();
        emptied(&cgroup, &events);
        child.0.wait().unwrap();
        deep.0.wait().unwrap();
        cgroup.remove().unwrap();
        cgroup.remove().unwrap();
        cgroup.kill().unwrap();
        assert!(cgroup.is_empty().unwrap());
    }

    #[test]
    fn without_cgroup_kill_each_is_ended() {
        let Some(ground) = Playground::new("each") else {
            eprintln!("skipped: there is no cgroup2 here that may be written to");
            return;
        };
        let cgroup = ground.0.create("web").unwrap();
        let mut child = Kept::within(cgroup.path());
        let events = cgroup.events_fd().unwrap();
        cgroup.kill_each().unwrap();
        emptied(&cgroup, &events);
        child.0.wait().unwrap();
    }

    #[test]
    fn names_are_read_from_the_tables() {
        let table = b"9:name=systemd:/x\n1:cpu:/y\n0::/system.slice/zdsup.service\n";
        assert_eq!(own_name(table).unwrap(), b"/system.slice/zdsup.service");
        assert_eq!(own_name(b"0::/gone (deleted)\n").unwrap(), b"/gone");
        assert_eq!(own_name(b"1:cpu:/y\n"), None);
    }

    #[test]
    fn mount_points_are_read_from_the_table() {
        let find = |mounts: &str, name: &str| directory_of(mounts.as_bytes(), name.as_bytes());
        let plain =
            "25 1 0:1 / / rw - ext4 /dev/x rw\n30 25 0:2 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(find(plain, "/a.slice/b"), Some("/sys/fs/cgroup/a.slice/b".into()));
        assert_eq!(find(plain, "/"), Some("/sys/fs/cgroup".into()));
        let below = "30 25 0:2 /box /my\\040cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find(below, "/box/web"), Some("/my cgroup/web".into()));
        assert_eq!(find(below, "/box"), Some("/my cgroup".into()));
        assert_eq!(find(below, "/boxer"), None);
        assert_eq!(find("30 25 0:2 / /x rw - cgroup cgroup rw,cpu\n", "/"), None);
        assert_eq!(find("garbage", "/"), None);
    }
}
