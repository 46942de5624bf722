//! A service as it is rehearsed: its program is run as it would be, and nobody is served by it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use super::{Address, Hooks, Inet, Listen, ListenOptions, Log, ResolveError, Restart, Service, Strategy, Upgrade};
use crate::sys::socket::{Endpoint, UnixName};

/// The port of a vsock address for which the kernel chooses one: VMADDR_PORT_ANY, vsock(7).
const ANY_VSOCK_PORT: u32 = u32::MAX;

/// A listener's address cannot be known.
#[derive(Debug, thiserror::Error)]
#[error("listener {name}: {error}")]
pub struct RehearsalError {
    name: String,
    error: ResolveError,
}

impl RehearsalError {
    /// What would mend it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.error.hint()
    }
}

impl Service {
    /// What is run in its place: one process of it, on sockets of its own in `directory` or on the loopback device, which
    /// must stay up for `span` once it is ready. A resolver may be asked, so it can block.
    ///
    /// What is proved is kept: how it gets ready, its health checks, its watchdog, whom it runs as, how it is ended. Its output is captured,
    /// since a log file is the real one's, and no hook is run: a migration is one in earnest.
    ///
    /// # Errors
    /// When the family of a listener's address cannot be known.
    pub fn rehearsed(self, directory: &Path, span: Duration) -> Result<Self, RehearsalError> {
        // Each by name, so that whoever adds one has to say what becomes of it here.
        let Self {
            name,
            command,
            instances: _,
            traffic,
            after: _,
            working_directory,
            environment,
            environment_file,
            clear_environment,
            non_blocking,
            privileges,
            log: _,
            listen,
            listen_pid,
            fd_store_max,
            ready,
            health,
            watchdog,
            upgrade: Upgrade { strategy: _, soak: _, max_draining, keep_releases: _, probe },
            drain,
            restart,
            hooks: _,
        } = self;
        let listen = listen.into_iter().enumerate();
        Ok(Self {
            name,
            command,
            instances: 1,
            // A health check may need to be steered to it.
            traffic,
            after: Vec::new(),
            working_directory,
            environment,
            environment_file,
            clear_environment,
            non_blocking,
            privileges,
            log: Log::Capture,
            listen: listen.map(|(place, listen)| listen.rehearsed(directory, place)).collect::<Result<_, _>>()?,
            listen_pid,
            fd_store_max,
            ready,
            health,
            watchdog,
            upgrade: Upgrade { strategy: Strategy::Overlap, soak: span, max_draining, keep_releases: 0, probe },
            drain,
            restart: Restart { give_up_after: 1, ..restart },
            hooks: Hooks::default(),
        })
    }
}

impl Listen {
    fn rehearsed(self, directory: &Path, place: usize) -> Result<Self, RehearsalError> {
        let Self { name, address, options } = self;
        match address.private(&directory.join(place.to_string())) {
            // What is about the real address could keep callers, or the socket itself, from the other one.
            Ok(address) => {
                let options = ListenOptions { free_bind: false, transparent: false, bind_to_device: None, ..options };
                Ok(Self { name, address, options })
            }
            Err(error) => Err(RehearsalError { name, error }),
        }
    }
}

impl Address {
    /// One of the same kind that nobody knows: a port that the kernel chooses, on the loopback device and of the same
    /// family; this path.
    fn private(self, path: &Path) -> Result<Self, ResolveError> {
        Ok(match self {
            Self::Tcp(_) | Self::Udp(_) => match self.resolve()? {
                Endpoint::Udp(real) => Self::Udp(loopback(real.ip())),
                Endpoint::Tcp(real) => Self::Tcp(loopback(real.ip())),
                // They are not what these resolve to.
                Endpoint::Unix { .. } | Endpoint::Vsock { .. } => self,
            },
            Self::Unix { kind, name: _ } => Self::Unix { kind, name: UnixName::Path(path.to_owned()) },
            Self::Vsock { cid, port: _ } => Self::Vsock { cid, port: ANY_VSOCK_PORT },
        })
    }
}

/// IPv4 also where the loopback device has no IPv6 address.
fn loopback(real: IpAddr) -> Inet {
    let v6 = real.is_ipv6() && UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let ip = if v6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
    Inet::Addr((ip, 0).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(text: &str) -> Service {
        let config = super::super::parse(text, Path::new("/etc/zdsup/web.toml"), None).expect("a config");
        config.services.into_iter().next().expect("there is one")
    }

    #[test]
    fn no_listener_is_where_the_real_one_is() {
        let mut text = "[service.web]\ncommand = [\"/web\"]\n".to_owned();
        let addresses = ["127.0.0.1:80", "udp:0.0.0.0:53", "[::1]:81", "unix:/run/web", "unix-dgram:@web", "vsock:3:5"];
        for (place, address) in addresses.iter().enumerate() {
            text += &format!("[[service.web.listen]]\nname = \"l{place}\"\naddress = \"{address}\"\n");
        }
        let rehearsed = service(&text).rehearsed(Path::new("/tmp/r"), Duration::from_secs(5)).expect("addresses");
        let shown = |place: usize| rehearsed.listen[place].address.to_string();
        let (v4, v6) = ("127.0.0.1:0", if UdpSocket::bind("[::1]:0").is_ok() { "[::1]:0" } else { "127.0.0.1:0" });
        assert_eq!([shown(0), shown(1), shown(2)], [v4.to_owned(), format!("udp:{v4}"), v6.to_owned()]);
        assert_eq!([shown(3), shown(4)], ["unix:/tmp/r/3", "unix-dgram:/tmp/r/4"]);
        assert_eq!(shown(5), format!("vsock:3:{}", u32::MAX));
        assert!(rehearsed.listen.iter().zip(0..).all(|(listen, place)| listen.name == format!("l{place}")));
    }

    #[test]
    fn what_is_proved_is_kept_and_what_is_about_others_is_not() {
        let real = service(
            "[service.web]\ncommand = [\"/web\"]\ninstances = 8\ntraffic = \"steered\"\nlog = { file = \"/var/log/web\" }\n\
             listen = [{ address = \"127.0.0.1:80\", bind-to-device = \"eth0\", backlog = 7 }]\n\
             ready = { timeout = \"3s\" }\nupgrade = { strategy = \"blue-green\", soak = \"1m\" }\n\
             drain = { signal = \"SIGQUIT\" }\nhooks = { before-start = [[\"/migrate\"]] }\n\
             health = { http = \"/healthz\" }\n",
        );
        let rehearsed = real.clone().rehearsed(Path::new("/tmp/r"), Duration::from_secs(5)).expect("addresses");
        assert_eq!((rehearsed.instances, &rehearsed.log, &rehearsed.hooks), (1, &Log::Capture, &Hooks::default()));
        assert_eq!((rehearsed.traffic, &rehearsed.health), (real.traffic, &real.health));
        assert!(rehearsed.health.is_some() && rehearsed.hooks != real.hooks);
        assert_eq!((&rehearsed.upgrade.strategy, rehearsed.upgrade.soak), (&Strategy::Overlap, Duration::from_secs(5)));
        assert_eq!((&rehearsed.ready, &rehearsed.drain), (&real.ready, &real.drain));
        let options = &rehearsed.listen[0].options;
        assert_eq!((options.backlog, &options.bind_to_device), (Some(7), &None));
        assert_eq!(rehearsed.restart.give_up_after, 1);
    }

    #[test]
    fn a_name_that_means_nothing_is_said() {
        let real = service("[service.web]\ncommand = [\"/web\"]\nlisten = [{ address = \"nothing.invalid:80\" }]\n");
        let error = real.rehearsed(Path::new("/tmp/r"), Duration::ZERO).expect_err("there is no such host");
        assert!(error.to_string().starts_with("listener web: cannot resolve `nothing.invalid`"), "{error}");
    }
}
