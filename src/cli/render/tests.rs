//! What is shown, as it is shown.

use super::{Peaks, accepted, draining, event, history, kpi, status, timeline, waiting, watch};
use crate::cli::terminal::Style;
use crate::control::types::*;

const PLAIN: Style = Style { colour: false, width: Some(80) };

fn service() -> ServiceStatus {
    ServiceStatus {
        name: "web".into(),
        state: ServiceState::Upgrading,
        detail: None,
        last_output: None,
        serving: Some(3),
        upgrade: Some(upgrade(9, "spawned", None)),
        queued: Vec::new(),
        last_upgrade: Some(upgrade(8, "done", Some(failed()))),
        instances: 1,
        configured: None,
        strategy: "overlap".into(),
        traffic: "shared".into(),
        kept: Vec::new(),
        hook: None,
        paused: None,
        generations: vec![
            generation(4, GenerationState::Starting, instance("4.1", InstanceState::Starting, Some(28.2))),
            generation(3, GenerationState::Serving, instance("3.1", InstanceState::Ready, None)),
            generation(2, GenerationState::Draining, instance("2.1", InstanceState::Stopping, Some(11.0))),
        ],
        listeners: vec![
            ListenerStatus {
                name: "http".into(),
                address: "0.0.0.0:8080".into(),
                queue: Some(3),
                backlog: Some(4096),
                origin: "bound".into(),
            },
            ListenerStatus {
                name: "admin".into(),
                address: "unix:/run/web/admin.sock".into(),
                queue: None,
                backlog: None,
                origin: "inherited".into(),
            },
        ],
        fd_store: 3,
        fd_store_max: 16,
    }
}

fn whole() -> Status {
    Status {
        supervisor: SupervisorStatus {
            name: "web".into(),
            version: "0.1.0".into(),
            pid: 4242,
            age: 93_784.0,
            memory: Some(4_100_000),
            config: Some("/etc/zdsup/web.toml".into()),
            stopping: false,
            incarnation: 1,
            holding: None,
            lines_dropped: 1,
        },
        services: vec![service()],
    }
}

fn upgrade(id: u64, step: &str, verdict: Option<VerdictStatus>) -> UpgradeStatus {
    UpgradeStatus {
        id,
        service: "web".into(),
        kind: Kind::Reload,
        requested_by: vec![0],
        step: step.into(),
        generation: Some(4),
        from: Some(3),
        requested_at: 1_000.0,
        duration: 1.75,
        ended_at: None,
        takes_back: None,
        verdict,
        drained: false,
        warnings: Vec::new(),
        probe: None,
    }
}

fn failed() -> VerdictStatus {
    VerdictStatus {
        verdict: Verdict::Failed,
        exit_code: 4,
        step: "spawned".into(),
        reason: Some("ended before it was ready: killed by SIGSEGV".into()),
        hint: Some("look at its log".into()),
        output: (1..=7).map(|line| format!("line {line} \x1b[31mred\x1b[0m")).collect(),
        output_elsewhere: None,
        because_of: None,
        serving: Some(3),
    }
}

fn generation(number: u64, state: GenerationState, instance: InstanceStatus) -> GenerationStatus {
    GenerationStatus {
        generation: number,
        state,
        executable: "/srv/web/bin/web".into(),
        weight: None,
        desired: 1,
        ready: u32::from(instance.state == InstanceState::Ready),
        standby: None,
        remaining: None,
        connections: instance.connections,
        instances: vec![instance],
    }
}

fn instance(name: &str, state: InstanceState, remaining: Option<f64>) -> InstanceStatus {
    InstanceStatus {
        instance: name.into(),
        state,
        pid: Some(12_345),
        age: 3723.0,
        connections: Some(17),
        memory: Some(36_175_872),
        cpu: Some(12.34),
        health: InstanceHealth::Unchecked,
        health_failure: None,
        status: Some("processing\nrequests \x07".into()),
        remaining,
        notes: Vec::new(),
    }
}

fn happened(name: &str, message: &str, verdict: Option<VerdictStatus>) -> UpgradeEvent {
    UpgradeEvent {
        seq: 1,
        at: 1_000.0,
        elapsed: 1.2345,
        upgrade: 9,
        service: "web".into(),
        event: name.into(),
        message: message.into(),
        generation: Some(4),
        verdict: verdict.map(Box::new),
    }
}

#[test]
fn a_pause_is_shouted() {
    let mut paused = whole();
    paused.services[0].paused = Some(12.3);
    for text in [status(&paused, 1_013.75, PLAIN), watch(&paused, &mut Peaks::default(), 1_013.75, PLAIN)] {
        assert!(text.contains("\n  PAUSED: new connections wait, 12 s left; `zdsup resume web` ends it\n"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }
}

#[test]
fn status_during_an_upgrade() {
    let mut whole = whole();
    whole.services[0].queued = vec![upgrade(10, "queued", None)];
    let text = status(&whole, 1_013.75, PLAIN);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!(text);
}

/// Those of which there is nothing to say come first, a line each; the others are shown as ever.
#[test]
fn status_of_many_services() {
    let mut whole = whole();
    let mut quiet = service();
    quiet.state = ServiceState::Serving;
    (quiet.upgrade, quiet.last_upgrade) = (None, None);
    quiet.generations = vec![generation(3, GenerationState::Serving, instance("3.1", InstanceState::Ready, None))];
    let quiet = |number: usize| ServiceStatus { name: format!("service-{number}"), ..quiet.clone() };
    whole.services = (0..8).map(quiet).chain([service()]).collect();
    whole.services[1].generations[0].instances[0].notes = vec!["something".into()];
    whole.services[2].listeners.truncate(1);
    whole.services[3].listeners.clear();
    whole.services[4].detail = Some("something is to be said".into());
    let text = status(&whole, 1_013.75, PLAIN);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!(text);
    whole.services[5].listeners[0].address = "unix:/run/service-with-a-long-name/control.sock".into();
    let text = status(&whole, 1_013.75, PLAIN);
    assert!(text.contains("unix:/run") && text.contains('…'), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let piped = status(&whole, 1_013.75, Style { width: None, ..PLAIN });
    assert!(piped.contains("control.sock"), "{piped}");
    // What moves is seen first.
    let picture = watch(&whole, &mut Peaks::default(), 1_013.75, PLAIN);
    assert!(picture.find("\nservice-4  ") < picture.find("services serving"), "{picture}");
}

#[test]
fn status_of_services_that_do_not_serve() {
    let mut whole = whole();
    whole.supervisor =
        SupervisorStatus { config: None, stopping: true, lines_dropped: 0, memory: None, ..whole.supervisor };
    let mut down = service();
    down.name = "api".into();
    down.state = ServiceState::BackingOff;
    down.detail = Some("ended while serving: exit status 1; starting it again in 3.2 s (failure 4 in a row)".into());
    let lines = ["listening", "out of memory: 512 MiB", "\u{1b}[2Jgoodbye"].map(str::to_owned).to_vec();
    down.last_output = Some(LastOutput { instance: "1.4".into(), lines, elsewhere: None });
    (down.upgrade, down.last_upgrade) = (None, None);
    down.listeners.truncate(1);
    down.generations = vec![generation(1, GenerationState::BackingOff, instance("1.1", InstanceState::Ready, None))];
    down.generations[0].instances.clear();
    let mut steered = service();
    steered.generations[0].weight = Some(5);
    steered.generations[1].weight = Some(95);
    let unknown = &mut steered.generations[1].instances[0];
    (unknown.pid, unknown.connections, unknown.memory, unknown.cpu) = (None, None, None, None);
    unknown.notes = vec!["no handler for SIGTERM: it will be killed by it".into()];
    unknown.status = None;
    let mut upgraded = upgrade(7, "done", Some(failed()));
    if let Some(verdict) = &mut upgraded.verdict {
        verdict.verdict = Verdict::Upgraded;
    }
    upgraded.warnings = vec!["the after-drain hook failed: ./migrate contract: exit status 1".into()];
    steered.last_upgrade = Some(upgraded);
    steered.hook = Some("after-ready of generation 4".into());
    whole.services = vec![down, steered];
    let text = status(&whole, 1_013.75, PLAIN);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!(text);
}

/// In the middle of a canary that waits: three instances, one of them just started again, a standby, one draining.
fn canary() -> ServiceStatus {
    let mut new = generation(5, GenerationState::Canary, instance("5.1", InstanceState::Ready, None));
    (new.weight, new.desired, new.ready, new.remaining) = (Some(5), 3, 2, Some(86_325.0));
    new.instances.push(InstanceStatus { status: None, ..instance("5.2", InstanceState::Ready, None) });
    new.instances.push(instance("5.3", InstanceState::Stopping, Some(3.0)));
    for one in &mut new.instances {
        one.health = InstanceHealth::Passing;
    }
    new.instances[2].health = InstanceHealth::Failing;
    new.instances[2].health_failure = Some("GET /healthz: 500".into());
    let mut old = generation(4, GenerationState::Serving, instance("4.1", InstanceState::Ready, None));
    (old.weight, old.desired, old.ready, old.connections) = (Some(95), 3, 2, Some(51));
    old.instances.push(instance("4.2", InstanceState::Ready, None));
    old.instances.push(instance("4.4", InstanceState::Starting, Some(28.2)));
    let mut standby = generation(3, GenerationState::Standby, instance("3.1", InstanceState::Ready, None));
    (standby.weight, standby.standby, standby.remaining) = (Some(0), Some(540.0), Some(540.0));
    let mut draining = generation(2, GenerationState::Draining, instance("2.1", InstanceState::Stopping, Some(11.0)));
    (draining.weight, draining.connections) = (Some(0), Some(3));
    let mut upgrade = upgrade(9, "awaiting-promotion", None);
    upgrade.duration = 75.0;
    ServiceStatus {
        upgrade: Some(upgrade),
        instances: 3,
        configured: Some(2),
        strategy: "canary".into(),
        traffic: "steered".into(),
        generations: vec![new, old, standby, draining],
        kept: [(3, Some(540.0)), (1, None)]
            .map(|(generation, standby)| KeptStatus { generation, executable: "/srv/web/bin/web".into(), standby })
            .into(),
        ..service()
    }
}

#[test]
fn status_of_a_canary() {
    let whole = Status { services: vec![canary()], ..whole() };
    let text = status(&whole, 1_013.75, PLAIN);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn watching() {
    let mut peaks = Peaks::default();
    let mut whole = Status { services: vec![canary()], ..whole() };
    whole.services[0].generations[3].connections = Some(402);
    watch(&whole, &mut peaks, 1_013.75, PLAIN);
    let mut down = service();
    (down.name, down.state) = ("api".into(), ServiceState::BackingOff);
    down.detail = Some("1 of 3 instances: ended while serving: exit status 1; starting it again \x1b[2J".into());
    down.generations = vec![generation(1, GenerationState::BackingOff, instance("1.1", InstanceState::Ready, None))];
    (down.upgrade, down.last_upgrade) = (None, None);
    whole.services = vec![canary(), down];
    let text = watch(&whole, &mut peaks, 1_013.75, PLAIN);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.chars().all(|char| !char.is_control() || char == '\n'), "{text:?}");
    insta::assert_snapshot!(text);
}

#[test]
fn what_is_left_of_a_step_is_said() {
    let shown = |step: &str, state, left: f64| {
        let mut web = service();
        let mut new = generation(4, state, instance("4.1", InstanceState::Ready, None));
        new.remaining = Some(left);
        web.generations.insert(0, new);
        web.upgrade = Some(upgrade(9, step, None));
        let whole = Status { services: vec![web], ..whole() };
        let texts = [status(&whole, 1_013.75, PLAIN), watch(&whole, &mut Peaks::default(), 1_013.75, PLAIN)];
        let line =
            |text: &str, with: &str| text.lines().find(|line| line.contains(with)).unwrap_or_default().to_owned();
        let upgrade = line(&texts[0], "reload #9");
        assert_eq!(line(&texts[1], "reload #9"), upgrade);
        (upgrade, line(&texts[1], "web@4 "))
    };
    for (step, state, left, upgrade, cell) in [
        ("soaking", GenerationState::Soaking, 3.24, "soaking for 3.2 s more", "3.2 s soak"),
        ("soaking", GenerationState::Rolling, 4.0, "soaking for 4.0 s more", "4.0 s soak"),
        ("weighted", GenerationState::Canary, 600.0, "weighted for 10 min more", "10 min canary"),
        ("awaiting-promotion", GenerationState::Canary, 80_000.0, "awaiting-promotion for 22 h more", "22 h canary"),
        ("held", GenerationState::Held, 80_000.0, "held for 22 h more", "22 h held"),
    ] {
        let (line, row) = shown(step, state, left);
        assert_eq!(line, format!("  reload #9: {upgrade}, 1.8 s so far"));
        assert!(row.ends_with(cell), "{row}");
    }
}

#[test]
fn status_of_what_is_checked() {
    let with = |name: &str, state, health, failure: Option<&str>| InstanceStatus {
        health,
        health_failure: failure.map(str::to_owned),
        status: None,
        ..instance(name, state, None)
    };
    let mut proving =
        with("4.1", InstanceState::Proving, InstanceHealth::Proving, Some("GET /healthz: 503 \x1b[31mNo"));
    proving.remaining = Some(28.2);
    let mut checked = service();
    checked.generations = vec![
        generation(4, GenerationState::Starting, proving),
        generation(3, GenerationState::Serving, with("3.1", InstanceState::Ready, InstanceHealth::Passing, None)),
    ];
    checked.generations[1].instances.extend([
        with("3.2", InstanceState::Ready, InstanceHealth::Failing, Some("no answer in 1 s")),
        with("3.3", InstanceState::Ready, InstanceHealth::Passing, Some("connect: connection refused")),
        with("3.4", InstanceState::Proving, InstanceHealth::Proving, None),
    ]);
    let text = super::status::status(&Status { services: vec![checked], ..whole() }, 1_013.75, PLAIN);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn colours_change_nothing_else() {
    let coloured = status(&whole(), 1_013.75, Style { colour: true, width: Some(80) });
    assert!(coloured.contains("\x1b[32m"));
    assert_eq!(
        crate::cli::terminal::clean(&coloured.replace('\n', "\u{2028}")).replace('\u{2028}', "\n"),
        status(&whole(), 1_013.75, PLAIN)
    );
}

#[test]
fn nothing_foreign_reaches_the_terminal_raw() {
    let mut whole = whole();
    whole.services[0].detail = Some("\x1b]0;x\x07".into());
    whole.services[0].listeners[0].address = "unix:@\x1bc".into();
    let controls = |text: &str| text.chars().filter(|char| char.is_control() && *char != '\n').count();
    assert_eq!(controls(&status(&whole, 0.0, PLAIN)), 0);
    assert_eq!(controls(&event(&happened("verdict", "", Some(failed())), PLAIN)), 0);
    assert_eq!(controls(&event(&happened("status", "\x1b[2J\r", None), PLAIN)), 0);
    assert_eq!(controls(&waiting(Some(&happened("spawned", "", None)), "\x1b[2J\r")), 0);
}

#[test]
fn the_story_of_an_upgrade() {
    let mut succeeded = failed();
    succeeded.verdict = Verdict::Upgraded;
    let mut nothing = failed();
    (nothing.serving, nothing.hint, nothing.reason) = (None, None, None);
    nothing.output.clear();
    nothing.output_elsewhere = Some("its output is in the journal: journalctl -t web@4".into());
    let mut refused = failed();
    refused.verdict = Verdict::Refused;
    refused.output.clear();
    let story: String = [
        happened("hook", "running the before-start hook", None),
        happened("output", "altering the table", None),
        happened("spawned", "spawned as process 7, waiting for it to be ready", None),
        happened("status", "loading 3 of 7", None),
        happened("spawned", "instance 2 spawned as process 8", None),
        happened("rolled", "1 of 3 instances take part", None),
        happened("awaiting-promotion", "5 % of new connections, until `zdsup promote` or `zdsup abort`", None),
        happened("promoted", "promoted by user 1000: 50 % of new connections go to it", None),
        happened("returning", "coming back, since the new generation is given up: never ready in 30 s", None),
        happened("verdict", "upgraded", Some(succeeded.clone())),
        happened("verdict", "upgraded: it runs the release of web@2", Some(succeeded)),
        happened("verdict", "failed", Some(failed())),
        happened("verdict", "failed", Some(nothing)),
        happened("verdict", "refused", Some(refused)),
    ]
    .iter()
    .map(|one| event(one, PLAIN))
    .collect();
    insta::assert_snapshot!(story);
}

#[test]
fn how_a_request_was_taken() {
    let one = |admission| UpgradeAccepted {
        id: 9,
        service: "web".into(),
        admission,
        then: vec![],
        atomic: false,
        removes: vec![],
        left_out: vec![],
    };
    let [begun, queued, joined] = [AdmissionKind::Begun, AdmissionKind::Queued, AdmissionKind::Joined].map(one);
    let then = [(10, "api"), (11, "ads")].map(|(id, service)| UpgradeThen { id, service: service.into() });
    let several = UpgradeAccepted { then: then.into(), removes: vec!["old".into()], ..begun.clone() };
    let together = UpgradeAccepted { atomic: true, removes: vec![], left_out: vec!["cron".into()], ..several.clone() };
    let lines = [begun, queued, joined, several, together].map(|taken| accepted(&taken));
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn the_moving_line() {
    let mut lines = vec![waiting(None, "")];
    for name in ["queued", "pinning", "starting", "spawned", "ready", "soaking", "serving", "draining", "exited"] {
        lines.push(waiting(Some(&happened(name, "", None)), if name == "spawned" { "loading" } else { "" }));
    }
    for (name, message) in [
        ("switching-back", ""),
        ("rolled", "1 of 3 instances take part"),
        ("weighted", "5 % of new connections for 30 s"),
        ("awaiting-promotion", "5 % of new connections, until `zdsup promote` or `zdsup abort`"),
        ("promoted", ""),
        ("standby", ""),
        ("returning", ""),
    ] {
        lines.push(waiting(Some(&happened(name, message, None)), ""));
    }
    lines.push(waiting(Some(&happened("hook", "running the before-start hook", None)), "altering the table"));
    lines.push(waiting(Some(&happened("verdict", "", Some(failed()))), ""));
    lines.push(format!("draining {}", draining(&whole())));
    insta::assert_snapshot!(lines.join("\n"));
}

fn record(id: u64, verdict: Verdict) -> UpgradeRecord {
    let phase = |name: &str, start: f64, duration: f64| PhaseRecord { name: name.into(), start, duration };
    UpgradeRecord {
        id,
        service: "web".into(),
        kind: Kind::Reload,
        generation: (verdict != Verdict::Refused).then_some(id),
        from: Some(id - 1),
        release: Some("/srv/web/releases/2026-11-23/bin/web".into()),
        argv: ["web", "--listen=fd:3", "--greeting", "it's \x1b[2Jme", ""].map(str::to_owned).into(),
        directory: Some("/srv/web/releases/2026-11-23".into()),
        digest: Some("6c62272e07bb014262b821756295c58d".into()),
        requested_by: vec![1000],
        takes_back: None,
        at: 1_795_430_090.49 + id as f64,
        duration: if verdict == Verdict::Refused { 0.0004 } else { 6.2 },
        verdict,
        reason: (verdict != Verdict::Upgraded)
            .then(|| "never ready in 30 s; its last status: \x1b[2Jwarming up".into()),
        exit_code: 4,
        step: "soaking".into(),
        phases: vec![
            phase("pinning", 0.0, 0.002),
            phase("starting", 0.002, 0.01),
            phase("spawned", 0.012, 1.1),
            phase("ready", 1.112, 0.0),
            phase("soaking", 1.112, 5.0),
            phase("serving", 6.112, 0.001),
            phase("draining", 6.113, 0.087),
        ],
        rollback: (verdict == Verdict::RolledBack).then_some(0.0031),
        drain: (verdict == Verdict::Upgraded).then_some(12.5),
        probe: (verdict == Verdict::RolledBack).then_some(ProbeSummary {
            inside: ProbeFigures { requests: 120, errors: 3, p50: 0.0012, p99: 0.024 },
            before: Some(ProbeFigures { requests: 40, errors: 0, p50: 0.001, p99: 0.002 }),
            errors: ProbeErrors { status: 2, reset: 1, ..ProbeErrors::default() },
            partial: false,
            kernel: Some(KernelFigures { queue: 3, overflows: 0, drops: 0, resets: 1 }),
        }),
    }
}

#[test]
fn what_became_of_upgrades() {
    let verdicts = [Verdict::Refused, Verdict::Aborted, Verdict::RolledBack, Verdict::Failed, Verdict::Upgraded];
    let records: Vec<_> = verdicts.into_iter().zip((3..=7).rev()).map(|(verdict, id)| record(id, verdict)).collect();
    let text = history(&records, PLAIN);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!("history", text);
    assert_eq!(history(&[], PLAIN), "no upgrade is on record\n");
}

#[test]
fn what_one_upgrade_went_through() {
    for (name, verdict) in [("timeline", Verdict::Upgraded), ("timeline_rolled_back", Verdict::RolledBack)] {
        let text = timeline(&record(4, verdict), PLAIN);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        insta::assert_snapshot!(name, text);
    }
    let back = UpgradeRecord { takes_back: Some(3), requested_by: vec![], ..record(4, Verdict::Upgraded) };
    let text = timeline(&back, PLAIN);
    assert!(text.contains(", takes upgrade #3 back, since another of the same request failed\n"), "{text}");
    assert!(history(&[back], PLAIN).contains("takes #3 back"));
    // What a supervisor that died had counted; what nobody was asked.
    let probe = record(4, Verdict::RolledBack).probe.expect("somebody asked");
    let probed = |probe| timeline(&UpgradeRecord { probe: Some(probe), ..record(4, Verdict::RolledBack) }, PLAIN);
    let partial = probed(ProbeSummary { partial: true, kernel: None, ..probe });
    assert!(partial.contains("  at least: a supervisor was replaced or died"), "{partial}");
    assert!(partial.lines().all(|line| line.chars().count() <= 80) && !partial.contains("waited to be"), "{partial}");
    let nobody = probed(ProbeSummary::default());
    assert!(nobody.contains("  clients saw nothing: nobody was asked\n"), "{nobody}");
    // Where instances are replaced piece by piece, the old generation drains before the new one serves.
    let phase = |name: &str, start, duration| PhaseRecord { name: name.into(), start, duration };
    let phases = vec![phase("draining", 0.1, 0.4), phase("spawned", 0.5, 1.0), phase("serving", 1.5, 0.1)];
    let rolling = UpgradeRecord { phases, duration: 1.6, drain: Some(5.0), ..record(4, Verdict::Upgraded) };
    let text = timeline(&rolling, PLAIN);
    let drawn: Vec<&str> = text.lines().skip_while(|line| !line.contains("PHASE")).skip(1).collect();
    assert!(drawn[0].starts_with("  draining   100 ms    5.0 s") && drawn[1].starts_with("  spawned "), "{text}");
    // Whatever is on record, it can be drawn.
    let nothing = UpgradeRecord { phases: vec![], duration: 0.0, drain: None, ..record(4, Verdict::Refused) };
    assert!(timeline(&nothing, PLAIN).contains("verdict"));
    let seen = |inside: ProbeFigures| {
        let probe = Some(ProbeSummary { inside, ..ProbeSummary::default() });
        timeline(&UpgradeRecord { probe, ..nothing.clone() }, PLAIN)
    };
    assert!(seen(ProbeFigures::default()).contains("  clients saw nothing: nobody was asked\n"));
    let errors = ProbeFigures { requests: 2, errors: 2, ..ProbeFigures::default() };
    assert!(seen(errors).contains("  clients saw 2 errors in 2 requests, and no answer\n"));
    let odd = vec![PhaseRecord { name: "x".into(), start: f64::MAX, duration: -1.0 }];
    assert!(timeline(&UpgradeRecord { phases: odd, ..nothing }, PLAIN).contains("verdict"));
}

#[test]
fn figures_of_upgrades() {
    let spread = |count, p50, mean, max| Spread { count, p50: Some(p50), mean: Some(mean), max: Some(max) };
    let full = Kpi {
        service: Some("web".into()),
        since: 2_592_000.0,
        deployments: 42,
        upgraded: 41,
        failed: 0,
        rolled_back: 1,
        aborted: 0,
        refused: 2,
        success_rate: Some(41.0 / 42.0),
        client_requests: 52_000,
        client_errors: 1,
        client_error_rate: Some(1.0 / 52_000.0),
        upgrade: spread(41, 1.2, 1.5, 6.0),
        rollback: spread(1, 0.0031, 0.0031, 0.0031),
        drain: spread(40, 0.5, 3.0, 30.0),
        skipped: 0,
    };
    insta::assert_snapshot!("kpi", kpi(&full, PLAIN));
    let none = Kpi {
        service: None,
        deployments: 0,
        upgraded: 0,
        rolled_back: 0,
        refused: 0,
        success_rate: None,
        client_requests: 0,
        client_error_rate: None,
        upgrade: Spread::default(),
        rollback: Spread::default(),
        drain: Spread::default(),
        ..full
    };
    insta::assert_snapshot!("kpi_of_nothing", kpi(&none, PLAIN));
}
