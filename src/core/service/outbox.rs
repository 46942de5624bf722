//! Where actions wait until the shell takes them.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::super::event::Action;
use super::super::id::ServiceId;

/// Actions, in the order in which they are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::core) struct Outbox(VecDeque<Action>);

impl Outbox {
    pub(in crate::core) fn push(&mut self, action: Action) {
        self.0.push_back(action);
    }

    pub(in crate::core) fn take(&mut self) -> Option<Action> {
        self.0.pop_front()
    }

    /// Adds what is not waiting already.
    pub(in crate::core) fn ask_again(&mut self, action: Action) {
        if !self.0.contains(&action) {
            self.push(action);
        }
    }

    pub(super) fn has_weights(&self, of: ServiceId) -> bool {
        self.0.iter().any(|action| matches!(action, Action::SetWeights { service, .. } if *service == of))
    }

    /// Forgets what is wanted, but for what has to be said: verdicts, progress, and the end.
    pub(in crate::core) fn withdraw(&mut self) {
        self.0.retain(|action| match action {
            Action::Progress { .. } | Action::Conclude { .. } | Action::Discard(_) | Action::Finish(_) => true,
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
