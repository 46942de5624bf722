//! `zdsup`: see `zdsup help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: this process may be the shim that is about to become a service.
    zdsup::sys::shim::main_if_shim();
    // Or a supervisor's keeper.
    zdsup::keeper::main_if_keeper();
    // Or somebody's trial whether this program can take over from another.
    if let Some(exit) = zdsup::supervisor::check_state_if_asked(zdsup::cli::check_run) {
        return exit;
    }
    // Or a part of the demo.
    if let Some(exit) = zdsup::cli::demo::main_if_part() {
        return exit;
    }
    // Or the supervisor of a rehearsal.
    if let Some(exit) = zdsup::cli::rehearse::main_if_supervisor() {
        return exit;
    }
    zdsup::cli::main()
}
