//! Where a supervisor keeps what lives as long as it does: its control socket, its notify sockets, its lock.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::StartError;
use crate::control::locate;

/// The longest path that fits into a sockaddr_un with its final NUL (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// How many clients may wait to be taken; the kernel caps it at somaxconn.
const BACKLOG: i32 = 4096;

/// The runtime directory of one supervisor, held by a lock that dies with its holder.
#[derive(Debug)]
pub(super) struct RuntimeDirectory {
    path: PathBuf,
    /// Whether it was made by us, and so goes with us.
    is_ours: bool,
    lock: Flock<File>,
    /// Whether somebody had used it, and left things in it.
    was_used: bool,
    /// How many notify sockets, and so instances, it had then.
    instances_before: usize,
    /// Which file is the control socket, by device and number.
    control: Option<(u64, u64)>,
}

impl RuntimeDirectory {
    /// `--runtime-dir`, else `$RUNTIME_DIRECTORY` (first entry), else `/run/zdsup/NAME` for root, else
    /// `$XDG_RUNTIME_DIR/zdsup/NAME`.
    pub(super) fn find(asked: Option<&Path>, name: &str) -> Result<PathBuf, StartError> {
        if let Some(path) = asked {
            return std::path::absolute(path).map_err(|error| StartError::directory(path, &error));
        }
        if let Some(list) = std::env::var_os("RUNTIME_DIRECTORY").filter(|list| !list.is_empty()) {
            return Ok(std::env::split_paths(&list).next().unwrap_or_default());
        }
        if nix::unistd::geteuid().is_root() {
            return Ok(Path::new("/run/zdsup").join(name));
        }
        match std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()) {
            Some(path) => Ok(Path::new(&path).join("zdsup").join(name)),
            None => Err(StartError::no_runtime_directory()),
        }
    }

    /// Makes the directory, and takes it for this supervisor alone. What is in it is a predecessor's, and dead.
    pub(super) fn open(path: PathBuf) -> Result<Self, StartError> {
        let is_ours = is_to_be_made(&path)?;
        Self::take(path, is_ours, None)?.emptied()
    }

    /// The same for one that has nothing to go on with. Whoever is to start another supervisor's successor (systemd, the
    /// keeper) keeps its control socket open for that: then what runs is no leftover, and the place is not free.
    pub(super) fn open_anew(path: PathBuf) -> Result<Self, StartError> {
        let is_ours = is_to_be_made(&path)?;
        let this = Self::take(path, is_ours, None)?;
        if locate::is_alive(&this.control_socket()) {
            return Err(StartError::already_running(&this.path));
        }
        this.emptied()
    }

    /// The same for whoever is to end what is left: until that is done, what is in it stays.
    pub(super) fn open_as_left(path: PathBuf) -> Result<Self, StartError> {
        let is_ours = is_to_be_made(&path)?;
        Self::take(path, is_ours, None)
    }

    fn emptied(self) -> Result<Self, StartError> {
        let notify = self.notify_sockets();
        let failed = |error: io::Error| StartError::directory(&self.path, &error);
        // We hold the lock, so nobody reads them any more.
        for entry in fs::read_dir(&notify).map_err(failed)? {
            fs::remove_file(entry.map_err(failed)?.path()).map_err(failed)?;
        }
        Ok(self)
    }

    /// Takes a predecessor's, with all that is in it; and its lock, if it hands that over.
    pub(super) fn adopt(path: PathBuf, is_ours: bool, lock: Option<OwnedFd>) -> Result<Self, StartError> {
        Self::take(path, is_ours, lock)
    }

    fn take(path: PathBuf, is_ours: bool, lock: Option<OwnedFd>) -> Result<Self, StartError> {
        // The longest name in it: a notify socket with large numbers.
        let longest = path.join("n/18446744073709551615.4294967295");
        if longest.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(StartError::path_too_long(&path, SOCKET_PATH_MAX));
        }
        let before = fs::read_dir(path.join("n")).ok();
        let was_used = before.is_some();
        make(&path)?;
        let lock = match lock.map(|lock| Flock::lock(File::from(lock), FlockArg::LockExclusiveNonblock)) {
            Some(Ok(lock)) => lock,
            Some(Err(_)) | None => take_lock(&path)?,
        };
        let instances_before = before.map_or(0, Iterator::count);
        Ok(Self { path, is_ours, lock, was_used, instances_before, control: None })
    }

    /// Makes anew what somebody has removed, but for the sockets. Whether something was missing.
    pub(super) fn restore(&mut self) -> Result<bool, StartError> {
        let there = self.notify_sockets().is_dir();
        if !there {
            make(&self.path)?;
        }
        // Without its file another supervisor could take the directory as well.
        let locked = is_at(&self.lock, &self.path.join("lock"));
        if !locked {
            self.lock = take_lock(&self.path)?;
        }
        Ok(!there || !locked)
    }

    /// Notes which file is the control socket now.
    pub(super) fn mark(&mut self) {
        self.control = identity(&self.control_socket());
    }

    /// Whether the control socket is not where it was.
    pub(super) fn has_lost_control(&self) -> bool {
        let now = identity(&self.control_socket());
        now.is_none() || now != self.control
    }

    /// Whether a predecessor had it, and left things in it.
    pub(super) fn was_used(&self) -> bool {
        self.was_used
    }

    /// How many instances a predecessor had, as far as their notify sockets tell.
    pub(super) fn instances_before(&self) -> usize {
        self.instances_before
    }

    /// The directory of the notify sockets.
    pub(super) fn notify_sockets(&self) -> PathBuf {
        self.path.join("n")
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was made by this supervisor.
    pub(super) fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// The lock.
    pub(super) fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// The control socket.
    pub(super) fn control_socket(&self) -> PathBuf {
        self.path.join("control.sock")
    }

    /// The notify socket of an instance: its service's place where there are several, then `GENERATION.NUMBER`.
    pub(super) fn notify_socket(&self, instance: crate::core::InstanceId) -> PathBuf {
        let name = format!("{}.{}", instance.generation, instance.number);
        match instance.service.0 {
            0 => self.notify_sockets().join(name),
            service => self.notify_sockets().join(format!("{service}-{name}")),
        }
    }

    /// The listening control socket.
    pub(super) fn listen(&self) -> Result<std::os::unix::net::UnixListener, StartError> {
        let path = self.control_socket();
        let failed = |error: io::Error| StartError::directory(&path, &error);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = || -> nix::Result<std::os::unix::net::UnixListener> {
            let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
            bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &UnixAddr::new(&path)?)?;
            // A storm of clients waits here rather than being refused; the kernel caps it at somaxconn.
            listen(&fd, Backlog::new(BACKLOG)?)?;
            Ok(fd.into())
        };
        let listener = listener().map_err(|errno| failed(errno.into()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(listener)
    }

    /// The control socket of a predecessor, where its file still stands: who waits there is answered. It is told to
    /// listen again, since its peers see the credentials of whoever did that last (unix(7)).
    pub(super) fn listen_on(&self, fd: Option<OwnedFd>) -> Result<std::os::unix::net::UnixListener, StartError> {
        use nix::sys::socket::{Backlog, listen};
        match fd.filter(|_| self.control_socket().exists()) {
            Some(fd) if Backlog::new(BACKLOG).and_then(|backlog| listen(&fd, backlog)).is_ok() => Ok(fd.into()),
            _ => self.listen(),
        }
    }

    /// Keeps a state that is not ours for whoever wants to know. Returns where, whether or not that was possible.
    pub(super) fn keep_aside(&self, text: &[u8]) -> PathBuf {
        let path = self.path.join("state.refused.json");
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        if let Err(error) = file.and_then(|mut file| file.write_all(text)) {
            tracing::warn!("cannot write {}: {error}", path.display());
        }
        path
    }

    /// Removes what only makes sense while the supervisor runs.
    pub(super) fn clear(&self) {
        // Whatever cannot be removed is replaced by the next supervisor.
        let _ = fs::remove_file(self.control_socket());
        let _ = fs::remove_dir_all(self.notify_sockets());
        let _ = fs::remove_file(self.path.join("state.refused.json"));
        let _ = fs::remove_file(self.path.join("lock"));
        if self.is_ours {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// The lock. A predecessor that ends removes the file while it still holds it, so one that we get may be gone already.
fn take_lock(directory: &Path) -> Result<Flock<File>, StartError> {
    let path = directory.join("lock");
    let failed = |error: io::Error| StartError::directory(directory, &error);
    loop {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let lock = Flock::lock(file.map_err(failed)?, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => StartError::already_running(directory),
            errno => failed(errno.into()),
        })?;
        if is_at(&lock, &path) {
            return Ok(lock);
        }
    }
}

/// Whether the file that was locked is the one at this path.
fn is_at(lock: &File, path: &Path) -> bool {
    lock.metadata().is_ok_and(|ours| identity(path) == Some((ours.dev(), ours.ino())))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// Whether there is no such directory yet. One that everybody may write to, such as /tmp, is refused: its mode is not
/// ours to change, nor is what lies in it.
fn is_to_be_made(path: &Path) -> Result<bool, StartError> {
    if fs::metadata(path).is_ok_and(|found| found.mode() & 0o002 != 0) {
        return Err(StartError::everybodys(path));
    }
    Ok(!path.exists())
}

/// The directory, and that of the notify sockets, with the modes that they should have.
fn make(path: &Path) -> Result<(), StartError> {
    let failed = |error: io::Error| StartError::directory(path, &error);
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
    }
    for directory in [path, &path.join("n")] {
        DirBuilder::new().recursive(true).mode(0o711).create(directory).map_err(failed)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o711)).map_err(failed)?;
    }
    Ok(())
}
