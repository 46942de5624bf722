//! One upgrade of the demo: `zdsup reload --json`, watched line by line.

use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::stage::Stage;
use super::{Fault, Interrupt, Release, TICK};
use crate::cli::failure::Failure;
use crate::control::types::{UpgradeEvent, Verdict, VerdictStatus};
use crate::exit::Exit;

/// How long one may take until the demo is given up.
const DEADLINE: Duration = Duration::from_secs(30);

/// What became of one upgrade.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) release: Release,
    /// All about its verdict.
    pub(super) verdict: VerdictStatus,
    /// From its beginning to its verdict.
    pub(super) took: Duration,
    /// The exit code of `zdsup reload`.
    pub(super) exit_code: Option<i32>,
    /// From the call of `zdsup reload` until the process that was ended was gone.
    pub(super) window: Range<Instant>,
}

impl Outcome {
    /// Whether the release went live.
    pub(super) fn is_good(&self) -> bool {
        self.verdict.verdict == Verdict::Upgraded
    }

    /// Whether it ended as a release with that fault must.
    pub(super) fn is_as_it_must(&self) -> bool {
        let (verdict, exit) = must(self.release.fault);
        self.verdict.verdict == verdict && self.exit_code == Some(i32::from(exit.code()))
    }
}

/// How an upgrade to a release with that fault must end.
fn must(fault: Fault) -> (Verdict, Exit) {
    match fault {
        Fault::None => (Verdict::Upgraded, Exit::Done),
        Fault::NeverReady | Fault::Crash | Fault::NotExecutable => (Verdict::Failed, Exit::Failed),
    }
}

/// Upgrades, and tells `step` again and again how far it is.
pub(super) fn to(
    release: Release,
    stage: &Stage,
    interrupt: &Interrupt,
    step: &mut dyn FnMut(&str),
) -> Result<Outcome, Failure> {
    stage.install(release)?;
    let (complaints, complaints_path) = stage.scratch("reload.log")?;
    let mut command = stage.command("reload");
    command.args(["--wait", "drained", "--json"]).stdout(Stdio::piped()).stderr(complaints);
    let begun = Instant::now();
    let mut reload = Reload(command.spawn()?);
    let (lines, received) = mpsc::channel();
    let Some(stdout) = reload.0.stdout.take() else {
        return Err(Failure::new(Exit::Internal, "zdsup reload has no stdout"));
    };
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });

    let mut verdict: Option<(VerdictStatus, Duration)> = None;
    let mut now_at = "begins".to_owned();
    loop {
        interrupt.check()?;
        if begun.elapsed() > DEADLINE {
            let failure = format!("the upgrade to {} does not end ({now_at})", release.name);
            return Err(Failure::new(Exit::Internal, failure).hint(stage.last_words()));
        }
        step(&now_at);
        match received.recv_timeout(TICK) {
            Ok(line) => {
                let event: UpgradeEvent = serde_json::from_str(&line).map_err(|error| {
                    Failure::new(Exit::Internal, format!("not understood: {error}: {line}")).hint(stage.last_words())
                })?;
                if let Some(fallen) = event.verdict {
                    verdict = Some((*fallen, Duration::from_secs_f64(event.elapsed.max(0.0))));
                }
                match event.event.as_str() {
                    "status" | "check" => {}
                    // What is waited for behind it.
                    "verdict" => "draining".clone_into(&mut now_at),
                    _ => now_at = event.event,
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let exit_code = reload.0.wait()?.code();
    let window = begun..Instant::now();
    match verdict {
        Some((verdict, took)) => Ok(Outcome { release, verdict, took, exit_code, window }),
        None => {
            let said = fs::read_to_string(complaints_path).unwrap_or_default();
            let failure = format!("zdsup reload gave no verdict for {}: {}", release.name, said.trim());
            Err(Failure::new(Exit::Internal, failure).hint(stage.last_words()))
        }
    }
}

/// The process; ended where it is no longer waited for.
struct Reload(Child);

impl Drop for Reload {
    fn drop(&mut self) {
        // One that has ended and was waited for takes both as nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
