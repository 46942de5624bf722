//! What the kernel counts, at the begin of an upgrade and at its end. Blocks as /proc does.

use crate::history::KernelFigures;
use crate::sys::netstat::Counters;

/// Counts since the machine was started, of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    overflows: u64,
    drops: u64,
    resets: u64,
}

impl Counts {
    /// How they stand; `None` where the kernel does not tell.
    pub(super) fn now() -> Option<Self> {
        Self::of(&Counters::netstat(), &Counters::snmp())
    }

    fn of(netstat: &Counters, snmp: &Counters) -> Option<Self> {
        Some(Self {
            overflows: netstat.get("TcpExt", "ListenOverflows")?,
            drops: netstat.get("TcpExt", "ListenDrops")?,
            resets: snmp.get("Tcp", "EstabResets")?,
        })
    }

    /// What has been added since then.
    pub(super) fn since(self, then: Self, queue: u32) -> KernelFigures {
        KernelFigures {
            queue,
            overflows: self.overflows.saturating_sub(then.overflows),
            drops: self.drops.saturating_sub(then.drops),
            resets: self.resets.saturating_sub(then.resets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_apart() {
        let netstat = "TcpExt: ListenOverflows ListenDrops\nTcpExt: 7 9\n";
        let snmp = "Ip: EstabResets\nIp: 1\nTcp: InSegs EstabResets\nTcp: 5 4\n";
        let now = Counts::of(&netstat.into(), &snmp.into()).expect("it is all there");
        assert_eq!(now, Counts { overflows: 7, drops: 9, resets: 4 });
        let then = Counts { overflows: 5, drops: 10, resets: 0 };
        assert_eq!(now.since(then, 3), KernelFigures { queue: 3, overflows: 2, drops: 0, resets: 4 });
        for (netstat, snmp) in [("", snmp), (netstat, ""), ("TcpExt: ListenDrops\nTcpExt: 9\n", snmp)] {
            assert_eq!(Counts::of(&netstat.into(), &snmp.into()), None, "what is not told is not 0");
        }
    }
}
