//! Many upgrades, and many requests for one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use zdsup::control::types::{AdmissionKind, GenerationState, UpgradeAccepted, Verdict};

use crate::support::process::{anonymous_memory, settled_holdings};
use crate::support::{Load, Zdsup, client, within};

/// Row 11: a thousand requests during one upgrade make one more; none of them joins the one that began before it.
#[test]
fn reload_storm() {
    let mut z = Zdsup::serving(&["serve"]);
    let socket = z.supervisor.control_socket();
    let ask = |kind: &str| -> UpgradeAccepted {
        let body = format!("{{\"kind\":\"{kind}\"}}");
        let answer = client::control(&socket, "POST", "/v1/upgrades", Some(&body)).expect("it answers");
        assert_eq!(answer.status, 202, "{}", answer.body);
        serde_json::from_str(&answer.body).expect("an upgrade")
    };
    let load = Load::start(&z.target());
    let memory = anonymous_memory(z.supervisor.pid());
    // One that lasts for as long as the storm does.
    z.release(&["never-ready"]);
    let first = ask("reload");
    assert_eq!(first.admission, AdmissionKind::Begun);
    z.wait_for("it runs", |status| status.services[0].generations[0].state == GenerationState::Starting);
    let mut admissions: BTreeMap<(u64, &str), u32> = BTreeMap::new();
    std::thread::scope(|scope| {
        let storm = || {
            let ask = || {
                let accepted = ask("reload");
                (accepted.id, if accepted.admission == AdmissionKind::Joined { "joined" } else { "queued" })
            };
            (0..50).map(|_| ask()).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..20).map(|_| scope.spawn(storm)).collect();
        for thread in threads {
            for admission in thread.join().expect("it does not panic") {
                *admissions.entry(admission).or_default() += 1;
            }
        }
    });
    let next = first.id + 1;
    assert_eq!(admissions, BTreeMap::from([((next, "queued"), 1), ((next, "joined"), 999)]));
    // Whoever wants a restart wants something else.
    let restart = ask("restart");
    assert_eq!((restart.id, restart.admission), (next + 1, AdmissionKind::Queued));

    // The one that is shared reads the config when it begins, so it is mended in time.
    z.release(&["serve"]);
    assert_eq!(z.supervisor.run(&["abort"]).status.code(), Some(0));
    assert_eq!(z.supervisor.verdict_of(first.id).verdict, Verdict::Aborted);
    assert_eq!(z.supervisor.verdict_of(next).verdict, Verdict::Upgraded);
    assert_eq!(z.supervisor.verdict_of(restart.id).verdict, Verdict::Upgraded);
    z.settled(4);
    load.unharmed();
    within(Duration::from_secs(20), "the memory of the storm comes back", || {
        (anonymous_memory(z.supervisor.pid()) < memory + 3 * 1024).then_some(())
    });
    z.end();
}

#[test]
fn reload_commands_at_the_same_time_share_upgrades_and_all_tell_the_truth() {
    let z = Zdsup::serving(&["serve"]);
    let load = Load::start(&z.target());
    let upgrades: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12).map(|_| scope.spawn(|| z.upgrade())).collect();
        threads.into_iter().map(|thread| thread.join().expect("it does not panic").events[0].upgrade).collect()
    });
    let last = upgrades.iter().max().expect("there are some");
    assert!(*last < 13, "each had an upgrade of its own: {upgrades:?}");
    z.settled(*last);
    load.unharmed();
    z.end();
}

/// Guarantee 8: after a thousand upgrades of a real service under load the supervisor holds what it held after the
/// first, and no request has failed. 200 of them unless `ZDSUP_TEST_UPGRADES` says how many (a thousand take half a minute):
/// `ZDSUP_TEST_UPGRADES=1000 cargo test --test process consecutive_upgrades`.
#[test]
fn consecutive_upgrades() {
    let count: u64 = std::env::var("ZDSUP_TEST_UPGRADES").map_or(200, |count| count.parse().expect("a number"));
    let z = Zdsup::serving_with(&["serve", "--lame-duck", "300"], |setup, _| {
        // As many as may be on their way out when the machine is slow.
        setup.upgrade = vec!["max-draining = 100".into()];
    });
    let pid = z.supervisor.pid();
    let load = Load::start(&z.target());
    let began = Instant::now();
    // What is allocated once is allocated by then.
    let warm = 20.min(count / 2).max(1);
    let mut held = None;
    for number in 1..=count {
        z.upgrade();
        if number == warm {
            z.settled(number + 1);
            held = Some((settled_holdings(pid, &z.supervisor.runtime, None), anonymous_memory(pid)));
        }
    }
    let took = began.elapsed();
    z.settled(count + 1);
    let (held, memory) = held.expect("it came by");
    assert_eq!(settled_holdings(pid, &z.supervisor.runtime, Some(&held)), held, "after {count} upgrades");
    let grown = anonymous_memory(pid).saturating_sub(memory);
    assert!(grown < 1024, "{grown} KiB more after {count} upgrades");
    let tally = load.unharmed();
    // Some are replaced before anybody asks.
    assert!(tally.by.len() as u64 > count / 2, "{tally:?}");
    println!("{count} upgrades in {took:?}: {} requests, slowest {:?}, {grown} KiB", tally.ok, tally.slowest);
    z.end();
}
