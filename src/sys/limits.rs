//! Resource limits, and how much of them is used.

use std::io;

use nix::unistd::SysconfVar;
use serde::{Deserialize, Serialize};

use super::answer;

/// The limits on open files (RLIMIT_NOFILE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nofile {
    /// What is enforced.
    pub soft: u64,
    /// What `soft` may be raised to.
    pub hard: u64,
}

/// What a limit is about (setrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resource(i32);

impl Resource {
    /// Open files.
    pub const NOFILE: Self = Self(libc::RLIMIT_NOFILE as i32);

    const NAMES: [(&'static str, Self); 16] = [
        ("as", Self(libc::RLIMIT_AS as i32)),
        ("core", Self(libc::RLIMIT_CORE as i32)),
        ("cpu", Self(libc::RLIMIT_CPU as i32)),
        ("data", Self(libc::RLIMIT_DATA as i32)),
        ("fsize", Self(libc::RLIMIT_FSIZE as i32)),
        ("locks", Self(libc::RLIMIT_LOCKS as i32)),
        ("memlock", Self(libc::RLIMIT_MEMLOCK as i32)),
        ("msgqueue", Self(libc::RLIMIT_MSGQUEUE as i32)),
        ("nice", Self(libc::RLIMIT_NICE as i32)),
        ("nofile", Self::NOFILE),
        ("nproc", Self(libc::RLIMIT_NPROC as i32)),
        ("rss", Self(libc::RLIMIT_RSS as i32)),
        ("rtprio", Self(libc::RLIMIT_RTPRIO as i32)),
        ("rttime", Self(libc::RLIMIT_RTTIME as i32)),
        ("sigpending", Self(libc::RLIMIT_SIGPENDING as i32)),
        ("stack", Self(libc::RLIMIT_STACK as i32)),
    ];

    /// From its name in lower case without RLIMIT_: `nofile`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|(_, resource)| *resource)
    }

    /// Its name: `nofile`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, known)| *known == self).map_or("unknown", |(name, _)| name)
    }

    /// Every name there is.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Self::NAMES.iter().map(|(name, _)| *name)
    }

    /// Its number, as setrlimit(2) takes it.
    pub(super) fn number(self) -> i32 {
        self.0
    }

    /// The inverse of [`Self::number`], for what crosses to the shim.
    pub(super) fn from_number(number: i32) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| known.0 == number).map(|(_, resource)| *resource)
    }
}

/// The limits of this process, soft and hard; `u64::MAX` is "unlimited".
///
/// # Errors
/// None is known.
pub fn limit(resource: Resource) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live rlimit that getrlimit fills in. The type of the number differs between C libraries.
    answer(unsafe { libc::getrlimit(resource.0 as _, &raw mut limit) })?;
    Ok((widen(limit.rlim_cur), widen(limit.rlim_max)))
}

/// Sets the limits of this process, soft and hard; `u64::MAX` is "unlimited".
///
/// # Errors
/// EPERM to raise the hard one without CAP_SYS_RESOURCE; EINVAL for soft above hard.
pub fn set_limit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: narrow(soft), rlim_max: narrow(hard) };
    // SAFETY: `limit` is a live rlimit that setrlimit only reads.
    answer(unsafe { libc::setrlimit(resource.0 as _, &raw const limit) }).map(drop)
}

/// Raises the soft limit on open files to the hard one. Returns the limits as they were, for the services.
///
/// # Errors
/// None is known.
pub fn raise_nofile() -> io::Result<Nofile> {
    let (soft, hard) = limit(Resource::NOFILE)?;
    if soft < hard {
        set_limit(Resource::NOFILE, hard, hard)?;
    }
    Ok(Nofile { soft, hard })
}

/// How many descriptors this process has open.
///
/// # Errors
/// Those of reading /proc/self/fd, EMFILE among them.
pub fn open_fds() -> io::Result<usize> {
    // One of them is the directory itself.
    Ok(std::fs::read_dir("/proc/self/fd")?.count().saturating_sub(1))
}

/// Keeps every thread to one heap. Ours hardly allocate at the same time, and a heap for each would only be memory that
/// nobody gives back (mallopt(3), M_ARENA_MAX).
pub fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes integers; it is called before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Lets go of our own program's pages, which come back from its file as they are used: an idle process needs few of them,
/// and the start has touched nearly all (the kernel maps sixteen with each that is).
pub fn let_go_of_code() {
    // Both are the linker's (ld(1)): where the file's first segment and its code end and begin. What lies between is
    // read-only, code and constants, and was never written to: relocated data comes after it.
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    let page = usize::try_from(super::constant(SysconfVar::PAGE_SIZE, 4096)).unwrap_or(4096);
    let (start, end) = ((&raw const __executable_start).addr(), (&raw const etext).addr());
    let (start, end) = (start.next_multiple_of(page), end / page * page);
    if start < end {
        let at = std::ptr::without_provenance_mut::<libc::c_void>(start);
        // SAFETY: the range is whole pages of our own program's file, mapped privately and never written to, so that
        // what is read there afterwards is the same as before. A running program's file cannot be written to (ETXTBSY).
        let _ = unsafe { libc::madvise(at, end - start, libc::MADV_DONTNEED) };
    }
}

/// Gives freed memory back to the kernel. glibc keeps it otherwise; other allocators need no telling.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes an integer and locks each arena as malloc does.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// RLIM_INFINITY is the largest value of a type whose width differs between targets.
fn widen(value: libc::rlim_t) -> u64 {
    if value == libc::RLIM_INFINITY { u64::MAX } else { value as _ }
}

fn narrow(value: u64) -> libc::rlim_t {
    libc::rlim_t::try_from(value).unwrap_or(libc::RLIM_INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for name in Resource::names() {
            let resource = Resource::from_name(name).unwrap();
            assert_eq!(resource.name(), name);
            assert_eq!(Resource::from_number(resource.number()), Some(resource));
            assert!(limit(resource).is_ok(), "{name}");
        }
        assert_eq!(Resource::from_name("NOFILE"), None);
        assert_eq!(Resource::from_number(-1), None);
    }

    #[test]
    fn the_soft_limit_is_raised_and_the_original_told() {
        let before = limit(Resource::NOFILE).unwrap();
        let original = raise_nofile().unwrap();
        assert_eq!((original.soft, original.hard), before);
        assert_eq!(limit(Resource::NOFILE).unwrap(), (before.1, before.1));
    }

    #[test]
    fn open_descriptors_are_counted() {
        // Other tests open and close theirs meanwhile; a hundred more cannot be missed.
        let held: Vec<_> = (0..200).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!(open_fds().unwrap() >= held.len());
        trim_memory();
    }
}
