//! The process that runs the rehearsal: a supervisor with a place of its own, which ends with whoever rehearses.
//!
//! What it is to run comes as a line on its standard input. The end of that input, which the kernel brings about however
//! the other process dies, is what ends it.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use signal_hook::consts::SIGTERM;

use crate::cli::failure::Failure;
use crate::config::{Config, Service};
use crate::exit::Exit;
use crate::supervisor::{self, Options, Passed, log};
use crate::sys::signal;

/// The hidden argument of the process.
pub(super) const ARGUMENT: &str = "__rehearsal";

/// How long what is rehearsed may take to end by itself when nobody is left to see how.
const GRACE: Duration = Duration::from_millis(250);

/// What is run, and where.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The service, as it is rehearsed.
    pub(super) service: Service,
    /// The name of the supervisor that it would be a service of.
    pub(super) supervisor: String,
    /// What the slot of its process is called.
    pub(super) slot: u32,
    /// The private directory; it is removed at the end.
    #[serde(with = "crate::sys::written")]
    pub(super) directory: PathBuf,
}

impl Plan {
    /// The runtime directory within.
    pub(super) fn runtime(directory: &Path) -> PathBuf {
        directory.join("run")
    }

    /// Where the sockets of the service lie within.
    pub(super) fn sockets(directory: &Path) -> PathBuf {
        directory.join("l")
    }
}

/// What the process does.
pub(super) fn main() -> ExitCode {
    let exit = rehearse().unwrap_or_else(|failure| {
        // Who reads it says it.
        let _ = write!(io::stderr(), "{failure}");
        failure.exit
    });
    exit.into()
}

fn rehearse() -> Result<Exit, Failure> {
    // Until the supervisor has its own handler, the end of the input must not kill what would tidy up.
    signal_hook::flag::register(SIGTERM, Arc::new(AtomicBool::new(false)))?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let Plan { service, supervisor: name, slot, directory } =
        serde_json::from_str(&line).map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    thread::Builder::new().name("lifeline".to_owned()).spawn(end_with_input)?;
    let passed = Passed::take()?;
    let config = Config {
        name: name.clone(),
        source: None,
        operators: Vec::new(),
        viewers: Vec::new(),
        atomic: false,
        metrics: None,
        services: vec![service],
    };
    let options = Options {
        name,
        config: Some(config),
        source: None,
        runtime_dir: Some(Plan::runtime(&directory)),
        state_dir: Some(directory.join("state")),
        log_format: log::Format::Human,
        rehearsal: Some(slot),
    };
    let ended = supervisor::run(options, passed);
    // Whoever made it may be gone, or be quicker.
    let _ = std::fs::remove_dir_all(directory);
    Ok(ended?)
}

/// A supervisor that is told to stop drains; one that is told again ends everything at once.
fn end_with_input() {
    // An error is an end as well.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    loop {
        signal::raise(SIGTERM);
        thread::sleep(GRACE);
    }
}
