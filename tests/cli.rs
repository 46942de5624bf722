//! The command line, as far as it goes without a supervisor.
#![cfg(feature = "supervisor")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};

use clap::error::ErrorKind;
use zdsup::cli;
use zdsup::exit::Exit;

/// A directory of a test's own.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("zdsup-cli-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn zdsup(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zdsup"));
    command.args(arguments).env_clear();
    command
}

fn run(arguments: &[&str]) -> Output {
    zdsup(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it exits by itself")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn parse(line: &str) -> Result<cli::Cli, clap::Error> {
    cli::parse(std::iter::once("zdsup").chain(line.split_whitespace()).map(OsString::from))
}

#[test]
fn clap_finds_nothing_wrong_with_it() {
    cli::command().debug_assert();
}

#[test]
fn what_can_be_typed() {
    for line in [
        "run -c web.toml",
        "run --config web.toml --name web",
        "run --listen 8080 --listen admin=unix:/run/a.sock -- /bin/web --port 80",
        "--name web --log-format json run --upgrade-soak 5s -- /bin/web",
        "run --log-format json -- /bin/web",
        "run --keeper -c web.toml",
        "run --keeper -- /bin/web --keeper",
        "reload",
        "rehearse web --for 30s --http /healthz --json",
        "rehearse -c web.toml",
        "reload web api",
        "reload --no-wait --json",
        "reload --wait drained --timeout 1m",
        "reload --json web --wait verdict",
        "--name x reload",
        "reload --name x",
        "--runtime-dir /run/x status --json",
        "restart web",
        "stop",
        "stop web --no-wait",
        "stop --timeout 10s",
        "stop --leftovers --timeout 10s --name web",
        "stop --leftovers --if-stopping zdsup@web.service",
        "abort",
        "abort web",
        "pause",
        "pause web --max 10s",
        "resume web",
        "rollback",
        "rollback web --to 3",
        "rollback --to web@3 --wait drained --timeout 1m --json",
        "rollback --no-wait",
        "promote",
        "promote web --full",
        "scale web 3",
        "status --watch",
        "status -w --json",
        "history",
        "history web@4 --json",
        "history 4 --state-dir /var/lib/zdsup/web",
        "history web --limit 1000",
        "kpi",
        "kpi web --since 12h --json",
        "run --state-dir /srv/state -- /bin/web",
        "run --metrics 127.0.0.1:9100 -- /bin/web",
        "events",
        "events web -f --json",
        "check web.toml",
        "completions bash",
        "man",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn what_makes_no_sense() {
    for (line, kind) in [
        ("explode", ErrorKind::InvalidSubcommand),
        ("reload --force", ErrorKind::UnknownArgument),
        ("rollback web api", ErrorKind::UnknownArgument),
        ("rollback --to web", ErrorKind::ValueValidation),
        ("rollback --to web@3.1", ErrorKind::ValueValidation),
        ("rollback --no-wait --timeout 1s", ErrorKind::ArgumentConflict),
        ("scale web", ErrorKind::MissingRequiredArgument),
        ("scale web 0", ErrorKind::ValueValidation),
        ("scale web 1025", ErrorKind::ValueValidation),
        ("scale web -1", ErrorKind::UnknownArgument),
        ("reload --wait forever", ErrorKind::InvalidValue),
        ("reload --no-wait --wait drained", ErrorKind::ArgumentConflict),
        ("reload --no-wait --timeout 1s", ErrorKind::ArgumentConflict),
        ("reload --timeout 1", ErrorKind::ValueValidation),
        ("reload --timeout soon", ErrorKind::ValueValidation),
        ("reload --timeout -5s", ErrorKind::ValueValidation),
        ("run -c web.toml -- /bin/web", ErrorKind::ArgumentConflict),
        ("run -c web.toml --listen 8080", ErrorKind::ArgumentConflict),
        ("--log-format xml run -- /bin/web", ErrorKind::InvalidValue),
        ("stop --no-wait --timeout 1s", ErrorKind::ArgumentConflict),
        ("stop web api", ErrorKind::UnknownArgument),
        ("stop web --leftovers", ErrorKind::ArgumentConflict),
        ("stop --leftovers --no-wait", ErrorKind::ArgumentConflict),
        ("stop --if-stopping x.service", ErrorKind::MissingRequiredArgument),
        ("abort web api", ErrorKind::UnknownArgument),
        ("pause web --max 30", ErrorKind::ValueValidation),
        ("resume --max 1s", ErrorKind::UnknownArgument),
        ("events web api", ErrorKind::UnknownArgument),
        ("history web@x", ErrorKind::ValueValidation),
        ("history --limit 0", ErrorKind::ValueValidation),
        ("history --limit 1001", ErrorKind::ValueValidation),
        ("kpi --since 30", ErrorKind::ValueValidation),
        ("kpi a/b", ErrorKind::ValueValidation),
        ("check", ErrorKind::MissingRequiredArgument),
        ("completions", ErrorKind::MissingRequiredArgument),
        ("completions cobol", ErrorKind::InvalidValue),
    ] {
        assert_eq!(parse(line).unwrap_err().kind(), kind, "{line}");
        assert_eq!(code(&run(&line.split_whitespace().collect::<Vec<_>>())), 2, "{line}");
    }
}

#[test]
fn nothing_to_run() {
    let output = run(&["run"]);
    assert_eq!(code(&output), 2);
    let expected =
        "zdsup: error: there is nothing to run\nhint: zdsup run -c FILE, or zdsup run --listen 8080 -- COMMAND\n";
    assert_eq!(stderr(&output), expected);
}

#[test]
fn a_config_that_is_not_there_or_wrong() {
    let directory = Directory::new("config");
    let missing = directory.0.join("missing.toml");
    for command in [&["check"][..], &["run", "-c"]] {
        let output = zdsup(command).arg(&missing).output().unwrap();
        assert_eq!(code(&output), 2);
        assert!(stderr(&output).contains("missing.toml"), "{}", stderr(&output));
    }
    let wrong = directory.0.join("wrong.toml");
    std::fs::write(&wrong, "[service.web]\ncomand = [\"/bin/true\"]\n").unwrap();
    let output = zdsup(&["check"]).arg(&wrong).output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("did you mean `command`?"), "{}", stderr(&output));
    assert!(!stderr(&output).contains('\x1b'), "no colours in a file");

    std::fs::write(&wrong, "[service.web]\ncommand = [\"/bin/true\"]\n").unwrap();
    let output = zdsup(&["check"]).arg(&wrong).output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).contains("service web"));
}

#[test]
fn every_control_command_says_when_nothing_runs() {
    let directory = Directory::new("none");
    let commands = [
        &["reload"][..],
        &["restart", "--no-wait"],
        &["status"],
        &["stop"],
        &["abort"],
        &["rehearse"],
        &["pause"],
        &["resume"],
    ];
    for command in commands {
        let output = zdsup(command).arg("--runtime-dir").arg(&directory.0).output().unwrap();
        assert_eq!(code(&output), 3, "{command:?}");
        let expected = format!("zdsup: error: no supervisor listens at {}/control.sock\n", directory.0.display());
        assert_eq!(stderr(&output), expected);
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn several_supervisors_are_listed() {
    let directory = Directory::new("several");
    let bind = |name: &str| {
        let place = directory.0.join("zdsup").join(name);
        std::fs::create_dir_all(&place).unwrap();
        UnixListener::bind(place.join("control.sock")).unwrap()
    };
    let listeners = [bind("one"), bind("two")];
    let status = |arguments: &[&str], variable: Option<&str>| {
        let mut command = zdsup(arguments);
        command.env("XDG_RUNTIME_DIR", &directory.0).envs(variable.map(|name| ("ZDSUP_NAME", name)));
        command.output().unwrap()
    };
    let output = status(&["status"], None);
    assert_eq!(code(&output), 3);
    let text = stderr(&output);
    assert!(text.contains("one (") && text.contains("two (") && text.contains("hint: say which with --name"), "{text}");

    drop(listeners);
    for output in [status(&["status", "--name", "three"], None), status(&["status"], Some("three"))] {
        assert_eq!(code(&output), 3);
        assert!(stderr(&output).contains("no supervisor named three runs here"), "{}", stderr(&output));
    }
    // What is typed stands above what is inherited.
    assert!(stderr(&status(&["status", "--name", "one"], Some("three"))).contains("zdsup/one/control.sock"));
    let output = status(&["status", "--name", "../x"], None);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("is not a supervisor's name"), "{}", stderr(&output));
}

#[test]
fn help_is_complete() {
    let output = run(&["--help"]);
    assert_eq!(code(&output), 0);
    let text = stdout(&output);
    for (exit, meaning) in Exit::TABLE {
        assert!(text.contains(&format!("{:>3}  {meaning}", exit.code())), "exit code {exit:?}");
    }
    for command in cli::command().get_subcommands().filter(|command| command.get_name() != "help") {
        assert!(text.contains(&format!("  {}  ", command.get_name())), "{}", command.get_name());
        assert!(command.get_about().is_some_and(|about| !about.to_string().is_empty()), "{}", command.get_name());
        let help = stdout(&run(&[command.get_name(), "--help"]));
        assert!(help.starts_with(&command.get_about().unwrap().to_string()), "{help}");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
        }
    }
    assert_eq!(code(&run(&["reload", "--help"])), 0);
    assert!(stdout(&run(&["reload", "--help"])).contains("Exit codes:"));
    assert_eq!(stdout(&run(&["--version"])), format!("zdsup {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(code(&run(&[])), 2, "without a command it explains itself, and fails");
}

#[test]
fn the_manual_has_everything() {
    let output = run(&["man"]);
    assert_eq!(code(&output), 0);
    let page = stdout(&output).replace("\\-", "-");
    assert!(page.contains(".TH zdsup 1"), "a title");
    for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "EXIT STATUS", "SIGNALS", "ENVIRONMENT", "FILES"] {
        let heading = [format!(".SH {section}\n"), format!(".SH \"{section}\"\n")];
        assert_eq!(heading.iter().map(|one| page.matches(one).count()).sum::<usize>(), 1, "{section}");
    }
    for (exit, meaning) in Exit::TABLE {
        assert!(page.contains(&format!("\\fB{}\\fR\n{meaning}", exit.code())), "exit code {exit:?}");
    }
    let mut options = BTreeSet::new();
    for command in cli::command().get_subcommands().filter(|command| command.get_name() != "help") {
        assert!(page.contains(&format!(".SS \"zdsup {}\"", command.get_name())), "{}", command.get_name());
        options.extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned));
    }
    assert!(options.len() > 30);
    for option in options {
        assert!(page.contains(&format!("--{option}")), "--{option}");
    }
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(code(&output), 0, "{shell}");
        assert!(stdout(&output).contains("no-wait"), "{shell}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = zdsup(&["man"]).stdout(writer).output().unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, String::new()));
}
