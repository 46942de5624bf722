//! The supervisor is killed, or replaces itself, while several services are upgraded or started.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use zdsup::control::types::{GenerationState, ServiceState, ServiceStatus, Status, Verdict};

use super::{Fleet, one, service, three};
use crate::support::load::Load;
use crate::support::{Place, process};

/// How a supervisor is succeeded.
#[derive(Clone, Copy, Debug)]
enum End {
    Killed,
    Reexec,
}

const ENDS: [End; 2] = [End::Killed, End::Reexec];

impl Fleet {
    /// The supervisor is succeeded by another.
    #[track_caller]
    fn succeeded(&self, by: End) {
        let before = self.supervisor.status().supervisor;
        match by {
            End::Killed => process::kill(before.pid, Signal::SIGKILL),
            End::Reexec => drop(self.run(&["reexec"]).ends(0)),
        }
        self.supervisor
            .wait_for("a successor is there", |status| status.supervisor.incarnation == before.incarnation + 1);
    }

    #[track_caller]
    fn all_serve(&self, generation: u64) {
        self.supervisor.wait_for("all of them serve", |status| {
            status.services.iter().all(|one| one.serving == Some(generation) && one.upgrade.is_none())
        });
    }
}

/// A file that services wait for before they are ready.
struct Gate(PathBuf);

impl Gate {
    fn new(place: &Place) -> Self {
        Self(place.join("gate"))
    }

    fn word(&self) -> String {
        self.0.display().to_string()
    }

    fn open(&self) {
        fs::write(&self.0, "").expect("a file can be made");
    }

    fn shut(&self) {
        fs::remove_file(&self.0).expect("it is there");
    }
}

fn has(status: &Status, name: &str, state: GenerationState) -> bool {
    let of = |one: &ServiceStatus| one.generations.iter().any(|one| one.state == state);
    service(status, name).is_some_and(of)
}

/// The supervisor is killed while the second of three is upgraded: its successor goes on with it, and with the third.
#[test]
fn a_dead_supervisor_ends_no_sequence() {
    let place = Place::new();
    let gate = Gate::new(&place);
    let mut f = Fleet::started_in(place, three(), &["--keeper"]);
    f.wait_for_all();
    f.release("api", &["serve", "--gate", &gate.word()]);
    f.run(&["reload", "--atomic", "--no-wait"]).ends(0);
    f.supervisor.wait_for("api is on its way", |status| {
        has(status, "api", GenerationState::Starting) && service(status, "db").is_some_and(|db| db.serving == Some(2))
    });
    f.succeeded(End::Killed);
    gate.open();
    f.all_serve(2);
    for id in 4..7 {
        assert_eq!(f.supervisor.verdict_of(id).verdict, Verdict::Upgraded);
    }
    f.end();
}

/// One is ready and held, since it is to be switched with another that is not ready yet.
#[test]
fn what_is_held_is_switched_by_the_successor() {
    for end in ENDS {
        let place = Place::new();
        let gate = Gate::new(&place);
        let services = ["db", "web"].map(|name| one(name, &["serve"], &[]).blue_green());
        let mut f = Fleet::started_in(place, services.into(), &["--keeper"]);
        f.wait_for_all();
        let loads = ["db", "web"].map(|name| Load::start(&f.target(name)));
        f.release("web", &["serve", "--gate", &gate.word()]);
        f.run(&["reload", "--atomic", "--no-wait"]).ends(0);
        f.supervisor.wait_for("one is held, and the other on its way", |status| {
            has(status, "db", GenerationState::Held) && has(status, "web", GenerationState::Starting)
        });
        f.succeeded(end);
        assert!(f.serving_now().iter().all(|(_, serving)| *serving == Some(1)), "{end:?}");
        gate.open();
        f.all_serve(2);
        for id in [3, 4] {
            assert_eq!(f.supervisor.verdict_of(id).verdict, Verdict::Upgraded, "{end:?}");
        }
        for load in loads {
            load.unharmed();
        }
        f.end();
    }
}

/// One was upgraded, another failed, and the first is on its way back.
#[test]
fn what_is_taken_back_comes_back_by_the_successor() {
    for end in ENDS {
        let place = Place::new();
        let gate = Gate::new(&place);
        gate.open();
        let services = ["db", "api", "web"].map(|name| one(name, &["serve", "--gate", &gate.word()], &[]));
        let mut f = Fleet::started_in(place, services.into(), &["--keeper"]);
        f.wait_for_all();
        let loads = ["db", "api"].map(|name| Load::start(&f.target(name)));
        // What they are taken back to takes until the gate is open again.
        gate.shut();
        f.release("db", &["serve"]);
        f.release("api", &["serve"]);
        f.release("web", &["exits"]);
        f.run(&["reload", "--atomic", "--no-wait"]).ends(0);
        f.supervisor.wait_for("the latest is on its way back", |status| {
            has(status, "api", GenerationState::Starting)
                && service(status, "api").is_some_and(|api| api.serving == Some(2))
        });
        f.succeeded(end);
        gate.open();
        f.supervisor.wait_for("all are back", |status| {
            let serving = |name| service(status, name).and_then(|one| one.serving);
            [serving("db"), serving("api"), serving("web")] == [Some(3), Some(3), Some(1)]
        });
        let back: Vec<_> = f.upgrades().iter().filter_map(|one| Some((one.id, one.takes_back?))).collect();
        assert_eq!(back, [(7, 5), (8, 4)], "{end:?}");
        for load in loads {
            load.unharmed();
        }
        f.end();
    }
}

/// One that comes after another waits until that serves.
#[test]
fn a_first_start_that_awaits_its_turn_gets_it_from_the_successor() {
    for end in ENDS {
        let place = Place::new();
        let gate = Gate::new(&place);
        let services = vec![one("db", &["serve", "--gate", &gate.word()], &[]), one("web", &["serve"], &["db"])];
        let f = Fleet::started_in(place, services, &["--keeper"]);
        f.supervisor.wait_for("the first one is on its way", |status| has(status, "db", GenerationState::Starting));
        f.succeeded(end);
        let web = service(&f.supervisor.status(), "web").expect("it is there").clone();
        assert_eq!((web.state, web.generations.len()), (ServiceState::Starting, 0), "{end:?}: {web:?}");
        assert_eq!(web.detail.as_deref(), Some("it starts once db serves"));
        gate.open();
        f.all_serve(1);
        f.end();
    }
}

/// Whoever waited for the first start waited for another supervisor.
#[test]
fn in_a_successor_one_that_cannot_start_ends_no_other() {
    let place = Place::new();
    let gate = Gate::new(&place);
    let services = vec![one("db", &["serve", "--gate", &gate.word()], &[]), one("web", &[], &["db"])];
    let mut f = Fleet::started_in(place, services, &["--keeper"]);
    f.supervisor.wait_for("the first one is on its way", |status| has(status, "db", GenerationState::Starting));
    f.succeeded(End::Killed);
    gate.open();
    let status = f.supervisor.wait_for("it is known that web cannot start", |status| {
        service(status, "web").is_some_and(|web| web.state == ServiceState::Failed)
    });
    assert_eq!(service(&status, "db").and_then(|db| db.serving), Some(1));
    f.configure(|services| services[1].words = vec!["serve".into()]);
    f.run(&["reload", "web"]).ends(0);
    f.end();
}
