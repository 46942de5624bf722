//! Row 31 without systemd (tests/systemd/deaths.rs is the same with it): the supervisor dies anywhere in an upgrade, or
//! replaces its program there, under load. No request fails, the upgrade reaches its verdict, no process is lost or
//! doubled, and nothing is left with the keeper.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use zdsup::control::types::{AdmissionKind, Status, UpgradeAccepted, Verdict};

use crate::support::{Load, Manner, Zdsup, client, eventually, process, skip};

/// How often the supervisor dies at a random instant; `ZDSUP_TEST_DEATHS` overrides it.
const DEATHS: u64 = 40;
/// How often it replaces itself at one.
const REEXECS: u64 = 60;
/// Supervisors that die beside one another: most of the time each waits for its next life.
const LANES: u64 = 2;

/// A service that is upgraded again and again, under load.
struct Trial {
    z: Zdsup,
    load: Load,
    /// What its keeper, if it has one, or it itself has open at rest.
    held: BTreeMap<String, usize>,
    /// How long an upgrade takes, until nothing of it is left.
    takes: Duration,
}

impl Trial {
    fn start(arguments: &[&str]) -> Self {
        let words = arguments.iter().map(|word| (*word).to_owned());
        let z = Zdsup::serving_with(&["serve"], |setup, _| setup.arguments.extend(words));
        let load = Load::with(&z.target(), &[Manner::Fresh, Manner::KeepAlive]);
        let mut this = Self { z, load, held: BTreeMap::new(), takes: Duration::ZERO };
        // The first one is slower.
        for _ in 0..2 {
            let began = Instant::now();
            let upgrade = this.ask_for_upgrade().expect("it answers");
            this.z.supervisor.verdict_of(upgrade);
            this.one_generation();
            this.takes = began.elapsed();
        }
        this.held = process::settled_holdings(this.z.supervisor.pid(), &this.z.supervisor.runtime, None).fds;
        this
    }

    /// The upgrade's number, if the supervisor lived long enough to give it one.
    fn ask_for_upgrade(&self) -> io::Result<u64> {
        let body = r#"{"kind":"reload"}"#;
        let answer = client::control(&self.z.supervisor.control_socket(), "POST", "/v1/upgrades", Some(body))?;
        assert_eq!(answer.status, 202, "{}", answer.body);
        let accepted: UpgradeAccepted = serde_json::from_str(&answer.body).expect("an upgrade");
        assert_eq!(accepted.admission, AdmissionKind::Begun);
        Ok(accepted.id)
    }

    fn one_generation(&self) -> Status {
        self.z.wait_for("one generation serves, and no other is there", |status| {
            let service = &status.services[0];
            service.upgrade.is_none() && service.serving.is_some() && service.generations.len() == 1
        })
    }

    /// The upgrade that somebody asked for, if it was admitted, has reached its verdict, and nothing else is left of it.
    #[track_caller]
    fn ended_well(&self, asked: ScopedJoinHandle<'_, io::Result<u64>>, what: &str) {
        if let Ok(upgrade) = asked.join().expect("it does not panic") {
            let verdict = self.z.supervisor.verdict_of(upgrade);
            assert_eq!(verdict.verdict, Verdict::Upgraded, "{what}: {verdict:?}");
        }
        let status = self.one_generation();
        let instances = &status.services[0].generations[0].instances;
        let expected: Vec<u32> = instances.iter().filter_map(|instance| instance.pid).collect();
        assert_eq!(expected.len(), 1, "{what}: {expected:?}");
        let (keeper, supervisor) = (self.z.supervisor.pid(), status.supervisor.pid);
        eventually(&format!("no process is lost or doubled ({what})"), || {
            let mut children = process::children(supervisor);
            if keeper != supervisor {
                children.extend(process::children(keeper));
                children.retain(|child| *child != supervisor);
            }
            (children == expected && process::instances_of(&self.z.supervisor.runtime) == expected).then_some(())
        });
        eventually(&format!("nothing is held that is not in use ({what})"), || {
            (process::holdings(keeper, &self.z.supervisor.runtime).fds == self.held).then_some(())
        });
    }

    /// Waits until the supervisor has lived so long that its death would not be one of a row: it notes that itself, where
    /// the keeper has it too.
    fn let_it_settle(&self) {
        let descriptors = format!("/proc/{}/fd", self.z.supervisor.pid());
        let is_state = |path: &std::path::PathBuf| {
            fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:zdsup-state"))
        };
        let mut paths = fs::read_dir(descriptors).expect("the keeper lives").flatten().map(|entry| entry.path());
        let state = File::open(paths.find(is_state).expect("it holds the state")).expect("we may look into it");
        eventually("it has settled", || {
            let mut deaths = [0; 4];
            state.read_exact_at(&mut deaths, 8).expect("it has a head");
            (deaths == [0; 4]).then_some(())
        });
    }

    #[track_caller]
    fn end(self) -> u64 {
        let tally = self.load.unharmed();
        self.z.end();
        tally.asked
    }
}

/// A linear congruential generator (Knuth): the same instants in each run, as far as the machine is the same.
struct Chance(u64);

impl Chance {
    fn instant(&mut self, within: Duration) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_micros((self.0 >> 33) % u64::try_from(within.as_micros()).unwrap_or(u64::MAX).max(1))
    }
}

#[test]
fn the_supervisor_dies_at_random_instants() {
    let deaths = std::env::var("ZDSUP_TEST_DEATHS").ok().and_then(|count| count.parse().ok()).unwrap_or(DEATHS);
    thread::scope(|scope| {
        for lane in 0..LANES {
            scope.spawn(move || die_at_random_instants(lane, deaths.div_ceil(LANES)));
        }
    });
}

fn die_at_random_instants(lane: u64, deaths: u64) {
    let trial = Trial::start(&["--keeper"]);
    let mut chance = Chance(lane);
    let mut slowest = Duration::ZERO;
    for death in 0..deaths {
        let before = trial.z.status().supervisor.pid;
        // So that also the time after the verdict is hit when everything takes longer than usual.
        let wait = chance.instant(trial.takes * 2);
        thread::scope(|scope| {
            let asked = scope.spawn(|| trial.ask_for_upgrade());
            // The instant itself; nothing is waited for.
            thread::sleep(wait);
            let killed = Instant::now();
            process::kill(before, Signal::SIGKILL);
            trial.z.wait_for("another supervisor answers", |status| status.supervisor.pid != before);
            slowest = slowest.max(killed.elapsed());
            trial.ended_well(asked, &format!("death {death} after {wait:?}"));
        });
        trial.let_it_settle();
    }
    let takes = trial.takes;
    let requests = trial.end();
    eprintln!("{deaths} deaths in upgrades of {takes:?}, {requests} requests, none failed; {slowest:?} apart at most");
}

/// Rows 31 and 40, without systemd.
#[test]
fn the_supervisor_dies_at_every_step() {
    let trial = Trial::start(&["--keeper"]);
    for call in ["pwrite64", "sendmsg", "pidfd_send_signal"] {
        let mut deaths = 0;
        for number in 1..100 {
            let before = trial.z.status().supervisor.pid;
            let tracer = match Tracer::kill_at(before, call, number) {
                Ok(tracer) => tracer,
                Err(error) => {
                    trial.end();
                    return skip(&format!("strace cannot trace here: {error}"));
                }
            };
            thread::scope(|scope| {
                let asked = scope.spawn(|| trial.ask_for_upgrade());
                trial.ended_well(asked, &format!("death at {call} number {number}"));
            });
            trial.load.more(5);
            drop(tracer);
            if trial.z.status().supervisor.pid == before {
                // It does no more of these in an upgrade.
                break;
            }
            trial.let_it_settle();
            deaths += 1;
        }
        eprintln!("{deaths} deaths at {call}");
        assert!((1..99).contains(&deaths), "{deaths} deaths at {call}");
    }
    trial.end();
}

#[test]
fn the_supervisor_replaces_itself_at_random_instants() {
    let trial = Trial::start(&[]);
    let mut chance = Chance(0);
    let reexec = |incarnation: u64| {
        let began = Instant::now();
        trial.z.supervisor.signal(Signal::SIGUSR2);
        trial.z.wait_for("the next incarnation", |status| status.supervisor.incarnation == incarnation);
        began.elapsed()
    };
    // Most of it is the trial of the new binary.
    let lead = reexec(2);
    for number in 1..=REEXECS {
        let wait = chance.instant(lead + trial.takes * 2);
        thread::scope(|scope| {
            let asked = scope.spawn(|| {
                thread::sleep(lead);
                trial.ask_for_upgrade()
            });
            thread::sleep(wait);
            reexec(number + 2);
            trial.ended_well(asked, &format!("reexec {number} after {wait:?}"));
        });
    }
    eprintln!("{REEXECS} reexecs of {lead:?} in upgrades of {:?}", trial.takes);
    let requests = trial.end();
    eprintln!("{requests} requests, none failed");
}

/// A tracer that kills the supervisor as it begins its n-th system call of a kind.
struct Tracer(Child);

impl Tracer {
    fn kill_at(pid: u32, call: &str, number: u32) -> io::Result<Self> {
        let mut command = Command::new("strace");
        command.args(["-o", "/dev/null", "-e", &format!("trace={call}")]);
        command.args(["-e", &format!("inject={call}:signal=KILL:when={number}"), "-p", &pid.to_string()]);
        let mut this = Self(command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?);
        let mut line = String::new();
        BufReader::new(this.0.stderr.as_mut().expect("it is piped")).read_line(&mut line)?;
        if line.contains("attached") { Ok(this) } else { Err(io::Error::other(line)) }
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // It lets go of what it traces, and ends with it too.
        process::kill(self.0.id(), Signal::SIGINT);
        let _ = self.0.wait();
    }
}
