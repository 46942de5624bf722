//! What two descriptors have in common.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::fcntl::{F_GETFL, fcntl};
use nix::sys::stat::{FileStat, SFlag, fstat};

use super::{Pid, answer};

/// The type of comparison that asks about open file descriptions (linux/kcmp.h).
const KCMP_FILE: libc::c_int = 0;

/// Whether two descriptors refer to one open file description: whoever moves its offset or sets its flags by one, does
/// so for the other.
///
/// Where kcmp(2) is missing, the same inode with the same status flags must do, as for systemd. Device files and anonymous
/// inodes (event, timer and process descriptors all share one) then count as different.
#[must_use]
pub fn is_same_file(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    let (Ok(stat_a), Ok(stat_b)) = (fstat(a), fstat(b)) else { return false };
    // One description has one inode, and that is cheaper to see.
    if (stat_a.st_dev, stat_a.st_ino) != (stat_b.st_dev, stat_b.st_ino) {
        return false;
    }
    compare(a, b).unwrap_or_else(|| {
        has_inode_of_its_own(&stat_a) && matches!((fcntl(a, F_GETFL), fcntl(b, F_GETFL)), (Ok(a), Ok(b)) if a == b)
    })
}

/// What the kernel says; `None` where it does not know the call, or a sandbox forbids it.
fn compare(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Option<bool> {
    let own = Pid::own().as_raw();
    // SAFETY: kcmp takes five integers and only looks.
    let order = answer(unsafe { libc::syscall(libc::SYS_kcmp, own, own, KCMP_FILE, a.as_raw_fd(), b.as_raw_fd()) });
    order.ok().map(|order| order == 0)
}

fn has_inode_of_its_own(stat: &FileStat) -> bool {
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    !kind.is_empty() && kind != SFlag::S_IFCHR && kind != SFlag::S_IFBLK
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::net::UnixStream;

    use nix::sys::eventfd::EventFd;

    use super::*;

    fn same(a: &impl AsFd, b: &impl AsFd) -> bool {
        is_same_file(a.as_fd(), b.as_fd())
    }

    #[test]
    fn a_duplicate_is_the_same_and_another_opening_is_not() {
        let one = File::open("/proc/self/exe").unwrap();
        assert!(same(&one, &one.try_clone().unwrap()));
        let (left, right) = UnixStream::pair().unwrap();
        assert!(same(&left, &left.try_clone().unwrap()));
        assert!(!same(&left, &right));
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(!same(&OwnedFd::from(reader), &OwnedFd::from(writer)));
        let (event, other) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        assert!(!same(&event, &other));
        if compare(event.as_fd(), event.as_fd()).is_some() {
            assert!(same(&event, &event.as_fd().try_clone_to_owned().unwrap()));
            assert!(!same(&one, &File::open("/proc/self/exe").unwrap()));
        }
    }

    #[test]
    fn without_the_call_an_inode_of_its_own_must_do() {
        let (left, _right) = UnixStream::pair().unwrap();
        assert!(has_inode_of_its_own(&fstat(&left).unwrap()));
        assert!(!has_inode_of_its_own(&fstat(EventFd::new().unwrap()).unwrap()));
        assert!(!has_inode_of_its_own(&fstat(File::open("/dev/null").unwrap()).unwrap()));
    }
}
