//! The execution, and what to say when it fails.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, F_SETFD, FdFlag, fcntl};
use nix::unistd::{execve, execveat};

use super::Report;
use super::child::{failed, failed_with};
use super::program::FileIdentity;
use super::wire::Orders;
use crate::sys::fd_link;

/// What is executed, ready for the kernel.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) argv: Vec<CString>,
    pub(super) env: Vec<CString>,
    /// The program's file (O_PATH, close-on-exec).
    pub(super) held: OwnedFd,
}

/// Executes: by path while that leads to the file that was pinned, else the file itself. Returns only to say why not.
pub(super) fn execute(orders: &Orders, image: &Image) -> Report {
    let pinned = match FileIdentity::of(image.held.as_fd()) {
        Ok(pinned) => pinned,
        Err(error) => return failed(&step(orders), &error),
    };
    let leads_there = |path: &&Path| match pinned.is_at(path) {
        Ok(same) => same,
        // The user may not look there. Then it may not execute it either, and the kernel says so.
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    };
    let error = match [orders.path.as_path(), orders.real.as_path()].iter().find(|path| leads_there(path)) {
        Some(path) => execute_path(path, image),
        None if orders.interpreter.is_some() => execute_held_script(image),
        None => match execveat(&image.held, c"", &image.argv, &image.env, AtFlags::AT_EMPTY_PATH) {
            Err(error) => error,
            Ok(never) => match never {},
        },
    };
    explain(orders, error)
}

fn execute_path(path: &Path, image: &Image) -> Errno {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return Errno::EINVAL };
    match execve(&path, &image.argv, &image.env) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

/// Its interpreter opens a script by name, so that it needs one that outlives exec: the descriptor's, which therefore
/// stays open in the program.
fn execute_held_script(image: &Image) -> Errno {
    if let Err(error) = fcntl(&image.held, F_SETFD(FdFlag::empty())) {
        return error;
    }
    let error = execute_path(&fd_link(image.held.as_fd()), image);
    let _ = fcntl(&image.held, F_SETFD(FdFlag::FD_CLOEXEC));
    error
}

/// The kernel's word (execve(2)), with what it means.
fn explain(orders: &Orders, errno: Errno) -> Report {
    let step = step(orders);
    let say = |error: &str, hint: &str| Report::Failed {
        step: step.clone(),
        error: error.to_owned(),
        hint: Some(hint.to_owned()),
    };
    match errno {
        // The file itself is there: it is held.
        Errno::ENOENT => match &orders.interpreter {
            Some(interpreter) => say(
                &format!("its interpreter {} does not exist", interpreter.display()),
                "install it, or correct the script's first line",
            ),
            None => say(
                "its dynamic loader does not exist",
                "it was built for another C library or processor: `readelf -l` shows which loader it wants",
            ),
        },
        Errno::ENOEXEC => say(
            "not an executable format (missing #! line?)",
            "a script must begin with #! and its interpreter; a binary must be for this machine",
        ),
        Errno::ETXTBSY => {
            say("the file is open for writing", "deploy by writing a new file beside it and renaming that over it")
        }
        Errno::EACCES => failed_with(
            &step,
            &errno.into(),
            match &orders.identity {
                Some(who) => format!("the user with the number {} must be able to reach and execute it", who.uid),
                None => "check the modes of the file, of the directories above it and of its interpreter".to_owned(),
            },
        ),
        Errno::E2BIG => say(
            "its arguments and environment are too long",
            "together they must fit into a quarter of the stack limit, and each into 128 KiB",
        ),
        Errno::ELIBBAD | Errno::EINVAL => {
            failed_with(&step, &errno.into(), "the file or its loader is damaged, or not for this machine".to_owned())
        }
        _ => failed(&step, &errno.into()),
    }
}

fn step(orders: &Orders) -> String {
    format!("execute {}", orders.path.display())
}
