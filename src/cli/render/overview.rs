//! Many services: a line for each of which there is nothing to say, so that the others are seen.

use super::status::paint;
use super::table::Table;
use super::units::{size, span};
use crate::cli::terminal::{Style, clean};
use crate::control::types::{GenerationState, InstanceState, ServiceState, ServiceStatus};
use crate::core::Verdict;
use crate::text::count;

/// So many services are shown in full.
const IN_FULL: usize = 6;

/// Those of which there is nothing to say but that they serve, where there are many; and the others.
pub(super) fn divided(services: &[ServiceStatus]) -> (Vec<&ServiceStatus>, Vec<&ServiceStatus>) {
    let many = services.len() > IN_FULL;
    services.iter().partition(|service| many && is_quiet(service))
}

/// Services that serve and do nothing else, a line each.
pub(super) fn quiet(services: &[&ServiceStatus], style: Style) -> String {
    if services.is_empty() {
        return String::new();
    }
    let heading = style.good(&format!("{} serving", count(services.len() as u64, "service")));
    let more = style.faint("`zdsup status SERVICE` shows all about one");
    format!("\n{heading}\n{}  {more}\n", table(services).text(style))
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
        && service.queued.is_empty()
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
