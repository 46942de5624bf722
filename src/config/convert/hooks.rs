//! The commands that are run at moments of an upgrade.

use toml::Spanned;

use super::super::{HookCommand, Hooks, raw};
use super::{Problem, Result, command, nonzero};
use crate::core::event::Hook;

/// The most commands of one hook: the program of each is held open with its release.
const COMMANDS_MAX: usize = 16;

/// `anchored`: see [`command`].
pub(super) fn hooks(raw: raw::Hooks, anchored: bool) -> Result<Hooks> {
    let timeout = raw.timeout.map_or(Ok(Hooks::default().timeout), |timeout| {
        nonzero(&timeout, "the timeout of the hooks", "write how long all the commands of one hook may take")
    })?;
    let written = [
        (Hook::BeforeStart, raw.before_start),
        (Hook::AfterReady, raw.after_ready),
        (Hook::AfterSwitch, raw.after_switch),
        (Hook::AfterDrain, raw.after_drain),
        (Hook::OnFailure, raw.on_failure),
        (Hook::OnRollback, raw.on_rollback),
    ];
    let there = written.into_iter().filter(|(_, list)| !list.0.is_empty());
    let commands = there.map(|(hook, list)| Ok((hook, commands(hook, list.0, anchored)?))).collect::<Result<_>>()?;
    Ok(Hooks { commands, timeout })
}

fn commands(hook: Hook, list: Vec<Spanned<raw::Words>>, anchored: bool) -> Result<Vec<HookCommand>> {
    if let Some(beyond) = list.get(COMMANDS_MAX) {
        let message = format!("the {hook} hook has {} commands, and may have {COMMANDS_MAX}", list.len());
        return Err(Problem::new(beyond.span(), message).hint("let a script run them"));
    }
    let words = |words: Spanned<raw::Words>| Spanned::new(words.span(), words.into_inner().0);
    list.into_iter().map(|one| command(&words(one), anchored).map(HookCommand)).collect()
}
