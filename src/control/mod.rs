//! HTTP/1.1 and JSON over the control socket: what `zdsup reload`, `zdsup status` and curl speak with a supervisor.
//!
//! - [`types`] is what goes over it, [`routes`] is where; `openapi.json` describes both, and a test compares them.
//! - [`server`] accepts and answers, and talks to the supervisor's loop through a channel alone. Whoever asks is judged
//!   by the credentials of its end of the socket ([`access`]), and bounded in number, size and time.
//! - [`scrape`] is the one thing that can be asked for elsewhere: metrics, at a TCP address.
//! - [`locate`] finds a supervisor, [`client`] talks to it.
//!
//! Losing a client never changes an upgrade: a stream of events is a view that can be taken up again at any event.

pub mod access;
mod answer;
pub mod client;
mod events;
pub mod locate;
mod patient;
mod places;
pub mod request;
mod reserve;
pub mod routes;
pub mod scrape;
pub mod server;
pub mod types;

#[cfg(test)]
mod tests;
