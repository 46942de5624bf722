//! The file of a unix socket.
//!
//! Programs unlink the socket's path as they exit, although it is not theirs. A hidden hard link beside it keeps the
//! file alive, so that the path can be put back: connecting through it works, since the kernel finds a unix socket by
//! the inode.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::Options;

/// What the hidden link's name ends with.
const SUFFIX: &str = ".zdsup";

/// What [`SocketFile::set_owner_and_mode`] is about.
pub(super) const FILE_OPTIONS: &str = "mode, user or group";

/// The file of a socket that is bound. The hidden link goes when this is dropped; the file itself only when asked for.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// `None` where no link could be made.
    hidden: Option<PathBuf>,
    /// Whether we bound it.
    ours: bool,
    dev: u64,
    ino: u64,
}

/// What is at the path of a socket that is to be bound.
#[derive(Debug)]
pub(super) enum Occupant {
    /// Nothing, or a socket's file that nobody listened on, which is removed now.
    Nobody,
    /// A socket that somebody listens on.
    Live,
    /// A socket of somebody else, that we may neither connect to nor remove.
    Untouchable(io::Error),
    /// Something else.
    NotASocket,
}

/// Makes way for a socket at this path: removes what a dead process left behind, and only that.
pub(super) fn clear(path: &Path, kind: SockType) -> io::Result<Occupant> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            remove_stale_link(path);
            return Ok(Occupant::Nobody);
        }
        other => other?,
    };
    if !found.file_type().is_socket() {
        return Ok(Occupant::NotASocket);
    }
    match is_live(path, kind) {
        Ok(true) => return Ok(Occupant::Live),
        Ok(false) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Occupant::Untouchable(error)),
        Err(error) => return Err(error),
    }
    match fs::remove_file(path) {
        // In a sticky directory, such as /tmp.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => return Ok(Occupant::Untouchable(error)),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    remove_stale_link(path);
    Ok(Occupant::Nobody)
}

impl SocketFile {
    /// Of a socket that has just been bound here by us: sets owner and mode.
    pub(super) fn bound(path: &Path, options: &Options) -> io::Result<Self> {
        let file = Self::at(path, true)?;
        file.set_owner_and_mode(options)?;
        Ok(file)
    }

    /// Of a socket that somebody else bound: a file that is not ours to remove.
    pub(super) fn inherited(path: &Path) -> io::Result<Self> {
        Self::at(path, false)
    }

    /// Of a socket that a predecessor bound, or was passed: its hidden link is still there, and may be all that is.
    pub(super) fn adopted(path: &Path, ours: bool) -> io::Result<Self> {
        if let Some(link) = hidden(path)
            && let Ok((_, dev, ino)) = open(&link)
        {
            return Ok(Self { path: path.to_owned(), hidden: Some(link), ours, dev, ino });
        }
        Self::at(path, ours)
    }

    pub(super) fn set_owner_and_mode(&self, options: &Options) -> io::Result<()> {
        if options.uid.is_none() && options.gid.is_none() && options.mode.is_none() {
            return Ok(());
        }
        let (file, dev, ino) = open(&self.path)?;
        if (dev, ino) != (self.dev, self.ino) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // By the descriptor, so that nothing that is put there meanwhile is touched: O_PATH does not do, its link does.
        let link = crate::sys::fd_link(file.as_fd());
        if options.uid.is_some() || options.gid.is_some() {
            std::os::unix::fs::chown(&link, options.uid, options.gid)?;
        }
        match options.mode {
            Some(mode) => fs::set_permissions(&link, fs::Permissions::from_mode(mode)),
            None => Ok(()),
        }
    }

    /// Links it back if nothing is at its path.
    pub(super) fn restore(&self) -> io::Result<bool> {
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(_) => return Ok(false),
        }
        let Some(hidden) = &self.hidden else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there is no hidden link to restore it from"));
        };
        match fs::hard_link(hidden, &self.path) {
            // Somebody was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Ok(true),
        }
    }

    /// Removes it, if it is ours and still there, and the hidden link.
    pub(super) fn remove(&self) {
        if self.ours {
            self.unlink(&self.path);
        }
        self.unlink_hidden();
    }

    fn at(path: &Path, ours: bool) -> io::Result<Self> {
        let (_, dev, ino) = open(path)?;
        // Whoever changes the directory changes nothing for us.
        let path = std::path::absolute(path)?;
        let hidden = hidden(&path).filter(|hidden| {
            remove_stale_link(&path);
            fs::hard_link(&path, hidden).is_ok()
        });
        Ok(Self { path, hidden, ours, dev, ino })
    }

    fn unlink_hidden(&self) {
        if let Some(hidden) = &self.hidden {
            self.unlink(hidden);
        }
    }

    /// Removes a link if it is still one to this file. What fails here was not there, or stays.
    fn unlink(&self, path: &Path) {
        if fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (self.dev, self.ino)) {
            let _ = fs::remove_file(path);
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        self.unlink_hidden();
    }
}

/// `.NAME.zdsup` beside `NAME`.
fn hidden(path: &Path) -> Option<PathBuf> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name()?);
    name.push(SUFFIX);
    Some(path.with_file_name(name))
}

/// What a predecessor that was killed could not remove.
fn remove_stale_link(path: &Path) {
    if let Some(hidden) = hidden(path)
        && fs::symlink_metadata(&hidden).is_ok_and(|found| found.file_type().is_socket())
    {
        let _ = fs::remove_file(hidden);
    }
}

fn open(path: &Path) -> io::Result<(OwnedFd, u64, u64)> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)?;
    let found = file.metadata()?;
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a socket"));
    }
    Ok((file.into(), found.dev(), found.ino()))
}

/// Whether anybody has the socket of this file.
fn is_live(path: &Path, kind: SockType) -> io::Result<bool> {
    let probe = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    match connect(std::os::fd::AsRawFd::as_raw_fd(&probe), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        // A full queue, or a socket of another kind.
        Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Gives the socket itself a mode that nobody but root can pass, which its file gets as it is bound: what takes messages
/// without a listen() must not take any before its owner is set.
pub(super) fn lock_before_bind(fd: &OwnedFd) -> io::Result<()> {
    Ok(nix::sys::stat::fchmod(fd, nix::sys::stat::Mode::empty())?)
}
