//! `zdsup check FILE`: whether a config can be used, and what would run. It binds nothing and starts nothing.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::config::health::{Check, HttpCheck, HttpTarget, Place};
use crate::config::{
    self, Affinity, Canary, CanaryStep, Config, ConfigError, Health, HookCommand, Log, ReadyBy, Service, Strategy,
    Traffic, UpgradeProbe, format_duration,
};

/// What a config would run.
#[derive(Clone, Debug)]
pub struct Report {
    config: Config,
    /// What is odd on this machine and no mistake of the config: it may be meant for another one, or for later. It is
    /// no part of what is displayed.
    pub warnings: Vec<String>,
}

/// Reads a config file and says what would run.
///
/// # Errors
///
/// Where the file cannot be read, or what it says cannot be meant.
pub fn check(path: &Path, name: Option<&str>) -> Result<Report, ConfigError> {
    Ok(report(config::load(path, name)?))
}

fn report(config: Config) -> Report {
    let is_one_of_several = config.services.len() > 1;
    let named = |service: &Service, warning| {
        if is_one_of_several { format!("{}: {warning}", service.name) } else { warning }
    };
    let warnings = config
        .services
        .iter()
        .flat_map(|service| warnings(service).into_iter().map(move |warning| named(service, warning)))
        .collect();
    Report { config, warnings }
}

fn warnings(service: &Service) -> Vec<String> {
    let mut warnings = Vec::new();
    let directory = service.working_directory.as_deref().unwrap_or(Path::new("/"));
    if !directory.is_dir() {
        let wrong = if directory.exists() { "is no directory" } else { "is not there" };
        warnings.push(format!("the working directory {} {wrong}", directory.display()));
    }
    let mut programs = match &service.ready.by {
        ReadyBy::Exec { command, .. } => vec![&service.command, command],
        ReadyBy::Notify | ReadyBy::Fd(_) | ReadyBy::Alive(_) => vec![&service.command],
    };
    let checks = service.health.as_ref().and_then(|health| match &health.check {
        Check::Exec(command) => Some(command),
        Check::Http(_) | Check::Tcp(_) => None,
    });
    programs.extend(checks);
    programs.extend(service.hooks.commands.values().flatten().map(|HookCommand(command)| command));
    for program in programs.iter().filter_map(|words| words.first()) {
        match find(program, directory) {
            Some(path) if access(&path, AccessFlags::X_OK).is_err() => {
                warnings.push(format!("{} is not executable for this user", path.display()));
            }
            Some(_) => {}
            None => warnings.push(format!("the program {} is not there", program.display())),
        }
    }
    if let Some(file) = &service.environment_file {
        if !file.exists() {
            warnings.push(format!("the environment file {} is not there", file.display()));
        } else if let Err(why) = config::read_bytes(file) {
            warnings.push(format!("the environment file {} cannot be used: {why}", file.display()));
        }
    }
    warnings
}

/// The file that a command's first word means: a path, or a name that is looked up in `PATH`.
fn find(program: &OsStr, directory: &Path) -> Option<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Some(directory.join(program)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|entry| entry.join(program)).find(|path| path.is_file())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "supervisor {}", self.config.name)?;
        for (role, groups) in [("operators", &self.config.operators), ("viewers", &self.config.viewers)] {
            if !groups.is_empty() {
                writeln!(f, "  {role:<10} {}", groups.join(", "))?;
            }
        }
        if self.config.atomic {
            writeln!(f, "  {:<10} all services or none", "upgrade")?;
        }
        if let Some(address) = self.config.metrics {
            writeln!(f, "  {:<10} http://{address}/metrics", "metrics")?;
        }
        for service in &self.config.services {
            write_service(f, service)?;
        }
        Ok(())
    }
}

fn write_service(f: &mut fmt::Formatter<'_>, service: &Service) -> fmt::Result {
    writeln!(f, "service {}", service.name)?;
    let mut line = |key: &str, value: &dyn fmt::Display| writeln!(f, "  {key:<10} {value}");
    line("command", &words(&service.command))?;
    if let Some(directory) = &service.working_directory {
        line("directory", &directory.display())?;
    }
    if let Some(user) = &service.privileges.user {
        line("user", user)?;
    }
    if !service.after.is_empty() {
        line("after", &service.after.join(", "))?;
    }
    if service.instances != 1 {
        line("instances", &service.instances)?;
    }
    for listen in &service.listen {
        line("listen", &format_args!("{} on {}", listen.name, listen.address))?;
    }
    if service.traffic == Traffic::Steered {
        line("traffic", &service.traffic.word())?;
    }
    let Service { ready, health, watchdog, upgrade, drain, restart, .. } = service;
    let by = match &ready.by {
        ReadyBy::Notify => "READY=1".to_owned(),
        ReadyBy::Fd(fd) => format!("a newline on descriptor {fd}"),
        ReadyBy::Exec { command, interval } => format!("{} every {}", words(command), format_duration(*interval)),
        ReadyBy::Alive(time) => format!("staying up for {}", format_duration(*time)),
    };
    line("ready", &format_args!("{by}, within {}", format_duration(ready.timeout)))?;
    if let Some(health) = health {
        line("health", &format_args!("{} every {}", checked(health), format_duration(health.interval)))?;
    }
    if let Some(timeout) = watchdog.timeout {
        let (timeout, signal) = (format_duration(timeout), signal_name(watchdog.signal));
        line("watchdog", &format_args!("WATCHDOG=1 every {timeout}, else {signal}"))?;
    }
    let (strategy, soak) = (strategy(&upgrade.strategy), format_duration(upgrade.soak));
    line("upgrade", &format_args!("{strategy}, soak {soak}, at most {} draining", upgrade.max_draining))?;
    if let Some(probe) = &upgrade.probe {
        let UpgradeProbe { http, host, rate, listener, max_error_rate } = probe;
        let budget = max_error_rate.map(|budget| format!(", at most {budget} errors")).unwrap_or_default();
        let host = host.as_ref().map(|host| format!(" of {host}")).unwrap_or_default();
        line("probe", &format_args!("{http}{host} through {listener}, {rate} a second{budget}"))?;
    }
    let timeout = format_duration(drain.timeout);
    let spread = match (drain.spread.is_zero(), service.instances) {
        (true, _) => String::new(),
        (false, 1) => format!(", spread over {} by the service itself", format_duration(drain.spread)),
        (false, _) => format!(", one instance after the other within {}", format_duration(drain.spread)),
    };
    line("drain", &format_args!("{}, SIGKILL after {timeout}{spread}", signal_name(drain.signal)))?;
    let (min, max) = (format_duration(restart.backoff_min), format_duration(restart.backoff_max));
    match restart.give_up_after {
        0 => line("restart", &format_args!("after {min} to {max}, always"))?,
        count => line("restart", &format_args!("after {min} to {max}, given up after {count} failures in a row"))?,
    }
    match &service.log {
        Log::Capture => line("log", &"capture"),
        Log::Inherit => line("log", &"inherit"),
        Log::Journal => line("log", &"journal"),
        Log::File(path) => line("log", &path.display()),
    }
}

fn strategy(strategy: &Strategy) -> String {
    match strategy {
        Strategy::Overlap | Strategy::StopStart => strategy.word().to_owned(),
        Strategy::Rolling { max_surge, max_unavailable } => {
            format!("rolling with up to {max_surge} more and {max_unavailable} fewer")
        }
        Strategy::Canary(Canary { steps, manual, from, affinity }) => {
            let step = |step: &CanaryStep| match manual {
                true => format!("{}%", step.weight),
                false => format!("{}% for {}", step.weight, format_duration(step.hold)),
            };
            let mut text = format!("canary at {}", steps.iter().map(step).collect::<Vec<_>>().join(", "));
            if *manual {
                text.push_str(" by hand");
            }
            if !from.is_empty() {
                let from: Vec<_> = from.iter().map(ToString::to_string).collect();
                text.push_str(&format!(", clients of {}", from.join(", ")));
            }
            if *affinity == Affinity::Source {
                text.push_str(", by the client's address");
            }
            text
        }
        Strategy::BlueGreen { standby } if standby.is_zero() => "blue-green without a standby".to_owned(),
        Strategy::BlueGreen { standby } => format!("blue-green with a standby for {}", format_duration(*standby)),
    }
}

/// What a health check tries.
fn checked(health: &Health) -> String {
    let at = |place: &Place| match place {
        Place::Listener(name) => format!("over {name}"),
        Place::Private(name) => format!("over its own {name}"),
    };
    match &health.check {
        Check::Http(HttpCheck { target: HttpTarget::Path { path, place }, .. }) => format!("GET {path} {}", at(place)),
        Check::Http(HttpCheck { target: HttpTarget::Url(pattern), .. }) => format!("GET {pattern}"),
        Check::Tcp(place) => format!("a connection {}", at(place)),
        Check::Exec(command) => words(command),
    }
}

fn words(words: &[std::ffi::OsString]) -> String {
    let mut text = String::new();
    for word in words {
        let word = word.to_string_lossy();
        let plain = !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
        let space = if text.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = if plain { write!(text, "{space}{word}") } else { write!(text, "{space}{word:?}") };
    }
    text
}

fn signal_name(number: i32) -> String {
    match nix::sys::signal::Signal::try_from(number) {
        Ok(signal) => signal.to_string(),
        Err(_) => format!("SIGRTMIN+{}", number - nix::libc::SIGRTMIN()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A directory of this test's own, removed at its end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("zdsup-check-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }

        fn check(&self, text: &str) -> Result<Report, ConfigError> {
            let path = self.0.join("web.toml");
            fs::write(&path, text).expect("a file");
            check(&path, None)
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_report_says_what_would_run() {
        let directory = Directory::new("report");
        let report = directory
            .check(
                "[supervisor]\noperators = [\"deploy\"]\n[service.web]\ncommand = [\"/bin/sh\", \"-c\", \"exec web\"]\n\
                 user = \"web\"\nworking-directory = \"/\"\n[[service.web.listen]]\nname = \"http\"\naddress = \"8080\"\n\
                 [service.web.health]\nhttp = \"/healthz\"\nprivate = \"health\"\n[service.web.upgrade]\nsoak = \"5s\"",
            )
            .expect("a report");
        assert_eq!(
            report.to_string(),
            "\
supervisor web
  operators  deploy
service web
  command    /bin/sh -c \"exec web\"
  directory  /
  user       web
  listen     http on 8080
  ready      READY=1, within 30s
  health     GET /healthz over its own health every 1s
  upgrade    overlap, soak 5s, at most 5 draining
  drain      SIGTERM, SIGKILL after 30s
  restart    after 100ms to 30s, given up after 10 failures in a row
  log        capture
"
        );
    }

    #[test]
    fn a_report_names_every_service() {
        let config = config::parse(
            "[supervisor]\natomic = true\n[service.web]\ncommand = [\"/bin/sh\"]\nafter = [\"api\"]\ninstances = 4\n\
                 traffic = \"steered\"\n[[service.web.listen]]\naddress = \"8080\"\n[service.web.upgrade]\n\
                 strategy = \"canary\"\nprobe = { http = \"/\" }\nmax-error-rate = \"1%\"\n[service.web.upgrade.canary]\n\
                 steps = [{ weight = 5, hold = \"30s\" }, { weight = 50, hold = \"1m\" }]\nfrom = [\"::1/128\"]\n\
                 affinity = \"source\"\n[service.api]\ncommand = [\"/none\"]\n[service.api.upgrade]\n\
                 strategy = \"rolling\"\n",
            Path::new("/etc/zdsup/web.toml"),
            None,
        );
        let report = report(config.expect("a config"));
        assert_eq!(report.warnings, ["api: the program /none is not there"]);
        assert_eq!(
            report.to_string(),
            "\
supervisor web
  upgrade    all services or none
service web
  command    /bin/sh
  after      api
  instances  4
  listen     web on 8080
  traffic    steered
  ready      READY=1, within 30s
  upgrade    canary at 5% for 30s, 50% for 1m, clients of ::1/128, by the client's address, soak 0s, at most 5 draining
  probe      / through web, 20 a second, at most 1% errors
  drain      SIGTERM, SIGKILL after 30s
  restart    after 100ms to 30s, given up after 10 failures in a row
  log        capture
service api
  command    /none
  ready      READY=1, within 30s
  upgrade    rolling with up to 1 more and 0 fewer, soak 0s, at most 5 draining
  drain      SIGTERM, SIGKILL after 30s
  restart    after 100ms to 30s, given up after 10 failures in a row
  log        capture
"
        );
    }

    #[test]
    fn what_is_not_there_is_a_warning() {
        let directory = Directory::new("warnings");
        let base = directory.0.display().to_string();
        fs::write(directory.0.join("plain"), "").expect("a file");
        fs::set_permissions(directory.0.join("plain"), fs::Permissions::from_mode(0o600)).expect("a mode");
        let warnings = |text: &str| directory.check(text).expect("a report").warnings;
        assert_eq!(warnings("[service.web]\ncommand = [\"/bin/sh\"]"), [""; 0]);
        assert_eq!(warnings("[service.web]\ncommand = [\"sh\"]"), [""; 0], "looked up in PATH");
        assert_eq!(warnings("[service.web]\ncommand = [\"/none\"]"), ["the program /none is not there"]);
        assert_eq!(
            warnings(&format!("[service.web]\ncommand = [\"./plain\"]\nworking-directory = \"{base}\"")),
            [format!("{base}/./plain is not executable for this user")]
        );
        assert_eq!(
            warnings(
                "[service.web]\ncommand = [\"/bin/sh\"]\nworking-directory = \"/none\"\nenvironment-file = \"/no\""
            ),
            ["the working directory /none is not there", "the environment file /no is not there"]
        );
        assert_eq!(
            warnings(&format!(
                "[service.web]\ncommand = [\"/bin/sh\"]\nworking-directory = \"{base}/plain\"\n\
                 environment-file = \"{base}\"\n[service.web.hooks]\nbefore-start = [[\"true\"], [\"/none\"]]"
            )),
            [
                format!("the working directory {base}/plain is no directory"),
                "the program /none is not there".to_owned(),
                format!("the environment file {base} cannot be used: it is a directory")
            ]
        );
        let pipe = directory.0.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        assert_eq!(
            warnings(&format!("[service.web]\ncommand = [\"/bin/sh\"]\nenvironment-file = \"{}\"", pipe.display())),
            [format!("the environment file {} cannot be used: it is a pipe, not a file", pipe.display())]
        );
    }

    #[test]
    fn a_bad_file_is_refused() {
        let error = Directory::new("bad").check("[service.web]\ncomand = []").expect_err("misspelt");
        assert_eq!(error.hint(), Some("did you mean `command`?"));
    }
}
