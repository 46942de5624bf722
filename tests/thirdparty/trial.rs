//! What every server goes through.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zdsup::control::types::{ServiceState, Verdict};
use zdsup::load::{Load, Plan, Running, Target};

use crate::recipe::Recipe;
use crate::support::{Place, Supervisor, eventually, skip};

/// A server, and how its releases look.
pub(crate) struct Server {
    /// What it is called in `PATH`.
    pub(crate) name: &'static str,
    /// Where it is in the recipe.
    pub(crate) program: &'static str,
    /// How to install it.
    pub(crate) how: &'static str,
    pub(crate) recipe: Recipe,
    /// How many instances of it there are, each in slots of its own; `None`: one, and traffic is shared.
    pub(crate) steered: Option<usize>,
    /// How many good upgrades.
    pub(crate) upgrades: u64,
    /// Writes a release that answers with this text.
    pub(crate) good: fn(&Path, &str),
    /// Spoils it.
    pub(crate) bad: fn(&Path),
    /// What becomes of that.
    pub(crate) verdict: Verdict,
    /// What the server says about it.
    pub(crate) says: &'static str,
}

/// The address in the recipes.
const ADDRESS: &str = "0.0.0.0:8000";

/// Answers that each release has to give before the next.
const ANSWERS: u64 = 100;

/// Upgrades it again and again under load, then to a broken release: no request may fail.
pub(crate) fn trial(server: &Server) {
    let Some(program) = find(server.name) else {
        return skip(&format!("{} is not installed: {}", server.name, server.how));
    };
    let web = Web::new(server, &program);
    web.publish(1, server.good);
    let arguments = ["-c".to_owned(), web.place.join("web.toml").display().to_string()];
    let mut supervisor = Supervisor::start(&web.place, &arguments, &BTreeMap::new());
    supervisor.wait_for("it serves", |status| status.services[0].state == ServiceState::Serving);

    let load = load(&web);
    answers(&load);
    let last = server.upgrades + 1;
    for release in 2..=last {
        web.publish(release, server.good);
        supervisor.upgrade("reload", &[]).is(Verdict::Upgraded);
        answers(&load);
        assert_eq!(load.failed(), 0, "with release {release}: {:?}\n{}", load.stop().examples, supervisor.log());
    }
    settled(&supervisor, last);
    let count = supervisor.status().services[0].generations[0].instances.len();
    assert_eq!(count, server.steered.unwrap_or(1));

    web.publish(last + 1, |release, text| {
        (server.good)(release, text);
        (server.bad)(release);
    });
    supervisor.upgrade("reload", &[]).is(server.verdict).still_serving(last).last_lines_say(server.says);
    answers(&load);
    settled(&supervisor, last);

    let report = load.stop();
    assert_eq!(report.failed(), 0, "{:?} {:?}\n{}", report.errors, report.examples, supervisor.log());
    let answered: Vec<&str> = report.answers().into_keys().collect();
    let releases: Vec<String> = (1..=last).map(|release| format!("release-{release}")).collect();
    assert_eq!(answered, releases, "each release has answered, and no other");
    println!("{}: {} requests, {:?}", server.name, report.total, report.percentiles());
    assert_eq!(supervisor.end().code(), Some(0), "{}", supervisor.log());
    supervisor.nothing_left();
}

/// What is /srv/web in the recipes.
struct Web {
    place: Place,
    address: String,
}

impl Web {
    fn new(server: &Server, program: &Path) -> Self {
        let place = Place::new();
        let address = format!("{}:8000", place.address());
        for directory in ["releases", "run"] {
            fs::create_dir(place.join(directory)).expect("a directory can be made");
        }
        let web = Self { place, address };
        let config = server.recipe.toml().replace(server.program, &program.display().to_string());
        let config = match server.steered {
            Some(instances) => {
                let more = format!("[service.web]\ntraffic = \"steered\"\ninstances = {instances}");
                config.replacen("[service.web]", &more, 1)
            }
            None => config,
        };
        fs::write(web.place.join("web.toml"), web.here(&config)).expect("a config can be written");
        web
    }

    /// A text of a recipe, for this place.
    fn here(&self, text: &str) -> String {
        text.replace("/srv/web", &self.place.path().display().to_string()).replace(ADDRESS, &self.address)
    }

    /// Writes a release, and moves `current` to it.
    fn publish(&self, number: u64, write: impl FnOnce(&Path, &str)) {
        let release = self.place.join("releases").join(number.to_string());
        fs::create_dir(&release).expect("a directory can be made");
        write(&release, &format!("release-{number}"));
        for entry in fs::read_dir(&release).expect("it was just made").flatten() {
            let text = fs::read_to_string(entry.path()).expect("a file can be read");
            fs::write(entry.path(), self.here(&text)).expect("a file can be written");
        }
        let (next, current) = (self.place.join("next"), self.place.join("current"));
        symlink(&release, &next).expect("a symlink can be made");
        fs::rename(&next, &current).expect("a symlink can be moved");
    }
}

fn load(web: &Web) -> Running {
    let plan = Plan {
        threads_new: 4,
        // The recipes say why.
        threads_keep_alive: 0,
        pause_between: Duration::from_millis(2),
        // The machine may be busy; a slow answer is not a failed one.
        timeout: Duration::from_secs(20),
        ..Plan::default()
    };
    let target = Target::Tcp(web.address.parse().expect("an address and a port"));
    Load::start(target, plan).expect("threads can be started")
}

#[track_caller]
fn answers(load: &Running) {
    let goal = load.total() + ANSWERS;
    eventually("more answers", || (load.total() >= goal).then_some(()));
}

/// Waits until only this generation is left.
#[track_caller]
fn settled(supervisor: &Supervisor, generation: u64) {
    supervisor.wait_for(&format!("only web@{generation} is left"), |status| {
        let service = &status.services[0];
        service.serving == Some(generation) && service.generations.len() == 1
    });
}

/// Where a server is installed.
fn find(name: &str) -> Option<PathBuf> {
    let variable = format!("ZDSUP_TEST_{}", name.to_uppercase());
    if let Some(path) = env::var_os(&variable).filter(|path| !path.is_empty()) {
        return Some(PathBuf::from(path));
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap_or(Path::new("target"));
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = [target.join("thirdparty/bin")].into_iter().chain(env::split_paths(&path));
    directories.chain(["/usr/sbin".into()]).map(|directory| directory.join(name)).find(|path| path.is_file())
}
