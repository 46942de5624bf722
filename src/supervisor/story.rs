//! What each step is called, and the sentence that a person reads about it: in the log, in the progress of a reload,
//! in the control API. One place, so that they agree.

use crate::core::{Generation, Kind, Reason, Step, UpgradeId, Verdict, spoken};
use crate::exit::Exit;
use crate::text::count;

/// The name of a step in the control API.
pub(super) fn name(step: &Step) -> &'static str {
    match step {
        Step::Pinning => "pinning",
        Step::Starting { .. } => "starting",
        Step::Spawned { .. } => "spawned",
        Step::Ready { .. } => "ready",
        Step::Soaking { .. } => "soaking",
        Step::Held { .. } => "held",
        Step::TakingBack { .. } => "taking-back",
        Step::SwitchingBack { .. } => "switching-back",
        Step::Rolled { .. } => "rolled",
        Step::Weighted { hold: Some(_), .. } => "weighted",
        Step::Weighted { hold: None, .. } => "awaiting-promotion",
        Step::Serving { .. } => "serving",
        Step::Standby { .. } => "standby",
        Step::Returning { .. } => "returning",
        Step::HookBegun { .. } => "hook",
        Step::Scaled { .. } => "scaled",
        Step::Paused { .. } => "paused",
        Step::Resumed => "resumed",
        Step::Unhealthy { .. } => "unhealthy",
        Step::Healthy { .. } => "healthy",
        Step::Draining { .. } => "draining",
        Step::Stopping { .. } => "stopping",
        Step::Aborting { .. } => "aborting",
        Step::Exited { .. } => "exited",
        Step::Overdue { .. } => "overdue",
        Step::Undead { .. } => "undead",
        Step::Retrying { .. } => "retrying",
        Step::GaveUp { .. } => "gave-up",
        Step::Drained { .. } => "drained",
        Step::Leaving { .. } => "leaving",
        Step::Stopped => "stopped",
    }
}

/// The generation that a step is about.
pub(super) fn generation(step: &Step) -> Option<Generation> {
    match step {
        Step::Pinning
        | Step::TakingBack { .. }
        | Step::Paused { .. }
        | Step::Resumed
        | Step::Leaving { .. }
        | Step::Stopped => None,
        Step::Starting { generation }
        | Step::Soaking { generation, .. }
        | Step::Held { generation }
        | Step::SwitchingBack { generation }
        | Step::Rolled { generation, .. }
        | Step::Weighted { generation, .. }
        | Step::Serving { generation }
        | Step::Standby { generation, .. }
        | Step::Returning { generation, .. }
        | Step::HookBegun { generation, .. }
        | Step::Scaled { generation, .. }
        | Step::Draining { generation, .. }
        | Step::Retrying { generation, .. }
        | Step::GaveUp { generation, .. }
        | Step::Drained { generation } => Some(*generation),
        Step::Spawned { instance }
        | Step::Ready { instance, .. }
        | Step::Stopping { instance }
        | Step::Unhealthy { instance, .. }
        | Step::Healthy { instance }
        | Step::Aborting { instance, .. }
        | Step::Exited { instance, .. }
        | Step::Overdue { instance }
        | Step::Undead { instance } => Some(instance.generation),
    }
}

/// The sentence. Which generation it is about is said beside it; which of its instances, where there are several, here.
pub(super) fn sentence(step: &Step, pid: Option<u32>, several: bool) -> String {
    let sentence = sentence_of_one(step, pid);
    match step {
        Step::Spawned { instance } if several => format!("instance {} spawned as {}", instance.number, process(pid)),
        Step::Spawned { instance } | Step::Ready { instance, .. } | Step::Exited { instance, .. } if several => {
            format!("instance {} {sentence}", instance.number)
        }
        _ => sentence,
    }
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(|| "its process".to_owned(), |pid| format!("process {pid}"))
}

fn sentence_of_one(step: &Step, pid: Option<u32>) -> String {
    let process = || process(pid);
    match step {
        Step::Pinning => "resolving the release".into(),
        Step::Starting { .. } => "starting".into(),
        Step::Spawned { .. } => format!("spawned as {}, waiting for it to be ready", process()),
        Step::Ready { after, .. } => format!("ready after {}", spoken(*after)),
        Step::Soaking { span, .. } => format!("soaking for {}", spoken(*span)),
        Step::Held { .. } => "ready, and waits for the others to be switched with it".into(),
        Step::TakingBack { upgrade } => {
            format!("upgrade #{upgrade} is taken back, since another of the same request failed")
        }
        Step::SwitchingBack { .. } => "switching back to it, which stands by".into(),
        Step::Rolled { ready, of, .. } if ready == of => format!("all {of} instances take part"),
        Step::Rolled { ready, of, .. } => format!("{ready} of {of} instances take part"),
        Step::Weighted { weight, hold: Some(hold), .. } => {
            format!("{weight} % of new connections for {}", spoken(*hold))
        }
        Step::Weighted { weight, hold: None, .. } => {
            format!("{weight} % of new connections, until `zdsup promote` or `zdsup abort`")
        }
        Step::Serving { .. } => "serving".into(),
        Step::Standby { span, .. } => format!("standing by for {}: `zdsup rollback` goes back at once", spoken(*span)),
        Step::Returning { reason, .. } => format!("coming back, since the new generation is given up: {reason}"),
        Step::HookBegun { hook, .. } => format!("running the {hook} hook"),
        Step::Scaled { instances, .. } => format!("{} from now on", count((*instances).into(), "instance")),
        Step::Paused { span } => format!("paused: new connections wait, for {} at most", spoken(*span)),
        Step::Resumed => "resumed: new connections are let in again".into(),
        Step::Unhealthy { reason, .. } => format!("{}: {reason}", process()),
        Step::Healthy { .. } => format!("the health checks of {} pass again", process()),
        Step::Draining { timeout, .. } => format!("draining, {} at most", spoken(*timeout)),
        Step::Stopping { .. } => format!("{} says that it is stopping", process()),
        Step::Aborting { reason, .. } => format!("{reason}: {} is sent the watchdog's signal", process()),
        Step::Exited { exit, .. } => format!("ended: {exit}"),
        Step::Overdue { .. } => format!("{} outlived its deadline: SIGKILL", process()),
        Step::Undead { .. } => format!("{} survives SIGKILL (stuck in the kernel?), trying again", process()),
        Step::Retrying { delay, failures, reason, .. } => {
            format!("{reason}; starting it again in {} (failure {failures} in a row)", spoken(*delay))
        }
        Step::GaveUp { failures, reason, .. } => {
            format!("{reason}; given up after {failures} failures in a row: listeners stay bound, nothing answers")
        }
        Step::Drained { .. } => "gone".into(),
        Step::Leaving { reason } => format!("{reason}: it is stopped, then its listeners are closed"),
        Step::Stopped => "stopped".into(),
    }
}

/// The exit code that says what a verdict says.
pub(super) fn exit_code(verdict: Verdict, reason: Option<&Reason>) -> Exit {
    match (verdict, reason) {
        (Verdict::Upgraded, _) => Exit::Done,
        (Verdict::Refused, Some(Reason::Config(_))) => Exit::Usage,
        (Verdict::Refused, _) => Exit::Refused,
        (Verdict::Failed | Verdict::RolledBack | Verdict::Aborted, _) => Exit::Failed,
    }
}

/// The verdict of an upgrade that succeeded. `from`: what served before; `release`: the generation that first ran what
/// runs now.
pub(super) fn upgraded(
    kind: Kind,
    service: &str,
    (from, candidate): (Option<Generation>, Option<Generation>),
    release: Option<Generation>,
) -> String {
    let verdict = Verdict::Upgraded;
    match (kind, candidate, release) {
        // It is older than what it replaces: it stood by.
        (Kind::Rollback, Some(candidate), _) if from > Some(candidate) => {
            format!("{verdict}: {service}@{candidate} serves again")
        }
        (Kind::Rollback, _, Some(release)) => format!("{verdict}: it runs the release of {service}@{release}"),
        (Kind::Rollback, _, None) | (Kind::Start | Kind::Reload | Kind::Restart, ..) => verdict.to_string(),
    }
}

/// Why an upgrade ended as it did. What a candidate waits for is best known to itself, so its last status comes along;
/// what its health checks wait for, to them.
/// `other`: the service of the upgrade that it is about.
pub(super) fn reason(reason: &Reason, status: Option<&str>, check: Option<&str>, other: Option<&str>) -> String {
    match (reason, status, check, other) {
        (Reason::NeverReady(_), Some(status), ..) => format!("{reason}; its last status: {status}"),
        (Reason::NeverHealthy(_), _, Some(check), _) => format!("{reason}; the last one: {check}"),
        (Reason::NotBegun { upgrade, verdict }, .., Some(other)) => {
            format!("not begun, since upgrade #{upgrade} of {other} {}", verdict.spoken())
        }
        (Reason::NotAlone { upgrade, verdict }, .., Some(other)) => {
            format!("upgrade #{upgrade} of {other} {}, and all of them were to succeed or none", verdict.spoken())
        }
        _ => reason.to_string(),
    }
}

/// The other upgrade that a reason is about.
pub(super) fn another(reason: &Reason) -> Option<UpgradeId> {
    match reason {
        Reason::NotBegun { upgrade, .. } | Reason::NotAlone { upgrade, .. } => Some(*upgrade),
        _ => None,
    }
}

/// What would mend it.
pub(super) fn hint(reason: &Reason) -> Option<String> {
    Some(match reason {
        Reason::NeverReady(_) => {
            "does it send READY=1 to $NOTIFY_SOCKET? otherwise choose another proof with ready.by (--ready), or give it \
             longer with ready.timeout (--ready-timeout)"
                .into()
        }
        Reason::NeverHealthy(_) => {
            "a service that is ready long before it answers well may need longer: ready.timeout (--ready-timeout); \
             otherwise see whether [service.NAME.health] asks for the right thing"
                .into()
        }
        Reason::WatchdogMissed(_) => {
            "while it is well it must send WATCHDOG=1 to $NOTIFY_SOCKET within $WATCHDOG_USEC microseconds, better twice; \
             give it longer with watchdog.timeout (--watchdog-timeout)"
                .into()
        }
        Reason::TooManyDraining { .. } => {
            "wait for one to end (`zdsup status` shows how long, and its process, to be killed at need), or raise \
             upgrade.max-draining and reload"
                .into()
        }
        _ => return None,
    })
}
