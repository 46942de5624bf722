//! `zdsup history`.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::Failure;
use super::terminal::{Style, print, say};
use super::{Global, block_on, render};
use crate::control::client::ClientError;
use crate::control::locate::{self, LocateError};
use crate::control::types::HistoryPage;
use crate::exit::Exit;
use crate::history::place::StatePlaces;
use crate::history::read::{self, Latest, Wanted};
use crate::history::{FILE, Line};
use crate::sys::describe;

#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// What this generation went through, such as web@4 or 4; or only the upgrades of this service.
    #[arg(value_name = "GENERATION|SERVICE", value_parser = subject)]
    subject: Option<Subject>,

    /// How many upgrades to show, at most 1000.
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,

    /// Print them as JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    place: Place,
}

/// Whose history is meant.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Read the history in this directory, whether or not its supervisor runs.
    ///
    /// Without this option the supervisor is asked; where none runs, the history is looked for in /var/lib/zdsup/* and
    /// XDG_STATE_HOME/zdsup/* (~/.local/state/zdsup/*), for --name or ZDSUP_NAME.
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,
}

/// `web@4`, `4` or `web`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Subject {
    service: Option<String>,
    generation: Option<u64>,
}

pub(super) fn run(global: &Global, args: &HistoryArgs) -> Result<Exit, Failure> {
    let Subject { service, generation } = args.subject.clone().unwrap_or(Subject { service: None, generation: None });
    let wanted = Wanted { service, after: 0, generation, limit: args.limit.into() };
    let page = args.place.ask(
        global,
        async |client| client.history(&query(&wanted)).await,
        |path| {
            let mut latest = Latest::new(wanted.clone());
            let skipped = lines(path, |line| latest.add(line))?;
            Ok(HistoryPage { upgrades: latest.newest_first(), skipped })
        },
    )?;
    if let (Some(generation), true) = (generation, page.upgrades.is_empty()) {
        let failure = Failure::new(Exit::Usage, format!("the history knows no generation {generation}"));
        return Err(failure.hint(Some(
            "`zdsup history` lists those that it knows; where a probe asks, an upgrade is on record some seconds after its verdict",
        )));
    }
    if args.json {
        let json = serde_json::to_string_pretty(&page);
        return print(json.map_err(|error| Failure::new(Exit::Internal, error.to_string()))? + "\n");
    }
    say_skipped(page.skipped);
    let style = Style::of(&io::stdout());
    print(match generation {
        Some(_) => page.upgrades.iter().map(|record| render::timeline(record, style)).collect::<Vec<_>>().join("\n"),
        None => render::history(&page.upgrades, style),
    })
}

impl Place {
    /// Asks the supervisor, or the file where none runs.
    pub(super) fn ask<T>(
        &self,
        global: &Global,
        supervisor: impl AsyncFnOnce(&mut crate::control::client::Client) -> Result<T, ClientError>,
        file: impl FnOnce(&Path) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if let Some(directory) = &self.state_dir {
            return file(&directory.join(FILE));
        }
        let failure = match global.client() {
            Ok(mut client) => match block_on(supervisor(&mut client))? {
                Err(error @ ClientError::NotRunning(_)) => Failure::from(error),
                answer => return Ok(answer?),
            },
            Err(failure) => failure,
        };
        // Another one may run elsewhere, under a directory that was not named: that one is not meant.
        let name = global.name();
        if failure.exit != Exit::NoSupervisor || (global.runtime_dir.is_some() && name.is_none()) {
            return Err(failure);
        }
        if let Some(name) = name.as_deref().filter(|name| !locate::is_name(name)) {
            return Err(LocateError::BadName(name.to_owned()).into());
        }
        let running = locate::running(&locate::Places::of_this_process());
        let mut found = StatePlaces::of_this_process().histories(name.as_deref());
        match (found.pop(), found.is_empty(), running.is_empty() || name.is_some()) {
            (Some((name, path)), true, true) => {
                say(&format!("no supervisor {name} runs: this is its history, from {}", path.display()));
                file(&path)
            }
            _ => Err(failure),
        }
    }
}

/// Goes through the history at this path.
pub(super) fn lines(path: &Path, take: impl FnMut(Line)) -> Result<u64, Failure> {
    let failed = |error: io::Error| {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Exit::Usage,
            _ => Exit::Internal,
        };
        Failure::new(exit, format!("the history {} cannot be read: {}", path.display(), describe(&error)))
    };
    // Where somebody names a place, nothing there is a mistake.
    read::lines(crate::history::file::open(path).map_err(failed)?, take).map_err(failed)
}

pub(super) fn say_skipped(skipped: u64) {
    if skipped > 0 {
        let lines = if skipped == 1 { "1 line".to_owned() } else { format!("{skipped} lines") };
        say(&format!("{lines} of the history could not be read, and are left out"));
    }
}

fn query(wanted: &Wanted) -> String {
    let service = wanted.service.iter().map(|service| format!("&service={service}"));
    let generation = wanted.generation.iter().map(|generation| format!("&generation={generation}"));
    format!("limit={}{}", wanted.limit, service.chain(generation).collect::<String>())
}

/// For clap.
fn subject(text: &str) -> Result<Subject, String> {
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let name = |text: &str| locate::is_name(text).then(|| text.to_owned());
    let subject = match text.split_once('@') {
        Some((service, generation)) => name(service)
            .zip(number(generation))
            .map(|(service, generation)| Subject { service: Some(service), generation: Some(generation) }),
        None => match number(text) {
            Some(generation) => Some(Subject { service: None, generation: Some(generation) }),
            None => name(text).map(|service| Subject { service: Some(service), generation: None }),
        },
    };
    subject.ok_or_else(|| "write a generation, such as web@4 or 4, or a service".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects() {
        let said = |text: &str| subject(text).map(|subject| (subject.service, subject.generation));
        assert_eq!(said("web@4"), Ok((Some("web".into()), Some(4))));
        assert_eq!(said("4"), Ok((None, Some(4))));
        assert_eq!(said("web"), Ok((Some("web".into()), None)));
        for bad in ["", "@4", "web@", "web@x", "web@+4", "web@4@5", "a b", "web@99999999999999999999"] {
            assert!(said(bad).is_err(), "{bad}");
        }
    }
}
