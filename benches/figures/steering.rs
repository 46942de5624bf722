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

use super::{PAIRS, PATIENCE, Result, Supervisor, ratio, row, times_of, wait_for};

/// Processes that share the connections, and threads that make them.
const INSTANCES: usize = 8;
const CLIENTS: usize = 4;
/// How long each is measured.
const SPAN: Duration = Duration::from_secs(2);
/// Pairs of runs with one process.
const PAIRS_ALONE: usize = 16;
/// Rollbacks that are timed.
const ROLLBACKS: usize = 10;
const FLAGS: [&str; 4] = ["--listen", "http=127.0.0.1:0", "--instances", "8"];

pub(super) fn figures() -> Result<()> {
    let steered = Supervisor::start(&[&FLAGS[..], &["--traffic", "steered"]].concat(), "__name")?;
    let shared = Supervisor::start(&FLAGS, "__name")?;
    let (group_at, _group) = group()?;
    let places = [steered.address()?, group_at, shared.address()?];
    let (mut beside_group, mut beside_shared) = (Vec::new(), Vec::new());
    let mut spread: [Vec<f64>; 3] = Default::default();
    for pair in 0..PAIRS {
        // In turns, so that none is always the first.
        let mut rates = [0.0; 3];
        for turn in 0..places.len() {
            let which = (turn + pair) % places.len();
            let (rate, unevenness) = rush(places[which])?;
            rates[which] = rate;
            spread[which].push(unevenness);
        }
        beside_group.push(rates[0] / rates[1]);
        beside_shared.push(rates[0] / rates[2]);
    }
    ratio("connections per second, steered / SO_REUSEPORT group", &mut beside_group);
    ratio("connections per second, steered / one shared socket", &mut beside_shared);
    for (name, spread) in ["steered", "SO_REUSEPORT group", "one shared socket"].iter().zip(&mut spread) {
        ratio(&format!("busiest / idlest of 8 instances, {name}"), spread);
    }
    ratio("connections per second of one process, steered / shared", &mut alone()?);
    row("rollback to standby, until the first connection there", &rollbacks()?);
    Ok(())
}

/// What the program in the kernel costs by itself: with one process on either side nothing else differs.
fn alone() -> Result<Vec<f64>> {
    let one = ["--listen", "http=127.0.0.1:0"];
    let steered = Supervisor::start(&[&one[..], &["--traffic", "steered"]].concat(), "__name")?;
    let shared = Supervisor::start(&one, "__name")?;
    let (steered_at, shared_at) = (steered.address()?, shared.address()?);
    let mut ratios = Vec::new();
    for pair in 0..PAIRS_ALONE {
        // In turns, as above.
        let first = if pair % 2 == 0 { steered_at } else { shared_at };
        let second = if pair % 2 == 0 { shared_at } else { steered_at };
        let (a, b) = (rush(first)?.0, rush(second)?.0);
        ratios.push(if pair % 2 == 0 { a / b } else { b / a });
    }
    Ok(ratios)
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

/// Connections per second, and how many times as many the busiest process had as the idlest.
fn rush(address: SocketAddr) -> Result<(f64, f64)> {
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let counts = thread::scope(|scope| {
        let client = || -> std::result::Result<BTreeMap<u32, u64>, String> {
            let mut counts = BTreeMap::new();
            while !over.load(Ordering::Relaxed) {
                *counts.entry(ask(address).map_err(|error| error.to_string())?).or_default() += 1;
            }
            Ok(counts)
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        thread::sleep(SPAN);
        over.store(true, Ordering::Relaxed);
        let mut sums: BTreeMap<u32, u64> = BTreeMap::new();
        for client in clients {
            for (pid, count) in client.join().map_err(|_| "a client panicked")?? {
                *sums.entry(pid).or_default() += count;
            }
        }
        Ok::<_, Box<dyn std::error::Error>>(sums)
    })?;
    let idle = INSTANCES.saturating_sub(counts.len());
    let least = counts.values().min().copied().filter(|_| idle == 0).unwrap_or(0).max(1);
    let most = counts.values().max().copied().unwrap_or(0);
    let sum: u64 = counts.values().sum();
    Ok((sum as f64 / began.elapsed().as_secs_f64(), most as f64 / least as f64))
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
