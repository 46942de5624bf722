//! A real supervisor that ends with its test, and everything that it started with it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use zdsup::control::types::{
    GenerationStatus, ServiceState, Status, UpgradeEvent, UpgradeStatus, Verdict, VerdictStatus,
};

use super::client::{self, Answer};
use super::load::Target;
use super::{Place, SOON, Setup, eventually, process, within, zdsup};

/// A running supervisor of one service, and the place where everything of it lies.
pub(crate) struct Zdsup {
    // First, so that it ends while its place is there.
    pub(crate) supervisor: Supervisor,
    pub(crate) setup: Setup,
    pub(crate) place: Place,
}

/// The process, and where it keeps its things.
pub(crate) struct Supervisor {
    child: Child,
    pub(crate) runtime: PathBuf,
    log: PathBuf,
    ended: bool,
}

impl Zdsup {
    /// Runs one of the programs in tests/hazards, and waits until it serves.
    pub(crate) fn serving(words: &[&str]) -> Self {
        Self::serving_with(words, |_, _| {})
    }

    pub(crate) fn serving_with(words: &[&str], adjust: impl FnOnce(&mut Setup, &Place)) -> Self {
        let this = Self::started(words, adjust);
        this.wait_for("it serves", |status| status.services[0].state == ServiceState::Serving);
        this
    }

    /// Without waiting.
    pub(crate) fn started(words: &[&str], adjust: impl FnOnce(&mut Setup, &Place)) -> Self {
        let place = Place::new();
        let mut setup = Setup::new(&place, words);
        adjust(&mut setup, &place);
        fs::write(place.join("web.toml"), setup.toml()).expect("a config can be written");
        let mut arguments = vec!["-c".to_owned(), place.join("web.toml").display().to_string()];
        arguments.extend(setup.arguments.iter().cloned());
        let supervisor = Supervisor::start(&place, &arguments, &setup.environment);
        Self { place, setup, supervisor }
    }

    /// Changes the config file. Takes effect at the next reload.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Setup)) {
        change(&mut self.setup);
        fs::write(self.place.join("web.toml"), self.setup.toml()).expect("a config can be written");
    }

    /// Runs this program at the next reload.
    pub(crate) fn release(&mut self, words: &[&str]) {
        self.configure(|setup| setup.hazard(words));
    }

    /// The first listener.
    pub(crate) fn target(&self) -> Target {
        let (_, address) = &self.setup.listen[0];
        match address.strip_prefix("unix:") {
            Some(path) => Target::Unix(path.to_owned()),
            None => Target::Tcp(self.address()),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let (_, address) = &self.setup.listen[0];
        address.parse().expect("the first listener has an address and a port")
    }

    /// Asks the service once, over a connection of its own.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        let mut connection = self.target().connect().expect("the listener is bound");
        connection.get(path).expect("it answers").expect("it answers")
    }

    /// Ends it, and looks that nothing is left.
    #[track_caller]
    pub(crate) fn end(self) {
        self.end_and(|| ());
    }

    /// The same, with a last look at the place.
    #[track_caller]
    pub(crate) fn end_and(mut self, look: impl FnOnce()) {
        let status = self.supervisor.end();
        assert_eq!(status.code(), Some(0));
        self.supervisor.nothing_left();
        look();
    }

    pub(crate) fn status(&self) -> Status {
        self.supervisor.status()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
        self.supervisor.wait_for(what, is_so)
    }

    /// Waits until only this generation is left, and serves.
    #[track_caller]
    pub(crate) fn settled(&self, generation: u64) -> Status {
        self.wait_for(&format!("only web@{generation} is left"), |status| {
            let service = &status.services[0];
            service.serving == Some(generation) && service.generations.len() == 1
        })
    }

    /// `zdsup reload` with more arguments; waits for its end.
    pub(crate) fn reload(&self, more: &[&str]) -> Reload {
        self.supervisor.upgrade("reload", more)
    }

    /// A reload that must succeed.
    #[track_caller]
    pub(crate) fn upgrade(&self) -> Reload {
        self.reload(&[]).is(Verdict::Upgraded)
    }
}

impl Supervisor {
    /// `zdsup run` with these arguments. It keeps its things in `run` of the place.
    pub(crate) fn start(place: &Place, arguments: &[String], environment: &BTreeMap<String, String>) -> Self {
        Self::start_in(place, place.join("run"), arguments, environment)
    }

    /// The same with another runtime directory.
    pub(crate) fn start_in(
        place: &Place,
        runtime: PathBuf,
        arguments: &[String],
        environment: &BTreeMap<String, String>,
    ) -> Self {
        let log = place.join("log");
        let file = File::create(&log).expect("a log can be made");
        let other = file.try_clone().expect("a descriptor can be duplicated");
        let child = command(&runtime)
            .arg("run")
            .args(arguments)
            .envs(environment)
            .current_dir(place.path())
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(other)
            .spawn()
            .expect("zdsup can be started");
        Self { child, runtime, log, ended: false }
    }

    /// One that was started by other means, and keeps its things in `run` of the place.
    pub(crate) fn adopt(child: Child, place: &Place) -> Self {
        Self { child, runtime: place.join("run"), log: place.join("log"), ended: false }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        process::kill(self.pid(), signal);
    }

    /// What it and the service printed.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) {
        eventually(&format!("the log says {text:?}"), || self.log().contains(text).then_some(()));
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.runtime.join("control.sock")
    }

    pub(crate) fn status(&self) -> Status {
        let answer = client::control(&self.control_socket(), "GET", "/v1/status", None).expect("it answers");
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str(&answer.body).expect("a status")
    }

    /// Waits until its status is so.
    #[track_caller]
    pub(crate) fn wait_for(&self, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
        eventually(what, || {
            let answer = self.ask("/v1/status").filter(|answer| answer.status == 200)?;
            serde_json::from_str(&answer.body).ok().filter(&is_so)
        })
    }

    /// One question; no answer while it is not there yet, or is being followed by another.
    #[track_caller]
    fn ask(&self, path: &str) -> Option<Answer> {
        let answer = client::control(&self.control_socket(), "GET", path, None);
        if let Err(error) = &answer {
            assert!(process::is_alive(self.pid()), "the supervisor has ended: {error}");
        }
        answer.ok()
    }

    /// What became of an upgrade, once it has its verdict.
    #[track_caller]
    pub(crate) fn verdict_of(&self, upgrade: u64) -> VerdictStatus {
        eventually(&format!("upgrade {upgrade} has its verdict"), || {
            let answer = self.ask(&format!("/v1/upgrades/{upgrade}"))?;
            serde_json::from_str::<UpgradeStatus>(&answer.body).expect("an upgrade").verdict
        })
    }

    /// Runs another command of zdsup against it.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        command(&self.runtime).args(words).stdin(Stdio::null()).output().expect("zdsup can be started")
    }

    pub(crate) fn upgrade(&self, word: &str, more: &[&str]) -> Reload {
        Reload::of(self.run(&[&[word, "--json"], more].concat()))
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub(crate) fn wait(&mut self, patience: Duration) -> ExitStatus {
        let status = within(patience, "the supervisor ends", || self.child.try_wait().expect("it is our child"));
        self.ended = true;
        status
    }

    /// SIGTERM, and waits.
    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(SOON)
    }

    /// No process of its service lives, and no file of it is left.
    #[track_caller]
    pub(crate) fn nothing_left(&self) {
        let left = process::instances_of(&self.runtime);
        assert!(left.is_empty(), "processes {left:?} are left");
        assert!(!self.control_socket().exists(), "its control socket is left");
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::SIGTERM);
            let patience = std::time::Instant::now() + Duration::from_secs(5);
            while std::time::Instant::now() < patience && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(5));
            }
            // Whatever it was, it was not enough.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let left = process::instances_of(&self.runtime);
        for pid in &left {
            process::kill(*pid, Signal::SIGKILL);
        }
        if std::thread::panicking() {
            eprintln!("---- what it printed ----\n{}----", self.log());
        } else {
            assert!(left.is_empty(), "processes {left:?} were left");
        }
    }
}

/// The program, as far from this test's surroundings as it has to be.
pub(crate) fn command(runtime: &Path) -> Command {
    let mut command = Command::new(zdsup());
    for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "ZDSUP_NAME", "RUNTIME_DIRECTORY"] {
        command.env_remove(name);
    }
    // Beside it, so that each place has a history of its own.
    command.env("STATE_DIRECTORY", runtime.with_file_name("state"));
    command.env("NO_COLOR", "1").arg("--runtime-dir").arg(runtime);
    command
}

/// Makes `wrapper` run what [`command`] made, in the same surroundings.
pub(crate) fn wrapped(mut wrapper: Command, inner: &Command) -> Command {
    wrapper.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => wrapper.env(name, value),
            None => wrapper.env_remove(name),
        };
    }
    wrapper
}

/// What `zdsup reload --json` said and how it ended.
#[derive(Debug)]
pub(crate) struct Reload {
    pub(crate) code: i32,
    pub(crate) events: Vec<UpgradeEvent>,
    pub(crate) stdout: String,
    #[expect(dead_code, reason = "printed when a test fails")]
    pub(crate) stderr: String,
}

impl Reload {
    fn of(output: Output) -> Self {
        let stdout = String::from_utf8(output.stdout).expect("JSON is text");
        let events = stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let code = output.status.code().unwrap_or_else(|| -output.status.signal().unwrap_or(1));
        Self { code, events, stdout, stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    pub(crate) fn verdict(&self) -> Option<&VerdictStatus> {
        self.events.iter().find_map(|event| event.verdict.as_deref())
    }

    /// It ended like this, and the exit code says the same.
    #[track_caller]
    pub(crate) fn is(self, expected: Verdict) -> Self {
        let verdict = self.verdict().unwrap_or_else(|| panic!("no verdict: {self:?}"));
        assert_eq!(verdict.verdict, expected, "{self:?}");
        assert_eq!(i32::from(verdict.exit_code), self.code, "{self:?}");
        let code = match expected {
            Verdict::Upgraded => 0,
            Verdict::Failed | Verdict::RolledBack | Verdict::Aborted => 4,
            Verdict::Refused => verdict.exit_code.into(),
        };
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    /// The reason, which must have this in it.
    #[track_caller]
    pub(crate) fn because(self, fragment: &str) -> Self {
        let reason = self.verdict().and_then(|verdict| verdict.reason.clone()).unwrap_or_default();
        assert!(reason.contains(fragment), "{fragment:?} is not in {reason:?}: {self:?}");
        self
    }

    /// The candidate's last lines have this in them.
    #[track_caller]
    pub(crate) fn last_lines_say(self, fragment: &str) -> Self {
        let lines = self.verdict().map(|verdict| verdict.output.join("\n")).unwrap_or_default();
        assert!(lines.contains(fragment), "{fragment:?} is not in {lines:?}: {self:?}");
        self
    }

    #[track_caller]
    pub(crate) fn still_serving(self, generation: u64) -> Self {
        assert_eq!(self.verdict().and_then(|verdict| verdict.serving), Some(generation), "{self:?}");
        self
    }
}

/// One generation of a status.
pub(crate) fn generation(status: &Status, number: u64) -> Option<&GenerationStatus> {
    status.services[0].generations.iter().find(|generation| generation.generation == number)
}
