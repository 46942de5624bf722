//! Where the demo plays: a private directory, and a supervisor in it. Both are gone when it ends, well or not; only if
//! it is killed by SIGKILL the directory stays, and the supervisor ends itself.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::{Pid, getppid};

use super::service;
use super::{Fault, Interrupt, Release};
use crate::cli::FOREIGN_VARIABLES;
use crate::cli::directory::Directory;
use crate::cli::failure::Failure;
use crate::control::types::{ServiceState, Status};
use crate::exit::Exit;

/// The hidden first argument of the process that becomes the supervisor.
pub(super) const ARGUMENT: &str = "__demo-supervisor";

/// How long the supervisor may take to serve.
const START: Duration = Duration::from_secs(15);

/// How long each signal is given to end the supervisor.
const PATIENCE: Duration = Duration::from_secs(8);

/// How often something that cannot be waited for is looked at.
const POLL: Duration = Duration::from_millis(20);

/// The directory and the supervisor in it.
#[derive(Debug)]
pub(super) struct Stage {
    // Dropped in this order: the process, then the place.
    supervisor: Supervisor,
    directory: Directory,
    exe: PathBuf,
}

impl Stage {
    /// Makes the directory and starts the supervisor with the first release.
    pub(super) fn set(first: Release, interrupt: &Interrupt) -> Result<Self, Failure> {
        interrupt.check()?;
        let exe = std::env::current_exe().map_err(|error| failed_to("find the program that runs", error))?;
        let directory = Directory::make("demo", 0o700)?;
        write_config(directory.path(), &exe, first)?;
        let mut command = Command::new(&exe);
        command.arg(ARGUMENT).arg(std::process::id().to_string()).arg(&exe);
        command
            .args(["run", "-c"])
            .arg(directory.path().join(CONFIG))
            .arg("--runtime-dir")
            .arg(directory.path().join(RUNTIME));
        command.arg("--state-dir").arg(directory.path().join(STATE));
        for variable in FOREIGN_VARIABLES {
            command.env_remove(variable);
        }
        let log = create(&directory.path().join(LOG))?;
        let log_too = log.try_clone().map_err(|error| failed_to("share the log", error))?;
        // A group of its own: Ctrl-C is for the demo, which then ends the supervisor in order.
        command.stdin(Stdio::null()).stdout(log).stderr(log_too).process_group(0);
        let child = command.spawn().map_err(|error| failed_to("start the supervisor", error))?;
        Ok(Self { supervisor: Supervisor(Some(child)), directory, exe })
    }

    /// Where the service listens, once it serves.
    pub(super) fn address(&self, interrupt: &Interrupt) -> Result<SocketAddr, Failure> {
        let deadline = Instant::now() + START;
        while Instant::now() < deadline && !self.supervisor.has_ended() {
            interrupt.check()?;
            if let Some(address) = self.status().as_ref().and_then(address_of_serving) {
                return Ok(address);
            }
            thread::sleep(POLL);
        }
        let failure = Failure::new(Exit::Internal, "the demo's supervisor does not serve");
        Err(failure.hint(self.last_words()))
    }

    /// A `zdsup` command that speaks to the supervisor.
    pub(super) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.exe);
        command.arg(name).arg("--runtime-dir").arg(self.directory.path().join(RUNTIME));
        command.env_remove("ZDSUP_NAME").stdin(Stdio::null()).stderr(Stdio::null()).process_group(0);
        command
    }

    /// Names another release in the config.
    pub(super) fn install(&self, release: Release) -> Result<(), Failure> {
        write_config(self.directory.path(), &self.exe, release)
    }

    /// A file that was not there, for whoever wants to read what a command said.
    pub(super) fn scratch(&self, name: &str) -> Result<(File, PathBuf), Failure> {
        let path = self.directory.path().join(name);
        Ok((create(&path)?, path))
    }

    /// The last lines of the supervisor's log.
    pub(super) fn last_words(&self) -> Option<String> {
        let log = fs::read(self.directory.path().join(LOG)).ok()?;
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(8)..].join("\n  ");
        (!last.is_empty()).then(|| format!("its last lines were\n  {last}"))
    }

    /// Ends the supervisor, and with it the service; removes the directory.
    pub(super) fn end(mut self) -> Result<(), Failure> {
        match self.supervisor.end(PATIENCE) {
            Some(status) if status.success() => Ok(()),
            Some(status) => {
                let failure = Failure::new(Exit::Failed, format!("the demo's supervisor did not stop well: {status}"));
                Err(failure.hint(self.last_words()))
            }
            None => Ok(()),
        }
    }

    fn status(&self) -> Option<Status> {
        let output = self.command("status").arg("--json").output().ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }
}

/// What the hidden process does: it becomes the supervisor, after having asked for a SIGTERM should the demo die in a
/// way that lets it end nothing.
pub(super) fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let parent = args.next().and_then(|pid| pid.to_str()?.parse().ok()).map(Pid::from_raw);
    let Some(program) = args.next() else { return Exit::Usage.into() };
    if let Err(error) = prctl::set_pdeathsig(Signal::SIGTERM) {
        let _ = writeln!(std::io::stderr(), "zdsup: error: failed to be told of the demo's death: {error}");
        return Exit::Internal.into();
    }
    // It may have died before that was asked for.
    if parent != Some(getppid()) {
        return Exit::Interrupted.into();
    }
    let error = Command::new(program).args(args).exec();
    let _ = writeln!(std::io::stderr(), "zdsup: error: failed to execute the supervisor: {error}");
    Exit::Internal.into()
}

const CONFIG: &str = "demo.toml";
const RUNTIME: &str = "run";
const STATE: &str = "state";
const LOG: &str = "supervisor.log";

/// The supervisor's process; `None` once it was reaped.
#[derive(Debug)]
struct Supervisor(Option<Child>);

impl Supervisor {
    /// Whether it is a zombie; it is not reaped, so that its number stays its own.
    fn has_ended(&self) -> bool {
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
        let Some(child) = &self.0 else { return true };
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(pid(child)), flags).is_ok_and(|status| status != WaitStatus::StillAlive)
    }

    /// Asks it to stop, then urges it, then kills it; a second SIGTERM makes a supervisor end its services at once.
    fn end(&mut self, patience: Duration) -> Option<ExitStatus> {
        for signal in [Signal::SIGTERM, Signal::SIGTERM, Signal::SIGKILL] {
            let child = self.0.as_ref()?;
            // Not reaped, so the numbers are its own; one that has ended already is no error.
            let _ = match signal {
                Signal::SIGKILL => killpg(pid(child), signal),
                _ => kill(pid(child), signal),
            };
            let deadline = Instant::now() + patience;
            while Instant::now() < deadline {
                if self.has_ended() {
                    return self.0.take()?.wait().ok();
                }
                thread::sleep(POLL);
            }
        }
        None
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.end(PATIENCE);
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// The config that names a release. Written beside its place and moved there: a reload reads all of it or none.
fn write_config(directory: &Path, exe: &Path, release: Release) -> Result<(), Failure> {
    let program = match release.fault {
        Fault::NotExecutable => {
            let program = directory.join(release.name);
            fs::write(&program, "not a program\n").map_err(|error| failed_to("write a release", error))?;
            program
        }
        _ => exe.to_owned(),
    };
    let text = config(&program, directory, release)?;
    let (new, place) = (directory.join("demo.toml.new"), directory.join(CONFIG));
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, &place))
        .map_err(|error| failed_to(&format!("write {}", place.display()), error))
}

fn config(program: &Path, directory: &Path, release: Release) -> Result<String, Failure> {
    let text = |path: &Path| match path.to_str() {
        Some(text) => Ok(toml::Value::from(text)),
        None => Err(Failure::new(Exit::Internal, format!("{} is not UTF-8, as a config must be", path.display()))),
    };
    let fault = match release.fault {
        Fault::NeverReady => service::NEVER_READY,
        Fault::Crash => service::CRASH,
        Fault::None | Fault::NotExecutable => "",
    };
    Ok(format!(
        "[service.demo]\n\
         command = [{program}, \"{argument}\"]\n\
         working-directory = {directory}\n\
         environment = {{ {release_variable} = \"{release}\", {fault_variable} = \"{fault}\" }}\n\
         listen = [{{ address = \"127.0.0.1:0\" }}]\n\
         ready = {{ timeout = \"{ready}\" }}\n\
         drain = {{ timeout = \"5s\" }}\n",
        program = text(program)?,
        argument = service::ARGUMENT,
        directory = text(directory)?,
        release_variable = service::RELEASE,
        release = release.name,
        fault_variable = service::FAULT,
        // Short where it is sure to pass; long enough for a busy machine elsewhere.
        ready = if release.fault == Fault::NeverReady { "1s" } else { "15s" },
    ))
}

fn address_of_serving(status: &Status) -> Option<SocketAddr> {
    let service = status.services.first()?;
    if service.state != ServiceState::Serving {
        return None;
    }
    service.listeners.first()?.address.parse().ok()
}

fn create(path: &Path) -> Result<File, Failure> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.map_err(|error| failed_to(&format!("create {}", path.display()), error))
}

fn failed_to(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Internal, format!("failed to {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn the_config_of_each_release_is_good() {
        for release in super::super::RELEASES {
            let text = config(Path::new("/a \"b\"/c\\d"), Path::new("/tmp/\u{e9}"), release).unwrap();
            let parsed: toml::Table = text.parse().unwrap();
            let demo = &parsed["service"]["demo"];
            assert_eq!(demo["command"][0].as_str(), Some("/a \"b\"/c\\d"));
            assert_eq!(demo["environment"][service::RELEASE].as_str(), Some(release.name));
        }
    }

    #[test]
    fn a_supervisor_that_heeds_nothing_is_killed() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; echo deaf; read never"]).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = [0; 4];
        child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
        let _held_open = child.stdin.take();
        let mut supervisor = Supervisor(Some(child));
        assert!(!supervisor.has_ended());
        // Long enough for a kill to be done, which alone ends it.
        let status = supervisor.end(Duration::from_secs(2)).unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
        assert!(supervisor.has_ended());
        assert_eq!(supervisor.end(Duration::ZERO), None);
    }
}
