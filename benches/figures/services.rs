//! What many services in one supervisor cost: a hundred, each of two processes and with two listeners.

use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use zdsup::control::types::ServiceState;

use super::{Directory, ROUNDS, Result, SETTLE, Supervisor, row, run, times, wait_for};

const SERVICES: usize = 100;
const INSTANCES: usize = 2;

pub(super) fn figures() -> Result<()> {
    let place = Directory::new()?;
    let config = place.0.join("many.toml");
    fs::write(&config, many()?)?;
    let began = Instant::now();
    let supervisor = Supervisor::of_config(&config)?;
    let serves = |services: &[zdsup::control::types::ServiceStatus]| {
        let whole = services.iter().filter(|one| one.state == ServiceState::Serving && one.generations[0].ready == 2);
        whole.count() == SERVICES
    };
    wait_for(|| Ok(supervisor.status().is_ok_and(|status| serves(&status.services))))?;
    let started = began.elapsed();
    println!("{:<58} {:>12}", "100 services with 2 processes and 2 listeners: start", format!("{started:.2?}"));
    row("status --json of all, the command included", &times(ROUNDS, || supervisor.status().map(drop))?);
    row("reload of one, the command included", &times(ROUNDS, || run(supervisor.command("reload").arg("s50")))?);
    let began = Instant::now();
    supervisor.reload()?;
    let all = began.elapsed();
    println!("{:<58} {:>12}", "reload of all, one after the other", format!("{all:.2?}"));
    let loaded = supervisor.memory()?;
    std::thread::sleep(SETTLE * 2);
    for (name, kib) in
        [("supervisor RSS, straight after", loaded), ("supervisor RSS, idle again", supervisor.memory()?)]
    {
        println!("{name:<58} {:>12}", format!("{:.2} MiB", kib as f64 / 1024.0));
    }
    let before = supervisor.switches()?;
    std::thread::sleep(super::IDLE);
    let wakeups = supervisor.switches()? - before;
    println!("{:<58} {wakeups:>12}", "wakeups of the supervisor in 10 idle seconds");
    Ok(())
}

fn many() -> Result<String> {
    let program = std::env::current_exe()?;
    let mut text = String::new();
    for number in 1..=SERVICES {
        write!(
            text,
            "[service.s{number}]\ncommand = [{program:?}, \"__instant\"]\ninstances = {INSTANCES}\n\
             [[service.s{number}.listen]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n\
             [[service.s{number}.listen]]\nname = \"b\"\naddress = \"127.0.0.1:0\"\n"
        )?;
    }
    Ok(text)
}
