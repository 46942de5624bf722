//! Does with the supervisor's store what it is told, line by line over a unix socket `DIRECTORY/INSTANCE`:
//! `--at DIRECTORY [--ready] [--ignores-term]`. Each line is answered once the supervisor has acted on what was sent.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigHandler, Signal};
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let mut program = Program { passed: os::inherited(), made: HashMap::new(), other_ends: HashMap::new() };
    if options.has("--ignores-term") {
        os::ignore(Signal::SIGTERM);
    } else {
        os::handle(Signal::SIGTERM, SigHandler::SigDfl);
    }
    let instance = std::env::var("ZDSUP_INSTANCE").expect("it runs under zdsup");
    let path = format!("{}/{instance}", options.text("--at").expect("--at DIRECTORY"));
    let listener = UnixListener::bind(path).expect("it can be bound");
    if options.has("--ready") {
        os::notify("READY=1");
    }
    loop {
        let (stream, _) = listener.accept().expect("somebody comes");
        program.obey(&stream);
    }
}

struct Program {
    /// What it was started with.
    passed: Vec<(String, OwnedFd)>,
    /// What it has made, by name.
    made: HashMap<String, OwnedFd>,
    /// The other ends of pipes.
    other_ends: HashMap<String, OwnedFd>,
}

impl Program {
    fn obey(&mut self, stream: &UnixStream) {
        for line in BufReader::new(stream).lines() {
            let line = line.expect("a line");
            let answer = self.answer(&line.split(' ').collect::<Vec<_>>());
            barrier();
            writeln!(&mut &*stream, "{answer}").expect("somebody reads");
        }
    }

    fn answer(&mut self, words: &[&str]) -> String {
        match *words {
            // What it was started with: the name, and what is in a memfd.
            ["passed"] => {
                let each = self.passed.iter().map(|(name, fd)| format!("{name}={}", content(fd)));
                return each.collect::<Vec<_>>().join(" ");
            }
            ["env", name] => return std::env::var(name).unwrap_or_else(|_| "-".into()),
            ["memfd", name, text] => {
                let file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC).expect("a memfd can be made"));
                (&file).write_all(text.as_bytes()).expect("it can be written");
                self.made.insert(name.into(), file.into());
            }
            ["pipe", name] => {
                let (reader, writer) = std::io::pipe().expect("a pipe can be made");
                self.made.insert(name.into(), reader.into());
                self.other_ends.insert(name.into(), writer.into());
            }
            ["hang-up", name] => drop(self.other_ends.remove(name)),
            // FDSTORE=1 with the descriptor made under this name, and more lines.
            ["store", name, ref lines @ ..] => {
                let fd = self.made[name].as_fd();
                say(&[&["FDSTORE=1"], lines].concat().join("\n"), &[fd]);
            }
            // So many new descriptors in one message.
            ["store-many", name, count] => {
                let many: Vec<File> = (0..count.parse().expect("a number"))
                    .map(|_| File::open("/dev/null").expect("it is there"))
                    .collect();
                let fds: Vec<BorrowedFd<'_>> = many.iter().map(AsFd::as_fd).collect();
                say(&format!("FDSTORE=1\nFDNAME={name}"), &fds);
            }
            ["say", ref lines @ ..] => say(&lines.join("\n"), &[]),
            ["exit", status] => std::process::exit(status.parse().expect("a number")),
            _ => panic!("unknown: {words:?}"),
        }
        "done".into()
    }
}

fn content(fd: &OwnedFd) -> String {
    let target = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("it is open");
    let target = target.display().to_string();
    if !target.starts_with("/memfd:") {
        return target.split(':').next().unwrap_or_default().to_owned();
    }
    let file = File::from(fd.try_clone().expect("a descriptor can be duplicated"));
    let mut text = vec![0; 64];
    let length = file.read_at(&mut text, 0).expect("it can be read");
    String::from_utf8_lossy(&text[..length]).into_owned()
}

fn say(text: &str, fds: &[BorrowedFd<'_>]) {
    let path = std::env::var("NOTIFY_SOCKET").expect("it runs under zdsup");
    let socket = UnixDatagram::unbound().expect("a socket can be made");
    let address = UnixAddr::new(path.as_str()).expect("a path");
    let numbers: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let rights = if fds.is_empty() { &[][..] } else { &rights };
    let text = [IoSlice::new(text.as_bytes())];
    sendmsg(socket.as_raw_fd(), &text, rights, MsgFlags::empty(), Some(&address)).expect("it can be sent");
}

/// Waits until everything that was sent has been acted on.
fn barrier() {
    let (mut reader, writer) = std::io::pipe().expect("a pipe can be made");
    say("BARRIER=1", &[writer.as_fd()]);
    drop(writer);
    let _ = reader.read(&mut [0]).expect("it is closed");
}
