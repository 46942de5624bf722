//! Listeners: names, addresses, and options that fit them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::super::address::{Address, AddressError, Inet};
use super::super::{Listen, ListenOptions, raw, units};
use super::{Origin, Problem, Result, account, at, check_name, duration, number, octal, optional};
use crate::sys::socket::{UnixKind, UnixName};

/// The listeners of a service, in order. Those without a name are called after the service: `web`, `web-2`, `web-3`.
///
/// `steered`: where that is asked for.
pub(super) fn listeners(
    service: &str,
    raw: Vec<Spanned<raw::Listen>>,
    steered: Option<Range<usize>>,
    origin: Origin<'_>,
) -> Result<Vec<Listen>> {
    if let Some(traffic) = steered.clone().filter(|_| raw.is_empty()) {
        return Err(Problem::new(traffic, "there is no listener whose traffic could be steered").hint(
            origin.either("add one for TCP: `[[service.web.listen]]` with `address = \"8080\"`", "add `--listen 8080`"),
        ));
    }
    let mut listeners: Vec<(Listen, Places)> = Vec::new();
    let mut unnamed = 0_u32;
    for raw in raw {
        let (span, places) = (raw.span(), Places::of(&raw));
        let raw = raw.into_inner();
        let address = match &raw.address {
            Some(text) => address(text, origin)?,
            None => {
                return Err(Problem::new(span, "the listener has no address").hint("add one: `address = \"8080\"`"));
            }
        };
        if let Some(traffic) = &steered {
            check_steered(&raw, &address, &places, traffic, origin)?;
        }
        let name = match &raw.name {
            Some(name) => {
                check_name(name, "a listener's name")?;
                name.get_ref().clone()
            }
            None => {
                unnamed += 1;
                if unnamed == 1 { service.to_owned() } else { format!("{service}-{unnamed}") }
            }
        };
        let listener = Listen { name, options: options(raw, &address)?, address };
        for (other, their_places) in &listeners {
            check_distinct(&listener, &places, other, their_places)?;
        }
        listeners.push((listener, places));
    }
    Ok(listeners.into_iter().map(|(listener, _)| listener).collect())
}

/// Where a listener says what it is: it itself where it does not.
pub(super) struct Places {
    name: Range<usize>,
    address: Range<usize>,
}

impl Places {
    pub(super) fn of(raw: &Spanned<raw::Listen>) -> Self {
        let listener = raw.get_ref();
        let place = |text: &Option<Spanned<String>>| text.as_ref().map_or(raw.span(), Spanned::span);
        Self { name: place(&listener.name), address: place(&listener.address) }
    }
}

fn address(text: &Spanned<String>, origin: Origin<'_>) -> Result<Address> {
    let parsed = match origin {
        Origin::File => text.get_ref().parse(),
        Origin::Flags { directory } => Address::parse_in(text.get_ref(), directory),
    };
    parsed.map_err(|error: AddressError| Problem::new(text.span(), error.to_string()).hint(error.hint()))
}

fn check_distinct(one: &Listen, places: &Places, other: &Listen, their_places: &Places) -> Result<()> {
    if one.name == other.name {
        return Err(Problem::new(places.name.clone(), format!("a second listener called `{}`", one.name))
            .also(their_places.name.clone(), "the first one")
            .hint("give each listener a name of its own"));
    }
    check_apart(one, places, other, their_places)
}

/// Refuses two listeners of which only one could be bound.
pub(super) fn check_apart(one: &Listen, places: &Places, other: &Listen, their_places: &Places) -> Result<()> {
    // The kernel gives each of them a port of its own.
    if one.address.is_ephemeral() {
        return Ok(());
    }
    if one.address.is_same(&other.address) {
        return Err(Problem::new(places.address.clone(), format!("a second listener on `{}`", one.address))
            .also(their_places.address.clone(), "the first one")
            .hint("remove one: a service can accept from one listener in as many places as it likes"));
    }
    if let Some((wide, narrow)) = overlap(one, other) {
        return Err(Problem::new(places.address.clone(), format!("`{wide}` includes `{narrow}`"))
            .also(their_places.address.clone(), "the other listener")
            .hint("remove the narrower one, or choose another port"));
    }
    Ok(())
}

/// Refuses what cannot be in a group of sockets among which the kernel chooses by a program.
fn check_steered(
    raw: &raw::Listen,
    address: &Address,
    places: &Places,
    traffic: &Range<usize>,
    origin: Origin<'_>,
) -> Result<()> {
    let reason = match address {
        Address::Tcp(_) => {
            return match &raw.reuse_port {
                None => Ok(()),
                Some(reuse_port) => Err(Problem::new(reuse_port.span(), "steered traffic has SO_REUSEPORT by itself")
                    .also(traffic.clone(), "steered")
                    .hint("remove it")),
            };
        }
        Address::Udp(_) => "UDP with steered traffic is refused for now",
        Address::Unix { .. } => "unix sockets have no SO_REUSEPORT groups",
        Address::Vsock { .. } => "vsock has no SO_REUSEPORT groups",
    };
    let shared = origin.either("traffic = \"shared\"", "--traffic shared");
    let instead = origin.either("give this listener to another service", "leave this listener out");
    Err(Problem::new(places.address.clone(), format!("only TCP can be steered, and the address is `{address}`"))
        .also(traffic.clone(), "steered")
        .hint(format!("{reason}: write `{shared}`, or {instead}")))
}

/// Two TCP listeners of which one takes every address of the machine, so that the other cannot be bound.
fn overlap<'a>(one: &'a Listen, other: &'a Listen) -> Option<(&'a Address, &'a Address)> {
    let (Address::Tcp(a), Address::Tcp(b)) = (&one.address, &other.address) else { return None };
    if a.port() != b.port() || (one.options.reuse_port && other.options.reuse_port) {
        return None;
    }
    if covers(a, one.options.only_v6, b) {
        Some((&one.address, &other.address))
    } else if covers(b, other.options.only_v6, a) {
        Some((&other.address, &one.address))
    } else {
        None
    }
}

fn covers(wide: &Inet, only_v6: Option<bool>, narrow: &Inet) -> bool {
    let Inet::Addr(narrow) = narrow else { return false };
    match wide {
        Inet::Any { .. } => only_v6 != Some(true) || narrow.is_ipv6(),
        Inet::Addr(wide) if wide.ip() == Ipv4Addr::UNSPECIFIED => narrow.is_ipv4(),
        Inet::Addr(wide) if wide.ip() == Ipv6Addr::UNSPECIFIED => narrow.is_ipv6() || only_v6 == Some(false),
        Inet::Addr(_) | Inet::Host { .. } => false,
    }
}

fn options(raw: raw::Listen, address: &Address) -> Result<ListenOptions> {
    let fit = Fit { address };
    let backlog = optional(raw.backlog, |backlog| {
        fit.stream(&backlog)?;
        number(&backlog, 1..=i32::MAX.into(), "the backlog")
    })?;
    Ok(ListenOptions {
        backlog: backlog.or(fit.is_stream().then_some(ListenOptions::BACKLOG)),
        reuse_port: fit.switch(raw.reuse_port, Fit::inet)?,
        only_v6: optional(raw.only_v6, |only| fit.v6(&only).map(|()| only.into_inner()))?,
        free_bind: fit.switch(raw.free_bind, Fit::inet)?,
        transparent: fit.switch(raw.transparent, Fit::inet)?,
        no_delay: fit.switch(raw.no_delay, Fit::tcp)?,
        keep_alive: fit.switch(raw.keep_alive, Fit::tcp)?,
        defer_accept: optional(raw.defer_accept, |time| {
            fit.tcp(&time)?;
            let span = time.span();
            match duration(&time)? {
                time if time >= Duration::from_secs(1) && time.subsec_nanos() == 0 => Ok(time),
                _ => {
                    Err(Problem::new(span, "the kernel counts this time in whole seconds").hint("write at least `1s`"))
                }
            }
        })?,
        fast_open: optional(raw.fast_open, |queue| {
            fit.tcp(&queue)?;
            number(&queue, 1..=i32::MAX.into(), "the queue's length")
        })?,
        receive_buffer: optional(raw.receive_buffer, |size| buffer(&size))?,
        send_buffer: optional(raw.send_buffer, |size| buffer(&size))?,
        bind_to_device: optional(raw.bind_to_device, |device| {
            fit.inet(&device)?;
            interface(device)
        })?,
        mode: optional(raw.mode, |mode| {
            fit.file(&mode)?;
            octal(&mode)
        })?,
        user: optional(raw.user, |user| {
            fit.file(&user)?;
            account(user)
        })?,
        group: optional(raw.group, |group| {
            fit.file(&group)?;
            account(group)
        })?,
    })
}

fn buffer(size: &Spanned<raw::Amount>) -> Result<u32> {
    let text = match size.get_ref() {
        raw::Amount::Number(number) => number.to_string(),
        raw::Amount::Text(text) => text.clone(),
    };
    let bytes = units::size(&text).map_err(at(size.span()))?;
    u32::try_from(bytes).ok().filter(|bytes| (1..=i32::MAX.unsigned_abs()).contains(bytes)).ok_or_else(|| {
        Problem::new(size.span(), format!("a buffer cannot have `{text}` bytes")).hint("from 1 byte to just below 2G")
    })
}

/// A network interface's name: shorter than IFNAMSIZ, netdevice(7).
fn interface(device: Spanned<String>) -> Result<String> {
    let name = device.get_ref();
    let fits =
        (1..16).contains(&name.len()) && !name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control());
    if !fits {
        let message = format!("`{}` cannot be a network interface", name.escape_debug());
        return Err(Problem::new(device.span(), message).hint("write a name as `ip link` shows it, such as `eth0`"));
    }
    Ok(device.into_inner())
}

/// Which options make sense for an address.
struct Fit<'a> {
    address: &'a Address,
}

impl Fit<'_> {
    fn switch(
        &self,
        value: Option<Spanned<bool>>,
        fits: impl FnOnce(&Self, &Spanned<bool>) -> Result<()>,
    ) -> Result<bool> {
        match value {
            Some(value) => fits(self, &value).map(|()| value.into_inner()),
            None => Ok(false),
        }
    }

    fn is_stream(&self) -> bool {
        !matches!(self.address, Address::Udp(_) | Address::Unix { kind: UnixKind::Datagram, .. })
    }

    fn stream<T>(&self, option: &Spanned<T>) -> Result<()> {
        self.only_if(self.is_stream(), option, "sockets that accept connections")
    }

    fn inet<T>(&self, option: &Spanned<T>) -> Result<()> {
        self.only_if(matches!(self.address, Address::Tcp(_) | Address::Udp(_)), option, "TCP and UDP")
    }

    fn tcp<T>(&self, option: &Spanned<T>) -> Result<()> {
        self.only_if(matches!(self.address, Address::Tcp(_)), option, "TCP")
    }

    fn v6<T>(&self, option: &Spanned<T>) -> Result<()> {
        let fits = match self.address {
            Address::Tcp(inet) | Address::Udp(inet) => !matches!(inet, Inet::Addr(SocketAddr::V4(_))),
            Address::Unix { .. } | Address::Vsock { .. } => false,
        };
        self.only_if(fits, option, "IPv6")
    }

    fn file<T>(&self, option: &Spanned<T>) -> Result<()> {
        let fits = matches!(self.address, Address::Unix { name: UnixName::Path(_), .. });
        self.only_if(fits, option, "unix sockets with a path")
    }

    fn only_if<T>(&self, fits: bool, option: &Spanned<T>, what: &str) -> Result<()> {
        if fits {
            return Ok(());
        }
        Err(Problem::new(option.span(), format!("this option is for {what}, and the address is `{}`", self.address))
            .hint("remove it"))
    }
}
