//! Stands for the supervisor's loop: answers commands from a story that the test tells.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{mpsc, watch};

use crate::control::server::{Command, EventsPage, FeedLine, Rejection, RejectionKind};
use crate::control::types::*;
use crate::history::Figures;

/// The only upgrade it knows.
pub(super) const UPGRADE: u64 = 7;

/// What it knows; shared with the test.
#[derive(Clone, Default)]
pub(super) struct Loop(Arc<Mutex<Story>>);

pub(super) struct Story {
    pub(super) events: Vec<UpgradeEvent>,
    pub(super) finished: bool,
    /// Who asked for what.
    pub(super) asked: Vec<(u32, String)>,
    /// How many pages of events were asked for.
    pub(super) pages: usize,
    changed: watch::Sender<u64>,
}

impl Default for Story {
    fn default() -> Self {
        Self { events: vec![], finished: false, asked: vec![], pages: 0, changed: watch::Sender::new(0) }
    }
}

impl Loop {
    pub(super) fn story(&self) -> MutexGuard<'_, Story> {
        self.0.lock().unwrap()
    }

    /// Something happens.
    pub(super) fn tell(&self, message: &str) {
        let mut story = self.story();
        let seq = story.events.len() as u64 + 1;
        story.events.push(event(seq, message));
        story.changed.send_modify(|changes| *changes += 1);
    }

    /// The verdict falls, and everything is gone.
    pub(super) fn finish(&self) {
        self.tell("the end");
        let mut story = self.story();
        story.finished = true;
        story.events.last_mut().unwrap().verdict = Some(Box::new(verdict()));
        story.changed.send_modify(|changes| *changes += 1);
    }

    pub(super) async fn run(self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            self.answer(command);
        }
    }

    fn answer(&self, command: Command) {
        let mut story = self.story();
        // A client that is gone is nobody's concern.
        match command {
            Command::Status { reply } => drop(reply.send(status())),
            Command::Request { request, uid, reply } => {
                story.asked.push((uid, format!("{} {:?}", request.kind, request.service)));
                let accepted = UpgradeAccepted {
                    id: UPGRADE,
                    service: "web".into(),
                    admission: AdmissionKind::Begun,
                    then: vec![],
                    atomic: false,
                    removes: vec![],
                    left_out: vec![],
                };
                drop(reply.send(rejection(request.service.as_deref()).map_or(Ok(accepted), Err)));
            }
            Command::Upgrades { reply } => drop(reply.send(vec![upgrade(&story)])),
            Command::Upgrade { id, reply } => drop(reply.send((id == UPGRADE).then(|| upgrade(&story)))),
            Command::Events { id, after, reply } => {
                story.pages += 1;
                let events = story.events.iter().filter(|event| event.seq > after).cloned().collect();
                let page = EventsPage { events, after, finished: story.finished, changed: story.changed.subscribe() };
                drop(reply.send((id == UPGRADE).then_some(page)));
            }
            Command::Feed { after, reply } => {
                let line = |event: &UpgradeEvent| FeedLine { seq: event.seq, text: event.message.as_str().into() };
                let events = story.events.iter().filter(|event| event.seq > after).map(line).collect();
                let page = EventsPage { events, after, finished: false, changed: story.changed.subscribe() };
                drop(reply.send(Some(page)));
            }
            Command::Metrics { reply } => drop(reply.send("# EOF\n".into())),
            Command::History { wanted, reply } => {
                let page = HistoryPage { upgrades: vec![], skipped: wanted.after };
                drop(reply.send(rejection(wanted.service.as_deref()).map_or(Ok(page), Err)));
            }
            Command::Kpi { query, reply } => {
                let kpi = Figures::new(query.service.clone(), 0.0).kpi(query.since as f64, 0);
                drop(reply.send(rejection(query.service.as_deref()).map_or(Ok(kpi), Err)));
            }
            Command::Reexec { replacement, uid, reply } => {
                story.asked.push((uid, format!("{:?}", replacement.binary)));
                drop(reply.send(Ok(Done { message: "done".into() })));
            }
            Command::Promote { promotion, uid, reply } => {
                story.asked.push((uid, format!("{:?} {}", promotion.service, promotion.full)));
                let done = Done { message: "done".into() };
                drop(reply.send(rejection(promotion.service.as_deref()).map_or(Ok(done), Err)));
            }
            Command::Scale { scaling, uid, reply } => {
                story.asked.push((uid, format!("{:?} {}", scaling.service, scaling.instances)));
                let done = Done { message: "done".into() };
                drop(reply.send(rejection(scaling.service.as_deref()).map_or(Ok(done), Err)));
            }
            Command::Pause { request, uid, reply } => {
                story.asked.push((uid, format!("{:?} for {:?}", request.service, request.max)));
                let done = Done { message: "done".into() };
                drop(reply.send(rejection(request.service.as_deref()).map_or(Ok(done), Err)));
            }
            Command::Abort { target, uid, reply }
            | Command::Stop { target, uid, reply }
            | Command::Resume { target, uid, reply } => {
                story.asked.push((uid, format!("{:?}", target.service)));
                let done = Done { message: "done".into() };
                drop(reply.send(rejection(target.service.as_deref()).map_or(Ok(done), Err)));
            }
        }
    }
}

/// Services whose names say how they answer.
fn rejection(service: Option<&str>) -> Option<Rejection> {
    let kind = match service? {
        "invalid" => RejectionKind::Invalid,
        "unknown" => RejectionKind::NotFound,
        "refused" => RejectionKind::Refused,
        "unavailable" => RejectionKind::Unavailable,
        _ => return None,
    };
    Some(Rejection { kind, error: "no".into(), hint: Some("try another".into()) })
}

fn status() -> Status {
    let supervisor = SupervisorStatus {
        name: "web".into(),
        version: "0".into(),
        pid: 1,
        age: 1.0,
        memory: None,
        config: None,
        stopping: false,
        incarnation: 1,
        holding: None,
        lines_dropped: 0,
    };
    Status { supervisor, services: vec![] }
}

fn upgrade(story: &Story) -> UpgradeStatus {
    UpgradeStatus {
        id: UPGRADE,
        service: "web".into(),
        kind: Kind::Reload,
        requested_by: vec![],
        step: "spawned".into(),
        generation: Some(2),
        from: Some(1),
        requested_at: 0.0,
        duration: 0.0,
        ended_at: None,
        takes_back: None,
        verdict: story.finished.then(verdict),
        drained: story.finished,
        warnings: vec![],
        probe: None,
    }
}

fn verdict() -> VerdictStatus {
    VerdictStatus {
        verdict: Verdict::Upgraded,
        exit_code: 0,
        step: "serving".into(),
        reason: None,
        hint: None,
        output: vec![],
        output_elsewhere: None,
        because_of: None,
        serving: Some(2),
    }
}

fn event(seq: u64, message: &str) -> UpgradeEvent {
    UpgradeEvent {
        seq,
        at: 0.0,
        elapsed: 0.0,
        upgrade: UPGRADE,
        service: "web".into(),
        event: "status".into(),
        message: message.into(),
        generation: Some(2),
        verdict: None,
    }
}
