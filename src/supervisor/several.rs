//! Upgrades of several services: which are meant, in which order, and which of them the config has gained or lost.
//!
//! To know that, the config is read, off the loop; requests that come meanwhile share the next reading. Each upgrade
//! reads it once more as it begins: what is read here decides nothing but who takes part.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::mem;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::ledger::News;
use super::listeners::Listeners;
use super::requests::{refused, rejection};
use super::store::Store;
use super::{Elsewhere, Service, Supervisor};
use crate::config::Config;
use crate::control::server::{Rejection, RejectionKind};
use crate::control::types::{UpgradeAccepted, UpgradeThen};
use crate::core::policy::PIN_TIMEOUT;
use crate::core::{self, Admission, Kind, ServiceId, Together, UpgradeId};
use crate::history::read::Numbers;

/// Somebody asks for upgrades of several services.
pub(super) struct Ask {
    /// Which; empty: all.
    pub(super) names: Vec<String>,
    /// Reload or restart.
    pub(super) kind: Kind,
    /// All of them or none; as the config says without it.
    pub(super) atomic: Option<bool>,
    /// Who, and where the answer goes; without it: a signal.
    pub(super) by: Option<(u32, Reply)>,
}

/// Where the answer goes.
pub(super) type Reply = oneshot::Sender<Result<UpgradeAccepted, Rejection>>;

/// Those who ask, while the config is read.
#[derive(Default)]
pub(super) struct Asks {
    reading: Vec<Ask>,
    waiting: Vec<Ask>,
}

/// What a config says of its services together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Their names, each after those that it comes after, and those.
    services: Vec<(String, Vec<String>)>,
    /// Unless it is said otherwise, all of them are upgraded or none.
    atomic: bool,
}

impl Order {
    pub(super) fn of(config: &Config) -> Self {
        let services = config.in_order().into_iter().map(|service| (service.name.clone(), service.after.clone()));
        Self { services: services.collect(), atomic: config.atomic }
    }
}

/// What was read for those who ask.
pub(super) struct Wanted {
    order: Order,
    /// The latest generations of services that are new.
    generations: BTreeMap<String, u64>,
}

/// What is said to whoever names a service that is on its way out.
fn stops_now(name: &str) -> Rejection {
    let hint = format!("once it has ended, `zdsup reload {name}` starts it again, if the config has it");
    Rejection { hint: Some(hint), ..rejection(RejectionKind::Refused, format!("{name} is being stopped")) }
}

impl Supervisor {
    /// Somebody asks; the answer may come later.
    pub(super) fn ask(&mut self, ask: Ask) {
        if ask.kind != Kind::Reload || self.surroundings.source.path().is_none() {
            return self.on_ask(ask, None);
        }
        self.asks.waiting.push(ask);
        self.read_for_asks();
    }

    /// The config was read, or cannot be: then each upgrade will find that out, and say so.
    pub(super) fn on_read(&mut self, wanted: Option<&Wanted>) {
        for ask in mem::take(&mut self.asks.reading) {
            self.on_ask(ask, wanted);
        }
        self.read_for_asks();
    }

    /// The supervisor is about to be another: nobody waits for the config any longer, and each upgrade reads it itself.
    pub(super) fn answer_asks(&mut self) {
        let Asks { reading, waiting } = mem::take(&mut self.asks);
        for ask in reading.into_iter().chain(waiting) {
            self.on_ask(ask, None);
        }
    }

    /// The order of a config is in force.
    pub(super) fn adopt_order(&mut self, order: &Order) {
        let ids = self.ids();
        let id = |name: &String| ids.get(name.as_str()).copied();
        let after = |names: &[String]| names.iter().filter_map(id).collect::<BTreeSet<_>>();
        let order_of = |(name, names): &(String, Vec<String>)| Some((id(name)?, after(names)));
        let by_id = order.services.iter().filter_map(order_of).collect();
        self.core.set_order(&by_id);
        self.atomic = order.atomic;
    }

    /// Adds a service of which nothing runs.
    pub(super) fn add(&mut self, id: ServiceId, name: &str) {
        self.services.insert(id, Service::new(name.to_owned(), Listeners::new(), Store::new(id)));
        self.ledger.make_room(self.services.len());
    }

    fn ids(&self) -> HashMap<&str, ServiceId> {
        let there = self.services.iter().filter(|(_, service)| !service.removed);
        there.map(|(id, service)| (service.name.as_str(), *id)).collect()
    }

    fn read_for_asks(&mut self) {
        if self.asks.waiting.is_empty() || !self.asks.reading.is_empty() {
            return;
        }
        self.asks.reading = mem::take(&mut self.asks.waiting);
        if let ([only], 1) = (self.core.in_order().as_slice(), self.services.len()) {
            // It is as good as certain who begins.
            self.load_blank(*only);
        }
        let surroundings = std::sync::Arc::clone(&self.surroundings);
        let known: BTreeSet<String> = self.ids().into_keys().map(str::to_owned).collect();
        let (history, _) = self.history.known();
        let read = tokio::task::spawn_blocking(move || {
            let order = Order::of(&surroundings.config().ok()?);
            let new: Vec<&str> =
                order.services.iter().map(|(name, _)| name.as_str()).filter(|name| !known.contains(*name)).collect();
            let numbers = history.filter(|_| !new.is_empty()).map(|history| Numbers::read(&history, &new));
            let generations = numbers.and_then(Result::ok).unwrap_or_default().generations;
            Some(Wanted { order, generations })
        });
        let elsewhere = self.elsewhere.clone();
        tokio::spawn(async move {
            // A disk that is gone fails the upgrades, not the question.
            let wanted = tokio::time::timeout(PIN_TIMEOUT, read).await.ok().and_then(Result::ok).flatten();
            // The loop has ended: nobody wants to know.
            let _ = elsewhere.send(Elsewhere::Read(wanted.map(Box::new)));
        });
    }

    fn on_ask(&mut self, ask: Ask, wanted: Option<&Wanted>) {
        let uid = ask.by.as_ref().map(|(uid, _)| *uid);
        let answer = self.begin_several(&ask.names, ask.kind, ask.atomic, wanted, uid);
        self.act();
        match ask.by {
            // Whoever asked may be gone: then nobody wants the answer.
            Some((_, reply)) => drop(reply.send(answer)),
            None => {
                if let Err(rejection) = answer {
                    tracing::warn!("{} refused: {}", ask.kind, rejection.error);
                }
            }
        }
    }

    fn begin_several(
        &mut self,
        names: &[String],
        kind: Kind,
        atomic: Option<bool>,
        wanted: Option<&Wanted>,
        uid: Option<u32>,
    ) -> Result<UpgradeAccepted, Rejection> {
        if self.core.is_ending() {
            return Err(refused(&core::Refusal::Stopping));
        }
        let ids = self.ids();
        if let Some(unknown) = names.iter().find(|name| !ids.contains_key(name.as_str())) {
            return Err(self.unknown(unknown, wanted));
        }
        let in_config = wanted.map(|wanted| &wanted.order.services);
        let has = in_config.into_iter().flatten().filter_map(|(name, _)| ids.get(name.as_str()).copied());
        let has: Vec<ServiceId> = has.collect();
        // What the config does not have any more comes last: where it was named, that is what it fails by.
        let known = in_config.into_iter().flatten().map(|(name, _)| name.clone());
        let running = self.core.in_order().into_iter().map(|id| self.name_of(id).to_owned());
        let mut seen = BTreeSet::new();
        let mut meant: Vec<String> = known.chain(running).filter(|name| seen.insert(name.clone())).collect();
        let (mut lost, mut left_out) = (Vec::new(), Vec::new());
        let stops = |name: &String| ids.get(name.as_str()).is_some_and(|id| self.core.is_stopping(*id));
        if names.is_empty() {
            let stays = |name: &String| in_config.is_none_or(|known| known.iter().any(|(known, _)| known == name));
            let gone = meant.extract_if(.., |name| !stays(name));
            lost.extend(gone.filter_map(|name| ids.get(name.as_str()).copied()));
            lost.retain(|id| !self.core.is_leaving(*id));
            // Nobody asked for these, who are on their way out.
            left_out.extend(meant.extract_if(.., |name| stops(name)));
        } else {
            meant.retain(|name| names.contains(name));
        }
        if let Some(stopping) = meant.iter().find(|name| stops(name)).or(left_out.first().filter(|_| meant.is_empty()))
        {
            return Err(stops_now(stopping));
        }
        if !left_out.is_empty() {
            tracing::warn!("left out, since they are being stopped: {}", left_out.join(", "));
        }
        self.core.keep(&has);
        let services: Vec<ServiceId> = meant.iter().map(|name| self.id_or_new(name, wanted)).collect();
        let atomic = atomic.unwrap_or_else(|| wanted.map_or(self.atomic, |wanted| wanted.order.atomic));
        let asked = Together { services, kind, atomic, lost: lost.clone() };
        self.survival.stale = true;
        let admissions = self.core.request_in_order(self.now(), asked).map_err(|refusal| refused(&refusal))?;
        for (place, (service, admission)) in admissions.iter().enumerate() {
            let before = admissions[..place].last().map(|(before, other)| (*before, other.upgrade()));
            self.admitted(*service, kind, *admission, uid, before);
        }
        let removes: Vec<String> = lost.iter().map(|id| self.name_of(*id).to_owned()).collect();
        if !removes.is_empty() {
            tracing::info!(
                "the config does not have {} any more: to be removed once the others are upgraded",
                removes.join(", ")
            );
        }
        let then = |(service, admission): &(ServiceId, Admission)| UpgradeThen {
            id: admission.upgrade().0,
            service: self.name_of(*service).to_owned(),
        };
        let Some(((first, admission), rest)) = admissions.split_first() else {
            return Err(rejection(RejectionKind::Refused, "there is no service to upgrade"));
        };
        Ok(UpgradeAccepted {
            id: admission.upgrade().0,
            service: self.name_of(*first).to_owned(),
            admission: (*admission).into(),
            then: rest.iter().map(then).collect(),
            atomic: atomic && !rest.is_empty(),
            removes,
            left_out,
        })
    }

    /// A service that is known under this name, or a new one.
    fn id_or_new(&mut self, name: &str, wanted: Option<&Wanted>) -> ServiceId {
        if let Some(id) = self.ids().get(name) {
            return *id;
        }
        let last = wanted.and_then(|wanted| wanted.generations.get(name)).copied().unwrap_or(0);
        let id = self.core.gain_service(core::Generation(last + 1));
        tracing::info!(service = name, "new in the config: to be started");
        self.add(id, name);
        id
    }

    fn unknown(&self, name: &str, wanted: Option<&Wanted>) -> Rejection {
        let mut rejection = self.no_service(name);
        if wanted.is_some_and(|wanted| wanted.order.services.iter().any(|(known, _)| known == name)) {
            rejection.hint = Some("it is new in the config: `zdsup reload` without a name starts it".into());
        }
        rejection
    }

    /// An upgrade waits for the one before it.
    pub(super) fn tell_of_turn(&mut self, service: ServiceId, id: UpgradeId, before: (ServiceId, UpgradeId)) {
        let (earlier, upgrade) = before;
        let message = format!("its turn comes after upgrade #{upgrade} of {}", self.name_of(earlier));
        tracing::debug!(service = self.name_of(service), upgrade = id.0, "{message}");
        self.tell_of_upgrade(service, id, News { event: "queued", message, generation: None });
    }
}
