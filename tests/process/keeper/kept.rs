//! The keeper with a stand-in for the supervisor, in one program, since a keeper starts its own program again. The
//! keeper's process writes `ALLOCATED` to stderr whenever it allocates, if there is a `KEPT_TELLS`.
//!
//! The stand-in connects to the socket that `KEPT` names, says what it was born with, and does as it is told, a line
//! at a time. `KEPT_FAILS` makes it exit with 1 at once.

#![expect(unsafe_code, reason = "an allocator, and inherited descriptors")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

struct Telling;

static TELLS: AtomicBool = AtomicBool::new(false);

// SAFETY: all is left to the system's allocator; what is added is a system call.
unsafe impl GlobalAlloc for Telling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if TELLS.load(Ordering::Relaxed) {
            let text = b"ALLOCATED\n";
            // SAFETY: the text is as long as it says.
            unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Telling = Telling;

fn main() -> io::Result<()> {
    let is_keeper = std::env::args().nth(1).is_some_and(|word| word == "__keeper");
    TELLS.store(is_keeper && std::env::var_os("KEPT_TELLS").is_some(), Ordering::Relaxed);
    zdsup::keeper::main_if_keeper();
    if std::env::var_os("KEPT_FAILS").is_some() {
        std::process::exit(1);
    }
    let stream = UnixStream::connect(std::env::var("KEPT").map_err(io::Error::other)?)?;
    let mut out = &stream;
    let born = born()?;
    write!(out, "{born}\n\n")?;
    for line in BufReader::new(&stream).lines() {
        let line = line?;
        let answer = obey(&line.split(' ').collect::<Vec<_>>())?;
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

/// `KEY VALUE` lines; `fd NAME INODE` for each descriptor.
fn born() -> io::Result<String> {
    let mut lines = vec![format!("pid {}", std::process::id())];
    lines.push(format!("words {}", std::env::args().collect::<Vec<_>>().join(" ")));
    lines.push(format!("comm {}", fs::read_to_string("/proc/self/comm")?.trim()));
    let status = fs::read_to_string("/proc/self/status")?;
    let value =
        |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().trim().to_owned();
    lines.push(format!("blocked {}", value("SigBlk:")));
    lines.push(format!("ignored {}", value("SigIgn:")));
    lines.push(format!("session {}", nix::unistd::getsid(None)?));
    lines.push(format!("nofile {}", nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?.0));
    for (key, value) in std::env::vars().filter(|(key, _)| key != "LISTEN_FDNAMES") {
        lines.push(format!("env {key}={value}"));
    }
    if std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string()) {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let count: i32 = std::env::var("LISTEN_FDS").unwrap_or_default().parse().map_err(io::Error::other)?;
        assert_eq!(usize::try_from(count).ok(), Some(names.split(':').count()), "as many names as descriptors");
        for (name, fd) in names.split(':').zip(3..) {
            // SAFETY: it is open for as long as this process lives, says the protocol.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            lines.push(format!("fd {name} {}", inode(fd)?));
        }
    }
    Ok(lines.join("\n"))
}

fn obey(words: &[&str]) -> io::Result<String> {
    match *words {
        // Files of their own: the answer is their inodes.
        ["store", name, count] => {
            let count: usize = count.parse().map_err(io::Error::other)?;
            let mut inodes = Vec::new();
            for part in (0..count).collect::<Vec<_>>().chunks(250) {
                let files = part.iter().map(|_| memfd()).collect::<io::Result<Vec<_>>>()?;
                say(format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0").as_bytes(), &files)?;
                for file in &files {
                    inodes.push(inode(file.as_fd())?.to_string());
                }
            }
            Ok(inodes.join(" "))
        }
        // The same one several times.
        ["store-again", name, count] => {
            let file = memfd()?;
            for _ in 0..count.parse().map_err(io::Error::other)? {
                say(format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0").as_bytes(), &[file.try_clone()?])?;
            }
            Ok(inode(file.as_fd())?.to_string())
        }
        ["remove", name] => {
            say(format!("FDSTOREREMOVE=1\nFDNAME={name}").as_bytes(), &[])?;
            Ok(String::new())
        }
        ["barrier"] => {
            let (mut reader, writer) = io::pipe()?;
            say(b"BARRIER=1", &[writer.into()])?;
            reader.read_to_end(&mut Vec::new())?;
            Ok("done".into())
        }
        ["say", text] => {
            say(text.replace("\\n", "\n").as_bytes(), &[])?;
            Ok(String::new())
        }
        // Whatever is no message: bytes without sense, too long ones, descriptors that nobody asked for.
        ["flood", count] => {
            let file = memfd()?;
            for number in 0..count.parse::<usize>().map_err(io::Error::other)? {
                let bytes: Vec<u8> = (0..number % 5000).map(|place| (place * 7 + number) as u8).collect();
                let fds = if number % 3 == 0 { vec![] } else { vec![file.try_clone()?] };
                let text =
                    [&b"FDSTORE=1\nFDNAME=a:b"[..], b"FDSTORE=1\0x", b"BARRIER=1\nFDSTORE=1", b"FDSTOREREMOVE=1"];
                say(if number % 2 == 0 { &bytes } else { text[number / 2 % 4] }, &fds)?;
            }
            Ok(String::new())
        }
        // The next signal that comes; all of them are blocked.
        ["signal"] => Ok((SigSet::all().wait()? as i32).to_string()),
        // A process whose parent has ended.
        ["orphan"] => {
            let output = Command::new("sh").args(["-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        ["exit", code] => std::process::exit(code.parse().map_err(io::Error::other)?),
        _ => Err(io::Error::other("what?")),
    }
}

fn say(bytes: &[u8], fds: &[OwnedFd]) -> io::Result<()> {
    let name = std::env::var("NOTIFY_SOCKET").map_err(io::Error::other)?;
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&SocketAddr::from_abstract_name(name.trim_start_matches('@'))?)?;
    let numbers: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], rights, MsgFlags::empty(), None)?;
    Ok(())
}

fn memfd() -> io::Result<OwnedFd> {
    Ok(nix::sys::memfd::memfd_create(c"kept", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?)
}

fn inode(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(File::from(fd.try_clone_to_owned()?).metadata()?.ino())
}
