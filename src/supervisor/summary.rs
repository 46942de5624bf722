//! How everything stands, in one line.

use super::Supervisor;
use crate::control::types::UpgradeStatus;
use crate::core::service::Role;
use crate::core::{Time, Verdict, about};
use crate::text::{count, floor_char_boundary};

/// What systemd takes of a message is 4096 bytes, and what it shows of a status is one line.
const LINE: usize = 2000;

impl Supervisor {
    /// One line about everything: `web@3 serving; web@2 draining, 12 connections, 20 s left`, and the latest upgrade if
    /// it did not succeed: `web@4 failed: never ready in 30 s`. Where that is too much, those that serve are counted.
    pub(super) fn status_line(&self, counted: Option<&crate::control::types::Status>) -> String {
        let now = self.now();
        let mut parts = Vec::new();
        let mut quiet = Vec::new();
        let ended = self.ledger.each_last_ended();
        for (id, service) in self.core.services() {
            let name = self.name_of(*id);
            if service.awaits_turn() {
                parts.push(format!("{name} waiting to start"));
            }
            if let Some(until) = service.paused_until() {
                parts.push(format!("{name} PAUSED, {} left at most", about(until.since(now))));
            }
            for generation in service.generations.values().rev() {
                let left = |until: Option<Time>| {
                    until
                        .and_then(|until| until.left(now))
                        .map_or_else(String::new, |left| format!(", {} left", about(left)))
                };
                let until_next = left(generation.role_until());
                let what = match generation.role {
                    Role::Starting => "starting".into(),
                    Role::Held { .. } => format!("ready, waiting for the others{until_next}"),
                    Role::Soaking { .. } => format!("soaking{until_next}"),
                    Role::Rolling { .. } => {
                        format!("replacing, {} of {} ready", generation.available(), generation.seats.len())
                    }
                    Role::Stepping { .. } => {
                        let weights = service.weights();
                        let share = weights.iter().find(|(number, _)| *number == generation.number);
                        format!("canary with {} %{until_next}", share.map_or(0, |(_, percent)| *percent))
                    }
                    Role::Switching => "switching".into(),
                    Role::Standby { .. } => format!("standby{until_next}"),
                    Role::Retreating => "given up, being replaced".into(),
                    Role::Serving if generation.is_up() => "serving".into(),
                    Role::Serving if generation.is_given_up() => "FAILED, given up".into(),
                    Role::Serving if !service.is_replaced(generation) => "down, being restarted".into(),
                    Role::Serving | Role::Draining | Role::Ending => {
                        let last = generation.instances.values().filter_map(|instance| instance.deadline()).max();
                        let connections = counted
                            .and_then(|status| status.services.iter().find(|service| service.name == name))
                            .and_then(|s| s.generations.iter().find(|g| g.generation == generation.number.0))
                            .and_then(|generation| generation.connections);
                        let connections =
                            connections.map(|n| format!(", {}", count(n, "connection"))).unwrap_or_default();
                        format!("draining{connections}{}", left(last))
                    }
                };
                if generation.role == Role::Serving && generation.is_up() {
                    quiet.push(parts.len());
                }
                parts.push(format!("{name}@{} {what}", generation.number));
            }
            if service.upgrade.is_none() {
                parts.extend(ended.get(name).copied().and_then(failure));
            }
        }
        one_line(parts, &quiet)
    }
}

/// All the parts, as far as they fit: those that are quiet become a number first.
fn one_line(mut parts: Vec<String>, quiet: &[usize]) -> String {
    if parts.is_empty() {
        return "nothing runs".into();
    }
    if parts.iter().map(|part| part.len() + 2).sum::<usize>() > LINE {
        for place in quiet.iter().rev() {
            parts.remove(*place);
        }
        parts.insert(0, format!("{} serving", quiet.len()));
    }
    let mut line = parts.join("; ");
    if line.len() > LINE {
        line.truncate(floor_char_boundary(&line, LINE));
        line.push('…');
    }
    line
}

/// How an upgrade ended, unless it succeeded.
fn failure(upgrade: &UpgradeStatus) -> Option<String> {
    let verdict = upgrade.verdict.as_ref().filter(|verdict| verdict.verdict != Verdict::Upgraded)?;
    let candidate = upgrade.generation.map_or_else(String::new, |number| format!("@{number}"));
    // A reason from the config goes on with the place in the file; the log has all of it.
    let reason = verdict.reason.as_deref().and_then(|reason| reason.lines().next());
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    Some(format!("{}{candidate} {}{reason}", upgrade.service, verdict.verdict))
}
