//! The one error of reading a config: where, what, and what would mend it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::renderer::DEFAULT_TERM_WIDTH;
use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};

use super::source::{Source, SourceKind};

/// Why a config cannot be used.
///
/// [`Display`](fmt::Display) is one line: `web.toml:3:1: unknown key ...`, or `--drain-timeout: ...` for a flag.
/// [`render`](Self::render) is the whole picture.
#[derive(Clone, Debug)]
pub struct ConfigError(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    place: Place,
    message: String,
    hint: Option<String>,
}

#[derive(Clone, Debug)]
enum Place {
    /// In a text.
    Span { source: Arc<Source>, span: Range<usize>, also: Vec<(Range<usize>, String)> },
    /// A file as a whole.
    File(PathBuf),
    /// A flag that is no part of the text.
    Flag(&'static str),
}

impl ConfigError {
    pub(crate) fn new(source: &Arc<Source>, problem: Problem) -> Self {
        let Problem { span, message, hint, also } = problem;
        Self(Box::new(Inner { place: Place::Span { source: Arc::clone(source), span, also }, message, hint }))
    }

    pub(crate) fn of_file(path: &Path, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let (place, hint) = (Place::File(path.to_owned()), Some(hint.into()));
        Self(Box::new(Inner { place, message: message.into(), hint }))
    }

    pub(crate) fn of_flag(flag: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self(Box::new(Inner { place: Place::Flag(flag), message: message.into(), hint: Some(hint.into()) }))
    }

    /// What is wrong, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What would mend it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Where it is: `web.toml:3:1`, `web.toml`, or the flag.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.0.place {
            Place::File(path) => path.display().to_string(),
            Place::Flag(flag) => (*flag).to_owned(),
            Place::Span { source, span, .. } => match &source.kind {
                SourceKind::File(path) => {
                    let (line, column) = source.line_and_column(span.start);
                    format!("{}:{line}:{column}", path.display())
                }
                SourceKind::CommandLine(_) => source.flag(span.start).unwrap_or("the command line").to_owned(),
            },
        }
    }

    /// The error with the line, a caret under the very key or value, and the advice. Several lines, the last without
    /// its newline.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let renderer = if color { Renderer::styled() } else { Renderer::plain() }.term_width(DEFAULT_TERM_WIDTH);
        let hint = self.0.hint.as_deref();
        let Place::Span { source, span, also } = &self.0.place else {
            let error = renderer.render(&[Group::with_title(Level::ERROR.primary_title(self.to_string()))]);
            let hint = hint.map(|hint| renderer.render(&[Group::with_title(Level::HELP.primary_title(hint))]));
            return [Some(error), hint].into_iter().flatten().collect::<Vec<_>>().join("\n");
        };
        let title = match source.flag(span.start) {
            Some(flag) => format!("{flag}: {}", self.0.message),
            None => self.0.message.clone(),
        };
        let group = Level::ERROR.primary_title(title).element(snippet(source, span, also));
        renderer.render(&[group.elements(hint.map(|hint| Level::HELP.message(hint)))])
    }
}

fn snippet<'a>(
    source: &'a Source,
    span: &Range<usize>,
    also: &'a [(Range<usize>, String)],
) -> Snippet<'a, Annotation<'a>> {
    let primary = AnnotationKind::Primary.span(source.drawable(span));
    let also = also.iter().map(|(span, label)| AnnotationKind::Context.span(source.drawable(span)).label(label));
    let snippet = Snippet::source(&source.text).annotation(primary).annotations(also);
    match &source.kind {
        SourceKind::File(path) => snippet.path(path.display().to_string()),
        SourceKind::CommandLine(_) => snippet.line_numbering(false),
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place(), self.0.message)
    }
}

impl std::error::Error for ConfigError {}

/// What is wrong at a place of a text that the reader of the text knows.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) also: Vec<(Range<usize>, String)>,
}

impl Problem {
    pub(crate) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), hint: None, also: Vec::new() }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Another place that has to do with it.
    pub(crate) fn also(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.also.push((span, label.into()));
        self
    }
}
