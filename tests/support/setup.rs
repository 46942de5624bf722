//! A config, made of parts that a test can change between reloads.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::Place;

/// What a supervisor of one service, `web`, is configured to do.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) command: Vec<String>,
    /// Name and address.
    pub(crate) listen: Vec<(String, String)>,
    /// Options of every listener, as TOML.
    pub(crate) listen_options: String,
    /// Keys of the supervisor, as TOML.
    pub(crate) supervisor: Vec<String>,
    /// Keys of the service, as TOML.
    pub(crate) service: Vec<String>,
    pub(crate) ready: Vec<String>,
    pub(crate) health: Vec<String>,
    pub(crate) watchdog: Vec<String>,
    pub(crate) upgrade: Vec<String>,
    pub(crate) drain: Vec<String>,
    pub(crate) restart: Vec<String>,
    pub(crate) hooks: Vec<String>,
    /// Environment of the supervisor itself.
    pub(crate) environment: BTreeMap<String, String>,
    /// Arguments of `run`.
    pub(crate) arguments: Vec<String>,
}

impl Setup {
    /// One of the programs in tests/hazards, with a TCP listener.
    pub(crate) fn new(place: &Place, words: &[&str]) -> Self {
        Self {
            command: command(words),
            listen: vec![("http".into(), format!("{}:8080", place.address()))],
            listen_options: String::new(),
            supervisor: vec![],
            service: vec![],
            ready: vec![],
            health: vec![],
            watchdog: vec![],
            upgrade: vec![],
            drain: vec![],
            restart: vec![],
            hooks: vec![],
            environment: BTreeMap::new(),
            arguments: vec![],
        }
    }

    pub(crate) fn hazard(&mut self, words: &[&str]) {
        self.command = command(words);
    }

    /// The config file.
    pub(crate) fn toml(&self) -> String {
        let mut text = format!("[supervisor]\n{}\n[service.web]\n", self.supervisor.join("\n"));
        writeln!(text, "command = {}", list(&self.command)).expect("a string can be written to");
        for line in &self.service {
            text.push_str(line);
            text.push('\n');
        }
        for (name, address) in &self.listen {
            let options = &self.listen_options;
            writeln!(text, "[[service.web.listen]]\nname = {name:?}\naddress = {address:?}\n{options}")
                .expect("a string can be written to");
        }
        let tables = [
            ("ready", &self.ready),
            ("health", &self.health),
            ("watchdog", &self.watchdog),
            ("upgrade", &self.upgrade),
            ("drain", &self.drain),
            ("restart", &self.restart),
            ("hooks", &self.hooks),
        ];
        for (name, lines) in tables.into_iter().filter(|(_, lines)| !lines.is_empty()) {
            writeln!(text, "[service.web.{name}]\n{}", lines.join("\n")).expect("a string can be written to");
        }
        text
    }
}

/// The command line of one of the programs in tests/hazards.
pub(crate) fn command(words: &[&str]) -> Vec<String> {
    let program = super::hazard().display().to_string();
    std::iter::once(program).chain(words.iter().map(|word| (*word).to_owned())).collect()
}

/// Rust's notation of such strings is TOML's.
pub(crate) fn list(words: &[String]) -> String {
    format!("{words:?}")
}
