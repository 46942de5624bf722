//! What the user sees when a config is refused, word for word: one page to read, kept by insta.

use super::*;

/// What follows a good service.
const AFTER: [(&str, &str); 127] = [
    ("a misspelt key", "nise = 5"),
    ("a key with underscores", "working_directory = \"/\""),
    ("a key of another table", "timeout = \"5s\""),
    ("a key of a later version", "handoff = \"inherit\""),
    ("a key like no other", "zzz = 2"),
    ("a misspelt table", "[service.web.raedy]\nby = \"fd\""),
    ("a key in a listener", "[[service.web.listen]]\nadress = \"8080\""),
    ("a key of a log", "log = { path = \"/var/log/web\" }"),
    ("a key twice", "nice = 5\nnice = 6"),
    ("a number for a string", "user = 1000"),
    ("a string for a number", "nice = \"5\""),
    ("a string for a truth", "clear-environment = \"yes\""),
    ("a number in the environment", "environment = { PORT = 8080 }"),
    ("a number for a duration", "[service.web.drain]\ntimeout = 30"),
    ("a table for an array", "[service.web.listen]\naddress = \"8080\""),
    ("an array for a table", "ready = [1]"),
    ("an octal number", "umask = 0o022"),
    ("a decimal mask", "umask = \"0089\""),
    ("no quotes", "user = web"),
    ("an open string", "user = \"web"),
    ("no value", "user ="),
    ("a duration without a unit", "[service.web.drain]\ntimeout = \"30\""),
    ("a negative duration", "[service.web.drain]\ntimeout = \"-30s\""),
    ("an endless duration", "[service.web.drain]\ntimeout = \"infinity\""),
    ("no time to drain", "[service.web.drain]\ntimeout = \"0s\""),
    (
        "a spread of a replacement a few at a time",
        "[service.web.upgrade]\nstrategy = \"rolling\"\n[service.web.drain]\nspread = \"5s\"",
    ),
    (
        "a spread that callers wait for",
        "[service.web.upgrade]\nstrategy = \"stop-start\"\n[service.web.drain]\nspread = \"5s\"",
    ),
    ("a spread longer than the drain", "instances = 2\n[service.web.drain]\nspread = \"1m\""),
    ("an unknown signal", "[service.web.drain]\nsignal = \"SIGTREM\""),
    ("a signal that ends nothing", "[service.web.drain]\nsignal = \"SIGSTOP\""),
    ("no address", "[[service.web.listen]]\nname = \"http\""),
    ("a bad address", "[[service.web.listen]]\naddress = \"::1:8080\""),
    ("a relative socket", "[[service.web.listen]]\naddress = \"unix:web.sock\""),
    ("no backlog", "[[service.web.listen]]\naddress = \"8080\"\nbacklog = 0"),
    ("a backlog for datagrams", "[[service.web.listen]]\naddress = \"udp:8080\"\nbacklog = 16"),
    ("a mode for TCP", "[[service.web.listen]]\naddress = \"8080\"\nmode = \"0600\""),
    ("an IPv6 option for IPv4", "[[service.web.listen]]\naddress = \"0.0.0.0:80\"\nonly-v6 = true"),
    ("half a second", "[[service.web.listen]]\naddress = \"80\"\ndefer-accept = \"500ms\""),
    ("a huge buffer", "[[service.web.listen]]\naddress = \"80\"\nreceive-buffer = \"4G\""),
    ("an impossible interface", "[[service.web.listen]]\naddress = \"80\"\nbind-to-device = \"a/b\""),
    ("a name with a colon", "[[service.web.listen]]\nname = \"a:b\"\naddress = \"80\""),
    (
        "an address twice",
        "[[service.web.listen]]\nname = \"a\"\naddress = \"8080\"\n\n[[service.web.listen]]\nname = \"b\"\naddress = \"[::]:8080\"",
    ),
    (
        "a name twice",
        "[[service.web.listen]]\nname = \"a\"\naddress = \"8080\"\n[[service.web.listen]]\nname = \"a\"\naddress = \"9090\"",
    ),
    (
        "an address within another",
        "[[service.web.listen]]\naddress = \"0.0.0.0:80\"\n[[service.web.listen]]\naddress = \"127.0.0.1:80\"",
    ),
    ("an unknown proof", "[service.web.ready]\nby = \"notfy\""),
    ("a proof of a later version", "[service.web.ready]\nby = \"http\""),
    ("a descriptor that is not said", "[service.web.ready]\nby = \"fd\""),
    ("a listener's descriptor", "[[service.web.listen]]\naddress = \"8080\"\n[service.web.ready]\nby = \"fd\"\nfd = 3"),
    (
        "a descriptor of the store",
        "fd-store-max = 8\n[[service.web.listen]]\naddress = \"8080\"\n[service.web.ready]\nby = \"fd\"\nfd = 10",
    ),
    ("a huge store", "fd-store-max = 1025"),
    ("a standard descriptor", "[service.web.ready]\nby = \"fd\"\nfd = 1"),
    ("a key of another proof", "[service.web.ready]\nexec = [\"/bin/true\"]"),
    ("an empty check", "[service.web.ready]\nby = \"exec\"\nexec = []"),
    ("alive for too long", "[service.web.ready]\nby = \"alive\"\nalive-for = \"1m\"\ntimeout = \"10s\""),
    ("alive for longer than the default", "[service.web.ready]\nby = \"alive\"\nalive-for = \"1m\""),
    ("a backwards backoff", "[service.web.restart]\nbackoff = \"30s..1s\""),
    ("no backoff", "[service.web.restart]\nbackoff = \"0s..1s\""),
    ("a health check of nothing", "[service.web.health]\ninterval = \"1s\""),
    ("two health checks", "[service.web.health]\nhttp = \"/\"\nexec = [\"/bin/true\"]"),
    ("a URL and a path", "[service.web.health]\nurl = \"http://[::1]:80{slot}/\"\nhttp = \"/healthz\""),
    ("a health check that is off", "[service.web.health]\ntcp = false"),
    (
        "a health check that could reach anybody",
        "[[service.web.listen]]\nname = \"http\"\naddress = \"8080\"\n[service.web.health]\nhttp = \"/healthz\"",
    ),
    (
        "a health check over a shared listener by name",
        "[[service.web.listen]]\nname = \"http\"\naddress = \"8080\"\n[service.web.health]\ntcp = true\nlistener = \"http\"",
    ),
    (
        "a health check over a unix socket",
        "[[service.web.listen]]\naddress = \"unix:/run/a\"\n[service.web.health]\nhttp = \"/\"\nlistener = \"web\"",
    ),
    (
        "a health check over UDP",
        "[[service.web.listen]]\naddress = \"udp:53\"\n[service.web.health]\ntcp = true\nlistener = \"web\"",
    ),
    (
        "a health check over no listener",
        "[[service.web.listen]]\naddress = \"8080\"\n[service.web.health]\ntcp = true\nlistener = \"wed\"",
    ),
    ("a health check without a listener", "[service.web.health]\nhttp = \"/\""),
    (
        "a health check over one of two listeners",
        "[[service.web.listen]]\naddress = \"80\"\n[[service.web.listen]]\naddress = \"81\"\n[service.web.health]\ntcp = true",
    ),
    (
        "a private listener of a taken name",
        "[[service.web.listen]]\naddress = \"80\"\n[service.web.health]\ntcp = true\nprivate = \"web\"",
    ),
    ("two places to check", "[service.web.health]\ntcp = true\nprivate = \"a\"\nlistener = \"b\""),
    ("a key of another health check", "[service.web.health]\nexec = [\"/bin/true\"]\nstatus = 200"),
    ("a path that is none", "[service.web.health]\nhttp = \"healthz\"\nprivate = \"health\""),
    ("a path with a space", "[service.web.health]\nhttp = \"/a b\"\nprivate = \"health\""),
    ("a URL for a path", "[service.web.health]\nhttp = \"http://[::1]/\"\nprivate = \"health\""),
    ("a URL of every instance", "[service.web.health]\nurl = \"http://127.0.0.1:9100/healthz\""),
    ("a URL with a strange placeholder", "[service.web.health]\nurl = \"http://127.0.0.1:91{port}/\""),
    ("a URL with TLS", "[service.web.health]\nurl = \"https://127.0.0.1:91{slot}/\""),
    ("a URL with a name", "[service.web.health]\nurl = \"http://web.internal:91{slot}/\""),
    ("a URL with too long a port", "[service.web.health]\nurl = \"http://127.0.0.1:{pid}/\""),
    ("a status that is none", "[service.web.health]\nhttp = \"/\"\nprivate = \"health\"\nstatus = \"2xx\""),
    ("an empty body", "[service.web.health]\nhttp = \"/\"\nprivate = \"health\"\nbody = \"\""),
    ("an impossible host", "[service.web.health]\nhttp = \"/\"\nprivate = \"health\"\nhost = \"a\\nb\""),
    ("checks without a pause", "[service.web.health]\ntcp = true\nprivate = \"health\"\ninterval = \"0s\""),
    ("a verdict of no checks", "[service.web.health]\ntcp = true\nprivate = \"health\"\nfailures = 0"),
    ("a watchdog without patience", "[service.web.watchdog]\ntimeout = \"0s\""),
    ("no draining", "[service.web.upgrade]\nmax-draining = 0"),
    ("an unknown hook", "[service.web.hooks]\nbefore-stop = [[\"/bin/true\"]]"),
    ("a hook with one command", "[service.web.hooks]\nbefore-start = [\"/bin/migrate\", \"expand\"]"),
    ("a hook in one string", "[service.web.hooks]\nbefore-start = \"/bin/migrate expand\""),
    ("a hook that runs nothing", "[service.web.hooks]\nafter-ready = [[\"/bin/true\"], []]"),
    ("a relative hook", "[service.web.hooks]\nafter-drain = [[\"./migrate\"]]"),
    ("a hook without time", "[service.web.hooks]\ntimeout = \"0s\""),
    (
        "a hook of many commands",
        "[service.web.hooks]\non-failure = [\n[\"a\"],[\"a\"],[\"a\"],[\"a\"],[\"a\"],[\"a\"],[\"a\"],[\"a\"],[\"a\"],\n[\"a\"],[\"a\"],[\"a\"],[\"a\"],[\"a\"],[\"a\"],[\"a\"],[\"b\"]]",
    ),
    ("a variable of a hook", "environment = { ZDSUP_HOOK = \"before-start\" }"),
    ("an unknown limit", "limits = { nofiles = 1024 }"),
    ("a backwards limit", "limits = { nofile = \"4096:1024\" }"),
    ("too nice", "nice = 20"),
    ("a relative directory", "working-directory = \"web\""),
    ("a relative log", "log = { file = \"web.log\" }"),
    ("an unknown log", "log = \"captur\""),
    ("a variable of zdsup", "environment = { LISTEN_FDS = \"1\" }"),
    ("a user with a space", "user = \"a b\""),
    ("no instance", "instances = 0"),
    ("an unknown kind of traffic", "traffic = \"steerd\""),
    ("steered without a listener", "traffic = \"steered\""),
    ("an unknown strategy", "[service.web.upgrade]\nstrategy = \"bluegreen\""),
    ("a key of another strategy", "[service.web.upgrade]\nmax-surge = 2"),
    ("a standby without its strategy", "[service.web.upgrade]\nstrategy = \"overlap\"\nstandby = \"1m\""),
    ("a canary without its strategy", "[service.web.upgrade.canary]\naffinity = \"source\""),
    ("a canary of shared traffic", "[service.web.upgrade]\nstrategy = \"canary\""),
    ("blue and green of shared traffic", "traffic = \"shared\"\n[service.web.upgrade]\nstrategy = \"blue-green\""),
    ("nothing to replace", "[service.web.upgrade]\nstrategy = \"rolling\"\nmax-surge = 0"),
    (
        "nothing to replace after rounding",
        "instances = 3\n[service.web.upgrade]\nstrategy = \"rolling\"\nmax-surge = 0\nmax-unavailable = \"25%\"",
    ),
    ("a part that is none", "[service.web.upgrade]\nstrategy = \"rolling\"\nmax-surge = \"a few\""),
    ("too many kept", "[service.web.upgrade]\nkeep-releases = 101"),
    ("a budget without a probe", "[service.web.upgrade]\nmax-error-rate = \"1%\""),
    ("a probe without a path", "[service.web.upgrade]\nprobe = { rate = 5 }"),
    ("a probe without a listener", "[service.web.upgrade]\nprobe = { http = \"/\" }"),
    ("after one that is not there", "after = [\"apl\"]\n[service.api]\ncommand = [\"/bin/api\"]"),
    ("after none", "after = [\"api\"]"),
    ("after itself", "after = [\"web\"]"),
    ("after one twice", "after = [\"api\", \"api\"]\n[service.api]\ncommand = [\"/bin/api\"]"),
    ("in a circle", "after = [\"api\"]\n[service.api]\ncommand = [\"/bin/api\"]\nafter = [\"web\"]"),
    (
        "in a larger circle",
        "after = [\"a\"]\n[service.a]\ncommand = [\"a\"]\nafter = [\"b\"]\n[service.b]\ncommand = [\"b\"]\nafter = [\"web\", \"c\"]\n[service.c]\ncommand = [\"c\"]",
    ),
    (
        "an address of another service",
        "[[service.web.listen]]\naddress = \"8080\"\n[service.api]\ncommand = [\"/bin/api\"]\n[[service.api.listen]]\naddress = \"[::]:8080\"",
    ),
    (
        "an address within one of another service",
        "[[service.web.listen]]\naddress = \"8080\"\n[service.api]\ncommand = [\"/bin/api\"]\n[[service.api.listen]]\naddress = \"127.0.0.1:8080\"",
    ),
    ("a second service without a command", "[service.api]\nnice = 5"),
];

/// What follows a service with steered traffic.
const STEERED: [(&str, &str); 20] = [
    ("steered UDP", "[[service.web.listen]]\naddress = \"udp:53\""),
    ("a steered unix socket", "[[service.web.listen]]\naddress = \"unix:/run/web.sock\""),
    ("a steered vsock", "[[service.web.listen]]\naddress = \"vsock:2:80\""),
    ("what steering does by itself", "[[service.web.listen]]\naddress = \"80\"\nreuse-port = true"),
    ("a canary without steps", "[service.web.upgrade]\nstrategy = \"canary\""),
    ("no steps", "[service.web.upgrade]\nstrategy = \"canary\"\ncanary = { steps = [] }"),
    ("a step without a weight", "[service.web.upgrade]\nstrategy = \"canary\"\ncanary.steps = [{ hold = \"1s\" }]"),
    ("a step without a time", "[service.web.upgrade]\nstrategy = \"canary\"\ncanary.steps = [{ weight = 5 }]"),
    (
        "a step for no time",
        "[service.web.upgrade]\nstrategy = \"canary\"\ncanary.steps = [{ weight = 5, hold = \"0s\" }]",
    ),
    (
        "a step to everything",
        "[service.web.upgrade]\nstrategy = \"canary\"\ncanary.steps = [{ weight = 100, hold = \"1s\" }]",
    ),
    (
        "a step to nothing",
        "[service.web.upgrade]\nstrategy = \"canary\"\ncanary.steps = [{ weight = 0, hold = \"1s\" }]",
    ),
    (
        "weights that fall",
        "[service.web.upgrade]\nstrategy = \"canary\"\ncanary = { manual = true, steps = [{ weight = 50 }, { weight = 5 }] }",
    ),
    (
        "a misspelt key of a step",
        "[service.web.upgrade]\nstrategy = \"canary\"\ncanary.steps = [{ weight = 5, held = \"1s\" }]",
    ),
    (
        "a client of a network",
        "[service.web.upgrade]\nstrategy = \"canary\"\ncanary = { manual = true, steps = [{ weight = 5 }], from = [\"10.1.2.3/16\"] }",
    ),
    (
        "no network",
        "[service.web.upgrade]\nstrategy = \"canary\"\ncanary = { manual = true, steps = [{ weight = 5 }], from = [\"office\"] }",
    ),
    (
        "an unknown affinity",
        "[service.web.upgrade]\nstrategy = \"canary\"\ncanary = { manual = true, steps = [{ weight = 5 }], affinity = \"cookie\" }",
    ),
    ("a path with a space", "[service.web.upgrade]\nprobe = { http = \"/a b\" }"),
    ("an unknown listener", "[service.web.upgrade]\nprobe = { http = \"/\", listener = \"https\" }"),
    ("an endless budget", "[service.web.upgrade]\nprobe = { http = \"/\" }\nmax-error-rate = \"100%\""),
    ("a host that is none", "[service.web.upgrade]\nprobe = { http = \"/\", host = \"\" }"),
];

/// A budget of 1 % that could never be exceeded, whatever the new release answers.
const BUDGETS: [(&str, &str); 12] = [
    ("no soak", ""),
    ("a soak too short", "probe = { http = \"/\", rate = 1 }\nsoak = \"9s\""),
    ("a soak too short for one request", "probe = { http = \"/\", rate = 1 }\nsoak = \"1s\""),
    ("an end without overlap", "strategy = \"stop-start\""),
    ("all of one instance at a time", "strategy = \"rolling\""),
    ("overlap with a soak and steered traffic", "steered\nsoak = \"5s\""),
    ("blue-green", "steered\nstrategy = \"blue-green\"\nsoak = \"5s\""),
    ("rolling all at once", "steered\nstrategy = \"rolling\"\nsoak = \"5s\""),
    (
        "steps too short",
        "steered\nstrategy = \"canary\"\ncanary = { steps = [{ weight = 5, hold = \"100ms\" }, { weight = 9, hold = \"450ms\" }] }",
    ),
    ("too small a share", "steered\nstrategy = \"canary\"\ncanary = { manual = true, steps = [{ weight = 1 }] }"),
    (
        "too small a share for long enough",
        "steered\nstrategy = \"canary\"\ncanary = { steps = [{ weight = 1, hold = \"1m\" }, { weight = 50, hold = \"10ms\" }] }",
    ),
    (
        "one client",
        "steered\nstrategy = \"canary\"\ncanary = { manual = true, affinity = \"source\", steps = [{ weight = 5 }] }",
    ),
];

/// A file with one of these.
fn budget(text: &str) -> String {
    let (traffic, text) = match text.strip_prefix("steered\n") {
        Some(text) => ("traffic = \"steered\"\n", text),
        None => ("", text),
    };
    let probe = if text.contains("probe") { "" } else { "probe = { http = \"/\" }\n" };
    format!(
        "[service.web]\ncommand = [\"/bin/web\"]\n{traffic}listen = [{{ address = \"[::1]:80\" }}]\n\
         [service.web.upgrade]\nmax-error-rate = \"1%\"\n{probe}{text}"
    )
}

/// What is no service at all.
const WHOLE: [(&str, &str); 12] = [
    ("an empty file", ""),
    ("only a comment", "# later\n"),
    ("a service without its name", "[service]\ncommand = [\"/bin/web\"]"),
    ("settings without a service", "command = [\"/bin/web\"]"),
    ("a service with a bad name", "[service.\"my web\"]\ncommand = [\"/bin/web\"]"),
    ("no command", "[service.web]\nnice = 5"),
    ("an empty command", "[service.web]\ncommand = []"),
    ("an empty program", "[service.web]\ncommand = [\"\"]"),
    ("a command in one string", "[service.web]\ncommand = \"/bin/web --port 80\""),
    ("a relative command", "[service.web]\ncommand = [\"bin/web\"]"),
    ("half of a file", "[service.web]\ncommand = [\"/bin/w"),
    ("not TOML", "service:\n  web:\n    command: /bin/web\n"),
];

const FLAGS: [&[&str]; 28] = [
    &["--listen", "8080"],
    &["--drain-timeout", "30", "--", "web"],
    &["--drain-timeout", "-30s", "--", "web"],
    &["--listen", "http=8080", "--listen", "http=9090", "--", "web"],
    &["--listen", "localhost", "--", "web"],
    &["--listen", "a b=8080", "--", "web"],
    &["--ready", "fd", "--listen", "8080", "--", "web"],
    &["--ready", "fd=3", "--listen", "8080", "--", "web"],
    &["--ready", "fd=x", "--", "web"],
    &["--ready", "http=/", "--", "web"],
    &["--ready", "exec", "--", "web"],
    &["--ready-interval", "1s", "--", "web"],
    &["--health-interval", "2s", "--health-failures", "4", "--", "web"],
    &["--listen", "8080", "--health-tcp", "--", "web"],
    &["--health-exec", "", "--health-http", "/", "--", "web"],
    &["--environment", "DEBUG", "--", "web"],
    &["--limit", "nofile", "--", "web"],
    &["--nice", "-21", "--", "web"],
    &["--log", "syslog", "--", "web"],
    &["--traffic", "steered", "--", "web"],
    &["--traffic", "steered", "--listen", "udp:53", "--", "web"],
    &["--upgrade-max-surge", "2", "--", "web"],
    &["--upgrade-strategy", "canary", "--listen", "80", "--", "web"],
    &[
        "--upgrade-strategy",
        "canary",
        "--traffic=steered",
        "--upgrade-canary",
        "5:30s,5",
        "--listen",
        "80",
        "--",
        "web",
    ],
    &["--upgrade-max-error-rate", "1%", "--listen", "80", "--", "web"],
    &["--upgrade-max-error-rate", "1%", "--upgrade-probe", "/", "--listen", "80", "--", "web"],
    &[
        "--upgrade-max-error-rate",
        "1%",
        "--upgrade-probe",
        "/",
        "--listen",
        "80",
        "--upgrade-soak",
        "100ms",
        "--",
        "web",
    ],
    &["--operators", "deploy,", "--", "web", "an argument with 'quotes'"],
];

fn page(cases: impl IntoIterator<Item = (String, Result<Config, ConfigError>)>) -> String {
    let mut page = String::new();
    for (title, result) in cases {
        let error = match result {
            Ok(config) => panic!("{title}: taken for {config:?}"),
            Err(error) => error,
        };
        page.push_str(&format!("## {title}\n{error}\n\n{}\n\n", error.render(false)));
    }
    page
}

#[test]
fn services_that_are_refused() {
    let cases = AFTER.map(|(title, text)| (title.to_owned(), load_text(&format!("{MINIMAL}{text}\n"))));
    insta::assert_snapshot!("services", page(cases));
}

#[test]
fn steered_services_that_are_refused() {
    let cases = STEERED.map(|(title, text)| {
        let listen = if text.contains("listen]]") { "" } else { "[[service.web.listen]]\naddress = \"8080\"\n" };
        (title.to_owned(), load_text(&format!("{MINIMAL}traffic = \"steered\"\n{listen}{text}\n")))
    });
    insta::assert_snapshot!("steered", page(cases));
}

#[test]
fn budgets_that_are_refused() {
    let cases = BUDGETS.map(|(title, text)| (title.to_owned(), load_text(&budget(text))));
    insta::assert_snapshot!("budgets", page(cases));
}

#[test]
fn files_that_are_refused() {
    let cases = WHOLE.map(|(title, text)| (title.to_owned(), load_text(text)));
    insta::assert_snapshot!("files", page(cases));
}

#[test]
fn flags_that_are_refused() {
    let cases = FLAGS.map(|words| (words.join(" "), from_words(words)));
    insta::assert_snapshot!("flags", page(cases));
}

#[test]
fn files_and_names_that_are_refused() {
    let cases = [
        ("no file".to_owned(), load(Path::new("/nowhere/web.toml"), None)),
        ("a directory".to_owned(), load(Path::new("/"), None)),
        ("a bad stem".to_owned(), parse(MINIMAL, Path::new("my web.toml"), None)),
        ("a bad name".to_owned(), parse(MINIMAL, Path::new("web.toml"), Some("a/b"))),
    ];
    insta::assert_snapshot!("names", page(cases));
}
