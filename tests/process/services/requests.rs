//! What is asked for while services stop, leave, come back or cannot start.

use std::fs;
use std::process::Stdio;

use nix::sys::signal::Signal;
use zdsup::control::types::{GenerationState, ServiceState, Status};

use super::{Fleet, one, service, three};
use crate::support::supervisor::command;
use crate::support::{Place, SOON, eventually};

#[test]
fn one_that_cannot_start_ends_none_that_serve() {
    let services = vec![one("db", &["serve"], &[]), one("web", &[], &["db"]), one("ads", &["serve"], &["web"])];
    let mut f = Fleet::started(services, &[]);
    let status = f.supervisor.wait_for("two of them serve", |status| {
        ["db", "ads"].iter().all(|name| service(status, name).is_some_and(|one| one.serving == Some(1)))
    });
    assert_eq!(service(&status, "web").expect("it is there").state, ServiceState::Failed);
    let shown = f.run(&["status"]).ends(0);
    assert!(shown.out.contains("web") && shown.out.contains("/nonexistent"), "{}", shown.out);
    f.configure(|services| services[1].words = vec!["serve".into()]);
    f.run(&["reload", "web"]).ends(0);
    f.wait_for_all();
    f.end();
}

#[test]
fn where_none_can_start_the_supervisor_says_so_and_ends() {
    let mut f = Fleet::started(vec![one("db", &[], &[]), one("web", &[], &[])], &[]);
    assert_eq!(f.supervisor.wait(SOON).code(), Some(4));
    f.supervisor.nothing_left();
}

#[test]
fn one_that_stops_is_left_out_and_refused_by_its_name() {
    let mut services = three();
    services[0] = one("web", &["hangs-drain"], &["api"]).with("", "[service.NAME.drain]\ntimeout = \"60s\"\n");
    let mut f = Fleet::serving(services);
    f.run(&["stop", "web", "--no-wait"]).ends(0);
    f.supervisor
        .wait_for("it drains", |status| service(status, "web").is_some_and(|web| web.state == ServiceState::Stopping));
    let reload = f.run(&["reload"]).ends(0);
    assert!(reload.err.contains("web: it is being stopped, and takes no part"), "{}", reload.err);
    f.run(&["restart"]).ends(0);
    f.supervisor.wait_for_log("left out, since they are being stopped: web");
    let serving = [("web", None), ("api", Some(3)), ("db", Some(3))];
    assert_eq!(f.serving_now(), serving.map(|(name, number)| (name.to_owned(), number)));
    let refused = f.run(&["reload", "db", "web"]).ends(5);
    assert!(refused.err.contains("web is being stopped"), "{}", refused.err);
    f.supervisor.signal(Signal::SIGTERM);
    f.supervisor.wait_for_log("stopping: every service drains first");
    f.supervisor.signal(Signal::SIGTERM);
    assert_eq!(f.supervisor.wait(SOON).code(), Some(0));
    f.supervisor.nothing_left();
}

#[test]
fn what_waits_to_begin_is_shown() {
    let place = Place::new();
    let gate = place.join("gate");
    fs::write(&gate, "").expect("it can be written");
    let words = ["serve", "--gate", gate.to_str().expect("it is text")];
    let f = Fleet::started_in(place, vec![one("db", &words, &[]), one("web", &["serve"], &["db"])], &[]);
    f.wait_for_all();
    fs::remove_file(&gate).expect("it is there");
    f.run(&["reload", "--no-wait"]).ends(0);
    // Another, of one that is being upgraded.
    f.run(&["reload", "db", "--no-wait"]).ends(0);
    let status = f.supervisor.wait_for("the first is being upgraded", |status| {
        service(status, "db").is_some_and(|db| db.upgrade.as_ref().is_some_and(|upgrade| upgrade.step == "spawned"))
    });
    let waits = |name: &str| -> Vec<u64> {
        service(&status, name).expect("it is there").queued.iter().map(|upgrade| upgrade.id).collect()
    };
    assert_eq!((waits("db"), waits("web")), (vec![5], vec![4]));
    let shown = f.run(&["status"]).ends(0);
    for line in ["  reload #3: spawned, ", "  reload #5: waits to begin, ", "  reload #4: waits to begin, "] {
        assert!(shown.out.contains(line), "{}", shown.out);
    }
    fs::write(&gate, "").expect("it can be written");
    let over = |status: &Status| status.services.iter().all(|one| one.queued.is_empty() && one.upgrade.is_none());
    let status = f.supervisor.wait_for("all are upgraded", over);
    let serving = |name| service(&status, name).and_then(|one| one.serving);
    assert_eq!((serving("db"), serving("web")), (Some(3), Some(2)));
    f.end();
}

#[test]
fn what_the_config_has_again_before_its_turn_to_leave_stays() {
    let place = Place::new();
    let gate = place.join("gate");
    let mut f = Fleet::started_in(place, vec![one("db", &["serve"], &[]), one("web", &["serve"], &[])], &[]);
    f.wait_for_all();
    let web = f.services[1].clone();
    f.configure(|services| {
        services.truncate(1);
        services[0].words.extend(["--gate".into(), gate.display().to_string()]);
    });
    let reload = f.run(&["reload", "--no-wait"]).ends(0);
    assert!(reload.err.contains("web"), "{}", reload.err);
    f.supervisor.wait_for("db is on its way", |status| {
        let starting = |one: &zdsup::control::types::GenerationStatus| one.state == GenerationState::Starting;
        service(status, "db").is_some_and(|db| db.generations.iter().any(starting))
    });
    f.configure(|services| services.push(web));
    f.run(&["reload", "--no-wait"]).ends(0);
    fs::write(&gate, "").expect("a file can be made");
    f.supervisor.wait_for("both are upgraded", |status| {
        let serving = |name| service(status, name).and_then(|one| one.serving);
        (serving("db"), serving("web")) == (Some(3), Some(2))
    });
    assert!(!f.supervisor.log().contains("web: removed"));
    f.end();
}

/// A new one that fails is removed, but its hook is run to the end before.
#[test]
fn the_last_hooks_of_one_that_is_removed_are_run() {
    let place = Place::new();
    let mark = place.join("mark");
    let mut f = Fleet::started_in(place, vec![one("db", &["serve"], &[])], &[]);
    f.wait_for_all();
    let hook = ["/bin/sh".to_owned(), "-c".to_owned(), format!("echo $ZDSUP_SERVICE >> {}", mark.display())];
    let hooks = format!("[service.NAME.hooks]\non-failure = [{hook:?}]\n");
    f.configure(|services| services.push(one("bad", &["exits"], &[]).with("", &hooks)));
    f.run(&["reload"]).ends(4);
    let written = || fs::read_to_string(&mark).ok().filter(|text| text.ends_with('\n'));
    assert_eq!(eventually("the hook was run", written), "bad\n");
    f.supervisor.wait_for("it is not kept", |status| service(status, "bad").is_none());
    f.end();
}

/// Whoever asks while the config is read is answered before the supervisor replaces itself, and the upgrade is not lost.
#[test]
fn a_reload_that_waits_for_the_config_survives_a_reexec() {
    let mut f = Fleet::serving(vec![one("web", &["serve"], &[])]);
    // So long that it is still being read when the other program is known to be able to take over.
    let remark = "# Nobody reads this, but it is read.\n".repeat(25_000);
    f.configure(|services| services[0].tables = remark);
    let spawn = |words: &[&str]| {
        let mut command = command(&f.supervisor.runtime);
        command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run")
    };
    for generation in 2..5 {
        let reexec = spawn(&["reexec"]);
        let reload = spawn(&["reload", "--no-wait"]).wait_with_output().expect("it ends");
        assert_eq!(reload.status.code(), Some(0), "{reload:?}");
        let reexec = reexec.wait_with_output().expect("it ends");
        assert_eq!(reexec.status.code(), Some(0), "{reexec:?}");
        f.supervisor.wait_for("it is upgraded", |status| {
            status.supervisor.incarnation == generation && status.services[0].serving == Some(generation)
        });
    }
    f.end();
}
