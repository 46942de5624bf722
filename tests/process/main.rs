//! Real supervisors, real services, real sockets. One module a theme; each test is named after what it shows.
//!
//! What a test starts ends with it. A test that cannot run here says `SKIPPED: why`; with `CI=true` and
//! `ZDSUP_TEST_REQUIRE` set that is a failure.

#[path = "../support/mod.rs"]
mod support;

mod basics;
mod deaths;
mod drain;
mod events;
mod examples;
mod failures;
mod health;
mod history;
mod hooks;
mod hostile;
mod input;
mod keeper;
mod leftovers;
mod listeners;
mod metrics;
mod pause;
mod prober;
mod readiness;
mod reexec;
mod rehearse;
mod reuse;
mod services;
mod steered;
mod store;
mod strategies;
mod upgrades;
mod watchdog;
