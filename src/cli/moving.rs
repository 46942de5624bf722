//! The line at the bottom of a terminal that moves while something goes on; what stays is written above it.
//!
//! Not a progress-bar crate: those estimate rates with powers, and so bring libm into each process of ours, the
//! supervisor too: 0.3 MiB resident, for good.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::rc::Rc;
use std::time::Instant;

use super::render::span;
use super::terminal::Style;

const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
/// Back to the beginning of the line, and clear it (ECMA-48: CR, EL).
const CLEAR: &str = "\r\x1b[K";

/// A line on stderr that moves. Clones are the same line.
#[derive(Clone, Debug)]
pub(super) struct MovingLine(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    text: String,
    /// With a sign that turns and the time that it has taken: since when.
    since: Option<Instant>,
    frame: usize,
    width: usize,
    shown: bool,
}

impl MovingLine {
    /// One with a sign that turns and the time that it takes, or without; none where stderr is no terminal.
    pub(super) fn new(spins: bool) -> Option<Self> {
        let stderr = io::stderr();
        let width = Style::of(&stderr).width.unwrap_or(80);
        let state = State { since: spins.then(Instant::now), width, ..State::default() };
        stderr.is_terminal().then(|| Self(Rc::new(RefCell::new(state))))
    }

    /// Another text.
    pub(super) fn set(&self, text: impl Into<String>) {
        let mut state = self.0.borrow_mut();
        state.text = text.into();
        state.draw();
    }

    /// A step on.
    pub(super) fn tick(&self) {
        let mut state = self.0.borrow_mut();
        state.frame = (state.frame + 1) % FRAMES.len();
        state.draw();
    }

    /// Lines that stay.
    pub(super) fn above(&self, lines: &str) {
        self.suspend(|| write(&format!("{}\n", lines.trim_end())));
    }

    /// Does something while the line is out of the way.
    pub(super) fn suspend<T>(&self, work: impl FnOnce() -> T) -> T {
        self.clear();
        let done = work();
        self.0.borrow_mut().draw();
        done
    }

    /// Takes it away.
    pub(super) fn clear(&self) {
        let mut state = self.0.borrow_mut();
        if std::mem::take(&mut state.shown) {
            write(CLEAR);
        }
    }
}

impl State {
    fn draw(&mut self) {
        if self.text.is_empty() {
            return;
        }
        let line = match self.since {
            Some(since) => {
                format!("{} {:>8}  {}", FRAMES[self.frame], span(since.elapsed().as_secs_f64()), self.text)
            }
            None => self.text.clone(),
        };
        self.shown = true;
        // The last column stays free: a terminal may wrap there.
        write(&format!("{CLEAR}{}", cut(&line, self.width.saturating_sub(1))));
    }
}

/// At most so many characters, with a sign that there were more.
fn cut(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some(_) => text.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
    }
}

fn write(text: &str) {
    let mut stderr = io::stderr().lock();
    // A terminal that is gone shows nothing any more.
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_to_the_terminal() {
        assert_eq!(cut("ready", 5), "ready");
        assert_eq!(cut("äöüßé!", 5), "äöüß…");
    }
}
