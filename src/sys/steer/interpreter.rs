//! Classic BPF, interpreted as net/core/filter.c does: what a program says of a packet, for tests.

use libc::{BPF_ABS, BPF_ADD, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET};
use libc::{BPF_LD, BPF_LDX, BPF_MEM, BPF_MISC, BPF_MOD, BPF_MSH, BPF_MUL, BPF_RET, BPF_RSH, BPF_ST, BPF_TAX};
use libc::{BPF_W, BPF_X, BPF_XOR, SKF_AD_OFF, SKF_AD_RANDOM, SKF_NET_OFF};

use super::assembly::Instruction;

const MEM: u32 = BPF_MEM;
const RETURN_A: u32 = BPF_RET | 0x10;

/// A load beyond the packet, for which the kernel would say 0.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Beyond(pub(super) u32);

/// Runs a program over a packet from its network header on.
pub(super) fn run(program: &[Instruction], packet: &[u8], mut random: impl FnMut() -> u32) -> Result<u32, Beyond> {
    let (mut a, mut x, mut memory) = (0u32, 0u32, [None::<u32>; 16]);
    let mut at = 0;
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut branch = |taken: bool| at += usize::from(if taken { jt } else { jf });
        let load = |offset: u32, size: usize| {
            let start = offset.wrapping_sub(SKF_NET_OFF.cast_unsigned()) as usize;
            let bytes = packet.get(start..start.saturating_add(size)).ok_or(Beyond(offset))?;
            Ok(bytes.iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte)))
        };
        let code = u32::from(code);
        match code {
            _ if code == BPF_LD | BPF_W | BPF_ABS && k == SKF_AD_OFF.wrapping_add(SKF_AD_RANDOM).cast_unsigned() => {
                a = random();
            }
            _ if code == BPF_LD | BPF_W | BPF_ABS => a = load(k, 4)?,
            _ if code == BPF_LD | BPF_H | BPF_ABS => a = load(k, 2)?,
            _ if code == BPF_LD | BPF_B | BPF_ABS => a = load(k, 1)?,
            _ if code == BPF_LD | BPF_H | BPF_IND => a = load(k.wrapping_add(x), 2)?,
            _ if code == BPF_LDX | BPF_B | BPF_MSH => x = 4 * (load(k, 1)? & 0xf),
            _ if code == BPF_LD | MEM => a = memory[k as usize].expect("stored before it is loaded"),
            _ if code == BPF_ST => memory[k as usize] = Some(a),
            _ if code == BPF_MISC | BPF_TAX => x = a,
            _ if code == BPF_ALU | BPF_ADD => a = a.wrapping_add(k),
            _ if code == BPF_ALU | BPF_AND => a &= k,
            _ if code == BPF_ALU | BPF_MOD => a %= k,
            _ if code == BPF_ALU | BPF_MUL => a = a.wrapping_mul(k),
            _ if code == BPF_ALU | BPF_RSH => a >>= k,
            _ if code == BPF_ALU | BPF_XOR | BPF_X => a ^= x,
            _ if code == BPF_JMP | BPF_JA => at += k as usize,
            _ if code == BPF_JMP | BPF_JEQ => branch(a == k),
            _ if code == BPF_JMP | BPF_JGE => branch(a >= k),
            _ if code == BPF_JMP | BPF_JSET => branch(a & k != 0),
            _ if code == BPF_RET => return Ok(k),
            _ if code == RETURN_A => return Ok(a),
            _ => panic!("an instruction that is not used here: {code:#x}"),
        }
    }
}
