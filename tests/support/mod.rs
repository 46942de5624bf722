//! What the tests of real processes share: a supervisor that ends with its test, its control socket, a load that
//! accounts for every request, and a look at what processes hold.

pub(crate) mod client;
pub(crate) mod load;
pub(crate) mod place;
pub(crate) mod process;
pub(crate) mod setup;
pub(crate) mod supervisor;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use load::{Load, Manner, Target};
pub(crate) use place::Place;
pub(crate) use setup::Setup;
pub(crate) use supervisor::{Supervisor, Zdsup};

/// How long anything may take that is to happen soon. Generous: the machine may be busy.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer, within [`SOON`].
#[track_caller]
pub(crate) fn eventually<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(SOON, what, ask)
}

#[track_caller]
pub(crate) fn within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The program under test.
pub(crate) fn zdsup() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_zdsup"))
}

/// The programs that behave well and badly.
pub(crate) fn hazard() -> PathBuf {
    let test = std::env::current_exe().expect("this test has a path");
    let target = test.ancestors().nth(2).expect("it lies in target/PROFILE/deps");
    let hazard = target.join("examples/hazard");
    assert!(hazard.exists(), "{} is not there: build it with `cargo build --example hazard`", hazard.display());
    hazard
}

/// Says loudly that a test cannot run here. In CI, where it must, that is a failure.
pub(crate) fn skip(why: &str) {
    println!("SKIPPED: {why}");
    eprintln!("SKIPPED: {why}");
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    assert!(!(set("CI") && set("ZDSUP_TEST_REQUIRE")), "this test must run in CI, and cannot: {why}");
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
