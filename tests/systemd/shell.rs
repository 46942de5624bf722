//! No privileges are needed from a shell.

use std::process::Stdio;

use crate::machine::Machine;
use crate::release::ADDRESS;

#[test]
fn anybody_can_run_it_from_a_shell() {
    let Some(machine) = Machine::boot() else { return };
    let script = format!("{}/tests/systemd/service.py", env!("CARGO_MANIFEST_DIR"));
    // Whoever runs the tests may keep the repository where nobody else can look.
    machine.ok(["install", "-m", "0644", &script, "/run/service.py"]);
    machine.ok(["install", "-d", "-o", "nobody", "-g", "nogroup", "-m", "0700", "/run/home"]);
    let nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=-all"];
    let environment = ["env", "-i", "PATH=/usr/bin:/bin", "XDG_RUNTIME_DIR=/run/home", "HOME=/run/home"];
    let zdsup = |words: &[&str]| {
        let words = nobody.iter().chain(&environment).chain(&["zdsup"]).chain(words).copied();
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let run = zdsup(&[
        "run",
        "--name",
        "web",
        "--listen",
        &format!("http={ADDRESS}"),
        "--",
        "/usr/bin/python3",
        "-IS",
        "/run/service.py",
        "serve",
    ]);
    let mut supervisor =
        machine.command(&run).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it can be run");
    // The socket is there before the service is, and answers once it is ready.
    machine.ok(["timeout", "20", "sh", "-c", &format!("until curl --silent --fail {ADDRESS}; do :; done")]);
    machine.ok(zdsup(&["reload"]));
    assert_eq!(machine.answering(), 2);
    machine.ok(zdsup(&["status"]));
    machine.ok(zdsup(&["stop"]));
    let status = supervisor.wait().expect("it can be waited for");
    assert!(status.success(), "{status}");
    assert_eq!(machine.run(["pgrep", "--full", "service.py"]).stdout, "");
}
