//! Many services: a line for each of which there is nothing to say, so that the others are seen.

use super::status::{paint, service};
use super::table::Table;
use super::units::{count, size, span};
use crate::cli::terminal::{Style, clean};
use crate::control::types::{GenerationState, InstanceState, ServiceState, ServiceStatus};
use crate::core::Verdict;

/// So many services are shown in full.
const IN_FULL: usize = 6;

/// Services; those that serve and do nothing else in a table where there are many. `now` is in seconds since the epoch.
pub(super) fn services(services: &[ServiceStatus], now: f64, style: Style) -> String {
    let many = services.len() > IN_FULL;
    let (quiet, others): (Vec<_>, Vec<_>) = services.iter().partition(|service| many && is_quiet(service));
    let mut out = String::new();
    if !quiet.is_empty() {
        out.push_str(&format!("\n{}\n", style.good(&format!("{} serving", count(quiet.len() as u64, "service")))));
        out.push_str(&table(&quiet).text(style));
        out.push_str(&format!("  {}\n", style.faint("`zdsup status SERVICE` shows all about one")));
    }
    for one in others {
        out.push('\n');
        out.push_str(&service(one, now, style));
    }
    out
}

/// Whether it serves as it is meant to, and nothing else is to be said about it.
fn is_quiet(service: &ServiceStatus) -> bool {
    let [generation] = service.generations.as_slice() else { return false };
    let ready = |state| state == InstanceState::Ready;
    let failed = |verdict| verdict != Verdict::Upgraded;
    let last = service.last_upgrade.as_ref();
    service.state == ServiceState::Serving
        && generation.state == GenerationState::Serving
        && generation.ready == generation.desired
        && generation.instances.iter().all(|one| ready(one.state))
        && service.detail.is_none()
        && service.paused.is_none()
        && service.configured.is_none()
        && service.upgrade.is_none()
        && service.hook.is_none()
        && !last.is_some_and(|last| {
            !last.warnings.is_empty() || last.verdict.as_ref().is_some_and(|verdict| failed(verdict.verdict))
        })
}

fn table(services: &[&ServiceStatus]) -> Table<8> {
    let mut table = Table::new(["GENERATION", "READY", "AGE", "CONNS", "MEMORY", "CPU", "NOTES", "LISTENERS"]);
    for service in services {
        let Some(generation) = service.generations.first() else { continue };
        let sum = |of: Vec<Option<u64>>| of.into_iter().sum::<Option<u64>>();
        let memory = sum(generation.instances.iter().map(|one| one.memory).collect());
        let cpu = generation.instances.iter().map(|one| one.cpu).sum::<Option<f64>>();
        let notes: usize = generation.instances.iter().map(|one| one.notes.len()).sum();
        let oldest = generation.instances.iter().map(|one| one.age).reduce(f64::max);
        let listeners = match service.listeners.as_slice() {
            [] => String::new(),
            [one] => clean(&one.address),
            [first, rest @ ..] => format!("{} +{}", clean(&first.address), rest.len()),
        };
        let unknown = || "?".to_owned();
        let cells = [
            format!("{}@{}", service.name, generation.generation),
            format!("{} of {}", generation.ready, generation.desired),
            oldest.map_or_else(unknown, span),
            generation.connections.map_or_else(unknown, |connections| connections.to_string()),
            memory.map_or_else(unknown, size),
            cpu.map_or_else(unknown, span),
            if notes == 0 { String::new() } else { notes.to_string() },
            listeners,
        ];
        table.row(cells, paint(generation.state), Vec::new());
    }
    table
}
