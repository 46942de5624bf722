//! The requests, one after the other, until an upgrade is over. A task of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::account::{Account, Answer, Ticket};
use super::client::{PATIENCE, Question};
use super::kernel::Counts;
use super::queue::Queues;
use crate::config::UpgradeProbe;
use crate::core::UpgradeId;
use crate::supervisor::Elsewhere;
use crate::sys::limits;
use crate::sys::socket::Bound;

/// Requests that wait for their answers at once, at most; while there are so many, no other is begun.
const CONCURRENT: usize = 64;
/// For how long it goes on once an upgrade has succeeded: what follows a switch shows only then.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// How long it may take to read what the kernel counts.
const COUNTING: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) upgrade: UpgradeId,
    pub(super) question: Question,
    pub(super) probe: UpgradeProbe,
    /// Whether a candidate has to be given a share before it answers anybody.
    pub(super) steered: bool,
    /// Whose queues are looked at.
    pub(super) sockets: Vec<Arc<Bound>>,
    /// For how long clients are asked for before the upgrade goes on.
    pub(super) baseline: Option<Duration>,
}

/// How far the upgrade is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervisor) enum Stage {
    /// It goes on.
    On,
    /// It has succeeded: for [`AFTERWARDS`] it is seen what follows.
    Afterwards,
    /// It is over: the last answers are waited for.
    Over,
    /// The service is ended, so that nobody answers any more.
    Ended,
}

/// The account, which the loop looks at as well.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Mutex<Account>>);

impl Shared {
    pub(super) fn new(account: Account) -> Self {
        Self(Arc::new(Mutex::new(account)))
    }

    /// Never for longer than it takes to count.
    pub(super) fn lock(&self) -> MutexGuard<'_, Account> {
        // Whoever panics ends the whole supervisor.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Done = (Ticket, Answer, Duration);

/// Asks until the upgrade is over, then waits for the last answers and tells that it is done.
pub(super) async fn run(
    plan: Plan,
    account: Shared,
    mut stage: watch::Receiver<Stage>,
    elsewhere: mpsc::UnboundedSender<Elsewhere>,
) {
    let upgrade = plan.upgrade;
    let then = counts().await;
    let mut requests: JoinSet<Done> = JoinSet::new();
    let concurrent = concurrent();
    let mut ticks = interval(Duration::from_secs(1) / plan.probe.rate.max(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut baseline = plan.baseline.map(|span| Instant::now() + span);
    let (mut number, mut queues, mut last) = (0, Queues::new(plan.sockets), None);
    loop {
        // The loop has ended where nobody can be told.
        tokio::select! {
            changed = stage.changed() => match changed.map(|()| *stage.borrow_and_update()) {
                Ok(Stage::On) => {}
                Ok(Stage::Afterwards) => last = Some(Instant::now() + AFTERWARDS),
                Ok(Stage::Over | Stage::Ended) | Err(_) => break,
            },
            () = until(last) => break,
            Some(Ok(done)) = requests.join_next() => {
                if let Some(reason) = count(&account, done) {
                    let _ = elsewhere.send(Elsewhere::Condemned { upgrade, reason });
                }
            }
            () = until(baseline) => {
                baseline = None;
                let _ = elsewhere.send(Elsewhere::Measured { upgrade });
            }
            _ = ticks.tick() => {
                queues.look();
                let ticket = Some(account.lock()).filter(|account| !account.is_paused()).map(|account| account.begin());
                if let Some(ticket) = ticket.filter(|_| requests.len() < concurrent) {
                    requests.spawn(ask(plan.question.clone(), number, ticket));
                    number += 1;
                }
            }
        }
    }
    if *stage.borrow() == Stage::Ended {
        // They say nothing of anybody.
        requests.abort_all();
    }
    let last = async {
        while let Some(done) = requests.join_next().await {
            // What it comes to is known.
            let _ = done.map(|done| count(&account, done));
        }
    };
    // Each has a deadline of its own.
    let _ = timeout(PATIENCE * 2, last).await;
    let kernel = then.zip(counts().await).map(|(then, now)| now.since(then, queues.most()));
    let _ = elsewhere.send(Elsewhere::Probed { upgrade, kernel });
}

/// What the kernel has counted; `None` where it does not tell, or not in time.
async fn counts() -> Option<Counts> {
    timeout(COUNTING, tokio::task::spawn_blocking(Counts::now)).await.ok()?.ok()?
}

async fn ask(question: Question, number: u64, ticket: Ticket) -> Done {
    let began = Instant::now();
    let answer = question.ask(number).await;
    (ticket, answer, began.elapsed())
}

fn count(account: &Shared, (ticket, answer, took): Done) -> Option<String> {
    account.lock().end(ticket, answer, took)
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// That, or an eighth of the descriptors where there are few: the rest is for the services.
fn concurrent() -> usize {
    let (soft, _) = limits::limit(limits::Resource::NOFILE).unwrap_or((u64::MAX, u64::MAX));
    usize::try_from(soft / 8).unwrap_or(usize::MAX).clamp(1, CONCURRENT)
}
