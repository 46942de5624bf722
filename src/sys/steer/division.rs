//! How new connections are divided: a plain description, of which a [`super::Program`] is made.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::Network;

/// A socket of a [`super::Row`], counted from 0 in the order in which they were appended. A slot keeps its number for as
/// long as the row lives, whatever index the kernel has it at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotIndex(pub usize);

impl fmt::Display for SlotIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How new connections are divided. What comes first decides: clients, then rules in their order, then the groups'
/// shares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Division {
    /// These very clients, address and port, go to one slot: so a health check reaches the instance that it means.
    #[serde(skip)]
    pub clients: Vec<(SocketAddr, SlotIndex)>,
    /// Clients in these networks go to a group, named by its place among the groups.
    pub rules: Vec<(Network, usize)>,
    /// The generations. With [`Affinity::Source`] their order must stay the same while weights move, oldest first: a
    /// client moves when the boundary between two neighbours passes over it.
    pub groups: Vec<Group>,
    /// How a client's share is drawn.
    pub affinity: Affinity,
}

/// Slots that share what comes to them equally: the instances of one generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its part of what no client and no rule decides. All together are 100.
    pub percent: u32,
    /// May be empty where nothing is sent to the group.
    pub slots: Vec<SlotIndex>,
}

/// How a client's share is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Affinity {
    /// Each connection anew, at random.
    #[default]
    Random,
    /// By [`percentile`] of the client's address: all connections of a client go to one group. The slot within it is
    /// drawn at random.
    Source,
}

impl Division {
    /// Everything to these slots, in equal shares.
    #[must_use]
    pub fn all_to(slots: impl IntoIterator<Item = SlotIndex>) -> Self {
        Self { groups: vec![Group { percent: 100, slots: slots.into_iter().collect() }], ..Self::default() }
    }
}

/// Where [`Affinity::Source`] sees a client, from 0 to 99: it goes to the first group whose percent, added to those
/// before it, is greater. The program computes the same.
///
/// The address alone decides: no state, no salt, so that every program, supervisor and host says the same. It is mixed
/// with the finalizer of MurmurHash3 (32 bits), which spreads consecutive addresses evenly; of IPv6, each word is mixed
/// into what came of those before it. An IPv4 client is the same on an IPv4 and a dual-stack listener.
///
/// Its limit: clients behind one NAT or proxy are one client, whatever their number, so that the share of the
/// connections may be far from that of the addresses. A host with changing IPv6 addresses is as many clients.
#[must_use]
pub fn percentile(client: IpAddr) -> u32 {
    let hash = match client.to_canonical() {
        IpAddr::V4(v4) => mix(v4.to_bits()),
        IpAddr::V6(v6) => words(v6).into_iter().fold(0, |hash, word| mix(hash ^ word)),
    };
    hash % 100
}

/// An IPv6 address as the program loads it.
pub(super) fn words(address: std::net::Ipv6Addr) -> [u32; 4] {
    let bits = address.to_bits();
    [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
}

/// fmix32 of MurmurHash3: shifts and factors, one after the other.
pub(super) const SHIFTS: [u32; 3] = [16, 13, 16];
pub(super) const FACTORS: [u32; 2] = [0x85eb_ca6b, 0xc2b2_ae35];

fn mix(mut hash: u32) -> u32 {
    hash ^= hash >> SHIFTS[0];
    hash = hash.wrapping_mul(FACTORS[0]);
    hash ^= hash >> SHIFTS[1];
    hash = hash.wrapping_mul(FACTORS[1]);
    hash ^ (hash >> SHIFTS[2])
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::tests::within_binomial;
    use super::*;

    #[test]
    fn the_hash_is_murmurs() {
        // From the reference implementation (SMHasher).
        assert_eq!([0, 1, 0xdead_beef].map(mix), [0, 0x514e_28b7, 0x0de5_c6a9]);
    }

    #[test]
    fn consecutive_addresses_are_spread_evenly() {
        let v4 = |step: u32| (1..=1000).map(move |n| IpAddr::V4(Ipv4Addr::from_bits(0x7f00_0000 + n * step)));
        let v6 = |shift: u32| (1..=1000u128).map(move |n| IpAddr::V6((0x2001_0db8u128 << 96 | n << shift).into()));
        let sets: [Vec<IpAddr>; 6] = [
            v4(1).collect(),
            v4(256).collect(),
            v4(7919).collect(),
            v6(0).collect(),
            v6(32).collect(),
            v6(64).collect(),
        ];
        for set in &sets {
            for percent in [1, 5, 25, 50, 75, 95] {
                let below = set.iter().filter(|client| percentile(**client) < percent).count();
                assert!(within_binomial(below, set.len(), percent), "{below} of 1000 below {percent}: {}", set[0]);
            }
        }
    }

    #[test]
    fn a_client_is_the_same_through_both_families() {
        let mapped = "::ffff:127.3.2.1".parse().unwrap();
        assert_eq!(percentile("127.3.2.1".parse().unwrap()), percentile(mapped));
    }
}
