//! Starting a program again and again, with descriptors by sd_listen_fds(3), from memory that is taken once: for the
//! keeper, which must not allocate.

use std::ffi::{CString, OsString, c_char};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;

use nix::unistd::{ForkResult, fork};

use super::limits::{self, Nofile, Resource};
use super::pidfd::PidFd;
use super::{Pid, signal};

/// The first descriptor that is passed on (SD_LISTEN_FDS_START).
const FIRST_FD: i32 = 3;

const NAMES_KEY: &[u8] = b"LISTEN_FDNAMES=";

/// How long the names of the descriptors may be in all, each with the colon behind it: one string of the environment
/// may be 128 KiB long (MAX_ARG_STRLEN, execve(2)).
pub const NAMES_MAX: usize = 128 * 1024 - NAMES_KEY.len();

/// `LISTEN_FDS=` and `LISTEN_PID=` with a number and a NUL.
const NUMBER_LEN: usize = 32;

/// What is started, ready for the kernel.
#[derive(Debug)]
pub struct Respawn {
    path: CString,
    /// What the pointers below point at.
    _strings: Vec<CString>,
    /// With a null at its end.
    argv: Vec<*const c_char>,
    /// With room at its end for three variables and a null.
    env: Vec<*const c_char>,
    listen_fds: [u8; NUMBER_LEN],
    listen_pid: [u8; NUMBER_LEN],
    listen_names: Vec<u8>,
    nofile: Nofile,
}

impl Respawn {
    /// `path` is executed, or this program itself where that cannot be. `env` should have none of the LISTEN variables.
    /// The program gets the limits `nofile` on open files.
    ///
    /// # Errors
    /// `InvalidInput` for a string with a NUL.
    pub fn new(path: OsString, argv: Vec<OsString>, env: Vec<OsString>, nofile: Nofile) -> io::Result<Self> {
        let string = |text: OsString| CString::new(text.into_vec()).map_err(io::Error::from);
        let argv = argv.into_iter().map(string).collect::<io::Result<Vec<_>>>()?;
        let env = env.into_iter().map(string).collect::<io::Result<Vec<_>>>()?;
        let pointers = |strings: &[CString], room: usize| -> Vec<*const c_char> {
            strings.iter().map(|text| text.as_ptr()).chain(std::iter::repeat_n(std::ptr::null(), room)).collect()
        };
        Ok(Self {
            path: string(path)?,
            argv: pointers(&argv, 1),
            env: pointers(&env, 4),
            _strings: argv.into_iter().chain(env).collect(),
            listen_fds: [0; NUMBER_LEN],
            listen_pid: [0; NUMBER_LEN],
            listen_names: Vec::with_capacity(NAMES_KEY.len() + NAMES_MAX),
            nofile,
        })
    }

    /// Starts it in a session of its own with these descriptors from 3 on. All of them must have numbers beyond those.
    ///
    /// It is born with the signals blocked that are blocked here, so that one that comes while it starts is not lost
    /// and does not kill it: it waits until the program unblocks it. It exits with 127 if it cannot be executed.
    ///
    /// # Errors
    /// Those of fork(2): EAGAIN for too many processes, ENOMEM; EMFILE and ENFILE for its pidfd. `InvalidInput` for names longer than [`NAMES_MAX`].
    pub fn start<'a, I>(&mut self, fds: I) -> io::Result<(Pid, PidFd)>
    where
        I: Iterator<Item = (&'a [u8], BorrowedFd<'a>)> + Clone,
    {
        let variables = self.env.len() - 4;
        self.env[variables..].fill(std::ptr::null());
        let count = fds.clone().count();
        if count > 0 {
            self.listen_names.clear();
            self.listen_names.extend_from_slice(NAMES_KEY);
            for (name, _) in fds.clone() {
                // Growing would allocate.
                if self.listen_names.len() + name.len() + 1 > self.listen_names.capacity() {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
                self.listen_names.extend_from_slice(name);
                self.listen_names.push(b':');
            }
            *self.listen_names.last_mut().expect("it has the key") = 0;
            write!(&mut self.listen_fds[..], "LISTEN_FDS={count}\0")?;
            self.env[variables] = self.listen_fds.as_ptr().cast();
            self.env[variables + 1] = self.listen_pid.as_ptr().cast();
            self.env[variables + 2] = self.listen_names.as_ptr().cast();
        }
        // SAFETY: the child makes system calls only, and writes to memory that it has to itself.
        let child = match unsafe { fork() }? {
            ForkResult::Parent { child } => child,
            ForkResult::Child => self.become_program(fds),
        };
        let pid = Pid::try_from(child.as_raw()).map_err(io::Error::other)?;
        // A child that cannot be held must not go on without us. Its number is its own until it is reaped.
        let pidfd = PidFd::open(pid).inspect_err(|_| _ = nix::sys::signal::kill(child, nix::sys::signal::SIGKILL))?;
        Ok((pid, pidfd))
    }

    /// The child's part.
    fn become_program<'a>(&mut self, fds: impl Iterator<Item = (&'a [u8], BorrowedFd<'a>)>) -> ! {
        // It cannot fail: a new process leads no group.
        let _ = nix::unistd::setsid();
        let own = nix::unistd::getpid();
        let mut ready = write!(&mut self.listen_pid[..], "LISTEN_PID={own}\0").is_ok();
        for ((_, fd), target) in fds.zip(FIRST_FD..) {
            // SAFETY: dup2 takes two integers. What has the target's number is a copy of our parent's, which nobody
            // will use here; and no descriptor that is still to be passed (the caller's word).
            ready &= fd.as_raw_fd() > target && unsafe { libc::dup2(fd.as_raw_fd(), target) } == target;
        }
        // Not earlier: it may be below the numbers just used.
        ready &= limits::set_limit(Resource::NOFILE, self.nofile.soft, self.nofile.hard).is_ok();
        signal::reset_dispositions();
        if ready {
            // SAFETY: the arrays end with a null, and what they point at ends with a NUL and lives.
            unsafe {
                libc::execve(self.path.as_ptr(), self.argv.as_ptr(), self.env.as_ptr());
                libc::execve(c"/proc/self/exe".as_ptr(), self.argv.as_ptr(), self.env.as_ptr());
            }
        }
        // SAFETY: it ends the process without running anything of the parent's.
        unsafe { libc::_exit(127) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::pidfd::ExitInfo;
    use crate::sys::{lift, tests};

    fn shell(script: &str) -> Respawn {
        let argv = ["sh", "-c", script].map(OsString::from).to_vec();
        let env = vec!["PATH=/usr/bin:/bin".into(), "MARK=kept".into()];
        let (soft, hard) = limits::limit(Resource::NOFILE).unwrap();
        Respawn::new("/bin/sh".into(), argv, env, Nofile { soft: soft.min(200), hard }).unwrap()
    }

    /// Waits for its end; what blocks is the test's own thread.
    fn exit((_, pidfd): (Pid, PidFd)) -> ExitInfo {
        let mut fds = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut fds, 20_000u16), Ok(1), "it ends");
        pidfd.reap().unwrap().unwrap()
    }

    #[test]
    fn descriptors_stand_in_order_with_their_names() {
        let home = tests::directory("respawn");
        let path = home.path().join("said");
        let script = format!(
            "echo $LISTEN_FDS $LISTEN_FDNAMES $MARK >{0}; [ $LISTEN_PID = $$ ] && cat <&3 >>{0} && cat <&4 >>{0}; \
             ulimit -n >>{0}",
            path.display()
        );
        let mut respawn = shell(&script);
        let files: Vec<_> = ["one", "two"]
            .map(|text| {
                let file = home.path().join(text);
                std::fs::write(&file, format!("{text}\n")).unwrap();
                lift(File::open(file).unwrap().as_fd(), 300).unwrap()
            })
            .into();
        let child = respawn.start([&b"a"[..], b"zdsup.b"].into_iter().zip(files.iter().map(AsFd::as_fd))).unwrap();
        assert_eq!(exit(child), ExitInfo::Code(0));
        let mut said = String::new();
        File::open(&path).unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "2 a:zdsup.b kept\none\ntwo\n200\n");
    }

    #[test]
    fn without_descriptors_nothing_is_said_of_them() {
        let mut respawn = shell("[ -z \"$LISTEN_FDS$LISTEN_PID$LISTEN_FDNAMES\" ] && exit 42");
        let null = lift(File::open("/dev/null").unwrap().as_fd(), 300).unwrap();
        let child = respawn.start(std::iter::once((&b"x"[..], null.as_fd()))).unwrap();
        assert_eq!(exit(child), ExitInfo::Code(1));
        let child = respawn.start(std::iter::empty()).unwrap();
        assert_eq!(exit(child), ExitInfo::Code(42));
    }

    #[test]
    fn names_as_long_as_they_may_be() {
        let mut respawn = shell("printf %s \"$LISTEN_FDNAMES\" | wc -c | grep -q '^131056$'");
        let null = lift(File::open("/dev/null").unwrap().as_fd(), 300).unwrap();
        let longest = vec![b'n'; NAMES_MAX - 1];
        let child = respawn.start(std::iter::once((&longest[..], null.as_fd()))).unwrap();
        assert_eq!(exit(child), ExitInfo::Code(0));
        let longer = vec![b'n'; NAMES_MAX];
        assert!(respawn.start(std::iter::once((&longer[..], null.as_fd()))).is_err());
    }
}
