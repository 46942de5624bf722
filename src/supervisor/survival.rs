//! What outlives a supervisor: its state, as one document in a memfd, and every descriptor that it holds.
//!
//! ```text
//!  the loop ─► record ─┬─► 1. descriptors that are new ──► the fd store (systemd's, or the keeper's)
//!                      ├─► 2. the document ─────────────► the memfd, which is in the store too
//!                      └─► 3. descriptors that are gone ─► removed from the store
//!
//!  dies ─► is started again ─► finds document and descriptors ─► adopt.rs ─► goes on
//!  reexec ─► executes the new binary with the same document and the same descriptors ─► adopt.rs ─► goes on
//! ```
//!
//! - One format, two users: a successor after a crash gets the descriptors from the store, by name (sd_listen_fds(3)); a
//!   successor by `reexec` finds their numbers in the document.
//! - A descriptor is in the store before the document names it, and leaves it only afterwards: whenever the supervisor
//!   dies, everything that the document names is there.
//! - An intent is in the document before it is carried out: the machine's pending actions are part of its state. What was
//!   carried out and not yet noted is carried out once more, so every action can be done twice.

mod adopt;
mod document;
mod memory;
mod record;
mod store;

pub use adopt::Passed;
pub(super) use adopt::{Adoption, Impossible, Predecessor, Programs, STATE_FD, Sockets, listeners_among, names};
pub(super) use document::{
    Document, HookEntry, HookProcessEntry, Name, Owner, Part, ProcessEntry, ReleaseEntry, StoredEntry, check,
};
pub(super) use memory::Memory;
pub(super) use record::PER_INSTANCE;
pub(super) use record::Survival;
pub(super) use store::FdStore;
