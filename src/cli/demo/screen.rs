//! What moves while the demo runs: a bar on a terminal, nothing elsewhere; and lines, which stay.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};

use super::{RELEASES, render};
use crate::cli::failure::Failure;
use crate::cli::moving::MovingLine;
use crate::exit::Exit;
use crate::load::Running;

/// How many characters the bar is wide.
const BAR: usize = 20;

/// Stdout for what stays, stderr for what moves.
#[derive(Debug)]
pub(super) struct Screen {
    line: Option<MovingLine>,
    done: Cell<usize>,
    doing: RefCell<String>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { line: MovingLine::new(false), done: Cell::new(0), doing: RefCell::default() }
    }

    /// Lines that stay, above the bar.
    pub(super) fn lines(&self, text: &str) -> Result<(), Failure> {
        let write = || {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
        let written = match &self.line {
            Some(line) => line.suspend(write),
            None => write(),
        };
        written.map_err(|error| match error.kind() {
            // The reader has seen enough: then so have we.
            io::ErrorKind::BrokenPipe => Failure::new(Exit::Interrupted, String::new()),
            _ => Failure::new(Exit::Internal, format!("cannot write to stdout: {error}")),
        })
    }

    /// How far it is.
    pub(super) fn progress(&self, doing: &str, load: &Running) {
        self.doing.replace(format!("{doing:<16} {}", render::counted(load.total(), load.failed())));
        self.draw();
    }

    /// So many upgrades are done.
    pub(super) fn done(&self, upgrades: usize) {
        self.done.set(upgrades);
        self.draw();
    }

    fn draw(&self) {
        if let Some(line) = &self.line {
            let (done, all) = (self.done.get(), RELEASES.len());
            let full = "━".repeat(BAR * done / all);
            line.set(format!("  {full:─<BAR$} {done:>2}/{all}  {}", self.doing.borrow()));
        }
    }

    /// Nothing moves any more.
    pub(super) fn end(&self) {
        if let Some(line) = &self.line {
            line.clear();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.end();
    }
}
