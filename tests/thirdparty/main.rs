//! Servers that others wrote, under zdsup as docs/recipes.md says: upgraded under load, and given a release that is
//! broken. What is tested are the recipes themselves, read from that file.
//!
//! The servers are found by `ZDSUP_TEST_GUNICORN`, `ZDSUP_TEST_PUMA` and `ZDSUP_TEST_NGINX`, else where `.ci/run` puts
//! them, else in `PATH`.

#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "a harness that several tests share, and none uses all of")]
mod support;

mod recipe;
mod trial;

use std::path::Path;

use recipe::Recipe;
use trial::{Server, trial};
use zdsup::control::types::Verdict;

#[test]
fn gunicorn_with_its_application_preloaded() {
    trial(&gunicorn("## gunicorn"));
}

#[test]
fn gunicorn_whose_workers_load_the_application() {
    trial(&Server {
        good: |release, text| {
            gunicorn_app(release, text);
            write(release, "gunicorn.conf.py", Recipe::after("### Without `--preload`").python());
        },
        says: "Worker failed to boot",
        ..gunicorn("### Without `--preload`")
    });
}

#[test]
fn gunicorn_that_is_ready_too_early() {
    // One upgrade: a soak takes its time.
    let says = "Worker failed to boot";
    trial(&Server { upgrades: 1, verdict: Verdict::RolledBack, says, ..gunicorn("### With a soak") });
}

#[test]
fn gunicorn_in_slots() {
    trial(&Server { steered: Some(3), upgrades: 3, ..gunicorn("## gunicorn") });
}

#[test]
fn puma() {
    trial(&puma_server());
}

#[test]
fn puma_in_slots() {
    trial(&Server { steered: Some(3), upgrades: 3, ..puma_server() });
}

#[test]
fn nginx() {
    trial(&nginx_server());
}

#[test]
fn nginx_in_slots() {
    trial(&Server { steered: Some(3), ..nginx_server() });
}

fn puma_server() -> Server {
    Server {
        name: "puma",
        program: "/usr/bin/puma",
        how: "apt-get install puma ruby-sd-notify",
        recipe: Recipe::after("## puma"),
        steered: None,
        upgrades: 5,
        good: |release, text| {
            let head = format!("{{ 'content-type' => 'text/plain', 'content-length' => '{}' }}", text.len());
            write(release, "config.ru", &format!("run ->(env) {{ [200, {head}, ['{text}']] }}\n"));
        },
        bad: |release| write(release, "config.ru", "run ->(env) { [200, {}, [\n"),
        verdict: Verdict::Failed,
        says: "syntax error",
    }
}

fn nginx_server() -> Server {
    Server {
        name: "nginx",
        program: "/usr/sbin/nginx",
        how: "apt-get install nginx",
        recipe: Recipe::after("## nginx"),
        steered: None,
        upgrades: 5,
        good: |release, text| {
            let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
            let paths = kinds.map(|kind| format!("{kind}_temp_path /srv/web/run;")).concat();
            let server = format!("server {{ listen 0.0.0.0:8000; location / {{ return 200 '{text}'; }} }}");
            let http = format!("http {{ access_log off; {paths} {server} }}");
            write(release, "nginx.conf", &format!("worker_processes 2;\nerror_log stderr;\nevents {{}}\n{http}\n"));
        },
        bad: |release| write(release, "nginx.conf", "events {}\nhttp { server { lisen 80; } }\n"),
        verdict: Verdict::Failed,
        says: "unknown directive \"lisen\"",
    }
}

fn gunicorn(heading: &str) -> Server {
    Server {
        name: "gunicorn",
        program: "/srv/web/venv/bin/gunicorn",
        how: "python3 -m venv target/thirdparty && target/thirdparty/bin/pip install gunicorn",
        recipe: Recipe::after(heading),
        steered: None,
        upgrades: 5,
        good: gunicorn_app,
        bad: |release| write(release, "app.py", "def app(environ, start_response:\n"),
        verdict: Verdict::Failed,
        says: "SyntaxError",
    }
}

fn gunicorn_app(release: &Path, text: &str) {
    let head = format!("[('Content-Type', 'text/plain'), ('Content-Length', '{}')]", text.len());
    let body = format!("start_response('200 OK', {head})\n    return [b'{text}']");
    write(release, "app.py", &format!("def app(environ, start_response):\n    {body}\n"));
}

/// Paths and addresses are written as the recipes have them.
fn write(release: &Path, name: &str, text: &str) {
    std::fs::write(release.join(name), text).expect("a file can be written");
}
