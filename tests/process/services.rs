//! Several services of one supervisor: in which order they start, are upgraded and end, and what becomes of all of them
//! when one fails.

mod deaths;
mod requests;

use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::process::Output;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use zdsup::control::types::{GenerationState, ServiceState, ServiceStatus, Status, UpgradeStatus, Verdict};

use crate::support::load::{Load, Target};
use crate::support::setup::{command, list};
use crate::support::{Place, SOON, Supervisor, client, eventually, process};

/// A supervisor of several services, and what its config says of each.
struct Fleet {
    supervisor: Supervisor,
    services: Vec<One>,
    place: Place,
}

/// One service, at a port of its own.
#[derive(Clone)]
struct One {
    name: String,
    /// None: its program is missing.
    words: Vec<String>,
    /// Keys, then tables, as TOML; `NAME` stands for the service.
    keys: String,
    tables: String,
    port: u16,
}

fn one(name: &str, words: &[&str], after: &[&str]) -> One {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    let (keys, tables) = (format!("after = {after:?}\n"), String::new());
    One { name: name.to_owned(), words, keys, tables, port: 0 }
}

impl One {
    fn with(mut self, keys: &str, tables: &str) -> Self {
        self.keys.push_str(keys);
        self.tables.push_str(tables);
        self
    }

    fn blue_green(self) -> Self {
        self.with("traffic = \"steered\"\n", "[service.NAME.upgrade]\nstrategy = \"blue-green\"\nstandby = \"10m\"\n")
    }

    fn toml(&self, place: &Place) -> String {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let command = if words.is_empty() { vec!["/nonexistent".to_owned()] } else { command(&words) };
        let (name, address) = (&self.name, format!("{}:{}", place.address(), self.port));
        let mut text = format!("[service.{name}]\ncommand = {}\n{}", list(&command), self.keys);
        writeln!(text, "[[service.{name}.listen]]\nname = \"http\"\naddress = {address:?}").expect("it is text");
        text + &self.tables.replace("NAME", name)
    }
}

impl Fleet {
    fn serving(services: Vec<One>) -> Self {
        let this = Self::started(services, &[]);
        this.wait_for_all();
        this
    }

    fn started(services: Vec<One>, more: &[&str]) -> Self {
        Self::started_in(Place::new(), services, more)
    }

    fn started_in(place: Place, mut services: Vec<One>, more: &[&str]) -> Self {
        number(&mut services);
        fs::write(place.join("fleet.toml"), toml(&services, &place)).expect("a config can be written");
        let mut arguments = vec!["-c".to_owned(), place.join("fleet.toml").display().to_string()];
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        let supervisor = Supervisor::start(&place, &arguments, &std::collections::BTreeMap::new());
        Self { supervisor, services, place }
    }

    /// Changes the config.
    fn configure(&mut self, change: impl FnOnce(&mut Vec<One>)) {
        change(&mut self.services);
        number(&mut self.services);
        fs::write(self.place.join("fleet.toml"), toml(&self.services, &self.place)).expect("a config can be written");
    }

    fn release(&mut self, name: &str, words: &[&str]) {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        self.configure(|services| {
            services.iter_mut().find(|one| one.name == name).expect("it is there").words = words;
        });
    }

    #[track_caller]
    fn wait_for_all(&self) {
        let count = self.services.len();
        self.supervisor.wait_for("all of them serve", |status| {
            status.services.len() == count && status.services.iter().all(|one| one.state == ServiceState::Serving)
        });
    }

    fn target(&self, name: &str) -> Target {
        let one = self.services.iter().find(|one| one.name == name).expect("it is there");
        Target::Tcp(format!("{}:{}", self.place.address(), one.port).parse().expect("an address"))
    }

    fn serving_now(&self) -> Vec<(String, Option<u64>)> {
        let status = self.supervisor.status();
        status.services.into_iter().map(|service| (service.name, service.serving)).collect()
    }

    fn run(&self, words: &[&str]) -> Run {
        Run::of(self.supervisor.run(words))
    }

    fn upgrades(&self) -> Vec<UpgradeStatus> {
        let answer = client::control(&self.supervisor.control_socket(), "GET", "/v1/upgrades", None);
        serde_json::from_str(&answer.expect("it answers").body).expect("upgrades")
    }

    /// Each of these was logged, in this order.
    #[track_caller]
    fn logged_in_order(&self, lines: &[&str]) {
        // It is written by a thread of its own.
        eventually(&format!("the log says, in this order: {lines:?}"), || {
            let log = self.supervisor.log();
            let rest = |rest: &str, line: &&str| rest.find(line).map(|place| rest[place + line.len()..].to_owned());
            lines.iter().try_fold(log, |log, line| rest(&log, line)).map(drop)
        });
    }

    #[track_caller]
    fn end(mut self) {
        assert_eq!(self.supervisor.end().code(), Some(0));
        self.supervisor.nothing_left();
    }
}

fn number(services: &mut [One]) {
    let last = services.iter().map(|one| one.port).max().unwrap_or(0).max(8080);
    let new = services.iter_mut().filter(|one| one.port == 0);
    for (one, port) in new.zip(last + 1..) {
        one.port = port;
    }
}

fn toml(services: &[One], place: &Place) -> String {
    services.iter().map(|one| one.toml(place)).collect()
}

fn service<'a>(status: &'a Status, name: &str) -> Option<&'a ServiceStatus> {
    status.services.iter().find(|one| one.name == name)
}

/// What a command printed, and how it ended.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Run {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

fn three() -> Vec<One> {
    // As if by accident the other way round.
    vec![one("web", &["serve"], &["api"]), one("api", &["serve"], &["db"]), one("db", &["serve"], &[])]
}

// ---- each by itself -----------------------------------------------------------------------------------------------

/// Of two services that are probed at once the one that answers errors is rolled back, and the other is not.
#[test]
fn two_budgets_at_once() {
    let place = Place::new();
    let health = |name: &str| place.join(name).display().to_string();
    let (well, ill) = (health("well"), health("ill"));
    let upgrade = "[service.NAME.upgrade]\nprobe = { http = \"/healthz\", rate = 200 }\nsoak = \"2s\"\n\
                   max-error-rate = \"5%\"\n";
    let services = ["web", "api"].map(|name| one(name, &["serve"], &[]).with("", upgrade));
    let mut f = Fleet::started_in(place, services.to_vec(), &[]);
    f.wait_for_all();
    fs::write(&ill, "500").expect("a file can be written");
    f.release("web", &["serve", "--health", &ill]);
    f.release("api", &["serve", "--health", &well]);
    for name in ["web", "api"] {
        f.run(&["reload", name, "--no-wait"]).ends(0);
    }
    let verdict = f.supervisor.verdict_of(3);
    let reason = verdict.reason.as_deref().unwrap_or_default();
    assert!(reason.contains("/healthz through http; the last one: status 500"), "{verdict:?}");
    assert_eq!(f.supervisor.verdict_of(4).verdict, Verdict::Upgraded);
    assert_eq!(f.serving_now(), [("web".to_owned(), Some(1)), ("api".to_owned(), Some(2))]);
    f.end();
}

// ---- the order ----------------------------------------------------------------------------------------------------

#[test]
fn services_start_are_upgraded_and_end_in_their_order() {
    let mut f = Fleet::started(three(), &[]);
    f.wait_for_all();
    let starts = ["db@1: upgraded", "api: resolving", "api@1: upgraded", "web: resolving", "web@1: upgraded"];
    f.logged_in_order(&starts);
    let loads = ["web", "api", "db"].map(|name| Load::start(&f.target(name)));
    let reload = f.run(&["reload"]).ends(0);
    assert!(reload.err.starts_with("db: upgrade #4 has begun; then api (#5), web (#6)\n"), "{}", reload.err);
    let order = ["db@2: upgraded", "api: resolving", "api@2: upgraded", "web: resolving", "web@2: upgraded"];
    f.logged_in_order(&order);
    let shown: Vec<&str> = reload.err.lines().filter(|line| line.ends_with(": upgraded")).collect();
    assert_eq!(shown.len(), 3, "{}", reload.err);
    // Some of them, however they are named.
    f.run(&["restart", "web", "db"]).ends(0);
    f.logged_in_order(&["db@3: upgraded", "web@3: upgraded"]);
    for load in loads {
        load.unharmed();
    }
    assert_eq!(f.supervisor.end().code(), Some(0));
    f.logged_in_order(&["web: stopped", "api@2: draining", "api: stopped", "db@3: draining", "db: stopped"]);
    f.supervisor.nothing_left();
}

#[test]
fn what_others_come_after_serves_until_they_have_ended() {
    let mut services = three();
    services[0] = one("web", &["hangs-drain"], &["api"]).with("", "[service.NAME.drain]\ntimeout = \"60s\"\n");
    let mut f = Fleet::serving(services);
    f.supervisor.signal(Signal::SIGTERM);
    f.supervisor.wait_for("web drains", |status| {
        service(status, "web").is_some_and(|web| web.generations[0].state == GenerationState::Draining)
    });
    // What fails meanwhile is started again: somebody needs it.
    let api = service(&f.supervisor.status(), "api").expect("it is there").generations[0].instances[0].pid;
    process::kill(api.expect("it runs"), Signal::SIGKILL);
    f.supervisor.wait_for("api serves again", |status| {
        let api = service(status, "api").expect("it is there");
        api.serving == Some(1) && api.generations[0].instances[0].instance == "1.2"
    });
    let answer = f.target("api").connect().expect("it is bound").get("/").expect("it answers").expect("it answers");
    assert_eq!(answer.status, 200);
    // A second time everything ends at once.
    f.supervisor.signal(Signal::SIGTERM);
    assert_eq!(f.supervisor.wait(SOON).code(), Some(0));
    f.supervisor.nothing_left();
}

#[test]
fn a_signal_reloads_all_of_them_in_order() {
    let f = Fleet::serving(three());
    f.supervisor.signal(Signal::SIGHUP);
    f.supervisor.wait_for("all are upgraded", |status| status.services.iter().all(|one| one.serving == Some(2)));
    f.logged_in_order(&["SIGHUP: reload", "db@2: upgraded", "api@2: upgraded", "web@2: upgraded"]);
    f.end();
}

// ---- one fails ----------------------------------------------------------------------------------------------------

#[test]
fn a_failure_in_the_middle_ends_it() {
    let mut f = Fleet::serving(three());
    f.release("api", &["exits"]);
    let reload = f.run(&["reload", "--json"]).ends(4);
    let refused = reload.out.lines().last().expect("events");
    assert!(
        refused.contains("not begun, since upgrade #5 of api failed") && refused.contains("\"because_of\":5"),
        "{refused}"
    );
    let serving = [("web", Some(1)), ("api", Some(1)), ("db", Some(2))];
    assert_eq!(f.serving_now(), serving.map(|(name, number)| (name.to_owned(), number)));
    // What is wrong with the config is the first to fail, and changes nothing.
    f.configure(|services| services[1].keys.push_str("nonsense = 1\n"));
    f.run(&["reload"]).ends(2);
    f.configure(|services| services[1] = one("api", &["serve"], &["db"]));
    f.run(&["reload"]).ends(0);
    f.end();
}

#[test]
fn those_upgraded_are_taken_back_where_all_or_none_was_asked_for() {
    let mut f = Fleet::serving(vec![
        one("db", &["serve"], &[]),
        one("api", &["serve"], &["db"]),
        one("web", &["serve"], &["api"]),
        one("ads", &["serve"], &["web"]),
    ]);
    let loads = ["db", "api", "web", "ads"].map(|name| Load::start(&f.target(name)));
    f.release("web", &["exits"]);
    let reload = f.run(&["reload", "--atomic"]).ends(4);
    for line in [
        "then api (#6), web (#7), ads (#8), all of them or none",
        "ads: refused: not begun, since upgrade #7 of web failed",
        "api: upgrade #6 is taken back, since another of the same request failed",
        "api@3: upgraded: it runs the release of api@1",
        "db@3: upgraded: it runs the release of db@1",
    ] {
        assert!(reload.err.contains(line), "{line:?}: {}", reload.err);
    }
    f.logged_in_order(&["api@3: upgraded", "db@3: upgraded"]);
    let serving = [("db", Some(3)), ("api", Some(3)), ("web", Some(1)), ("ads", Some(1))];
    assert_eq!(f.serving_now(), serving.map(|(name, number)| (name.to_owned(), number)));
    let back: Vec<_> = f.upgrades().iter().filter_map(|one| Some((one.id, one.takes_back?))).collect();
    assert_eq!(back, [(9, 6), (10, 5)]);
    for load in loads {
        load.unharmed();
    }
    f.end();
}

#[test]
fn the_config_may_ask_for_all_or_none() {
    let mut services = three();
    services[0].tables = "[supervisor]\natomic = true\n".into();
    let mut f = Fleet::serving(services);
    f.release("web", &["exits"]);
    f.run(&["reload"]).ends(4);
    let serving = [("web", Some(1)), ("api", Some(3)), ("db", Some(3))];
    assert_eq!(f.serving_now(), serving.map(|(name, number)| (name.to_owned(), number)));
    f.end();
}

#[test]
fn blue_and_green_are_switched_together_or_not_at_all() {
    let services = ["db", "api", "web"].map(|name| one(name, &["serve"], &[]).blue_green());
    let mut f = Fleet::serving(services.into());
    let loads = ["db", "api", "web"].map(|name| Load::start(&f.target(name)));
    f.release("web", &["exits"]);
    let reload = f.run(&["reload", "--atomic"]).ends(4);
    assert!(reload.err.contains("db@2: ready, and waits for the others to be switched with it"), "{}", reload.err);
    assert!(reload.err.contains("upgrade #6 of web failed, and all of them were to succeed or none"), "{}", reload.err);
    assert!(!f.supervisor.log().contains("@2: serving"), "something was switched");
    assert!(f.serving_now().iter().all(|(_, serving)| *serving == Some(1)));
    // All are ready, and then all are switched.
    f.release("web", &["serve"]);
    f.run(&["reload", "--atomic"]).ends(0);
    f.logged_in_order(&[
        "db@3: ready, and waits",
        "api@3: ready, and waits",
        "web@3: ready, and waits",
        "db@3: serving",
    ]);
    let standby = |status: &Status| {
        let of = |service: &ServiceStatus| service.generations.iter().any(|one| one.state == GenerationState::Standby);
        status.services.iter().all(of)
    };
    f.supervisor.wait_for("the old ones stand by", standby);
    for load in loads {
        load.unharmed();
    }
    f.end();
}

// ---- more and fewer -----------------------------------------------------------------------------------------------

#[test]
fn a_reload_starts_what_the_config_has_gained_and_removes_what_it_has_lost() {
    let mut f = Fleet::serving(three());
    let load = Load::start(&f.target("db"));
    let Target::Tcp(lost) = f.target("web") else { panic!("it is TCP") };
    f.configure(|services| {
        services.remove(0);
        services.push(one("ads", &["serve"], &["api"]));
    });
    let unknown = f.run(&["reload", "ads"]).ends(2);
    assert!(unknown.err.contains("there is no service ads"), "{}", unknown.err);
    assert!(
        unknown.err.contains("it is new in the config: `zdsup reload` without a name starts it"),
        "{}",
        unknown.err
    );
    let unknown = f.run(&["reload", "nonsense"]).ends(2);
    assert!(unknown.err.contains("this supervisor has db, api, web"), "{}", unknown.err);
    let reload = f.run(&["reload"]).ends(0);
    assert!(
        reload.err.contains("web: the config does not have it any more; it is removed at the end"),
        "{}",
        reload.err
    );
    let status = f.supervisor.wait_for("web is gone", |status| service(status, "web").is_none());
    let names: Vec<&str> = status.services.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["api", "db", "ads"]);
    f.logged_in_order(&["db@2: upgraded", "api@2: upgraded", "ads@1: upgraded", "web@1: draining", "web: removed"]);
    eventually("its listener is closed", || TcpStream::connect(lost).is_err().then_some(()));
    assert_eq!(
        f.target("ads").connect().expect("bound").get("/").expect("it answers").expect("it answers").status,
        200
    );

    // What is new and does not start is not kept, and what was lost comes back under its old name.
    f.configure(|services| {
        services.push(one("bad", &["exits"], &[]));
        services.push(one("web", &["serve"], &["api"]));
    });
    f.run(&["reload"]).ends(4);
    f.supervisor.wait_for("it is not kept", |status| service(status, "bad").is_none());
    f.configure(|services| services.retain(|one| one.name != "bad"));
    f.run(&["reload"]).ends(0);
    f.supervisor.wait_for("web is back", |status| {
        // Numbers go on.
        service(status, "web").is_some_and(|web| web.serving == Some(2))
    });
    load.unharmed();
    f.end();
}

#[test]
fn what_is_gained_is_not_kept_where_all_or_none_was_asked_for() {
    let mut f = Fleet::serving(vec![one("web", &["serve"], &[])]);
    f.configure(|services| {
        services.push(one("ads", &["serve"], &[]));
        services[0].keys = "after = [\"ads\"]\n".into();
        services[0].words = vec!["exits".into()];
    });
    f.run(&["reload", "--atomic"]).ends(4);
    f.logged_in_order(&["ads@1: upgraded", "web@2: failed", "ads: upgrade #2 is taken back", "ads: removed"]);
    assert_eq!(f.serving_now(), [("web".to_owned(), Some(1))]);
    f.end();
}

// ---- many ----------------------------------------------------------------------------------------------------------

/// Fifty services with two instances each: they start, and a reload of one is as quick as ever.
/// Without a name a command means what can only be meant, or says which there are.
#[test]
fn commands_without_a_name() {
    let fleet = Fleet::serving(three());
    let said = |words: &[&str], code: i32, fragment: &str| {
        let output = fleet.supervisor.run(words);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        assert!(text.contains(fragment), "{words:?}: {fragment:?} is not in {text}");
    };
    for words in [["rollback"], ["pause"], ["resume"]] {
        said(&words, 2, "one of db, api, web");
    }
    for words in [["promote"], ["abort"]] {
        said(&words, 5, "no upgrade is in flight");
    }
    said(&["abort", "api"], 5, "no upgrade is in flight");
    said(&["pause", "ap"], 2, "this supervisor has db, api, web");
}

#[test]
fn fifty_services() {
    let services = (0..50).map(|number| one(&format!("s{number}"), &["serve"], &[]).with("instances = 2\n", ""));
    let f = Fleet::started(services.collect(), &[]);
    f.wait_for_all();
    let began = Instant::now();
    f.run(&["reload", "s17"]).ends(0);
    let reload = began.elapsed();
    // What drains is shown at length.
    let drained = |status: &Status| status.services.iter().all(|one| one.generations.len() == 1);
    f.supervisor.wait_for("the old one is gone", drained);
    let status = f.run(&["status"]).ends(0);
    assert!(status.out.contains("50 services serving") && status.out.lines().count() < 60, "{}", status.out);
    assert!(status.out.lines().all(|line| line.chars().count() <= 80), "{}", status.out);
    let one = f.run(&["status", "s17"]).ends(0);
    assert!(one.out.contains("s17@2.2") && !one.out.contains("s18"), "{}", one.out);
    assert!(reload < Duration::from_secs(10), "a reload of one of them took {reload:?}");
    f.end();
}
