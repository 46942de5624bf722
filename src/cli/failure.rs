//! How a command fails: the exit code, what went wrong, and what would mend it. Printed in one place.

use std::fmt;
use std::io::{self, Write};

use super::terminal::is_coloured;
use crate::config::ConfigError;
use crate::control::client::ClientError;
use crate::control::locate::LocateError;
use crate::exit::Exit;
use crate::supervisor::StartError;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong; empty where it has been said already.
    pub error: String,
    /// What would mend it.
    pub hint: Option<String>,
    /// `error` is a whole picture, with its own heading.
    pictured: bool,
}

impl Failure {
    /// A failure that says what went wrong.
    pub fn new(exit: Exit, error: impl Into<String>) -> Self {
        Self { exit, error: error.into(), hint: None, pictured: false }
    }

    /// The same with what would mend it.
    #[must_use]
    pub fn hint(mut self, hint: Option<impl Into<String>>) -> Self {
        self.hint = hint.map(Into::into);
        self
    }

    /// Says it on stderr, and gives the exit code.
    pub(super) fn report(&self) -> Exit {
        // Nobody is left to be told that stderr cannot be written.
        let _ = write!(io::stderr(), "{self}");
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.error.is_empty() {
            return Ok(());
        }
        if self.pictured {
            writeln!(f, "{}", self.error.trim_end())?;
        } else {
            writeln!(f, "zdsup: error: {}", self.error)?;
        }
        match &self.hint {
            Some(hint) => writeln!(f, "hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { exit: Exit::Usage, error: error.render(is_coloured(&io::stderr())), hint: None, pictured: true }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NotRunning(_) => Exit::NoSupervisor,
            ClientError::NotPermitted(_) => Exit::NotPermitted,
            ClientError::Rejected { status, .. } => match status {
                400 | 404 => Exit::Usage,
                403 => Exit::NotPermitted,
                409 | 503 => Exit::Refused,
                _ => Exit::Internal,
            },
            ClientError::Connect { .. }
            | ClientError::Forgotten(_)
            | ClientError::Cut
            | ClientError::NoAnswer
            | ClientError::NotUnderstood(_) => Exit::Internal,
        };
        Self::new(exit, error.to_string()).hint(error.hint())
    }
}

impl From<LocateError> for Failure {
    fn from(error: LocateError) -> Self {
        let exit = match &error {
            LocateError::BadName(_) => Exit::Usage,
            LocateError::Unreadable(_) => Exit::NotPermitted,
            LocateError::NoneRuns { .. } | LocateError::NoSuch { .. } | LocateError::Several(_) => Exit::NoSupervisor,
        };
        Self::new(exit, error.to_string()).hint(error.hint())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::new(error.exit, error.message).hint(error.hint)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(Exit::Internal, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::types::Problem;

    #[test]
    fn an_error_and_its_hint() {
        let failure = Failure::new(Exit::Refused, "not now");
        assert_eq!(failure.to_string(), "zdsup: error: not now\n");
        assert_eq!(failure.hint(Some("wait")).to_string(), "zdsup: error: not now\nhint: wait\n");
    }

    #[test]
    fn what_the_supervisor_answers_becomes_an_exit_code() {
        let exit = |status| {
            let problem = Problem { error: "no".into(), hint: None };
            Failure::from(ClientError::Rejected { status, problem }).exit
        };
        let codes = [400, 403, 404, 409, 503].map(exit);
        let expected = [Exit::Usage, Exit::NotPermitted, Exit::Usage, Exit::Refused, Exit::Refused];
        assert_eq!(codes, expected);
        // Nothing that was asked wrongly, and no answer: 504.
        assert_eq!([500, 504].map(exit), [Exit::Internal; 2]);
    }

    #[test]
    fn what_is_no_answer_is_asked_for_again() {
        let is_for_now = |status| {
            let problem = Problem { error: "no".into(), hint: None };
            ClientError::Rejected { status, problem }.is_for_now()
        };
        assert_eq!([503, 504, 409, 500].map(is_for_now), [true, true, false, false]);
        assert!(!ClientError::Cut.is_for_now());
    }
}
