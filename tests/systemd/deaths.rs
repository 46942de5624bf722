//! Row 31: the supervisor dies anywhere in an upgrade, under load. No request fails, the upgrade reaches its verdict, no
//! process is lost or doubled, and nothing is left in the fd store.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::adoption::STORED;
use crate::machine::Machine;
use crate::release::{Config, UNIT, UnderLoad};

/// How often the supervisor dies at a random instant; `ZDSUP_TEST_DEATHS` overrides it.
const DEATHS: u32 = 60;
/// Machines in which that happens beside one another: most of the time each waits for its next life.
const LANES: u32 = 2;

impl Machine {
    /// `zdsup reload --no-wait`; the upgrade's number, if the supervisor lived long enough to give it one.
    fn ask_for_upgrade(&self) -> Option<u64> {
        let asked = self.run(["zdsup", "reload", "--no-wait", "--json"]);
        let line = asked.stdout.lines().next()?;
        serde_json::from_str::<serde_json::Value>(line).ok()?["upgrade"].as_u64()
    }

    /// The verdict of an upgrade that was admitted.
    #[track_caller]
    fn await_verdict(&self, upgrade: u64) -> String {
        let url = format!("http://zdsup/v1/upgrades/{upgrade}");
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = self.run(["curl", "--silent", "--unix-socket", "/run/zdsup/web/control.sock", &url]);
            let status: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
            if let Some(verdict) = status["verdict"]["verdict"].as_str() {
                return verdict.to_owned();
            }
            assert!(Instant::now() < deadline, "no verdict: {answer:?}\n{}", self.whole_journal());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// One generation serves, and nothing else is there.
    #[track_caller]
    fn await_rest(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.run(["zdsup", "status", "--json"]).stdout;
            let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
            let service = &status["services"][0];
            let rests = service["state"] == "serving"
                && service["upgrade"].is_null()
                && service["generations"].as_array().is_some_and(|all| all.len() == 1);
            let processes = self.service_processes();
            if rests && processes.len() == 1 {
                break;
            }
            assert!(Instant::now() < deadline, "{processes:?} {status:#}\n{}", self.whole_journal());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.await_stored(STORED);
    }

    /// Lets the successor live for so long that its death is not one of a row: only time can tell that.
    fn let_it_settle(&self, since: Instant) {
        std::thread::sleep(Duration::from_millis(300).saturating_sub(since.elapsed()));
    }
}

fn serving(machine: &Machine) -> UnderLoad {
    // Whoever dies so often is not to be held back.
    machine.write(&format!("/run/systemd/system/{UNIT}.d/burst.conf"), "[Unit]\nStartLimitBurst=100000\n");
    Config::mode("serve").install(machine);
    machine.ok(["systemctl", "daemon-reload"]);
    machine.start_good();
    machine.load()
}

/// Rows 31 and 40: at no step is a process lost, doubled, or unknown to the successor.
#[test]
fn the_supervisor_dies_at_every_step() {
    let Some(machine) = Machine::boot() else { return };
    let load = serving(&machine);
    for call in ["pwrite64", "sendmsg", "pidfd_send_signal"] {
        let mut deaths = 0;
        for number in 1..100 {
            let before = machine.property(UNIT, "MainPID");
            let tracer = Tracer::kill_at(&machine, &before, call, number);
            let upgrade = machine.ask_for_upgrade();
            if let Some(upgrade) = upgrade {
                let verdict = machine.await_verdict(upgrade);
                assert_eq!(verdict, "upgraded", "death at {call} number {number}\n{}", machine.whole_journal());
            }
            machine.await_rest();
            load.flow(5);
            tracer.end(&machine);
            if machine.property(UNIT, "MainPID") == before {
                // It does no more of these in an upgrade.
                break;
            }
            machine.let_it_settle(Instant::now());
            deaths += 1;
        }
        eprintln!("{deaths} deaths at {call}");
        assert!((1..99).contains(&deaths), "{deaths} deaths at {call}");
    }
    let report = load.stop_unharmed();
    eprintln!("{} requests, none failed", report.total);
}

#[test]
fn the_supervisor_dies_at_random_instants() {
    let deaths = std::env::var("ZDSUP_TEST_DEATHS").ok().and_then(|count| count.parse().ok()).unwrap_or(DEATHS);
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            scope.spawn(move || die_at_random_instants(lane, deaths.div_ceil(LANES)));
        }
    });
}

fn die_at_random_instants(lane: u32, deaths: u32) {
    let Some(machine) = Machine::boot() else { return };
    let load = serving(&machine);
    let mut chance = 0x2545_f491_4f6c_dd1d_u64 ^ u64::from(lane);
    let mut slowest = Duration::ZERO;
    for death in 0..deaths {
        let upgrade = machine.ask_for_upgrade();
        // A linear congruential generator (Knuth): the same instants in each run, as far as the machine is the same.
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let wait = Duration::from_micros((chance >> 33) % 60_000);
        let began = Instant::now();
        while began.elapsed() < wait {
            std::thread::yield_now();
        }
        let killed = Instant::now();
        machine.kill_supervisor();
        slowest = slowest.max(killed.elapsed());
        let followed = Instant::now();
        if let Some(upgrade) = upgrade {
            let verdict = machine.await_verdict(upgrade);
            assert_eq!(verdict, "upgraded", "death {death} after {wait:?}\n{}", machine.whole_journal());
        }
        machine.await_rest();
        machine.let_it_settle(followed);
    }
    let report = load.stop_unharmed();
    eprintln!("{deaths} deaths, {} requests, none failed; followed after {slowest:?} at most", report.total);
}

/// A tracer that kills the supervisor as it begins its n-th system call of a kind.
struct Tracer(Child);

impl Tracer {
    fn kill_at(machine: &Machine, pid: &str, call: &str, number: u32) -> Self {
        let inject = format!("inject={call}:signal=KILL:when={number}");
        let trace = format!("trace={call}");
        let mut command = machine.command(["strace", "-p", pid, "-o", "/dev/null", "-e", &trace, "-e", &inject]);
        let mut tracer = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("strace can be started");
        let said = tracer.stderr.as_mut().expect("it is piped");
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line).expect("it says that it is attached");
        assert!(line.contains("attached"), "{line}");
        Self(tracer)
    }

    /// It ends with what it traces, or is told to.
    fn end(mut self, machine: &Machine) {
        machine.run(["pkill", "-INT", "strace"]);
        self.0.wait().expect("it is our child");
    }
}
