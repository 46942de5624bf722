//! Reads files without being led astray: no FIFO to wait on, no endless device, no gigabyte.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::ConfigError;
use crate::sys;

/// The largest file that is read, bytes.
pub const FILE_MAX: u64 = 1 << 20;

/// Why a file cannot be read.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// It is a directory.
    Directory,
    /// It is neither a file nor a directory, but this.
    Kind(&'static str),
    /// It is larger than [`FILE_MAX`].
    TooLarge,
    /// Opening or reading it failed.
    Io(io::Error),
}

/// The text of a config file.
pub(crate) fn read(path: &Path) -> Result<String, ConfigError> {
    let bytes = bytes(path).map_err(|why| {
        let (message, hint) = describe(&why);
        ConfigError::of_file(path, message, hint)
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfigError::of_file(path, format!("line {line} is not UTF-8"), "save the file as UTF-8")
    })
}

/// What stands in a regular file.
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>, Unreadable> {
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_dir() {
        return Err(Unreadable::Directory);
    }
    if !kind.is_file() {
        return Err(Unreadable::Kind(if kind.is_fifo() { "a pipe" } else { "a device" }));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX { Err(Unreadable::TooLarge) } else { Ok(bytes) }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(nix::libc::ENXIO) => Self::Kind("a socket"),
            _ => Self::Io(error),
        }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("it is a directory"),
            Self::Kind(kind) => write!(f, "it is {kind}, not a file"),
            Self::TooLarge => f.write_str("it is larger than 1 MiB"),
            Self::Io(error) => f.write_str(&sys::describe(error)),
        }
    }
}

fn describe(why: &Unreadable) -> (String, &'static str) {
    let error = match why {
        Unreadable::Directory => return (why.to_string(), "name the file in it"),
        Unreadable::Kind(_) => return (why.to_string(), "write the config to a file: a reload reads it again"),
        Unreadable::TooLarge => return (why.to_string(), "check that it is the right file"),
        Unreadable::Io(error) => error,
    };
    match error.kind() {
        io::ErrorKind::NotFound => ("there is no such file".to_owned(), "check the path"),
        io::ErrorKind::NotADirectory => ("a part of the path is not a directory".to_owned(), "check the path"),
        io::ErrorKind::PermissionDenied => (
            "no permission to read it".to_owned(),
            "make the file and its directories readable for the user that zdsup runs as",
        ),
        _ => (format!("it cannot be read: {error}"), "check the path and the file system"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use super::*;

    /// A directory of this test's own, removed at its end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("zdsup-config-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }

        fn write(&self, content: &[u8]) -> PathBuf {
            let path = self.0.join("web.toml");
            fs::write(&path, content).expect("a file");
            path
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn refusal(path: &Path) -> String {
        let text = read(path).expect_err("refused").to_string();
        let prefix = format!("{}: ", path.display());
        text.strip_prefix(&prefix).unwrap_or_else(|| panic!("{text} does not begin with the path")).to_owned()
    }

    #[test]
    fn a_file_is_read() {
        let directory = Directory::new("read");
        assert_eq!(read(&directory.write("# é\n".as_bytes())).expect("a text"), "# é\n");
    }

    #[test]
    fn what_is_no_readable_file_is_refused_by_name() {
        let directory = Directory::new("refused");
        assert_eq!(refusal(&directory.0), "it is a directory");
        assert_eq!(refusal(&directory.0.join("none.toml")), "there is no such file");
        assert_eq!(refusal(Path::new("/dev/zero")), "it is a device, not a file");
        assert_eq!(refusal(&directory.write(b"a\nb\xff")), "line 2 is not UTF-8");
        assert_eq!(refusal(&directory.write(b"").join("x")), "a part of the path is not a directory");

        let fifo = directory.0.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
        assert_eq!(refusal(&fifo), "it is a pipe, not a file");

        let socket = directory.0.join("socket");
        let _listener = UnixListener::bind(&socket).expect("a socket");
        assert_eq!(refusal(&socket), "it is a socket, not a file");
    }

    #[test]
    fn a_file_ends_at_one_mebibyte() {
        let directory = Directory::new("large");
        let mut content = vec![b'#'; usize::try_from(FILE_MAX).expect("a length")];
        assert!(read(&directory.write(&content)).is_ok());
        content.push(b'#');
        assert_eq!(refusal(&directory.write(&content)), "it is larger than 1 MiB");
    }

    #[test]
    fn an_unreadable_file_says_so() {
        let directory = Directory::new("unreadable");
        let path = directory.write(b"");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("a mode");
        if nix::unistd::geteuid().is_root() {
            eprintln!("skipped: root may read every file");
            return;
        }
        assert_eq!(refusal(&path), "no permission to read it");
    }
}
