//! What the tests run under zdsup, and the load on it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use zdsup::load::{Load, Plan, Report, Running, Target};

use crate::machine::{Machine, Output};

/// Where the service of the tests listens; the machine has a network of its own.
pub(crate) const ADDRESS: &str = "127.0.0.1:8080";

/// The program of the service of the tests, where no sandbox hides it, wherever the sources are.
pub(crate) const PROGRAM: &str = "/usr/lib/zdsup-tests/service.py";

/// The unit of the service of the tests.
pub(crate) const UNIT: &str = "zdsup@web.service";

/// A config file, `/etc/zdsup/web.toml`.
#[derive(Clone)]
pub(crate) struct Config {
    command: Vec<String>,
    keys: String,
    listen: String,
    tables: String,
}

impl Config {
    /// The service of the tests (`service.py`) in one of its modes.
    pub(crate) fn mode(mode: &str) -> Self {
        Self::command(&["/usr/bin/python3", "-IS", PROGRAM, mode])
    }

    /// Some other program.
    pub(crate) fn command(words: &[&str]) -> Self {
        Self {
            command: words.iter().map(|&word| word.to_owned()).collect(),
            keys: String::new(),
            listen: format!("[[service.web.listen]]\nname = \"http\"\naddress = \"{ADDRESS}\"\n"),
            tables: String::new(),
        }
    }

    /// With further keys of `[service.web]`.
    pub(crate) fn keys(mut self, lines: &str) -> Self {
        self.keys = format!("{lines}\n");
        self
    }

    /// With other listeners.
    pub(crate) fn listen(mut self, tables: &str) -> Self {
        self.listen = format!("{tables}\n");
        self
    }

    /// With further settings after the listeners.
    pub(crate) fn tables(mut self, tables: &str) -> Self {
        self.tables = format!("{tables}\n");
        self
    }

    /// Puts it in place.
    pub(crate) fn install(&self, machine: &Machine) {
        machine.write(PROGRAM, include_str!("service.py"));
        machine.write("/etc/zdsup/web.toml", &self.text());
    }

    fn text(&self) -> String {
        let Self { command, keys, listen, tables } = self;
        format!("[service.web]\ncommand = {command:?}\n{keys}\n{listen}\n{tables}")
    }
}

impl Machine {
    /// Installs the good release and starts it.
    #[track_caller]
    pub(crate) fn start_good(&self) {
        Config::mode("serve").install(self);
        self.ok(["systemctl", "start", UNIT]);
    }

    /// `systemctl reload`, whatever comes of it.
    pub(crate) fn reload(&self) -> Output {
        self.run(["systemctl", "reload", UNIT])
    }

    /// The generation that answers.
    pub(crate) fn answering(&self) -> u64 {
        let answer = self.ok(["curl", "--silent", "--show-error", "--max-time", "10", ADDRESS]);
        answer.trim().parse().unwrap_or_else(|_| panic!("not a generation: {answer:?}"))
    }

    /// Waits until no process of that generation is left.
    #[track_caller]
    pub(crate) fn await_end_of(&self, generation: u64) {
        let generation = generation.to_string();
        self.await_entry(UNIT, "the end of a generation", |entry| {
            entry.field("ZDSUP_GENERATION") == generation && entry.message().ends_with("gone")
        });
    }

    /// `zdsup status --json`.
    pub(crate) fn status(&self) -> serde_json::Value {
        let text = self.ok(["zdsup", "status", "--json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}"))
    }

    /// A new connection per request from two threads, until told to stop.
    pub(crate) fn load(&self) -> UnderLoad {
        let plan = Plan {
            threads_new: 2,
            threads_keep_alive: 0,
            pause_between: Duration::from_millis(1),
            timeout: Duration::from_secs(20),
            ..Plan::default()
        };
        let target = Target::Tcp(ADDRESS.parse::<SocketAddr>().expect("it is an address"));
        UnderLoad(self.inside(|| Load::start(target, plan)).expect("threads can be made"))
    }
}

/// Load in progress.
pub(crate) struct UnderLoad(Running);

impl UnderLoad {
    /// Waits until so many more requests have been answered, so that what follows happens under load.
    pub(crate) fn flow(&self, requests: u64) {
        let until = self.0.total() + requests;
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.0.total() < until {
            assert!(Instant::now() < deadline, "the load stands still");
            std::thread::yield_now();
        }
    }

    /// Ends it. No request may have failed.
    #[track_caller]
    pub(crate) fn stop_unharmed(self) -> Report {
        self.flow(50);
        let report = self.0.stop();
        assert_eq!(report.failed(), 0, "{:?} {:?}", report.errors, report.examples);
        report
    }
}
