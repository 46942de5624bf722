//! What is rehearsed: the service as the config names it now, in the surroundings of the supervisor that would run it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};

use super::super::given;
use crate::cli::failure::Failure;
use crate::config::{self, Config, Listen, Service};
use crate::control::client::Client;
use crate::control::types::Status;
use crate::exit::Exit;
use crate::supervisor::TRAFFIC_STAYS;
use crate::sys::{Pid, describe, proc};

/// What is rehearsed, and where.
#[derive(Debug)]
pub(super) struct Meant {
    /// The service, as it would be reloaded; where it runs is said.
    pub(super) service: Service,
    /// The supervisor's name.
    pub(super) supervisor: String,
    /// The first slot that no process of the service has: what it needs for itself, such as a port, goes by that.
    pub(super) slot: u32,
    /// The environment of the supervisor.
    pub(super) environment: Vec<(OsString, OsString)>,
}

impl Meant {
    /// As this file says, whether or not a supervisor runs it: in this process's own environment.
    pub(super) fn by_file(file: &Path, name: Option<&str>, service: Option<&str>) -> Result<Self, Failure> {
        Self::of(config::load(file, name)?, service, Path::new("/"), std::env::vars_os().collect())
    }

    /// As a reload of the supervisor that runs would find it.
    pub(super) async fn by_supervisor(client: &mut Client, service: Option<&str>) -> Result<Self, Failure> {
        let status = client.status().await?;
        let visible = |pid: &Pid| proc::is_in_our_pid_namespace(*pid).unwrap_or(true);
        let Some(pid) = client.supervisor().filter(visible) else {
            let failure = Failure::new(Exit::Refused, "the supervisor runs in another PID namespace than this process");
            return Err(failure.hint(Some("run `zdsup rehearse` where it runs, such as in its container")));
        };
        check_user(pid)?;
        let environment = variables(&read(pid, "environ")?);
        let name = status.supervisor.name.clone();
        let meant = match &status.supervisor.config {
            Some(file) => Self::of(config::load(Path::new(file), Some(&name))?, service, Path::new("/"), environment),
            None => {
                let directory = directory(pid, &environment)?;
                let config = given(words(&read(pid, "cmdline")?), &directory)?;
                Self::of(Config { name, ..config }, service, &directory, environment)
            }
        };
        let mut meant = meant?;
        check_traffic(&status, &meant.service)?;
        let real = status.services.iter().filter(|real| real.name == meant.service.name);
        let instances = real.flat_map(|real| &real.generations).flat_map(|generation| &generation.instances);
        let taken: Vec<u32> = instances.filter_map(|instance| slot(Pid::try_from(instance.pid?).ok()?)).collect();
        meant.slot = (0..).find(|slot| !taken.contains(slot)).unwrap_or_default();
        Ok(meant)
    }

    fn of(
        config: Config,
        service: Option<&str>,
        directory: &Path,
        environment: Vec<(OsString, OsString)>,
    ) -> Result<Self, Failure> {
        let Config { name: supervisor, services, .. } = config;
        let names = services.iter().map(|service| service.name.clone()).collect::<Vec<_>>().join(", ");
        let several = services.len() > 1;
        let found = services.into_iter().find(|found| service.is_none_or(|name| found.name == name));
        let mut service = match (found, service) {
            (Some(_), None) if several => {
                let failure = Failure::new(Exit::Usage, "the config has several services");
                return Err(failure.hint(Some(format!("say which: {names}"))));
            }
            (Some(found), _) => found,
            (None, name) => {
                let failure = Failure::new(Exit::Usage, format!("there is no service {}", name.unwrap_or_default()));
                return Err(failure.hint(Some(format!("the config has {names}"))));
            }
        };
        service.working_directory.get_or_insert_with(|| directory.to_owned());
        check_privileges(&service)?;
        Ok(Self { service, supervisor, slot: 0, environment })
    }
}

/// What runs as another user has other files, ports and limits within its reach.
fn check_user(supervisor: Pid) -> Result<(), Failure> {
    let its = fs::metadata(format!("/proc/{supervisor}"))
        .map_err(|error| Failure::new(Exit::Internal, format!("cannot look at the supervisor: {}", describe(&error))))?
        .uid();
    let ours = geteuid();
    if its == ours.as_raw() {
        return Ok(());
    }
    let name = |uid: u32| User::from_uid(uid.into()).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
    let (its, ours) = (name(its), name(ours.as_raw()));
    let failure =
        format!("the supervisor runs as user {its}, and this process as {ours}: it would rehearse something else");
    Err(Failure::new(Exit::NotPermitted, failure)
        .hint(Some(format!("run it as that user: sudo -u {its} zdsup rehearse"))))
}

/// A reload would refuse another `traffic` for a listener that stays. Names that have to be resolved are not looked at.
fn check_traffic(status: &Status, meant: &Service) -> Result<(), Failure> {
    let real = status.services.iter().find(|real| real.name == meant.name);
    let Some(real) = real.filter(|real| real.serving.is_some() && real.traffic != meant.traffic.word()) else {
        return Ok(());
    };
    let stays = |listen: &&Listen| real.listeners.iter().any(|one| one.address == listen.address.to_string());
    let Some(listen) = meant.listen.iter().find(stays) else { return Ok(()) };
    Err(Failure::new(Exit::Usage, format!("listener {}: {TRAFFIC_STAYS}", listen.name)))
}

/// Only root can become another user. (One that has just that capability is told so by the kernel, or not at all.)
fn check_privileges(service: &Service) -> Result<(), Failure> {
    let Some(user) = service.privileges.user.as_deref().filter(|_| !geteuid().is_root()) else { return Ok(()) };
    let uid = user.parse().ok().or_else(|| User::from_name(user).ok().flatten().map(|user| user.uid.as_raw()));
    if uid.is_none_or(|uid| uid == geteuid().as_raw()) {
        return Ok(());
    }
    let failure = format!("service {} runs as user {user}, which this process cannot become", service.name);
    Err(Failure::new(Exit::NotPermitted, failure).hint(Some("run `zdsup rehearse` as root")))
}

fn read(pid: Pid, file: &str) -> Result<Vec<u8>, Failure> {
    fs::read(format!("/proc/{pid}/{file}")).map_err(|error| {
        let exit = match error.kind() {
            std::io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            _ => Exit::Internal,
        };
        Failure::new(exit, format!("cannot read the supervisor's /proc/{pid}/{file}: {}", describe(&error)))
    })
}

/// The directory that the supervisor was started in, by the name that it knows it by.
fn directory(pid: Pid, environment: &[(OsString, OsString)]) -> Result<PathBuf, Failure> {
    let link = format!("/proc/{pid}/cwd");
    let failed = |error| Failure::new(Exit::Internal, format!("cannot follow {link}: {}", describe(&error)));
    let here = fs::metadata(&link).map_err(failed)?;
    let is_here = |path: &PathBuf| {
        path.is_absolute()
            && fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino()))
    };
    let logical = environment.iter().find(|(name, _)| name == "PWD").map(|(_, path)| PathBuf::from(path));
    logical.filter(is_here).map_or_else(|| fs::read_link(&link).map_err(failed), Ok)
}

/// The slot that a process was told is its own.
fn slot(pid: Pid) -> Option<u32> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
    proc::environ_find(pid, "ZDSUP_SLOT", number).ok()?
}

fn words(text: &[u8]) -> Vec<OsString> {
    let words = text.strip_suffix(b"\0").unwrap_or(text).split(|byte| *byte == 0);
    words.map(|word| OsString::from_vec(word.to_vec())).collect()
}

fn variables(text: &[u8]) -> Vec<(OsString, OsString)> {
    let pair = |entry: &[u8]| {
        let equals = entry.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
        Some((OsStr::from_bytes(&entry[..equals]).to_owned(), OsStr::from_bytes(&entry[equals + 1..]).to_owned()))
    };
    text.split(|byte| *byte == 0).filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_variables_of_a_process() {
        assert_eq!(words(b"zdsup\0run\0--\0a b\0\0"), ["zdsup", "run", "--", "a b", ""]);
        let pairs = variables(b"A=1\0B=\0=x\0nonsense\0C=a=b\0");
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.to_str(), value.to_str())).collect();
        assert_eq!(pairs, [("A", "1"), ("B", ""), ("C", "a=b")].map(|(name, value)| (Some(name), Some(value))));
    }

    #[test]
    fn which_service_is_meant() {
        let text = "[service.api]\ncommand = [\"/api\"]\n[service.web]\ncommand = [\"/web\"]\n";
        let meant = |name| {
            let config = config::parse(text, Path::new("/etc/zdsup/web.toml"), None).expect("a config");
            Meant::of(config, name, Path::new("/"), Vec::new())
        };
        let web = meant(Some("web")).expect("there is one").service;
        assert_eq!((web.name.as_str(), web.working_directory.as_deref()), ("web", Some(Path::new("/"))));
        let said = |name| meant(name).expect_err("refused").to_string();
        assert_eq!(said(None), "zdsup: error: the config has several services\nhint: say which: api, web\n");
        assert_eq!(said(Some("db")), "zdsup: error: there is no service db\nhint: the config has api, web\n");
    }
}
