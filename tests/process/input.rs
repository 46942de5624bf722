//! Bad input: each mistake has its own message and its exit code, and changes nothing that runs.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use crate::support::supervisor::{command, wrapped};
use crate::support::{Load, Place, Setup, Zdsup, eventually, hazard, is_root, process, skip, zdsup};

/// `zdsup run -c FILE` with this file, which must not start anything.
fn run(place: &Place, toml: &str) -> Output {
    fs::write(place.join("web.toml"), toml).expect("a config can be written");
    command(&place.join("run")).args(["run", "-c"]).arg(place.join("web.toml")).output().expect("zdsup can be started")
}

#[track_caller]
fn says(output: &Output, code: i32, fragments: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for fragment in fragments {
        assert!(text.contains(fragment), "{fragment:?} is not in\n{text}");
    }
}

#[test]
fn configs_that_cannot_be_meant() {
    let place = Place::new();
    let good = Setup::new(&place, &["serve"]).toml();
    let command = hazard().display().to_string();
    let http = &Setup::new(&place, &[]).listen[0].1;
    let with = |more: &str| format!("{good}{more}");
    let twice = format!("[[service.web.listen]]\nname = \"other\"\naddress = {http:?}\n");
    let cases: Vec<(String, Vec<&str>)> = vec![
        (with("[service.web.drain]\ntimeuot = \"30s\"\n"), vec!["timeuot", "timeout", "^"]),
        (with("[service.web.drain]\ntimeout = 30\n"), vec!["timeout", "^"]),
        (with("[service.web.drain]\ntimeout = \"-1s\"\n"), vec!["-1s", "^"]),
        (with("[service.web.ready]\nby = \"hope\"\n"), vec!["hope", "^"]),
        (with("[service.web.upgrade]\nmax-draining = 0\n"), vec!["max-draining", "^"]),
        (good.replace("address = ", "backlog = 0\naddress = "), vec!["backlog", "^"]),
        (with(&twice), vec!["^"]),
        ("[service.web]\n".into(), vec!["command"]),
        (good.replace("unix:", "").replace(http.as_str(), "unix:relative"), vec!["relative", "^"]),
        (format!("[service.web]\ncommand = [{command:?}]\nworking-directory = \"relative\"\n"), vec!["relative", "^"]),
        (format!("[service.web]\ncommand = [{command:?}]\nenvironment-file = \"env\"\n"), vec!["env", "^"]),
        ("[service.web]\ncommand = [\"./web\"]\n".into(), vec!["./web", "^"]),
        ("[service.web\n".into(), vec!["^"]),
        (String::new(), vec!["service"]),
        ("[service.\"we b\"]\ncommand = [\"true\"]\n".into(), vec!["we b"]),
    ];
    for (toml, fragments) in cases {
        says(&run(&place, &toml), 2, &fragments);
        let checked = command_check(&place.join("web.toml"));
        says(&checked, 2, &fragments);
    }
    says(&command_check(&place.join("missing.toml")), 2, &["missing.toml", "no such file"]);
    assert!(!place.join("run").exists(), "nothing was to be started");
}

fn command_check(file: &Path) -> Output {
    std::process::Command::new(zdsup()).arg("check").arg(file).output().expect("zdsup can be started")
}

#[test]
fn a_good_config_is_described() {
    let place = Place::new();
    fs::write(place.join("web.toml"), Setup::new(&place, &["serve"]).toml()).expect("a config can be written");
    let output = command_check(&place.join("web.toml"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("service web") && text.contains("http"), "{text}");
}

/// Row 2 of the hazards: a check that binds a REUSEPORT socket steals connections from whoever serves.
#[test]
fn check_binds() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| setup.listen_options = "reuse-port = true".into());
    let load = Load::start(&z.target());
    for _ in 0..10 {
        let output = command_check(&z.place.join("web.toml"));
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    load.more(50);
    load.unharmed();
    z.end();
}

#[test]
fn an_address_that_is_in_use() {
    let place = Place::new();
    let _taken = TcpListener::bind((place.address(), 8080)).expect("the address is free");
    let output = run(&place, &Setup::new(&place, &["serve"]).toml());
    let own = std::process::id().to_string();
    says(&output, 4, &["in use", &format!("{}:8080", place.address()), &own]);
}

#[test]
fn an_address_that_is_not_ours() {
    let place = Place::new();
    let mut setup = Setup::new(&place, &["serve"]);
    // TEST-NET-1 of RFC 5737.
    setup.listen[0].1 = "192.0.2.1:80".into();
    says(&run(&place, &setup.toml()), 4, &["192.0.2.1:80"]);
}

#[test]
fn a_first_start_with_too_few_descriptors() {
    let place = Place::new();
    fs::write(place.join("web.toml"), Setup::new(&place, &["serve"]).toml()).expect("a config can be written");
    let plain = command(&place.join("run"));
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -n 36 && exec \"$@\"", "sh"]);
    let output =
        wrapped(limited, &plain).args(["run", "-c"]).arg(place.join("web.toml")).output().expect("there is a shell");
    says(&output, 5, &["of at most 36 descriptors open", "free for a start: raise its limit"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("old generations"), "there are none");
}

#[test]
fn a_privileged_port_without_privilege() {
    if is_root() && fs::metadata("/usr/bin/setpriv").is_err() {
        return skip("there is no setpriv to lose root's privileges with");
    }
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if start.trim().parse::<u32>().is_ok_and(|start| start <= 79) {
        return skip("here everybody may bind every port");
    }
    let place = Place::new();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    let mut setup = Setup::new(&place, &["serve"]);
    setup.listen[0].1 = format!("{}:79", place.address());
    fs::write(place.join("web.toml"), setup.toml()).expect("a config can be written");
    let plain = command(&place.join("run"));
    let mut dropped = match is_root() {
        true => {
            let mut dropped = std::process::Command::new("setpriv");
            dropped.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
            wrapped(dropped, &plain)
        }
        false => plain,
    };
    let output = dropped.args(["run", "-c"]).arg(place.join("web.toml")).output();
    says(&output.expect("it can be started"), 4, &[":79", "privilege"]);
}

#[test]
fn a_directory_that_cannot_be_written() {
    let place = Place::new();
    fs::write(place.join("file"), "").expect("a file can be written");
    let output = command(&place.join("file/run")).args(["run", "--", "true"]).output().expect("zdsup can be started");
    says(&output, 2, &["runtime directory", "file/run", "--runtime-dir"]);
    let long = place.join(&"x".repeat(120));
    let output = command(&long).args(["run", "--", "true"]).output().expect("zdsup can be started");
    says(&output, 2, &["too long", "xxxx"]);
}

/// The mode of a place like /tmp stays, and so does what lies in it.
#[test]
fn a_runtime_directory_that_is_everybodys() {
    let place = Place::new();
    let shared = place.join("shared");
    fs::create_dir_all(shared.join("n")).expect("a directory can be made");
    fs::write(shared.join("n/precious"), "").expect("a file can be written");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).expect("it is ours");
    let output = command(&shared).args(["run", "--", "true"]).output().expect("zdsup can be started");
    says(&output, 2, &["runtime directory", "shared", "everybody may write", "--runtime-dir"]);
    let mode = fs::metadata(&shared).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o1777);
    assert!(shared.join("n/precious").exists());
}

#[test]
fn programs_that_cannot_be_executed_at_the_first_start() {
    let place = Place::new();
    let script = |name: &str, text: &str, mode: u32| {
        fs::write(place.join(name), text).expect("a file can be written");
        fs::set_permissions(place.join(name), fs::Permissions::from_mode(mode)).expect("it is ours");
        place.join(name).display().to_string()
    };
    let missing = place.join("missing").display().to_string();
    let plain = script("plain", "#!/bin/sh\n", 0o644);
    let interpreter = script("interpreter", "#!/no/such/interpreter\n", 0o755);
    let noise = script("noise", "\u{1}\u{2}\u{3}", 0o755);
    let directory = place.path().display().to_string();
    for (program, fragments) in [
        (&missing, vec!["missing"]),
        (&plain, vec!["plain", "ermission denied"]),
        (&interpreter, vec!["/no/such/interpreter"]),
        (&noise, vec!["noise"]),
        (&directory, vec![directory.as_str()]),
    ] {
        let mut setup = Setup::new(&place, &[]);
        setup.command = vec![program.clone()];
        says(&run(&place, &setup.toml()), 4, &fragments);
    }
}

#[test]
fn wrong_usage() {
    let place = Place::new();
    let run = |words: &[&str]| command(&place.join("run")).args(words).output().expect("zdsup can be started");
    says(&run(&["run"]), 2, &["nothing to run", "hint"]);
    says(&run(&["run", "--listen", "nonsense:nonsense:nonsense", "--", "true"]), 2, &["nonsense"]);
    says(&run(&["run", "--drain-timeout", "fast", "--", "true"]), 2, &["fast"]);
    says(&run(&["nonsense"]), 2, &["nonsense"]);
    says(&run(&["reload"]), 3, &["run"]);
    let help = run(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("130"), "the exit codes are in the help");
}

#[test]
fn listen_addresses_that_cannot_be_meant() {
    let place = Place::new();
    for address in ["", "http", "1.2.3.4", "1.2.3.4:99999", "[::1", "udp:", "unix:", "a=b=c:80", "tcp:80"] {
        let output = command(&place.join("run")).args(["run", "--listen", address, "--", "true"]).output();
        let output = output.expect("zdsup can be started");
        assert_eq!(output.status.code(), Some(2), "{address:?}: {output:?}");
    }
}

/// Row 35 of the hazards: the config is missing, unreadable, invalid or half-written when a reload reads it.
#[test]
fn config_gone() {
    let mut z = Zdsup::serving(&["serve"]);
    let load = Load::start(&z.target());
    let good = z.setup.toml();
    let path = z.place.join("web.toml");
    let half = &good[..good.len() / 2];
    let cases: Vec<(Option<&str>, &str)> = vec![
        (None, "no such file"),
        (Some(""), "service"),
        (Some(half), "web.toml"),
        (Some("[service.web]\ncommand = 3\n"), "command"),
    ];
    for (text, fragment) in cases {
        match text {
            Some(text) => fs::write(&path, text).expect("it can be written"),
            None => fs::remove_file(&path).expect("it is there"),
        }
        let reload = z.reload(&[]).because(fragment).still_serving(1);
        assert_eq!(reload.code, 2, "{reload:?}");
    }
    // It is called otherwise now: the new one has to serve before the old one leaves.
    fs::write(&path, "[service.other]\ncommand = [\"true\"]\n").expect("it can be written");
    let renamed = z.reload(&[]).because("ended before it was ready");
    assert_eq!((renamed.code, &*renamed.events[0].service), (4, "other"), "{renamed:?}");
    let log = z.supervisor.log();
    let missing = log.lines().find(|line| line.contains("no such file")).expect("it is in the log");
    assert!(missing.ends_with("(check the path); web@1 is still serving upgrade=2"), "one entry, one line: {missing}");
    fs::remove_file(&path).expect("it is there");
    fs::create_dir(&path).expect("a directory can be made");
    assert_eq!(z.reload(&[]).code, 2);
    fs::remove_dir(&path).expect("it is there");
    let supervisor = z.supervisor.pid();
    let all_others_gone = || (process::children(supervisor).len() == 1).then_some(());
    eventually("the processes that were loaded for nothing are gone", all_others_gone);
    z.release(&["serve"]);
    if !is_root() {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("it is ours");
        assert_eq!(z.reload(&[]).because("ermission").code, 2);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
    }
    load.more(20);
    z.upgrade();
    z.settled(2);
    load.unharmed();
    z.end();
}

#[test]
fn a_control_socket_that_one_may_not_use() {
    if !is_root() {
        return skip("only root can become somebody else who may not");
    }
    if fs::metadata("/usr/bin/setpriv").is_err() {
        return skip("there is no setpriv to become somebody else with");
    }
    let z = Zdsup::serving(&["serve"]);
    let plain = command(&z.supervisor.runtime);
    for word in ["reload", "status", "stop", "abort"] {
        let mut other = std::process::Command::new("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        let output = wrapped(other, &plain).arg(word).output().expect("it can be started");
        says(&output, 6, &["permitted"]);
    }
    z.settled(1);
    z.end();
}
