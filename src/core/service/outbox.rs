//! Where actions wait until the shell takes them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::super::event::{Action, Verdict};
use super::super::id::{ServiceId, UpgradeId};

/// Actions, in the order in which they are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::core) struct Outbox {
    actions: VecDeque<Action>,
    /// Verdicts that have fallen and that no sequence has been told of. Never written down: nothing is, in between.
    #[serde(skip)]
    verdicts: Vec<(UpgradeId, Verdict)>,
}

impl Outbox {
    pub(in crate::core) fn push(&mut self, action: Action) {
        if let Action::Conclude { upgrade, verdict, .. } = &action {
            self.verdicts.push((*upgrade, *verdict));
        }
        self.actions.push_back(action);
    }

    pub(in crate::core) fn take_verdicts(&mut self) -> Vec<(UpgradeId, Verdict)> {
        std::mem::take(&mut self.verdicts)
    }

    pub(in crate::core) fn take(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Adds what is not waiting already.
    pub(in crate::core) fn ask_again(&mut self, action: Action) {
        if !self.actions.contains(&action) {
            self.push(action);
        }
    }

    pub(super) fn has_weights(&self, of: ServiceId) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::SetWeights { service, .. } if *service == of))
    }

    /// Forgets what is wanted, but for what has to be said: verdicts, progress, and the end.
    pub(in crate::core) fn withdraw(&mut self) {
        self.actions.retain(|action| match action {
            Action::Progress { .. }
            | Action::Conclude { .. }
            | Action::Discard(_)
            | Action::Remove(_)
            | Action::Finish(_) => true,
            Action::Pin { .. }
            | Action::Prepare { .. }
            | Action::Launch(_)
            | Action::SetWeights { .. }
            | Action::Hold { .. }
            | Action::RunHook { .. }
            | Action::Stop(_)
            | Action::Abort(_)
            | Action::Kill(_)
            | Action::Sweep { .. } => false,
        });
    }
}
