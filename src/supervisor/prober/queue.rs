//! How many connections wait to be accepted: the most that were seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::sys::socket::{Bound, Endpoint};

/// How often it is looked, at most.
const LOOK: Duration = Duration::from_millis(20);
/// The same where that takes a netlink socket and an answer of the kernel each time.
const LOOK_UNIX: Duration = Duration::from_secs(1);

/// The queues of a listener.
#[derive(Debug)]
pub(super) struct Queues {
    sockets: Arc<[Arc<Bound>]>,
    most: Arc<AtomicU32>,
    looked: Option<Instant>,
    /// Somebody looks who may block.
    looking: Option<JoinHandle<()>>,
}

impl Queues {
    pub(super) fn new(sockets: Vec<Arc<Bound>>) -> Self {
        Self { sockets: sockets.into(), most: Arc::default(), looked: None, looking: None }
    }

    /// Looks, unless that has been done just now. Blocks nothing.
    pub(super) fn look(&mut self) {
        let is_unix = self.sockets.iter().any(|socket| !matches!(socket.endpoint, Endpoint::Tcp(_)));
        let pause = if is_unix { LOOK_UNIX } else { LOOK };
        let is_looking = self.looking.as_ref().is_some_and(|looking| !looking.is_finished());
        if is_looking || self.looked.is_some_and(|at| at.elapsed() < pause) {
            return;
        }
        self.looked = Some(Instant::now());
        let (sockets, most) = (Arc::clone(&self.sockets), Arc::clone(&self.most));
        let look = move || {
            let waiting = sockets.iter().filter_map(|socket| socket.queue()).map(|(waiting, _)| waiting).max();
            most.fetch_max(waiting.unwrap_or(0), Ordering::Relaxed);
        };
        if is_unix {
            self.looking = Some(tokio::task::spawn_blocking(look));
        } else {
            look();
        }
    }

    /// The most that were seen so far.
    pub(super) fn most(&self) -> u32 {
        self.most.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::sys::socket::{Options, bind};

    #[tokio::test]
    async fn the_most_that_waited_is_kept() {
        let endpoint = Endpoint::Tcp("127.0.0.1:0".parse().expect("an address"));
        let bound = bind(&endpoint, &Options::default()).expect("a port");
        let Endpoint::Tcp(address) = bound.endpoint else { panic!("it is TCP") };
        let mut queues = Queues::new(vec![Arc::new(bound)]);
        let clients = [(); 2].map(|()| TcpStream::connect(address).expect("it listens"));
        queues.look();
        assert_eq!(queues.most(), 2);
        drop(clients);
        queues.look();
        assert_eq!(queues.most(), 2);
    }
}
