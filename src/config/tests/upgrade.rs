//! Instances, traffic, strategies.

use super::*;
const STEERED: &str =
    "[service.web]\ncommand = [\"/bin/web\"]\ntraffic = \"steered\"\n[[service.web.listen]]\naddress = \"8080\"\n";

fn steered(upgrade: &str) -> Upgrade {
    service(&format!("{STEERED}[service.web.upgrade]\n{upgrade}\n")).upgrade
}

fn rolling(instances: u32, rest: &str) -> Result<Strategy, ConfigError> {
    let text = format!("{MINIMAL}instances = {instances}\n[service.web.upgrade]\nstrategy = \"rolling\"\n{rest}\n");
    load_text(&text).map(|mut config| config.services.remove(0).upgrade.strategy)
}

#[test]
fn parts_of_the_instances_are_rounded_so_that_there_are_enough() {
    for (instances, rest, max_surge, max_unavailable) in [
        (4, "", 1, 0),
        (4, "max-surge = 2\nmax-unavailable = 1", 2, 1),
        (10, "max-surge = \"25%\"\nmax-unavailable = \"25%\"", 3, 2),
        (4, "max-surge = \"25%\"\nmax-unavailable = \"25%\"", 1, 1),
        (1, "max-surge = \"1%\"\nmax-unavailable = \"99%\"", 1, 0),
        (1024, "max-surge = \"100%\"\nmax-unavailable = \"100%\"", 1024, 1024),
        (1, "max-surge = 0\nmax-unavailable = 1", 0, 1),
    ] {
        let strategy = rolling(instances, rest).unwrap_or_else(|error| panic!("{}", error.render(false)));
        assert_eq!(strategy, Strategy::Rolling { max_surge, max_unavailable }, "{instances} {rest}");
    }
    assert!(rolling(1, "max-surge = 0").is_err());
    assert!(rolling(3, "max-surge = \"0%\"\nmax-unavailable = \"25%\"").is_err());
}

#[test]
fn a_canary_has_steps_networks_and_affinity() {
    let upgrade = steered(
        "strategy = \"canary\"\ncanary = { steps = [{ weight = 5, hold = \"30s\" }, { weight = 50, hold = \"1m\" }], \
         from = [\"10.1.0.0/16\", \"::1/128\", \"127.0.0.1\"], affinity = \"source\" }",
    );
    let step = |weight, seconds| CanaryStep { weight, hold: Duration::from_secs(seconds) };
    let Strategy::Canary(canary) = upgrade.strategy else { panic!("{upgrade:?}") };
    assert_eq!(canary.steps, [step(5, 30), step(50, 60)]);
    assert_eq!((canary.manual, canary.affinity), (false, Affinity::Source));
    let from: Vec<_> = canary.from.iter().map(Network::to_string).collect();
    assert_eq!(from, ["10.1.0.0/16", "::1/128", "127.0.0.1/32"]);
}

#[test]
fn a_manual_canary_needs_no_times() {
    let upgrade = steered(
        "strategy = \"canary\"\n[service.web.upgrade.canary]\nmanual = true\n\
         steps = [{ weight = 1 }, { weight = 99, hold = \"5s\" }]",
    );
    let Strategy::Canary(canary) = upgrade.strategy else { panic!("{upgrade:?}") };
    assert!(canary.manual && canary.from.is_empty() && canary.affinity == Affinity::Random);
    assert_eq!(
        canary.steps.iter().map(|step| (step.weight, step.hold.as_secs())).collect::<Vec<_>>(),
        [(1, 0), (99, 5)]
    );
}

#[test]
fn the_other_strategies() {
    assert_eq!(steered("strategy = \"overlap\"").strategy, Strategy::Overlap);
    assert_eq!(steered("strategy = \"stop-start\"").strategy, Strategy::StopStart);
    let blue_green = |standby| Strategy::BlueGreen { standby: Duration::from_secs(standby) };
    assert_eq!(steered("strategy = \"blue-green\"").strategy, blue_green(600));
    assert_eq!(steered("strategy = \"blue-green\"\nstandby = \"0s\"").strategy, blue_green(0));
    let shared = service(&format!("{MINIMAL}[service.web.upgrade]\nstrategy = \"stop-start\"\n"));
    assert_eq!(shared.upgrade.strategy, Strategy::StopStart);
}

#[test]
fn strategies_can_be_flags() {
    let table: [(&[&str], &str); 4] = [
        (&["--upgrade-strategy=stop-start"], "strategy = \"stop-start\""),
        (&["--upgrade-strategy=blue-green", "--upgrade-standby=1h"], "strategy = \"blue-green\"\nstandby = \"1h\""),
        (
            &["--upgrade-strategy=canary", "--upgrade-canary=5:30s,50:1m30s"],
            "strategy = \"canary\"\ncanary.steps = [{ weight = 5, hold = \"30s\" }, { weight = 50, hold = \"90s\" }]",
        ),
        (
            &["--upgrade-strategy=canary", "--upgrade-canary=5,50"],
            "strategy = \"canary\"\ncanary = { steps = [{ weight = 5 }, { weight = 50 }], manual = true }",
        ),
    ];
    for (words, text) in table {
        let words = [words, &["--listen=8080", "--traffic=steered", "--", "/bin/web"]].concat();
        let flags = from_words(&words).unwrap_or_else(|error| panic!("{}", error.render(false)));
        assert_eq!(flags.services[0].upgrade, steered(text), "{text}");
    }
}

#[test]
fn a_probe_goes_through_the_first_listener_that_can_carry_it() {
    let probe = |probe: &str| {
        let listen = [("dns", "udp:53"), ("log", "unix-dgram:/run/a"), ("admin", "unix:/run/b"), ("http", "8080")]
            .map(|(name, address)| format!("[[service.web.listen]]\nname = \"{name}\"\naddress = \"{address}\"\n"));
        let text = format!("{MINIMAL}{}[service.web.upgrade]\nprobe = {{ http = \"/\"{probe} }}\n", listen.concat());
        service(&text).upgrade.probe.expect("a probe")
    };
    let expected = |rate, listener: &str| UpgradeProbe {
        http: "/".to_owned(),
        host: None,
        rate,
        listener: listener.to_owned(),
        max_error_rate: None,
    };
    assert_eq!(probe(""), expected(20, "admin"));
    assert_eq!(probe(", rate = 1000, listener = \"http\""), expected(1000, "http"));
    assert_eq!(probe(", host = \"example.org\"").host.as_deref(), Some("example.org"));
}
