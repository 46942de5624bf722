//! Names of things the machine talks about. None of them is a pid or a file descriptor: the shell resolves them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An instant: nanoseconds of CLOCK_MONOTONIC, as the shell read it.
///
/// Our own type because `std::time::Instant` cannot be written down, and deadlines have to outlive the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// The instant `span` later; the end of time when that overflows.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// How long it is until then; `None` at the end of time.
    #[must_use]
    pub fn left(self, now: Self) -> Option<Duration> {
        (self.0 != u64::MAX).then(|| self.since(now))
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($of:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $of);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A service, by its place in the order in which services were added.
    ServiceId(u32)
);
number!(
    /// One start of a service's release. Never reused within a service.
    Generation(u64)
);
number!(
    /// One upgrade, of any service of this supervisor.
    UpgradeId(u64)
);
number!(
    /// What is run: the shell's record of a pinned executable, argv, environment and working directory.
    ReleaseId(u64)
);

number!(
    /// A place in the row of sockets of a listener whose traffic is steered. An instance keeps its slot for as long as
    /// anything of it is left; the one after it may take the slot over, with whatever waits in its queue.
    Slot(u32)
);

/// One process of a generation. Numbers are counted within the generation and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InstanceId {
    /// The service it belongs to.
    pub service: ServiceId,
    /// The generation it belongs to.
    pub generation: Generation,
    /// Which start of a process within the generation, from 1.
    pub number: u32,
}
