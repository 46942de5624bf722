//! `zdsup status --watch`: how everything stands, a line a generation, so that it is seen at a glance what changes.

use std::collections::BTreeMap;

use crate::cli::terminal::{Style, paragraph};
use crate::control::types::{GenerationState, GenerationStatus, InstanceHealth, InstanceState, ServiceStatus, Status};

use super::overview;
use super::status::{below, generation_state, heading, instance_state, kept, last_upgrade, paint};
use super::status::{paused, strength, supervisor, to_come};
use super::table::Table;
use super::units::span;

/// How wide a bar of 100 % is, characters.
const BAR: u32 = 8;
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// The most connections that each generation was seen with.
#[derive(Debug, Default)]
pub(in crate::cli) struct Peaks(BTreeMap<(String, u64), u64>);

impl Peaks {
    /// Takes note of what there is, and forgets what is gone.
    fn see(&mut self, status: &Status) {
        let mut seen = BTreeMap::new();
        for service in &status.services {
            for generation in &service.generations {
                let name = (service.name.clone(), generation.generation);
                let before = self.0.get(&name).copied().unwrap_or_default();
                seen.insert(name, before.max(generation.connections.unwrap_or_default()));
            }
        }
        self.0 = seen;
    }

    fn of(&self, service: &ServiceStatus, generation: &GenerationStatus) -> u64 {
        self.0.get(&(service.name.clone(), generation.generation)).copied().unwrap_or_default()
    }
}

/// Everything. `now` is in seconds since the epoch.
pub(in crate::cli) fn watch(status: &Status, peaks: &mut Peaks, now: f64, style: Style) -> String {
    peaks.see(status);
    let mut out = supervisor(&status.supervisor, style);
    // What moves comes first: the end of a long picture is below the screen.
    let (quiet, others) = overview::divided(&status.services);
    for service in others {
        out.push('\n');
        out.push_str(&one(service, peaks, now, style));
    }
    out + &overview::quiet(&quiet, style)
}

fn one(service: &ServiceStatus, peaks: &Peaks, now: f64, style: Style) -> String {
    let how = format!("{}, {} traffic", service.strategy, service.traffic);
    let mut out = format!("{}  {}\n", heading(service, style), style.faint(&how));
    out.push_str(&strength(service, style));
    if let Some(detail) = &service.detail {
        out.extend(paragraph(detail, 2, style).iter().map(|line| format!("  {}\n", style.unsure(line))));
    }
    out.push_str(&paused(service, style));
    out.push_str(&to_come(service, now));
    let mut table = Table::new(["GENERATION", "STATE", "TRAFFIC", "READY", "CONNS", "LEFT"]);
    for generation in &service.generations {
        let cells = [
            format!("{}@{}", service.name, generation.generation),
            generation_state(generation.state).into(),
            generation.weight.map(bar).unwrap_or_default(),
            ready(generation),
            connections(generation, peaks.of(service, generation)),
            left(generation),
        ];
        table.row(cells, paint(generation.state), out_of_line(generation));
    }
    out.push_str(&table.text(style));
    let queues = service.listeners.iter().filter_map(|listener| {
        let (queue, backlog) = (listener.queue?, listener.backlog?);
        Some(format!("{} {queue}/{backlog}", listener.name))
    });
    let queues: Vec<String> = queues.collect();
    if !queues.is_empty() {
        out.push_str(&format!("  queues: {}\n", queues.join(", ")));
    }
    out.push_str(&kept(service));
    if let Some(last) = &service.last_upgrade {
        let text = last_upgrade(last, now, style);
        text.lines().take(2).for_each(|line| out.push_str(&format!("{line}\n")));
    }
    out
}

/// A share, drawn and in figures.
fn bar(percent: u32) -> String {
    let eighths = percent.min(100) * BAR * 8 / 100;
    let (whole, rest) = ((eighths / 8) as usize, EIGHTHS[(eighths % 8) as usize]);
    let drawn = "█".repeat(whole) + rest;
    format!("{drawn:<width$} {percent:>3} %", width = BAR as usize)
}

/// How many instances are of use, and what their health checks say.
fn ready(generation: &GenerationStatus) -> String {
    let count = |health| generation.instances.iter().filter(|instance| instance.health == health).count();
    let counts = [InstanceHealth::Failing, InstanceHealth::Proving, InstanceHealth::Passing].map(count);
    let health = match counts {
        [0, 0, 0] => String::new(),
        [0, 0, _] => " healthy".into(),
        [0, proving, _] => format!(", {proving} proving"),
        [failing, ..] => format!(", {failing} failing"),
    };
    format!("{}/{}{health}", generation.ready, generation.desired)
}

/// How many connections there are; of what drains, of how many.
fn connections(generation: &GenerationStatus, peak: u64) -> String {
    let now = generation.connections.map_or_else(|| "?".into(), |now| now.to_string());
    match generation.state {
        GenerationState::Draining | GenerationState::Ending if peak > 0 => format!("{now} of {peak}"),
        _ => now,
    }
}

/// The time until something happens to it by itself.
fn left(generation: &GenerationStatus) -> String {
    let until = |of: &[InstanceState]| {
        let theirs = generation.instances.iter().filter(|instance| of.contains(&instance.state));
        theirs.filter_map(|instance| instance.remaining).reduce(f64::min).map(span)
    };
    let ends = [InstanceState::Stopping, InstanceState::Aborting, InstanceState::Leftovers];
    let starts = [InstanceState::Preparing, InstanceState::Starting, InstanceState::Proving];
    let until_what = match generation.state {
        GenerationState::Soaking | GenerationState::Rolling => "soak",
        state => generation_state(state),
    };
    match (generation.remaining, until(&ends), until(&starts)) {
        (Some(left), ..) => format!("{} {until_what}", span(left)),
        (None, Some(left), _) => format!("{left} to kill"),
        (None, None, Some(left)) => format!("{left} to ready"),
        (None, None, None) => String::new(),
    }
}

/// The instances that do not stand as their generation does, or of which there is something to say.
fn out_of_line(generation: &GenerationStatus) -> Vec<String> {
    let mut lines = Vec::new();
    for instance in &generation.instances {
        let state = instance_state(generation.state, instance.state);
        let well = instance.health_failure.is_none() && instance.health != InstanceHealth::Failing;
        let quiet = well && state == generation_state(generation.state);
        let starts = matches!(instance.state, InstanceState::Starting | InstanceState::Proving);
        let notes = if quiet && !starts { Vec::new() } else { below(instance) };
        if !quiet || !notes.is_empty() {
            let said = notes.into_iter().map(|note| format!(" · {note}")).collect::<String>();
            lines.push(format!("{} {state}{said}", instance.instance));
        }
    }
    lines
}
