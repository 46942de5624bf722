//! Figures for a monitoring system: right, well-formed, and in nobody's way.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use zdsup::control::types::{HistoryPage, Status, Verdict};

use crate::support::client::{self, Answer, Connection};
use crate::support::{Zdsup, eventually, process, skip};

/// Samples by their names and labels, as they stand.
struct Metrics {
    text: String,
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Reads what is exposed, line by line, as strictly as OpenMetrics has it.
    #[track_caller]
    fn read(text: String) -> Self {
        let body = text.strip_suffix("# EOF\n").unwrap_or_else(|| panic!("it has no end: {text}"));
        let (mut samples, mut kinds, mut current) = (BTreeMap::new(), BTreeMap::new(), None);
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let words: Vec<&str> = comment.splitn(3, ' ').collect();
                if words[0] == "TYPE" {
                    assert!(kinds.insert(words[1].to_owned(), words[2]).is_none(), "{line}: a second time");
                    current = Some(words[1].to_owned());
                }
                assert_eq!(current.as_deref(), Some(words[1]), "{line}: not together");
                assert!(words[0] != "UNIT" || words[1].ends_with(&format!("_{}", words[2])), "{line}");
                continue;
            }
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            let family = current.as_deref().expect("a type comes first");
            let suffix = name.split('{').next().and_then(|name| name.strip_prefix(family)).expect("its own type's");
            let allowed = match kinds[family] {
                "gauge" => &[""][..],
                "counter" => &["_total"],
                _ => &["_bucket", "_sum", "_count"],
            };
            assert!(allowed.contains(&suffix), "{line}");
            let value: f64 = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            assert!(samples.insert(name.to_owned(), value).is_none(), "{line}: a second time");
        }
        Self { text, samples }
    }

    fn of(z: &Zdsup) -> Self {
        let answer = client::control(&z.supervisor.control_socket(), "GET", "/metrics", None).expect("it answers");
        assert_eq!(answer.status, 200);
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(answer.header("content-type"), Some(kind));
        Self::read(answer.body)
    }

    #[track_caller]
    fn value(&self, sample: &str) -> f64 {
        *self.samples.get(sample).unwrap_or_else(|| panic!("no {sample} in\n{}", self.text))
    }
}

#[test]
fn metrics_are_well_formed_and_right() {
    let mut z = Zdsup::serving(&["serve"]);
    let before = Metrics::of(&z);
    for verdict in ["upgraded", "failed", "rolled-back", "aborted", "refused"] {
        // Those that have not fallen are there: an increase is seen.
        let count = before.value(&format!("zdsup_upgrades_total{{service=\"web\",verdict=\"{verdict}\"}}"));
        assert_eq!(count, if verdict == "upgraded" { 1.0 } else { 0.0 });
    }
    z.upgrade();
    z.settled(2);
    let pid = z.status().services[0].generations[0].instances[0].pid.expect("it runs");
    process::kill(pid, Signal::SIGKILL);
    eventually("it was started again", || {
        let instances = &z.status().services[0].generations[0].instances;
        (instances.len() == 1 && instances[0].instance == "2.2").then_some(())
    });
    z.wait_for("it serves", |status| status.services[0].serving == Some(2));
    z.release(&["exits", "1"]);
    z.reload(&[]).is(Verdict::Failed);
    let after = Metrics::of(&z);
    for (sample, expected) in [
        ("zdsup_upgrades_total{service=\"web\",verdict=\"upgraded\"}", 2.0),
        ("zdsup_upgrades_total{service=\"web\",verdict=\"failed\"}", 1.0),
        ("zdsup_upgrade_duration_seconds_count{service=\"web\"}", 2.0),
        ("zdsup_upgrade_duration_seconds_bucket{service=\"web\",le=\"+Inf\"}", 2.0),
        ("zdsup_drain_duration_seconds_count{service=\"web\"}", 1.0),
        ("zdsup_restarts_total{service=\"web\"}", 1.0),
        ("zdsup_service_generation{service=\"web\"}", 2.0),
        ("zdsup_service_state{service=\"web\",state=\"serving\"}", 1.0),
        ("zdsup_service_state{service=\"web\",state=\"failed\"}", 0.0),
        ("zdsup_instances_desired{service=\"web\"}", 1.0),
        ("zdsup_instances_ready{service=\"web\"}", 1.0),
        ("zdsup_last_upgrade_success{service=\"web\"}", 0.0),
        ("zdsup_last_upgrade_verdict{service=\"web\",verdict=\"failed\"}", 1.0),
        ("zdsup_last_upgrade_verdict{service=\"web\",verdict=\"upgraded\"}", 0.0),
        ("zdsup_listener_queue_length{service=\"web\",listener=\"http\"}", 0.0),
        ("zdsup_holding", 0.0),
        ("zdsup_history_lines_lost_total", 0.0),
    ] {
        assert_eq!(after.value(sample), expected, "{sample} in\n{}", after.text);
    }
    assert!(after.value("zdsup_listener_backlog{service=\"web\",listener=\"http\"}") > 0.0);
    assert!(after.value("zdsup_resident_memory_bytes") > 1e6 && after.value("zdsup_open_fds") > 5.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later").as_secs_f64();
    for sample in ["zdsup_start_time_seconds", "zdsup_last_upgrade_timestamp_seconds{service=\"web\"}"] {
        assert!((now - 120.0..=now + 1.0).contains(&after.value(sample)), "{sample} in\n{}", after.text);
    }
    promtool(&after.text);
    // What somebody has aborted is no failure.
    z.release(&["never-ready"]);
    assert_eq!(z.reload(&["--no-wait"]).code, 0);
    z.wait_for("it is in flight", |status| status.services[0].upgrade.is_some());
    assert!(z.supervisor.run(&["abort"]).status.success());
    z.wait_for("it is over", |status| status.services[0].upgrade.is_none());
    let aborted = Metrics::of(&z);
    for (verdict, expected) in [("aborted", 1.0), ("failed", 0.0)] {
        let sample = format!("zdsup_last_upgrade_verdict{{service=\"web\",verdict=\"{verdict}\"}}");
        assert_eq!(aborted.value(&sample), expected, "{sample} in\n{}", aborted.text);
    }
    z.release(&["serve"]);
    z.end();
}

/// Each process has queues of its own. One that does not accept is seen, whichever it is.
#[test]
fn queues_of_every_slot_are_counted() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| {
        setup.service = vec!["traffic = \"steered\"".into(), "instances = 3".into()];
    });
    let ready = |status: &Status| status.services[0].generations[0].ready == 3;
    let status = z.wait_for("all of it is ready", ready);
    let instances = &status.services[0].generations[0].instances;
    instances.iter().for_each(|one| process::freeze(one.pid.expect("it runs")));
    const CALLERS: usize = 60;
    let callers: Vec<Connection> = (0..CALLERS).map(|_| Connection::tcp(z.address()).expect("there is room")).collect();
    let figures = Metrics::of(&z);
    let of = |what: &str| figures.value(&format!("zdsup_listener_{what}{{service=\"web\",listener=\"http\"}}"));
    assert_eq!(of("queue_length"), CALLERS as f64, "{}", figures.text);
    let listener = &z.status().services[0].listeners[0];
    assert_eq!((listener.queue, listener.backlog.map(f64::from)), (Some(CALLERS as u32), Some(of("backlog"))));
    let mean = of("queue_length") / of("backlog");
    assert!(of("fullest_queue_ratio") >= mean && of("fullest_queue_ratio") < 1.0, "{}", figures.text);
    drop(callers);
    instances.iter().for_each(|one| process::kill(one.pid.expect("it runs"), Signal::SIGCONT));
    z.end();
}

/// When an upgrade ended does not depend on how long it waited for its turn.
#[test]
fn the_time_of_the_latest_upgrade_is_that_of_its_verdict() {
    let mut z = Zdsup::serving(&["serve"]);
    let gate = z.place.join("gate");
    z.release(&["serve", "--gate", &gate.display().to_string()]);
    assert_eq!(z.reload(&["--no-wait"]).code, 0);
    z.wait_for("it is in flight", |status| status.services[0].upgrade.is_some());
    // This one waits for it.
    assert_eq!(z.reload(&["--no-wait"]).code, 0);
    std::fs::write(gate, "").expect("a file can be written");
    z.settled(3);
    let history = z.supervisor.run(&["history", "web@3", "--json"]);
    let history: HistoryPage = serde_json::from_slice(&history.stdout).expect("a history");
    let ended = history.upgrades[0].at + history.upgrades[0].duration;
    let said = Metrics::of(&z).value("zdsup_last_upgrade_timestamp_seconds{service=\"web\"}");
    assert!((said - ended).abs() < 0.05, "{said}, and it was {ended}");
    let last = z.status().services[0].last_upgrade.clone().expect("there was one");
    // Read from two texts: not to the last bit.
    assert!(last.ended_at.is_some_and(|at| (at - said).abs() < 1e-4), "{said}, and the status has {last:?}");
    z.end();
}

/// The tool that people check with, which reads an older form: there a counter is called like its sample.
#[track_caller]
fn promtool(text: &str) {
    let promtool = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/thirdparty/bin/promtool");
    if !promtool.exists() {
        return skip("there is no target/thirdparty/bin/promtool: `.ci/run packages` gets it");
    }
    let counters = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"));
    let counters: Vec<&str> = counters.collect();
    let older = text.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF").map(|line| {
        let counter = counters.iter().find(|name| line.starts_with('#') && line.split(' ').nth(2) == Some(name));
        counter.map_or_else(|| line.to_owned(), |name| line.replacen(name, &format!("{name}_total"), 1)) + "\n"
    });
    let mut check = Command::new(promtool);
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = check.spawn().expect("it can be started");
    let mut input = child.stdin.take().expect("it is a pipe");
    input.write_all(older.collect::<String>().as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it is our child");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn metrics_at_an_address_are_all_that_is_there_and_outlive_the_supervisor() {
    let z = Zdsup::serving_with(&["serve"], |setup, place| {
        setup.arguments = vec![];
        setup.supervisor = vec![format!("metrics = \"{}:9100\"", place.address())];
    });
    let address = format!("{}:9100", z.place.address());
    let ask = |method: &str, path: &str| -> Answer {
        let mut connection = Connection::Tcp(TcpStream::connect(&address).expect("it is bound"));
        connection.send(method, path, None).expect("it reads");
        Answer::read(&mut connection).expect("it answers").expect("it answers")
    };
    let scrape = || Metrics::read(ask("GET", "/metrics").body);
    assert_eq!(scrape().value("zdsup_service_generation{service=\"web\"}"), 1.0);
    for (method, path, status) in [
        ("POST", "/metrics", 405),
        ("GET", "/", 404),
        ("GET", "/v1/status", 404),
        ("POST", "/v1/upgrades", 404),
        ("POST", "/v1/stop", 404),
    ] {
        assert_eq!(ask(method, path).status, status, "{method} {path}");
    }
    // Whatever the file says by now, which nobody has asked to be read.
    let text = std::fs::read_to_string(z.place.join("web.toml")).expect("it is there");
    let of_another = text.replacen(":9100", ":9101", 1);
    for (incarnation, text) in [(2.0, text.as_str()), (3.0, &of_another), (4.0, "nonsense")] {
        std::fs::write(z.place.join("web.toml"), text).expect("it can be written");
        assert!(z.supervisor.run(&["reexec"]).status.success());
        assert_eq!(scrape().value("zdsup_incarnation"), incarnation);
    }
    std::fs::write(z.place.join("web.toml"), &text).expect("it can be written");

    // Whoever connects and says nothing, or nonsense, holds nobody up.
    let silent: Vec<TcpStream> = (0..12).map(|_| TcpStream::connect(&address).expect("it is bound")).collect();
    let began = std::time::Instant::now();
    z.upgrade();
    assert!(began.elapsed().as_secs() < 5, "an upgrade waited for them");
    let mut nonsense = TcpStream::connect(&address).expect("it is bound");
    nonsense.write_all(b"\x16\x03\x01 nonsense\r\n\r\n").expect("it can be sent");
    drop(silent);
    let mut answer = String::new();
    nonsense.read_to_string(&mut answer).expect("it is closed in the end");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(scrape().value("zdsup_service_generation{service=\"web\"}"), 2.0);
    z.end();
}

#[test]
fn an_address_for_metrics_changes_with_an_upgrade_and_one_that_is_taken_stops_nothing() {
    let mut z = Zdsup::serving(&["serve"]);
    let taken = std::net::TcpListener::bind((z.place.address(), 9100)).expect("it is nobody else's");
    z.setup.supervisor = vec![format!("metrics = \"{}:9100\"", z.place.address())];
    z.configure(|_| ());
    z.upgrade();
    z.supervisor.wait_for_log(":9100: address already in use");
    drop(taken);
    z.upgrade();
    let address = format!("{}:9100", z.place.address());
    eventually("metrics are served", || TcpStream::connect(&address).ok());
    z.setup.supervisor.clear();
    z.configure(|_| ());
    z.upgrade();
    eventually("they are no more", || TcpStream::connect(&address).is_err().then_some(()));
    z.end();
}
