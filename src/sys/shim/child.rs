//! The shim itself: an ordinary process that prepares itself and becomes a program.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::unistd::{Gid, Uid};

use super::exec::{self, Image};
use super::wire::{GO, Orders};
use super::{FIRST_FD, Identity, Report};
use crate::sys::limits::{self, Resource};
use crate::sys::{Pid, answer, describe, lift, message, signal};

/// Lives the whole life of a shim.
pub(super) fn main() -> ! {
    let Ok(mut socket) = take_socket() else {
        eprintln!("zdsup: this is how zdsup starts programs; it is of no use by itself");
        std::process::exit(2);
    };
    let code = match serve(&mut socket) {
        // The supervisor is gone, or has changed its mind.
        Ok(()) => super::NEVER_WENT,
        Err(failure) => {
            // If nobody hears it, nobody is there.
            let _ = message::send(socket.as_fd(), &failure.encode(), &[], 0);
            127
        }
    };
    std::process::exit(code)
}

/// Prepares, waits and executes; returns `Ok` when it is not to.
fn serve(socket: &mut OwnedFd) -> Result<(), Report> {
    let received = receive_plan(socket.as_fd()).map_err(|error| failed("receive the plan", &error))?;
    let Some((orders, fds)) = received else { return Ok(()) };
    let image = prepare(&orders, fds, socket)?;
    if message::send(socket.as_fd(), &Report::Prepared.encode(), &[], 0).is_err() {
        return Ok(());
    }
    let mut word = [0; 8];
    match message::receive(socket.as_fd(), &mut word, 0) {
        Ok(received) if &word[..received.len] == GO => Err(exec::execute(&orders, &image)),
        _ => Ok(()),
    }
}

/// Our end of the socket, which is our standard input, moved out of the way of the program's; everything else that came
/// with us beyond standard error is closed, whoever forgot to.
fn take_socket() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    if getsockopt(&stdin, sockopt::SockType)? != SockType::SeqPacket {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    close_the_rest()?;
    let socket = lift(stdin.as_fd(), FIRST_FD)?;
    install(File::options().read(true).write(true).open("/dev/null")?.as_fd(), 0)?;
    Ok(socket)
}

/// The plan and its descriptors, in the order of the message; `None` when the supervisor has gone.
fn receive_plan(socket: BorrowedFd<'_>) -> io::Result<Option<(Orders, Descriptors)>> {
    let mut count = [0; 8];
    let mut fds = Vec::new();
    loop {
        let part = message::receive(socket, &mut count, 0)?;
        if part.len == 0 {
            return Ok(None);
        }
        if part.control_truncated {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        fds.extend(part.fds);
        // Each part says how many there are in all.
        if fds.len() as u64 >= u64::from_le_bytes(count) {
            break;
        }
    }
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(malformed);
    let mut plan = File::from(next()?);
    let mut bytes = Vec::new();
    plan.rewind()?;
    plan.read_to_end(&mut bytes)?;
    let orders = Orders::decode(&bytes)?;
    let descriptors = Descriptors {
        held: next()?,
        stdout: next()?,
        stderr: next()?,
        passed: (0..orders.fds).map(|_| next()).collect::<io::Result<_>>()?,
        extra: orders.extra.map(|target| Ok::<_, io::Error>((target, next()?))).transpose()?,
    };
    Ok(Some((orders, descriptors)))
}

/// What comes with a plan.
struct Descriptors {
    held: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    passed: Vec<OwnedFd>,
    extra: Option<(u32, OwnedFd)>,
}

/// Everything up to the execution. What needs privileges comes before the user changes; what the user's own permissions
/// decide, after.
fn prepare(orders: &Orders, fds: Descriptors, socket: &mut OwnedFd) -> Result<Image, Report> {
    nix::unistd::setsid().map_err(|error| failed("begin a session", &error.into()))?;
    if let Some(cgroup) = &orders.cgroup {
        // "0" is whoever writes it (cgroups(7)).
        fs::write(cgroup.join("cgroup.procs"), "0")
            .map_err(|error| failed(&format!("join the cgroup {}", cgroup.display()), &error))?;
    }
    let held = place(fds, socket)?;
    if let Some(adjust) = orders.oom_score_adjust {
        let written = OpenOptions::new().write(true).open("/proc/self/oom_score_adj");
        written
            .and_then(|mut file| io::Write::write_all(&mut file, adjust.to_string().as_bytes()))
            .map_err(|error| privileged(&format!("set oom-score-adjust to {adjust}"), &error, "CAP_SYS_RESOURCE"))?;
    }
    if let Some(nice) = orders.nice {
        set_nice(nice).map_err(|error| privileged(&format!("set nice to {nice}"), &error, "CAP_SYS_NICE"))?;
    }
    set_limits(orders)?;
    if let Some(identity) = &orders.identity {
        become_user(identity)?;
    }
    if let Some(mask) = orders.umask {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
    }
    std::env::set_current_dir(&orders.directory).map_err(|error| {
        let step = format!("change to the directory {}", orders.directory.display());
        match (&orders.identity, error.kind()) {
            (Some(who), io::ErrorKind::PermissionDenied) => {
                failed_with(&step, &error, format!("the user with the number {} may not enter it", who.uid))
            }
            _ => failed(&step, &error),
        }
    })?;
    if orders.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().map_err(|error| failed("set no-new-privileges", &error.into()))?;
    }
    signal::reset();
    let mut env: Vec<OsString> = orders.env.iter().map(|(key, value)| entry(key, value)).collect();
    let own = Pid::own().to_string();
    for (name, wanted) in [("LISTEN_PID", orders.listen_pid && orders.fds > 0), ("WATCHDOG_PID", orders.watchdog_pid)] {
        if wanted {
            let is_it = |entry: &OsString| entry.as_encoded_bytes().starts_with(format!("{name}=").as_bytes());
            env.retain(|entry| !is_it(entry));
            env.push(entry(OsStr::new(name), OsStr::new(&own)));
        }
    }
    Ok(Image { argv: strings(&orders.argv)?, env: strings(&env)?, held })
}

/// Puts every descriptor where the program expects it, and returns the program's own file. All of them, and ours, are
/// first moved beyond those numbers, so that none is overwritten.
fn place(fds: Descriptors, socket: &mut OwnedFd) -> Result<OwnedFd, Report> {
    let floor = FIRST_FD + fds.passed.len() as u32;
    // The one number beyond the floor that is wanted as well.
    let wanted = fds.extra.as_ref().map(|(target, _)| *target);
    let away = |fd: &OwnedFd| -> io::Result<OwnedFd> {
        let moved = lift(fd.as_fd(), floor)?;
        if Some(moved.as_raw_fd().cast_unsigned()) == wanted { lift(moved.as_fd(), floor) } else { Ok(moved) }
    };
    let placed = || -> io::Result<OwnedFd> {
        *socket = away(socket)?;
        let held = away(&fds.held)?;
        let mut moved = vec![(1, away(&fds.stdout)?), (2, away(&fds.stderr)?)];
        for (target, fd) in (FIRST_FD..).zip(&fds.passed) {
            moved.push((target, away(fd)?));
        }
        if let Some((target, fd)) = &fds.extra {
            moved.push((*target, away(fd)?));
        }
        // Now nothing of ours is left at the numbers that they go to.
        drop(fds);
        for (target, fd) in moved {
            install(fd.as_fd(), target)?;
        }
        Ok(held)
    };
    placed().map_err(|error| {
        let hint = "the limit on open files is too low for so many, or for the number that was asked for";
        failed_with("place the descriptors", &error, hint.to_owned())
    })
}

fn set_limits(orders: &Orders) -> Result<(), Report> {
    for (resource, soft, hard) in &orders.limits {
        limits::set_limit(*resource, *soft, *hard).map_err(|error| {
            privileged(
                &format!("set the limit {}", resource.name()),
                &error,
                "CAP_SYS_RESOURCE (to raise a hard limit)",
            )
        })?;
    }
    if orders.limits.iter().all(|(resource, ..)| *resource != Resource::NOFILE) {
        let nofile = orders.nofile;
        limits::set_limit(Resource::NOFILE, nofile.soft, nofile.hard)
            .map_err(|error| failed("restore the limit on open files", &error))?;
    }
    Ok(())
}

fn become_user(identity: &Identity) -> Result<(), Report> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let already = nix::unistd::getresuid().is_ok_and(|now| [now.real, now.effective, now.saved] == [uid; 3])
        && nix::unistd::getresgid().is_ok_and(|now| [now.real, now.effective, now.saved] == [gid; 3]);
    // Without privileges there is nothing else that one could be, and the groups are those that we have.
    if already && !uid.is_root() {
        return Ok(());
    }
    let step = format!("become the user {} with the group {}", identity.uid, identity.gid);
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    let changed = nix::unistd::setgroups(&groups)
        .and_then(|()| nix::unistd::setresgid(gid, gid, gid))
        .and_then(|()| nix::unistd::setresuid(uid, uid, uid));
    changed.map_err(|error| {
        let error = io::Error::from(error);
        if error.kind() == io::ErrorKind::PermissionDenied {
            failed_with(
                &step,
                &error,
                "only root may become another user: run zdsup as root, or drop the setting".into(),
            )
        } else {
            failed(&step, &error)
        }
    })
}

fn set_nice(nice: i32) -> io::Result<()> {
    // SAFETY: setpriority takes integers; 0 is the calling process. The type of the first differs between C libraries.
    answer(unsafe { libc::setpriority(libc::PRIO_PROCESS as _, 0, nice) }).map(drop)
}

/// Puts a copy of a descriptor at this very number, to stay open through exec. No owned descriptor may have it.
fn install(fd: BorrowedFd<'_>, target: u32) -> io::Result<()> {
    let target = i32::try_from(target).map_err(|_| malformed())?;
    // SAFETY: dup2 takes two integers; what was at the target was nobody's (the caller's word), or is a standard stream.
    answer(unsafe { libc::dup2(fd.as_raw_fd(), target) }).map(drop)
}

fn close_the_rest() -> io::Result<()> {
    // SAFETY: nothing in this process owns a descriptor yet: it has only just begun, and came with nothing of its own
    // but the standard streams.
    if answer(unsafe { libc::syscall(libc::SYS_close_range, FIRST_FD, u32::MAX, 0) }).is_ok() {
        return Ok(());
    }
    // The call is missing, or a sandbox forbids it.
    let listed: Vec<i32> = fs::read_dir(Path::new("/proc/self/fd"))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number >= FIRST_FD.cast_signed())
        .collect();
    for number in listed {
        // SAFETY: as above; the directory that was just read is closed again, and closing it twice is harmless here.
        unsafe { libc::close(number) };
    }
    Ok(())
}

fn entry(key: &OsStr, value: &OsStr) -> OsString {
    let mut entry = key.to_owned();
    entry.push("=");
    entry.push(value);
    entry
}

fn strings(words: &[OsString]) -> Result<Vec<CString>, Report> {
    let made: Result<_, _> = words.iter().map(|word| CString::new(word.as_encoded_bytes())).collect();
    made.map_err(|_| failed("pass the arguments and the environment", &io::Error::other("one has a NUL byte in it")))
}

pub(super) fn failed(step: &str, error: &io::Error) -> Report {
    Report::Failed { step: step.to_owned(), error: describe(error), hint: None }
}

pub(super) fn failed_with(step: &str, error: &io::Error, hint: String) -> Report {
    Report::Failed { step: step.to_owned(), error: describe(error), hint: Some(hint) }
}

/// For what the kernel refuses without a privilege.
fn privileged(step: &str, error: &io::Error, capability: &str) -> Report {
    match error.kind() {
        io::ErrorKind::PermissionDenied => failed_with(step, error, format!("it needs {capability}")),
        _ => failed(step, error),
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed plan")
}
