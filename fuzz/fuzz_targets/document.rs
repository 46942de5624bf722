//! No state that a predecessor left breaks its reader, and a refusal is a sentence.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;

use libfuzzer_sys::fuzz_target;
use nix::sys::memfd::{MFdFlags, memfd_create};

/// What a supervisor has written.
const WRITTEN: &[u8] = include_bytes!("../../src/supervisor/survival/fixtures/1.json");

const MAGIC: &[u8] = b"zdsup\0st";
/// Where the halves begin.
const HALVES: [u64; 2] = [4096, 4096 + (16 << 20)];

fuzz_target!(|bytes: &[u8]| {
    // As the two halves themselves.
    let (one, other) = bytes.split_at(bytes.len() / 2);
    check(&[(0, MAGIC), (HALVES[0], one), (HALVES[1], other)]);
    // As a document in a half whose checksum fits, beside whatever is in the other.
    check(&[(0, MAGIC), (HALVES[0], other), (HALVES[1], &half(1, bytes))]);
    // As a piece of a document: where it begins, how much it takes the place of, and what is there then.
    if let [low, high, length, piece @ ..] = bytes {
        let start = usize::from(u16::from_le_bytes([*low, *high])) % WRITTEN.len();
        let end = (start + usize::from(*length)).min(WRITTEN.len());
        let document = [&WRITTEN[..start], piece, &WRITTEN[end..]].concat();
        check(&[(0, MAGIC), (HALVES[0], &half(2, &document))]);
    }
});

/// A whole half: its number, the length and the checksum of its text, and the text.
fn half(number: u64, text: &[u8]) -> Vec<u8> {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(text);
    let header = [number, text.len() as u64, u64::from(hasher.finalize())].map(u64::to_le_bytes);
    [header.as_flattened(), text].concat()
}

fn check(parts: &[(u64, &[u8])]) {
    let state = File::from(memfd_create(c"state", MFdFlags::MFD_CLOEXEC).expect("a memfd can be made"));
    for (place, bytes) in parts {
        state.write_all_at(bytes, *place).expect("there is room");
    }
    if let Err(error) = zdsup::supervisor::check_state(state.into()) {
        assert!(error.starts_with("the state cannot be "), "{error}");
    }
}
