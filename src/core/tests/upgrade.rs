//! Scenes of one service: what the machine wants after each thing that happens.

use super::super::policy::{ABORT_TIMEOUT, PIN_TIMEOUT, PREPARE_TIMEOUT, SWITCH_TIMEOUT};
use super::super::service::Role;
use super::*;
use InstanceEvent as E;

/// A machine with one service, and what it wanted since somebody last looked.
pub(super) struct Bench {
    pub(super) core: Core,
    pub(super) now: Time,
    pub(super) service: ServiceId,
    steps: Vec<Step>,
    pub(super) policy: Policy,
    releases: u64,
}

impl Bench {
    pub(super) fn new(policy: Policy, first_failure: FirstFailure) -> Self {
        let mut core = Core::new();
        let service = core.add_service(Generation(1), first_failure);
        Self { core, now: Time(1_000_000_000), service, steps: vec![], policy, releases: 0 }
    }

    /// A service whose first generation serves.
    pub(super) fn serving(policy: Policy) -> Self {
        let mut bench = Self::new(policy, FirstFailure::Exit);
        assert_eq!(bench.request(Kind::Start), Ok(Admission::Begun(UpgradeId(1))));
        bench.good(1, 1);
        bench.wants(&["upgraded 1"]);
        bench
    }

    /// The same with an upgrade to the second generation in flight, up to the point where its process runs.
    fn starting(policy: Policy) -> Self {
        let mut bench = Self::serving(policy);
        assert_eq!(bench.request(Kind::Reload), Ok(Admission::Begun(UpgradeId(2))));
        bench.pinned(2);
        bench.spawn(2, 1);
        bench.actions();
        bench
    }

    /// The same with the candidate ready, in its soak.
    fn soaking() -> Self {
        let mut bench = Self::starting(Policy { soak: secs(5), ..policy() });
        bench.on(2, 1, E::Ready);
        bench.wants(&[]);
        assert!(bench.steps.contains(&Step::Soaking { generation: Generation(2), span: secs(5) }));
        bench
    }

    /// The same where new connections go to the candidate and the old generation's stop signal is on its way.
    fn telling() -> Self {
        let mut bench = Self::starting(policy());
        bench.on(2, 1, E::Ready);
        bench.weights_set();
        bench.wants(&["weights 1=0 2=100", "stop 1.1"]);
        bench
    }

    fn id(&self, generation: u64, number: u32) -> InstanceId {
        InstanceId { service: self.service, generation: Generation(generation), number }
    }

    pub(super) fn request(&mut self, kind: Kind) -> Result<Admission, Refusal> {
        self.core.request(self.now, self.service, kind)
    }

    pub(super) fn handle(&mut self, event: Event) {
        // A successor that reads the state document must go on in the same way, so each scene plays through one.
        let document = serde_json::to_string(&self.core).expect("the state can be written");
        self.core = serde_json::from_str(&document).expect("and read again");
        self.core.handle(self.now, event);
    }

    pub(super) fn on(&mut self, generation: u64, number: u32, event: InstanceEvent) {
        self.handle(Event::Instance(self.id(generation, number), event));
    }

    /// The release of this number is resolved for the upgrade of the same number, under the bench's policy.
    pub(super) fn pinned(&mut self, upgrade: u64) {
        self.releases += 1;
        self.pinned_as(upgrade, self.releases);
    }

    pub(super) fn pinned_as(&mut self, upgrade: u64, release: u64) {
        let (upgrade, release) = (UpgradeId(upgrade), ReleaseId(release));
        self.handle(Event::Pinned { upgrade, release, policy: self.policy.clone() });
    }

    pub(super) fn spawn(&mut self, generation: u64, number: u32) {
        self.on(generation, number, E::Prepared);
        self.on(generation, number, E::Launched);
    }

    pub(super) fn weights_set(&mut self) {
        self.handle(Event::WeightsSet(self.service));
    }

    pub(super) fn told(&mut self, generation: u64, number: u32) {
        self.handle(Event::Told(self.id(generation, number)));
    }

    pub(super) fn ends(&mut self, generation: u64, number: u32, exit: Exit) {
        self.on(generation, number, E::Exited(exit));
        self.on(generation, number, E::Emptied);
    }

    pub(super) fn pass(&mut self, span: Duration) {
        self.now = self.now.after(span);
        self.handle(Event::Tick);
    }

    /// From the pinning to the moment when new connections go to it; what is wanted then is left to be looked at.
    fn good(&mut self, upgrade: u64, generation: u64) {
        self.pinned(upgrade);
        self.spawn(generation, 1);
        self.on(generation, 1, E::Ready);
        self.actions();
        self.weights_set();
    }

    /// Whatever happened: the next upgrade, to this generation from that one, succeeds, and only it is left.
    fn next_succeeds(&mut self, upgrade: u64, from: u64, to: u64) {
        self.next_succeeds_from(upgrade, (from, 1), to);
    }

    fn next_succeeds_from(&mut self, upgrade: u64, from: (u64, u32), to: u64) {
        assert_eq!(self.request(Kind::Reload), Ok(Admission::Begun(UpgradeId(upgrade))));
        self.policy = policy();
        self.good(upgrade, to);
        self.told(from.0, from.1);
        self.actions();
        self.ends(from.0, from.1, Exit::Code(0));
        self.pass(secs(100));
        self.actions();
        assert_eq!(self.generations(), [(to, Role::Serving)]);
    }

    fn generations(&self) -> Vec<(u64, Role)> {
        let service = &self.core.services()[&self.service];
        service.generations.values().map(|generation| (generation.number.0, generation.role)).collect()
    }

    pub(super) fn actions(&mut self) -> Vec<String> {
        let mut texts = vec![];
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Progress { step, .. } => self.steps.push(step),
                other => texts.push(text(&other)),
            }
        }
        texts
    }

    #[track_caller]
    pub(super) fn wants(&mut self, expected: &[&str]) {
        assert_eq!(self.actions(), expected);
    }

    pub(super) fn last_step(&self) -> &Step {
        self.steps.last().expect("something was told")
    }
}

fn text(action: &Action) -> String {
    let name = |id: &InstanceId| format!("{}.{}", id.generation, id.number);
    match action {
        Action::Pin { upgrade, kind, again: None, .. } => format!("pin {upgrade} {kind}"),
        Action::Pin { upgrade, kind, again: Some(release), .. } => format!("pin {upgrade} {kind} r{release}"),
        Action::Prepare { instance, release } => format!("prepare {} r{release}", name(instance)),
        Action::Launch(id) => format!("launch {}", name(id)),
        Action::SetWeights { weights, .. } => {
            let parts: Vec<String> = weights.iter().map(|(number, weight)| format!("{number}={weight}")).collect();
            format!("weights {}", parts.join(" "))
        }
        Action::Hold { on, .. } => (if *on { "hold" } else { "release" }).to_owned(),
        Action::RunHook { generation, hook, reason: None, .. } => format!("hook {hook} {generation}"),
        Action::RunHook { generation, hook, reason: Some(reason), .. } => format!("hook {hook} {generation}: {reason}"),
        Action::Stop(id) => format!("stop {}", name(id)),
        Action::Abort(id) => format!("abort {}", name(id)),
        Action::Kill(id) => format!("kill {}", name(id)),
        Action::Sweep { instance, force } => format!("sweep{} {}", if *force { "!" } else { "" }, name(instance)),
        Action::Progress { step, .. } => panic!("{step:?} is not an action to be done"),
        Action::Conclude { upgrade, verdict, reason: None, .. } => format!("{verdict} {upgrade}"),
        Action::Conclude { upgrade, verdict, reason: Some(reason), .. } => format!("{verdict} {upgrade}: {reason}"),
        Action::Discard(release) => format!("discard r{release}"),
        Action::Remove(service) => format!("remove {service}"),
        Action::Finish(outcome) => format!("finish {outcome:?}"),
    }
}

const OK: Exit = Exit::Code(0);
const SEGV: Exit = Exit::Signal { signal: 11, core: false };

// ---- the good case ------------------------------------------------------------------------------------------------

#[test]
fn a_good_upgrade() {
    let mut b = Bench::new(policy(), FirstFailure::Exit);
    assert_eq!(b.request(Kind::Start), Ok(Admission::Begun(UpgradeId(1))));
    b.wants(&["pin 1 start"]);
    b.pinned(1);
    b.wants(&["prepare 1.1 r1"]);
    b.on(1, 1, E::Prepared);
    b.wants(&["launch 1.1"]);
    b.on(1, 1, E::Launched);
    b.wants(&[]);
    b.pass(secs(1));
    b.on(1, 1, E::Ready);
    assert_eq!(b.core.poll_timeout(), Some(b.now.after(SWITCH_TIMEOUT)));
    b.wants(&["weights 1=100"]);
    assert_eq!(*b.last_step(), Step::Ready { instance: b.id(1, 1), after: secs(1) });
    b.weights_set();
    b.wants(&["upgraded 1"]);
    assert_eq!(b.core.poll_timeout(), None);

    assert_eq!(b.request(Kind::Reload), Ok(Admission::Begun(UpgradeId(2))));
    b.wants(&["pin 2 reload"]);
    b.pinned(2);
    b.spawn(2, 1);
    b.wants(&["prepare 2.1 r2", "launch 2.1"]);
    b.on(2, 1, E::Ready);
    b.wants(&["weights 1=0 2=100"]);
    b.weights_set();
    b.wants(&["stop 1.1"]);
    b.told(1, 1);
    b.wants(&["upgraded 2"]);
    assert_eq!(b.generations(), [(1, Role::Draining), (2, Role::Serving)]);
    b.on(1, 1, E::Exited(OK));
    b.wants(&["sweep 1.1"]);
    b.on(1, 1, E::Emptied);
    b.wants(&["discard r1"]);
    assert_eq!(*b.last_step(), Step::Drained { generation: Generation(1) });
    assert_eq!(b.core.poll_timeout(), None);
}

#[test]
fn a_soak_that_passes() {
    let mut b = Bench::soaking();
    b.pass(millis(4999));
    b.wants(&[]);
    assert_eq!(b.core.poll_timeout(), Some(b.now.after(millis(1))));
    b.pass(millis(1));
    b.wants(&["weights 1=0 2=100"]);
    b.weights_set();
    b.told(1, 1);
    b.wants(&["stop 1.1", "upgraded 2"]);
}

#[test]
fn alive_for_a_time_is_ready() {
    let mut b = Bench::starting(Policy { readiness: Readiness::Alive(secs(3)), ..policy() });
    b.wants(&[]);
    b.pass(secs(3));
    b.wants(&["weights 1=0 2=100"]);
}

#[test]
fn a_restart_runs_the_pinned_release_again_and_keeps_it() {
    let mut b = Bench::serving(policy());
    assert_eq!(b.request(Kind::Restart), Ok(Admission::Begun(UpgradeId(2))));
    b.wants(&["pin 2 restart r1"]);
    b.pinned_as(2, 1);
    b.spawn(2, 1);
    b.on(2, 1, E::Ready);
    b.actions();
    b.weights_set();
    b.told(1, 1);
    b.ends(1, 1, OK);
    b.wants(&["stop 1.1", "upgraded 2", "sweep 1.1"]);
    assert_eq!(b.generations(), [(2, Role::Serving)]);
}

#[test]
fn several_instances_are_ready_together_and_told_together() {
    let mut b = Bench::new(Policy { instances: 2, ..policy() }, FirstFailure::Exit);
    let _ = b.request(Kind::Start);
    b.pinned(1);
    b.spawn(1, 1);
    b.spawn(1, 2);
    b.actions();
    b.on(1, 2, E::Ready);
    b.wants(&[]);
    b.on(1, 1, E::Ready);
    b.weights_set();
    b.wants(&["weights 1=100", "upgraded 1"]);
    b.policy.instances = 1;
    let _ = b.request(Kind::Reload);
    b.good(2, 2);
    b.wants(&["stop 1.1", "stop 1.2"]);
    b.told(1, 2);
    b.wants(&[]);
    b.told(1, 1);
    b.wants(&["upgraded 2"]);
}

#[test]
fn one_of_several_candidates_fails_and_all_are_ended() {
    let mut b = Bench::serving(Policy { instances: 1, ..policy() });
    b.policy.instances = 3;
    let _ = b.request(Kind::Reload);
    b.pinned(2);
    b.spawn(2, 1);
    b.on(2, 1, E::Ready);
    b.on(2, 2, E::Prepared);
    b.actions();
    b.on(2, 3, E::PrepareFailed("out of memory".into()));
    b.wants(&["stop 2.1", "stop 2.2", "failed 2: out of memory"]);
    b.ends(2, 1, OK);
    b.on(2, 2, E::LaunchFailed("told to stop".into()));
    b.wants(&["sweep 2.1", "discard r2"]);
    b.next_succeeds(3, 1, 3);
}

// ---- candidates that fail: the old generation is not named, the next upgrade succeeds ---------------------------

#[test]
fn a_candidate_that_is_never_ready() {
    let mut b = Bench::starting(policy());
    b.pass(secs(29));
    b.wants(&[]);
    b.pass(secs(1));
    b.wants(&["stop 2.1", "failed 2: never ready in 30 s"]);
    b.told(2, 1);
    b.ends(2, 1, OK);
    b.wants(&["sweep 2.1", "discard r2"]);
    b.next_succeeds(3, 1, 3);
}

#[test]
fn a_candidate_that_asks_for_more_time() {
    let mut b = Bench::starting(policy());
    b.pass(secs(20));
    b.on(2, 1, E::Extend(secs(20)));
    b.pass(secs(15));
    b.wants(&[]);
    b.on(2, 1, E::Extend(secs(20)));
    b.pass(secs(20));
    b.wants(&["stop 2.1", "failed 2: never ready in 55 s"]);
}

#[test]
fn a_candidate_that_exits_before_it_is_ready() {
    let mut b = Bench::starting(policy());
    b.on(2, 1, E::Exited(SEGV));
    b.wants(&["failed 2: ended before it was ready: killed by SIGSEGV", "sweep 2.1"]);
    b.on(2, 1, E::Emptied);
    b.wants(&["discard r2"]);
    b.next_succeeds(3, 1, 3);
}

#[test]
fn a_candidate_that_says_stopping_before_it_is_ready() {
    let mut b = Bench::starting(policy());
    b.on(2, 1, E::Stopping);
    b.wants(&["stop 2.1", "failed 2: said STOPPING=1 before it was ready"]);
}

#[test]
fn a_candidate_that_cannot_be_executed() {
    let mut b = Bench::serving(policy());
    let _ = b.request(Kind::Reload);
    b.pinned(2);
    b.on(2, 1, E::Prepared);
    b.actions();
    b.on(2, 1, E::LaunchFailed("/srv/web: permission denied".into()));
    b.wants(&["failed 2: /srv/web: permission denied", "discard r2"]);
    b.next_succeeds(3, 1, 3);
}

#[test]
fn a_candidate_that_cannot_be_prepared() {
    let mut b = Bench::serving(policy());
    let _ = b.request(Kind::Reload);
    b.pinned(2);
    b.actions();
    b.on(2, 1, E::PrepareFailed("no such user: web".into()));
    b.wants(&["failed 2: no such user: web", "discard r2"]);
    b.next_succeeds(3, 1, 3);
}

#[test]
fn a_shim_that_is_stuck_is_killed() {
    let mut b = Bench::serving(policy());
    let _ = b.request(Kind::Reload);
    b.pinned(2);
    b.actions();
    b.pass(PREPARE_TIMEOUT);
    b.wants(&["kill 2.1", "failed 2: the program was not executed in 10 s"]);
    b.ends(2, 1, Exit::Signal { signal: 9, core: false });
    b.wants(&["sweep! 2.1", "discard r2"]);
    b.next_succeeds(3, 1, 3);
}

#[test]
fn a_launch_that_is_stuck_is_killed() {
    let mut b = Bench::serving(policy());
    let _ = b.request(Kind::Reload);
    b.pinned(2);
    b.on(2, 1, E::Prepared);
    b.actions();
    b.pass(secs(10));
    b.wants(&["kill 2.1", "failed 2: the program was not executed in 10 s"]);
    b.on(2, 1, E::LaunchFailed("killed".into()));
    b.wants(&["discard r2"]);
}

#[test]
fn a_release_that_cannot_be_pinned() {
    for (reason, verdict) in [
        (Reason::Config("line 3: unknown key".into()), "refused 2: line 3: unknown key"),
        (Reason::Pin("address in use".into()), "failed 2: address in use"),
    ] {
        let mut b = Bench::serving(policy());
        let _ = b.request(Kind::Reload);
        b.actions();
        b.handle(Event::PinFailed { upgrade: UpgradeId(2), reason });
        b.wants(&[verdict]);
        // No generation was made of it, so its number is still free.
        b.next_succeeds(3, 1, 2);
    }
}

#[test]
fn a_release_that_is_pinned_too_late_is_let_go_of() {
    let mut b = Bench::serving(policy());
    let _ = b.request(Kind::Reload);
    b.actions();
    b.pass(PIN_TIMEOUT);
    b.wants(&["failed 2: the release could not be resolved in 30 s"]);
    b.pinned(2);
    b.wants(&["discard r2"]);
    // The release that runs is not let go of when it was to run again.
    let _ = b.request(Kind::Restart);
    b.pass(PIN_TIMEOUT);
    b.actions();
    b.pinned_as(3, 1);
    b.wants(&[]);
    b.next_succeeds(4, 1, 2);
}

#[test]
fn a_candidate_that_dies_in_its_soak() {
    let mut b = Bench::soaking();
    b.on(2, 1, E::Exited(Exit::Code(1)));
    b.wants(&["rolled-back 2: ended during its soak: exit status 1", "sweep 2.1"]);
    b.on(2, 1, E::Emptied);
    b.wants(&["discard r2"]);
    assert_eq!(b.generations(), [(1, Role::Serving)]);
    b.next_succeeds(3, 1, 3);
}

#[test]
fn a_candidate_that_says_stopping_in_its_soak() {
    let mut b = Bench::soaking();
    b.on(2, 1, E::Stopping);
    b.wants(&["stop 2.1", "rolled-back 2: said STOPPING=1 during its soak"]);
}

#[test]
fn a_candidate_that_dies_while_connections_are_moved_to_it() {
    let mut b = Bench::starting(policy());
    b.on(2, 1, E::Ready);
    b.wants(&["weights 1=0 2=100"]);
    b.on(2, 1, E::Exited(SEGV));
    b.wants(&[
        "weights 1=100 2=0",
        "rolled-back 2: ended while it was being switched to: killed by SIGSEGV",
        "sweep 2.1",
    ]);
    b.on(2, 1, E::Emptied);
    b.wants(&["discard r2"]);
    // Two answers are due: the first of them says nothing about the next candidate.
    let _ = b.request(Kind::Reload);
    b.pinned(3);
    b.spawn(3, 1);
    b.on(3, 1, E::Ready);
    b.actions();
    b.weights_set();
    b.weights_set();
    b.wants(&[]);
    b.weights_set();
    b.wants(&["stop 1.1"]);
}

#[test]
fn connections_that_cannot_be_moved() {
    let mut b = Bench::starting(policy());
    b.on(2, 1, E::Ready);
    b.actions();
    b.pass(SWITCH_TIMEOUT);
    b.wants(&["stop 2.1", "weights 1=100 2=0", "rolled-back 2: new connections could not be moved to it in 10 s"]);
    b.weights_set();
    b.weights_set();
    b.ends(2, 1, OK);
    b.actions();
    b.next_succeeds(3, 1, 3);
}

// ---- abort --------------------------------------------------------------------------------------------------------

#[test]
fn abort_while_pinning() {
    let mut b = Bench::serving(policy());
    let _ = b.request(Kind::Reload);
    b.actions();
    assert_eq!(b.core.abort(b.now, b.service), Ok(UpgradeId(2)));
    b.wants(&["aborted 2: aborted by an operator"]);
    b.pinned(2);
    b.wants(&["discard r2"]);
    b.next_succeeds(3, 1, 2);
}

#[test]
fn abort_while_the_process_is_made() {
    let mut b = Bench::serving(policy());
    let _ = b.request(Kind::Reload);
    b.pinned(2);
    b.actions();
    assert_eq!(b.core.abort(b.now, b.service), Ok(UpgradeId(2)));
    b.wants(&["kill 2.1", "aborted 2: aborted by an operator"]);
    // The shim's report that it is prepared was on its way.
    b.on(2, 1, E::Prepared);
    b.wants(&[]);
    b.ends(2, 1, Exit::Signal { signal: 9, core: false });
    b.wants(&["sweep! 2.1", "discard r2"]);
    // Who killed it is said.
    assert!(b.steps.contains(&Step::Exited { instance: b.id(2, 1), exit: Exit::Unrun }));
    b.next_succeeds(3, 1, 3);
}

#[test]
fn abort_while_it_may_have_executed() {
    let mut b = Bench::serving(policy());
    let _ = b.request(Kind::Reload);
    b.pinned(2);
    b.on(2, 1, E::Prepared);
    b.actions();
    assert_eq!(b.core.abort(b.now, b.service), Ok(UpgradeId(2)));
    b.wants(&["stop 2.1", "aborted 2: aborted by an operator"]);
    b.on(2, 1, E::Launched);
    b.on(2, 1, E::Ready);
    b.wants(&[]);
    b.pass(secs(30));
    b.wants(&["kill 2.1"]);
}

#[test]
fn abort_while_starting_or_soaking() {
    for mut b in [Bench::starting(policy()), Bench::soaking()] {
        assert_eq!(b.core.abort(b.now, b.service), Ok(UpgradeId(2)));
        b.wants(&["stop 2.1", "aborted 2: aborted by an operator"]);
        b.ends(2, 1, OK);
        b.wants(&["sweep 2.1", "discard r2"]);
        b.next_succeeds(3, 1, 3);
    }
}

#[test]
fn abort_while_switching() {
    let mut b = Bench::starting(policy());
    b.on(2, 1, E::Ready);
    b.actions();
    assert_eq!(b.core.abort(b.now, b.service), Ok(UpgradeId(2)));
    b.wants(&["stop 2.1", "weights 1=100 2=0", "aborted 2: aborted by an operator"]);
    b.weights_set();
    b.weights_set();
    b.wants(&[]);
    assert_eq!(b.generations(), [(1, Role::Serving), (2, Role::Ending)]);
}

#[test]
fn abort_comes_too_late_or_to_nothing() {
    let mut b = Bench::telling();
    assert_eq!(b.core.abort(b.now, b.service), Err(Refusal::TooLate));
    b.told(1, 1);
    assert_eq!(b.core.abort(b.now, b.service), Err(Refusal::NothingInFlight));
    assert_eq!(b.core.abort(b.now, ServiceId(9)), Err(Refusal::UnknownService));
    let mut b = Bench::new(policy(), FirstFailure::Retry);
    let _ = b.request(Kind::Start);
    assert_eq!(b.core.abort(b.now, b.service), Err(Refusal::FirstStart));
}

#[test]
fn after_an_abort_the_next_in_the_queue_begins() {
    let mut b = Bench::starting(policy());
    assert_eq!(b.request(Kind::Reload), Ok(Admission::Queued(UpgradeId(3))));
    assert_eq!(b.core.abort(b.now, b.service), Ok(UpgradeId(2)));
    b.wants(&["stop 2.1", "aborted 2: aborted by an operator", "pin 3 reload"]);
}

// ---- coalescing and refusals --------------------------------------------------------------------------------------

#[test]
fn requests_during_an_upgrade_share_the_next() {
    let mut b = Bench::starting(policy());
    assert_eq!(b.request(Kind::Reload), Ok(Admission::Queued(UpgradeId(3))));
    for _ in 0..1000 {
        assert_eq!(b.request(Kind::Reload), Ok(Admission::Joined(UpgradeId(3))));
    }
    // A restart is something else: whoever asks for it does not want the config read.
    assert_eq!(b.request(Kind::Restart), Ok(Admission::Queued(UpgradeId(4))));
    assert_eq!(b.request(Kind::Restart), Ok(Admission::Joined(UpgradeId(4))));
    assert_eq!(b.request(Kind::Reload), Ok(Admission::Joined(UpgradeId(3))));
    b.on(2, 1, E::Ready);
    b.weights_set();
    b.told(1, 1);
    b.wants(&["weights 1=0 2=100", "stop 1.1", "upgraded 2", "pin 3 reload"]);
    // The one that has begun is not joined any more.
    assert_eq!(b.request(Kind::Reload), Ok(Admission::Queued(UpgradeId(5))));
    b.good(3, 3);
    b.told(2, 1);
    b.wants(&["stop 2.1", "upgraded 3", "pin 4 restart r3"]);
}

#[test]
fn a_failure_does_not_take_the_queue_with_it() {
    let mut b = Bench::starting(policy());
    let _ = b.request(Kind::Reload);
    b.on(2, 1, E::Exited(OK));
    b.wants(&["failed 2: ended before it was ready: exit status 0", "pin 3 reload", "sweep 2.1"]);
}

#[test]
fn too_many_draining() {
    let mut b = Bench::serving(Policy { max_draining: 2, ..policy() });
    for upgrade in 2..=3 {
        let _ = b.request(Kind::Reload);
        b.good(upgrade, upgrade);
        b.told(upgrade - 1, 1);
    }
    b.actions();
    assert_eq!(b.request(Kind::Reload), Ok(Admission::Begun(UpgradeId(4))));
    b.pinned(4);
    b.wants(&["pin 4 reload", "refused 4: 2 old generations are still draining (max-draining = 2)", "discard r4"]);
    // One that runs the same release again keeps it.
    assert_eq!(b.request(Kind::Restart), Ok(Admission::Begun(UpgradeId(5))));
    b.pinned_as(5, 3);
    b.wants(&["pin 5 restart r3", "refused 5: 2 old generations are still draining (max-draining = 2)"]);
    b.ends(1, 1, OK);
    b.wants(&["sweep 1.1", "discard r1"]);
    assert_eq!(b.request(Kind::Reload), Ok(Admission::Begun(UpgradeId(6))));
    b.pinned(6);
    b.wants(&["pin 6 reload", "prepare 4.1 r5"]);
}

#[test]
fn the_limit_of_draining_generations_is_that_of_the_release_that_is_to_run() {
    let mut b = Bench::serving(Policy { max_draining: 1, ..policy() });
    let _ = b.request(Kind::Reload);
    b.good(2, 2);
    b.told(1, 1);
    b.actions();
    b.policy.max_draining = 2;
    let _ = b.request(Kind::Reload);
    b.good(3, 3);
    b.told(2, 1);
    b.wants(&["stop 2.1", "upgraded 3"]);
    b.policy.max_draining = 1;
    let _ = b.request(Kind::Reload);
    b.pinned(4);
    b.wants(&["pin 4 reload", "refused 4: 2 old generations are still draining (max-draining = 1)", "discard r4"]);
}

#[test]
fn what_has_ended_does_not_count_as_draining() {
    // The serving generation has no process left when the next takes over, and a request waits.
    let mut b = Bench::serving(Policy { max_draining: 1, ..policy() });
    b.ends(1, 1, SEGV);
    let _ = b.request(Kind::Reload);
    assert_eq!(b.request(Kind::Reload), Ok(Admission::Queued(UpgradeId(3))));
    b.good(2, 2);
    b.wants(&["upgraded 2", "discard r1", "pin 3 reload"]);
    // The candidate could not be executed, and a request waits.
    assert_eq!(b.request(Kind::Reload), Ok(Admission::Queued(UpgradeId(4))));
    b.pinned(3);
    b.actions();
    b.on(3, 1, E::PrepareFailed("no memory".into()));
    b.wants(&["failed 3: no memory", "discard r3", "pin 4 reload"]);
}

#[test]
fn nothing_to_restart() {
    let mut b = Bench::new(policy(), FirstFailure::Retry);
    let _ = b.request(Kind::Restart);
    b.wants(&["refused 1: there is no release to restart: the service has never started"]);
}

// ---- crashes while serving ----------------------------------------------------------------------------------------

#[test]
fn a_crash_while_serving_is_restarted_with_backoff() {
    let mut b = Bench::serving(Policy { give_up_after: 3, ..policy() });
    b.steps.clear();
    b.on(1, 1, E::Exited(SEGV));
    b.wants(&["sweep 1.1"]);
    let (generation, reason) = (Generation(1), Reason::Crashed(SEGV));
    assert_eq!(*b.last_step(), Step::Retrying { generation, delay: millis(100), failures: 1, reason });
    b.on(1, 1, E::Emptied);
    b.pass(millis(99));
    b.wants(&[]);
    b.pass(millis(1));
    b.wants(&["prepare 1.2 r1"]);
    b.spawn(1, 2);
    b.on(1, 2, E::Ready);
    b.wants(&["launch 1.2"]);

    b.ends(1, 2, SEGV);
    b.wants(&["sweep 1.2"]);
    b.pass(millis(200));
    b.wants(&["prepare 1.3 r1"]);
    b.on(1, 3, E::PrepareFailed("no memory".into()));
    b.wants(&[]);
    let reason = Reason::Prepare("no memory".into());
    assert_eq!(*b.last_step(), Step::GaveUp { generation, failures: 3, reason });
    assert_eq!(b.core.poll_timeout(), None);
    assert!(b.core.services()[&b.service].serving().expect("it is still the one").is_given_up());

    // Fixing forward: it starts at once, needs no soak, and replaces what was given up.
    b.policy.soak = secs(60);
    assert_eq!(b.request(Kind::Reload), Ok(Admission::Begun(UpgradeId(2))));
    b.good(2, 2);
    b.wants(&["upgraded 2", "discard r1"]);
    assert_eq!(b.generations(), [(2, Role::Serving)]);
}

#[test]
fn a_failed_attempt_to_fix_a_dead_service_leaves_its_restarts_alone() {
    let mut b = Bench::serving(policy());
    b.ends(1, 1, SEGV);
    let _ = b.request(Kind::Reload);
    b.pinned(2);
    b.actions();
    b.on(2, 1, E::PrepareFailed("no memory".into()));
    b.wants(&["failed 2: no memory", "discard r2"]);
    b.pass(millis(100));
    b.wants(&["prepare 1.2 r1"]);
}

#[test]
fn a_restarted_process_that_is_never_ready_is_ended_and_restarted() {
    let mut b = Bench::serving(policy());
    b.ends(1, 1, SEGV);
    b.pass(millis(100));
    b.spawn(1, 2);
    b.actions();
    b.pass(secs(30));
    b.wants(&["stop 1.2"]);
    b.told(1, 2);
    b.ends(1, 2, OK);
    b.wants(&["sweep 1.2"]);
    let reason = Reason::NeverReady(secs(30));
    let (generation, delay) = (Generation(1), millis(200));
    assert!(b.steps.contains(&Step::Retrying { generation, delay, failures: 2, reason }));
    b.pass(millis(200));
    b.wants(&["prepare 1.3 r1"]);
}

#[test]
fn a_long_good_run_clears_the_record() {
    let mut b = Bench::serving(policy());
    b.ends(1, 1, SEGV);
    b.pass(millis(100));
    b.spawn(1, 2);
    b.on(1, 2, E::Ready);
    b.pass(secs(30));
    b.ends(1, 2, SEGV);
    let (generation, reason) = (Generation(1), Reason::Crashed(SEGV));
    b.actions();
    assert_eq!(*b.last_step(), Step::Retrying { generation, delay: millis(100), failures: 1, reason });
}

#[test]
fn the_candidate_takes_over_at_once_when_the_serving_generation_dies_in_its_soak() {
    let mut b = Bench::soaking();
    b.on(1, 1, E::Exited(SEGV));
    b.wants(&["weights 1=0 2=100", "sweep 1.1"]);
    b.weights_set();
    b.wants(&["upgraded 2"]);
    b.on(1, 1, E::Emptied);
    b.wants(&["discard r1"]);
    // Nothing of it is started again.
    b.pass(secs(100));
    b.wants(&[]);
}

#[test]
fn the_candidate_needs_no_soak_when_nothing_serves() {
    let mut b = Bench::starting(Policy { soak: secs(60), ..policy() });
    b.ends(1, 1, SEGV);
    b.on(2, 1, E::Ready);
    b.wants(&["sweep 1.1", "weights 1=0 2=100"]);
}

#[test]
fn a_serving_generation_that_came_back_is_protected_again() {
    let mut b = Bench::starting(Policy { soak: secs(60), ..policy() });
    b.ends(1, 1, SEGV);
    b.pass(millis(100));
    b.spawn(1, 2);
    b.on(1, 2, E::Ready);
    b.actions();
    b.on(2, 1, E::Ready);
    b.wants(&[]);
    assert_eq!(b.core.poll_timeout(), Some(b.now.after(secs(60))));
}

#[test]
fn a_crash_right_after_the_switch_does_not_bring_the_old_one_back() {
    let mut b = Bench::telling();
    b.ends(2, 1, SEGV);
    b.wants(&["sweep 2.1"]);
    b.told(1, 1);
    b.wants(&["upgraded 2"]);
    b.pass(millis(100));
    b.wants(&["prepare 2.2 r2"]);
}

// ---- the watchdog -------------------------------------------------------------------------------------------------

const ABRT: Exit = Exit::Signal { signal: 6, core: true };

fn watched() -> Policy {
    Policy { soak: secs(60), watchdog: Some(secs(10)), ..policy() }
}

impl Bench {
    /// What serves has no watchdog, the candidate in its soak has.
    fn soaking_watched() -> Self {
        let mut bench = Self::serving(policy());
        bench.policy = watched();
        let _ = bench.request(Kind::Reload);
        bench.pinned(2);
        bench.spawn(2, 1);
        bench.on(2, 1, E::Ready);
        bench.actions();
        bench
    }
}

#[test]
fn a_service_that_says_that_it_lives_is_left_alone() {
    let mut b = Bench::serving(watched());
    for _ in 0..100 {
        b.pass(millis(9_999));
        b.on(1, 1, E::KeepAlive);
    }
    b.wants(&[]);
    assert_eq!(b.core.poll_timeout(), Some(b.now.after(secs(10))));
}

#[test]
fn a_keep_alive_moves_a_deadline_and_nothing_else() {
    let mut b = Bench::serving(watched());
    b.pass(secs(3));
    let mut before = b.core.clone();
    b.on(1, 1, E::KeepAlive);
    b.wants(&[]);
    assert_ne!(b.core, before);
    before.handle(b.now, Event::Instance(b.id(1, 1), E::Extend(secs(10))));
    assert_eq!(b.core, before);
}

#[test]
fn a_serving_process_that_falls_silent_is_aborted_and_started_again() {
    let mut b = Bench::serving(watched());
    b.pass(secs(10));
    b.wants(&["abort 1.1"]);
    let reason = Reason::WatchdogMissed(secs(10));
    assert_eq!(*b.last_step(), Step::Aborting { instance: b.id(1, 1), reason: reason.clone() });
    b.on(1, 1, E::KeepAlive);
    b.pass(secs(1));
    b.wants(&[]);
    b.ends(1, 1, ABRT);
    b.wants(&["sweep 1.1"]);
    let (generation, delay) = (Generation(1), millis(100));
    assert_eq!(*b.last_step(), Step::Retrying { generation, delay, failures: 1, reason });
    b.pass(millis(100));
    b.wants(&["prepare 1.2 r1"]);
    b.spawn(1, 2);
    b.on(1, 2, E::Ready);
    b.actions();
    // It is watched like the first.
    b.pass(secs(10));
    b.wants(&["abort 1.2"]);
    b.ends(1, 2, ABRT);
    b.actions();
    assert!(matches!(b.last_step(), Step::Retrying { failures: 2, .. }));
}

#[test]
fn a_long_good_run_that_falls_silent_clears_the_record() {
    let mut b = Bench::serving(watched());
    for run in 1..=3 {
        for _ in 0..4 {
            b.pass(secs(9));
            b.on(1, run, E::KeepAlive);
        }
        b.pass(secs(10));
        b.ends(1, run, ABRT);
        b.actions();
        assert!(matches!(b.last_step(), Step::Retrying { failures: 1, .. }));
        b.pass(millis(100));
        b.spawn(1, run + 1);
        b.on(1, run + 1, E::Ready);
    }
}

#[test]
fn one_that_survives_the_watchdogs_signal_is_killed() {
    let mut b = Bench::serving(watched());
    b.pass(secs(10));
    b.pass(ABORT_TIMEOUT);
    b.wants(&["abort 1.1", "kill 1.1"]);
    assert_eq!(*b.last_step(), Step::Overdue { instance: b.id(1, 1) });
    b.ends(1, 1, Exit::Signal { signal: 9, core: false });
    b.wants(&["sweep! 1.1"]);
    let reason = Reason::WatchdogMissed(secs(10));
    assert!(matches!(b.last_step(), Step::Retrying { reason: told, .. } if *told == reason));
}

#[test]
fn a_candidate_that_falls_silent_in_its_soak_is_rolled_back_at_once() {
    let mut b = Bench::soaking_watched();
    b.pass(secs(10));
    b.wants(&["abort 2.1", "rolled-back 2: no watchdog message in 10 s"]);
    b.ends(2, 1, ABRT);
    b.wants(&["sweep 2.1", "discard r2"]);
    b.next_succeeds(3, 1, 3);
}

#[test]
fn a_trigger_counts_as_a_missed_one_with_or_without_a_watchdog() {
    let mut b = Bench::serving(policy());
    b.on(1, 1, E::WatchdogTrigger);
    b.wants(&["abort 1.1"]);
    b.ends(1, 1, ABRT);
    b.actions();
    let (generation, delay) = (Generation(1), millis(100));
    let reason = Reason::WatchdogTriggered;
    assert_eq!(*b.last_step(), Step::Retrying { generation, delay, failures: 1, reason });

    let mut b = Bench::soaking_watched();
    b.on(2, 1, E::WatchdogTrigger);
    b.wants(&["abort 2.1", "rolled-back 2: said WATCHDOG=trigger"]);

    let mut b = Bench::starting(policy());
    b.on(2, 1, E::WatchdogTrigger);
    b.wants(&["abort 2.1", "failed 2: said WATCHDOG=trigger"]);
    b.ends(2, 1, ABRT);
    b.wants(&["sweep 2.1", "discard r2"]);
    b.next_succeeds(3, 1, 3);
}

#[test]
fn a_first_start_that_triggers_is_tried_again_for_that_reason() {
    let mut b = Bench::new(policy(), FirstFailure::Retry);
    let _ = b.request(Kind::Start);
    b.pinned(1);
    b.spawn(1, 1);
    b.actions();
    b.on(1, 1, E::WatchdogTrigger);
    b.wants(&["abort 1.1", "failed 1: said WATCHDOG=trigger"]);
    b.ends(1, 1, ABRT);
    b.actions();
    assert!(matches!(b.last_step(), Step::Retrying { reason: Reason::WatchdogTriggered, .. }));
}

#[test]
fn the_candidate_takes_over_at_once_when_the_serving_generation_falls_silent_in_its_soak() {
    let mut b = Bench::serving(watched());
    b.policy = Policy { soak: secs(60), ..policy() };
    let _ = b.request(Kind::Reload);
    b.pinned(2);
    b.spawn(2, 1);
    b.on(2, 1, E::Ready);
    b.actions();
    b.pass(secs(10));
    b.wants(&["abort 1.1", "weights 1=0 2=100"]);
    b.weights_set();
    // It has had its signal.
    b.wants(&["upgraded 2"]);
    b.ends(1, 1, ABRT);
    b.wants(&["sweep 1.1", "discard r1"]);
}

#[test]
fn what_is_on_its_way_out_is_not_watched() {
    let mut b = Bench::serving(watched());
    b.policy = policy();
    let _ = b.request(Kind::Reload);
    b.good(2, 2);
    b.told(1, 1);
    b.wants(&["stop 1.1", "upgraded 2"]);
    b.pass(secs(20));
    b.on(1, 1, E::WatchdogTrigger);
    b.wants(&[]);
    assert_eq!(b.core.poll_timeout(), Some(b.now.after(secs(10))), "its drain deadline");
}

#[test]
fn a_successor_of_the_shell_hears_everybody_anew() {
    let mut b = Bench::serving(watched());
    b.pass(secs(9));
    // Keep-alives went unheard, or were heard and not written down.
    b.now = b.now.after(secs(60));
    b.core.ask_again(b.now);
    b.pass(millis(9_999));
    b.wants(&[]);
    b.pass(millis(1));
    b.wants(&["abort 1.1"]);
    b.core.ask_again(b.now);
    b.wants(&["abort 1.1"]);
}

#[test]
fn stop_while_aborting() {
    let mut b = Bench::serving(watched());
    b.pass(secs(10));
    b.actions();
    b.core.stop(b.now);
    b.wants(&[]);
    b.ends(1, 1, ABRT);
    b.wants(&["sweep 1.1", "finish Stopped"]);
}

// ---- draining -----------------------------------------------------------------------------------------------------

#[test]
fn a_drain_that_is_stuck_is_killed_and_swept() {
    let mut b = Bench::telling();
    b.told(1, 1);
    b.actions();
    b.on(1, 1, E::Stopping);
    b.pass(secs(29));
    b.wants(&[]);
    b.pass(secs(1));
    b.wants(&["kill 1.1"]);
    assert_eq!(*b.last_step(), Step::Overdue { instance: b.id(1, 1) });
    b.pass(secs(10));
    b.wants(&["kill 1.1"]);
    assert_eq!(*b.last_step(), Step::Undead { instance: b.id(1, 1) });
    b.on(1, 1, E::Exited(Exit::Signal { signal: 9, core: false }));
    b.wants(&["sweep! 1.1"]);
    b.pass(secs(10));
    b.wants(&["sweep! 1.1"]);
    b.on(1, 1, E::Emptied);
    b.wants(&["discard r1"]);
}

#[test]
fn leftovers_that_outlive_the_deadline_are_killed() {
    let mut b = Bench::telling();
    b.told(1, 1);
    b.actions();
    b.pass(secs(10));
    b.on(1, 1, E::Exited(OK));
    b.wants(&["sweep 1.1"]);
    b.pass(secs(19));
    b.wants(&[]);
    b.pass(secs(1));
    b.wants(&["sweep! 1.1"]);
    b.on(1, 1, E::Emptied);
    b.wants(&["discard r1"]);
}

#[test]
fn an_old_generation_that_dies_before_it_is_told_counts_as_told() {
    let mut b = Bench::telling();
    b.on(1, 1, E::Exited(OK));
    b.wants(&["upgraded 2", "sweep 1.1"]);
}

#[test]
fn a_stop_signal_that_cannot_be_sent_does_not_hold_the_verdict_for_ever() {
    let mut b = Bench::telling();
    b.pass(secs(30));
    b.wants(&["kill 1.1", "upgraded 2"]);
}

#[test]
fn a_drain_may_ask_for_more_time() {
    let mut b = Bench::telling();
    b.told(1, 1);
    b.actions();
    b.pass(secs(20));
    b.on(1, 1, E::Extend(secs(60)));
    b.pass(secs(59));
    b.wants(&[]);
    b.pass(secs(1));
    b.wants(&["kill 1.1"]);
}

#[test]
fn each_generation_drains_by_its_own_policy() {
    let mut b = Bench::serving(Policy { drain_timeout: secs(5), ..policy() });
    b.policy.drain_timeout = secs(500);
    let _ = b.request(Kind::Reload);
    b.good(2, 2);
    b.actions();
    b.pass(secs(5));
    b.wants(&["kill 1.1", "upgraded 2"]);
}

// ---- the first start ----------------------------------------------------------------------------------------------

#[test]
fn a_first_start_that_fails_where_somebody_waits_ends_everything() {
    let mut b = Bench::new(policy(), FirstFailure::Exit);
    let _ = b.request(Kind::Start);
    b.pinned(1);
    b.spawn(1, 1);
    assert_eq!(b.request(Kind::Reload), Ok(Admission::Queued(UpgradeId(2))));
    b.actions();
    b.pass(secs(30));
    b.wants(&["stop 1.1", "failed 1: never ready in 30 s", "aborted 2: the service is being stopped"]);
    assert!(b.core.is_ending());
    assert_eq!(b.request(Kind::Reload), Err(Refusal::Stopping));
    b.ends(1, 1, OK);
    b.wants(&["sweep 1.1", "discard r1", "finish NeverStarted"]);
}

#[test]
fn a_first_start_that_fails_elsewhere_is_tried_again() {
    let mut b = Bench::new(Policy { soak: secs(5), ..policy() }, FirstFailure::Retry);
    let _ = b.request(Kind::Start);
    b.pinned(1);
    b.spawn(1, 1);
    b.actions();
    b.on(1, 1, E::Exited(Exit::Code(1)));
    b.wants(&["failed 1: ended before it was ready: exit status 1", "sweep 1.1"]);
    b.on(1, 1, E::Emptied);
    b.pass(millis(100));
    b.wants(&["prepare 1.2 r1"]);
    b.spawn(1, 2);
    b.actions();
    b.pass(secs(30));
    b.wants(&["stop 1.2"]);
    b.ends(1, 2, OK);
    b.actions();
    b.pass(millis(200));
    b.spawn(1, 3);
    b.on(1, 3, E::Ready);
    b.wants(&["prepare 1.3 r1", "launch 1.3"]);
    assert!(b.core.services()[&b.service].serving().expect("it serves").is_up());
    b.next_succeeds_from(2, (1, 3), 2);
}

#[test]
fn a_reload_of_a_service_that_never_got_ready_starts_at_once() {
    let mut b = Bench::new(policy(), FirstFailure::Retry);
    let _ = b.request(Kind::Start);
    b.pinned(1);
    b.spawn(1, 1);
    b.ends(1, 1, SEGV);
    b.actions();
    assert_eq!(b.request(Kind::Reload), Ok(Admission::Begun(UpgradeId(2))));
    b.good(2, 2);
    b.wants(&["upgraded 2", "discard r1"]);
}

#[test]
fn a_first_start_that_fails_its_checks_is_tried_again() {
    let hooks = Hooks { present: vec![Hook::AfterReady], timeout: secs(20) };
    let mut b = Bench::new(Policy { hooks, ..policy() }, FirstFailure::Retry);
    let _ = b.request(Kind::Start);
    b.pinned(1);
    b.spawn(1, 1);
    b.on(1, 1, E::Ready);
    b.actions();
    b.on(1, 1, E::Unhealthy("GET /healthz: 500".into()));
    b.wants(&["stop 1.1", "failed 1: its health checks failed: GET /healthz: 500"]);
}

#[test]
fn a_first_start_that_cannot_succeed_is_not_tried_again() {
    let mut b = Bench::new(policy(), FirstFailure::Retry);
    let _ = b.request(Kind::Start);
    b.pinned(1);
    b.on(1, 1, E::Prepared);
    b.actions();
    b.on(1, 1, E::LaunchFailed("no such file".into()));
    b.wants(&["failed 1: no such file", "discard r1", "finish NeverStarted"]);

    let mut b = Bench::new(policy(), FirstFailure::Retry);
    let _ = b.request(Kind::Start);
    b.actions();
    b.handle(Event::PinFailed { upgrade: UpgradeId(1), reason: Reason::Pin("address in use".into()) });
    b.wants(&["failed 1: address in use", "finish NeverStarted"]);
}

#[test]
fn a_rehearsal_soaks_and_is_over_when_it_fails() {
    let rehearsal = || {
        let mut b = Bench::new(Policy { soak: secs(5), ..policy() }, FirstFailure::Rehearse);
        let _ = b.request(Kind::Start);
        b.pinned(1);
        b.spawn(1, 1);
        b.on(1, 1, E::Ready);
        b.actions();
        assert!(b.steps.contains(&Step::Soaking { generation: Generation(1), span: secs(5) }));
        b
    };
    let mut b = rehearsal();
    b.pass(secs(5));
    b.wants(&["weights 1=100"]);
    b.weights_set();
    b.wants(&["upgraded 1"]);

    // Nothing is tried again, and nobody is told that everything ends: who rehearses wants to hear why.
    let mut b = rehearsal();
    b.ends(1, 1, SEGV);
    b.wants(&["rolled-back 1: ended during its soak: killed by SIGSEGV", "sweep 1.1", "discard r1"]);
    assert!(!b.core.is_ending());

    let mut b = rehearsal();
    b.core.abort(b.now, b.service).expect("a rehearsal can be aborted");
    b.wants(&["stop 1.1", "aborted 1: aborted by an operator"]);
    b.ends(1, 1, OK);
    b.wants(&["sweep 1.1", "discard r1"]);
}

// ---- stop and kill ------------------------------------------------------------------------------------------------

#[test]
fn stop_while_serving() {
    let mut b = Bench::serving(policy());
    b.core.stop(b.now);
    b.wants(&["stop 1.1"]);
    b.core.stop(b.now);
    b.wants(&[]);
    assert_eq!(b.request(Kind::Reload), Err(Refusal::Stopping));
    b.ends(1, 1, OK);
    b.wants(&["sweep 1.1", "finish Stopped"]);
}

#[test]
fn stop_in_each_phase_of_an_upgrade() {
    let pinning = |b: &mut Bench| {
        let _ = b.request(Kind::Reload);
        b.actions();
    };
    let preparing = |b: &mut Bench| {
        let _ = b.request(Kind::Reload);
        b.pinned(2);
        b.actions();
    };
    let mut b = Bench::serving(policy());
    pinning(&mut b);
    b.core.stop(b.now);
    b.wants(&["aborted 2: the service is being stopped", "stop 1.1"]);
    let mut b = Bench::serving(policy());
    preparing(&mut b);
    b.core.stop(b.now);
    b.wants(&["kill 2.1", "aborted 2: the service is being stopped", "stop 1.1"]);
    for mut b in [Bench::starting(policy()), Bench::soaking()] {
        let _ = b.request(Kind::Reload);
        b.core.stop(b.now);
        b.wants(&[
            "aborted 3: the service is being stopped",
            "stop 2.1",
            "aborted 2: the service is being stopped",
            "stop 1.1",
        ]);
        b.ends(2, 1, OK);
        b.wants(&["sweep 2.1", "discard r2"]);
        b.ends(1, 1, OK);
        b.wants(&["sweep 1.1", "finish Stopped"]);
    }
    let mut b = Bench::telling();
    b.core.stop(b.now);
    b.wants(&["stop 2.1"]);
    b.told(1, 1);
    b.wants(&["upgraded 2"]);
    b.ends(1, 1, OK);
    b.ends(2, 1, OK);
    b.wants(&["sweep 1.1", "discard r1", "sweep 2.1", "finish Stopped"]);
}

#[test]
fn stop_of_a_first_start() {
    let mut b = Bench::new(policy(), FirstFailure::Exit);
    let _ = b.request(Kind::Start);
    b.pinned(1);
    b.spawn(1, 1);
    b.actions();
    b.core.stop(b.now);
    b.wants(&["stop 1.1", "aborted 1: the service is being stopped"]);
    b.ends(1, 1, OK);
    b.wants(&["sweep 1.1", "discard r1", "finish Stopped"]);
}

#[test]
fn stop_while_backing_off_or_given_up() {
    let mut b = Bench::serving(policy());
    b.ends(1, 1, SEGV);
    b.actions();
    b.core.stop(b.now);
    b.wants(&["finish Stopped"]);
    assert_eq!(b.core.poll_timeout(), None);
}

#[test]
fn a_successor_of_a_shell_that_died_as_it_ended_ends_too() {
    let mut b = Bench::new(policy(), FirstFailure::Exit);
    b.core.stop(b.now);
    b.core.ask_again(b.now);
    b.wants(&["finish Stopped"]);
    b.core.ask_again(b.now);
    b.wants(&["finish Stopped"]);
}

#[test]
fn stop_before_anything_was_asked_for() {
    let mut b = Bench::new(policy(), FirstFailure::Exit);
    b.core.stop(b.now);
    b.wants(&["finish Stopped"]);
    let mut core = Core::new();
    core.stop(Time(0));
    assert_eq!(core.poll_action(), Some(Action::Finish(Outcome::Stopped)));
    assert_eq!(core.poll_action(), None);
}

#[test]
fn a_second_stop_ends_at_once() {
    let mut b = Bench::soaking();
    b.core.stop(b.now);
    b.actions();
    b.core.kill(b.now);
    b.wants(&["kill 1.1", "kill 2.1"]);
    b.ends(1, 1, Exit::Signal { signal: 9, core: false });
    b.ends(2, 1, Exit::Signal { signal: 9, core: false });
    b.wants(&["sweep! 1.1", "sweep! 2.1", "discard r2", "finish Stopped"]);
}

#[test]
fn a_kill_waits_for_nobody_to_be_told() {
    let mut b = Bench::telling();
    b.core.kill(b.now);
    b.wants(&["stop 2.1", "kill 1.1", "kill 2.1", "upgraded 2"]);
}

#[test]
fn a_stopped_service_starts_again_and_lets_its_old_release_go() {
    let mut b = Bench::serving(policy());
    assert_eq!(b.core.stop_service(b.now, b.service), Ok(()));
    assert_eq!(b.core.stop_service(b.now, ServiceId(9)), Err(Refusal::UnknownService));
    b.wants(&["stop 1.1"]);
    assert_eq!(b.request(Kind::Reload), Err(Refusal::Stopping));
    b.ends(1, 1, OK);
    b.wants(&["sweep 1.1"]);
    assert_eq!(*b.last_step(), Step::Stopped);
    assert_eq!(b.request(Kind::Reload), Ok(Admission::Begun(UpgradeId(2))));
    b.good(2, 2);
    b.wants(&["discard r1", "upgraded 2"]);
}

// ---- what is late, doubled or out of place ------------------------------------------------------------------------

#[test]
fn words_about_what_is_unknown_mean_nothing() {
    let mut b = Bench::soaking();
    let before = b.core.clone();
    b.on(9, 1, E::Exited(OK));
    b.on(1, 9, E::Exited(OK));
    b.told(1, 1);
    b.told(9, 9);
    b.weights_set();
    b.pinned(2);
    b.wants(&["discard r3"]);
    b.handle(Event::PinFailed { upgrade: UpgradeId(2), reason: Reason::Pin(String::new()) });
    b.handle(Event::WeightsSet(ServiceId(9)));
    b.handle(Event::Instance(InstanceId { service: ServiceId(9), ..b.id(1, 1) }, E::Emptied));
    b.pass(Duration::ZERO);
    b.wants(&[]);
    assert_eq!(b.core, before);
}
