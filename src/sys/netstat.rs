//! What the kernel counts for all sockets of this network namespace (proc_pid_net(5)).

use std::fs;

/// A file of counters: for each table a line of names, then a line of values in the same order.
#[derive(Clone, Debug)]
pub struct Counters(String);

impl Counters {
    /// `/proc/self/net/netstat`; empty where it cannot be read. Blocks as /proc does.
    #[must_use]
    pub fn netstat() -> Self {
        Self::at("/proc/self/net/netstat")
    }

    /// `/proc/self/net/snmp`, likewise.
    #[must_use]
    pub fn snmp() -> Self {
        Self::at("/proc/self/net/snmp")
    }

    /// The value of this name in a table; `None` where this kernel has none.
    #[must_use]
    pub fn get(&self, table: &str, name: &str) -> Option<u64> {
        let mut lines = self.0.lines().filter_map(|line| line.strip_prefix(table)?.strip_prefix(": "));
        let (names, values) = (lines.next()?, lines.next()?);
        names.split(' ').zip(values.split(' ')).find(|(one, _)| *one == name)?.1.parse().ok()
    }

    fn at(path: &str) -> Self {
        Self(fs::read_to_string(path).unwrap_or_default())
    }
}

#[cfg(test)]
impl From<&str> for Counters {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_names() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 0 7 9\nIpExt: InNoRoutes\nIpExt: 0\n";
        let counters = Counters::from(text);
        assert_eq!(
            (counters.get("TcpExt", "ListenOverflows"), counters.get("TcpExt", "ListenDrops")),
            (Some(7), Some(9))
        );
        assert_eq!(counters.get("TcpExt", "InNoRoutes"), None);
        assert_eq!(Counters::from("").get("TcpExt", "ListenDrops"), None);
        assert_eq!(Counters::from("TcpExt: x").get("TcpExt", "x"), None);
        assert!(Counters::netstat().get("TcpExt", "ListenDrops").is_some());
        assert!(Counters::snmp().get("Tcp", "EstabResets").is_some());
    }
}
