//! The record that lasts: what became of every upgrade, a line each, in a file that outlives supervisors and machines.
//!
//! - [`record`] is what is recorded, in the file as over the control socket.
//! - [`line`](mod@line) is the form of a line: JSON with a checksum of its own, so that whatever is not whole is known to be so.
//! - [`read`](mod@read) goes through a history in bounded memory: what is damaged is skipped, and counted.
//! - [`file`](mod@file) appends, and keeps the file bounded.
//! - [`kpi`] is what the records of some time come to, in figures. [`place`] is where a history lies.
//!
//! The file is only ever appended to. What becomes of an upgrade after its verdict is a line of its own, joined with the
//! record when both are read. Everything here blocks, and knows nothing of a supervisor that runs.

pub mod file;
pub mod kpi;
pub mod line;
pub mod place;
pub mod read;
pub mod record;

pub use kpi::{Figures, Kpi, Spread};
pub use line::Line;
pub use record::{Begun, Drained, KernelFigures, PhaseRecord, ProbeErrors, ProbeFigures, ProbeSummary, UpgradeRecord};

/// The name of the file in a state directory.
pub const FILE: &str = "history.jsonl";

#[cfg(test)]
mod tests;
