//! Several services in one unit.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::machine::Machine;
use crate::release::{ADDRESS, Config, PROGRAM, UNIT};

const OTHER: &str = "127.0.0.1:8081";

/// `web` comes after `api`, which is in one of the modes of the service of the tests.
fn two(machine: &Machine, api: &str) {
    with_api(Config::mode("serve"), api).install(machine);
}

fn with_api(web: Config, api: &str) -> Config {
    let command = ["/usr/bin/python3", "-IS", PROGRAM, api];
    let api = format!(
        "[service.api]\ncommand = {command:?}\nready = {{ timeout = \"30s\" }}\n\
         [[service.api.listen]]\nname = \"http\"\naddress = \"{OTHER}\"\n"
    );
    web.keys("after = [\"api\"]").tables(&api)
}

impl Machine {
    /// Begins to start both, on sockets of one name, and waits until `api` is on its way; it gets ready by
    /// [`Self::open_gate`].
    fn begin_start(&self, web: Config) {
        let sockets = format!("[Socket]\nListenStream={ADDRESS}\nListenStream={OTHER}\nFileDescriptorName=http\n");
        self.install_unit("zdsup@web.socket", &sockets);
        with_api(web, "gated").install(self);
        self.ok(["systemctl", "start", "zdsup@web.socket"]);
        self.ok(["systemctl", "start", "--no-block", UNIT]);
        self.await_status("api is on its way", |status| {
            service(status, "api")["generations"][0]["state"] == "starting"
        });
    }

    fn open_gate(&self) {
        self.write("/etc/zdsup/gate", "");
    }

    #[track_caller]
    fn await_status(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.run(["zdsup", "status", "--json"]).stdout;
            let status: Value = serde_json::from_str(&status).unwrap_or_default();
            if is_so(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "not in 60 s: {what}: {status:#}\n{}", self.whole_journal());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The supervisor is killed, and another goes on.
    fn die_in_the_start(&self) {
        self.ok(["systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT]);
        self.await_status("a successor is there", |status| status["supervisor"]["incarnation"] == 2);
    }
}

fn service<'a>(status: &'a Value, name: &str) -> &'a Value {
    static NONE: Value = Value::Null;
    let services = status["services"].as_array().into_iter().flatten();
    services.into_iter().find(|service| service["name"] == name).unwrap_or(&NONE)
}

/// Both serve, on the sockets that systemd has bound.
#[track_caller]
fn both_serve(machine: &Machine) {
    let status = machine.await_status("both serve", |status| {
        ["web", "api"].iter().all(|name| service(status, name)["state"] == "serving")
    });
    for (name, address) in [("web", ADDRESS), ("api", OTHER)] {
        let listener = &service(&status, name)["listeners"][0];
        let (origin, at) = (listener["origin"].as_str(), listener["address"].as_str());
        assert_eq!((origin, at), (Some("inherited"), Some(address)), "{name}: {status:#}");
    }
    machine.await_property(UNIT, "ActiveState", "active", |state| state == "active");
}

#[test]
fn start_and_reload_wait_for_all_of_them_and_each_has_its_sockets() {
    let Some(machine) = Machine::boot() else { return };
    let sockets = format!("[Socket]\nListenStream={ADDRESS}\nListenStream={OTHER}\n");
    machine.install_unit("zdsup@web.socket", &sockets);
    two(&machine, "slowly-ready");
    let start = machine.run(["systemctl", "start", "zdsup@web.socket", UNIT]);
    assert!(start.status.success(), "{start:?}");
    assert!(start.took.as_secs() >= 3, "it did not wait until the first was ready: {start:?}");
    let status = machine.status();
    for service in status["services"].as_array().expect("services") {
        assert_eq!((service["serving"].as_u64(), service["state"].as_str()), (Some(1), Some("serving")), "{service}");
        assert_eq!(service["listeners"][0]["origin"], "inherited", "{service}");
    }
    assert_eq!(machine.property(UNIT, "StatusText"), "web@1 serving; api@1 serving");
    let reload = machine.reload();
    assert!(reload.status.success() && reload.took.as_secs() >= 3, "{reload:?}");
    assert_eq!(machine.property(UNIT, "StatusText"), "web@2 serving; api@2 serving");
    two(&machine, "crashes");
    let reload = machine.reload();
    assert!(!reload.status.success(), "{reload:?}");
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");
    let line = machine.property(UNIT, "StatusText");
    assert!(
        line.contains("web@2 serving") && line.contains("web refused: not begun, since upgrade #5 of api failed"),
        "{line}"
    );
}

#[test]
fn the_failure_of_one_is_the_failure_of_the_start() {
    let Some(machine) = Machine::boot() else { return };
    two(&machine, "crashes");
    let start = machine.run(["systemctl", "start", UNIT]);
    assert!(!start.status.success(), "{start:?}");
    let status = machine.run(["systemctl", "status", "--no-pager", "--full", UNIT]).stdout;
    assert!(status.contains("api did not start: ended before it was ready: exit status 3"), "{status}");
    assert_eq!(machine.run(["pgrep", "--full", "service.py"]).stdout, "", "a process was left behind");
}

#[test]
fn sockets_wait_for_their_services_through_a_death_and_a_reexec() {
    let Some(machine) = Machine::boot() else { return };
    machine.begin_start(Config::mode("serve"));
    machine.die_in_the_start();
    machine.ok(["zdsup", "reexec"]);
    machine.await_status("it has replaced itself", |status| status["supervisor"]["incarnation"] == 3);
    machine.open_gate();
    both_serve(&machine);
}

#[test]
fn in_a_successor_one_that_cannot_start_ends_no_other() {
    let Some(machine) = Machine::boot() else { return };
    machine.begin_start(Config::command(&["/nonexistent"]));
    machine.die_in_the_start();
    machine.open_gate();
    machine.await_status("api serves, and web cannot", |status| {
        (&service(status, "api")["state"], &service(status, "web")["state"]) == (&"serving".into(), &"failed".into())
    });
    machine.await_property(UNIT, "ActiveState", "active", |state| state == "active");
    let line = machine.property(UNIT, "StatusText");
    assert!(line.contains("api@1 serving") && line.contains("web failed"), "{line}");
    two(&machine, "gated");
    machine.ok(["zdsup", "reload", "web"]);
    both_serve(&machine);
}

#[test]
fn one_that_is_stopped_before_its_turn_is_not_waited_for_and_finds_its_socket_later() {
    let Some(machine) = Machine::boot() else { return };
    machine.begin_start(Config::mode("serve"));
    machine.ok(["zdsup", "stop", "web"]);
    machine.open_gate();
    machine.await_property(UNIT, "ActiveState", "active", |state| state == "active");
    machine.ok(["zdsup", "reload", "web"]);
    both_serve(&machine);
}

#[test]
fn a_start_is_over_when_the_last_one_is_stopped() {
    let Some(machine) = Machine::boot() else { return };
    with_api(Config::mode("gated"), "serve").install(&machine);
    machine.ok(["systemctl", "start", "--no-block", UNIT]);
    machine.await_status("api serves, and web is on its way", |status| {
        service(status, "web")["generations"][0]["state"] == "starting"
    });
    assert_eq!(machine.property(UNIT, "ActiveState"), "activating");
    machine.ok(["zdsup", "stop", "web"]);
    machine.await_property(UNIT, "ActiveState", "active", |state| state == "active");
}
