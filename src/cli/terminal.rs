//! Where output goes: what may be coloured, how wide it is, and writing to it without fuss.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use crate::exit::Exit;

use super::failure::Failure;

/// How a text is to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    /// With colours.
    pub(super) colour: bool,
    /// No line wider than this, in characters.
    pub(super) width: Option<usize>,
}

impl Style {
    /// As this stream can show it.
    pub(super) fn of(stream: &(impl IsTerminal + AsFd)) -> Self {
        let width = terminal_size::terminal_size_of(stream).map(|(width, _)| usize::from(width.0).max(40));
        Self { colour: is_coloured(stream), width }
    }

    pub(super) fn plain(self, text: &str) -> String {
        text.to_owned()
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub(super) fn unsure(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(super) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(super) fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// How many lines a terminal shows.
pub(super) fn height(stream: &impl AsFd) -> Option<usize> {
    terminal_size::terminal_size_of(stream).map(|(_, height)| usize::from(height.0))
}

/// Whether a stream is a terminal that shows colours, and nobody said NO_COLOR (<https://no-color.org>).
pub(super) fn is_coloured(stream: &impl IsTerminal) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    stream.is_terminal() && !unwanted && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A line for the person who typed the command.
pub(super) fn say(line: &str) {
    // A stderr that is closed is somebody's wish not to hear.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// What a command is there to print.
pub(super) fn print(text: impl AsRef<[u8]>) -> Result<Exit, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()) {
        // A reader that has seen enough (`| head`) is no error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        Err(error) => Err(Failure::new(Exit::Internal, format!("cannot write to stdout: {error}"))),
        Ok(()) => Ok(Exit::Done),
    }
}

/// Foreign text made harmless for a terminal: no control characters, no escape sequences (ECMA-48).
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        match char {
            '\x1b' if rest.next_if_eq(&'[').is_some() => {
                // A control sequence: parameters, then one final byte.
                while rest.next_if(|char| matches!(char, ' '..='?')).is_some() {}
                rest.next_if(|char| matches!(char, '@'..='~'));
            }
            '\t' => out.push(' '),
            char if char.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            char => out.push(char),
        }
    }
    out
}

/// The same for a text of several lines (an error that points into a file), each further one on a line of its own.
pub(super) fn clean_lines(text: &str, indent: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join(&format!("\n{indent}"))
}

/// A foreign text as lines that fit behind an indent. One that has several lines already keeps them: it may be a picture.
pub(super) fn paragraph(text: &str, indent: usize, style: Style) -> Vec<String> {
    match style.width {
        Some(width) if text.lines().nth(1).is_none() => wrap(&clean(text), width.saturating_sub(indent)),
        Some(_) | None => text.lines().map(clean).collect(),
    }
}

/// Lines of at most so many characters, broken between words where that can be.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let room = |line: &str| width.saturating_sub(line.chars().count());
        let line = lines.last_mut().filter(|line| !line.is_empty() && room(line) > word.chars().count());
        match line {
            Some(line) => line.extend([" ", word]),
            None => {
                let mut letters = word.chars().peekable();
                while letters.peek().is_some() {
                    lines.push(letters.by_ref().take(width.max(1)).collect());
                }
            }
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(clean("plain ünïcode"), "plain ünïcode");
        assert_eq!(clean("\x1b[1;31mred\x1b[0m\tand"), "red and");
        assert_eq!(clean("a\x1b]0;title\x07b\rc\x08"), "a\u{fffd}]0;title\u{fffd}b\u{fffd}c\u{fffd}");
        assert_eq!(clean("\x1b["), "");
        assert_eq!(clean_lines("bad key\n --> web.toml\x07", "  "), "bad key\n   --> web.toml\u{fffd}");
        assert_eq!(clean("\x1b"), "\u{fffd}");
        assert_eq!(clean("\u{9b}2J"), "\u{fffd}2J");
    }

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrap("héllo wörld", 11), ["héllo wörld"]);
        assert_eq!(wrap("héllo wörld", 10), ["héllo", "wörld"]);
        assert_eq!(wrap("a bc defghij k", 4), ["a bc", "defg", "hij", "k"]);
        assert_eq!(wrap("", 4), [""; 0]);
        assert_eq!(wrap("any length", usize::MAX), ["any length"]);
    }

    #[test]
    fn colours_only_where_wanted() {
        assert_eq!(Style::default().good("x"), "x");
        assert_eq!(Style { colour: true, width: None }.good("x"), "\x1b[32mx\x1b[0m");
    }
}
