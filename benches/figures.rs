//! The figures that zdsup is measured by, as one table: `cargo bench --bench figures`.
//!
//! This program is also each of the services that it measures (`__instant`, `__serve`): one binary, so that what
//! differs between two rows is who supervises. Ratios within one run are what counts; machines are noisy. Only some of
//! the table: `cargo bench --bench figures -- reload memory survival keeper throughput steering services`.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use zdsup::control::types::{ServiceState, Status};
use zdsup::load::{Load, Plan, Target};
use zdsup::service::{self, Listeners};

/// Upgrades that are timed of each kind.
const ROUNDS: usize = 50;
/// Upgrades before the memory is looked at, and reload commands at once.
const UPGRADES: usize = 100;
const STORM: usize = 150;
/// How long nothing may happen.
const IDLE: Duration = Duration::from_secs(10);
/// Pairs of load runs, and how long each is.
const PAIRS: usize = 5;
const LOAD: Duration = Duration::from_secs(2);
/// Supervisors that are killed or replace themselves, and how long each lives at least: not one of a row that die at once.
const DEATHS: usize = 20;
const LIFE: Duration = Duration::from_millis(400);
/// What the keeper waits before each start.
const PAUSE: Duration = Duration::from_millis(100);
/// Upgrades after which a state is as long as it gets.
const WARM: usize = 10;
/// Nothing here takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

#[path = "figures/services.rs"]
mod services;

#[path = "figures/steering.rs"]
mod steering;

#[path = "../tests/systemd/machine.rs"]
#[expect(dead_code, reason = "the tests in a real systemd need more of it")]
mod machine;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let argument = std::env::args().nth(1).unwrap_or_default();
    match argument.as_str() {
        "__instant" => instant(),
        "__serve" => serve(),
        "__name" => steering::name(),
        // `cargo test --benches` only wants to know that it builds.
        "--test" => Ok(()),
        _ => figures(&std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect::<Vec<_>>()),
    }
}

fn figures(wanted: &[String]) -> Result<()> {
    println!("{:<58} {:>12} {:>12} {:>12}", "figure", "median", "min", "max");
    type Part = (&'static str, fn() -> Result<()>);
    let parts: [Part; 7] = [
        ("reload", reload_overhead),
        ("memory", memory_and_wakeups),
        ("survival", survival),
        ("keeper", keeper),
        ("throughput", throughput),
        ("steering", steering::figures),
        ("services", services::figures),
    ];
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            part()?;
        }
    }
    let size = fs::metadata(ZDSUP)?.len();
    println!("{:<58} {:>12}", "size of the binary", format!("{:.2} MiB", size as f64 / 1_048_576.0));
    Ok(())
}

/// How long until a supervisor to which nothing happens has tidied up.
const SETTLE: std::time::Duration = std::time::Duration::from_secs(2);
const ZDSUP: &str = env!("CARGO_BIN_EXE_zdsup");

// ---- reload ---------------------------------------------------------------------------------------------------------

fn reload_overhead() -> Result<()> {
    let own = times(ROUNDS, start_and_stop)?;
    row("start and stop of the service alone", &own);
    {
        let supervisor = Supervisor::start(&["--listen", "http=127.0.0.1:0"], "__instant")?;
        let reload = || supervisor.reload();
        reload()?;
        row("zdsup reload, the command included", &times(ROUNDS, reload)?);
    }
    match systemctl_restart() {
        Ok(times) => row("systemctl restart (nothing serves meanwhile)", &times),
        Err(error) => println!("{:<58} {error}", "systemctl restart"),
    }
    match start_server() {
        Ok(times) => row("start_server --restart (Server::Starter)", &times),
        Err(error) => println!("{:<58} {error}", "start_server --restart (Server::Starter)"),
    }
    Ok(())
}

/// What a service that is ready at once costs by itself: until its READY=1, and until it is gone.
fn start_and_stop() -> Result<()> {
    let directory = Directory::new()?;
    let path = directory.0.join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut child = ours("__instant")?.env("NOTIFY_SOCKET", &path).spawn()?;
    socket.recv(&mut [0; 64])?;
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// In a real systemd of its own; entering its namespaces is part of the time.
fn systemctl_restart() -> Result<Vec<Duration>> {
    let machine = machine::Machine::boot_bare().ok_or("not measured: it takes root and systemd")?;
    let program = std::env::current_exe()?;
    let service = format!("[Service]\nType=notify\nExecStart={} __instant\n", program.display());
    machine.install_unit("instant.service", &format!("[Unit]\nStartLimitIntervalSec=0\n{service}"));
    machine.ok(["systemctl", "start", "instant.service"]);
    times(ROUNDS, || {
        machine.ok(["systemctl", "restart", "instant.service"]);
        Ok(())
    })
}

fn start_server() -> Result<Vec<Duration>> {
    let directory = Directory::new()?;
    let (pid, status) = (directory.0.join("pid"), directory.0.join("status"));
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let files = [format!("--pid-file={}", pid.display()), format!("--status-file={}", status.display())];
    let mut command = Command::new("start_server");
    command.args(&files).arg(format!("--port=127.0.0.1:{port}")).arg("--").arg(std::env::current_exe()?);
    command.arg("__instant").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = command.spawn().map_err(|error| format!("not measured: start_server: {error}"))?;
    let _server = Ended(server);
    wait_for(|| Ok(fs::read_to_string(&status).is_ok_and(|text| !text.is_empty())))?;
    // Each takes two seconds: readiness is having lived for one.
    times(3, || run(Command::new("start_server").arg("--restart").args(&files)))
}

// ---- memory and wakeups -----------------------------------------------------------------------------------------------

fn memory_and_wakeups() -> Result<()> {
    let supervisor = Supervisor::start(&["--listen", "http=127.0.0.1:0"], "__instant")?;
    let fresh = supervisor.memory()?;
    for _ in 0..UPGRADES {
        supervisor.reload()?;
    }
    let upgraded = supervisor.memory()?;
    std::thread::sleep(SETTLE);
    let settled = supervisor.memory()?;
    let storm = (0..STORM).map(|_| supervisor.command("reload").spawn()).collect::<io::Result<Vec<Child>>>()?;
    for mut child in storm {
        child.wait()?;
    }
    // Until its threads for blocking work have gone, and it has given memory back (a second after the last request).
    wait_for(|| Ok(supervisor.threads()? == supervisor.idle_threads))?;
    std::thread::sleep(SETTLE);
    let stormed = supervisor.memory()?;
    for (name, kib) in [
        ("supervisor RSS, one service", fresh),
        ("supervisor RSS, straight after 100 upgrades", upgraded),
        ("supervisor RSS, idle again", settled),
        ("supervisor RSS after a storm of 150 reload commands too", stormed),
    ] {
        println!("{name:<58} {:>12}", format!("{:.2} MiB", kib as f64 / 1024.0));
    }
    let before = supervisor.switches()?;
    std::thread::sleep(IDLE);
    let wakeups = supervisor.switches()? - before;
    println!("{:<58} {wakeups:>12}", "wakeups of the supervisor in 10 idle seconds");
    Ok(())
}

// ---- survival ---------------------------------------------------------------------------------------------------------

fn survival() -> Result<()> {
    row("reexec: from the last answer of one to the first of the next", &reexec_pauses()?);
    match deaths_under_systemd() {
        Ok((all, own)) => {
            row("from kill -9 to an answer, systemd", &all);
            row("from the start of the next supervisor to its answer", &own);
        }
        Err(error) => println!("{:<58} {error}", "from kill -9 to an answer, systemd"),
    }
    let (kept, documents) = processor_time(true)?;
    let (not_kept, none) = processor_time(false)?;
    if none > 0 {
        return Err("a state was kept that nobody keeps".into());
    }
    let cost = kept.saturating_sub(not_kept) / u32::try_from(documents)?;
    let each = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0 / UPGRADES as f64);
    println!("{:<58} {:>12}", "processor time of the loop in an upgrade, nothing kept", each(not_kept));
    println!("{:<58} {:>12}", "the same with a store that keeps the state", each(kept));
    println!("{:<58} {:>12}", "states written in an upgrade", documents / UPGRADES as u64);
    println!("{:<58} {:>12}", "keeping the state, a transition", format!("{:.1} us", cost.as_secs_f64() * 1e6));
    Ok(())
}

/// For how long nobody answers at the control socket while a supervisor replaces itself.
fn reexec_pauses() -> Result<Vec<Duration>> {
    let supervisor = Supervisor::start(&["--listen", "http=127.0.0.1:0"], "__instant")?;
    let socket = supervisor.directory.0.join("control.sock");
    times_of(DEATHS, || {
        let before = ask(&socket)?.supervisor.incarnation;
        run(Command::new("kill").args(["-USR2", &supervisor.child.id().to_string()]))?;
        let mut last = Instant::now();
        let deadline = last + PATIENCE;
        while Instant::now() < deadline {
            // It may be cut off, by one that ends.
            let Ok(status) = ask(&socket) else { continue };
            if status.supervisor.incarnation > before {
                return Ok(last.elapsed());
            }
            last = Instant::now();
        }
        Err("it was not replaced".into())
    })
}

/// How long it takes a real systemd, and zdsup, to have another supervisor where one was killed, and how long of that it
/// has been running: systemd 252 adds up to a quarter of a second to RestartSec=, to wake up less often.
fn deaths_under_systemd() -> Result<(Vec<Duration>, Vec<Duration>)> {
    let machine = machine::Machine::boot().ok_or("not measured: it takes root and systemd")?;
    let program = std::env::current_exe()?;
    let unit = "zdsup@bench.service";
    machine.write(
        "/etc/zdsup/bench.toml",
        &format!("[service.bench]\ncommand = [{program:?}, \"__instant\"]\n[[service.bench.listen]]\nname = \"http\"\naddress = \"127.0.0.1:0\"\n"),
    );
    machine.ok(["systemctl", "start", unit]);
    let socket = machine.path("/run/zdsup/bench/control.sock");
    let mut own = Vec::new();
    let all = times_of(DEATHS, || {
        std::thread::sleep(LIFE);
        let before = ask(&socket)?.supervisor.pid;
        // When it is killed, and not when the command that does it is started or has ended.
        let killed = machine.ok(["bash", "-c", &format!("date +%s%N; kill -KILL {before}")]);
        let killed = UNIX_EPOCH + Duration::from_nanos(killed.trim().parse()?);
        wait_for_successor(|| ask(&socket), before)?;
        let (answered, clock) = (SystemTime::now(), Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?));
        let started = machine.property(unit, "ExecMainStartTimestampMonotonic").parse()?;
        own.push(clock.saturating_sub(Duration::from_micros(started)));
        Ok(answered.duration_since(killed)?)
    })?;
    own.sort();
    Ok((all, own))
}

/// What the loop of a supervisor takes of a processor for some upgrades, and how many states it has written meanwhile.
fn processor_time(keeps: bool) -> Result<(Duration, u64)> {
    let directory = Directory::new()?;
    let path = directory.0.join("notify");
    let manager = UnixDatagram::bind(&path)?;
    // What is sent with a message that is read like this is closed.
    std::thread::spawn(move || while manager.recv(&mut [0; 4096]).is_ok() {});
    let supervisor = Supervisor::start_with(&["--listen", "http=127.0.0.1:0"], "__instant", |command| {
        command.env("NOTIFY_SOCKET", &path);
        if keeps {
            command.env("FDSTORE", "4096")
        } else {
            command.env_remove("FDSTORE")
        };
    })?;
    // Until there are as many upgrades to write about as there will be.
    for _ in 0..WARM {
        supervisor.reload()?;
    }
    let before = (supervisor.loop_time()?, supervisor.states_written()?);
    for _ in 0..UPGRADES {
        supervisor.reload()?;
    }
    Ok((supervisor.loop_time()? - before.0, supervisor.states_written()? - before.1))
}

/// The status, without a command that has to be started.
fn ask(socket: &Path) -> Result<Status> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: zdsup\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    Ok(serde_json::from_str(body)?)
}

fn wait_for_successor(status: impl Fn() -> Result<Status>, before: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !status().is_ok_and(|status| status.supervisor.pid != before) {
        if Instant::now() > deadline {
            return Err("no supervisor followed".into());
        }
    }
    Ok(())
}

// ---- keeper -----------------------------------------------------------------------------------------------------------

fn keeper() -> Result<()> {
    let keeper = Supervisor::start(&["--keeper", "--listen", "http=127.0.0.1:0"], "__instant")?;
    // Once the supervisor has let go of its code: what both have mapped is nobody's own.
    std::thread::sleep(Duration::from_secs(2));
    let fresh = keeper.private_memory()?;
    let times = times_of(DEATHS, || {
        std::thread::sleep(LIFE);
        let before = keeper.status()?.supervisor.pid;
        run(Command::new("kill").args(["-KILL", &before.to_string()]))?;
        let began = Instant::now();
        wait_for_successor(|| keeper.status(), before)?;
        Ok(began.elapsed())
    })?;
    row("from kill -9 to an answer of `zdsup status`, keeper", &times);
    let without: Vec<Duration> = times.into_iter().map(|time| time.saturating_sub(PAUSE)).collect();
    row("the same without the keeper's pause of 100 ms", &without);
    let before = keeper.switches()?;
    std::thread::sleep(IDLE);
    println!("{:<58} {:>12}", "wakeups of the keeper in 10 idle seconds", keeper.switches()? - before);
    for (name, kib) in
        [("keeper, private memory", fresh), ("keeper, private memory after 20 supervisors", keeper.private_memory()?)]
    {
        println!("{name:<58} {:>12}", format!("{kib} KiB"));
    }
    Ok(())
}

// ---- throughput -------------------------------------------------------------------------------------------------------

fn throughput() -> Result<()> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let alone_at = SocketAddr::from(([127, 0, 0, 1], port));
    let alone = ours("__serve")?.env("ADDRESS", alone_at.to_string()).spawn()?;
    let _alone = Ended(alone);
    wait_for(|| Ok(TcpStream::connect(alone_at).is_ok()))?;
    let supervisor = Supervisor::start(&["--listen", "http=127.0.0.1:0"], "__serve")?;
    let served_at = supervisor.address()?;

    let (mut rates, mut tails) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let (rate_alone, p99_alone) = load(alone_at)?;
        let (rate_served, p99_served) = load(served_at)?;
        rates.push(rate_served / rate_alone);
        tails.push(p99_served / p99_alone);
    }
    ratio("requests per second, under zdsup / alone", &mut rates);
    ratio("p99 latency, under zdsup / alone", &mut tails);
    Ok(())
}

fn load(address: SocketAddr) -> Result<(f64, f64)> {
    let plan = Plan { threads_new: 2, threads_keep_alive: 2, pause_between: Duration::ZERO, ..Plan::default() };
    let began = Instant::now();
    let running = Load::start(Target::Tcp(address), plan)?;
    std::thread::sleep(LOAD);
    let report = running.stop();
    if report.failed() > 0 {
        return Err(format!("requests failed: {:?}", report.errors).into());
    }
    Ok((report.ok as f64 / began.elapsed().as_secs_f64(), report.percentiles().p99.as_secs_f64()))
}

// ---- the supervisor ---------------------------------------------------------------------------------------------------

struct Supervisor {
    child: Child,
    directory: Directory,
    idle_threads: usize,
}

impl Supervisor {
    fn start(flags: &[&str], service: &str) -> Result<Self> {
        Self::start_with(flags, service, |_| ())
    }

    fn start_with(flags: &[&str], service: &str, adjust: impl FnOnce(&mut Command)) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut this = Self::run(|command| {
            command.args(flags).arg("--").arg(program).arg(service);
            adjust(command);
        })?;
        wait_for(|| Ok(this.status().is_ok_and(|status| status.services[0].state == ServiceState::Serving)))?;
        // Its threads for blocking work go away after a second.
        let mut threads = this.threads()?;
        std::thread::sleep(Duration::from_secs(2));
        threads = threads.min(this.threads()?);
        this.idle_threads = threads;
        Ok(this)
    }

    fn of_config(path: &Path) -> Result<Self> {
        Self::run(|command| {
            command.arg("-c").arg(path);
        })
    }

    fn run(adjust: impl FnOnce(&mut Command)) -> Result<Self> {
        let directory = Directory::new()?;
        let mut command = Command::new(ZDSUP);
        command.args(["run", "--name", "bench", "--runtime-dir"]).arg(&directory.0);
        command.arg("--state-dir").arg(directory.0.join("state")).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        adjust(&mut command);
        Ok(Self { child: command.spawn()?, directory, idle_threads: 0 })
    }

    fn command(&self, word: &str) -> Command {
        let mut command = Command::new(ZDSUP);
        command.arg(word).arg("--runtime-dir").arg(&self.directory.0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn reload(&self) -> Result<()> {
        run(&mut self.command("reload"))
    }

    fn status(&self) -> Result<Status> {
        let output = self.command("status").arg("--json").stdout(Stdio::piped()).output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn address(&self) -> Result<SocketAddr> {
        Ok(self.status()?.services[0].listeners[0].address.parse()?)
    }

    /// Resident memory, KiB.
    fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// What is nobody else's: Private_Clean and Private_Dirty of proc_pid_smaps(5), KiB.
    fn private_memory(&self) -> Result<u64> {
        let sums = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let private = ["Private_Clean:", "Private_Dirty:"];
        let values = sums.lines().filter_map(|line| private.iter().find_map(|key| line.strip_prefix(key)));
        values.map(|value| Ok(value.trim().trim_end_matches(" kB").parse::<u64>()?)).sum()
    }

    fn threads(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/task", self.child.id()))?.count())
    }

    /// How long its first thread has run, the loop (proc_pid_schedstat, the kernel's Documentation/scheduler).
    fn loop_time(&self) -> Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{0}/task/{0}/schedstat", self.child.id()))?;
        Ok(Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse()?))
    }

    /// How many states it has written: the higher of the numbers that the halves of its memory begin with.
    fn states_written(&self) -> Result<u64> {
        let mut newest = 0;
        for entry in fs::read_dir(format!("/proc/{}/fd", self.child.id()))? {
            let path = entry?.path();
            if fs::read_link(&path).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:zdsup-state")) {
                let state = fs::File::open(path)?;
                for half in [4096, 4096 + (16 << 20)] {
                    let mut number = [0; 8];
                    // The other half of an empty state is not there.
                    let _ = state.read_at(&mut number, half)?;
                    newest = newest.max(u64::from_le_bytes(number));
                }
            }
        }
        Ok(newest)
    }

    /// How often its threads have gone to sleep and been woken.
    fn switches(&self) -> Result<u64> {
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let status = fs::read_to_string(task?.path().join("status"))?;
            let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            sum += count.ok_or("no voluntary_ctxt_switches")?.trim().parse::<u64>()?;
        }
        Ok(sum)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // Asked twice it ends everything at once; a bench that fails here has said so already.
        let _ = run(self.command("stop").arg("--no-wait"));
        let _ = run(self.command("stop").arg("--no-wait"));
        let _ = self.child.wait();
    }
}

// ---- the services -----------------------------------------------------------------------------------------------------

/// Ready at once; SIGTERM, for which it has no handler, ends it at once.
fn instant() -> Result<()> {
    service::ready()?;
    loop {
        std::thread::park();
    }
}

/// Answers HTTP, a thread a connection.
fn serve() -> Result<()> {
    let address = std::env::var("ADDRESS").unwrap_or_default();
    let mut listeners = Listeners::take()?;
    let listener = if listeners.none_passed() { TcpListener::bind(address)? } else { listeners.tcp("http")? };
    service::ready()?;
    loop {
        let (stream, _) = listener.accept()?;
        std::thread::Builder::new().stack_size(64 * 1024).spawn(move || answer(&stream))?;
    }
}

fn answer(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut closes = false;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        closes |= line.eq_ignore_ascii_case("connection: close\r\n");
        if line == "\r\n" {
            let head = if closes { "connection: close\r\n" } else { "" };
            (&mut &*stream)
                .write_all(format!("HTTP/1.1 200 OK\r\n{head}content-length: 6\r\n\r\nbench\n").as_bytes())?;
            if closes {
                break;
            }
        }
        line.clear();
    }
    Ok(())
}

// ---- the rest ---------------------------------------------------------------------------------------------------------

fn ours(service: &str) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(service).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}

fn times(rounds: usize, mut work: impl FnMut() -> Result<()>) -> Result<Vec<Duration>> {
    times_of(rounds, || {
        let began = Instant::now();
        work()?;
        Ok(began.elapsed())
    })
}

/// What some work says that it took, sorted.
fn times_of(rounds: usize, work: impl FnMut() -> Result<Duration>) -> Result<Vec<Duration>> {
    let mut times = std::iter::repeat_with(work).take(rounds).collect::<Result<Vec<_>>>()?;
    times.sort();
    Ok(times)
}

fn row(name: &str, times: &[Duration]) {
    let ms = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1000.0);
    let (median, min, max) = (times[times.len() / 2], times[0], times[times.len() - 1]);
    println!("{name:<58} {:>12} {:>12} {:>12}", ms(median), ms(min), ms(max));
}

fn ratio(name: &str, ratios: &mut [f64]) {
    ratios.sort_by(f64::total_cmp);
    let (median, min, max) = (ratios[ratios.len() / 2], ratios[0], ratios[ratios.len() - 1]);
    println!("{name:<58} {median:>12.3} {min:>12.3} {max:>12.3}");
}

fn wait_for(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        if Instant::now() > deadline {
            return Err("waited in vain".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A process that is ended with its holder.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // SIGTERM, so that a supervisor ends what it has started.
        let _ = run(Command::new("kill").arg(self.0.id().to_string()));
        let _ = self.0.wait();
    }
}

/// A directory that is removed with its holder.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("zdsup-bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(&std::env::temp_dir()).join(name);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
