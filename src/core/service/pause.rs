//! New connections made to wait, for a time.
//!
//! ```text
//!  (none) ──pause──► Holding ──held──► Held ──resume, stop, time over──► Releasing ──released──► (none)
//!    ▲                │ ▲ └───── resume, stop, time over ───────────────►  │ ▲  │
//!    └─ cannot be held┘ └────────────────── pause ─────────────────────────┘ └──┘ cannot be released: tried again
//! ```
//!
//! - Whatever becomes of anything, it ends: each state has a deadline, and a service that is stopped is not paused.
//! - Upgrades go on meanwhile. One may bring listeners, so all are held once more when its release is resolved; where
//!   that fails, none is.
//! - Answers are about the latest that was asked for; one about something else is late, and says nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::event::{Action, Refusal, Step};
use super::super::id::Time;
use super::super::policy::{RELEASE_AGAIN, RELEASE_TIMEOUT};
use super::{Outbox, Purpose, Service};

/// New connections are made to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pause {
    /// They are to be.
    Holding {
        /// Until when.
        until: Time,
    },
    /// They are.
    Held {
        /// Until when.
        until: Time,
    },
    /// They are to be let in again.
    Releasing {
        /// When that is asked for once more.
        again_at: Time,
    },
}

impl Pause {
    /// When something about it is due.
    fn deadline(self) -> Time {
        match self {
            Self::Holding { until } | Self::Held { until } => until,
            Self::Releasing { again_at } => again_at,
        }
    }
}

impl Service {
    /// Until when new connections are made to wait, if they are or are to be.
    #[must_use]
    pub fn paused_until(&self) -> Option<Time> {
        match self.pause? {
            Pause::Holding { until } | Pause::Held { until } => Some(until),
            Pause::Releasing { .. } => None,
        }
    }

    /// Makes new connections wait, for so long at most. Asked for again, it only moves the end.
    pub(in crate::core) fn pause(&mut self, now: Time, max: Duration, out: &mut Outbox) -> Result<(), Refusal> {
        if self.purpose == Purpose::Stop {
            return Err(Refusal::Stopping);
        }
        if self.purpose == Purpose::Stopped || self.serving().is_none() {
            return Err(Refusal::NotRunning);
        }
        let until = now.after(max);
        match self.pause {
            Some(Pause::Held { .. }) => {
                self.pause = Some(Pause::Held { until });
                self.tell_paused(max, out);
            }
            Some(Pause::Holding { .. }) => self.pause = Some(Pause::Holding { until }),
            Some(Pause::Releasing { .. }) | None => {
                self.pause = Some(Pause::Holding { until });
                self.want_held(true, out);
            }
        }
        Ok(())
    }

    /// Lets them in again.
    pub(in crate::core) fn resume(&mut self, now: Time, out: &mut Outbox) -> Result<(), Refusal> {
        self.paused_until().ok_or(Refusal::NotPaused)?;
        self.release(now, out);
        Ok(())
    }

    /// The kernel does as was asked, or cannot.
    pub(in crate::core) fn hold_done(&mut self, now: Time, on: bool, result: Result<(), String>, out: &mut Outbox) {
        match (self.pause, on, result) {
            (Some(Pause::Holding { until }), true, Ok(())) => {
                self.pause = Some(Pause::Held { until });
                self.tell_paused(until.since(now), out);
            }
            // Whoever tried it has left nothing of it.
            (Some(Pause::Holding { .. }), true, Err(_)) => self.pause = None,
            (Some(Pause::Held { .. }), true, Err(_)) => self.release(now, out),
            (Some(Pause::Releasing { .. }), false, Ok(())) => {
                self.pause = None;
                out.push(Action::Progress { service: self.id, upgrade: None, step: Step::Resumed });
            }
            // At the end the sockets are closed with everything else.
            (Some(Pause::Releasing { .. }), false, Err(_)) if self.purpose != Purpose::Run => self.pause = None,
            (Some(Pause::Releasing { .. }), false, Err(_)) => {
                self.pause = Some(Pause::Releasing { again_at: now.after(RELEASE_AGAIN) });
            }
            (Some(Pause::Held { .. }), true, Ok(()))
            | (Some(Pause::Holding { .. } | Pause::Held { .. }), false, _)
            | (Some(Pause::Releasing { .. }), true, _)
            | (None, _, _) => {}
        }
        self.settle(out);
    }

    pub(super) fn pause_deadline(&self) -> Option<Time> {
        self.pause.map(Pause::deadline)
    }

    pub(super) fn expire_pause(&mut self, now: Time, out: &mut Outbox) {
        if self.pause_deadline().is_none_or(|at| at > now) {
            return;
        }
        match self.pause {
            Some(Pause::Releasing { .. }) if self.purpose != Purpose::Run => {
                self.pause = None;
                self.settle(out);
            }
            Some(Pause::Holding { .. } | Pause::Held { .. } | Pause::Releasing { .. }) => self.release(now, out),
            None => {}
        }
    }

    /// Ends a pause, if there is one that has not been ended.
    pub(super) fn end_pause(&mut self, now: Time, out: &mut Outbox) {
        if self.paused_until().is_some() {
            self.release(now, out);
        }
    }

    /// Says that new connections are to be let in, however often that has been said.
    pub(super) fn release(&mut self, now: Time, out: &mut Outbox) {
        if self.pause.is_some() {
            self.pause = Some(Pause::Releasing { again_at: now.after(RELEASE_TIMEOUT) });
            self.want_held(false, out);
        }
    }

    /// There may be listeners that were not there before.
    pub(super) fn hold_new_listeners(&self, out: &mut Outbox) {
        if self.paused_until().is_some() {
            self.want_held(true, out);
        }
    }

    /// Says again what is wanted.
    pub(super) fn ask_for_hold_again(&self, out: &mut Outbox) {
        if self.pause.is_some() {
            out.ask_again(Action::Hold { service: self.id, on: self.paused_until().is_some() });
        }
    }

    fn want_held(&self, on: bool, out: &mut Outbox) {
        out.push(Action::Hold { service: self.id, on });
    }

    fn tell_paused(&self, span: Duration, out: &mut Outbox) {
        out.push(Action::Progress { service: self.id, upgrade: None, step: Step::Paused { span } });
    }
}
