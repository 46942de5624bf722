//! A private directory for what a command does on a stage of its own.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::failure::Failure;
use crate::exit::Exit;

/// The longest path, in bytes, of the directory that ours is made in: socket paths within end at 107 (unix(7)).
const LONGEST: usize = 55;

/// A directory of our own, removed with what is in it.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

/// The directory that a panic removes: with `panic = "abort"` nothing is dropped.
static AT_PANIC: Mutex<Option<PathBuf>> = Mutex::new(None);

impl Directory {
    /// Makes one in the temporary directory; there is one at a time. `mode`: who may look into it.
    pub(super) fn make(what: &str, mode: u32) -> Result<Self, Failure> {
        let base = std::env::temp_dir();
        if base.as_os_str().len() > LONGEST {
            let failure = Failure::new(Exit::Internal, format!("{} is too long for sockets within", base.display()));
            return Err(failure.hint(Some("set TMPDIR to a shorter directory; /tmp would be good")));
        }
        for attempt in 0..100 {
            let path = base.join(format!("zdsup-{what}-{}-{attempt}", std::process::id()));
            match make(&path, mode) {
                Ok(()) => {
                    remove_at_panic(&path);
                    return Ok(Self(path));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let failure = format!("failed to make the directory {}: {error}", path.display());
                    let failure = Failure::new(Exit::Internal, failure);
                    return Err(failure.hint(Some("TMPDIR says where it is made; /tmp would be good")));
                }
            }
        }
        Err(Failure::new(Exit::Internal, format!("no free name for a directory in {}", base.display())))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        AT_PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
        // What cannot be removed is a temporary directory that somebody else will sweep.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whatever the mask for the modes of files is.
fn make(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().mode(mode).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn remove_at_panic(path: &Path) {
    *AT_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.to_owned());
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        if let Ok(mut path) = AT_PANIC.try_lock()
            && let Some(path) = path.take()
        {
            let _ = fs::remove_dir_all(path);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_private_and_goes_away() {
        let directory = Directory::make("test", 0o700).unwrap();
        let path = directory.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(path.join("file"), "").unwrap();
        drop(directory);
        assert!(!path.exists());
    }
}
