//! One hook that is being run.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc::{SIGKILL, SIGTERM};

use super::Order;
use crate::core::{ServiceId, Time, spoken};
use crate::supervisor::errand::Errand;
use crate::supervisor::output::{Flow, Stream, Tail};
use crate::supervisor::poller::{Poller, Source};
use crate::supervisor::process::{Watched, plan};
use crate::supervisor::sink::Sink;
use crate::supervisor::survival::HookProcessEntry;
use crate::supervisor::tokens;
use crate::sys::describe;
use crate::sys::limits::Nofile;
use crate::sys::pidfd::ExitInfo;

/// How long a hook may take to end after SIGTERM.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long the kernel may take to end what was killed.
pub(super) const KILLED: Duration = Duration::from_secs(2);
/// How often the last line of its output is told, and how many times.
const SAY_EVERY: Duration = Duration::from_millis(500);
const SAY_MAX: u32 = 40;
/// Batches of output read when a command has ended: no pipe holds more.
const LAST_BATCHES: u32 = 16;

/// What running a hook takes beside its release.
pub(super) struct Ground<'a> {
    pub(super) poller: &'a mut Poller,
    pub(super) service: ServiceId,
    pub(super) name: &'a str,
    pub(super) nofile: Nofile,
    pub(super) sink: &'a Sink,
    pub(super) terminal: bool,
}

/// A hook that is being run.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) order: Order,
    /// Which of its commands.
    command: usize,
    errand: Errand,
    pub(super) process: HookProcessEntry,
    output: Option<Watched<Stream>>,
    tail: Tail,
    stage: Stage,
    /// When something is done about it.
    until: Time,
    /// Its result does not matter any more.
    withdrawn: bool,
    said: Said,
}

/// How far its end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It runs.
    Runs,
    /// It was sent SIGTERM.
    Told,
    /// It was sent SIGKILL.
    Killed,
}

/// What was told of its output, so that a flood is not.
#[derive(Debug, Default)]
struct Said {
    count: u32,
    last: Option<Time>,
    /// There is something new.
    news: bool,
}

/// How a hook goes on.
#[must_use]
pub(super) enum Step {
    /// It goes on.
    Goes,
    /// Its next command runs.
    Next,
    /// It is over.
    Over(Result<(), String>),
}

impl Running {
    /// Begins it with its first command.
    pub(super) fn begin(order: Order, now: Time, ground: &mut Ground<'_>) -> Result<Self, String> {
        let until = order.until.unwrap_or_else(|| now.after(order.release.service.hooks.timeout));
        let (errand, process, output) = start(&order, 0, ground)?;
        let (tail, said) = (Tail::default(), Said::default());
        let output = Some(output);
        Ok(Self { order, command: 0, errand, process, output, tail, stage: Stage::Runs, until, withdrawn: false, said })
    }

    pub(super) fn errand(&self) -> &Errand {
        &self.errand
    }

    pub(super) fn is_withdrawn(&self) -> bool {
        self.withdrawn
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        Some(self.said.due().map_or(self.until, |due| due.min(self.until)))
    }

    /// Its shim has something to say. `Err`: the command cannot be executed.
    pub(super) fn launch(&mut self, poller: &mut Poller) -> Result<(), String> {
        self.errand.launch(poller)
    }

    /// Reads a batch of what it prints.
    pub(super) fn pump(&mut self, poller: &mut Poller) {
        let Some(watched) = &mut self.output else { return };
        let flow = watched.it.pump(&mut self.tail);
        self.said.news = true;
        if flow == Flow::Ended
            && let Some(ended) = self.output.take()
        {
            ended.end(poller);
        }
    }

    /// The last line of its output, where that is to be told now.
    pub(super) fn says(&mut self, now: Time) -> Option<String> {
        if !self.said.news || self.said.count >= SAY_MAX || self.said.due().is_some_and(|due| due > now) {
            return None;
        }
        self.said = Said { count: self.said.count + 1, last: Some(now), news: false };
        self.tail.0.back().cloned()
    }

    /// Its process may have ended.
    pub(super) fn exited(&mut self, ground: &mut Ground<'_>) -> Step {
        let Some(exit) = self.errand.exit() else { return Step::Goes };
        self.drain();
        if self.stage != Stage::Runs {
            return Step::Over(Err(self.overdue()));
        }
        if exit != ExitInfo::Code(0) {
            return Step::Over(Err(format!("{}: {exit}", self.name())));
        }
        if self.command + 1 == self.order.release.hooks.get(&self.order.hook).map_or(0, Vec::len) {
            return Step::Over(Ok(()));
        }
        match start(&self.order, self.command + 1, ground) {
            Ok((errand, process, output)) => {
                let former = std::mem::replace(&mut self.errand, errand);
                former.end(ground.poller);
                if let Some(former) = self.output.replace(output) {
                    former.end(ground.poller);
                }
                (self.process, self.command) = (process, self.command + 1);
                Step::Next
            }
            Err(error) => Step::Over(Err(error)),
        }
    }

    /// Its result does not matter any more: it is told to end.
    pub(super) fn withdraw(&mut self, now: Time) {
        self.withdrawn = true;
        if self.stage == Stage::Runs {
            self.tell(now);
        }
    }

    /// Does what is due. `Some`: it is given up, and whatever is left of it is lost.
    pub(super) fn on_time(&mut self, now: Time) -> Option<Result<(), String>> {
        if self.until > now {
            return None;
        }
        match self.stage {
            Stage::Runs => self.tell(now),
            Stage::Told => {
                self.errand.signal(SIGKILL);
                (self.stage, self.until) = (Stage::Killed, now.after(KILLED));
            }
            Stage::Killed => return Some(Err(self.overdue())),
        }
        None
    }

    /// Lets go of it, and kills what is left of it. What it printed last.
    pub(super) fn end(mut self, poller: &mut Poller) -> Vec<String> {
        self.drain();
        self.errand.end(poller);
        if let Some(output) = self.output {
            output.end(poller);
        }
        self.tail.lines()
    }

    fn tell(&mut self, now: Time) {
        self.errand.signal(SIGTERM);
        (self.stage, self.until) = (Stage::Told, now.after(PATIENCE));
    }

    /// Reads what it has printed so far, within reason.
    fn drain(&mut self) {
        let Some(output) = &mut self.output else { return };
        for _ in 0..LAST_BATCHES {
            if output.it.pump(&mut self.tail) != Flow::More {
                break;
            }
        }
        self.said.news = true;
    }

    fn overdue(&self) -> String {
        let span = spoken(self.order.release.service.hooks.timeout);
        match self.stage {
            Stage::Runs | Stage::Told => format!("{}: not over in {span}", self.name()),
            Stage::Killed => format!("{}: not over in {span}, and killed, since it ignored SIGTERM", self.name()),
        }
    }

    /// The command that runs, as a person would know it.
    fn name(&self) -> String {
        let commands = self.order.release.service.hooks.commands.get(&self.order.hook);
        let words = commands.and_then(|commands| commands.get(self.command)).map_or(&[][..], |words| &words.0);
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        shortened(&words.join(" "))
    }
}

impl Said {
    /// When the next line may be told, if there is one.
    fn due(&self) -> Option<Time> {
        let last = self.last.filter(|_| self.news && self.count < SAY_MAX)?;
        Some(last.after(SAY_EVERY))
    }
}

/// So much of a command is shown, characters.
const NAME_MAX: usize = 80;

fn shortened(text: &str) -> String {
    match text.char_indices().nth(NAME_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Starts one of its commands.
fn start(
    order: &Order,
    command: usize,
    ground: &mut Ground<'_>,
) -> Result<(Errand, HookProcessEntry, Watched<Stream>), String> {
    let (hook, release) = (order.hook, &*order.release);
    let program = release.hooks.get(&hook).and_then(|programs| programs.get(command));
    let argv = release.service.hooks.commands.get(&hook).and_then(|commands| commands.get(command));
    let (Some(program), Some(argv)) = (program, argv) else { return Err("its command is gone".into()) };
    let failed = |error: std::io::Error| format!("cannot start a process: {}", describe(&error));

    let name = format!("{} hook {hook}", ground.name);
    let prefix = if ground.terminal { format!("\x1b[35m{name} |\x1b[0m ") } else { format!("{name} | ") };
    // Both streams in one, so that its lines stay in their order.
    let (stream, theirs) = Stream::new(ground.sink.clone(), Some(prefix)).map_err(failed)?;
    let streams = (theirs.as_fd(), theirs.as_fd());
    let mut plan = plan(release, &program.program, argv.0.clone(), streams, ground.nofile);
    let pairs = order.environment.iter();
    plan.env.extend(pairs.map(|(name, value)| (OsString::from(name), OsString::from(value))));
    let (shim, exit) = (Source::HookShim(ground.service), Source::HookExit(ground.service));
    let errand = Errand::begin(&plan, shim, exit, ground.poller).map_err(failed)?;
    drop(plan);
    let output = Watched::new(stream, Source::HookOutput(ground.service), ground.poller);
    match (output, errand.pid()) {
        (Ok(output), Some(pid)) => Ok((errand, HookProcessEntry { token: tokens::fresh(), pid }, output)),
        (output, _) => {
            errand.end(ground.poller);
            Err(failed(output.err().unwrap_or_else(|| std::io::ErrorKind::NotFound.into())))
        }
    }
}
