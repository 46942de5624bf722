//! `zdsup demo`, as a person sees it, and what it leaves behind: nothing.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A place of its own for what the demo makes.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(format!("/tmp/zdt-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn demo(&self) -> Demo {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zdsup"));
        command.arg("demo").env("TMPDIR", &self.0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Demo(command.spawn().unwrap())
    }

    /// Nothing is left: no file, and no process that was started from a file within.
    fn assert_empty(&self) {
        let files: Vec<_> = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files, Vec::<PathBuf>::new());
        let place = self.0.as_os_str().as_encoded_bytes();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let names_it = line.windows(place.len()).any(|window| window == place);
            assert!(!names_it, "left: {} {:?}", process.path().display(), String::from_utf8_lossy(&line));
            let here = fs::read_link(process.path().join("cwd")).unwrap_or_default();
            assert!(!here.starts_with(&self.0), "left: {} in {}", process.path().display(), here.display());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The process; asked to end where a test fails before it has ended.
struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}

#[test]
fn ten_upgrades_and_no_client_notices() {
    let place = Place::new("whole");
    let mut demo = place.demo();
    let (mut text, mut complaints) = (String::new(), String::new());
    demo.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    demo.0.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
    let status = demo.0.wait().unwrap();
    assert_eq!((status.code(), complaints.as_str()), (Some(0), ""), "{text}");
    let verdicts: Vec<&str> = text.lines().filter_map(verdict_of_row).collect();
    let (good, bad) = ("upgraded", "failed");
    assert_eq!(verdicts, [good, good, bad, good, good, bad, good, bad, good, good], "{text}");
    for reason in ["never ready in 1 s", "exit status 1", "permission denied"] {
        assert!(text.contains(reason), "no {reason:?} in {text}");
    }
    assert!(text.contains(" requests, not one failed.\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    place.assert_empty();
}

#[test]
fn interrupted_it_leaves_nothing() {
    let place = Place::new("interrupted");
    let mut demo = place.demo();
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    // The first upgrade is over: everything runs.
    assert!(lines.any(|line| verdict_of_row(&line.unwrap()).is_some()));
    kill(Pid::from_raw(demo.0.id().cast_signed()), Signal::SIGINT).unwrap();
    let status = demo.0.wait().unwrap();
    let mut complaints = String::new();
    demo.0.stderr.take().unwrap().read_to_string(&mut complaints).unwrap();
    assert_eq!(status.code(), Some(130), "{complaints}");
    assert!(complaints.contains("interrupted") && complaints.contains(", 0 failed"), "{complaints}");
    place.assert_empty();
}

#[test]
fn a_place_that_is_not_there_is_named() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zdsup"));
    let output = command.arg("demo").env("TMPDIR", Path::new("/nonexistent/place")).output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{complaints}");
    assert!(complaints.contains("/nonexistent/place/zdsup-demo-") && complaints.contains("hint: "), "{complaints}");
}

/// `1 v2 upgraded 0.2 s v2`.
fn verdict_of_row(line: &str) -> Option<&str> {
    let mut columns = line.split_whitespace();
    columns.next()?.parse::<u8>().ok()?;
    columns.next().filter(|release| release.starts_with('v'))?;
    columns.next()
}
