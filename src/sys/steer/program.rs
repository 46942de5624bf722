//! From a [`Division`] to the program that the kernel runs for each new connection.
//!
//! The kernel hands it the segment behind its TCP header, so the headers are reached from SKF_NET_OFF. A load beyond
//! the packet would end the program with 0, whoever has that index; there is none: whatever reaches a listener has a
//! whole IP and TCP header in its linear part (`tcp_v4_rcv` pulls it), and only they are read. The version nibble tells
//! IPv4 from IPv6, where both can come.
//!
//! - The source port of IPv4 stands behind the options, if there are any: at four times the header's length field.
//! - IPv6 extension headers are not walked: a client is matched by its port only where TCP follows the IPv6 header
//!   itself, as it does for every prober of ours. Networks and affinity need only the address, and always apply.
//! - An index beyond the group makes the kernel hash over all of it (`reuseport_select_sock`), so every path ends in an
//!   index that the order has.
//!
//! ```text
//! version ── v4: clients, rules, affinity ──┬─ a client ─────────────> its slot
//!         └─ v6: clients, rules, affinity ──┼─ a rule ───────┐
//!                                           └─ hash or rand ─┴ group ─ rand ─> one of its slots
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libc::{BPF_ADD, BPF_AND, BPF_MOD, BPF_MUL, BPF_RSH};

use super::assembly::{Assembly, Cell, Instruction, Label, MAX_LEN, Test, TooLong};
use super::division::{FACTORS, SHIFTS, words};
use super::{Affinity, Division, Order, SlotIndex};

/// Where things stand in the headers, bytes (RFC 791, RFC 8200).
const IPV4_SOURCE: u32 = 12;
const IPV6_NEXT_HEADER: u32 = 6;
const IPV6_SOURCE: u32 = 8;
const IPV6_LEN: u32 = 40;

/// The first word of the source address; those of IPv6 follow.
const ADDRESS: Cell = Cell(0);
const PORT: Cell = Cell(4);

/// What can arrive at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 alone.
    V4,
    /// IPv6 alone.
    V6,
    /// Both, at an IPv6 wildcard.
    Dual,
}

/// A program that divides new connections (SO_ATTACH_REUSEPORT_CBPF, socket(7)).
#[derive(Clone, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

/// A division that no program can be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// The shares of the groups are not 100 together.
    #[error("the shares add up to {0} percent")]
    Shares(u64),
    /// A rule names a group that there is not.
    #[error("there is no group {0}")]
    NoSuchGroup(usize),
    /// A group gets connections and has no slots.
    #[error("group {0} has no slots")]
    EmptyGroup(usize),
    /// It does not listen, or the row does not have it.
    #[error("slot {0} does not listen")]
    NotListening(SlotIndex),
    /// Too many rules, clients and slots together.
    #[error("it takes {0} instructions, {MAX_LEN} are the kernel's limit")]
    TooLong(usize),
}

impl Program {
    /// The program for slots in this order.
    ///
    /// # Errors
    /// Where the division asks for what cannot be.
    pub fn new(division: &Division, family: Family, order: &Order) -> Result<Self, ProgramError> {
        let shares: u64 = division.groups.iter().map(|group| u64::from(group.percent)).sum();
        if shares != 100 {
            return Err(ProgramError::Shares(shares));
        }
        let choose = Choose::by(division);
        let mut code = Assembly::default();
        let (choose_label, weigh) = (code.label(), code.label());
        let writer = Writer {
            division,
            order,
            code,
            choose,
            choose_label,
            weigh,
            groups: vec![None; division.groups.len()],
            slots: BTreeMap::new(),
        };
        writer.write(family)
    }

    /// How many instructions it has.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no program is empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn instructions(&self) -> &[Instruction] {
        &self.0
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Program({} instructions)", self.len())
    }
}

/// How a group is chosen where nothing else has decided.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choose {
    /// There is but one.
    Only(usize),
    Random,
    Hash,
}

impl Choose {
    fn by(division: &Division) -> Self {
        match division.groups.iter().position(|group| group.percent == 100) {
            Some(only) => Self::Only(only),
            None if division.affinity == Affinity::Source => Self::Hash,
            None => Self::Random,
        }
    }
}

struct Writer<'a> {
    division: &'a Division,
    order: &'a Order,
    code: Assembly,
    choose: Choose,
    /// Where a group is chosen without a look at the packet.
    choose_label: Label,
    /// Where one is chosen by 32 bits in the accumulator.
    weigh: Label,
    /// Where each group that is used begins.
    groups: Vec<Option<Label>>,
    /// Where each index that is used is returned.
    slots: BTreeMap<u32, Label>,
}

impl Writer<'_> {
    fn write(mut self, family: Family) -> Result<Program, ProgramError> {
        match family {
            Family::V4 => self.ipv4()?,
            Family::V6 => self.ipv6()?,
            Family::Dual => self.either()?,
        }
        self.choose()?;
        for place in 0..self.groups.len() {
            if let Some(label) = self.groups[place] {
                self.group(place, label)?;
            }
        }
        for (index, label) in &self.slots {
            self.code.here(*label);
            self.code.give(*index);
        }
        self.code.finish().map(Program).map_err(|TooLong(length)| ProgramError::TooLong(length))
    }

    fn either(&mut self) -> Result<(), ProgramError> {
        let (other, v6) = (self.code.label(), self.code.label());
        self.code.load_byte(0);
        self.code.compute(BPF_AND, 0xf0);
        self.code.jump_if(Test::Equal(0x60), v6);
        self.code.jump_unless(Test::Equal(0x40), other);
        self.ipv4()?;
        self.code.here(v6);
        self.ipv6()?;
        // Neither: nothing in it can be read.
        self.code.here(other);
        Ok(())
    }

    fn ipv4(&mut self) -> Result<(), ProgramError> {
        let division = self.division;
        let clients: Vec<_> = division
            .clients
            .iter()
            .filter_map(|(client, slot)| match client.ip().to_canonical() {
                IpAddr::V4(v4) => Some((v4, client.port(), *slot)),
                IpAddr::V6(_) => None,
            })
            .collect();
        let rules: Vec<_> = division
            .rules
            .iter()
            .filter_map(|(network, group)| match network.address() {
                IpAddr::V4(v4) => Some((v4, network.prefix(), *group)),
                IpAddr::V6(_) => None,
            })
            .collect();
        if !clients.is_empty() || !rules.is_empty() || self.choose == Choose::Hash {
            self.code.load_word(IPV4_SOURCE);
            self.code.keep(ADDRESS);
        }
        self.ipv4_clients(&clients)?;
        self.ipv4_rules(&rules)?;
        if self.choose == Choose::Hash {
            self.code.recall(ADDRESS);
            self.mix();
            self.code.jump(self.weigh);
        } else {
            self.code.jump(self.choose_label);
        }
        Ok(())
    }

    fn ipv4_clients(&mut self, clients: &[(Ipv4Addr, u16, SlotIndex)]) -> Result<(), ProgramError> {
        if !clients.is_empty() {
            self.code.load_half_after_ipv4(0);
            self.code.keep(PORT);
        }
        for (address, port, slot) in clients {
            let (next, found) = (self.code.label(), self.slot(*slot)?);
            self.code.recall(PORT);
            self.code.jump_unless(Test::Equal((*port).into()), next);
            self.code.recall(ADDRESS);
            self.code.jump_if(Test::Equal(address.to_bits()), found);
            self.code.here(next);
        }
        Ok(())
    }

    fn ipv4_rules(&mut self, rules: &[(Ipv4Addr, u8, usize)]) -> Result<(), ProgramError> {
        // What the accumulator still has from the rule before.
        let mut loaded = None;
        for (address, prefix, group) in rules {
            let (found, mask) = (self.group_label(*group)?, mask((*prefix).into()));
            if mask == 0 {
                self.code.jump(found);
                continue;
            }
            if loaded != Some(mask) {
                self.code.recall(ADDRESS);
                self.masked(mask);
                loaded = Some(mask);
            }
            self.code.jump_if(Test::Equal(address.to_bits()), found);
        }
        Ok(())
    }

    fn ipv6(&mut self) -> Result<(), ProgramError> {
        let division = self.division;
        let clients: Vec<_> = division
            .clients
            .iter()
            .filter_map(|(client, slot)| match client.ip().to_canonical() {
                IpAddr::V6(v6) => Some((v6, client.port(), *slot)),
                IpAddr::V4(_) => None,
            })
            .collect();
        let rules: Vec<_> = division
            .rules
            .iter()
            .filter_map(|(network, group)| match network.address() {
                IpAddr::V6(v6) => Some((v6, network.prefix(), *group)),
                IpAddr::V4(_) => None,
            })
            .collect();
        if !clients.is_empty() || !rules.is_empty() || self.choose == Choose::Hash {
            for word in 0..4 {
                self.code.load_word(IPV6_SOURCE + 4 * word);
                self.code.keep(Cell(ADDRESS.0 + word));
            }
        }
        self.ipv6_clients(&clients)?;
        for (address, prefix, group) in rules {
            let (next, found) = (self.code.label(), self.group_label(group)?);
            self.ipv6_address(address, prefix, next);
            self.code.jump(found);
            self.code.here(next);
        }
        if self.choose == Choose::Hash {
            self.code.recall(ADDRESS);
            self.mix();
            for word in 1..4 {
                self.code.copy_to_index();
                self.code.recall(Cell(ADDRESS.0 + word));
                self.code.xor_index();
                self.mix();
            }
            self.code.jump(self.weigh);
        } else {
            self.code.jump(self.choose_label);
        }
        Ok(())
    }

    fn ipv6_clients(&mut self, clients: &[(Ipv6Addr, u16, SlotIndex)]) -> Result<(), ProgramError> {
        if clients.is_empty() {
            return Ok(());
        }
        let end = self.code.label();
        self.code.load_byte(IPV6_NEXT_HEADER);
        self.code.jump_unless(Test::Equal(libc::IPPROTO_TCP as u32), end);
        self.code.load_half(IPV6_LEN);
        self.code.keep(PORT);
        for (address, port, slot) in clients {
            let (next, found) = (self.code.label(), self.slot(*slot)?);
            self.code.recall(PORT);
            self.code.jump_unless(Test::Equal((*port).into()), next);
            self.ipv6_address(*address, 128, next);
            self.code.jump(found);
            self.code.here(next);
        }
        self.code.here(end);
        Ok(())
    }

    /// Goes on where the address lies in the network, jumps where it does not.
    fn ipv6_address(&mut self, address: Ipv6Addr, prefix: u8, otherwise: Label) {
        for (place, word) in (0u32..).zip(words(address)) {
            let mask = mask(u32::from(prefix).saturating_sub(32 * place));
            if mask != 0 {
                self.code.recall(Cell(ADDRESS.0 + place));
                self.masked(mask);
                self.code.jump_unless(Test::Equal(word), otherwise);
            }
        }
    }

    fn masked(&mut self, mask: u32) {
        if mask != u32::MAX {
            self.code.compute(BPF_AND, mask);
        }
    }

    /// [`super::percentile`]'s mixing of the accumulator, in its place.
    fn mix(&mut self) {
        let mut factors = FACTORS.into_iter();
        for shift in SHIFTS {
            self.code.copy_to_index();
            self.code.compute(BPF_RSH, shift);
            self.code.xor_index();
            if let Some(factor) = factors.next() {
                self.code.compute(BPF_MUL, factor);
            }
        }
    }

    fn choose(&mut self) -> Result<(), ProgramError> {
        self.code.here(self.choose_label);
        if let Choose::Only(group) = self.choose {
            let only = self.group_label(group)?;
            self.code.jump(only);
            return Ok(());
        }
        self.code.load_random();
        self.code.here(self.weigh);
        self.code.compute(BPF_MOD, 100);
        let mut below = 0;
        for (place, group) in self.division.groups.iter().enumerate().filter(|(_, group)| group.percent > 0) {
            below += group.percent;
            let label = self.group_label(place)?;
            if below < 100 {
                self.code.jump_unless(Test::AtLeast(below), label);
            } else {
                self.code.jump(label);
            }
        }
        Ok(())
    }

    /// An equal share for each slot.
    fn group(&mut self, place: usize, label: Label) -> Result<(), ProgramError> {
        let division = self.division;
        let slots = &division.groups[place].slots;
        let indexes = slots.iter().map(|slot| self.index(*slot)).collect::<Result<Vec<_>, _>>()?;
        self.code.here(label);
        let (&first, rest) = indexes.split_first().ok_or(ProgramError::EmptyGroup(place))?;
        if rest.is_empty() {
            self.code.give(first);
            return Ok(());
        }
        self.code.load_random();
        self.code.compute(BPF_MOD, indexes.len() as u32);
        if indexes.iter().zip(first..).all(|(index, next)| *index == next) {
            self.code.compute(BPF_ADD, first);
            self.code.give_accumulator();
            return Ok(());
        }
        for (drawn, slot) in (1u32..).zip(&slots[1..]) {
            let found = self.slot(*slot)?;
            self.code.jump_if(Test::Equal(drawn), found);
        }
        self.code.give(first);
        Ok(())
    }

    fn group_label(&mut self, place: usize) -> Result<Label, ProgramError> {
        let group = self.division.groups.get(place).ok_or(ProgramError::NoSuchGroup(place))?;
        if group.slots.is_empty() {
            return Err(ProgramError::EmptyGroup(place));
        }
        Ok(*self.groups[place].get_or_insert_with(|| self.code.label()))
    }

    fn slot(&mut self, slot: SlotIndex) -> Result<Label, ProgramError> {
        let index = self.index(slot)?;
        Ok(*self.slots.entry(index).or_insert_with(|| self.code.label()))
    }

    fn index(&self, slot: SlotIndex) -> Result<u32, ProgramError> {
        self.order.index_of(slot).ok_or(ProgramError::NotListening(slot))
    }
}

/// The upper bits of a word.
fn mask(prefix: u32) -> u32 {
    !u32::MAX.checked_shr(prefix).unwrap_or(0)
}

#[cfg(test)]
mod tests;
