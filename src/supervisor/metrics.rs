//! Figures for a monitoring system, in OpenMetrics form.
//!
//! Nothing is registered and nothing is kept up to date but a few counters: each question is answered from how things
//! stand at that moment, off the loop.

mod counters;
mod exposition;
mod facts;
mod table;

pub(super) use counters::Counters;
pub(super) use facts::{Facts, holding};

#[cfg(test)]
mod tests;
