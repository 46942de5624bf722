//! The command line. The doc comments of its types are the help and the manual.

mod abort;
pub mod check;
mod completions;
mod config_check;
mod deferred;
pub mod demo;
mod directory;
mod events;
pub mod failure;
mod history;
mod kpi;
mod leftovers;
mod man;
mod moving;
mod pause;
mod promote;
mod reexec;
pub mod rehearse;
mod render;
mod rollback;
mod run;
pub mod run_flags;
mod scale;
mod status;
mod stop;
mod terminal;
mod upgrade;
mod watch;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::config::{self, Config};
use crate::control::client::Client;
use crate::control::locate::{self, Places};
use crate::core::Kind;
use crate::exit::Exit;
use deferred::Deferred;
use failure::Failure;

/// A process supervisor that upgrades any network service without a client noticing.
///
/// The supervisor owns the listening sockets, starts the new release beside the old one with the sockets inherited,
/// waits until the new one proves that it is ready, drains the old one and ends it. If the new one fails at any point,
/// the old one has never stopped serving.
#[derive(Debug, Parser)]
#[command(name = "zdsup", version, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What may stand before or after the command word.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The supervisor's name.
    ///
    /// With `run` and `check`, the name that it goes by: without this option the config file's stem, or the command's
    /// base name. With other commands, the one that is meant, as with the environment variable ZDSUP_NAME; it may be
    /// left out where just one supervisor runs.
    #[arg(long, global = true, value_name = "NAME")]
    name: Option<String>,

    /// The directory with the supervisor's control socket.
    ///
    /// Without this option `run` uses the first entry of RUNTIME_DIRECTORY, or /run/zdsup/NAME for root, or
    /// XDG_RUNTIME_DIR/zdsup/NAME. Other commands look into /run/zdsup/* and XDG_RUNTIME_DIR/zdsup/*.
    #[arg(long, global = true, value_name = "DIRECTORY")]
    runtime_dir: Option<PathBuf>,

    /// How `run` writes its log.
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t, hide_possible_values = true)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for a person, or journal entries with fields where stderr is the journal.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a service and keep its listening sockets.
    ///
    /// What to run comes from a config file, or from the command line: `zdsup run --listen 8080 -- COMMAND`. It stays
    /// in the foreground. SIGHUP makes it upgrade; SIGTERM and SIGINT make it drain and stop, a second one at once.
    Run(Box<Deferred<run::RunArgs>>),

    /// Upgrade to the release that the config names now.
    ///
    /// The config file is read again, and the new release is started beside the old one; once it is ready the old one
    /// drains. Waits for the verdict, shows what happens, and exits by the verdict. While an upgrade is in flight,
    /// requests share the next one.
    Reload(Deferred<upgrade::UpgradeArgs>),

    /// Upgrade to the release that runs already.
    ///
    /// As `reload`, but the config is not read again.
    Restart(Deferred<upgrade::UpgradeArgs>),

    /// Go back to a release that served before.
    ///
    /// One that stands by after a blue-green upgrade serves again at once. Any other is started as a new generation,
    /// with the very program that it ran then, even if another file is at its path now, and is upgraded to as by
    /// `reload`. `zdsup status` lists those that are kept.
    Rollback(Deferred<rollback::RollbackArgs>),

    /// Let a canary that waits go on.
    ///
    /// Its next step begins; after the last one all new connections go to it. Meant for a canary with `manual = true`,
    /// and shortens the step of any other.
    Promote(Deferred<promote::PromoteArgs>),

    /// Give a service another number of instances.
    ///
    /// What is more is started, what is too much drains. The number holds over reloads, until the config names another
    /// one than it does now.
    Scale(Deferred<scale::ScaleArgs>),

    /// Show how everything stands.
    ///
    /// With --watch it is shown as it changes, until ^C: who gets how much of the traffic, what drains, how far an
    /// upgrade is. Where it is no terminal, once a second.
    Status(Deferred<status::StatusArgs>),

    /// Drain, then end the supervisor, or one service.
    ///
    /// Waits until everything has ended. A service that is stopped on its own keeps its listeners bound: callers wait
    /// until a reload starts it again. Asking a stopping supervisor again ends everything at once. With --leftovers it
    /// ends what a supervisor has left behind that was killed and has no successor.
    Stop(Deferred<stop::StopArgs>),

    /// Give up the upgrade in flight.
    ///
    /// What serves goes on serving, and the new release is ended.
    Abort(Deferred<abort::AbortArgs>),

    /// Make new connections wait.
    ///
    /// They are not refused: the first packet of each is dropped until `zdsup resume`, or until the time is over, and
    /// clients send it again by themselves, after a second at first. Established connections go on, and so do requests
    /// over them. Only TCP listeners can be paused, all those of a service or none; where traffic is shared that takes
    /// the capability CAP_NET_ADMIN. Asked for again, the end moves.
    Pause(Deferred<pause::PauseArgs>),

    /// Let new connections in again that `pause` makes wait.
    Resume(Deferred<pause::ResumeArgs>),

    /// Replace the supervisor's own program.
    ///
    /// It executes the binary that is at its path now, as the same process: nothing is dropped, and what runs goes on,
    /// an upgrade in flight too. The new binary is tried first; if it cannot go on with the supervisor's state, nothing
    /// happens.
    Reexec(Deferred<reexec::ReexecArgs>),

    /// Show what became of former upgrades.
    ///
    /// From the history that outlives the supervisor: each upgrade with its verdict, how long it took and who asked for
    /// it, newest first. With a GENERATION, such as web@4 or 4, what that one went through, as a timeline. Where no
    /// supervisor runs, the file is read.
    History(Deferred<history::HistoryArgs>),

    /// Show what former upgrades come to, in figures.
    ///
    /// How many deployments succeeded, what clients saw of them, and how long upgrades, rollbacks and draining took.
    /// Where no supervisor runs, the history's file is read.
    Kpi(Deferred<kpi::KpiArgs>),

    /// Show what happens to the services.
    ///
    /// What is remembered of it, a line each: upgrades, step by step, as well as crashes and restarts. With --follow it
    /// goes on as it happens, also past a supervisor that replaces itself.
    Events(Deferred<events::EventsArgs>),

    /// Try the release that the config names now, beside what serves.
    ///
    /// It is started on sockets of its own that nobody knows, with ZDSUP_REHEARSAL=1 in its environment, must become
    /// ready and stay up for a while, and is ended again. What serves is not touched: a supervisor of its own, which
    /// ends with this command, runs it. Hooks are not run, and of several instances one is started. Shows what `reload`
    /// would show, and exits with 4 if that would have failed.
    Rehearse(Deferred<rehearse::RehearseArgs>),

    /// Check a config file.
    ///
    /// Says what would run, or where the file is wrong. Nothing is bound and nothing is started.
    Check(Deferred<config_check::CheckArgs>),

    /// Show what it does, on this machine.
    ///
    /// Starts a real supervisor with a small HTTP service, upgrades it ten times under load, three of them with a
    /// broken release, and says what every client saw. Takes under half a minute, and leaves nothing behind.
    Demo(Deferred<demo::DemoArgs>),

    /// Print a completion script for a shell.
    Completions(Deferred<completions::CompletionsArgs>),

    /// Print the manual, as roff.
    ///
    /// To read it: zdsup man | man -l -
    Man,
}

/// Variables by which whoever started a command would speak to a supervisor that is none of theirs.
const FOREIGN_VARIABLES: [&str; 15] = [
    "FDSTORE",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "MANAGERPID",
    "NOTIFY_SOCKET",
    "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "ZDSUP_NAME",
    "ZDSUP_STATE_FD",
];

/// Parses this process's command line, does what it says, and gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let exit = match parse(std::env::args_os()) {
        Ok(cli) => cli.execute().unwrap_or_else(|failure| failure.report()),
        Err(error) => {
            // Nobody is left to be told that it cannot be printed.
            let _ = error.print();
            if error.use_stderr() { Exit::Usage } else { Exit::Done }
        }
    };
    exit.into()
}

/// A command line, parsed.
///
/// # Errors
/// Clap's own, which know how they are to be printed; help and version are among them.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&described().try_get_matches_from(arguments)?)
}

/// Whether a supervisor can be started by this command line, as far as that can be told without doing it.
///
/// # Errors
/// Why not.
pub fn check_run(arguments: Vec<OsString>) -> Result<(), String> {
    let cli = parse(arguments).map_err(|error| error.to_string())?;
    match cli.command {
        Command::Run(args) => run::check(&cli.global, &args.0),
        _ => Err("it does not run anything".into()),
    }
}

/// The config that a `zdsup run` with these arguments, started in `directory`, has now.
fn given(arguments: Vec<OsString>, directory: &Path) -> Result<Config, Failure> {
    let cli = parse(arguments).map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    match cli.command {
        Command::Run(args) => run::given(&cli.global, &args.0, directory),
        _ => Err(Failure::new(Exit::Internal, "the command line of the supervisor is not that of `zdsup run`")),
    }
}

/// The whole command line as clap knows it: for completions and the manual.
#[must_use]
pub fn command() -> clap::Command {
    let mut command = described();
    command.build();
    command
}

/// The command line, the arguments of its commands still [`Deferred`].
fn described() -> clap::Command {
    let lines = Exit::TABLE.iter().map(|(exit, meaning)| format!("\n  {:>3}  {meaning}", exit.code()));
    let codes = format!("Exit codes:{}", lines.collect::<String>());
    let command = Cli::command().after_long_help(codes.clone());
    command.mut_subcommands(|command| command.after_long_help(codes.clone()))
}

impl Cli {
    fn execute(self) -> Result<Exit, Failure> {
        let global = self.global;
        match self.command {
            Command::Run(args) => run::run(&global, &args.0),
            Command::Reload(args) => upgrade::run(&global, &args.0, Kind::Reload),
            Command::Restart(args) => upgrade::run(&global, &args.0, Kind::Restart),
            Command::Rollback(args) => rollback::run(&global, args.0),
            Command::Promote(args) => promote::run(&global, args.0),
            Command::Scale(args) => scale::run(&global, args.0),
            Command::Status(args) => status::run(&global, &args.0),
            Command::Stop(args) => stop::run(&global, args.0),
            Command::Abort(args) => abort::run(&global, args.0),
            Command::Pause(args) => pause::pause(&global, args.0),
            Command::Resume(args) => pause::resume(&global, args.0),
            Command::Reexec(args) => reexec::run(&global, args.0),
            Command::History(args) => history::run(&global, &args.0),
            Command::Kpi(args) => kpi::run(&global, &args.0),
            Command::Events(args) => events::run(&global, &args.0),
            Command::Rehearse(args) => rehearse::run(&global, &args.0),
            Command::Check(args) => config_check::run(&global, &args.0),
            Command::Demo(args) => demo::run(&args.0),
            Command::Completions(args) => completions::run(&args.0),
            Command::Man => man::run(),
        }
    }
}

impl Global {
    /// The name of the supervisor that is meant, if it was said.
    fn name(&self) -> Option<String> {
        self.name.clone().or_else(|| std::env::var("ZDSUP_NAME").ok().filter(|name| !name.is_empty()))
    }

    /// A client of the supervisor that is meant.
    fn client(&self) -> Result<Client, Failure> {
        let (places, name) = (Places::of_this_process(), self.name());
        Ok(Client::new(locate::find(&places, self.runtime_dir.as_deref(), name.as_deref())?))
    }
}

/// Runs a conversation with the supervisor.
fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future))
}

/// A `--timeout`, for clap.
fn timeout(text: &str) -> Result<Duration, String> {
    config::parse_duration(text).map_err(|error| error.message)
}

/// Comes when the time is over; never, where there is no limit.
async fn over(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}
