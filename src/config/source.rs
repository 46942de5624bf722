//! The text that a config was written in: a file, or the flags of a command line. Every raw value knows its place there.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::text::floor_char_boundary;
use toml::Spanned;

/// A text in which places can be pointed at.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) text: String,
    pub(crate) kind: SourceKind,
}

/// What kind of text it is.
#[derive(Clone, Debug)]
pub(crate) enum SourceKind {
    /// A file, as the user named it.
    File(PathBuf),
    /// A command line, with the places of its flags' values.
    CommandLine(Vec<(Range<usize>, &'static str)>),
}

impl Source {
    pub(crate) fn file(path: &Path, text: &str) -> Self {
        Self { text: text.to_owned(), kind: SourceKind::File(path.to_owned()) }
    }

    /// Line and column of a place, from 1; the column in characters.
    pub(crate) fn line_and_column(&self, at: usize) -> (usize, usize) {
        let before = &self.text[..floor_char_boundary(&self.text, at)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// The flag whose value stands at a place.
    pub(crate) fn flag(&self, at: usize) -> Option<&'static str> {
        match &self.kind {
            SourceKind::File(_) => None,
            SourceKind::CommandLine(flags) => flags.iter().find(|(span, _)| span.contains(&at)).map(|(_, flag)| *flag),
        }
    }

    /// The part of a span that lies within the text, on character boundaries and on one line: what can be drawn.
    pub(crate) fn drawable(&self, span: &Range<usize>) -> Range<usize> {
        let start = floor_char_boundary(&self.text, span.start);
        let mut end = floor_char_boundary(&self.text, span.end).max(start);
        if let Some(newline) = self.text[start..end].find(['\n', '\r']) {
            end = start + newline;
        }
        start..end
    }
}

/// Writes a command line down as it is read, so that an error in a flag can be shown like one in a file.
///
/// A value's place is its place in this text, which is quoted as a shell would want it.
#[derive(Debug)]
pub(crate) struct CommandLine {
    text: String,
    flags: Vec<(Range<usize>, &'static str)>,
}

impl CommandLine {
    pub(crate) fn new(program: &str) -> Self {
        Self { text: program.to_owned(), flags: Vec::new() }
    }

    /// Adds a flag with a value.
    pub(crate) fn flag<T>(&mut self, flag: &'static str, shown: &OsStr, value: T) -> Spanned<T> {
        self.text.push(' ');
        let start = self.text.len();
        self.text.push_str(flag);
        self.text.push(' ');
        let value = self.word(shown, value);
        self.flags.push((start..value.span().end, flag));
        value
    }

    /// Adds a flag without a value.
    pub(crate) fn switch(&mut self, flag: &'static str) -> Range<usize> {
        self.text.push(' ');
        let start = self.text.len();
        self.text.push_str(flag);
        self.flags.push((start..self.text.len(), flag));
        start..self.text.len()
    }

    /// Adds `--` and the command.
    pub(crate) fn command(&mut self, words: &[OsString]) -> Option<Spanned<Vec<Spanned<OsString>>>> {
        self.text.push_str(" --");
        let start = self.text.len() + 1;
        let words: Vec<_> = words
            .iter()
            .map(|word| {
                self.text.push(' ');
                self.word(word, word.clone())
            })
            .collect();
        if words.is_empty() {
            return None;
        }
        Some(Spanned::new(start..self.text.len(), words))
    }

    /// The place after all that has been written.
    pub(crate) fn end(&self) -> Range<usize> {
        self.text.len()..self.text.len()
    }

    pub(crate) fn finish(self) -> Source {
        Source { text: self.text, kind: SourceKind::CommandLine(self.flags) }
    }

    fn word<T>(&mut self, shown: &OsStr, value: T) -> Spanned<T> {
        let start = self.text.len();
        self.text.push_str(&quoted(&shown.to_string_lossy()));
        Spanned::new(start..self.text.len(), value)
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let mut text = String::from("'");
    for c in word.chars() {
        match c {
            '\'' => text.push_str("'\\''"),
            c if c.is_control() => text.extend(c.escape_default()),
            c => text.push(c),
        }
    }
    text.push('\'');
    text
}
