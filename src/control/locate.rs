//! Finds the control socket of a running supervisor.
//!
//! `--runtime-dir` names the directory of one supervisor. Without it every supervisor has a directory of its name in
//! `/run/zdsup` or `$XDG_RUNTIME_DIR/zdsup`, and where exactly one runs, that is the one that is meant.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// The name of the control socket in a runtime directory.
pub const SOCKET: &str = "control.sock";

/// Where supervisors are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places(Vec<PathBuf>);

impl Places {
    /// `/run/zdsup`, and `$XDG_RUNTIME_DIR/zdsup` where that is set.
    #[must_use]
    pub fn of_this_process() -> Self {
        let user = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
        Self([Some(PathBuf::from("/run")), user.map(PathBuf::from)].into_iter().flatten().map(zdsup_in).collect())
    }

    /// The subdirectories `zdsup` of these.
    #[must_use]
    pub fn below(directories: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(directories.into_iter().map(zdsup_in).collect())
    }
}

impl Places {
    /// Where a supervisor of this name keeps its things, whether or not there is one.
    ///
    /// # Errors
    /// When it is no name.
    pub fn directories_of(&self, name: &str) -> Result<Vec<PathBuf>, LocateError> {
        if !is_name(name) {
            return Err(LocateError::BadName(name.to_owned()));
        }
        Ok(self.0.iter().map(|place| place.join(name)).collect())
    }

    /// The runtime directory that this path in it belongs to, if it is at one of these places.
    #[must_use]
    pub fn directory_around(&self, path: &Path) -> Option<PathBuf> {
        self.0.iter().find_map(|place| {
            let name = path.strip_prefix(place).ok()?.components().next()?;
            Some(place.join(name.as_os_str().to_str().filter(|name| is_name(name))?))
        })
    }

    /// Every runtime directory that is there, of the living and the dead.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        let entries = self.0.iter().filter_map(|place| std::fs::read_dir(place).ok()).flatten().filter_map(Result::ok);
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }
}

/// A supervisor that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub name: String,
    /// Its control socket.
    pub socket: PathBuf,
}

/// Why no socket, or no single one, was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// What was given is no name.
    #[error("{0:?} is not a supervisor's name: names consist of letters, digits, `.`, `_` and `-`")]
    BadName(String),
    /// Nothing runs at all.
    #[error("no supervisor runs here (looked in {})", list(.searched.iter().map(|place| place.display().to_string())))]
    NoneRuns {
        /// Where it was looked.
        searched: Vec<PathBuf>,
    },
    /// Nothing of that name runs.
    #[error("no supervisor named {name} runs here{}", others(.running))]
    NoSuch {
        /// The name.
        name: String,
        /// What runs instead.
        running: Vec<Found>,
    },
    /// Several run, and it is not said which is meant.
    #[error("several supervisors run here: {}", list(.0.iter().map(|one| format!("{} ({})", one.name, one.socket.display()))))]
    Several(Vec<Found>),
    /// Nothing was found, and some place cannot be looked into.
    #[error("cannot look for supervisors in {}: permission denied", .0.display())]
    Unreadable(PathBuf),
}

impl LocateError {
    /// What would mend it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::BadName(_) => None,
            Self::NoneRuns { .. } => Some("if it runs with a --runtime-dir of its own, give the same here"),
            Self::NoSuch { running, .. } if running.is_empty() => {
                Some("if it runs with a --runtime-dir of its own, give the same here")
            }
            Self::NoSuch { .. } => None,
            Self::Several(found) if found.iter().all(|one| one.name == found[0].name) => {
                Some("say which with --runtime-dir")
            }
            Self::Several(_) => Some("say which with --name, or with the environment variable ZDSUP_NAME"),
            Self::Unreadable(_) => Some("say which one you mean with --name"),
        }
    }
}

/// The control socket of the supervisor that is meant.
///
/// Where there is just one candidate it is returned untried: whoever connects to it finds out.
///
/// # Errors
/// When it is unclear which is meant, or none is there.
pub fn find(places: &Places, runtime_dir: Option<&Path>, name: Option<&str>) -> Result<PathBuf, LocateError> {
    if let Some(directory) = runtime_dir {
        return Ok(directory.join(SOCKET));
    }
    let mut candidates = Vec::new();
    if let Some(name) = name {
        if !is_name(name) {
            return Err(LocateError::BadName(name.to_owned()));
        }
        candidates.extend(places.0.iter().map(|place| candidate(place, name)).filter(|one| is_there(&one.socket)));
    } else {
        let mut unreadable = None;
        for place in &places.0 {
            match supervisors_in(place) {
                Ok(found) => candidates.extend(found),
                Err(_) => unreadable = Some(place.clone()),
            }
        }
        if let (true, Some(place)) = (candidates.is_empty(), unreadable) {
            return Err(LocateError::Unreadable(place));
        }
    }
    if candidates.len() > 1 {
        // Those that died without tidying up are not candidates, unless nothing else is.
        let alive: Vec<_> = candidates.iter().filter(|one| is_alive(&one.socket)).cloned().collect();
        if alive.is_empty() {
            candidates.clear();
        } else {
            candidates = alive;
        }
    }
    match (candidates.as_slice(), name) {
        ([one], _) => Ok(one.socket.clone()),
        ([], Some(name)) => Err(LocateError::NoSuch { name: name.to_owned(), running: running(places) }),
        ([], None) => Err(LocateError::NoneRuns { searched: places.0.clone() }),
        (several, _) => Err(LocateError::Several(several.to_vec())),
    }
}

/// Every supervisor that runs, as far as this process may see.
#[must_use]
pub fn running(places: &Places) -> Vec<Found> {
    let found = places.0.iter().filter_map(|place| supervisors_in(place).ok()).flatten();
    found.filter(|one| is_alive(&one.socket)).collect()
}

/// Whether a supervisor can be called this.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    !name.is_empty() && name != "." && name != ".." && name.bytes().all(allowed)
}

fn zdsup_in(directory: PathBuf) -> PathBuf {
    directory.join("zdsup")
}

fn candidate(place: &Path, name: &str) -> Found {
    Found { name: name.to_owned(), socket: place.join(name).join(SOCKET) }
}

/// The supervisors that have, or had, a socket in a place, by name.
fn supervisors_in(place: &Path) -> io::Result<Vec<Found>> {
    let entries = match std::fs::read_dir(place) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
        Err(_) => return Ok(Vec::new()),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|name| is_name(name));
    let mut found: Vec<_> = names.map(|name| candidate(place, &name)).filter(|one| is_there(&one.socket)).collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// Whether there is such a file; one that cannot be seen may be there.
fn is_there(socket: &Path) -> bool {
    match std::fs::symlink_metadata(socket) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// Whether somebody listens. A full backlog and a lack of permission are signs of life. Never waits.
pub(crate) fn is_alive(path: &Path) -> bool {
    let attempt = || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)
    };
    !matches!(attempt(), Err(Errno::ECONNREFUSED | Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG))
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn others(running: &[Found]) -> String {
    if running.is_empty() {
        return String::new();
    }
    format!("; running: {}", list(running.iter().map(|one| one.name.clone())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    struct Run(PathBuf);

    impl Run {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("zdsup-locate-{test}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("zdsup")).unwrap();
            Self(path)
        }

        fn socket(&self, name: &str) -> PathBuf {
            let directory = self.0.join("zdsup").join(name);
            std::fs::create_dir_all(&directory).unwrap();
            directory.join(SOCKET)
        }

        fn start(&self, name: &str) -> UnixListener {
            UnixListener::bind(self.socket(name)).unwrap()
        }

        fn places(&self) -> Places {
            Places::below([self.0.clone()])
        }
    }

    impl Drop for Run {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_only_one_that_runs() {
        let run = Run::new("only");
        let error = find(&run.places(), None, None).unwrap_err();
        assert_eq!(error, LocateError::NoneRuns { searched: vec![run.0.join("zdsup")] });
        assert!(error.to_string().contains(run.0.to_str().unwrap()));

        let _web = run.start("web");
        assert_eq!(find(&run.places(), None, None).unwrap(), run.socket("web"));
        // One that died and left its socket behind does not count beside it.
        drop(run.start("dead"));
        assert_eq!(find(&run.places(), None, None).unwrap(), run.socket("web"));
        // Nor does a directory without a socket.
        std::fs::create_dir_all(run.0.join("zdsup/empty")).unwrap();
        assert_eq!(find(&run.places(), None, None).unwrap(), run.socket("web"));
    }

    #[test]
    fn several_are_listed() {
        let run = Run::new("several");
        let (_web, _api) = (run.start("web"), run.start("api"));
        let error = find(&run.places(), None, None).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("api (") && text.contains("web (") && text.contains(SOCKET), "{text}");
        assert!(error.hint().unwrap().contains("--name"));
        assert_eq!(find(&run.places(), None, Some("api")).unwrap(), run.socket("api"));

        let error = find(&run.places(), None, Some("db")).unwrap_err();
        assert_eq!(error.to_string(), "no supervisor named db runs here; running: api, web");
    }

    #[test]
    fn one_name_in_two_places() {
        let (mine, systems) = (Run::new("mine"), Run::new("systems"));
        let places = Places::below([mine.0.clone(), systems.0.clone()]);
        let first = mine.start("web");
        assert_eq!(find(&places, None, Some("web")).unwrap(), mine.socket("web"));
        let _second = systems.start("web");
        let error = find(&places, None, Some("web")).unwrap_err();
        assert!(matches!(&error, LocateError::Several(found) if found.len() == 2), "{error}");
        assert!(error.hint().unwrap().contains("--runtime-dir"));
        drop(first);
        assert_eq!(find(&places, None, Some("web")).unwrap(), systems.socket("web"));
    }

    #[test]
    fn a_runtime_directory_is_taken_as_it_is() {
        let places = Places::below([]);
        assert_eq!(find(&places, Some(Path::new("/x/y")), None).unwrap(), Path::new("/x/y/control.sock"));
    }

    #[test]
    fn a_name_leads_to_no_other_place() {
        for bad in ["", ".", "..", "a/b", "../x", "a b", "ä", "a\n"] {
            let error = find(&Places::below([]), None, Some(bad)).unwrap_err();
            assert_eq!(error, LocateError::BadName(bad.to_owned()));
        }
        assert!(is_name("web-1.2_x"));
    }

    #[test]
    fn a_full_backlog_is_a_sign_of_life() {
        let run = Run::new("full");
        let (web, api) = (run.start("web"), run.start("api"));
        nix::sys::socket::listen(&web, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let mut waiting = Vec::new();
        loop {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
            let connected = connect(socket.as_raw_fd(), &UnixAddr::new(&run.socket("web")).unwrap());
            waiting.push(socket);
            if connected == Err(Errno::EAGAIN) {
                break;
            }
            connected.unwrap();
        }
        assert_eq!(running(&run.places()).len(), 2);
        drop((web, api));
        assert_eq!(running(&run.places()), []);
    }
}
