//! The document: everything that a successor needs to know, as JSON, with a version.
//!
//! Descriptors appear as [`Name`]s. What is derived from the config or from the kernel anew is not in it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::config;
use crate::control::server::Access;
use crate::control::types::LastOutput;
use crate::core::event::Hook;
use crate::core::{Core, Generation, InstanceId, ReleaseId, ServiceId, Time, UpgradeId};
use crate::supervisor::ledger::Ledger;
use crate::supervisor::rows::RowEntry;
use crate::supervisor::several::Order;
use crate::sys::Pid;
use crate::sys::cgroup::Cgroup;
use crate::sys::limits::Nofile;
use crate::sys::shim::{FileIdentity, Identity};
use crate::sys::socket::{Endpoint, Options};

/// The version that is written. Whoever changes what is written so that the reader of the version before would
/// misunderstand it raises it, adds a migration, and a fixture of what was written before.
pub(crate) const VERSION: u32 = 1;

/// From each older version to the next: `MIGRATIONS[0]` makes version 2 of version 1.
const MIGRATIONS: [fn(&mut serde_json::Value); VERSION as usize - 1] = [];

/// Everything.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Document<'a> {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// Whose it is.
    pub(crate) owner: Owner,
    /// The process that wrote it.
    pub(crate) pid: Pid,
    /// Since when the supervisor runs, its predecessors included.
    pub(crate) started: Time,
    /// How many supervisors there have been in this place.
    pub(crate) incarnation: u64,
    /// The limits on open files that services get.
    pub(crate) nofile: Nofile,
    /// Where its sockets are.
    #[serde(with = "crate::sys::written")]
    pub(crate) runtime_directory: PathBuf,
    /// Whether that was made by it, and so goes with it.
    pub(crate) runtime_directory_is_ours: bool,
    /// The machine.
    pub(crate) core: Cow<'a, Core>,
    /// What the shell knows beside it of each service.
    pub(crate) services: Vec<ServiceEntry<'a>>,
    /// Every socket that is held.
    pub(crate) sockets: Vec<SocketEntry<'a>>,
    /// Every release that may still be run, as [`ReleaseEntry`].
    pub(crate) releases: BTreeMap<ReleaseId, Cow<'a, RawValue>>,
    /// The number of the next one.
    pub(crate) next_release: u64,
    /// What becomes of releases with the verdict of their upgrade.
    pub(crate) pending: BTreeMap<UpgradeId, PendingEntry<'a>>,
    /// Every process.
    pub(crate) processes: Vec<ProcessEntry<'a>>,
    /// Who may use the control socket.
    pub(crate) access: Access,
    /// Where metrics are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) metrics: Option<SocketAddr>,
    /// The story of the latest upgrades, each as the ledger writes it.
    pub(crate) ledger: BTreeMap<UpgradeId, Cow<'a, RawValue>>,
    /// Stop was asked for.
    pub(crate) stopping: bool,
    /// Unless it is said otherwise, several services are upgraded together or not at all.
    #[serde(default)]
    pub(crate) atomic: bool,
    /// Sockets that were passed and that no service has claimed: their names, as the one who passed them gave them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unclaimed: Vec<Option<String>>,
    /// What was given to the fd store under these names, and is still held.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) kept: BTreeSet<Name>,
    /// For a successor in the same process: the numbers of the descriptors.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) handed: BTreeMap<Name, i32>,
}

/// Whose a document is: nobody else may go on with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// The supervisor's name.
    pub(crate) name: String,
    /// The user that it runs as.
    pub(crate) uid: u32,
    /// Which boot of the machine (/proc/sys/kernel/random/boot_id).
    pub(crate) boot: String,
}

impl Owner {
    /// Of this process, under this name.
    pub(crate) fn this(name: &str) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { name: name.to_owned(), uid: nix::unistd::geteuid().as_raw(), boot: boot.trim().to_owned() }
    }
}

/// One service.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ServiceEntry<'a> {
    pub(crate) id: ServiceId,
    pub(crate) name: Cow<'a, str>,
    pub(crate) listeners: Vec<ListenerEntry<'a>>,
    /// What serves still has a socket that was replaced.
    pub(crate) owes_restart: bool,
    /// What the process that ended last while serving had printed.
    pub(crate) last_output: Option<(InstanceId, Cow<'a, LastOutput>)>,
    /// What it keeps for its successors, in the order of the ids, and the next id.
    #[serde(default)]
    pub(crate) stored: Vec<StoredEntry<'a>>,
    #[serde(default)]
    pub(crate) next_stored: u64,
    /// Its hooks that are to be run, and the process of the one that is being run.
    #[serde(default)]
    pub(crate) hooks: Vec<HookEntry<'a>>,
    #[serde(default)]
    pub(crate) hook_process: Option<HookProcessEntry>,
}

/// One hook that nobody waits for: what the machine waits for it asks for again.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HookEntry<'a> {
    pub(crate) hook: Hook,
    pub(crate) generation: Generation,
    pub(crate) release: ReleaseId,
    pub(crate) upgrade: Option<UpgradeId>,
    /// That release is kept for this hook alone.
    pub(crate) is_last: bool,
    /// What its environment says beside the release's.
    pub(crate) environment: Cow<'a, BTreeMap<String, String>>,
}

/// The process of a hook.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct HookProcessEntry {
    /// What its descriptor is called by.
    pub(crate) token: u64,
    pub(crate) pid: Pid,
}

/// One descriptor that a service has stored.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredEntry<'a> {
    pub(crate) id: u64,
    pub(crate) name: Cow<'a, str>,
    pub(crate) poll: bool,
    pub(crate) staged_by: Option<InstanceId>,
    pub(crate) removed_by: Cow<'a, [InstanceId]>,
}

/// One listener: a socket under a name.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListenerEntry<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) socket: u64,
}

/// One socket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SocketEntry<'a> {
    pub(crate) token: u64,
    pub(crate) asked: Cow<'a, Endpoint>,
    /// By socket activation, rather than bound.
    pub(crate) inherited: bool,
    /// Its row, where traffic is steered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) row: Option<Cow<'a, RowEntry>>,
}

/// One release.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReleaseEntry<'a> {
    pub(crate) service: Cow<'a, config::Service>,
    pub(crate) program: ProgramEntry,
    pub(crate) probe: Option<ProgramEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) check: Option<ProgramEntry>,
    /// One a command.
    #[serde(default)]
    pub(crate) hooks: BTreeMap<Hook, Vec<ProgramEntry>>,
    #[serde(with = "crate::sys::written::list")]
    pub(crate) argv: Vec<OsString>,
    #[serde(with = "crate::sys::written::map")]
    pub(crate) environment: BTreeMap<OsString, OsString>,
    #[serde(with = "crate::sys::written")]
    pub(crate) directory: PathBuf,
    pub(crate) identity: Option<Cow<'a, Identity>>,
    pub(crate) listeners: Vec<ListenerEntry<'a>>,
}

/// One executable.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProgramEntry {
    /// What its descriptor is called by.
    pub(crate) token: u64,
    #[serde(with = "crate::sys::written")]
    pub(crate) path: PathBuf,
    #[serde(with = "crate::sys::written")]
    pub(crate) real: PathBuf,
    pub(crate) identity: FileIdentity,
    #[serde(with = "crate::sys::written::option")]
    pub(crate) interpreter: Option<PathBuf>,
}

/// What becomes of a release with the verdict of its upgrade.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PendingEntry<'a> {
    pub(crate) release: ReleaseId,
    pub(crate) access: Option<Cow<'a, Access>>,
    /// Options that are to be set on live sockets.
    pub(crate) changes: Vec<(ListenerEntry<'a>, Cow<'a, Options>)>,
    /// How the services of its config follow each other.
    #[serde(default)]
    pub(crate) order: Option<Cow<'a, Order>>,
}

/// One process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProcessEntry<'a> {
    pub(crate) id: InstanceId,
    /// What its descriptors are called by: an instance that is started again has others.
    pub(crate) token: u64,
    /// The main process, and the leader of the group.
    pub(crate) pid: Pid,
    pub(crate) leader: Pid,
    pub(crate) leader_reaped: bool,
    /// Its shim is known to have become the program.
    pub(crate) launched: bool,
    #[serde(with = "crate::sys::written")]
    pub(crate) notify: PathBuf,
    pub(crate) cgroup: Option<Cow<'a, Cgroup>>,
    pub(crate) tail: Vec<Cow<'a, str>>,
    pub(crate) output_elsewhere: Option<Cow<'a, str>>,
    pub(crate) status: Option<Cow<'a, str>>,
    pub(crate) notes: Vec<Cow<'a, str>>,
    /// Its main process has ended.
    pub(crate) lingering: bool,
    /// It is no child of the process that wrote this, but of a supervisor before that died.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) orphaned: bool,
}

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DocumentError {
    /// It is of a version that this program does not know.
    #[error("it is of version {found}, and this zdsup knows versions up to {VERSION}")]
    Newer {
        /// Its version.
        found: u32,
    },
    /// It makes no sense.
    #[error("it cannot be understood: {0}")]
    Malformed(#[from] serde_json::Error),
}

impl Document<'static> {
    /// Reads a document of this version or an older one.
    ///
    /// # Errors
    /// See [`DocumentError`].
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, DocumentError> {
        Self::read_with(bytes, &MIGRATIONS)
    }

    fn read_with(bytes: &[u8], migrations: &[fn(&mut serde_json::Value)]) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let current = u32::try_from(migrations.len()).unwrap_or(u32::MAX).saturating_add(1);
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version > current || version == 0 {
            return Err(DocumentError::Newer { found: version });
        }
        if version == current {
            return Ok(serde_json::from_slice(bytes)?);
        }
        let mut document: serde_json::Value = serde_json::from_slice(bytes)?;
        for (migrate, version) in migrations.iter().zip(1..).skip(version as usize - 1) {
            migrate(&mut document);
            document["version"] = (version + 1).into();
        }
        // By way of the text: what is kept as text is not kept in a `Value`.
        Ok(serde_json::from_slice(&serde_json::to_vec(&document)?)?)
    }
}

/// Whether a document could be gone on with: all of it, to its last part.
///
/// # Errors
/// See [`DocumentError`].
pub(crate) fn check(bytes: &[u8]) -> Result<(), DocumentError> {
    let document = Document::read(bytes)?;
    for release in document.releases.values() {
        serde_json::from_str::<ReleaseEntry<'_>>(release.get())?;
    }
    Ok(Ledger::adopt(document.ledger).map(drop)?)
}

/// What a descriptor is called, in the store and in the document. Never the same for two descriptors, whatever becomes
/// of the first; and the same descriptor never has two, since a store keeps it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Name {
    /// The memfd with the document.
    State,
    /// The control socket.
    Control,
    /// The lock on the runtime directory; only from hand to hand, since it must end with its holder.
    Lock,
    /// A listening socket.
    Socket(u64),
    /// One that was passed and that no service has claimed, by its place among them; only from hand to hand, since
    /// whoever starts a successor passes it once more.
    Unclaimed(usize),
    /// An executable.
    Program(u64),
    /// A part of a process.
    Process(u64, Part),
    /// A descriptor that a service has stored.
    Stored(ServiceId, u64),
}

/// A part of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// A pidfd, by its number: the main process may become another, and go on as the leader.
    Pid(Pid),
    /// Its notify socket.
    Notify,
    /// The end of its standard output that we read.
    Stdout,
    /// The end of its standard error that we read.
    Stderr,
    /// The end of the pipe on which it says that it is ready.
    Ready,
    /// The listener that it has for itself, for its health checks.
    Private,
    /// The conversation with its shim; only from hand to hand, since its end is what ends the shim.
    Shim,
}

/// What every name begins with.
pub(crate) const PREFIX: &str = "zdsup.";

impl Name {
    /// Whether it goes into the store: the rest is handed over by a living supervisor only.
    pub(crate) fn is_stored(self) -> bool {
        match self {
            Self::Lock | Self::Unclaimed(_) | Self::Process(_, Part::Shim) => false,
            Self::State | Self::Control | Self::Socket(_) | Self::Program(_) | Self::Stored(..) => true,
            Self::Process(
                _,
                Part::Pid(_) | Part::Notify | Part::Stdout | Part::Stderr | Part::Ready | Part::Private,
            ) => true,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        match self {
            Self::State => f.write_str("state"),
            Self::Control => f.write_str("control"),
            Self::Lock => f.write_str("lock"),
            Self::Socket(token) => write!(f, "socket.{token}"),
            Self::Unclaimed(place) => write!(f, "unclaimed.{place}"),
            Self::Program(token) => write!(f, "program.{token}"),
            Self::Process(token, Part::Pid(pid)) => write!(f, "process.{token}.pid.{pid}"),
            Self::Process(token, Part::Notify) => write!(f, "process.{token}.notify"),
            Self::Process(token, Part::Stdout) => write!(f, "process.{token}.stdout"),
            Self::Process(token, Part::Stderr) => write!(f, "process.{token}.stderr"),
            Self::Process(token, Part::Ready) => write!(f, "process.{token}.ready"),
            Self::Process(token, Part::Private) => write!(f, "process.{token}.private"),
            Self::Process(token, Part::Shim) => write!(f, "process.{token}.shim"),
            Self::Stored(service, id) => write!(f, "stored.{service}.{id}"),
        }
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("{text:?} names no descriptor of a supervisor");
        let number = |text: &str| text.parse().ok();
        let words: Vec<&str> = text.strip_prefix(PREFIX).ok_or_else(unknown)?.split('.').collect();
        let name = match words[..] {
            ["state"] => Some(Self::State),
            ["control"] => Some(Self::Control),
            ["lock"] => Some(Self::Lock),
            ["socket", token] => number(token).map(Self::Socket),
            ["unclaimed", place] => place.parse().ok().map(Self::Unclaimed),
            ["program", token] => number(token).map(Self::Program),
            ["stored", service, id] => {
                service.parse().ok().zip(number(id)).map(|(service, id)| Self::Stored(ServiceId(service), id))
            }
            ["process", token, ref part @ ..] => {
                let part = match *part {
                    ["pid", pid] => pid.parse().ok().and_then(Pid::from_raw).map(Part::Pid),
                    ["notify"] => Some(Part::Notify),
                    ["stdout"] => Some(Part::Stdout),
                    ["stderr"] => Some(Part::Stderr),
                    ["ready"] => Some(Part::Ready),
                    ["private"] => Some(Part::Private),
                    ["shim"] => Some(Part::Shim),
                    _ => None,
                };
                number(token).zip(part).map(|(token, part)| Self::Process(token, part))
            }
            _ => None,
        };
        name.ok_or_else(unknown)
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back() {
        let pid = Pid::from_raw(77).expect("positive");
        let parts = [Part::Pid(pid), Part::Notify, Part::Stdout, Part::Stderr, Part::Ready, Part::Private, Part::Shim];
        let names =
            [Name::State, Name::Control, Name::Lock, Name::Socket(3), Name::Unclaimed(1), Name::Program(u64::MAX)];
        for name in names.into_iter().chain(parts.map(|part| Name::Process(9, part))) {
            assert_eq!(name.to_string().parse(), Ok(name));
        }
        for nonsense in
            ["", "zdsup.", "state", "zdsup.socket", "zdsup.socket.-1", "zdsup.process.1", "zdsup.process.1.pid.0"]
        {
            assert!(nonsense.parse::<Name>().is_err(), "{nonsense}");
        }
    }

    /// What each version has written, the whole of it: see fixtures/make.sh.
    const FIXTURES: [&str; VERSION as usize] = [include_str!("fixtures/1.json")];

    fn fixture() -> serde_json::Value {
        serde_json::from_str(FIXTURES[VERSION as usize - 1]).expect("JSON")
    }

    #[test]
    fn what_each_version_has_written_is_read() {
        for (text, version) in FIXTURES.iter().zip(1..) {
            check(text.as_bytes()).unwrap_or_else(|error| panic!("version {version}: {error}"));
            let document = Document::read(text.as_bytes()).expect("it was checked");
            let service = document.core.services().values().next().expect("one service");
            let generations: Vec<u64> = service.generations.keys().map(|number| number.0).collect();
            assert_eq!(generations, [1, 2, 4], "draining, serving and starting");
            assert!(service.upgrade.is_some() && document.pending.len() == 1);
            let read = (document.sockets.len(), document.releases.len(), document.processes.len());
            assert_eq!(read, (3, 3, 3));
            assert_eq!(document.services[0].stored.len(), 1);
            assert_eq!(document.ledger.len(), 4);
        }
    }

    #[test]
    fn what_is_read_is_written_again() {
        let document = Document::read(FIXTURES[VERSION as usize - 1].as_bytes()).expect("it can be read");
        let written = serde_json::to_vec(&document).expect("it can be written");
        let written: serde_json::Value = serde_json::from_slice(&written).expect("JSON");
        assert_eq!(written, fixture());
    }

    /// As if two more versions had been written before this one: the first without `incarnation`, and both with another
    /// name for the directory of a release.
    const CHAIN: [fn(&mut serde_json::Value); 2] = [
        |document| document["incarnation"] = 77.into(),
        |document| {
            for release in document["releases"].as_object_mut().expect("releases").values_mut() {
                let release = release.as_object_mut().expect("a release");
                let directory = release.remove("cwd").expect("its former name");
                release.insert("directory".into(), directory);
            }
        },
    ];

    #[test]
    fn an_older_version_is_migrated_step_by_step() {
        let mut third = fixture();
        third["version"] = 3.into();
        third["incarnation"] = 77.into();
        let mut second = third.clone();
        second["version"] = 2.into();
        for release in second["releases"].as_object_mut().expect("releases").values_mut() {
            let release = release.as_object_mut().expect("a release");
            let directory = release.remove("directory").expect("it has one");
            release.insert("cwd".into(), directory);
        }
        let mut first = second.clone();
        first["version"] = 1.into();
        first.as_object_mut().expect("an object").remove("incarnation");
        for version in [first, second, third.clone()] {
            let read = Document::read_with(version.to_string().as_bytes(), &CHAIN).expect("it is migrated");
            for release in read.releases.values() {
                serde_json::from_str::<ReleaseEntry<'_>>(release.get()).expect("a release of the third version");
            }
            let written: serde_json::Value =
                serde_json::from_slice(&serde_json::to_vec(&read).expect("it can be written")).expect("JSON");
            assert_eq!(written, third);
        }
        for unknown in [0, 4, u32::MAX] {
            third["version"] = unknown.into();
            let refused = Document::read_with(third.to_string().as_bytes(), &CHAIN);
            assert!(matches!(refused, Err(DocumentError::Newer { found }) if found == unknown), "{refused:?}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_and_says_so() {
        let refused = |text: &str| Document::read(text.as_bytes()).expect_err("refused").to_string();
        let newer = fixture().to_string().replacen(r#""version":1"#, r#""version":4000"#, 1);
        for newer in [r#"{"version":4000}"#, &newer] {
            assert_eq!(refused(newer), "it is of version 4000, and this zdsup knows versions up to 1");
        }
        assert!(refused(r#"{"version":1}"#).starts_with("it cannot be understood: missing field"));
        assert!(refused("").starts_with("it cannot be understood"));
    }
}
