//! `zdsup status`.

use crate::cli::terminal::{Style, clean, paragraph};
use crate::control::types::{
    GenerationState, GenerationStatus, InstanceHealth, InstanceState, InstanceStatus, LastOutput, ListenerStatus,
    ProbeSummary, ServiceState, ServiceStatus, Status, SupervisorStatus, UpgradeStatus, VerdictStatus,
};
use crate::core::Verdict;
use crate::text::count;

use super::history::figures;
use super::overview;
use super::progress::{ended, last_output, output};
use super::table::Table;
use super::units::{size, span};

/// Lines of output shown of what failed.
const OUTPUT_LINES: usize = 5;

/// Everything. `now` is in seconds since the epoch.
pub(in crate::cli) fn status(status: &Status, now: f64, style: Style) -> String {
    let (quiet, others) = overview::divided(&status.services);
    let mut out = supervisor(&status.supervisor, style) + &overview::quiet(&quiet, style);
    for one in others {
        out.push('\n');
        out.push_str(&service(one, now, style));
    }
    out
}

/// What still drains, in a line.
pub(in crate::cli) fn draining(status: &Status) -> String {
    let services = status.services.iter();
    let generations = services.flat_map(|service| service.generations.iter().map(move |one| (service, one)));
    let said: Vec<String> = generations
        .map(|(service, generation)| {
            let mut facts = Vec::new();
            if let Some(connections) = generation.connections {
                facts.push(count(connections, "connection"));
            }
            let remaining = generation.instances.iter().filter_map(|instance| instance.remaining);
            if let Some(remaining) = remaining.reduce(f64::max) {
                facts.push(format!("{} left", span(remaining)));
            }
            let facts = if facts.is_empty() { String::new() } else { format!(" ({})", facts.join(", ")) };
            format!("{}@{}{facts}", service.name, generation.generation)
        })
        .collect();
    said.join(", ")
}

pub(super) fn supervisor(supervisor: &SupervisorStatus, style: Style) -> String {
    let mut facts = vec![
        format!("zdsup {}", supervisor.version),
        format!("pid {}", supervisor.pid),
        format!("up {}", span(supervisor.age)),
    ];
    facts.extend(supervisor.memory.map(size));
    let stopping = if supervisor.stopping { style.unsure(" · stopping") } else { String::new() };
    let mut out = format!("{} · {}{stopping}\n", style.strong(&supervisor.name), facts.join(" · "));
    if let Some(config) = &supervisor.config {
        out.push_str(&format!("{}\n", style.faint(&format!("config {}", clean(config)))));
    }
    if let Some(reason) = &supervisor.holding {
        let holding = format!("HOLDING what runs, and doing nothing else: {}", clean(reason));
        out.push_str(&format!("{}\n", style.bad(&holding)));
        out.push_str("`zdsup reexec` tries again, `zdsup stop` ends everything\n");
    }
    if supervisor.lines_dropped > 0 {
        let dropped = count(supervisor.lines_dropped, "line");
        out.push_str(&format!("{}\n", style.unsure(&format!("{dropped} of output dropped: nobody read them"))));
    }
    out
}

/// The name of a service, and how it stands.
pub(super) fn heading(service: &ServiceStatus, style: Style) -> String {
    let (state, paint): (_, fn(Style, &str) -> String) = match service.state {
        ServiceState::Starting => ("starting", Style::unsure),
        ServiceState::Serving => ("serving", Style::good),
        ServiceState::Upgrading => ("serving, being upgraded", Style::good),
        ServiceState::BackingOff => ("down, to be started again", Style::bad),
        ServiceState::Failed => ("FAILED, given up", Style::bad),
        ServiceState::Stopping => ("stopping", Style::unsure),
        ServiceState::Stopped => ("stopped", Style::unsure),
    };
    format!("{}  {}", style.strong(&service.name), paint(style, state))
}

/// Why it does not have as many instances as its config says, or as it should have.
pub(super) fn strength(service: &ServiceStatus, style: Style) -> String {
    let mut out = String::new();
    if let Some(configured) = service.configured {
        let scaled = format!("scaled to {}; its config says {configured}", count(service.instances.into(), "instance"));
        out.push_str(&format!("  {}\n", style.faint(&scaled)));
    }
    // Those that replace others piece by piece serve beside them.
    let together = [GenerationState::Serving, GenerationState::Rolling, GenerationState::Retreating];
    let serving: Vec<_> = service.generations.iter().filter(|one| together.contains(&one.state)).collect();
    let (ready, desired) = (serving.iter().map(|one| one.ready).sum::<u32>(), service.instances);
    if !serving.is_empty() && ready < desired {
        out.push_str(&format!("  {}\n", style.unsure(&format!("{ready} of {desired} instances ready"))));
    }
    out
}

/// That new connections are made to wait.
pub(super) fn paused(service: &ServiceStatus, style: Style) -> String {
    let Some(left) = service.paused.map(span) else { return String::new() };
    let line = format!("PAUSED: new connections wait, {left} left; `zdsup resume {}` ends it", service.name);
    format!("  {}\n", style.bad(&line))
}

/// What may be gone back to.
pub(super) fn kept(service: &ServiceStatus) -> String {
    let kept = service.kept.iter().map(|kept| {
        let at_once = if kept.standby.is_some() { " (at once)" } else { "" };
        format!("{}@{}{at_once}", service.name, kept.generation)
    });
    let kept: Vec<String> = kept.collect();
    if kept.is_empty() { String::new() } else { format!("  rollback: {}\n", kept.join(", ")) }
}

/// What goes on with a service, and what is to begin after that.
pub(super) fn to_come(service: &ServiceStatus, now: f64) -> String {
    let candidate = service.generations.iter().find(|one| one.remaining.is_some() && one.standby.is_none());
    let left = candidate.and_then(|one| one.remaining);
    let mut out = service.upgrade.as_ref().map(|upgrade| in_flight(upgrade, left)).unwrap_or_default();
    for upgrade in &service.queued {
        let (kind, id, ago) = (upgrade.kind, upgrade.id, span((now - upgrade.requested_at).max(0.0)));
        out.push_str(&format!("  {kind} #{id}: waits to begin, asked for {ago} ago\n"));
    }
    if let Some(hook) = &service.hook {
        out.push_str(&format!("  running the hook {}\n", clean(hook)));
    }
    out
}

/// The upgrade in flight. `left`: how long its step still lasts, seconds.
fn in_flight(upgrade: &UpgradeStatus, left: Option<f64>) -> String {
    let waits = match upgrade.step == "awaiting-promotion" {
        true => format!("  `zdsup promote {0}` lets it go on, `zdsup abort {0}` gives it up\n", upgrade.service),
        false => String::new(),
    };
    // Before anything is started there is nothing but the time before.
    let seen = |probe: &ProbeSummary| match &probe.before {
        Some(before) if probe.inside.requests == 0 => format!("  {}\n", figures("before, clients see", before)),
        _ => format!("  {}\n", figures("clients see", &probe.inside)),
    };
    let probe = upgrade.probe.as_ref().map(seen);
    let (kind, id, step, so_far) = (upgrade.kind, upgrade.id, &upgrade.step, span(upgrade.duration));
    let left = left.map_or_else(String::new, |left| format!(" for {} more", span(left)));
    format!("  {kind} #{id}: {step}{left}, {so_far} so far\n{waits}{}", probe.unwrap_or_default())
}

/// One service, with all that is known of it.
pub(super) fn service(service: &ServiceStatus, now: f64, style: Style) -> String {
    let mut out = format!("{}\n", heading(service, style));
    out.push_str(&strength(service, style));
    if let Some(detail) = &service.detail {
        out.extend(paragraph(detail, 2, style).iter().map(|line| format!("  {}\n", style.unsure(line))));
    }
    out.push_str(&paused(service, style));
    if let Some(LastOutput { instance, lines, elsewhere }) = &service.last_output {
        let heading = format!("the last output of {}@{}", service.name, clean(instance));
        let lines = &lines[lines.len().saturating_sub(OUTPUT_LINES)..];
        out.push_str(&last_output(&heading, lines, elsewhere.as_deref(), "  ", style));
    }
    out.push_str(&to_come(service, now));
    let mut table = Table::new(["INSTANCE", "STATE", "WEIGHT", "PID", "AGE", "CONNS", "MEMORY", "CPU"]);
    for generation in &service.generations {
        add_generation(&mut table, &service.name, generation);
    }
    out.push_str(&table.text(style));
    let mut table = Table::new(["LISTENER", "ADDRESS", "QUEUE", ""]);
    for listener in &service.listeners {
        table.row(listener_cells(listener), Style::plain, Vec::new());
    }
    out.push_str(&table.text(style));
    if service.fd_store_max > 0 || service.fd_store > 0 {
        out.push_str(&format!("  {} of {} descriptors stored\n", service.fd_store, service.fd_store_max));
    }
    out.push_str(&kept(service));
    if let Some(last) = &service.last_upgrade {
        out.push_str(&last_upgrade(last, now, style));
    }
    out
}

fn add_generation(table: &mut Table<8>, service: &str, generation: &GenerationStatus) {
    let paint = paint(generation.state);
    let weight = generation.weight.map(|weight| format!("{weight} %")).unwrap_or_default();
    if generation.instances.is_empty() {
        let mut cells: [String; 8] = Default::default();
        cells[0] = format!("{service}@{}", generation.generation);
        cells[1] = generation_state(generation.state).into();
        cells[2] = weight;
        table.row(cells, paint, Vec::new());
        return;
    }
    for (at, instance) in generation.instances.iter().enumerate() {
        let unknown = || "?".to_owned();
        // What is of the whole generation is said once.
        let (weight, standby) = if at == 0 { (weight.clone(), generation.standby) } else { Default::default() };
        let cells = [
            format!("{service}@{}", instance.instance),
            instance_state(generation.state, instance.state).into(),
            weight,
            instance.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
            span(instance.age),
            instance.connections.map_or_else(unknown, |connections| connections.to_string()),
            instance.memory.map_or_else(unknown, size),
            instance.cpu.map_or_else(unknown, span),
        ];
        let standby =
            standby.map(|left| format!("`zdsup rollback {service}` goes back at once for {} more", span(left)));
        table.row(cells, paint, standby.into_iter().chain(below(instance)).collect());
    }
}

pub(super) fn paint(state: GenerationState) -> fn(Style, &str) -> String {
    match state {
        GenerationState::Serving => Style::good,
        GenerationState::Starting
        | GenerationState::Soaking
        | GenerationState::Held
        | GenerationState::Rolling
        | GenerationState::Canary
        | GenerationState::Standby
        | GenerationState::Draining => Style::unsure,
        GenerationState::BackingOff
        | GenerationState::Failed
        | GenerationState::Retreating
        | GenerationState::Ending => Style::bad,
    }
}

/// What an instance waits for, what it says, and what an operator should know.
pub(super) fn below(instance: &InstanceStatus) -> Vec<String> {
    let left = instance.remaining.and_then(|seconds| match instance.state {
        InstanceState::Preparing | InstanceState::Starting => Some(format!("{} left to be ready", span(seconds))),
        InstanceState::Proving => Some(format!("{} left to pass its health checks", span(seconds))),
        InstanceState::Stopping | InstanceState::Aborting | InstanceState::Leftovers => {
            Some(format!("SIGKILL in {}", span(seconds)))
        }
        InstanceState::Ready | InstanceState::Killing => None,
    });
    let said: Vec<String> =
        [left, health(instance), instance.status.as_deref().map(clean)].into_iter().flatten().collect();
    let said = if said.is_empty() { None } else { Some(said.join(" · ")) };
    said.into_iter().chain(instance.notes.iter().map(|note| format!("note: {}", clean(note)))).collect()
}

/// What its health checks say, unless all is well.
fn health(instance: &InstanceStatus) -> Option<String> {
    let failure = instance.health_failure.as_deref().map(clean);
    let failure = |what: &str| failure.map_or_else(|| what.to_owned(), |failure| format!("{what}: {failure}"));
    match instance.health {
        InstanceHealth::Unchecked => None,
        InstanceHealth::Proving => Some(failure("not healthy yet")),
        InstanceHealth::Passing => instance.health_failure.is_some().then(|| failure("the latest health check failed")),
        InstanceHealth::Failing => Some(failure("UNHEALTHY")),
    }
}

pub(super) fn generation_state(state: GenerationState) -> &'static str {
    match state {
        GenerationState::Starting => "starting",
        GenerationState::Soaking => "soaking",
        GenerationState::Held => "held",
        GenerationState::Rolling => "rolling",
        GenerationState::Canary => "canary",
        GenerationState::Standby => "standby",
        GenerationState::Retreating => "retreating",
        GenerationState::Serving => "serving",
        GenerationState::BackingOff => "down",
        GenerationState::Failed => "FAILED",
        GenerationState::Draining => "draining",
        GenerationState::Ending => "ending",
    }
}

/// The generation's part says it, unless the process itself is somewhere else.
pub(super) fn instance_state(generation: GenerationState, instance: InstanceState) -> &'static str {
    match (instance, generation) {
        (InstanceState::Aborting, _) => "aborting",
        (InstanceState::Killing, _) => "killing",
        (InstanceState::Leftovers, _) => "leftovers",
        (
            InstanceState::Preparing | InstanceState::Starting | InstanceState::Proving,
            GenerationState::BackingOff | GenerationState::Serving | GenerationState::Standby,
        ) => "restarting",
        (InstanceState::Proving, _) => "proving",
        (
            InstanceState::Stopping,
            GenerationState::Starting
            | GenerationState::Soaking
            | GenerationState::Rolling
            | GenerationState::Canary
            | GenerationState::Serving
            | GenerationState::Standby,
        ) => "stopping",
        (
            InstanceState::Preparing | InstanceState::Starting | InstanceState::Ready | InstanceState::Stopping,
            generation,
        ) => generation_state(generation),
    }
}

fn listener_cells(listener: &ListenerStatus) -> [String; 4] {
    let queue = match (listener.queue, listener.backlog) {
        (Some(queue), Some(backlog)) => format!("{queue}/{backlog}"),
        (Some(queue), None) => queue.to_string(),
        (None, _) => "-".into(),
    };
    let origin = if listener.origin == "inherited" { "from systemd" } else { "" };
    [listener.name.clone(), clean(&listener.address), queue, origin.into()]
}

pub(super) fn last_upgrade(last: &UpgradeStatus, now: f64, style: Style) -> String {
    let Some(verdict) = &last.verdict else { return String::new() };
    let ago = span((now - last.requested_at - last.duration).max(0.0));
    let when = format!("{} ago, after {}", ago, span(last.duration));
    let what = format!("last {} #{}:", last.kind, last.id);
    let VerdictStatus { reason, hint, .. } = verdict;
    if verdict.verdict == Verdict::Upgraded {
        let to = last.generation.map(|generation| format!(" to {}@{generation}", last.service)).unwrap_or_default();
        let line = format!("  {what} {} {}\n", style.good(&format!("upgraded{to}")), style.faint(&format!("({when})")));
        return line + &warnings(last, style);
    }
    let candidate = last.generation.map(|generation| format!(" {}@{generation}", last.service)).unwrap_or_default();
    let mut out = format!("  {what}{candidate} {} {}\n", ended(verdict, style), style.faint(&format!("({when})")));
    if let Some(reason) = reason {
        out.extend(paragraph(reason, 4, style).iter().map(|line| format!("    {line}\n")));
    }
    out.push_str(&output(verdict, OUTPUT_LINES, "    ", style));
    if let Some(hint) = hint {
        out.extend(paragraph(&format!("hint: {hint}"), 4, style).iter().map(|line| format!("    {line}\n")));
    }
    out + &warnings(last, style)
}

fn warnings(last: &UpgradeStatus, style: Style) -> String {
    let lines = |warning: &String| paragraph(&format!("warning: {warning}"), 4, style);
    last.warnings.iter().flat_map(lines).map(|line| format!("    {}\n", style.unsure(&line))).collect()
}
