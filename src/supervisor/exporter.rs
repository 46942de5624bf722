//! The address at which a monitoring system reads the metrics, where one is configured. It never keeps a supervisor from
//! anything: what cannot be bound is said, and tried again at the next upgrade.

use std::net::SocketAddr;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::control::scrape;
use crate::control::server::Command;
use crate::sys::describe;

/// What is served, and where.
#[derive(Debug, Default)]
pub(super) struct Exporter {
    served: Option<(SocketAddr, JoinHandle<()>)>,
}

impl Exporter {
    /// Where they are served, as it was asked for.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.served.as_ref().map(|(address, _)| *address)
    }

    /// From now on at this address, or at none.
    pub(super) fn serve_at(&mut self, address: Option<SocketAddr>, commands: &mpsc::Sender<Command>) {
        if self.served.as_ref().map(|(address, _)| *address) == address {
            return;
        }
        if let Some((_, task)) = self.served.take() {
            task.abort();
        }
        let Some(address) = address else { return };
        match scrape::listen(address) {
            Ok(listener) => {
                let at = listener.local_addr().unwrap_or(address);
                tracing::info!("metrics are at http://{at}/metrics");
                self.served = Some((address, tokio::spawn(scrape::serve(listener, commands.clone()))));
            }
            Err(error) => tracing::warn!("metrics cannot be served at {address}: {}", describe(&error)),
        }
    }
}
