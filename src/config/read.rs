//! Reads the file without being led astray: no FIFO to wait on, no endless device, no gigabyte.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::ConfigError;

/// The largest config file, bytes.
pub const FILE_MAX: u64 = 1 << 20;

/// The text of a config file.
pub(crate) fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |error: io::Error| {
        let (message, hint) = describe(&error);
        ConfigError::of_file(path, message, hint)
    };
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path).map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if kind.is_dir() {
        return Err(ConfigError::of_file(path, "it is a directory", "name the file in it"));
    }
    if !kind.is_file() {
        let what = match kind {
            kind if kind.is_fifo() => "a pipe",
            kind if kind.is_socket() => "a socket",
            _ => "a device",
        };
        let hint = "write the config to a file: a reload reads it again";
        return Err(ConfigError::of_file(path, format!("it is {what}, not a file"), hint));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > FILE_MAX) {
        return Err(ConfigError::of_file(path, "it is larger than 1 MiB", "check that it is the right file"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        ConfigError::of_file(path, format!("line {line} is not UTF-8"), "save the file as UTF-8")
    })
}

fn describe(error: &io::Error) -> (String, &'static str) {
    match error.kind() {
        io::ErrorKind::NotFound => ("there is no such file".to_owned(), "check the path"),
        io::ErrorKind::NotADirectory => ("a part of the path is not a directory".to_owned(), "check the path"),
        io::ErrorKind::PermissionDenied => (
            "no permission to read it".to_owned(),
            "make the file and its directories readable for the user that zdsup runs as",
        ),
        _ if error.raw_os_error() == Some(nix::libc::ENXIO) => {
            ("it is a socket, not a file".to_owned(), "write the config to a file: a reload reads it again")
        }
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
