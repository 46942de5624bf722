//! Which file a command means, pinned.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, faccessat};
use serde::{Deserialize, Serialize};

use crate::sys::{describe, fd_link};

/// What the kernel reads of a file to find its interpreter (BINPRM_BUF_SIZE).
const FIRST_LINE: u64 = 256;

/// An executable file, held open so that it stays what it was whatever becomes of its path.
#[derive(Debug)]
pub struct Program {
    /// Its path: absolute, with every symlink in its directory resolved, so that it does not move with a `current`
    /// symlink. The last component is as it was given, since scripts look at their own name.
    pub path: PathBuf,
    /// Its path with that resolved too.
    pub real: PathBuf,
    /// The file (O_PATH).
    pub held: OwnedFd,
    /// The file as it was.
    pub identity: FileIdentity,
    /// The interpreter of a script, from its first line.
    pub interpreter: Option<PathBuf>,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    /// Its file system.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// When its content changed, nanoseconds since the epoch.
    pub mtime: i64,
    /// When anything about it changed, its mode, name and number of links among them; nanoseconds since the epoch.
    pub ctime: i64,
}

/// What became of a program since it was resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Stands {
    /// Its path leads to it.
    SameFile,
    /// Its path leads to another file, or nowhere; it can still be run.
    PathMoved,
    /// The file itself has other content now: it cannot be run again as it was.
    OverwrittenInPlace,
}

/// A command that cannot be run.
#[derive(Debug)]
pub enum ResolveError {
    /// There is no such file.
    NotFound {
        /// As it was looked for.
        command: PathBuf,
        /// Where, for a bare name.
        searched: Option<OsString>,
    },
    /// The file is not executable for us.
    NotExecutable(PathBuf),
    /// It is a directory.
    IsDirectory(PathBuf),
    /// It is neither a file nor a directory.
    NotAFile(PathBuf),
    /// Its first line names an interpreter that does not exist.
    MissingInterpreter {
        /// The script.
        path: PathBuf,
        /// The interpreter.
        interpreter: PathBuf,
    },
    /// Its first line names an interpreter that is not executable.
    BadInterpreter {
        /// The script.
        path: PathBuf,
        /// The interpreter.
        interpreter: PathBuf,
    },
    /// It cannot be looked at.
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Program {
    /// Whether it is the same file in the same state, run by the same path.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.path, &self.real, self.identity) == (&other.path, &other.real, other.identity)
    }

    /// Finds the file that a command means: in the `:`-separated `search_path` when it holds no slash, else relative to
    /// `directory`, which must be absolute. It must be a file that we may execute, and its interpreter must exist.
    ///
    /// # Errors
    /// A [`ResolveError`] that says which of these fails.
    pub fn resolve(command: &OsStr, directory: &Path, search_path: &OsStr) -> Result<Self, ResolveError> {
        if command.as_bytes().contains(&b'/') {
            return Self::pin(&directory.join(command), directory);
        }
        // As execvp(3): what cannot be executed is passed over, and named only if nothing better comes.
        let mut passed_over = None;
        let entries = if command.is_empty() { OsStr::new("") } else { search_path };
        for entry in entries.as_bytes().split(|byte| *byte == b':').filter(|_| !command.is_empty()) {
            let candidate = directory.join(OsStr::from_bytes(entry)).join(command);
            match Self::pin(&candidate, directory) {
                Ok(program) => return Ok(program),
                Err(ResolveError::NotFound { .. }) => {}
                Err(error @ (ResolveError::MissingInterpreter { .. } | ResolveError::BadInterpreter { .. })) => {
                    return Err(error);
                }
                Err(error) => passed_over = passed_over.or(Some(error)),
            }
        }
        Err(passed_over.unwrap_or_else(|| ResolveError::NotFound {
            command: command.into(),
            searched: Some(search_path.to_owned()),
        }))
    }

    /// Opens the file at a path once more, if it still is the one that it was.
    ///
    /// # Errors
    /// Those of open(2); `NotFound` when another file is there.
    pub fn open_again(path: &Path, identity: FileIdentity) -> io::Result<OwnedFd> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
        let found = FileIdentity::of(file.as_fd())?;
        if (found.dev, found.ino) == (identity.dev, identity.ino) {
            Ok(file.into())
        } else {
            Err(io::Error::new(io::ErrorKind::NotFound, "another file has taken its place"))
        }
    }

    /// What became of it since. Content is told by size and time of modification: the time of change moves with links
    /// too, and deploying tools make and remove those.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn check(&self) -> io::Result<Stands> {
        let now = FileIdentity::of(self.held.as_fd())?;
        if (now.size, now.mtime) != (self.identity.size, self.identity.mtime) {
            return Ok(Stands::OverwrittenInPlace);
        }
        let there = [&self.path, &self.real].iter().any(|path| self.identity.is_at(path).unwrap_or(false));
        Ok(if there { Stands::SameFile } else { Stands::PathMoved })
    }

    fn pin(candidate: &Path, directory: &Path) -> Result<Self, ResolveError> {
        let failed = |error| ResolveError::Io { path: candidate.to_owned(), error };
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(candidate);
        let file = opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ResolveError::NotFound { command: candidate.to_owned(), searched: None },
            _ => failed(error),
        })?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if kind.is_dir() {
            return Err(ResolveError::IsDirectory(candidate.to_owned()));
        }
        if !kind.is_file() {
            return Err(ResolveError::NotAFile(candidate.to_owned()));
        }
        let held = OwnedFd::from(file);
        let identity = FileIdentity::of(held.as_fd()).map_err(failed)?;
        let link = fd_link(held.as_fd());
        if !executable(&link) {
            return Err(ResolveError::NotExecutable(candidate.to_owned()));
        }
        let interpreter = interpreter(&link, directory);
        if let Some(interpreter) = &interpreter {
            let (path, interpreter) = (candidate.to_owned(), interpreter.clone());
            match fs::metadata(&interpreter) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(ResolveError::MissingInterpreter { path, interpreter });
                }
                Ok(found) if !found.is_file() || !executable(&interpreter) => {
                    return Err(ResolveError::BadInterpreter { path, interpreter });
                }
                // What cannot be seen by us may be seen by the user that it will run as.
                _ => {}
            }
        }
        let real = fs::read_link(&link).map_err(failed)?;
        let path = match (candidate.parent().map(fs::canonicalize), candidate.file_name()) {
            (Some(Ok(parent)), Some(name)) => parent.join(name),
            _ => real.clone(),
        };
        Ok(Self { path, real, held, identity, interpreter })
    }
}

impl FileIdentity {
    /// Of an open file.
    pub(super) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let found = fs::metadata(fd_link(fd))?;
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Ok(Self {
            dev: found.dev(),
            ino: found.ino(),
            size: found.size(),
            mtime: nanoseconds(found.mtime(), found.mtime_nsec()),
            ctime: nanoseconds(found.ctime(), found.ctime_nsec()),
        })
    }

    /// Whether a path leads to this very file, which must be held open: then its inode cannot have been given to
    /// another.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        let found = fs::metadata(path)?;
        Ok((found.dev(), found.ino()) == (self.dev, self.ino))
    }
}

impl ResolveError {
    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotFound { searched: Some(path), .. } => {
                format!("it was looked for in PATH ({}); give its whole path", path.display())
            }
            Self::NotFound { searched: None, .. } => "check the command's path and the working directory".to_owned(),
            Self::NotExecutable(path) => {
                format!("`chmod +x {}`, and check that its file system is not mounted noexec", path.display())
            }
            Self::IsDirectory(_) | Self::NotAFile(_) => "the command must name a program".to_owned(),
            Self::MissingInterpreter { interpreter, .. } if interpreter.as_os_str().as_bytes().ends_with(b"\r") => {
                "its first line ends with a carriage return (Windows line endings): convert the file".to_owned()
            }
            Self::MissingInterpreter { interpreter, .. } | Self::BadInterpreter { interpreter, .. } => {
                format!("install {}, or correct the script's first line", interpreter.display())
            }
            Self::Io { .. } => return None,
        })
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { command, searched } if command.as_os_str().is_empty() || searched.is_some() => {
                write!(f, "find the program {:?}: no directory in PATH has it", command.display().to_string())
            }
            Self::NotFound { command, .. } => write!(f, "execute {}: no such file or directory", command.display()),
            Self::NotExecutable(path) => write!(f, "execute {}: permission denied", path.display()),
            Self::IsDirectory(path) => write!(f, "execute {}: it is a directory", path.display()),
            Self::NotAFile(path) => write!(f, "execute {}: it is not a regular file", path.display()),
            Self::MissingInterpreter { path, interpreter } => {
                write!(f, "execute {}: its interpreter {} does not exist", path.display(), shown(interpreter))
            }
            Self::BadInterpreter { path, interpreter } => {
                write!(f, "execute {}: its interpreter {} is not executable", path.display(), shown(interpreter))
            }
            Self::Io { path, error } => write!(f, "execute {}: {}", path.display(), describe(error)),
        }
    }
}

impl std::error::Error for ResolveError {}

fn executable(path: &Path) -> bool {
    faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS).is_ok()
}

/// The interpreter that a script's first line names (execve(2), "Interpreter scripts"); none for other files, and for
/// those that may be executed but not read.
fn interpreter(path: &Path, directory: &Path) -> Option<PathBuf> {
    let mut start = Vec::new();
    File::open(path).ok()?.take(FIRST_LINE).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let name = line.split(|byte| matches!(byte, b' ' | b'\t' | 0)).find(|word| !word.is_empty())?;
    Some(directory.join(OsStr::from_bytes(name)))
}

/// A path with what cannot be seen made visible: a carriage return at its end is the usual culprit.
fn shown(path: &Path) -> String {
    path.display().to_string().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::sys::tests::{Directory, directory};

    fn put(directory: &Directory, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn resolve(directory: &Directory, command: &str) -> Result<Program, ResolveError> {
        Program::resolve(OsStr::new(command), directory.path(), OsStr::new("a:b:/bin"))
    }

    #[test]
    fn a_symlinked_release_is_pinned_but_keeps_its_name() {
        let home = directory("program");
        let real = put(&home, "v1/bin/web-1.0", "#!/bin/sh\n", 0o755);
        symlink("web-1.0", home.path().join("v1/bin/web")).unwrap();
        symlink("v1", home.path().join("current")).unwrap();
        let program = resolve(&home, "current/bin/web").unwrap();
        let root = fs::canonicalize(home.path()).unwrap();
        assert_eq!(program.path, root.join("v1/bin/web"));
        assert_eq!(program.real, fs::canonicalize(real).unwrap());
        assert_eq!(program.interpreter.as_deref(), Some(Path::new("/bin/sh")));
        fs::remove_file(home.path().join("current")).unwrap();
        assert_eq!(program.check().unwrap(), Stands::SameFile);
        fs::remove_file(home.path().join("v1/bin/web")).unwrap();
        assert_eq!(program.check().unwrap(), Stands::SameFile);
        fs::remove_file(home.path().join("v1/bin/web-1.0")).unwrap();
        assert_eq!(program.check().unwrap(), Stands::PathMoved);
    }

    #[test]
    fn a_replaced_file_has_moved_and_an_overwritten_one_is_spoilt() {
        let home = directory("program");
        let path = put(&home, "web", "#!/bin/sh\necho 1\n", 0o755);
        let program = resolve(&home, "./web").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(program.check().unwrap(), Stands::SameFile);
        put(&home, "next", "#!/bin/sh\necho 2\n", 0o755);
        fs::rename(home.path().join("next"), &path).unwrap();
        assert_eq!(program.check().unwrap(), Stands::PathMoved);
        let program = resolve(&home, "./web").unwrap();
        fs::write(&path, "#!/bin/sh\necho three\n").unwrap();
        assert_eq!(program.check().unwrap(), Stands::OverwrittenInPlace);
    }

    #[test]
    fn a_bare_name_is_searched_for() {
        let home = directory("program");
        put(&home, "a/tool", "not executable", 0o644);
        let found = put(&home, "b/tool", "\u{7f}ELF", 0o755);
        let program = resolve(&home, "tool").unwrap();
        assert_eq!(program.path, fs::canonicalize(found).unwrap());
        assert_eq!(program.interpreter, None);
        assert!(resolve(&home, "sh").unwrap().path.is_absolute());
    }

    #[test]
    fn each_failure_has_its_own_words() {
        let home = directory("program");
        put(&home, "plain", "x", 0o644);
        put(&home, "a/only", "x", 0o644);
        put(&home, "lost", "#! /no/such/thing -x\n", 0o755);
        put(&home, "windows", "#!/bin/sh\r\n", 0o755);
        put(&home, "odd", "#!/etc/passwd\n", 0o755);
        let told = |command: &str| {
            let error = resolve(&home, command).unwrap_err();
            (error.to_string(), error.hint().unwrap_or_default())
        };
        assert!(told("./missing").0.ends_with("/missing: no such file or directory"));
        assert_eq!(told("missing").0, "find the program \"missing\": no directory in PATH has it");
        assert!(told("missing").1.contains("a:b:/bin"));
        assert!(told("").0.contains("\"\""));
        assert!(told("./plain").0.ends_with("/plain: permission denied"));
        assert!(told("./plain").1.contains("chmod +x"));
        assert!(told("only").0.ends_with("/only: permission denied"));
        assert!(told("./a").0.ends_with("it is a directory"));
        assert!(told("./lost").0.ends_with("its interpreter /no/such/thing does not exist"));
        assert!(told("./windows").0.contains(r"its interpreter /bin/sh\r does not exist"));
        assert!(told("./windows").1.contains("carriage return"));
        assert!(told("./odd").0.ends_with("its interpreter /etc/passwd is not executable"));
        assert!(told("./plain/x").0.ends_with("not a directory"));
        assert!(told("/dev/null").0.ends_with("it is not a regular file"));
    }
}
