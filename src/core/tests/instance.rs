//! Every pair of a process's state and what can happen to it.

use super::super::instance::{Change, Instance, State};
use super::super::policy::{ABORT_TIMEOUT, EXTEND_LIMIT, KILL_TIMEOUT, LAUNCH_TIMEOUT, PREPARE_TIMEOUT};
use super::super::service::Outbox;
use super::*;

/// One row a state, one column an event: the state afterwards, what it means, what is done. `.` is nothing at all.
/// `Leftovers!` are those that have been sent SIGKILL. The last two columns are a deadline that has passed and the
/// wish that it end.
const TABLE: &str = "
           | Prepared         | PrepareFailed | Launched         | LaunchFailed | Ready       | Healthy     | Unhealthy       | Stopping              | Extend           | KeepAlive        | Interval         | Trigger               | Exited          | Unstarted           | Emptied | Told          | late                      | stop          | kill
Preparing  | Launching Launch | NeverRan      | .                | NeverRan     | .           | .           | .               | .                     | .                | .                | .                | .                     | Leftovers Died  | Preparing Unstarted | .       | .             | Killing Stuck Kill        | Killing Kill  | Killing Kill
Launching  | .                | NeverRan      | Starting Spawned | NeverRan     | Ready Ready | .           | .               | Starting SaidStopping | Starting Spawned | Starting Spawned | Starting Spawned | Aborting Broken Abort | Leftovers Died  | Preparing Unstarted | .       | .             | Killing Stuck Kill        | Stopping Stop | Killing Kill
Starting   | .                | .             | .                | .            | Ready Ready | .           | .               | Starting SaidStopping | Starting         | .                | Starting         | Aborting Broken Abort | Leftovers Died  | .                   | .       | .             | Starting NeverReady       | Stopping Stop | Killing Kill
Proving    | .                | .             | .                | .            | .           | Ready Ready | .               | Proving SaidStopping  | Proving          | .                | Proving          | Aborting Broken Abort | Leftovers Died  | .                   | .       | .             | Proving NeverReady        | Stopping Stop | Killing Kill
Ready      | .                | .             | .                | .            | .           | .           | Ready Unhealthy | Ready SaidStopping    | Ready            | Ready            | Ready            | Aborting Broken Abort | Leftovers Died  | .                   | .       | .             | Aborting Broken Abort     | Stopping Stop | Killing Kill
Stopping   | .                | .             | .                | NeverRan     | .           | .           | .               | Stopping SaidStopping | Stopping         | .                | .                | .                     | Leftovers Died  | NeverRan            | .       | Stopping Told | Killing Overdue Kill      | .             | Killing Kill
Aborting   | .                | .             | .                | .            | .           | .           | .               | .                     | .                | .                | .                | .                     | Leftovers Died  | .                   | .       | .             | Killing Overdue Kill      | .             | Killing Kill
Killing    | .                | NeverRan      | .                | NeverRan     | .           | .           | .               | .                     | .                | .                | .                | .                     | Leftovers! Died | NeverRan            | .       | .             | Killing Undead Kill       | .             | Killing Kill
Leftovers  | .                | .             | .                | .            | .           | .           | .               | .                     | .                | .                | .                | .                     | .               | .                   | Gone    | .             | Leftovers! Overdue Sweep! | .             | Leftovers! Sweep!
Leftovers! | .                | .             | .                | .            | .           | .           | .               | .                     | .                | .                | .                | .                     | .               | .                   | Gone    | .             | Leftovers! Undead Sweep!  | .             | Leftovers! Sweep!
";

const NOW: Time = Time(1_000_000_000_000);
const ID: InstanceId = InstanceId { service: ServiceId(0), generation: Generation(7), number: 3 };

fn instance(state: &str) -> Instance {
    let deadline = NOW.after(secs(5));
    let state = match state {
        "Preparing" => State::Preparing { deadline },
        "Launching" => State::Launching { deadline },
        "Starting" => State::Starting { deadline, alive_at: None },
        "Proving" => State::Proving { deadline },
        "Ready" => State::Ready { since: NOW, alive_by: Some(deadline) },
        "Stopping" => State::Stopping { told: false, deadline },
        "Aborting" => State::Aborting { deadline },
        "Killing" => State::Killing { deadline, unrun: false },
        "Leftovers" => State::Leftovers { deadline, forced: false },
        "Leftovers!" => State::Leftovers { deadline, forced: true },
        other => panic!("the table names no such state: {other}"),
    };
    Instance { state, watchdog: Some(secs(5)), ..Instance::new(ID, Slot(0), NOW) }
}

fn name(state: State) -> &'static str {
    match state {
        State::Preparing { .. } => "Preparing",
        State::Launching { .. } => "Launching",
        State::Starting { .. } => "Starting",
        State::Proving { .. } => "Proving",
        State::Ready { .. } => "Ready",
        State::Stopping { .. } => "Stopping",
        State::Aborting { .. } => "Aborting",
        State::Killing { .. } => "Killing",
        State::Leftovers { forced: false, .. } => "Leftovers",
        State::Leftovers { forced: true, .. } => "Leftovers!",
    }
}

fn happen(instance: &mut Instance, event: &str, out: &mut Outbox) -> Change {
    use InstanceEvent as E;
    let event = match event {
        "Prepared" => E::Prepared,
        "PrepareFailed" => E::PrepareFailed("no memory".into()),
        "Launched" => E::Launched,
        "LaunchFailed" => E::LaunchFailed("no such file".into()),
        "Ready" => E::Ready,
        "Healthy" => E::Healthy,
        "Unhealthy" => E::Unhealthy("status 500".into()),
        "Stopping" => E::Stopping,
        "Extend" => E::Extend(secs(60)),
        "KeepAlive" => E::KeepAlive,
        "Interval" => E::WatchdogInterval(secs(60)),
        "Trigger" => E::WatchdogTrigger,
        "Exited" => E::Exited(Exit::Code(1)),
        "Unstarted" => E::Unstarted,
        "Emptied" => E::Emptied,
        "Told" => return instance.told(),
        "late" => return instance.expire(NOW.after(secs(5)), &policy(), out),
        "stop" => {
            instance.stop(NOW, &policy(), out);
            return Change::None;
        }
        "kill" => {
            instance.kill(NOW, out);
            return Change::None;
        }
        other => panic!("the table names no such event: {other}"),
    };
    // Later than the states began, so that a deadline that moves is seen to.
    instance.handle(NOW.after(secs(1)), event, &policy(), out)
}

fn action_name(action: &Action) -> &'static str {
    match action {
        Action::Launch(ID) => "Launch",
        Action::Stop(ID) => "Stop",
        Action::Abort(ID) => "Abort",
        Action::Kill(ID) => "Kill",
        Action::Sweep { instance: ID, force: false } => "Sweep",
        Action::Sweep { instance: ID, force: true } => "Sweep!",
        other => panic!("a process wants {other:?}"),
    }
}

#[test]
fn every_state_answers_every_event() {
    let mut rows = TABLE.trim_matches('\n').lines().map(|row| row.split('|').map(str::trim));
    let events: Vec<&str> = rows.next().expect("the table has a head").skip(1).collect();
    let mut pairs = 0;
    for mut row in rows {
        let state = row.next().expect("each row has a state");
        for (event, expected) in events.iter().zip(row) {
            let mut it = instance(state);
            let before = it.clone();
            let mut out = Outbox::default();
            let change = happen(&mut it, event, &mut out);
            let mut got = vec![];
            let touched = it != before || change != Change::None;
            let forgotten = matches!(change, Change::NeverRan(_) | Change::Gone);
            if !forgotten {
                got.push(name(it.state).to_owned());
            }
            if change != Change::None {
                let change = format!("{change:?}");
                got.push(change.split('(').next().unwrap_or_default().to_owned());
            }
            while let Some(action) = out.take() {
                got.push(action_name(&action).to_owned());
            }
            let got = if touched || got.len() > 1 { got.join(" ") } else { ".".to_owned() };
            assert_eq!(got, expected, "{state}, {event}");
            pairs += 1;
        }
    }
    assert_eq!(pairs, 10 * 19);
}

#[test]
fn each_wait_has_its_own_deadline() {
    let mut out = Outbox::default();
    let mut it = Instance::new(ID, Slot(0), NOW);
    assert_eq!(it.deadline(), Some(NOW.after(PREPARE_TIMEOUT)));
    let _ = it.handle(NOW, InstanceEvent::Prepared, &policy(), &mut out);
    assert_eq!(it.deadline(), Some(NOW.after(LAUNCH_TIMEOUT)));
    let _ = it.handle(NOW, InstanceEvent::Launched, &policy(), &mut out);
    assert_eq!(it.deadline(), Some(NOW.after(secs(30))));
    let _ = it.handle(NOW, InstanceEvent::Ready, &policy(), &mut out);
    assert_eq!(it.deadline(), None);
    it.stop(NOW, &Policy { drain_timeout: secs(7), ..policy() }, &mut out);
    assert_eq!(it.deadline(), Some(NOW.after(secs(7))));
    it.kill(NOW, &mut out);
    assert_eq!(it.deadline(), Some(NOW.after(KILL_TIMEOUT)));
}

#[test]
fn leftovers_have_what_is_left_of_the_drain_deadline() {
    let mut out = Outbox::default();
    let mut it = instance("Stopping");
    let _ = it.handle(NOW.after(secs(4)), InstanceEvent::Exited(Exit::Code(0)), &policy(), &mut out);
    assert_eq!(it.deadline(), Some(NOW.after(secs(5))));
    let mut it = instance("Ready");
    let _ = it.handle(NOW, InstanceEvent::Exited(Exit::Code(0)), &policy(), &mut out);
    assert_eq!(it.deadline(), Some(NOW.after(secs(30))));
}

#[test]
fn an_extension_never_shortens_and_is_never_endless() {
    let mut out = Outbox::default();
    for state in ["Starting", "Ready", "Stopping"] {
        let mut it = instance(state);
        let _ = it.handle(NOW, InstanceEvent::Extend(secs(2)), &policy(), &mut out);
        assert_eq!(it.deadline(), Some(NOW.after(secs(5))), "{state}");
        let _ = it.handle(NOW, InstanceEvent::Extend(secs(9)), &policy(), &mut out);
        assert_eq!(it.deadline(), Some(NOW.after(secs(9))), "{state}");
        let _ = it.handle(NOW, InstanceEvent::Extend(Duration::MAX), &policy(), &mut out);
        assert_eq!(it.deadline(), Some(NOW.after(EXTEND_LIMIT)), "{state}");
    }
}

#[test]
fn a_ready_process_is_watched_from_then_on_and_a_start_is_not() {
    let policy = Policy { watchdog: Some(secs(10)), ..policy() };
    let mut out = Outbox::default();
    let mut it = instance("Launching");
    let _ = it.handle(NOW, InstanceEvent::Launched, &policy, &mut out);
    let _ = it.handle(NOW.after(secs(3)), InstanceEvent::KeepAlive, &policy, &mut out);
    assert_eq!(it.deadline(), Some(NOW.after(secs(30))), "that to be ready");
    let _ = it.handle(NOW.after(secs(20)), InstanceEvent::Ready, &policy, &mut out);
    assert_eq!(it.deadline(), Some(NOW.after(secs(30))));
    let _ = it.handle(NOW.after(secs(25)), InstanceEvent::KeepAlive, &policy, &mut out);
    assert_eq!(it.deadline(), Some(NOW.after(secs(35))));
    assert_eq!(it.expire(NOW.after(millis(34_999)), &policy, &mut out), Change::None);
    // The time that it had, however late that is looked at.
    let missed = Change::Broken(Reason::WatchdogMissed(secs(10)));
    assert_eq!(it.expire(NOW.after(secs(40)), &policy, &mut out), missed);
    assert_eq!(it.deadline(), Some(NOW.after(secs(40)).after(ABORT_TIMEOUT)));
    assert_eq!(it.expire(NOW.after(secs(40)), &policy, &mut out), Change::None, "said once");
}

#[test]
fn a_process_may_choose_its_watchdog_interval() {
    let mut out = Outbox::default();
    let mut say = |it: &mut Instance, span| it.handle(NOW, InstanceEvent::WatchdogInterval(span), &policy(), &mut out);
    let mut it = instance("Ready");
    for (span, deadline) in [(secs(60), Some(NOW.after(secs(60)))), (secs(2), Some(NOW.after(secs(2))))] {
        let _ = say(&mut it, span);
        assert_eq!(it.deadline(), deadline);
    }
    let _ = say(&mut it, Duration::ZERO);
    assert_eq!(it.deadline(), None, "zero ends it");
    let _ = it.handle(NOW, InstanceEvent::KeepAlive, &policy(), &mut Outbox::default());
    assert_eq!(it.deadline(), None, "and a keep-alive does not begin it again");
    let _ = say(&mut it, Duration::MAX);
    assert_eq!(it.expire(Time(u64::MAX - 1), &policy(), &mut Outbox::default()), Change::None);

    // Chosen before it is ready, it holds from then on, in place of the policy's.
    let mut it = instance("Starting");
    let _ = say(&mut it, secs(7));
    let _ = it.handle(NOW, InstanceEvent::Ready, &policy(), &mut Outbox::default());
    assert_eq!(it.deadline(), Some(NOW.after(secs(7))));
}

#[test]
fn never_ready_is_said_once() {
    let mut it = instance("Starting");
    let mut out = Outbox::default();
    let late = NOW.after(secs(40));
    // The time that it had, however late that is looked at.
    assert_eq!(it.expire(late, &policy(), &mut out), Change::NeverReady(Reason::NeverReady(secs(5))));
    assert_eq!(it.expire(late, &policy(), &mut out), Change::None);
}

#[test]
fn a_process_says_once_that_it_is_stopping() {
    let mut it = instance("Ready");
    let mut out = Outbox::default();
    assert_eq!(it.handle(NOW, InstanceEvent::Stopping, &policy(), &mut out), Change::SaidStopping);
    assert_eq!(it.handle(NOW, InstanceEvent::Stopping, &policy(), &mut out), Change::None);
    it.stop(NOW, &policy(), &mut out);
    assert_eq!(it.handle(NOW, InstanceEvent::Stopping, &policy(), &mut out), Change::None);
}

#[test]
fn alive_long_enough_is_ready() {
    let policy = Policy { readiness: Readiness::Alive(secs(2)), ..policy() };
    let mut out = Outbox::default();
    let mut it = instance("Launching");
    assert_eq!(it.handle(NOW, InstanceEvent::Launched, &policy, &mut out), Change::Spawned);
    assert_eq!(it.deadline(), Some(NOW.after(secs(2))));
    assert_eq!(it.expire(NOW.after(millis(1999)), &policy, &mut out), Change::None);
    assert_eq!(it.expire(NOW.after(secs(2)), &policy, &mut out), Change::Ready(secs(2)));
    assert!(it.is_ready());
}

#[test]
fn backoff_doubles_up_to_its_limit() {
    let backoff = Backoff { min: millis(100), max: secs(1) };
    let delays: Vec<u128> = (1..=6).map(|failures| backoff.delay(failures).as_millis()).collect();
    assert_eq!(delays, [100, 200, 400, 800, 1000, 1000]);
    assert_eq!(backoff.delay(u32::MAX), secs(1));
    assert_eq!(Backoff { min: Duration::ZERO, max: secs(1) }.delay(40), Duration::ZERO);
}

#[test]
fn ends_are_told_as_a_person_would() {
    assert_eq!(Exit::Code(3).to_string(), "exit status 3");
    assert_eq!(Exit::Signal { signal: 11, core: true }.to_string(), "killed by SIGSEGV (core dumped)");
    assert_eq!(Exit::Signal { signal: 9, core: false }.to_string(), "killed by SIGKILL");
    assert_eq!(Exit::Signal { signal: 34, core: false }.to_string(), "killed by signal 34");
    assert_eq!(Reason::NeverReady(secs(30)).to_string(), "never ready in 30 s");
    assert_eq!(Reason::WatchdogMissed(secs(10)).to_string(), "no watchdog message in 10 s");
}

#[test]
fn one_with_health_checks_is_ready_once_they_pass() {
    let policy = Policy { health: true, ..policy() };
    let mut out = Outbox::default();
    let mut it = instance("Launching");
    let _ = it.handle(NOW, InstanceEvent::Launched, &policy, &mut out);
    assert_eq!(it.handle(NOW.after(secs(1)), InstanceEvent::Ready, &policy, &mut out), Change::None);
    assert!(!it.is_ready());
    assert_eq!(it.deadline(), Some(NOW.after(secs(30))), "the one to be ready");
    assert_eq!(it.handle(NOW.after(secs(2)), InstanceEvent::Unhealthy("500".into()), &policy, &mut out), Change::None);
    let ready = it.handle(NOW.after(secs(3)), InstanceEvent::Healthy, &policy, &mut out);
    assert_eq!(ready, Change::Ready(secs(3)));
    let failing = it.handle(NOW, InstanceEvent::Unhealthy("503".into()), &policy, &mut out);
    assert_eq!(failing, Change::Unhealthy(Reason::Unhealthy("503".into())));
    assert!(it.is_ready() && !it.is_available());
    assert_eq!(it.handle(NOW, InstanceEvent::Unhealthy("504".into()), &policy, &mut out), Change::None, "said once");
    assert_eq!(it.handle(NOW, InstanceEvent::Healthy, &policy, &mut out), Change::Healthy);
    assert!(it.is_available());
}

#[test]
fn one_whose_health_checks_never_pass_is_never_healthy() {
    let mut out = Outbox::default();
    let mut it = instance("Proving");
    let late = Change::NeverReady(Reason::NeverHealthy(secs(5)));
    assert_eq!(it.expire(NOW.after(secs(6)), &policy(), &mut out), late);
    assert_eq!(it.expire(NOW.after(secs(6)), &policy(), &mut out), Change::None);
}
