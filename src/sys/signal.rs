//! Signals by name and by number.

use std::fmt;

use nix::sys::signal::Signal;

/// The size of the kernel's signal mask, bytes: 64 signals everywhere but on MIPS.
const MASK_LEN: usize = if cfg!(any(target_arch = "mips", target_arch = "mips64")) { 16 } else { 8 };

/// The number of a signal given as `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3` or `RTMAX-1`, in any case. `None` for anything
/// that is not a signal here, 0 among it.
#[must_use]
pub fn number(name: &str) -> Option<i32> {
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = name.parse().ok()?;
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = short.strip_prefix("RTMIN") {
        return real_time(libc::SIGRTMIN(), offset, '+');
    }
    if let Some(offset) = short.strip_prefix("RTMAX") {
        return real_time(libc::SIGRTMAX(), offset, '-');
    }
    // Other names of the same signals (signal(7)).
    match short {
        "POLL" => return Some(libc::SIGPOLL),
        "CLD" => return Some(libc::SIGCHLD),
        "IOT" => return Some(libc::SIGIOT),
        _ => {}
    }
    format!("SIG{short}").parse::<Signal>().ok().map(|signal| signal as i32)
}

/// A signal, shown by its name: `SIGTERM`, `SIGRTMIN+3`; `signal 99` for one that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name(pub i32);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(signal) = *self;
        match Signal::try_from(signal) {
            Ok(known) => f.write_str(known.as_str()),
            Err(_) if signal == libc::SIGRTMIN() => f.write_str("SIGRTMIN"),
            Err(_) if (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&signal) => {
                write!(f, "SIGRTMIN+{}", signal - libc::SIGRTMIN())
            }
            Err(_) => write!(f, "signal {signal}"),
        }
    }
}

/// Puts back what a program expects to be born with: no signal is blocked or ignored. Handlers need no reset, exec does
/// that; what is ignored stays so through exec, as Rust does with SIGPIPE at start.
pub(super) fn reset() {
    reset_dispositions();
    unblock_all();
}

/// Half of [`reset`]: no signal is ignored.
pub(super) fn reset_dispositions() {
    // The kernel's struct sigaction: a handler (0 is SIG_DFL), flags, a restorer and a mask, of which none is larger
    // than 16 bytes on any architecture.
    let default = [0u64; 8];
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the kernel reads a struct sigaction, which is no longer than what is here and valid when all zero;
        // nothing is written. The C library's own call would refuse the signals that it keeps for itself, which a
        // parent may have ignored all the same. SIGKILL and SIGSTOP are refused with EINVAL, and never change.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u8>(), MASK_LEN);
        }
    }
}

/// Blocks every signal in this thread: what comes is delivered once [`unblock_all`] is called, also across execve(2).
/// A process holds signals back only where all of its threads do.
pub fn block_all() {
    // The only error is EINVAL, for a first argument other than this.
    let _ = nix::sys::signal::SigSet::all().thread_set_mask();
}

/// Unblocks every signal in this thread.
pub fn unblock_all() {
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

/// Sends a signal to this process.
pub fn raise(signal: i32) {
    // It exists, and may send to itself; the number is one that was received.
    let _ = Signal::try_from(signal).and_then(|signal| nix::sys::signal::kill(nix::unistd::getpid(), signal));
}

fn real_time(base: i32, offset: &str, sign: char) -> Option<i32> {
    if offset.is_empty() {
        return Some(base);
    }
    let distance: i32 = offset.strip_prefix(sign)?.parse().ok().filter(|distance| *distance >= 0)?;
    let number = if sign == '+' { base.checked_add(distance)? } else { base.checked_sub(distance)? };
    (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_every_spelling() {
        for spelling in ["SIGTERM", "TERM", "term", "SigTerm", "15"] {
            assert_eq!(number(spelling), Some(libc::SIGTERM), "{spelling}");
        }
        assert_eq!(number("SIGRTMIN"), Some(libc::SIGRTMIN()));
        assert_eq!(number("RTMIN+3"), Some(libc::SIGRTMIN() + 3));
        assert_eq!(number("SIGRTMAX-1"), Some(libc::SIGRTMAX() - 1));
        assert_eq!(number("POLL"), number("IO"));
    }

    #[test]
    fn what_is_no_signal_is_refused() {
        for wrong in
            ["", "0", "-1", "65", "999999999999", "SIG", "SIGSIGTERM", "TERMINATE", "RTMIN-1", "RTMIN+99", "RTMIN+-1"]
        {
            assert_eq!(number(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_name_leads_back() {
        for signal in (1..=31).chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
            assert_eq!(number(&Name(signal).to_string()), Some(signal));
        }
        assert_eq!(Name(99).to_string(), "signal 99");
    }
}
