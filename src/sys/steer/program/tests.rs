use std::net::SocketAddr;

use proptest::prelude::*;

use super::super::interpreter::{Beyond, run};
use super::super::tests::within_binomial;
use super::super::{Group, Network, percentile};
use super::*;

/// A first segment from its network header on.
#[derive(Clone, Debug)]
struct Packet {
    client: SocketAddr,
    /// IPv4 options, in words; IPv6 extension headers, in units of 8 bytes.
    more: u8,
}

impl Packet {
    fn from(client: &str) -> Self {
        Self { client: client.parse().unwrap(), more: 0 }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = match self.client.ip() {
            IpAddr::V4(v4) => {
                let mut header = vec![0; 20 + 4 * usize::from(self.more)];
                header[0] = 0x45 + self.more;
                header[9] = 6;
                header[12..16].copy_from_slice(&v4.octets());
                header
            }
            IpAddr::V6(v6) => {
                let mut header = vec![0; 40 + 8 * usize::from(self.more)];
                header[0] = 0x60;
                // Destination options, then TCP.
                header[6] = if self.more > 0 { 60 } else { 6 };
                if self.more > 0 {
                    header[40] = 6;
                    header[41] = self.more - 1;
                }
                header[8..24].copy_from_slice(&v6.octets());
                header
            }
        };
        let mut tcp = [0; 20];
        tcp[..2].copy_from_slice(&self.client.port().to_be_bytes());
        tcp[13] = 2;
        bytes.extend(tcp);
        bytes
    }
}

fn group(percent: u32, slots: &[usize]) -> Group {
    Group { percent, slots: slots.iter().copied().map(SlotIndex).collect() }
}

fn division(groups: &[Group]) -> Division {
    Division { groups: groups.to_vec(), ..Division::default() }
}

/// Numbers that are as good as random, the same each time (SplitMix64).
fn numbers(mut state: u64) -> impl FnMut() -> u32 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 32) as u32
    }
}

fn program(division: &Division, family: Family, slots: usize) -> Program {
    Program::new(division, family, &Order::new(slots)).unwrap()
}

fn decide(program: &Program, packet: &Packet, random: impl FnMut() -> u32) -> u32 {
    run(program.instructions(), &packet.bytes(), random).unwrap()
}

#[test]
fn shares_are_right() {
    let client = Packet::from("192.0.2.1:4000");
    for (groups, family) in [
        (vec![group(95, &[0]), group(5, &[1])], Family::V4),
        (vec![group(50, &[0, 1]), group(50, &[2, 3])], Family::Dual),
        (vec![group(33, &[2, 0]), group(0, &[]), group(33, &[1, 3]), group(34, &[4, 5, 6])], Family::V6),
        (vec![group(0, &[0]), group(100, &[1, 2, 3])], Family::V4),
    ] {
        let program = program(&division(&groups), family, 7);
        let mut random = numbers(7);
        let mut counts = [0; 7];
        for _ in 0..20_000 {
            counts[decide(&program, &client, &mut random) as usize] += 1;
        }
        for group in groups {
            let came: usize = group.slots.iter().map(|slot| counts[slot.0]).sum();
            assert!(within_binomial(came, 20_000, group.percent), "{counts:?}");
            for slot in &group.slots {
                let even = came as f64 / group.slots.len() as f64;
                assert!((counts[slot.0] as f64 - even).abs() <= 4.0 * even.sqrt(), "{counts:?}");
            }
        }
    }
}

#[test]
fn a_client_is_known_by_address_and_port() {
    let mut division = division(&[group(100, &[0])]);
    for client in ["127.0.0.1:4000", "[::1]:4000", "[::ffff:127.0.0.2]:1"] {
        division.clients.push((client.parse().unwrap(), SlotIndex(1)));
    }
    let program = program(&division, Family::Dual, 2);
    let decide = |packet: &Packet| decide(&program, packet, || 0);
    for (client, slot) in [
        ("127.0.0.1:4000", 1),
        ("127.0.0.1:4001", 0),
        ("127.0.0.2:4000", 0),
        ("127.0.0.2:1", 1),
        ("[::1]:4000", 1),
        ("[::1]:4001", 0),
        ("[::2]:4000", 0),
    ] {
        assert_eq!(decide(&Packet::from(client)), slot, "{client}");
    }
    for more in 1..=10 {
        assert_eq!(decide(&Packet { more, ..Packet::from("127.0.0.1:4000") }), 1, "the port is behind the options");
        assert_eq!(decide(&Packet { more, ..Packet::from("[::1]:4000") }), 0, "extension headers are not walked");
    }
}

#[test]
fn rules_are_asked_in_their_order() {
    let mut division = division(&[group(100, &[0]), group(0, &[1]), group(0, &[2])]);
    for (network, group) in [("10.1.0.0/16", 1), ("10.0.0.0/8", 2), ("2001:db8::/33", 1), ("2001::/16", 2), ("::1", 1)]
    {
        division.rules.push((network.parse().unwrap(), group));
    }
    let program = program(&division, Family::Dual, 3);
    for (client, slot) in [
        ("10.1.2.3:9", 1),
        ("10.2.2.3:9", 2),
        ("11.0.0.1:9", 0),
        ("[2001:db8:7fff::1]:9", 1),
        ("[2001:db8:8000::1]:9", 2),
        ("[2002::]:9", 0),
        ("[::1]:9", 1),
        ("[::3]:9", 0),
    ] {
        for more in [0, 3] {
            let packet = Packet { more, ..Packet::from(client) };
            assert_eq!(decide(&program, &packet, || 0), slot, "{client}");
        }
    }
}

#[test]
fn what_is_neither_ipv4_nor_ipv6_is_not_read() {
    let mut division = division(&[group(50, &[0]), group(50, &[1])]);
    division.rules.push(("0.0.0.0/0".parse().unwrap(), 0));
    division.clients.push(("[::1]:1".parse().unwrap(), SlotIndex(0)));
    division.affinity = Affinity::Source;
    let program = program(&division, Family::Dual, 2);
    assert_eq!(run(program.instructions(), &[0], || 99), Ok(1));
    assert!(matches!(run(program.instructions(), &[0x40], || 99), Err(Beyond(_))), "the interpreter tells");
}

#[test]
fn long_programs_jump_far_and_end_at_the_limit() {
    let mut division = division(&[group(100, &[0]), group(0, &[1])]);
    let network = |n: u32| Network::new(IpAddr::V4((0x0a00_0000 + n * 256).into()), 24).unwrap();
    division.rules = (0..2000).map(|n| (network(n), 1)).collect();
    let long = program(&division, Family::V4, 2);
    assert!(long.len() > 3600 && long.len() <= MAX_LEN);
    for (client, slot) in [(0, 1), (700, 1), (1999, 1), (2000, 0)] {
        let client = SocketAddr::new(network(client).address(), 1);
        assert_eq!(decide(&long, &Packet { client, more: 0 }, || 0), slot);
    }
    division.rules.extend((2000..2200).map(|n| (network(n), 1)));
    let error = Program::new(&division, Family::V4, &Order::new(2)).unwrap_err();
    assert!(matches!(error, ProgramError::TooLong(length) if length > MAX_LEN));
    assert!(error.to_string().ends_with("instructions, 4096 are the kernel's limit"), "{error}");
}

#[test]
fn divisions_that_cannot_be_are_refused() {
    let refusal = |division: &Division| Program::new(division, Family::V4, &Order::new(2)).unwrap_err();
    assert_eq!(refusal(&division(&[])), ProgramError::Shares(0));
    assert_eq!(refusal(&division(&[group(99, &[0])])), ProgramError::Shares(99));
    assert_eq!(refusal(&division(&[group(u32::MAX, &[0]), group(101, &[0])])), ProgramError::Shares((1 << 32) + 100));
    assert_eq!(refusal(&division(&[group(100, &[])])), ProgramError::EmptyGroup(0));
    assert_eq!(refusal(&division(&[group(100, &[0, 2])])), ProgramError::NotListening(SlotIndex(2)));
    let ruled =
        |group| Division { rules: vec![("1.2.3.4".parse().unwrap(), group)], ..division(&[self::group(100, &[0])]) };
    assert_eq!(refusal(&ruled(1)), ProgramError::NoSuchGroup(1));
    let mut empty = ruled(1);
    empty.groups.push(group(0, &[]));
    assert_eq!(refusal(&empty), ProgramError::EmptyGroup(1));
    let client =
        Division { clients: vec![("1.2.3.4:5".parse().unwrap(), SlotIndex(7))], ..division(&[group(100, &[0])]) };
    assert_eq!(refusal(&client), ProgramError::NotListening(SlotIndex(7)));
}

#[test]
fn clients_move_only_from_old_to_new() {
    let clients: Vec<Packet> = (0..1000)
        .map(|n| match n % 2 {
            0 => SocketAddr::new(IpAddr::V4((0x7f00_0001 + n).into()), 1),
            _ => SocketAddr::new(IpAddr::V6((0x2001_0db8u128 << 96 | u128::from(n)).into()), 1),
        })
        .map(|client| Packet { client, more: 0 })
        .collect();
    let new_at = |percent| {
        let groups = [group(100 - percent, &[0]), group(percent, &[1])];
        let division = Division { affinity: Affinity::Source, ..division(&groups) };
        let program = program(&division, Family::Dual, 2);
        clients.iter().map(|client| decide(&program, client, || unreachable!()) == 1).collect::<Vec<_>>()
    };
    let mut before = new_at(0);
    for percent in 1..=100 {
        let now = new_at(percent);
        assert!(before.iter().zip(&now).all(|(before, now)| now >= before));
        assert!(within_binomial(now.iter().filter(|new| **new).count(), 1000, percent));
        before = now;
    }
    assert!(before.iter().all(|new| *new));
}

/// What a division says of a packet, worked out from its description: the slots that it may go to.
fn expected(division: &Division, packet: &Packet) -> Vec<SlotIndex> {
    let (ip, port) = (packet.client.ip().to_canonical(), packet.client.port());
    let has_port = ip.is_ipv4() || packet.more == 0;
    let is = |client: &SocketAddr| client.ip().to_canonical() == ip && client.port() == port && has_port;
    if let Some((_, slot)) = division.clients.iter().find(|(client, _)| is(client)) {
        return vec![*slot];
    }
    if let Some((_, group)) = division.rules.iter().find(|(network, _)| network.contains(ip)) {
        return division.groups[*group].slots.clone();
    }
    let mut upper = 0;
    let mut chosen = division.groups.iter().filter(|group| {
        let lower = upper;
        upper += group.percent;
        match division.affinity {
            Affinity::Source => (lower..upper).contains(&percentile(ip)),
            Affinity::Random => group.percent > 0,
        }
    });
    let slots = chosen.by_ref().flat_map(|group| group.slots.clone());
    slots.collect()
}

/// Addresses from a small world, so that they meet.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u32..16).prop_map(|n| IpAddr::V4((0x0a00_0000 + n * 0x0001_0001).into())),
        (0u128..16).prop_map(|n| IpAddr::V6((0x2001_0db8u128 << 96 | n << 60 | n).into())),
        (0u32..4).prop_map(|n| IpAddr::V6(Ipv4Addr::from(0x0a00_0000 + n).to_ipv6_mapped())),
        any::<u32>().prop_map(|v4| IpAddr::V4(v4.into())),
        any::<u128>().prop_map(|v6| IpAddr::V6(v6.into())),
    ]
}

fn network() -> impl Strategy<Value = Network> {
    (address(), prop_oneof![0u8..=128, prop::sample::select(vec![8, 24, 32])]).prop_map(|(address, prefix)| {
        let prefix = if address.is_ipv4() { prefix % 33 } else { prefix };
        match Network::new(address, prefix) {
            Ok(network) | Err(super::super::NetworkError::HostBits { network, .. }) => network,
            Err(error) => panic!("{error}"),
        }
    })
}

prop_compose! {
    fn divisions()(
        cuts in proptest::collection::vec(0u32..=100, 0..4),
        slots in proptest::collection::vec(proptest::collection::vec(0usize..8, 1..5), 5),
        clients in proptest::collection::vec((address(), 0u16..4, 0usize..8), 0..80),
        rules in proptest::collection::vec((network(), any::<prop::sample::Index>()), 0..80),
        hashed in any::<bool>(),
    ) -> Division {
        let mut cuts = cuts;
        cuts.sort_unstable();
        cuts.push(100);
        let mut before = 0;
        let groups: Vec<_> = cuts.into_iter().zip(&slots).map(|(cut, slots)| {
            let percent = cut - before;
            before = cut;
            group(percent, slots)
        }).collect();
        let rules = rules.into_iter().map(|(network, place)| (network, place.index(groups.len()))).collect();
        Division {
            clients: clients.into_iter().map(|(ip, port, slot)| (SocketAddr::new(ip, port), SlotIndex(slot))).collect(),
            rules,
            groups,
            affinity: if hashed { Affinity::Source } else { Affinity::Random },
        }
    }
}

proptest! {
    #[test]
    fn every_packet_goes_where_the_division_says(
        division in divisions(),
        order in Just((0..8).map(SlotIndex).collect::<Vec<_>>()).prop_shuffle(),
        packets in proptest::collection::vec((address(), 0u16..4, 0u8..=10), 1..40),
        seed in any::<u64>(),
    ) {
        let order = Order::from_slots(order);
        let mut random = numbers(seed);
        let program = |family| Program::new(&division, family, &order).unwrap();
        let (v4, v6, dual) = (program(Family::V4), program(Family::V6), program(Family::Dual));
        for (ip, port, more) in packets {
            let client = SocketAddr::new(ip.to_canonical(), port);
            let packet = Packet { client, more };
            for program in [if client.is_ipv4() { &v4 } else { &v6 }, &dual] {
                let index = run(program.instructions(), &packet.bytes(), &mut random);
                let index = index.expect("no load beyond the packet");
                let slot = order.slots().get(index as usize).expect("an index in the group");
                prop_assert!(expected(&division, &packet).contains(slot), "{packet:?}: {slot}");
            }
        }
    }
}
