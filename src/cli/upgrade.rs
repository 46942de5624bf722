//! `zdsup reload`, `zdsup restart` and `zdsup rollback`: ask for an upgrade, show it as it happens, exit by its verdict.

use std::io;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::failure::Failure;
use super::moving::MovingLine;
use super::render::{self, span};
use super::terminal::{Style, print, say};
use super::{Global, block_on, over, timeout};
use crate::control::client::{Client, ClientError};
use crate::control::types::{AdmissionKind, UpgradeEvent, UpgradeRequest, UpgradeStatus, VerdictStatus};
use crate::core::{Kind, Verdict};
use crate::exit::Exit;
use crate::sys::systemd::stderr_is_journal;

/// How often the moving line moves.
const TICK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct UpgradeArgs {
    /// The services; without one, all of them.
    ///
    /// Several are upgraded one after the other, each after those that its config names in `after`, until one fails.
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// If one fails, take those back that are upgraded already.
    ///
    /// With the strategy blue-green none is switched before all are ready. Without this option it is so where the config
    /// has `atomic = true`.
    #[arg(long, overrides_with = "no_atomic")]
    atomic: bool,

    /// Let those stay that are upgraded already, also where the config has `atomic = true`.
    #[arg(long)]
    no_atomic: bool,

    #[command(flatten)]
    waiting: Waiting,
}

impl UpgradeArgs {
    /// What is asked for; `None`: as the config says.
    fn atomic(&self) -> Option<bool> {
        match (self.atomic, self.no_atomic) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }
}

/// How long to wait for an upgrade, and how it is shown.
#[derive(Debug, Args)]
pub(super) struct Waiting {
    /// Return as soon as the request is accepted.
    #[arg(long, conflicts_with_all = ["wait", "timeout"])]
    no_wait: bool,

    /// Until when to wait.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    wait: Wait,

    /// How long to wait, such as 30s; the upgrade goes on after that.
    #[arg(long, value_name = "TIME", value_parser = timeout, allow_hyphen_values = true)]
    timeout: Option<Duration>,

    /// Print each event as a line of JSON on stdout.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// The upgrade has failed, or the new generation serves and the old one has been told to stop.
    #[default]
    Verdict,
    /// The generation that was ended is gone as well.
    Drained,
}

pub(super) fn run(global: &Global, args: &UpgradeArgs, kind: Kind) -> Result<Exit, Failure> {
    let (service, services) = match args.services.as_slice() {
        [] => (None, None),
        [one] => (Some(one.clone()), None),
        several => (None, Some(several.to_vec())),
    };
    let request = UpgradeRequest { service, services, kind, atomic: args.atomic(), to: None };
    upgrade(global, &request, &args.waiting)
}

/// Asks for it, and shows what comes of it.
pub(super) fn upgrade(global: &Global, request: &UpgradeRequest, args: &Waiting) -> Result<Exit, Failure> {
    let mut client = global.client()?;
    block_on(async {
        let began = Instant::now();
        let show = Show::new(args.json);
        let mut upgrade = Upgrading { args, current: None, verdict: None, wants_promotion: false, show };
        let line = upgrade.show.moving();
        let ended = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => None,
            () = over(args.timeout) => Some(None),
            () = keep_moving(line) => None,
            exit = upgrade.all(&mut client, request) => Some(Some(exit)),
        };
        upgrade.show.end();
        match ended {
            Some(Some(exit)) => exit,
            Some(None) => {
                Err(upgrade.unfinished(Exit::TimedOut, &format!("after {}", span(began.elapsed().as_secs_f64()))))
            }
            None => Err(upgrade.unfinished(Exit::Interrupted, "interrupted")),
        }
    })?
}

/// Moves the moving line, where there is one, for ever.
pub(super) async fn keep_moving(line: Option<MovingLine>) {
    let Some(line) = line else { return std::future::pending().await };
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        line.tick();
    }
}

/// The upgrades that were asked for, one after the other.
struct Upgrading<'a> {
    args: &'a Waiting,
    /// The one that is waited for, and its service.
    current: Option<(u64, String)>,
    verdict: Option<VerdictStatus>,
    /// It goes no further until somebody promotes it.
    wants_promotion: bool,
    show: Show,
}

impl Upgrading<'_> {
    async fn all(&mut self, client: &mut Client, request: &UpgradeRequest) -> Result<Exit, Failure> {
        let accepted = client.request(request).await?;
        self.current = Some((accepted.id, accepted.service.clone()));
        if self.args.no_wait {
            if !self.args.json {
                return Ok(said(&render::accepted(&accepted)));
            }
            let printed = json(&accepted).and_then(print);
            return printed.map_err(|failure| self.unfinished(failure.exit, &failure.error));
        }
        if accepted.admission != AdmissionKind::Begun
            || !accepted.then.is_empty()
            || !accepted.removes.is_empty()
            || !accepted.left_out.is_empty()
        {
            self.show.line(&render::accepted(&accepted));
            if request.kind == Kind::Rollback {
                let service = &accepted.service;
                self.show.line(&format!(
                    "`zdsup abort {service}` gives up the one in flight, and what served before it goes on"
                ));
            }
        }
        let then = accepted.then.iter().map(|then| (then.id, then.service.clone()));
        let upgrades: Vec<(u64, String)> = std::iter::once((accepted.id, accepted.service)).chain(then).collect();
        let (mut first_failure, mut said) = (Exit::Done, false);
        for (id, service) in &upgrades {
            let exit = self.one(client, *id, service).await?;
            // One that failed because of another says nothing of its own.
            let own = self.verdict.as_ref().is_none_or(|verdict| verdict.because_of.is_none());
            if exit != Exit::Done && (first_failure == Exit::Done || (own && !said)) {
                (first_failure, said) = (exit, own);
            }
        }
        if first_failure != Exit::Done && accepted.atomic {
            self.taken_back(client, &upgrades).await?;
        }
        Ok(first_failure)
    }

    /// Those that take back what had succeeded before another failed.
    async fn taken_back(&mut self, client: &mut Client, upgrades: &[(u64, String)]) -> Result<(), Failure> {
        let undoes =
            |status: &UpgradeStatus| status.takes_back.is_some_and(|id| upgrades.iter().any(|one| one.0 == id));
        let all = client.upgrades().await?;
        for status in all.into_iter().filter(undoes) {
            self.one(client, status.id, &status.service).await?;
        }
        Ok(())
    }

    async fn one(&mut self, client: &mut Client, id: u64, service: &str) -> Result<Exit, Failure> {
        (self.verdict, self.wants_promotion) = (None, false);
        self.current = Some((id, service.to_owned()));
        let mut events = client.watch(id, 0);
        loop {
            match events.next().await {
                Ok(Some(event)) => {
                    if event.event != "status" {
                        self.wants_promotion = event.event == "awaiting-promotion";
                    }
                    self.verdict = event.verdict.as_deref().cloned().or(self.verdict.take());
                    // Nobody is told any more, and the upgrade goes on.
                    self.show.event(&event).map_err(|failure| self.unfinished(failure.exit, &failure.error))?;
                    if self.verdict.is_some() && self.args.wait == Wait::Verdict {
                        break;
                    }
                }
                Ok(None) => break,
                // The supervisor has ended behind the verdict: nothing more is to come.
                Err(ClientError::NotRunning(_) | ClientError::Cut) if self.verdict.is_some() => break,
                Err(error) => return Err(error.into()),
            }
        }
        match &self.verdict {
            Some(verdict) => Ok(Exit::from_code(verdict.exit_code).unwrap_or(Exit::Internal)),
            None => Err(Failure::new(Exit::Internal, format!("upgrade #{id} ended without a verdict"))),
        }
    }

    /// The failure for whoever does not wait for the end.
    fn unfinished(&self, exit: Exit, why: &str) -> Failure {
        let Some((id, service)) = &self.current else {
            return Failure::new(exit, format!("{why}: the supervisor had not confirmed the request"));
        };
        if self.verdict.is_some() {
            let failure = Failure::new(
                exit,
                format!("{why}: upgrade #{id} of {service} has its verdict, what it ended still drains"),
            );
            return failure.hint(Some("`zdsup status` shows what is left"));
        }
        let failure = Failure::new(exit, format!("{why}: upgrade #{id} of {service} goes on without a verdict so far"));
        failure.hint(Some(match self.wants_promotion {
            true => format!("`zdsup promote {service}` lets it go on, `zdsup abort {service}` gives it up"),
            false => format!("`zdsup status` shows it, `zdsup abort {service}` gives it up"),
        }))
    }
}

/// How an upgrade is shown: a moving line below the story on a terminal, the story elsewhere, JSON where asked for. In
/// the journal, to which the supervisor tells the same story, only how it failed.
pub(super) enum Show {
    Json,
    Failure(Style),
    Lines(Style),
    Moving { line: MovingLine, style: Style, last: Option<Box<UpgradeEvent>>, said: String },
}

impl Show {
    fn new(json: bool) -> Self {
        if !json && stderr_is_journal() { Self::Failure(Style::of(&io::stderr())) } else { Self::whole(json) }
    }

    /// Where nobody else tells the story.
    pub(super) fn whole(json: bool) -> Self {
        if json {
            return Self::Json;
        }
        let style = Style::of(&io::stderr());
        let Some(line) = MovingLine::new(true) else { return Self::Lines(style) };
        line.set(render::waiting(None, ""));
        Self::Moving { line, style, last: None, said: String::new() }
    }

    pub(super) fn moving(&self) -> Option<MovingLine> {
        match self {
            Self::Json | Self::Failure(_) | Self::Lines(_) => None,
            Self::Moving { line, .. } => Some(line.clone()),
        }
    }

    pub(super) fn line(&self, line: &str) {
        match self {
            Self::Json | Self::Failure(_) => {}
            Self::Lines(_) => say(line),
            Self::Moving { line: moving, .. } => moving.above(line),
        }
    }

    pub(super) fn event(&mut self, event: &UpgradeEvent) -> Result<(), Failure> {
        match self {
            Self::Json => {
                print(json(event)?)?;
            }
            Self::Failure(style) => {
                if event.verdict.as_ref().is_some_and(|verdict| verdict.verdict != Verdict::Upgraded) {
                    say(render::event(event, *style).trim_end());
                }
            }
            // It was said when the request was accepted.
            Self::Lines(_) | Self::Moving { .. } if event.event == "queued" => {}
            Self::Lines(style) => say(render::event(event, *style).trim_end()),
            Self::Moving { line, style, last, said } => {
                if matches!(event.event.as_str(), "status" | "check" | "output") {
                    said.clone_from(&event.message);
                } else {
                    // What a hook said is over with it.
                    if last.as_ref().is_some_and(|last| last.event == "hook") {
                        said.clear();
                    }
                    line.above(&render::event(event, *style));
                    *last = Some(Box::new(event.clone()));
                }
                line.set(render::waiting(last.as_deref(), said));
            }
        }
        Ok(())
    }

    /// What is waited for, on the moving line.
    pub(super) fn waits(&self, text: &str) {
        if let Self::Moving { line, .. } = self {
            line.set(text);
        }
    }

    pub(super) fn end(&self) {
        if let Self::Moving { line, .. } = self {
            line.clear();
        }
    }
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string(value).map_err(|error| Failure::new(Exit::Internal, error.to_string()))?;
    Ok(json + "\n")
}

fn said(line: &str) -> Exit {
    say(line);
    Exit::Done
}
