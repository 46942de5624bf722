//! `zdsup kpi`.

use std::io;
use std::time::Duration;

use clap::Args;

use super::failure::Failure;
use super::history::{Place, lines, say_skipped};
use super::terminal::{Style, print};
use super::{Global, render, timeout};
use crate::control::locate::is_name;
use crate::exit::Exit;
use crate::history::Figures;
use crate::sys::clock;

#[derive(Debug, Args)]
pub(super) struct KpiArgs {
    /// Of this service only.
    #[arg(value_name = "SERVICE", value_parser = service)]
    service: Option<String>,

    /// Of so much time until now, such as 30d or 12h.
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = timeout)]
    since: Duration,

    /// Print them as JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    place: Place,
}

pub(super) fn run(global: &Global, args: &KpiArgs) -> Result<Exit, Failure> {
    let since = args.since.as_secs();
    let service = args.service.iter().map(|service| format!("&service={service}")).collect::<String>();
    let kpi = args.place.ask(
        global,
        async |client| client.kpi(&format!("since={since}{service}")).await,
        |path| {
            let mut figures = Figures::new(args.service.clone(), clock::wall() - args.since.as_secs_f64());
            let skipped = lines(path, |line| figures.add(&line))?;
            Ok(figures.kpi(args.since.as_secs_f64(), skipped))
        },
    )?;
    if args.json {
        let json = serde_json::to_string_pretty(&kpi);
        return print(json.map_err(|error| Failure::new(Exit::Internal, error.to_string()))? + "\n");
    }
    say_skipped(kpi.skipped);
    print(render::kpi(&kpi, Style::of(&io::stdout())))
}

/// For clap.
fn service(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.to_owned()) } else { Err("it is not a name".into()) }
}
