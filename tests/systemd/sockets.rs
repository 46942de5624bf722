//! Sockets from systemd: a `.socket` unit beside the service.

use crate::machine::Machine;
use crate::release::{ADDRESS, Config, UNIT};

/// A socket for the service of the tests.
fn socket(address: &str, name: &str) -> String {
    format!("[Socket]\nListenStream={address}\nFileDescriptorName={name}\n")
}

#[test]
fn a_first_request_starts_the_service() {
    let Some(machine) = Machine::boot() else { return };
    machine.install_unit("zdsup@web.socket", &socket(ADDRESS, "http"));
    Config::mode("serve").install(&machine);
    machine.ok(["systemctl", "start", "zdsup@web.socket"]);
    assert_eq!(machine.property(UNIT, "ActiveState"), "inactive");
    let load = machine.load();
    load.flow(20);
    assert_eq!(machine.status()["services"][0]["listeners"][0]["origin"], "inherited");
    assert!(machine.reload().status.success());
    load.stop_unharmed();
}

#[test]
fn a_socket_is_matched_by_its_address_where_its_name_says_nothing() {
    let Some(machine) = Machine::boot() else { return };
    machine.install_unit("zdsup@web.socket", &socket(ADDRESS, "anything"));
    Config::mode("serve").install(&machine);
    machine.ok(["systemctl", "start", "zdsup@web.socket", UNIT]);
    assert_eq!(machine.status()["services"][0]["listeners"][0]["origin"], "inherited");
    assert_eq!(machine.status()["services"][0]["listeners"][0]["name"], "http");
    machine.answering();
}

#[test]
fn sockets_of_several_kinds_are_matched_by_their_addresses() {
    let Some(machine) = Machine::boot() else { return };
    let sockets = format!(
        "[Socket]\nListenStream=/run/web.sock\nListenDatagram=127.0.0.1:8080\nListenStream={ADDRESS}\n\
         ListenSequentialPacket=@web\n"
    );
    machine.install_unit("zdsup@web.socket", &sockets);
    let listeners = [
        ("http", ADDRESS),
        ("local", "unix:/run/web.sock"),
        ("datagrams", "udp:127.0.0.1:8080"),
        ("packets", "unix-seqpacket:@web"),
    ];
    let tables = listeners
        .map(|(name, address)| format!("[[service.web.listen]]\nname = \"{name}\"\naddress = \"{address}\"\n"));
    Config::mode("names").listen(&tables.concat()).install(&machine);
    machine.ok(["systemctl", "start", "zdsup@web.socket", UNIT]);
    let status = machine.status();
    for (place, (name, _)) in listeners.iter().enumerate() {
        let listener = &status["services"][0]["listeners"][place];
        assert_eq!((listener["name"].as_str(), listener["origin"].as_str()), (Some(*name), Some("inherited")));
    }
    machine.await_entry(UNIT, "the names in their order", |entry| {
        entry.message() == "listening on http:local:datagrams:packets"
    });
}

#[test]
fn no_request_fails_while_the_unit_is_restarted() {
    let Some(machine) = Machine::boot() else { return };
    machine.install_unit("zdsup@web.socket", &socket(ADDRESS, "http"));
    Config::mode("serve").install(&machine);
    machine.ok(["systemctl", "start", "zdsup@web.socket", UNIT]);
    let load = machine.load();
    load.flow(50);
    machine.ok(["systemctl", "restart", UNIT]);
    load.flow(50);
    load.stop_unharmed();
}

#[test]
fn a_socket_that_no_listener_matches_is_an_error() {
    let Some(machine) = Machine::boot() else { return };
    machine.install_unit("zdsup@web.socket", &socket("127.0.0.1:9090", "admin"));
    Config::mode("serve").install(&machine);
    let start = machine.run(["systemctl", "start", "zdsup@web.socket", UNIT]);
    assert!(!start.status.success(), "{start:?}");
    assert_eq!(machine.property(UNIT, "ExecMainStatus"), "2");
    machine.await_entry(UNIT, "which socket", |entry| {
        entry.message().contains("admin") && entry.message().contains("127.0.0.1:9090")
    });
}

#[test]
fn no_request_fails_when_the_supervisor_is_killed() {
    let Some(machine) = Machine::boot() else { return };
    machine.install_unit("zdsup@web.socket", &socket(ADDRESS, "http"));
    Config::mode("serve").install(&machine);
    machine.ok(["systemctl", "start", "zdsup@web.socket", UNIT]);
    let killed = machine.property(UNIT, "MainPID");
    let load = machine.load();
    load.flow(50);
    machine.ok(["systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT]);
    machine.await_property(UNIT, "NRestarts", "1", |restarts| restarts == "1");
    machine.await_property(UNIT, "ActiveState", "active", |state| state == "active");
    assert_ne!(machine.property(UNIT, "MainPID"), killed);
    load.flow(50);
    load.stop_unharmed();
}
