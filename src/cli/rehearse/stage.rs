//! Where a rehearsal takes place: a private directory, and the supervisor in it. Both are gone when it is over, however
//! that comes about.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::meant::Meant;
use super::supervisor::{ARGUMENT, Plan};
use crate::cli::FOREIGN_VARIABLES;
use crate::cli::directory::Directory;
use crate::cli::failure::Failure;
use crate::control::client::Client;
use crate::control::locate::{self, SOCKET};
use crate::exit::Exit;
use crate::supervisor::leftovers;
use crate::sys::describe;

/// How long the supervisor may take to be there, and to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(2);
/// How many lines of its log are kept, for when it cannot do its work.
const LINES: usize = 8;

/// The directory and the supervisor in it.
#[derive(Debug)]
pub(super) struct Stage {
    supervisor: Child,
    /// The supervisor ends when this is closed.
    lifeline: Option<ChildStdin>,
    last_words: Arc<Mutex<VecDeque<String>>>,
    directory: Directory,
}

impl Stage {
    /// Starts the supervisor, and with it the release. It must stay up for `span` once it is ready.
    pub(super) fn set(meant: Meant, span: Duration) -> Result<Self, Failure> {
        let Meant { service, supervisor, environment, slot } = meant;
        let user = service.privileges.user.clone();
        // The service must reach its notify socket; what is in it is for its owner alone, or checks who asks.
        let directory = Directory::make("rehearsal", 0o711)?;
        if let Some(user) = user.filter(|_| !is_open(directory.path())) {
            let failure = format!("the service's user {user} cannot reach {}", directory.path().display());
            return Err(
                Failure::new(Exit::NotPermitted, failure).hint(Some("set TMPDIR to an open directory, such as /tmp"))
            );
        }
        let sockets = Plan::sockets(directory.path());
        fs::create_dir(&sockets).and_then(|()| fs::set_permissions(&sockets, fs::Permissions::from_mode(0o711)))?;
        let service = service
            .rehearsed(&sockets, span)
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()).hint(Some(error.hint())))?;
        let plan = Plan { service, supervisor, slot, directory: directory.path().to_owned() };
        let mut line = serde_json::to_vec(&plan).map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
        line.push(b'\n');

        // This very program, even if another is at its path by now.
        let mut command = Command::new("/proc/self/exe");
        command.arg0("zdsup").arg(ARGUMENT).env_clear().envs(environment);
        for variable in FOREIGN_VARIABLES {
            command.env_remove(variable);
        }
        // A group of its own: Ctrl-C is for us, who then end it in order.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut supervisor = command.spawn().map_err(|error| {
            Failure::new(Exit::Internal, format!("cannot start a supervisor for the rehearsal: {}", describe(&error)))
        })?;
        let last_words = Arc::default();
        if let Some(stderr) = supervisor.stderr.take() {
            let kept = Arc::clone(&last_words);
            thread::spawn(move || keep_last(BufReader::new(stderr), &kept));
        }
        let mut lifeline = supervisor.stdin.take();
        // One that has ended is noticed by whoever wants to speak to it.
        let _ = lifeline.as_mut().map(|lifeline| lifeline.write_all(&line));
        Ok(Self { supervisor, lifeline, last_words, directory })
    }

    /// A client of the supervisor, once that listens.
    pub(super) async fn client(&mut self) -> Result<Client, Failure> {
        let socket = Plan::runtime(self.directory.path()).join(SOCKET);
        let began = Instant::now();
        while !locate::is_alive(&socket) {
            if let Some(status) = self.supervisor.try_wait()? {
                return Err(self.ended(status));
            }
            if began.elapsed() > PATIENCE {
                let failure = Failure::new(Exit::Internal, "the rehearsal's supervisor does not get ready");
                return Err(failure.hint(self.last_words()));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(Client::new(socket))
    }

    /// Ends the supervisor, and at once what it still runs.
    pub(super) async fn close(mut self) -> Result<(), Failure> {
        self.lifeline = None;
        let status = self.wait().await?;
        if status.signal().is_none() {
            return Ok(());
        }
        // What it ran has lost its supervisor.
        let runtime = Plan::runtime(self.directory.path());
        leftovers::end(&runtime, true, Duration::ZERO, &mut |_| ()).await?;
        Err(self.ended(status))
    }

    async fn wait(&mut self) -> io::Result<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.supervisor.try_wait()? {
                return Ok(status);
            }
            if began.elapsed() > PATIENCE {
                self.supervisor.kill()?;
                return self.supervisor.wait();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The failure for a supervisor that did not do its work.
    fn ended(&self, status: ExitStatus) -> Failure {
        let exit = status.code().and_then(|code| Exit::from_code(u8::try_from(code).ok()?)).unwrap_or(Exit::Internal);
        let exit = if exit == Exit::Done { Exit::Internal } else { exit };
        let failure = Failure::new(exit, format!("the rehearsal's supervisor has ended ({status})"));
        failure.hint(self.last_words())
    }

    fn last_words(&self) -> Option<String> {
        let lines = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        (!lines.is_empty()).then(|| format!("its last lines were\n  {}", lines.join("\n  ")))
    }
}

/// Whether everybody may pass through all directories on the way to this path.
fn is_open(path: &Path) -> bool {
    path.ancestors()
        .skip(1)
        .all(|on_the_way| fs::metadata(on_the_way).is_ok_and(|directory| directory.permissions().mode() & 0o001 != 0))
}

fn keep_last(reader: impl BufRead, kept: &Mutex<VecDeque<String>>) {
    for line in reader.split(b'\n').map_while(Result::ok) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == LINES {
            kept.pop_front();
        }
        kept.push_back(crate::cli::terminal::clean(&String::from_utf8_lossy(&line)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept() {
        let text: String = (0..20).map(|number| format!("line {number}\n")).collect();
        let kept = Mutex::default();
        keep_last(text.as_bytes(), &kept);
        let kept = kept.into_inner().expect("nobody panicked");
        assert_eq!((kept.len(), kept[0].as_str(), kept[LINES - 1].as_str()), (LINES, "line 12", "line 19"));
    }

    #[test]
    fn the_way_to_a_private_directory_is_closed() {
        let directory = Directory::make("open", 0o700).expect("a directory");
        let inner = directory.path().join("inner");
        fs::create_dir(&inner).expect("a directory");
        assert!(!is_open(&inner));
        assert!(is_open(Path::new("/anything")));
    }
}
