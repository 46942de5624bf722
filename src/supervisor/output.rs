//! What a service prints: read in bounded batches, copied through, the last lines kept.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::sink::Sink;

/// Lines kept for whoever asks why a process ended.
const TAIL_LINES: usize = 20;
/// Bytes kept of one line.
const LINE_BYTES: usize = 1024;
/// Bytes read before others have their turn.
const BATCH_BYTES: usize = 64 * 1024;

/// The reading end of one of an instance's streams.
#[derive(Debug)]
pub(super) struct Stream {
    pipe: io::PipeReader,
    sink: Sink,
    /// What is put before each line on a terminal.
    prefix: Option<String>,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
}

/// The last lines of an instance's output, both streams in the order in which they were read.
#[derive(Debug, Default)]
pub(super) struct Tail(pub(super) VecDeque<String>);

impl Tail {
    /// The lines, oldest first.
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }

    fn push(&mut self, line: &[u8]) {
        if self.0.len() == TAIL_LINES {
            self.0.pop_front();
        }
        let text = String::from_utf8_lossy(&line[..line.len().min(LINE_BYTES)]);
        self.0.push_back(text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect());
    }
}

/// Whether more can be expected of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Flow {
    /// There may be more at once.
    More,
    /// Nothing for now.
    Dry,
    /// Every writer is gone.
    Ended,
}

impl Stream {
    /// A stream that is copied to `sink`, and the end that the service writes to.
    pub(super) fn new(sink: Sink, prefix: Option<String>) -> io::Result<(Self, OwnedFd)> {
        let (pipe, theirs) = io::pipe()?;
        let flags = nix::fcntl::fcntl(&pipe, nix::fcntl::FcntlArg::F_GETFL)?;
        let flags = nix::fcntl::OFlag::from_bits_retain(flags) | nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&pipe, nix::fcntl::FcntlArg::F_SETFL(flags))?;
        Ok((Self { pipe, sink, prefix, partial: Vec::new() }, theirs.into()))
    }

    /// The reading end of a predecessor's.
    pub(super) fn adopt(fd: OwnedFd, sink: Sink, prefix: Option<String>) -> Self {
        Self { pipe: fd.into(), sink, prefix, partial: Vec::new() }
    }

    /// Reads one batch.
    pub(super) fn pump(&mut self, tail: &mut Tail) -> Flow {
        let mut buffer = [0; 8192];
        let mut total = 0;
        while total < BATCH_BYTES {
            match self.pipe.read(&mut buffer) {
                Ok(0) => {
                    self.finish(tail);
                    return Flow::Ended;
                }
                Ok(count) => {
                    total += count;
                    self.take(&buffer[..count], tail);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Flow::Dry,
                Err(_) => return Flow::Ended,
            }
        }
        Flow::More
    }

    fn take(&mut self, bytes: &[u8], tail: &mut Tail) {
        if self.prefix.is_none() {
            self.sink.write(bytes);
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(rest) => {
                    self.partial.extend_from_slice(rest);
                    self.line(tail);
                }
                None => self.partial.extend_from_slice(piece),
            }
            // A line without end is cut, so that it cannot grow for ever.
            if self.partial.len() > BATCH_BYTES {
                self.line(tail);
            }
        }
    }

    fn line(&mut self, tail: &mut Tail) {
        tail.push(&self.partial);
        if let Some(prefix) = &self.prefix {
            let mut line = Vec::with_capacity(prefix.len() + self.partial.len() + 1);
            line.extend_from_slice(prefix.as_bytes());
            line.append(&mut self.partial);
            line.push(b'\n');
            self.sink.write(&line);
        }
        self.partial.clear();
        self.partial.shrink_to(1024);
    }

    fn finish(&mut self, tail: &mut Tail) {
        if !self.partial.is_empty() {
            self.line(tail);
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn keeps_the_last_lines_and_cuts_what_has_no_end() {
        let sink = Sink::spawn("test", io::sink()).expect("a thread");
        let (mut stream, theirs) = Stream::new(sink, None).expect("a pipe");
        let mut tail = Tail::default();
        let mut writer = std::fs::File::from(theirs);
        for number in 0..30 {
            writeln!(writer, "line {number}\u{1b}[1m").expect("room in the pipe");
        }
        write!(writer, "unfinished").expect("room in the pipe");
        assert_eq!(stream.pump(&mut tail), Flow::Dry);
        assert_eq!(tail.lines().len(), TAIL_LINES);
        assert_eq!(tail.lines()[19], "line 29\u{fffd}[1m");
        drop(writer);
        assert_eq!(stream.pump(&mut tail), Flow::Ended);
        assert_eq!(tail.lines()[19], "unfinished");
    }
}
