//! What steering costs, how evenly it spreads, and how fast it goes back.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::ReusePort;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket};
use zdsup::service::{self, Listeners};

use super::{PATIENCE, Result, Supervisor, ratio, row, times_of, wait_for};

/// Processes that share the connections, and threads that make them.
const INSTANCES: usize = 8;
const CLIENTS: usize = 4;
/// A race gives each its turn for a moment, again and again: a machine's speed changes more slowly than that.
const TURN: Duration = Duration::from_millis(100);
const TURNS: usize = 20;
const RACES: usize = 10;
/// Connections to each place, one by one.
const CONNECTIONS: usize = 10_000;
/// Rollbacks that are timed.
const ROLLBACKS: usize = 10;
const FLAGS: [&str; 4] = ["--listen", "http=127.0.0.1:0", "--instances", "8"];

pub(super) fn figures() -> Result<()> {
    let steered = Supervisor::start(&[&FLAGS[..], &["--traffic", "steered"]].concat(), "__name")?;
    let shared = Supervisor::start(&FLAGS, "__name")?;
    let (group_at, _group) = group()?;
    let places = [steered.address()?, group_at, shared.address()?];
    one_by_one(places)?;
    let races = (0..RACES).map(|_| race(places)).collect::<Result<Vec<_>>>()?;
    let rates = |one: usize, other: usize| races.iter().map(move |race| race[one].rate() / race[other].rate());
    ratio("connections of 4 at once, steered / SO_REUSEPORT group", &mut rates(0, 1).collect::<Vec<_>>());
    ratio("connections of 4 at once, steered / one shared socket", &mut rates(0, 2).collect::<Vec<_>>());
    ratio("connections of 4 at once, that group / one shared socket", &mut rates(1, 2).collect::<Vec<_>>());
    for (at, name) in ["steered", "SO_REUSEPORT group", "one shared socket"].iter().enumerate() {
        let mut spread: Vec<f64> = races.iter().map(|race| race[at].spread()).collect();
        ratio(&format!("busiest / idlest of 8 instances, {name}"), &mut spread);
    }
    row("rollback to standby, until the first connection there", &rollbacks()?);
    Ok(())
}

/// One connection after the other, to each place in turn: then no process is ever busy, wherever the next one goes, and
/// what differs is the way of a connection through the kernel.
fn one_by_one(places: [SocketAddr; 3]) -> Result<()> {
    let mut ratios: [Vec<f64>; 2] = Default::default();
    for _ in 0..RACES {
        let mut times: [Vec<Duration>; 3] = Default::default();
        for turn in 0..CONNECTIONS {
            for at in (0..places.len()).map(|at| (at + turn) % places.len()) {
                let began = Instant::now();
                ask(places[at])?;
                times[at].push(began.elapsed());
            }
        }
        let [steered, group, shared] = times.map(|mut times| {
            times.sort_unstable();
            times[times.len() / 2].as_secs_f64()
        });
        ratios[0].push(group / steered);
        ratios[1].push(shared / steered);
    }
    ratio("connections one by one, steered / SO_REUSEPORT group", &mut ratios[0]);
    ratio("connections one by one, steered / one shared socket", &mut ratios[1]);
    Ok(())
}

/// As many processes that do not use what they are given, each with a socket that it bound itself, at one address. They
/// are supervised as the others are, since that makes a difference too.
fn group() -> Result<(SocketAddr, Supervisor)> {
    // Holds the port, and does not listen.
    let holder = member(0)?;
    let address: SocketAddr = holder.local_addr()?;
    let group = Supervisor::start_with(&FLAGS, "__name", |command| {
        command.env("ADDRESS", address.port().to_string());
    })?;
    Ok((address, group))
}

/// One socket of such a group, which does not listen yet.
fn member(port: u16) -> Result<TcpListener> {
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, ReusePort, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port))?;
    Ok(fd.into())
}

/// What one place has done in a race.
#[derive(Default)]
struct Runner {
    took: Duration,
    /// Connections of each process.
    counts: BTreeMap<u32, u64>,
}

impl Runner {
    /// Connections per second.
    fn rate(&self) -> f64 {
        self.counts.values().sum::<u64>() as f64 / self.took.as_secs_f64()
    }

    /// How many times as many connections the busiest process had as the idlest.
    fn spread(&self) -> f64 {
        let least = if self.counts.len() < INSTANCES { None } else { self.counts.values().min() };
        let most = self.counts.values().max();
        most.copied().unwrap_or(0) as f64 / least.copied().unwrap_or(0).max(1) as f64
    }
}

fn race<const N: usize>(places: [SocketAddr; N]) -> Result<[Runner; N]> {
    let mut runners = std::array::from_fn(|_| Runner::default());
    for turn in 0..TURNS {
        // None is always the first.
        for at in (0..N).map(|at| (at + turn) % N) {
            rush(places[at], &mut runners[at])?;
        }
    }
    Ok(runners)
}

fn rush(address: SocketAddr, runner: &mut Runner) -> Result<()> {
    let over = AtomicBool::new(false);
    let began = Instant::now();
    thread::scope(|scope| {
        let client = || -> std::result::Result<Vec<u32>, String> {
            let mut answers = Vec::new();
            while !over.load(Ordering::Relaxed) {
                answers.push(ask(address).map_err(|error| error.to_string())?);
            }
            Ok(answers)
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        thread::sleep(TURN);
        over.store(true, Ordering::Relaxed);
        for client in clients {
            for pid in client.join().map_err(|_| "a client panicked")?? {
                *runner.counts.entry(pid).or_default() += 1;
            }
        }
        Ok::<_, Box<dyn std::error::Error>>(())
    })?;
    runner.took += began.elapsed();
    Ok(())
}

/// From the request at the control socket to the first connection that the old generation takes.
fn rollbacks() -> Result<Vec<Duration>> {
    let blue_green = ["--listen", "http=127.0.0.1:0", "--traffic", "steered", "--upgrade-strategy", "blue-green"];
    let supervisor = Supervisor::start(&blue_green, "__name")?;
    let (address, socket) = (supervisor.address()?, supervisor.directory.0.join("control.sock"));
    times_of(ROLLBACKS, || {
        let old = ask(address)?;
        supervisor.reload()?;
        let body = r#"{"kind":"rollback"}"#;
        let head = format!("POST /v1/upgrades HTTP/1.1\r\nhost: zdsup\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let mut control = std::os::unix::net::UnixStream::connect(&socket)?;
        let began = Instant::now();
        control.write_all(head.as_bytes())?;
        while ask(address)? != old {
            if began.elapsed() > PATIENCE {
                return Err("it did not go back".into());
            }
        }
        let took = began.elapsed();
        wait_for(|| Ok(supervisor.status()?.services[0].generations.len() == 1))?;
        Ok(took)
    })
}

/// Which process it is.
fn ask(address: SocketAddr) -> Result<u32> {
    let mut stream = TcpStream::connect(address)?;
    let mut pid = [0; 4];
    stream.read_exact(&mut pid)?;
    Ok(u32::from_ne_bytes(pid))
}

/// The service: says who it is, and closes.
pub(super) fn name() -> Result<()> {
    let mut listeners = Listeners::take()?;
    let listener = match std::env::var("ADDRESS") {
        Ok(port) => {
            let listener = member(port.parse()?)?;
            listen(&listener, Backlog::MAXCONN)?;
            listener
        }
        Err(_) => listeners.tcp("http")?,
    };
    service::ready()?;
    loop {
        let (mut stream, _) = listener.accept()?;
        // Whoever has left does not hear.
        let _ = stream.write_all(&std::process::id().to_ne_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read(&mut [0]);
    }
}
