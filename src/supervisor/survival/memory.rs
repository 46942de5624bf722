//! Where the document is kept: a memfd in two halves, so that a write that is cut off leaves the one before.
//!
//! ```text
//!  0      4096                 4096 + HALF
//!  ├ head ┼ half: header, text ┼ half: header, text ┤      sparse: only what is written takes memory
//! ```
//!
//! A half counts when its checksum fits; of two that count, the one with the higher number. The head counts how often
//! in a row a successor has died at once: it is apart, so that it can be read even when the document cannot.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

/// The longest document, bytes.
const HALF: u64 = 16 << 20;
const HEAD: u64 = 4096;
const HEADER: usize = 24;
/// What a state begins with.
const MAGIC: [u8; 8] = *b"zdsup\0st";

/// The memfd.
#[derive(Debug)]
pub(crate) struct Memory {
    file: File,
    /// How many documents have been written.
    written: u64,
}

impl Memory {
    /// An empty one.
    pub(crate) fn new() -> io::Result<Self> {
        let file = File::from(memfd_create(c"zdsup-state", MFdFlags::MFD_CLOEXEC)?);
        file.write_all_at(&MAGIC, 0)?;
        Ok(Self { file, written: 0 })
    }

    /// A predecessor's, and the document in it.
    pub(crate) fn open(fd: OwnedFd) -> io::Result<(Self, Vec<u8>)> {
        let file = File::from(fd);
        let mut magic = [0; MAGIC.len()];
        file.read_exact_at(&mut magic, 0)?;
        if magic != MAGIC {
            return Err(invalid("it is not a supervisor's state"));
        }
        let newest = [0, 1].into_iter().filter_map(|half| read_half(&file, half)).max_by_key(|(number, _)| *number);
        let (written, text) = newest.ok_or_else(|| invalid("neither half of it is whole"))?;
        Ok((Self { file, written }, text))
    }

    /// The same one, under another descriptor.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, written: self.written })
    }

    /// Takes the place of the document before.
    pub(crate) fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let number = self.written + 1;
        if (HEADER + text.len()) as u64 > HALF {
            return Err(invalid("it is longer than 16 MiB"));
        }
        let mut header = [0; HEADER];
        let words = [number, text.len() as u64, u64::from(checksum(number, text))];
        for (place, word) in header.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        // The header last: until then the half before is the newest.
        let start = start_of(number % 2);
        self.file.write_all_at(text, start + HEADER as u64)?;
        self.file.write_all_at(&header, start)?;
        self.written = number;
        Ok(())
    }

    /// How many successors in a row have died before [`Self::set_deaths`] was told of zero.
    pub(crate) fn deaths(&self) -> u32 {
        let mut count = [0; 4];
        self.file.read_exact_at(&mut count, MAGIC.len() as u64).map_or(0, |()| u32::from_le_bytes(count))
    }

    /// Notes it.
    pub(crate) fn set_deaths(&self, count: u32) -> io::Result<()> {
        self.file.write_all_at(&count.to_le_bytes(), MAGIC.len() as u64)
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<Memory> for OwnedFd {
    fn from(memory: Memory) -> Self {
        memory.file.into()
    }
}

fn start_of(half: u64) -> u64 {
    HEAD + half * HALF
}

fn read_half(file: &File, half: u64) -> Option<(u64, Vec<u8>)> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, start_of(half)).ok()?;
    let word = |place: usize| header[place * 8..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    let (number, length, sum) = (word(0), word(1), word(2));
    if number == 0 || length > HALF - HEADER as u64 {
        return None;
    }
    let mut text = vec![0; usize::try_from(length).ok()?];
    file.read_exact_at(&mut text, start_of(half) + HEADER as u64).ok()?;
    (u64::from(checksum(number, &text)) == sum).then_some((number, text))
}

fn checksum(number: u64, text: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(text);
    hasher.finalize()
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(memory: &Memory) -> io::Result<(Memory, Vec<u8>)> {
        Memory::open(memory.file.try_clone().expect("a descriptor").into())
    }

    #[test]
    fn the_newest_is_read() {
        let mut memory = Memory::new().expect("a memfd");
        assert!(reopened(&memory).is_err(), "nothing is written yet");
        for text in ["first", "a much longer second", "3"] {
            memory.write(text.as_bytes()).expect("room");
            assert_eq!(reopened(&memory).expect("whole").1, text.as_bytes());
        }
        let (mut second, _) = reopened(&memory).expect("whole");
        second.write(b"4").expect("room");
        assert_eq!(reopened(&memory).expect("whole").1, b"4");
    }

    #[test]
    fn a_torn_write_leaves_the_one_before() {
        let mut memory = Memory::new().expect("a memfd");
        memory.write(b"first").expect("room");
        memory.write(b"second").expect("room");
        // Whatever is cut off or spoilt of the newer half.
        let start = start_of(0);
        for place in 0..(HEADER + "second".len()) as u64 {
            let mut byte = [0];
            memory.file.read_exact_at(&mut byte, start + place).expect("written");
            memory.file.write_all_at(&[byte[0] ^ 0x10], start + place).expect("room");
            let found = reopened(&memory).expect("one is whole").1;
            assert_eq!(found, b"first", "byte {place}");
            memory.file.write_all_at(&byte, start + place).expect("room");
        }
        assert_eq!(reopened(&memory).expect("whole").1, b"second");
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let nonsense = File::from(memfd_create(c"nonsense", MFdFlags::MFD_CLOEXEC).expect("a memfd"));
        nonsense.write_all_at(&[7; 100], 0).expect("room");
        assert!(Memory::open(nonsense.into()).is_err());
        assert!(Memory::open(File::open("/dev/null").expect("it exists").into()).is_err());
    }

    #[test]
    fn deaths_are_counted_apart() {
        let memory = Memory::new().expect("a memfd");
        assert_eq!(memory.deaths(), 0);
        memory.set_deaths(3).expect("room");
        assert!(reopened(&memory).is_err());
        assert_eq!(memory.deaths(), 3);
    }
}
