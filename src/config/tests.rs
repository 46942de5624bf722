use std::path::Path;

use clap::{Args, FromArgMatches};
use proptest::prelude::{Just, TestCaseError, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Values;

use super::health::{Check, HttpCheck, HttpTarget, Place, Statuses};
use super::*;
use crate::cli::run_flags::RunFlags;
use crate::core::health::Thresholds;

mod defaults;
mod refusals;
mod several;
mod upgrade;

fn load_text(text: &str) -> Result<Config, ConfigError> {
    parse(text, Path::new("web.toml"), None)
}

fn good(text: &str) -> Config {
    load_text(text).unwrap_or_else(|error| panic!("{}", error.render(false)))
}

fn service(text: &str) -> Service {
    good(text).services.remove(0)
}

fn flags(words: &[&str]) -> RunFlags {
    let command = RunFlags::augment_args(clap::Command::new("run").no_binary_name(true));
    let matches = command.try_get_matches_from(words).unwrap_or_else(|error| panic!("{error}"));
    RunFlags::from_arg_matches(&matches).unwrap_or_else(|error| panic!("{error}"))
}

fn from_words(words: &[&str]) -> Result<Config, ConfigError> {
    flags(words).config_in(Path::new("/srv"), None)
}

const MINIMAL: &str = "[service.web]\ncommand = [\"/bin/web\"]\n";

const FULL: &str = r#"
[supervisor]
operators = ["deploy"]
viewers = ["ops", "dev"]
metrics = "127.0.0.1:9100"

[service.web]
command = ["/srv/web/current/bin/web", "--workers", "4"]
instances = 10
traffic = "shared"
user = "web"
group = "www"
supplementary-groups = ["tls", "1000"]
umask = "0027"
limits = { nofile = "1024:4096", core = 0, memlock = "64M", nproc = "infinity" }
nice = -5
oom-score-adjust = 100
no-new-privileges = true
working-directory = "/srv/web/current"
environment = { RUST_LOG = "info", EMPTY = "" }
environment-file = "/etc/web.env"
clear-environment = true
non-blocking = true
log = { file = "/var/log/web.log" }
listen-pid = false
fd-store-max = 12

[[service.web.listen]]
name = "http"
address = "0.0.0.0:8080"

[[service.web.listen]]
address = "unix:/run/web.sock"

[[service.web.listen]]
address = "udp:[::1]:53"

[service.web.ready]
by = "exec"
exec = ["/bin/sh", "-c", "curl -f localhost"]
interval = "1s"
timeout = "1m30s"

[service.web.health]
http = "/healthz?deep=1"
private = "health"
host = "example.org"
status = "200-299,404"
body = "all is well"
interval = "5s"
timeout = "3s"
successes = 2
failures = 4

[service.web.watchdog]
timeout = "10s"
signal = "SIGQUIT"

[service.web.upgrade]
strategy = "rolling"
max-surge = "25%"
max-unavailable = 2
soak = "5s"
max-draining = 2
keep-releases = 0
probe = { http = "/health?full" }
max-error-rate = "0.5%"

[service.web.drain]
signal = "SIGQUIT"
timeout = "1h"

[service.web.restart]
backoff = "50ms..10s"
give-up-after = 0
"#;

const FULL_AS_FLAGS: [&str; 84] = [
    "--operators",
    "deploy",
    "--viewers",
    "ops,dev",
    "--metrics",
    "127.0.0.1:9100",
    "--user",
    "web",
    "--group",
    "www",
    "--supplementary-groups",
    "tls,1000",
    "--umask",
    "0027",
    "--limit",
    "nofile=1024:4096",
    "--limit",
    "core=0",
    "--limit",
    "memlock=64M",
    "--limit",
    "nproc=infinity",
    "--nice",
    "-5",
    "--oom-score-adjust",
    "100",
    "--no-new-privileges",
    "--working-directory",
    "web/./current",
    "--environment",
    "RUST_LOG=info",
    "--environment",
    "EMPTY=",
    "--environment-file",
    "../etc/web.env",
    "--clear-environment",
    "--non-blocking",
    "--log",
    "file=/var/log/web.log",
    "--no-listen-pid",
    "--fd-store-max=12",
    "--listen",
    "http=0.0.0.0:8080",
    "--listen",
    "unix:/run/web.sock",
    "--listen",
    "udp:[::1]:53",
    "--ready",
    "exec=curl -f localhost",
    "--ready-interval",
    "1s",
    "--ready-timeout=90s",
    "--health-http",
    "/healthz?deep=1",
    "--health-private=health",
    "--health-host=example.org",
    "--health-status=200-299,404",
    "--health-body",
    "all is well",
    "--health-interval=5s",
    "--health-timeout=3s",
    "--health-successes",
    "2",
    "--health-failures=4",
    "--watchdog-timeout=10s",
    "--watchdog-signal=QUIT",
    "--instances=10",
    "--traffic=shared",
    "--upgrade-strategy=rolling",
    "--upgrade-max-surge=25%",
    "--upgrade-max-unavailable=2",
    "--upgrade-keep-releases=0",
    "--upgrade-probe=/health?full",
    "--upgrade-max-error-rate=0.5%",
    "--upgrade-soak=5000ms",
    "--upgrade-max-draining=2",
    "--drain-signal=QUIT",
    "--drain-timeout=60m",
    "--restart-backoff=50ms..10s",
    "--restart-give-up-after=0",
    "--",
    "/srv/web/current/bin/web",
    "--workers",
    "4",
];

#[test]
fn a_minimal_config_has_every_default() {
    let config = good(MINIMAL);
    assert_eq!(config.name, "web");
    assert_eq!(config.source, Some(std::path::absolute("web.toml").expect("a directory")));
    assert_eq!(
        config.services[0],
        Service {
            name: "web".to_owned(),
            command: vec!["/bin/web".into()],
            instances: 1,
            traffic: Traffic::Shared,
            after: Vec::new(),
            working_directory: None,
            environment: BTreeMap::new(),
            environment_file: None,
            clear_environment: false,
            non_blocking: false,
            privileges: Privileges::default(),
            log: Log::Capture,
            listen: Vec::new(),
            listen_pid: true,
            fd_store_max: 0,
            ready: Ready { by: ReadyBy::Notify, timeout: Duration::from_secs(30) },
            health: None,
            watchdog: Watchdog { timeout: None, signal: 6 },
            upgrade: Upgrade {
                strategy: Strategy::Overlap,
                soak: Duration::ZERO,
                max_draining: 5,
                keep_releases: 5,
                probe: None,
            },
            drain: Drain { signal: 15, timeout: Duration::from_secs(30), spread: Duration::ZERO },
            restart: Restart {
                backoff_min: Duration::from_millis(100),
                backoff_max: Duration::from_secs(30),
                give_up_after: 10
            },
            hooks: Hooks { commands: BTreeMap::new(), timeout: Duration::from_secs(60) },
        }
    );
}

#[test]
fn every_setting_arrives() {
    let config = good(FULL);
    assert_eq!(config.operators, ["deploy"]);
    assert_eq!(config.metrics, "127.0.0.1:9100".parse().ok());
    assert_eq!(config.viewers, ["ops", "dev"]);
    let service = &config.services[0];
    assert_eq!(service.command, ["/srv/web/current/bin/web", "--workers", "4"]);
    assert_eq!(
        service.privileges,
        Privileges {
            user: Some("web".to_owned()),
            group: Some("www".to_owned()),
            supplementary_groups: Some(vec!["tls".to_owned(), "1000".to_owned()]),
            umask: Some(0o027),
            limits: BTreeMap::from([
                ("nofile".to_owned(), (1024, 4096)),
                ("core".to_owned(), (0, 0)),
                ("memlock".to_owned(), (64 << 20, 64 << 20)),
                ("nproc".to_owned(), (u64::MAX, u64::MAX)),
            ]),
            nice: Some(-5),
            oom_score_adjust: Some(100),
            no_new_privileges: true,
        }
    );
    assert_eq!(service.working_directory.as_deref(), Some(Path::new("/srv/web/current")));
    assert_eq!(service.environment.get("RUST_LOG").map(String::as_str), Some("info"));
    assert_eq!(service.environment.get("EMPTY").map(String::as_str), Some(""));
    assert_eq!(service.environment_file.as_deref(), Some(Path::new("/etc/web.env")));
    assert!(service.clear_environment && !service.listen_pid);
    assert_eq!(service.fd_store_max, 12);
    assert_eq!(service.log, Log::File("/var/log/web.log".into()));
    let listeners: Vec<_> = service.listen.iter().map(|it| (it.name.as_str(), it.address.to_string())).collect();
    assert_eq!(
        listeners,
        [
            ("http", "0.0.0.0:8080".to_owned()),
            ("web", "unix:/run/web.sock".to_owned()),
            ("web-2", "udp:[::1]:53".to_owned())
        ]
    );
    let exec = ["/bin/sh", "-c", "curl -f localhost"].map(OsString::from).to_vec();
    assert_eq!(service.ready.by, ReadyBy::Exec { command: exec, interval: Duration::from_secs(1) });
    assert_eq!(service.ready.timeout, Duration::from_secs(90));
    let place = Place::Private("health".to_owned());
    let check = Check::Http(HttpCheck {
        target: HttpTarget::Path { path: "/healthz?deep=1".to_owned(), place },
        host: Some("example.org".to_owned()),
        statuses: Statuses(vec![(200, 299), (404, 404)]),
        body: Some("all is well".to_owned()),
    });
    let thresholds = Thresholds { successes: 2, failures: 4 };
    let (interval, timeout) = (Duration::from_secs(5), Duration::from_secs(3));
    assert_eq!(service.health, Some(Health { check, interval, timeout, thresholds }));
    assert_eq!(service.watchdog, Watchdog { timeout: Some(Duration::from_secs(10)), signal: 3 });
    assert_eq!((service.instances, service.traffic), (10, Traffic::Shared));
    assert_eq!(
        service.upgrade,
        Upgrade {
            strategy: Strategy::Rolling { max_surge: 3, max_unavailable: 2 },
            soak: Duration::from_secs(5),
            max_draining: 2,
            keep_releases: 0,
            probe: Some(UpgradeProbe {
                http: "/health?full".to_owned(),
                host: None,
                rate: 20,
                listener: "http".to_owned(),
                max_error_rate: Some(ErrorBudget::per_million(5_000)),
            }),
        }
    );
    assert_eq!(service.drain, Drain { signal: 3, timeout: Duration::from_secs(3600), spread: Duration::ZERO });
    assert_eq!(service.restart.backoff_min, Duration::from_millis(50));
    assert_eq!(service.restart.backoff_max, Duration::from_secs(10));
    assert_eq!(service.restart.give_up_after, 0);
}

#[test]
fn a_spread_arrives() {
    let text = "instances = 4\n[service.web.drain]\nspread = \"90s\"\n";
    let drain = good(&format!("{MINIMAL}{text}")).services[0].drain.clone();
    assert_eq!((drain.spread, drain.spread_of_one(4)), (Duration::from_secs(90), Duration::from_millis(22_500)));
    let flags = from_words(&["--instances=4", "--drain-spread", "90s", "--", "/bin/web"]);
    let flags = flags.unwrap_or_else(|error| panic!("{}", error.render(false)));
    assert_eq!(flags.services[0].drain, drain);
}

#[test]
fn hooks_arrive_in_their_order() {
    let text = "[service.web.hooks]
timeout = \"5m\"
before-start = [[\"/bin/migrate\", \"expand\"], [\"warm\"]]
on-failure = [[\"page\"]]
after-drain = []
";
    let hooks = service(&format!("{MINIMAL}{text}")).hooks;
    let command = |words: &[&str]| HookCommand(words.iter().map(|word| (*word).into()).collect());
    let commands = BTreeMap::from([
        (Hook::BeforeStart, vec![command(&["/bin/migrate", "expand"]), command(&["warm"])]),
        (Hook::OnFailure, vec![command(&["page"])]),
    ]);
    assert_eq!(hooks, Hooks { commands, timeout: Duration::from_secs(300) });
}

#[test]
fn flags_and_a_file_that_say_the_same_are_the_same() {
    let file = good(FULL);
    // `..` is not taken out of a path: what stands before it may be a symlink.
    let file = Config {
        source: None,
        services: vec![Service { environment_file: Some("/srv/../etc/web.env".into()), ..file.services[0].clone() }],
        ..file
    };
    let flags = from_words(&FULL_AS_FLAGS).unwrap_or_else(|error| panic!("{}", error.render(false)));
    assert_eq!(flags, file);
}

#[test]
fn no_flags_but_a_command_have_every_default() {
    let file = Config { source: None, ..good(MINIMAL) };
    assert_eq!(from_words(&["--", "/bin/web"]).expect("a config"), file);
}

#[test]
fn every_proof_of_readiness_can_be_a_flag() {
    let table: [(&[&str], &str); 4] = [
        (&["--ready", "notify"], "by = \"notify\""),
        (&["--ready", "fd=3"], "by = \"fd\"\nfd = 3"),
        (&["--ready", "alive=5s"], "by = \"alive\"\nalive-for = \"5s\""),
        (&["--ready", "exec=a=b c"], "by = \"exec\"\nexec = [\"/bin/sh\", \"-c\", \"a=b c\"]"),
    ];
    for (words, text) in table {
        let flags = from_words(&[words, &["--", "/bin/web"]].concat()).expect("a config");
        assert_eq!(flags.services, [service(&format!("{MINIMAL}[service.web.ready]\n{text}"))]);
    }
}

#[test]
fn every_health_check_can_be_a_flag() {
    let table: [(&[&str], &str); 3] = [
        (&["--health-tcp", "--health-private", "h"], "tcp = true\nprivate = \"h\""),
        (&["--health-exec", "a=b c"], "exec = [\"/bin/sh\", \"-c\", \"a=b c\"]"),
        (&["--health-url", "http://[::1]:80{slot}/"], "url = \"http://[::1]:80{slot}/\""),
    ];
    for (words, text) in table {
        let flags =
            from_words(&[words, &["--", "/bin/web"]].concat()).unwrap_or_else(|e| panic!("{}", e.render(false)));
        let service = service(&format!("{MINIMAL}[service.web.health]\n{text}"));
        let health = service.health.as_ref().expect("it is checked");
        assert_eq!((health.interval, health.timeout), (Duration::from_secs(1), Duration::from_secs(1)));
        assert_eq!(health.thresholds, Thresholds { successes: 1, failures: 3 });
        assert_eq!(flags.services, [service]);
    }
}

#[test]
fn a_check_over_a_listener_reaches_the_instance_where_traffic_is_steered() {
    let listen = "[[service.web.listen]]\nname = \"http\"\naddress = \"8080\"\n";
    let health = |more: &str| {
        let text = format!("{MINIMAL}traffic = \"steered\"\n{listen}{more}");
        service(&text).health.expect("it is checked").check
    };
    let http = Place::Listener("http".to_owned());
    assert_eq!(health("[service.web.health]\ntcp = true"), Check::Tcp(http.clone()));
    assert_eq!(health("[service.web.health]\ntcp = true\nlistener = \"http\""), Check::Tcp(http));
    let flags = from_words(&["--listen", "http=8080", "--traffic", "steered", "--health-tcp", "--", "/bin/web"]);
    let file = service(&format!("{MINIMAL}traffic = \"steered\"\n{listen}[service.web.health]\ntcp = true"));
    assert_eq!(flags.expect("a config").services, [file]);
}

#[test]
fn a_private_listener_takes_a_descriptor_too() {
    let with = |fd: u32| {
        let listen = "[[service.web.listen]]\naddress = \"8080\"\n";
        let ready = format!("[service.web.ready]\nby = \"fd\"\nfd = {fd}\n");
        load_text(&format!("{MINIMAL}{listen}{ready}[service.web.health]\ntcp = true\nprivate = \"health\"\n"))
    };
    assert!(with(5).is_ok());
    assert_eq!(with(4).expect_err("it is taken").message(), "descriptor 4 is a listener's: they take 3 to 4");
}

#[test]
fn relative_paths_of_flags_start_where_the_user_is() {
    let words = ["--listen=unix:run/a.sock", "--log=file=a.log", "--working-directory=.", "--", "./a"];
    let service = from_words(&words).expect("a config").services.remove(0);
    assert_eq!(service.listen[0].address.to_string(), "unix:/srv/run/a.sock");
    assert_eq!(service.log, Log::File("/srv/a.log".into()));
    assert_eq!(service.working_directory.as_deref(), Some(Path::new("/srv")));
    assert_eq!(service.command, ["./a"]);
}

#[test]
fn supervisors_and_services_are_called_after_the_command() {
    let name = |words: &[&str], name| {
        let config = flags(words).config_in(Path::new("/"), name).expect("a config");
        (config.name, config.services[0].name.clone())
    };
    let names = |supervisor: &str, service: &str| (supervisor.to_owned(), service.to_owned());
    assert_eq!(name(&["--", "/usr/bin/web-server", "x"], None), names("web-server", "web-server"));
    assert_eq!(name(&["--", "my server"], None), names("my-server", "my-server"));
    assert_eq!(name(&["--", "a"], Some("b")), names("b", "a"));
    assert_eq!(name(&["--", ".."], None), names("service", "service"));
}

#[test]
fn the_files_stem_or_the_flag_is_the_supervisors_name() {
    let parse = |path: &str, name| parse(MINIMAL, Path::new(path), name).map(|config| config.name);
    assert_eq!(parse("/etc/zdsup/api.v2.toml", None).expect("a name"), "api.v2");
    assert_eq!(parse("/etc/zdsup/my api.toml", Some("api")).expect("a name"), "api");
    assert_eq!(
        parse("my api.toml", None).expect_err("a space").to_string(),
        "my api.toml: its stem `my api` cannot be a supervisor's name"
    );
    assert_eq!(
        parse("web.toml", Some("a/b")).expect_err("a slash").to_string(),
        "--name: `a/b` cannot be a supervisor's name"
    );
}

#[test]
fn options_of_listeners() {
    let with = |address: &str, options: &str| {
        let text = format!("{MINIMAL}[[service.web.listen]]\naddress = \"{address}\"\n{options}");
        service(&text).listen.remove(0).options
    };
    let tcp = with(
        "[::]:80",
        "backlog = 1\nreuse-port = true\nonly-v6 = true\nfree-bind = true\ntransparent = true\nno-delay = true\n\
         keep-alive = true\ndefer-accept = \"3s\"\nfast-open = 16\nreceive-buffer = \"64K\"\nsend-buffer = 4096\n\
         bind-to-device = \"eth0\"",
    );
    assert_eq!(
        tcp,
        ListenOptions {
            backlog: Some(1),
            reuse_port: true,
            only_v6: Some(true),
            free_bind: true,
            transparent: true,
            no_delay: true,
            keep_alive: true,
            defer_accept: Some(Duration::from_secs(3)),
            fast_open: Some(16),
            receive_buffer: Some(65536),
            send_buffer: Some(4096),
            bind_to_device: Some("eth0".to_owned()),
            mode: None,
            user: None,
            group: None,
        }
    );
    let unix = with("unix-dgram:/run/a", "mode = \"0660\"\nuser = \"web\"\ngroup = \"33\"");
    assert_eq!(
        unix,
        ListenOptions {
            mode: Some(0o660),
            user: Some("web".to_owned()),
            group: Some("33".to_owned()),
            ..ListenOptions::default()
        }
    );
    assert_eq!(with("80", "").backlog, Some(ListenOptions::BACKLOG));
    assert_eq!(with("udp:80", "").backlog, None);
}

#[test]
fn listeners_may_share_what_does_not_collide() {
    let listen = |one: &str, two: &str| {
        let listener = |line: &str| format!("[[service.web.listen]]\n{line}\n");
        load_text(&format!("{MINIMAL}{}{}", listener(one), listener(two)))
    };
    for (one, two) in [
        ("address = \"80\"", "address = \"udp:80\""),
        ("address = \"127.0.0.1:0\"", "address = \"127.0.0.1:0\""),
        ("address = \"127.0.0.1:80\"", "address = \"127.0.0.2:80\""),
        ("address = \"0.0.0.0:80\"", "address = \"[::]:80\"\nonly-v6 = true"),
        ("address = \"0.0.0.0:80\"\nreuse-port = true", "address = \"127.0.0.1:80\"\nreuse-port = true"),
    ] {
        assert!(listen(one, two).is_ok(), "{one} {two}");
    }
    for (one, two) in [
        ("address = \"80\"", "address = \"[::]:80\""),
        ("address = \"80\"", "address = \"127.0.0.1:80\""),
        ("address = \"127.0.0.1:80\"", "address = \"0.0.0.0:80\""),
        ("address = \"[::]:80\"", "address = \"[::1]:80\""),
        ("address = \"[::]:80\"\nonly-v6 = false", "address = \"0.0.0.0:80\""),
    ] {
        assert!(listen(one, two).is_err(), "{one} {two}");
    }
}

#[test]
fn an_error_in_a_late_line_of_a_long_file_is_found() {
    let text = format!("{}{MINIMAL}nice = 99\n", "# a comment: é\n".repeat(1000));
    let error = load_text(&text).expect_err("too nice");
    assert_eq!(error.to_string(), "web.toml:1003:8: the niceness cannot be 99");
    assert!(error.render(false).contains("1003 | nice = 99"), "{}", error.render(false));
}

#[test]
fn colours_come_only_when_asked_for() {
    let error = load_text("x = 1").expect_err("an unknown key");
    assert!(!error.render(false).contains('\x1b'));
    assert!(error.render(true).contains('\x1b'));
}

/// Something like a config: lines of a good one, cut, doubled and spoilt.
fn spoilt() -> impl Values<Value = String> {
    let lines: Vec<&'static str> = FULL.lines().collect();
    let line = prop_oneof![
        8 => proptest::sample::select(lines),
        1 => Just("[[service.web.listen]]"),
        1 => Just("[service.api]"),
        1 => Just("command = 5"),
        1 => Just("log = { fil = \"é\" }"),
        1 => Just("\"é\\u0000`\" = [[], {}]"),
        1 => Just("address = \""),
    ];
    (proptest::collection::vec(line, 0..20), "\\PC{0,4}", any::<proptest::sample::Index>()).prop_map(
        |(lines, noise, at)| {
            let mut text = lines.join("\n");
            let places: Vec<usize> = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
            text.insert_str(places[at.index(places.len())], &noise);
            text
        },
    )
}

fn check_never_panics(text: &str) -> Result<(), TestCaseError> {
    match load_text(text) {
        Ok(config) => prop_assert_eq!(config.in_order().len(), config.services.len()),
        Err(error) => {
            let line = error.to_string();
            prop_assert!(!error.message().is_empty() && !line.contains('\n'), "{:?}", line);
            prop_assert!(error.render(false).contains(error.message().split('\t').next().unwrap_or_default()));
            prop_assert!(!error.render(true).is_empty());
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}|(?s).{0,60}") {
        check_never_panics(&text)?;
    }

    #[test]
    fn no_spoilt_config_panics(text in spoilt()) {
        check_never_panics(&text)?;
    }

    #[test]
    fn no_flag_panics(index in 0..FULL_AS_FLAGS.len(), noise in "\\PC{0,8}|[a-z0-9=.:]{0,12}") {
        let mut words: Vec<&str> = FULL_AS_FLAGS.to_vec();
        words[index] = &noise;
        let command = RunFlags::augment_args(clap::Command::new("run").no_binary_name(true));
        if let Ok(matches) = command.try_get_matches_from(&words) {
            let flags = RunFlags::from_arg_matches(&matches).map_err(|error| TestCaseError::fail(error.to_string()))?;
            if let Err(error) = flags.config_in(Path::new("/srv"), None) {
                prop_assert!(!error.to_string().contains('\n'));
                prop_assert!(!error.render(false).is_empty());
            }
        }
    }
}
