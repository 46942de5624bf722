//! The settings of `zdsup run` as flags: what a config file can say, for the services that need none.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use toml::Spanned;

use crate::config::error::Problem;
use crate::config::raw::{
    Amount, BackoffText, Canary, Command, Drain, DurationText, Health, Hooks, Listen, Log, Native, Octal, Percent,
    Probe, Ready, Restart, Service, Step, Supervisor, Upgrade, Watchdog,
};
use crate::config::source::CommandLine;
use crate::config::{self, Config, ConfigError, split_listen};

/// Settings of a service, in place of a config file.
///
/// They are a clap group called `RunFlags`, so that another option can conflict with all of them.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Settings, in place of a config file")]
pub struct RunFlags {
    /// Where to listen; can be given several times.
    ///
    /// ADDR is `8080` (every address of this machine), `127.0.0.1:8080`, `[::1]:8080`, `host:8080`, `udp:ADDR`,
    /// `unix:/path`, `unix-dgram:/path`, `unix-seqpacket:/path`, `unix:@abstract` or `vsock:CID:PORT`. NAME is the
    /// listener's entry in LISTEN_FDNAMES; without it, a listener is called after the service.
    #[arg(long, value_name = "[NAME=]ADDR")]
    pub listen: Vec<String>,

    /// How many processes of the service there are [default: 1].
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub instances: Option<i64>,

    /// How new connections are divided [default: shared].
    ///
    /// `shared`: all processes accept from one socket. `steered`: each has its own, and a program in the kernel chooses
    /// among them, so that connections can be divided between releases; TCP only.
    #[arg(long, value_name = "KIND")]
    pub traffic: Option<String>,

    /// What proves that the service is ready.
    ///
    /// `notify`: it sends READY=1 to NOTIFY_SOCKET (the default). `fd=N`: it writes a newline to descriptor N.
    /// `exec=COMMAND`: this shell command succeeds; MAINPID is in its environment. `alive=TIME`: it has run for so
    /// long.
    #[arg(long, value_name = "PROOF")]
    pub ready: Option<String>,

    /// How long it may take to become ready [default: 30s].
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub ready_timeout: Option<String>,

    /// The pause between attempts of `--ready exec=COMMAND` [default: 200ms].
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub ready_interval: Option<String>,

    /// Check again and again that this path is answered well, from the moment that the service says that it is ready.
    ///
    /// With `--health-private`, or over a listener whose traffic is steered.
    #[arg(long, value_name = "PATH")]
    pub health_http: Option<String>,

    /// The same, at an address that each instance binds itself: `{slot}` and `{pid}` stand for its own.
    #[arg(long, value_name = "URL")]
    pub health_url: Option<String>,

    /// Check that a connection is accepted.
    #[arg(long)]
    pub health_tcp: bool,

    /// Check that this shell command succeeds; MAINPID is in its environment.
    #[arg(long, value_name = "COMMAND")]
    pub health_exec: Option<String>,

    /// The listener over which it is checked [default: the only one for TCP].
    #[arg(long, value_name = "NAME")]
    pub health_listener: Option<String>,

    /// Check over a listener that each instance has for itself, with this name in LISTEN_FDNAMES.
    #[arg(long, value_name = "NAME")]
    pub health_private: Option<String>,

    /// The Host header of the checks [default: where they connect to].
    #[arg(long, value_name = "HOST")]
    pub health_host: Option<String>,

    /// The status codes of a good answer [default: 200-399].
    #[arg(long, value_name = "CODES")]
    pub health_status: Option<String>,

    /// What a good answer has in the first 64 KiB of its body.
    #[arg(long, value_name = "TEXT")]
    pub health_body: Option<String>,

    /// How often it is checked [default: 1s].
    #[arg(long, value_name = "TIME")]
    pub health_interval: Option<String>,

    /// How long a check may take [default: 1s].
    #[arg(long, value_name = "TIME")]
    pub health_timeout: Option<String>,

    /// How many checks in a row must pass for the service to be well [default: 1].
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub health_successes: Option<i64>,

    /// How many checks in a row must fail for it not to be [default: 3].
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub health_failures: Option<i64>,

    /// How often a ready service must send WATCHDOG=1 at least [default: it need not].
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub watchdog_timeout: Option<String>,

    /// The signal that ends a service that does not [default: SIGABRT].
    #[arg(long, value_name = "SIGNAL")]
    pub watchdog_signal: Option<String>,

    /// How a new release takes the place of the old one [default: overlap].
    ///
    /// `overlap`: all of it beside all of the old one, then the switch. `rolling`: a few instances at a time. `canary`: a
    /// share of new connections that grows. `blue-green`: as `overlap`, and the old one is kept alive for a quick return.
    /// `stop-start`: the old one ends first, and callers wait. `canary` and `blue-green` need `--traffic steered`.
    #[arg(long, value_name = "STRATEGY")]
    pub upgrade_strategy: Option<String>,

    /// How many more instances there may be in a `rolling` upgrade, or which part such as `25%` [default: 1].
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub upgrade_max_surge: Option<String>,

    /// How many instances may be missing in a `rolling` upgrade, or which part such as `25%` [default: 0].
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub upgrade_max_unavailable: Option<String>,

    /// The steps of a `canary`, such as `5:30s,50:1m`: the share of new connections in percent, and for how long.
    ///
    /// Without any TIME each step waits for `zdsup promote`.
    #[arg(long, value_name = "PERCENT[:TIME],...")]
    pub upgrade_canary: Option<String>,

    /// How long the old release is kept alive after a `blue-green` upgrade; 0s not at all [default: 10m].
    #[arg(long, value_name = "TIME")]
    pub upgrade_standby: Option<String>,

    /// How many releases that served are kept beside the one that serves, to go back to [default: 5].
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub upgrade_keep_releases: Option<i64>,

    /// A path that is asked for during an upgrade, through the first listener as a client would, and counted.
    #[arg(long, value_name = "PATH")]
    pub upgrade_probe: Option<String>,

    /// How many of these requests may fail, such as `1%`, before the upgrade does [default: they are only counted].
    #[arg(long, value_name = "PERCENT")]
    pub upgrade_max_error_rate: Option<String>,

    /// How long a new release must stay up before the old one is told to stop [default: 0s].
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub upgrade_soak: Option<String>,

    /// How many old generations may drain at once [default: 5].
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub upgrade_max_draining: Option<i64>,

    /// The signal that tells the service to stop [default: SIGTERM].
    #[arg(long, value_name = "SIGNAL")]
    pub drain_signal: Option<String>,

    /// How long it may then take, before it is killed [default: 30s].
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub drain_timeout: Option<String>,

    /// Over what time the instances of an old generation get that signal, one after the other [default: 0s].
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub drain_spread: Option<String>,

    /// The first and the longest pause before a service that died is started again [default: 100ms..30s].
    #[arg(long, value_name = "TIME..TIME", allow_hyphen_values = true)]
    pub restart_backoff: Option<String>,

    /// How many failures in a row until it is given up; 0 never [default: 10].
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub restart_give_up_after: Option<i64>,

    /// A variable for the service's environment; can be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    pub environment: Vec<String>,

    /// A file of KEY=VALUE lines for the service's environment, read anew at each upgrade.
    #[arg(long, value_name = "FILE")]
    pub environment_file: Option<OsString>,

    /// Start from an empty environment instead of zdsup's own.
    #[arg(long)]
    pub clear_environment: bool,

    /// Set O_NONBLOCK on the listeners: for servers that count on it and do not set it themselves.
    #[arg(long)]
    pub non_blocking: bool,

    /// The directory that the service runs in [default: the current one].
    #[arg(long, value_name = "DIRECTORY")]
    pub working_directory: Option<OsString>,

    /// The user that the service runs as, by name or number.
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,

    /// Its group [default: the user's own].
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,

    /// Its further groups, separated by commas [default: the user's own].
    #[arg(long, value_name = "GROUPS")]
    pub supplementary_groups: Option<String>,

    /// The mask for the modes of files that it creates, in octal digits.
    #[arg(long, value_name = "MASK")]
    pub umask: Option<String>,

    /// A resource limit as in setrlimit(2), such as `nofile=65536`; can be given several times.
    ///
    /// VALUE is a number, SOFT:HARD, or `infinity`; sizes may end in K, M or G.
    #[arg(long, value_name = "NAME=VALUE")]
    pub limit: Vec<String>,

    /// Its scheduling priority, from -20 to 19.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub nice: Option<i64>,

    /// How gladly the kernel kills it when memory runs out, from -1000 to 1000.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub oom_score_adjust: Option<i64>,

    /// It and its children can never gain privileges, such as through setuid programs.
    #[arg(long)]
    pub no_new_privileges: bool,

    /// Where its output goes: `capture`, `inherit`, `journal` or `file=PATH` [default: capture].
    #[arg(long, value_name = "WHERE")]
    pub log: Option<String>,

    /// Leave LISTEN_PID and WATCHDOG_PID out, for a wrapper that starts the real program as its child.
    #[arg(long)]
    pub no_listen_pid: bool,

    /// How many descriptors are kept for the service's successors [default: 0].
    ///
    /// It stores them with FDSTORE=1, as with systemd; those that are started later get them after their listeners.
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub fd_store_max: Option<i64>,

    /// Groups whose members may control this supervisor, separated by commas.
    #[arg(long, value_name = "GROUPS")]
    pub operators: Option<String>,

    /// Groups whose members may look at its status, separated by commas.
    #[arg(long, value_name = "GROUPS")]
    pub viewers: Option<String>,

    /// Where metrics are served to whoever asks, such as 127.0.0.1:9100 [default: only at the control socket].
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<String>,

    /// The program and its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

impl RunFlags {
    /// What they mean: the same as a file that says the same. Relative paths start at the current directory.
    ///
    /// `name` is the supervisor's; the command's base name without it.
    ///
    /// # Errors
    ///
    /// Where a flag cannot be meant; the error names it. Also where a path is relative to a directory that is gone.
    pub fn config(&self, name: Option<&str>) -> Result<Config, ConfigError> {
        let directory = config::logical_directory().map_err(|reason| {
            let message = format!("the current directory cannot be known: {reason}");
            ConfigError::of_flag("the command line", message, "change to a directory that exists")
        })?;
        self.config_in(&directory, name)
    }

    /// The same, where relative paths start at `directory`, which is absolute.
    ///
    /// # Errors
    ///
    /// Where a flag cannot be meant; the error names it.
    pub fn config_in(&self, directory: &Path, name: Option<&str>) -> Result<Config, ConfigError> {
        let mut line = CommandLine::new("zdsup run");
        let supervisor = Supervisor {
            operators: list(&mut line, "--operators", self.operators.as_deref()).unwrap_or_default(),
            viewers: list(&mut line, "--viewers", self.viewers.as_deref()).unwrap_or_default(),
            // There is one service.
            atomic: false,
            metrics: text(&mut line, "--metrics", self.metrics.as_deref()),
        };
        match self.service(&mut line) {
            Ok(service) => config::from_flags(supervisor, service, line, name, directory),
            Err(problem) => Err(ConfigError::new(&Arc::new(line.finish()), problem)),
        }
    }

    fn service(&self, line: &mut CommandLine) -> Result<Service, Problem> {
        Ok(Service {
            listen: self.listen.iter().map(|listen| self::listen(line, listen)).collect(),
            instances: number(line, "--instances", self.instances),
            traffic: text(line, "--traffic", self.traffic.as_deref()),
            after: Vec::new(),
            ready: self.ready(line)?,
            health: self.health(line),
            watchdog: Watchdog {
                timeout: duration(line, "--watchdog-timeout", self.watchdog_timeout.as_deref()),
                signal: text(line, "--watchdog-signal", self.watchdog_signal.as_deref()),
            },
            upgrade: self.upgrade(line)?,
            drain: Drain {
                signal: text(line, "--drain-signal", self.drain_signal.as_deref()),
                timeout: duration(line, "--drain-timeout", self.drain_timeout.as_deref()),
                spread: duration(line, "--drain-spread", self.drain_spread.as_deref()),
            },
            restart: Restart {
                backoff: self
                    .restart_backoff
                    .as_ref()
                    .map(|text| line.flag("--restart-backoff", text.as_ref(), BackoffText(text.clone()))),
                give_up_after: number(line, "--restart-give-up-after", self.restart_give_up_after),
            },
            // Lists of commands are for a file.
            hooks: Hooks::default(),
            environment: self.environment.iter().map(|pair| variable(line, pair)).collect::<Result<_, _>>()?,
            environment_file: path(line, "--environment-file", self.environment_file.as_deref()),
            clear_environment: switch(line, "--clear-environment", self.clear_environment),
            non_blocking: switch(line, "--non-blocking", self.non_blocking),
            working_directory: path(line, "--working-directory", self.working_directory.as_deref()),
            user: text(line, "--user", self.user.as_deref()),
            group: text(line, "--group", self.group.as_deref()),
            supplementary_groups: list(line, "--supplementary-groups", self.supplementary_groups.as_deref()),
            umask: self.umask.as_ref().map(|text| line.flag("--umask", text.as_ref(), Octal(text.clone()))),
            limits: self.limit.iter().map(|pair| limit(line, pair)).collect::<Result<_, _>>()?,
            nice: number(line, "--nice", self.nice),
            oom_score_adjust: number(line, "--oom-score-adjust", self.oom_score_adjust),
            no_new_privileges: switch(line, "--no-new-privileges", self.no_new_privileges),
            log: self.log.as_deref().map(|log| self::log(line, log)),
            listen_pid: switch(line, "--no-listen-pid", self.no_listen_pid).then_some(false),
            fd_store_max: number(line, "--fd-store-max", self.fd_store_max),
            // At the end, as on a real command line.
            command: line.command(&self.command).map(|words| {
                let native = |word: Spanned<OsString>| Spanned::new(word.span(), Native(word.into_inner()));
                Spanned::new(words.span(), words.into_inner().into_iter().map(native).collect())
            }),
        })
    }

    /// `notify`, `fd=N`, `exec=COMMAND`, `alive=TIME`.
    fn ready(&self, line: &mut CommandLine) -> Result<Ready, Problem> {
        let mut ready = Ready::default();
        if let Some(text) = &self.ready {
            let (by, value) = match text.split_once('=') {
                Some((by @ ("fd" | "exec" | "alive"), value)) => (by, Some(value)),
                _ => (text.as_str(), None),
            };
            let by = line.flag("--ready", text.as_ref(), by.to_owned());
            let span = by.span();
            match (by.get_ref().as_str(), value) {
                ("fd", Some(value)) => {
                    let number = value.parse().map_err(|_| {
                        Problem::new(span.clone(), format!("`{}` is not a descriptor", value.escape_debug()))
                            .hint("write its number: `--ready fd=N`")
                    })?;
                    ready.fd = Some(Spanned::new(span, number));
                }
                ("exec", Some(value)) => ready.exec = Some(shell(value, span)),
                ("alive", Some(value)) => ready.alive_for = Some(Spanned::new(span, DurationText(value.to_owned()))),
                _ => {}
            }
            ready.by = Some(by);
        }
        ready.timeout = duration(line, "--ready-timeout", self.ready_timeout.as_deref());
        ready.interval = duration(line, "--ready-interval", self.ready_interval.as_deref());
        Ok(ready)
    }

    fn upgrade(&self, line: &mut CommandLine) -> Result<Upgrade, Problem> {
        Ok(Upgrade {
            strategy: text(line, "--upgrade-strategy", self.upgrade_strategy.as_deref()),
            max_surge: amount(line, "--upgrade-max-surge", self.upgrade_max_surge.as_deref()),
            max_unavailable: amount(line, "--upgrade-max-unavailable", self.upgrade_max_unavailable.as_deref()),
            canary: self.upgrade_canary.as_deref().map(|steps| canary(line, steps)).transpose()?,
            standby: duration(line, "--upgrade-standby", self.upgrade_standby.as_deref()),
            soak: duration(line, "--upgrade-soak", self.upgrade_soak.as_deref()),
            max_draining: number(line, "--upgrade-max-draining", self.upgrade_max_draining),
            keep_releases: number(line, "--upgrade-keep-releases", self.upgrade_keep_releases),
            probe: self.upgrade_probe.as_deref().map(|path| {
                let http = line.flag("--upgrade-probe", path.as_ref(), path.to_owned());
                Spanned::new(http.span(), Probe { http: Some(http), ..Probe::default() })
            }),
            max_error_rate: self
                .upgrade_max_error_rate
                .as_ref()
                .map(|text| line.flag("--upgrade-max-error-rate", text.as_ref(), Percent(text.clone()))),
        })
    }

    /// Nothing, where no flag says anything about it.
    fn health(&self, line: &mut CommandLine) -> Option<Spanned<Health>> {
        let before = line.end().end;
        let exec = self.health_exec.as_deref().map(|text| line.flag("--health-exec", text.as_ref(), text));
        let status = self.health_status.as_deref();
        let health = Health {
            http: text(line, "--health-http", self.health_http.as_deref()),
            url: text(line, "--health-url", self.health_url.as_deref()),
            tcp: self.health_tcp.then(|| Spanned::new(line.switch("--health-tcp"), true)),
            exec: exec.map(|text| shell(text.get_ref(), text.span())),
            listener: text(line, "--health-listener", self.health_listener.as_deref()),
            private: text(line, "--health-private", self.health_private.as_deref()),
            host: text(line, "--health-host", self.health_host.as_deref()),
            status: status.map(|text| line.flag("--health-status", text.as_ref(), Amount::Text(text.to_owned()))),
            body: text(line, "--health-body", self.health_body.as_deref()),
            interval: duration(line, "--health-interval", self.health_interval.as_deref()),
            timeout: duration(line, "--health-timeout", self.health_timeout.as_deref()),
            successes: number(line, "--health-successes", self.health_successes),
            failures: number(line, "--health-failures", self.health_failures),
        };
        // All of them, without the space before the first.
        let written = before + 1..line.end().end;
        (!written.is_empty()).then(|| Spanned::new(written, health))
    }
}

/// `5:30s,50:1m`; `5,50` where each step waits for somebody.
fn canary(line: &mut CommandLine, text: &str) -> Result<Spanned<Canary>, Problem> {
    let span = line.flag("--upgrade-canary", text.as_ref(), ()).span();
    let step = |text: &str| {
        let (weight, hold) = text.split_once(':').map_or((text, None), |(weight, hold)| (weight, Some(hold)));
        let weight = weight.parse().map_err(|_| {
            Problem::new(span.clone(), format!("`{}` is not a step", text.escape_debug()))
                .hint("write a percentage and a time, such as `5:30s`")
        })?;
        let hold = hold.map(|hold| Spanned::new(span.clone(), DurationText(hold.to_owned())));
        Ok(Spanned::new(span.clone(), Step { weight: Some(Spanned::new(span.clone(), weight)), hold }))
    };
    let steps: Vec<_> = text.split(',').map(step).collect::<Result<_, Problem>>()?;
    let manual = steps.iter().all(|step| step.get_ref().hold.is_none());
    Ok(Spanned::new(span, Canary { steps, manual, ..Canary::default() }))
}

/// What a shell makes of a text.
fn shell(text: &str, span: Range<usize>) -> Command {
    let words = ["/bin/sh", "-c", text].map(|word| Spanned::new(span.clone(), Native(word.into())));
    Spanned::new(span, words.into())
}

fn listen(line: &mut CommandLine, text: &str) -> Spanned<Listen> {
    let (name, address) = split_listen(text);
    let address = line.flag("--listen", text.as_ref(), address.to_owned());
    let span = address.span();
    let name = name.map(|name| Spanned::new(span.clone(), name.to_owned()));
    Spanned::new(span, Listen { name, address: Some(address), ..Listen::default() })
}

fn variable(line: &mut CommandLine, pair: &str) -> Result<(Spanned<String>, Spanned<String>), Problem> {
    let (key, value) = split_pair(line, "--environment", pair, "KEY=VALUE")?;
    Ok((key.clone(), Spanned::new(key.span(), value)))
}

fn limit(line: &mut CommandLine, pair: &str) -> Result<(Spanned<String>, Spanned<Amount>), Problem> {
    let (name, value) = split_pair(line, "--limit", pair, "NAME=VALUE")?;
    Ok((name.clone(), Spanned::new(name.span(), Amount::Text(value))))
}

fn split_pair(
    line: &mut CommandLine,
    flag: &'static str,
    pair: &str,
    form: &str,
) -> Result<(Spanned<String>, String), Problem> {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let key = line.flag(flag, pair.as_ref(), key.to_owned());
    if pair.contains('=') {
        Ok((key, value.to_owned()))
    } else {
        Err(Problem::new(key.span(), format!("`{}` has no value", pair.escape_debug())).hint(format!("write `{form}`")))
    }
}

fn log(line: &mut CommandLine, text: &str) -> Spanned<Log> {
    let word = line.flag("--log", text.as_ref(), ());
    let log = match text.strip_prefix("file=") {
        Some(path) => Log::File(Spanned::new(word.span(), Native(path.into()))),
        None => Log::Word(text.to_owned()),
    };
    Spanned::new(word.span(), log)
}

fn text(line: &mut CommandLine, flag: &'static str, value: Option<&str>) -> Option<Spanned<String>> {
    value.map(|text| line.flag(flag, text.as_ref(), text.to_owned()))
}

fn duration(line: &mut CommandLine, flag: &'static str, value: Option<&str>) -> Option<Spanned<DurationText>> {
    value.map(|text| line.flag(flag, text.as_ref(), DurationText(text.to_owned())))
}

fn amount(line: &mut CommandLine, flag: &'static str, value: Option<&str>) -> Option<Spanned<Amount>> {
    value.map(|text| {
        let amount = text.parse().map_or_else(|_| Amount::Text(text.to_owned()), Amount::Number);
        line.flag(flag, text.as_ref(), amount)
    })
}

fn path(line: &mut CommandLine, flag: &'static str, value: Option<&OsStr>) -> Option<Spanned<Native>> {
    value.map(|path| line.flag(flag, path, Native(path.to_owned())))
}

fn number(line: &mut CommandLine, flag: &'static str, value: Option<i64>) -> Option<Spanned<i64>> {
    value.map(|number| line.flag(flag, number.to_string().as_ref(), number))
}

fn switch(line: &mut CommandLine, flag: &'static str, on: bool) -> bool {
    if on {
        line.switch(flag);
    }
    on
}

/// Words between commas; an empty text is an empty list.
fn list(line: &mut CommandLine, flag: &'static str, value: Option<&str>) -> Option<Vec<Spanned<String>>> {
    value.map(|text| {
        let whole = line.flag(flag, text.as_ref(), ());
        let words = text.split(',').filter(|_| !text.is_empty());
        words.map(|word| Spanned::new(whole.span(), word.to_owned())).collect()
    })
}
