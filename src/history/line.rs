//! The form of a line: `{"crc":"8 hex digits",` and then the members that this is the checksum of.
//!
//! It is JSON, for whoever looks into the file with other tools. The checksum is CRC-32 (that of Ethernet) over all bytes
//! behind the first comma, without the newline.

use serde::{Deserialize, Serialize};

use super::record::{Begun, Drained, UpgradeRecord};

/// The longest line that is written or read, its newline included, bytes.
pub const LINE_MAX: usize = 64 * 1024;

const HEAD: &[u8] = b"{\"crc\":\"";
const DIGITS: usize = 8;
const TAIL: &[u8] = b"\",";

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// A generation begins to exist.
    Begun(Begun),
    /// An upgrade has its verdict.
    Upgrade(Box<UpgradeRecord>),
    /// What an upgrade ended is gone.
    Drained(Drained),
}

/// Why a line says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is torn, or was never one.
    Damaged,
    /// It is whole, and of another version of zdsup.
    Unknown,
}

impl Line {
    /// With its newline. `None`: it is longer than any line may be.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let object = serde_json::to_vec(self).ok()?;
        let members = object.strip_prefix(b"{")?;
        let digits = format!("{:08x}", crc32fast::hash(members));
        let line = [HEAD, digits.as_bytes(), TAIL, members, b"\n"].concat();
        (line.len() <= LINE_MAX).then_some(line)
    }

    /// Without its newline.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn decode(line: &[u8]) -> Result<Self, Unread> {
        let rest = line.strip_prefix(HEAD).ok_or(Unread::Damaged)?;
        let (digits, rest) = rest.split_at_checked(DIGITS).ok_or(Unread::Damaged)?;
        let members = rest.strip_prefix(TAIL).ok_or(Unread::Damaged)?;
        if digits != format!("{:08x}", crc32fast::hash(members)).as_bytes() {
            return Err(Unread::Damaged);
        }
        serde_json::from_slice(&[b"{", members].concat()).map_err(|_| Unread::Unknown)
    }
}
