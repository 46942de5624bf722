//! Classic BPF with labels, made into instructions whose jumps are as short as they can be.
//!
//! A conditional jump reaches 255 instructions, and only forward; an unconditional one reaches any
//! (Documentation/networking/filter.rst). So a conditional jump that has to reach further becomes two instructions.

use libc::{BPF_ABS, BPF_ALU, BPF_B, BPF_H, BPF_IND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD};
use libc::{BPF_LDX, BPF_MEM, BPF_MISC, BPF_MSH, BPF_RET, BPF_ST, BPF_TAX, BPF_W, BPF_X, BPF_XOR};
use libc::{SKF_AD_OFF, SKF_AD_RANDOM, SKF_NET_OFF};

/// What the kernel takes at most (BPF_MAXINSNS in linux/bpf_common.h).
pub(super) const MAX_LEN: usize = 4096;

/// BPF_A: return what is in the accumulator.
const RETURN_A: u32 = BPF_RET | 0x10;

/// One instruction, as the kernel has it (struct sock_filter).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) jt: u8,
    pub(super) jf: u8,
    pub(super) k: u32,
}

/// A place in the program, named before it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

/// What a conditional jump asks of the accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Equal(u32),
    AtLeast(u32),
    /// Any of these bits.
    Any(u32),
}

/// A word of the scratch memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell(pub(super) u32);

enum Line {
    Plain { code: u32, k: u32 },
    Here(Label),
    Branch { test: Test, when: bool, to: Label },
    Jump(Label),
}

/// A program that is being written. Labels are placed after the jumps to them.
#[derive(Default)]
pub(super) struct Assembly {
    lines: Vec<Line>,
    labels: usize,
}

/// The program would have this many instructions, more than the kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong(pub(super) usize);

impl Assembly {
    pub(super) fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels - 1)
    }

    pub(super) fn here(&mut self, label: Label) {
        self.lines.push(Line::Here(label));
    }

    /// Jumps where the accumulator passes the test.
    pub(super) fn jump_if(&mut self, test: Test, to: Label) {
        self.lines.push(Line::Branch { test, when: true, to });
    }

    /// Jumps where it does not.
    pub(super) fn jump_unless(&mut self, test: Test, to: Label) {
        self.lines.push(Line::Branch { test, when: false, to });
    }

    pub(super) fn jump(&mut self, to: Label) {
        self.lines.push(Line::Jump(to));
    }

    /// A byte of the network header, or of what follows it.
    pub(super) fn load_byte(&mut self, offset: u32) {
        self.put(BPF_LD | BPF_B | BPF_ABS, network(offset));
    }

    /// Two bytes of it, in the network's order.
    pub(super) fn load_half(&mut self, offset: u32) {
        self.put(BPF_LD | BPF_H | BPF_ABS, network(offset));
    }

    /// Four bytes of it.
    pub(super) fn load_word(&mut self, offset: u32) {
        self.put(BPF_LD | BPF_W | BPF_ABS, network(offset));
    }

    /// Two bytes of what follows an IPv4 header, options or not. Overwrites the index register.
    pub(super) fn load_half_after_ipv4(&mut self, offset: u32) {
        self.put(BPF_LDX | BPF_B | BPF_MSH, network(0));
        self.put(BPF_LD | BPF_H | BPF_IND, network(offset));
    }

    /// A byte of what the program is given as the packet: for a filter of a TCP socket, its TCP header.
    pub(super) fn load_packet_byte(&mut self, offset: u32) {
        self.put(BPF_LD | BPF_B | BPF_ABS, offset);
    }

    /// 32 random bits.
    pub(super) fn load_random(&mut self) {
        self.put(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF.wrapping_add(SKF_AD_RANDOM).cast_unsigned());
    }

    pub(super) fn recall(&mut self, cell: Cell) {
        self.put(BPF_LD | BPF_MEM, cell.0);
    }

    pub(super) fn keep(&mut self, cell: Cell) {
        self.put(BPF_ST, cell.0);
    }

    /// Arithmetic with a constant: BPF_ADD, BPF_MUL and so on.
    pub(super) fn compute(&mut self, operation: u32, with: u32) {
        self.put(BPF_ALU | operation | BPF_K, with);
    }

    /// Copies the accumulator to the index register.
    pub(super) fn copy_to_index(&mut self) {
        self.put(BPF_MISC | BPF_TAX, 0);
    }

    pub(super) fn xor_index(&mut self) {
        self.put(BPF_ALU | BPF_XOR | BPF_X, 0);
    }

    pub(super) fn give(&mut self, value: u32) {
        self.put(BPF_RET | BPF_K, value);
    }

    pub(super) fn give_accumulator(&mut self) {
        self.put(RETURN_A, 0);
    }

    fn put(&mut self, code: u32, k: u32) {
        self.lines.push(Line::Plain { code, k });
    }

    pub(super) fn finish(self) -> Result<Vec<Instruction>, TooLong> {
        let mut long = vec![false; self.lines.len()];
        // Each round only lengthens jumps, so it comes to an end.
        let layout = loop {
            let layout = Layout::of(&self.lines, &long, self.labels);
            let mut grew = false;
            for (place, line) in self.lines.iter().enumerate() {
                if let Line::Branch { to, .. } = line
                    && !long[place]
                    && u8::try_from(layout.distance(place, *to)).is_err()
                {
                    long[place] = true;
                    grew = true;
                }
            }
            if !grew {
                break layout;
            }
        };
        if layout.len > MAX_LEN {
            return Err(TooLong(layout.len));
        }
        let mut program = Vec::with_capacity(layout.len);
        for (place, line) in self.lines.iter().enumerate() {
            line.emit(place, long[place], &layout, &mut program);
        }
        Ok(program)
    }
}

impl Line {
    fn emit(&self, place: usize, long: bool, layout: &Layout, program: &mut Vec<Instruction>) {
        let plain = |code: u32, k| Instruction { code: code as u16, jt: 0, jf: 0, k };
        match *self {
            Self::Here(_) => {}
            Self::Plain { code, k } => program.push(plain(code, k)),
            Self::Jump(to) => program.push(plain(BPF_JMP | BPF_JA, layout.distance(place, to) as u32)),
            Self::Branch { test, when, to } => {
                let (operation, k) = match test {
                    Test::Equal(k) => (BPF_JEQ, k),
                    Test::AtLeast(k) => (BPF_JGE, k),
                    Test::Any(k) => (BPF_JSET, k),
                };
                let distance = layout.distance(place, to);
                // A long one skips the jump behind it where it is not to be taken.
                let (jump, step) = if long { (0, 1) } else { (distance as u8, 0) };
                let (jt, jf) = if when { (jump, step) } else { (step, jump) };
                program.push(Instruction { code: (BPF_JMP | operation | BPF_K) as u16, jt, jf, k });
                if long {
                    program.push(plain(BPF_JMP | BPF_JA, distance as u32 - 1));
                }
            }
        }
    }
}

/// Where everything lies.
struct Layout {
    lines: Vec<usize>,
    labels: Vec<usize>,
    len: usize,
}

impl Layout {
    fn of(lines: &[Line], long: &[bool], labels: usize) -> Self {
        let mut layout = Self { lines: Vec::with_capacity(lines.len()), labels: vec![0; labels], len: 0 };
        for (line, long) in lines.iter().zip(long) {
            layout.lines.push(layout.len);
            match line {
                Line::Here(label) => layout.labels[label.0] = layout.len,
                Line::Plain { .. } | Line::Jump(_) => layout.len += 1,
                Line::Branch { .. } => layout.len += 1 + usize::from(*long),
            }
        }
        layout
    }

    /// How many instructions a jump skips.
    fn distance(&self, from: usize, to: Label) -> usize {
        self.labels[to.0].checked_sub(self.lines[from] + 1).expect("a label is placed after the jumps to it")
    }
}

/// An offset from the network header, wherever the packet was advanced to.
fn network(offset: u32) -> u32 {
    SKF_NET_OFF.cast_unsigned().wrapping_add(offset)
}
