//! Where a history lies.

use std::path::{Path, PathBuf};

/// Where state directories are: `/var/lib/zdsup`, and that of the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePlaces {
    system: PathBuf,
    user: Option<PathBuf>,
}

impl StatePlaces {
    /// As the environment of this process says: `$XDG_STATE_HOME`, else `~/.local/state` (XDG Base Directory
    /// Specification; a relative path is none).
    #[must_use]
    pub fn of_this_process() -> Self {
        let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || variable("HOME").map(|home| home.join(".local/state"));
        let user = variable("XDG_STATE_HOME").or_else(home).map(|state| state.join("zdsup"));
        Self { system: PathBuf::from("/var/lib/zdsup"), user }
    }

    /// Where the supervisor of this name keeps what outlives it: `asked`, else `$STATE_DIRECTORY` (its first entry,
    /// systemd.exec(5)), else the system's place for root and the user's for others. `None`: there is no such place.
    #[must_use]
    pub fn own(&self, asked: Option<&Path>, name: &str) -> Option<PathBuf> {
        if let Some(path) = asked {
            return std::path::absolute(path).ok();
        }
        if let Some(list) = std::env::var_os("STATE_DIRECTORY").filter(|list| !list.is_empty()) {
            return std::env::split_paths(&list).next().filter(|path| path.is_absolute());
        }
        if nix::unistd::geteuid().is_root() {
            return Some(self.system.join(name));
        }
        self.user.as_ref().map(|user| user.join(name))
    }

    /// Every history there is at these places, of a supervisor of this name or of any, by name.
    #[must_use]
    pub fn histories(&self, name: Option<&str>) -> Vec<(String, PathBuf)> {
        let mut found = Vec::new();
        for place in std::iter::once(&self.system).chain(&self.user) {
            let entries = std::fs::read_dir(place).into_iter().flatten().filter_map(Result::ok);
            let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
            let wanted = names.filter(|one| name.is_none_or(|name| name == one));
            found.extend(
                wanted.map(|name| (place.join(&name).join(super::FILE), name)).map(|(path, name)| (name, path)),
            );
        }
        found.retain(|(_, path)| path.exists());
        found.sort();
        found
    }
}
