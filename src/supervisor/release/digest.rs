//! What tells one release from another, in 32 hexadecimal digits: the same ones mean that the same is run.
//!
//! It is FNV-1a of 128 bits (RFC 9923), which is the same everywhere and for ever. It is proof against accidents, not
//! against somebody who looks for two releases with the same digest.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::Release;
use crate::sys::shim::FileIdentity;

/// What systemd sets anew at each start of the supervisor (systemd.exec(5)), whatever it runs.
const OF_A_START: [&str; 4] = ["INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "MEMORY_PRESSURE_WRITE"];

impl Release {
    /// Of what determines it: the executable as a file, arguments, environment, real working directory, who it runs as, and
    /// the config of its service. Not of files that the program reads by itself.
    pub(in crate::supervisor) fn digest(&self) -> String {
        let mut digest = Digest::new();
        let FileIdentity { dev, ino, size, mtime, ctime: _ } = self.program.program.identity;
        digest.text(&self.program.program.real);
        [dev, ino, size, mtime.cast_unsigned()].into_iter().for_each(|number| digest.number(number));
        digest.number(self.argv.len() as u64);
        self.argv.iter().for_each(|word| digest.text(word));
        let environment = self.environment.iter().filter(|(name, _)| !OF_A_START.iter().any(|one| name == one));
        digest.number(environment.clone().count() as u64);
        for (name, value) in environment {
            digest.text(name);
            digest.text(value);
        }
        digest.text(&self.directory);
        // Its maps are ordered, so it is always written in the same way; what cannot be written is not told apart.
        let rest = serde_json::to_vec(&(&self.identity, &self.service)).unwrap_or_default();
        digest.bytes(&rest);
        digest.finish()
    }
}

/// One in the making. Every part comes with its length, so that no two lists of parts are the same bytes.
struct Digest(u128);

impl Digest {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

    const fn new() -> Self {
        Self(Self::BASIS)
    }

    fn text(&mut self, text: impl AsRef<OsStr>) {
        self.bytes(text.as_ref().as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.take(bytes);
    }

    fn number(&mut self, number: u64) {
        self.take(&number.to_le_bytes());
    }

    fn take(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(Self::PRIME));
    }

    fn finish(self) -> String {
        format!("{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_specification() {
        let of = |bytes: &[u8]| {
            let mut digest = Digest::new();
            digest.take(bytes);
            digest.finish()
        };
        assert_eq!(of(b""), "6c62272e07bb014262b821756295c58d");
        assert_eq!(of(b"a"), "d228cb696f1a8caf78912b704e4a8964");
        assert_eq!(of(b"foobar"), "343e1662793c64bf6f0d3597ba446f18");
    }

    #[test]
    fn where_one_part_ends_and_the_next_begins_is_a_part_of_it() {
        let of = |parts: &[&str]| {
            let mut digest = Digest::new();
            parts.iter().for_each(|part| digest.text(part));
            digest.finish()
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["a", ""]), of(&["a"]));
    }
}
