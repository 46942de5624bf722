//! A real systemd as pid 1 of namespaces of its own (`machine.sh` makes them), for one test.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

/// How long a machine may take to boot; it takes a quarter of a second when there is nothing else to do.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a property of a unit may take to become what it should be.
const PROPERTY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a command in the machine may take before it counts as hung, seconds.
const COMMAND_TIMEOUT: &str = "120";

/// A booted machine. It ends with this value, and with the test's process, however that ends.
pub(crate) struct Machine {
    /// Its pid 1, as the test sees it.
    pid: u32,
    /// The script that watches over it; the end of its standard input ends the machine.
    guard: Child,
    /// Written to by both.
    dir: PathBuf,
}

/// What a command in the machine did.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

/// Says loudly that this test cannot run here: not by eprintln!, which the test harness swallows when a test passes.
/// Those that may be skipped in CI are named in `.ci/run`.
pub(crate) fn skipped(why: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED {}: {why}", thread::current().name().unwrap_or("a test"));
}

impl Machine {
    /// Boots a machine with zdsup installed in it as a package would. `None`, having said why on standard error, where
    /// that cannot be had; where `ZDSUP_TEST_REQUIRE` is set that is a failure instead.
    pub(crate) fn boot() -> Option<Self> {
        let machine = Self::boot_bare()?;
        let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/install.sh");
        machine.ok([install.as_os_str(), "--binary".as_ref(), env!("CARGO_BIN_EXE_zdsup").as_ref()]);
        machine.ok(["systemctl", "daemon-reload"]);
        Some(machine)
    }

    /// The same without zdsup.
    pub(crate) fn boot_bare() -> Option<Self> {
        if let Err(missing) = requirements() {
            assert!(std::env::var_os("ZDSUP_TEST_REQUIRE").is_none(), "this test must run here, but {missing}");
            skipped(&missing);
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("zdsup-machine.{}.{number}", std::process::id()));
        fs::create_dir(&dir).expect("a private directory can be made");
        let booted = UnixDatagram::bind(dir.join("booted")).expect("a socket can be bound");
        booted.set_read_timeout(Some(BOOT_TIMEOUT)).expect("a timeout can be set");

        let binaries = Path::new(env!("CARGO_BIN_EXE_zdsup")).parent().expect("a binary is in a directory");
        let mut guard = Command::new("bash")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/machine.sh"))
            .args([&dir, binaries])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash can be run");
        let mut line = String::new();
        let stdout = guard.stdout.take().expect("standard output is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("the script's output can be read");
        let pid = line.trim().strip_prefix("pid ").and_then(|pid| pid.parse().ok());
        let mut machine = Self { pid: pid.unwrap_or(0), guard, dir };
        assert!(pid.is_some(), "the machine did not start: {line:?}\n{}", machine.console());
        if let Err(error) = await_ready(&booted) {
            let ended = machine.guard.try_wait();
            panic!("the machine did not boot: {error}; its guard: {ended:?}\n{}", machine.console());
        }
        Some(machine)
    }

    /// What the machine said before its journal was there.
    fn console(&self) -> String {
        fs::read_to_string(self.dir.join("console")).unwrap_or_default()
    }

    /// A directory that the machine and the test both write to, at the same path.
    pub(crate) fn shared(&self) -> &Path {
        &self.dir
    }

    /// Where a path of the machine is for the test.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let relative = path.as_ref().strip_prefix("/").expect("a path of the machine is absolute");
        Path::new("/proc").join(self.pid.to_string()).join("root").join(relative)
    }

    /// Writes a file of the machine, and the directories on the way.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("directories can be made");
        fs::write(path, text).expect("a file can be written");
    }

    /// Adds or replaces a unit, or a drop-in (`web.service.d/short.conf`), and has systemd read it.
    pub(crate) fn install_unit(&self, name: &str, text: &str) {
        self.write(&format!("/run/systemd/system/{name}"), text);
        self.ok(["systemctl", "daemon-reload"]);
    }

    /// A command that is run in the machine.
    pub(crate) fn command<I, S>(&self, words: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", COMMAND_TIMEOUT, "nsenter", "--target", &self.pid.to_string(), "--all", "--"]);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Runs a command in the machine.
    pub(crate) fn run<I, S>(&self, words: I) -> Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = self.command(words);
        let start = Instant::now();
        let output = command.output().expect("timeout and nsenter can be run");
        assert_ne!(output.status.code(), Some(124), "{command:?} hung\n{}", self.whole_journal());
        Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: start.elapsed(),
        }
    }

    /// Runs a command that must succeed; returns its standard output.
    #[track_caller]
    pub(crate) fn ok<I, S>(&self, words: I) -> String
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let words: Vec<_> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        let output = self.run(&words);
        assert!(output.status.success(), "{words:?}: {output:#?}\n{}", self.whole_journal());
        output.stdout
    }

    /// One property of a unit.
    pub(crate) fn property(&self, unit: &str, property: &str) -> String {
        self.ok(["systemctl", "show", "--value", "--property", property, unit]).trim_end().to_owned()
    }

    /// Waits until a property of a unit is as it should be.
    #[track_caller]
    pub(crate) fn await_property(&self, unit: &str, property: &str, what: &str, found: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PROPERTY_TIMEOUT;
        loop {
            let value = self.property(unit, property);
            if found(&value) {
                return;
            }
            assert!(Instant::now() < deadline, "{property} of {unit} stays {value:?} instead of {what}");
        }
    }

    /// The journal of a unit, oldest first, complete up to now.
    pub(crate) fn journal(&self, unit: &str) -> Vec<Entry> {
        self.ok(["journalctl", "--sync"]);
        let text = self.ok(["journalctl", "--quiet", "--output=json", "--all", "--unit", unit]);
        text.lines().map(Entry::parse).collect()
    }

    /// Waits until the journal of a unit has an entry like that, and returns it.
    #[track_caller]
    pub(crate) fn await_entry(&self, unit: &str, what: &str, found: impl Fn(&Entry) -> bool) -> Entry {
        let mut command = self.command(["journalctl", "--quiet", "--output=json", "--all", "--follow", "--lines=all"]);
        let mut follower = command.args(["--unit", unit]).stdout(Stdio::piped()).spawn().expect("it can be run");
        let stdout = follower.stdout.take().expect("standard output is a pipe");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok).map(|line| Entry::parse(&line));
        let entry = lines.find(found);
        drop(lines);
        let _ = follower.kill();
        let _ = follower.wait();
        entry.unwrap_or_else(|| panic!("{unit} never logged {what}\n{}", self.whole_journal()))
    }

    /// Everything in the journal, for a person.
    pub(crate) fn whole_journal(&self) -> String {
        let output = self.command(["journalctl", "--no-pager", "--quiet", "--output=short-monotonic"]).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        format!("--- journal\n{}---", text.unwrap_or_else(|error| error.to_string()))
    }

    /// Runs `work` on a thread of its own that has the machine's network.
    pub(crate) fn spawn_inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let network = File::open(format!("/proc/{}/ns/net", self.pid)).expect("the network namespace can be opened");
        thread::spawn(move || {
            setns(network, CloneFlags::CLONE_NEWNET).expect("the network namespace can be entered");
            work()
        })
    }

    /// The same, waiting for the result.
    pub(crate) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn_inside(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() && self.pid != 0 {
            eprintln!("{}", self.whole_journal());
        }
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// An entry of the journal.
#[derive(Clone, Debug)]
pub(crate) struct Entry(BTreeMap<String, String>);

impl Entry {
    fn parse(line: &str) -> Self {
        let fields: BTreeMap<String, Value> = serde_json::from_str(line).expect("the journal speaks JSON");
        Self(fields.into_iter().map(|(name, value)| (name, field_text(value))).collect())
    }

    /// A field; empty where there is none.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// Its text.
    pub(crate) fn message(&self) -> &str {
        self.field("MESSAGE")
    }
}

/// A field that is not plain text (it has colours in it, say) comes as a list of bytes.
fn field_text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        other => other.to_string(),
    }
}

/// Waits until systemd, as pid 1, says that everything has started.
fn await_ready(booted: &UnixDatagram) -> io::Result<()> {
    let mut datagram = [0; 4096];
    loop {
        let length = booted.recv(&mut datagram)?;
        if datagram[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            return Ok(());
        }
    }
}

/// What a machine needs of its host.
fn requirements() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("a machine needs root".to_owned());
    }
    if !Path::new("/lib/systemd/systemd").exists() {
        return Err("a machine needs systemd (/lib/systemd/systemd)".to_owned());
    }
    for tool in ["bash", "unshare", "nsenter", "setpriv", "ip", "timeout", "strace"] {
        let there =
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(tool).exists());
        if !there {
            return Err(format!("a machine needs the program {tool}"));
        }
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    for filesystem in ["cgroup2", "overlay", "tmpfs"] {
        if !filesystems.lines().any(|line| line.ends_with(&format!("\t{filesystem}"))) {
            return Err(format!("a machine needs the file system {filesystem}"));
        }
    }
    let namespaces = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--mount-proc", "--net", "--cgroup", "--uts", "--ipc", "true"])
        .output()
        .map_err(|error| format!("unshare cannot be run: {error}"))?;
    if !namespaces.status.success() {
        return Err(format!("no namespaces: {}", String::from_utf8_lossy(&namespaces.stderr).trim()));
    }
    Ok(())
}
