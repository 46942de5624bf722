//! `zdsup stop --leftovers`.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::terminal::say;
use super::{Global, block_on};
use crate::control::locate::Places;
use crate::exit::Exit;
use crate::supervisor::leftovers::{self, TIMEOUT};
use crate::sys::{cgroup, describe};

/// How long systemctl may take to say what is going on, and how often it is looked whether it has.
const SYSTEMCTL: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(2);

pub(super) fn run(global: &Global, timeout: Option<Duration>, if_stopping: Option<&str>) -> Result<Exit, Failure> {
    if let Some(unit) = if_stopping {
        enable_restart();
        if !has_unfinished_business() {
            return Ok(Exit::Done);
        }
        match is_stopping(unit) {
            Ok(true) => {}
            Ok(false) => return Ok(Exit::Done),
            Err(error) => {
                let error = Failure::new(Exit::Internal, format!("cannot ask systemd whether {unit} stops: {error}"));
                return Err(error.hint(Some("nothing was ended; `zdsup stop --leftovers` does it by hand")));
            }
        }
    }
    let mut ended = 0;
    for directory in directories(global)? {
        ended += block_on(leftovers::end(&directory, if_stopping.is_some(), timeout.unwrap_or(TIMEOUT), &mut say))??;
    }
    if ended == 0 && if_stopping.is_none() {
        say("nothing was left");
    }
    Ok(Exit::Done)
}

/// The runtime directories that are meant: of a name at each place where it may be.
fn directories(global: &Global) -> Result<Vec<PathBuf>, Failure> {
    if let Some(directory) = &global.runtime_dir {
        return Ok(vec![std::path::absolute(directory)?]);
    }
    let places = Places::of_this_process();
    if let Some(name) = global.name() {
        return Ok(places.directories_of(&name)?);
    }
    let sockets = leftovers::notify_sockets()?;
    let named = sockets.iter().filter_map(|path| places.directory_around(path));
    let found: BTreeSet<PathBuf> = places.directories().into_iter().chain(named).collect();
    if found.len() > 1 {
        let list: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
        let failure =
            Failure::new(Exit::NoSupervisor, format!("several supervisors are or were here: {}", list.join(", ")));
        return Err(failure.hint(Some("say which with --name, or with --runtime-dir")));
    }
    Ok(found.into_iter().collect())
}

/// systemd 252 cannot start the main process of a unit that has controllers enabled for the cgroups below it, while
/// there is anything in these (exit status 219/CGROUP), and then drops what it keeps.
fn enable_restart() {
    match cgroup::disable_controllers_of_unit() {
        Ok(disabled) if disabled.is_empty() => {}
        Ok(disabled) => say(&format!(
            "cgroup controllers were enabled below the unit ({}): disabled, since systemd could not start it again",
            disabled.join(", ")
        )),
        Err(error) => say(&format!("cannot disable cgroup controllers below the unit: {}", describe(&error))),
    }
}

/// Whether the main process ended otherwise than by itself and well (systemd.exec(5)): then it has ended everything, or
/// has left it to the next on purpose.
fn has_unfinished_business() -> bool {
    let is = |key: &str, value: &str| std::env::var(key).is_ok_and(|found| found == value);
    !(is("SERVICE_RESULT", "success") && is("EXIT_CODE", "exited") && is("EXIT_STATUS", "0"))
}

/// Whether systemd is about to stop the unit: not to restart it, and not to start it again by itself.
fn is_stopping(unit: &str) -> io::Result<bool> {
    let mut systemctl = Command::new("systemctl");
    let systemctl = systemctl.args(["list-jobs", "--no-legend", "--plain", "--full", "--no-pager"]);
    let mut child = systemctl.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let reader = std::thread::spawn(move || io::read_to_string(&mut stdout));
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > SYSTEMCTL {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::other(format!("systemctl has not answered in {} s", SYSTEMCTL.as_secs())));
        }
        std::thread::sleep(LOOK);
    };
    if !status.success() {
        return Err(io::Error::other(format!("systemctl: {status}")));
    }
    let jobs = reader.join().map_err(|_| io::ErrorKind::Other)??;
    Ok(has_stop_job(&jobs, unit))
}

/// `JOB UNIT TYPE STATE`, a line for each job.
fn has_stop_job(jobs: &str, unit: &str) -> bool {
    jobs.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields[..], [_, name, "stop", ..] if name == unit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stop_of_the_unit_itself_is_one() {
        let jobs = "12 zdsup@web.service  restart running\n 7 zdsup@api.service stop  waiting\n";
        assert!(has_stop_job(jobs, "zdsup@api.service"));
        assert!(!has_stop_job(jobs, "zdsup@web.service"));
        assert!(!has_stop_job("No jobs running.\n", "zdsup@web.service"));
        assert!(!has_stop_job("", "zdsup@web.service"));
    }
}
