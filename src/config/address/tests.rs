use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::resolve::only_one;
use super::*;
use crate::sys::socket::{Endpoint, has_ipv6};

fn parse(text: &str) -> Address {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refuse(text: &str) -> String {
    match text.parse::<Address>() {
        Ok(address) => panic!("{text} was taken for {address:?}"),
        Err(error) => error.to_string(),
    }
}

fn unix(kind: UnixKind, path: &str) -> Address {
    Address::Unix { kind, name: UnixName::Path(path.into()) }
}

#[test]
fn every_form_parses() {
    let host = |host: &str, port| Inet::Host { host: host.to_owned(), port };
    let table = [
        ("8080", Address::Tcp(Inet::Any { port: 8080 })),
        ("0", Address::Tcp(Inet::Any { port: 0 })),
        ("127.0.0.1:80", Address::Tcp(Inet::Addr(([127, 0, 0, 1], 80).into()))),
        ("[::1]:80", Address::Tcp(Inet::Addr((Ipv6Addr::LOCALHOST, 80).into()))),
        ("localhost:65535", Address::Tcp(host("localhost", 65535))),
        ("my_host.example.com.:1", Address::Tcp(host("my_host.example.com.", 1))),
        ("udp:53", Address::Udp(Inet::Any { port: 53 })),
        ("udp:[::]:53", Address::Udp(Inet::Addr((Ipv6Addr::UNSPECIFIED, 53).into()))),
        ("udp:ns1:53", Address::Udp(host("ns1", 53))),
        ("unix:/run/a b=c:d", unix(UnixKind::Stream, "/run/a b=c:d")),
        ("unix-dgram:/run/x", unix(UnixKind::Datagram, "/run/x")),
        ("unix-seqpacket:/run/x", unix(UnixKind::Seqpacket, "/run/x")),
        ("unix:@zdsup/web", Address::Unix { kind: UnixKind::Stream, name: UnixName::Abstract(b"zdsup/web".to_vec()) }),
        ("vsock:2:5000", Address::Vsock { cid: 2, port: 5000 }),
        ("vsock:4294967295:1", Address::Vsock { cid: u32::MAX, port: 1 }),
    ];
    for (text, address) in table {
        assert_eq!(parse(text), address, "{text}");
        assert_eq!(address.to_string(), text);
    }
    assert_eq!(parse("LocalHost:80"), parse("localhost:80"), "names are one in either case");
    assert_eq!(parse("[fe80::1%2]:80").to_string(), "[fe80::1%2]:80", "a scope is kept");
}

#[test]
fn every_refusal_says_what_is_wrong() {
    let table = [
        ("", "the address is empty"),
        ("udp:", "the address is empty"),
        ("65536", "`65536` is not a port"),
        ("99999999999999999999", "`99999999999999999999` is not a port"),
        ("80x", "`80x` is not a port"),
        ("localhost:http", "`http` is not a port"),
        ("localhost:+80", "`+80` is not a port"),
        ("localhost:", "`` is not a port"),
        ("localhost", "`localhost` has no port"),
        ("127.0.0.1", "`127.0.0.1` has no port"),
        ("[::1]", "`[::1]` has no port"),
        (":8080", "`:8080` has no address before the port"),
        ("*:8080", "`*:8080` has no address before the port"),
        ("::1", "the IPv6 address `::1` is not in brackets"),
        ("::1:8080", "the IPv6 address `::1:8080` is not in brackets"),
        ("256.0.0.1:80", "`256.0.0.1` is not an IP address"),
        ("1.2.3:80", "`1.2.3` is not an IP address"),
        ("[::g]:80", "`[::g]` is not an IP address"),
        ("-a:80", "`-a` is not a host name"),
        ("a b:80", "`a b` is not a host name"),
        ("tcp:8080", "`tcp` is not a kind of address"),
        ("tcp:127.0.0.1:80", "`tcp` is not a kind of address"),
        ("TCP:8080", "`TCP` is not a kind of address"),
        ("Udp:8080", "`Udp` is not a kind of address"),
        ("udp:VSOCK:80", "`VSOCK` is not a kind of address"),
        ("HTTP:80", "`HTTP` is not a kind of address"),
        ("http://localhost:80", "`http` is not a kind of address"),
        ("unixx:/run/x", "`unixx` is not a kind of address"),
        ("udp:unix:/run/x", "`unix:` cannot follow `udp:`"),
        ("unix:", "the socket has no name"),
        ("unix:@", "the socket has no name"),
        ("unix:run/x", "the path `run/x` is relative"),
        ("unix:/run/", "the path `/run/` names a directory"),
        ("unix:/run/..", "the path `/run/..` names a directory"),
        ("unix:/a\0b", "the address contains a NUL byte"),
        ("vsock:2", "`2` is not a context id and a port"),
        ("vsock:any:2", "`any:2` is not a context id and a port"),
        ("vsock:2:-1", "`2:-1` is not a context id and a port"),
    ];
    for (text, message) in table {
        assert_eq!(refuse(text), message, "{text:?}");
    }
}

#[test]
fn a_socket_path_ends_at_107_bytes() {
    let longest = format!("/{}", "x".repeat(106));
    parse(&format!("unix:{longest}"));
    assert_eq!(refuse(&format!("unix:{longest}x")), "the socket's path is 108 bytes long, at most 107 fit");
    parse(&format!("unix:@{}", "x".repeat(107)));
    assert_eq!(refuse(&format!("unix:@{}", "x".repeat(108))), "the abstract name is 108 bytes long, at most 107 fit");
}

#[test]
fn hints_write_the_address_as_it_was_meant() {
    let hint = |text: &str| text.parse::<Address>().expect_err(text).hint();
    assert_eq!(hint("::1:8080"), "write `[::1]:8080`");
    assert_eq!(hint("::1"), "write `[::1]:8080`");
    assert_eq!(hint("Udp:53"), "a kind is written in small letters: `udp:`");
    assert_eq!(hint("localhost"), "add the port: `localhost:8080`");
    assert_eq!(hint("*:80"), "write `80` to listen on every address, or `127.0.0.1:80` for this machine only");
}

#[test]
fn a_relative_path_starts_at_the_given_directory() {
    let address = Address::parse_in("unix:run/web.sock", Path::new("/srv")).expect("an address");
    assert_eq!(address, unix(UnixKind::Stream, "/srv/run/web.sock"));
    let address = Address::parse_in("unix:/run/web.sock", Path::new("/srv")).expect("an address");
    assert_eq!(address, unix(UnixKind::Stream, "/run/web.sock"));
}

#[test]
fn names_are_split_off() {
    assert_eq!(split_listen("8080"), (None, "8080"));
    assert_eq!(split_listen("http=8080"), (Some("http"), "8080"));
    assert_eq!(split_listen("http=unix:/a=b"), (Some("http"), "unix:/a=b"));
    assert_eq!(split_listen("unix:/a=b"), (None, "unix:/a=b"));
    assert_eq!(split_listen("[::1]:80"), (None, "[::1]:80"));
    assert_eq!(split_listen("=8080"), (Some(""), "8080"));
}

#[test]
fn an_address_is_the_same_however_it_is_written() {
    assert!(parse("8080").is_same(&parse("[::]:8080")));
    assert!(parse("unix:/run//a").is_same(&parse("unix:/run/a")));
    assert!(!parse("8080").is_same(&parse("udp:8080")));
    assert!(!parse("8080").is_same(&parse("0.0.0.0:8080")));
    assert!(!parse("unix:/run/a").is_same(&parse("unix-dgram:/run/a")));
}

#[test]
fn addresses_resolve_to_what_they_say() {
    let resolve = |text: &str| parse(text).resolve().unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(resolve("127.0.0.1:80"), Endpoint::Tcp(([127, 0, 0, 1], 80).into()));
    assert_eq!(resolve("udp:[::1]:80"), Endpoint::Udp((Ipv6Addr::LOCALHOST, 80).into()));
    assert_eq!(resolve("vsock:2:80"), Endpoint::Vsock { cid: 2, port: 80 });
    let any = if has_ipv6() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    assert_eq!(resolve("80"), Endpoint::Tcp((any, 80).into()));
}

#[test]
fn a_name_must_mean_one_address() {
    let addresses = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| SocketAddr::new(text.parse().expect("an IP address"), 80))
            .collect::<Vec<_>>()
            .into_iter()
    };
    let one = |texts: &[&str]| only_one("name", addresses(texts)).map(|address| address.ip().to_string());
    assert_eq!(one(&["10.0.0.1", "10.0.0.1"]).expect("one"), "10.0.0.1");
    assert_eq!(one(&["::1", "127.0.0.1"]).expect("loopback"), "127.0.0.1");
    assert_eq!(
        one(&["10.0.0.1", "fd00::1"]).expect_err("two").to_string(),
        "`name` has several addresses: 10.0.0.1, fd00::1"
    );
    assert_eq!(one(&[]).expect_err("none").to_string(), "`name` has no address");
}

fn inet() -> impl Strategy<Value = Inet> {
    prop_oneof![
        any::<u16>().prop_map(|port| Inet::Any { port }),
        any::<(Ipv4Addr, u16)>().prop_map(|(ip, port)| Inet::Addr((ip, port).into())),
        any::<(Ipv6Addr, u16)>().prop_map(|(ip, port)| Inet::Addr((ip, port).into())),
        ("[a-z][a-z0-9_]{0,9}(\\.[a-z][a-z0-9]{0,9}){0,3}", any::<u16>())
            .prop_filter("kinds are not hosts", |(host, _)| {
                !["tcp", "udp", "unix", "http", "https", "vsock"].contains(&host.as_str())
            })
            .prop_map(|(host, port)| Inet::Host { host, port }),
    ]
}

fn address() -> impl Strategy<Value = Address> {
    let kind = prop_oneof![Just(UnixKind::Stream), Just(UnixKind::Datagram), Just(UnixKind::Seqpacket)];
    let name = prop_oneof![
        "(/[^/\0]{0,20}){0,3}/[a-z=:@ ]{1,20}"
            .prop_filter("fits", |path| path.len() <= UNIX_NAME_MAX)
            .prop_map(|path| UnixName::Path(path.into())),
        "[^\0]{1,20}".prop_map(|name| UnixName::Abstract(name.into_bytes())),
    ];
    prop_oneof![
        inet().prop_map(Address::Tcp),
        inet().prop_map(Address::Udp),
        (kind, name).prop_map(|(kind, name)| Address::Unix { kind, name }),
        any::<(u32, u32)>().prop_map(|(cid, port)| Address::Vsock { cid, port }),
    ]
}

proptest! {
    #[test]
    fn what_is_displayed_parses_to_the_same(address in address()) {
        prop_assert_eq!(address.to_string().parse(), Ok(address));
    }

    #[test]
    fn whatever_parses_is_displayed_stably(text in "((udp|unix|unix-dgram|vsock|tcp):)?[\\[\\]0-9a-f:.@/=*%\\PC]{0,30}") {
        match text.parse::<Address>() {
            Ok(address) => prop_assert_eq!(address.to_string().parse(), Ok(address)),
            Err(error) => prop_assert!(!error.to_string().is_empty() && !error.hint().is_empty()),
        }
    }

    #[test]
    fn a_name_before_an_address_is_split_off_again(name in "[A-Za-z0-9_.-]{1,20}", address in address()) {
        let address = address.to_string();
        let text = format!("{name}={address}");
        prop_assert_eq!(split_listen(&text), (Some(name.as_str()), address.as_str()));
    }
}
