//! Where what an instance prints goes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::Ground;
use crate::config::Log;
use crate::supervisor::output::Stream;
use crate::supervisor::release::Release;

/// Where an instance's output goes.
pub(super) struct Output {
    /// What we read; `None` where it does not pass through us.
    pub(super) stdout: Option<Stream>,
    pub(super) stderr: Option<Stream>,
    /// What the service writes to.
    pub(super) stdout_theirs: OwnedFd,
    pub(super) stderr_theirs: OwnedFd,
    pub(super) elsewhere: Option<String>,
}

impl Output {
    pub(super) fn open(name: &str, release: &Release, ground: &Ground<'_>) -> io::Result<Self> {
        let past_us = |stdout_theirs, stderr_theirs, elsewhere: String| Self {
            stdout: None,
            stderr: None,
            stdout_theirs,
            stderr_theirs,
            elsewhere: Some(elsewhere),
        };
        match &release.service.log {
            Log::Capture => {
                let (out, err) = prefixes(name, ground.terminal);
                let (stdout, stdout_theirs) = Stream::new(ground.stdout.clone(), out)?;
                let (stderr, stderr_theirs) = Stream::new(ground.stderr.clone(), err)?;
                Ok(Self { stdout: Some(stdout), stderr: Some(stderr), stdout_theirs, stderr_theirs, elsewhere: None })
            }
            Log::Inherit => Ok(past_us(
                io::stdout().as_fd().try_clone_to_owned()?,
                io::stderr().as_fd().try_clone_to_owned()?,
                "its output goes straight to zdsup's own stdout and stderr".into(),
            )),
            Log::Journal => {
                let identifier = name.rsplit_once('.').map_or(name, |(generation, _)| generation);
                let stream = crate::sys::systemd::stream_to_journal(identifier, None)?;
                let elsewhere = format!("its output is in the journal: journalctl -t {identifier}");
                Ok(past_us(stream.try_clone()?, stream, elsewhere))
            }
            Log::File(path) => {
                let file = release.log_file.as_ref().ok_or_else(|| io::Error::other("the log file is not open"))?;
                let (stdout, stderr) = (file.as_fd().try_clone_to_owned()?, file.as_fd().try_clone_to_owned()?);
                Ok(past_us(stdout, stderr, format!("its output is in {}", path.display())))
            }
        }
    }
}

/// What stands before each line of its output and of its errors, for somebody at a terminal.
pub(super) fn prefixes(name: &str, terminal: bool) -> (Option<String>, Option<String>) {
    let prefix = |colour: u8| terminal.then(|| format!("\x1b[{colour}m{name} |\x1b[0m "));
    (prefix(36), prefix(33))
}
