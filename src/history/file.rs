//! Appending to a history, and keeping it bounded.
//!
//! The file is opened for each writing and closed after it: it may be moved away or removed at any time, and a supervisor
//! holds no descriptor for it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::line::Line;
use super::read::{self, Numbers};
use super::record::Begun;

/// The size that a history does not exceed, bytes.
pub const SIZE_MAX: u64 = 4 << 20;

/// Appends lines, as far as possible all or none of them, and sees to it that they are on the disk. The directory is made
/// where it is missing.
///
/// # Errors
/// When they are not all on the disk.
pub fn append(path: &Path, lines: &[u8]) -> io::Result<()> {
    append_within(path, lines, SIZE_MAX)
}

pub(crate) fn append_within(path: &Path, lines: &[u8], size_max: u64) -> io::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut file = open_to_append(path)?;
    let mut size = file.metadata()?.len();
    if size.saturating_add(lines.len() as u64) > size_max && size > 0 {
        shorten(path, &mut file, size_max / 2)?;
        file = open_to_append(path)?;
        size = file.metadata()?.len();
    }
    // A line that was torn must not take the next one with it.
    let torn = size > 0 && last_byte(&mut file)? != b'\n';
    let text = if torn { [b"\n", lines].concat() } else { lines.to_vec() };
    let written = file.write_all(&text).and_then(|()| file.sync_data());
    if written.is_err() {
        // Where that fails, the reader skips what is left of it.
        let _ = file.set_len(size);
    }
    written
}

/// Opens a history to read it. Nothing but a regular file is one.
///
/// # Errors
/// Those of open(2); `InvalidInput` for what is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // A fifo would keep us waiting for a writer.
    checked(OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOFOLLOW).open(path)?)
}

fn open_to_append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600).custom_flags(O_NONBLOCK | O_NOFOLLOW);
    checked(options.open(path)?)
}

fn checked(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

fn last_byte(file: &mut File) -> io::Result<u8> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last[0])
}

/// Keeps the newest lines that fit into `kept` bytes, and the numbers that the others gave out.
fn shorten(path: &Path, file: &mut File, kept: u64) -> io::Result<()> {
    let mut numbers = Numbers::default();
    file.rewind()?;
    let mut newest = Vec::new();
    read::lines(&mut *file, |line| numbers.note(&line))?;
    read::tail(file, kept, |line| newest.extend(line.encode().unwrap_or_default()))?;
    let id = numbers.upgrade;
    let taken = numbers.generations.into_iter().map(|(service, generation)| Begun { id, service, generation });
    let mut text: Vec<u8> = taken.filter_map(|begun| Line::Begun(begun).encode()).flatten().collect();
    text.append(&mut newest);
    let shorter = path.with_extension("jsonl.new");
    let mut options = OpenOptions::new();
    let mut new =
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(O_NOFOLLOW).open(&shorter)?;
    let written = new.write_all(&text).and_then(|()| new.sync_data());
    let replaced = written.and_then(|()| std::fs::rename(&shorter, path));
    if replaced.is_err() {
        // The old one is still whole.
        let _ = std::fs::remove_file(&shorter);
    }
    replaced
}
