use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{Shutdown, shutdown};
use std::os::fd::AsRawFd;

use super::*;
use crate::sys::tests::directory;

fn tcp(address: &str) -> Endpoint {
    Endpoint::Tcp(address.parse().unwrap())
}

fn unix(kind: UnixKind, path: &Path) -> Endpoint {
    Endpoint::Unix { kind, name: UnixName::Path(path.to_owned()) }
}

fn bound(endpoint: &Endpoint) -> Bound {
    bind(endpoint, &Options::default()).unwrap()
}

fn address(bound: &Bound) -> SocketAddr {
    match bound.endpoint {
        Endpoint::Tcp(address) | Endpoint::Udp(address) => address,
        _ => panic!("{}", bound.endpoint),
    }
}

fn hidden(path: &Path) -> PathBuf {
    path.with_file_name(format!(".{}.zdsup", path.file_name().unwrap().to_str().unwrap()))
}

fn shut_down(bound: &Bound) {
    let _ = shutdown(bound.fd.as_raw_fd(), Shutdown::Both);
}

#[test]
fn endpoints_read_as_users_type_them() {
    let shown = [
        (tcp("127.0.0.1:80"), "127.0.0.1:80"),
        (tcp("[::1]:80"), "[::1]:80"),
        (Endpoint::Udp("0.0.0.0:53".parse().unwrap()), "udp:0.0.0.0:53"),
        (unix(UnixKind::Stream, Path::new("/run/a")), "unix:/run/a"),
        (unix(UnixKind::Datagram, Path::new("/run/a")), "unix-dgram:/run/a"),
        (unix(UnixKind::Seqpacket, Path::new("/run/a")), "unix-seqpacket:/run/a"),
        (Endpoint::Unix { kind: UnixKind::Stream, name: UnixName::Abstract(b"x".to_vec()) }, "unix:@x"),
        (Endpoint::Vsock { cid: 3, port: 9 }, "vsock:3:9"),
    ];
    for (endpoint, text) in shown {
        assert_eq!(endpoint.to_string(), text);
    }
}

#[test]
fn a_tcp_listener_is_blocking_close_on_exec_and_takes_connections() {
    let listener = bound(&tcp("127.0.0.1:0"));
    assert_ne!(address(&listener).port(), 0);
    assert!(!listener.is_nonblocking().unwrap());
    let flags = fcntl(&listener, nix::fcntl::F_GETFD).unwrap();
    assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.is_nonblocking().unwrap());
    listener.set_nonblocking(false).unwrap();
    assert!(!listener.is_nonblocking().unwrap());
    assert_eq!(listener.queue().unwrap().0, 0);
    let _first = TcpStream::connect(address(&listener)).unwrap();
    let _second = TcpStream::connect(address(&listener)).unwrap();
    assert_eq!(listener.queue().unwrap().0, 2);
}

#[test]
fn the_unspecified_ipv6_address_takes_ipv4_unless_told_otherwise() {
    if !has_ipv6() {
        eprintln!("skipped: there is no IPv6 here");
        return;
    }
    let both = bound(&tcp("[::]:0"));
    TcpStream::connect((Ipv4Addr::LOCALHOST, address(&both).port())).unwrap();
    let only = bind(&tcp("[::]:0"), &Options { only_v6: Some(true), ..Options::default() }).unwrap();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, address(&only).port())).is_err());
}

#[test]
fn options_are_set() {
    let options = Options {
        backlog: 7,
        reuse_port: true,
        free_bind: true,
        no_delay: true,
        keep_alive: true,
        defer_accept: Some(1),
        fast_open: Some(5),
        receive_buffer: Some(20_000),
        send_buffer: Some(30_000),
        ..Options::default()
    };
    let listener = bind(&tcp("127.0.0.1:0"), &options).unwrap();
    assert_eq!(listener.queue(), Some((0, 7)));
    assert!(getsockopt(&listener, sockopt::ReusePort).unwrap());
    assert!(getsockopt(&listener, sockopt::IpFreebind).unwrap());
    assert!(getsockopt(&listener, sockopt::TcpNoDelay).unwrap());
    assert!(getsockopt(&listener, sockopt::KeepAlive).unwrap());
    assert_eq!(getsockopt(&listener, sockopt::RcvBuf).unwrap(), 40_000);
    assert_eq!(getsockopt(&listener, sockopt::SndBuf).unwrap(), 60_000);
    // Everything back, on the live socket.
    assert_eq!(listener.apply(&Options { backlog: 9, ..Options::default() }), [""; 0]);
    assert_eq!(listener.queue(), Some((0, 9)));
    assert!(!getsockopt(&listener, sockopt::TcpNoDelay).unwrap());
    assert!(!getsockopt(&listener, sockopt::KeepAlive).unwrap());
    assert!(!getsockopt(&listener, sockopt::ReusePort).unwrap());
}

#[test]
fn what_cannot_change_on_a_live_socket_is_named() {
    if !has_ipv6() {
        eprintln!("skipped: there is no IPv6 here");
        return;
    }
    let listener = bound(&tcp("[::]:0"));
    let device = Some("no-such-device".to_owned());
    let wanted = Options { only_v6: Some(true), bind_to_device: device, ..Options::default() };
    assert_eq!(listener.apply(&wanted), ["only-v6", "bind-to-device"]);
    assert_eq!(listener.apply(&Options::default()), [""; 0]);
    assert_eq!(bound(&tcp("[::1]:0")).apply(&Options::default()), [""; 0]);
}

#[test]
fn an_option_that_is_refused_is_named() {
    let options = Options { bind_to_device: Some("no-such-device".to_owned()), ..Options::default() };
    let error = bind(&tcp("127.0.0.1:0"), &options).unwrap_err();
    assert_eq!(error.to_string(), "bind 127.0.0.1:0: set bind-to-device: no such device");
}

#[test]
fn udp_receives() {
    let socket = bound(&Endpoint::Udp("127.0.0.1:0".parse().unwrap()));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"hello", address(&socket)).unwrap();
    let server = UdpSocket::from(socket.fd.try_clone().unwrap());
    assert_eq!(server.recv(&mut [0; 9]).unwrap(), 5);
    assert_eq!(socket.queue(), None);
    assert!(!socket.endpoint.is_stream());
}

#[test]
fn an_address_in_use_names_its_holder() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Endpoint::Tcp(holder.local_addr().unwrap());
    let error = bind(&endpoint, &Options::default()).unwrap_err();
    assert_eq!(error.cause, BindCause::InUse);
    assert_eq!(error.error.kind(), io::ErrorKind::AddrInUse);
    let Some(who) = &error.holder else {
        eprintln!("skipped: this kernel has no tcp_diag");
        return;
    };
    // Children have copies: ours comes first.
    assert_eq!(who, "this supervisor itself");
    assert_eq!(error.to_string(), format!("bind {endpoint}: the address is in use by {who}"));
    assert!(error.hint().unwrap().starts_with("another listener has it"));
    let error = BindError { holder: Some("nginx, pid 123".into()), ..error };
    assert_eq!(error.hint().unwrap(), "stop nginx, pid 123, or choose another address");
}

#[test]
fn a_port_shared_by_some_only_is_said() {
    let shared = Options { reuse_port: true, ..Options::default() };
    let holder = bind(&tcp("127.0.0.1:0"), &shared).unwrap();
    let error = bind(&holder.endpoint, &Options::default()).unwrap_err();
    assert_eq!(error.cause, BindCause::MixedReusePort { ours: false });
    assert!(error.hint().unwrap().contains("add reuse-port"));
    bind(&holder.endpoint, &shared).unwrap();

    let holder = bound(&tcp("127.0.0.1:0"));
    let error = bind(&holder.endpoint, &shared).unwrap_err();
    assert_eq!(error.cause, BindCause::MixedReusePort { ours: true });
    assert!(error.hint().unwrap().contains("take reuse-port away"));
}

#[test]
fn an_address_of_others_is_said() {
    let error = bind(&tcp("192.0.2.1:0"), &Options::default()).unwrap_err();
    assert_eq!(error.to_string(), "bind 192.0.2.1:0: it is not an address of this host");
    assert!(error.hint().unwrap().contains("free-bind"));
    bind(&tcp("192.0.2.1:0"), &Options { free_bind: true, ..Options::default() }).unwrap();
    let endpoint = Endpoint::Vsock { cid: 77, port: 9 };
    let error = io::Error::from_raw_os_error(libc::EADDRNOTAVAIL);
    let error = BindError { endpoint, error, holder: None, cause: BindCause::NotOurAddress };
    assert!(error.hint().unwrap().contains("vsock_loopback"));
}

#[test]
fn a_privileged_port_is_said() {
    if nix::unistd::geteuid().is_root() {
        eprintln!("skipped: root may bind any port");
        return;
    }
    let error = bind(&tcp("127.0.0.1:1"), &Options::default()).unwrap_err();
    assert!(matches!(error.cause, BindCause::PrivilegedPort { .. }));
    assert!(error.hint().unwrap().contains("CAP_NET_BIND_SERVICE"));
}

#[test]
fn every_kind_of_unix_socket_listens() {
    let home = directory("socket");
    for (kind, name) in [(UnixKind::Stream, "s"), (UnixKind::Datagram, "d"), (UnixKind::Seqpacket, "p")] {
        let endpoint = unix(kind, &home.path().join(name));
        let socket = bound(&endpoint);
        assert_eq!(socket.endpoint, endpoint);
        assert_eq!(bind(&endpoint, &Options::default()).unwrap_err().cause, BindCause::InUse);
        assert_eq!(socket.queue().is_some(), kind != UnixKind::Datagram);
        let abstract_name = format!("zdsup-test-{}-{name}", std::process::id()).into_bytes();
        let endpoint = Endpoint::Unix { kind, name: UnixName::Abstract(abstract_name) };
        let socket = bound(&endpoint);
        assert_eq!(socket.endpoint, endpoint);
        assert_eq!(bind(&endpoint, &Options::default()).unwrap_err().cause, BindCause::InUse);
    }
}

#[test]
fn a_unix_socket_in_use_names_its_holder() {
    let home = directory("socket");
    let path = home.path().join("web");
    let _holder = UnixListener::bind(&path).unwrap();
    let error = bind(&unix(UnixKind::Stream, &path), &Options::default()).unwrap_err();
    assert_eq!(error.cause, BindCause::InUse);
    match error.holder {
        Some(who) => assert_eq!(who, "this supervisor itself"),
        None => eprintln!("skipped in part: this kernel has no unix_diag"),
    }
}

#[test]
fn a_stale_file_is_replaced_and_any_other_kept() {
    let home = directory("socket");
    let path = home.path().join("web");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let socket = bound(&unix(UnixKind::Stream, &path));
    UnixStream::connect(&path).unwrap();
    drop(socket);
    // Of another kind, and dead as well.
    let socket = bound(&unix(UnixKind::Datagram, &path));
    UnixDatagram::unbound().unwrap().send_to(b"x", &path).unwrap();
    let error = bind(&unix(UnixKind::Stream, &path), &Options::default()).unwrap_err();
    assert_eq!(error.cause, BindCause::InUse, "one of another kind that lives");
    drop(socket);

    let file = home.path().join("file");
    fs::write(&file, "precious").unwrap();
    let error = bind(&unix(UnixKind::Stream, &file), &Options::default()).unwrap_err();
    assert_eq!(error.to_string(), format!("bind unix:{0}: {0} exists and is not a socket", file.display()));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let link = home.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let error = bind(&unix(UnixKind::Stream, &link), &Options::default()).unwrap_err();
    assert_eq!(error.cause, BindCause::NotASocket(link));
}

#[test]
fn directories_and_names_that_do_not_do_are_said() {
    let home = directory("socket");
    let missing = home.path().join("no/such");
    let error = bind(&unix(UnixKind::Stream, &missing.join("web")), &Options::default()).unwrap_err();
    assert_eq!(error.cause, BindCause::DirectoryMissing(missing.clone()));
    assert_eq!(error.hint().unwrap(), format!("create {}", missing.display()));
    let long = home.path().join("x".repeat(108));
    let error = bind(&unix(UnixKind::Stream, &long), &Options::default()).unwrap_err();
    assert_eq!(error.cause, BindCause::PathTooLong);
    if nix::unistd::geteuid().is_root() {
        eprintln!("skipped in part: root may write anywhere");
        return;
    }
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let error = bind(&unix(UnixKind::Stream, &home.path().join("web")), &Options::default()).unwrap_err();
    assert_eq!(error.cause, BindCause::DirectoryNotWritable(home.path().to_owned()));
}

#[test]
fn mode_and_owner_are_set_and_changed() {
    let home = directory("socket");
    for (kind, name) in [(UnixKind::Stream, "s"), (UnixKind::Datagram, "d")] {
        let path = home.path().join(name);
        let own = nix::unistd::getegid().as_raw();
        let options = Options { mode: Some(0o662), gid: Some(own), ..Options::default() };
        let socket = bind(&unix(kind, &path), &options).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.mode() & 0o7777, found.gid()), (0o662, own));
        assert_eq!(socket.apply(&Options { mode: Some(0o600), ..Options::default() }), [""; 0]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        if nix::unistd::geteuid().is_root() {
            assert_eq!(socket.apply(&Options { uid: Some(4711), ..Options::default() }), [""; 0]);
            assert_eq!(fs::metadata(&path).unwrap().uid(), 4711);
        }
    }
}

#[test]
fn a_path_that_was_removed_comes_back() {
    let home = directory("socket");
    let path = home.path().join("web");
    let socket = bound(&unix(UnixKind::Stream, &path));
    assert!(!socket.restore_path().unwrap(), "nothing to do");
    fs::remove_file(&path).unwrap();
    assert!(socket.restore_path().unwrap());
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"x").unwrap();
    let server = UnixListener::from(socket.fd.try_clone().unwrap());
    server.accept().unwrap().0.read_exact(&mut [0]).unwrap();
    fs::rename(&path, home.path().join("elsewhere")).unwrap();
    assert!(socket.restore_path().unwrap());
    // What somebody else put there is theirs.
    fs::remove_file(&path).unwrap();
    fs::write(&path, "theirs").unwrap();
    assert!(!socket.restore_path().unwrap());
    socket.remove_files();
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs");
    fs::remove_file(&path).unwrap();
    assert!(socket.restore_path().is_err(), "the hidden link is gone");
}

#[test]
fn files_stay_until_they_are_to_go() {
    let home = directory("socket");
    let path = home.path().join("web");
    let socket = bound(&unix(UnixKind::Stream, &path));
    assert!(hidden(&path).exists());
    drop(socket);
    assert!(path.exists() && !hidden(&path).exists());
    let socket = bound(&unix(UnixKind::Stream, &path));
    socket.remove_files();
    assert!(!path.exists() && !hidden(&path).exists());
    // What a predecessor that was killed left behind goes, and its link with it.
    drop(UnixListener::bind(&path).unwrap());
    fs::rename(&path, hidden(&path)).unwrap();
    let socket = bound(&unix(UnixKind::Stream, &path));
    assert_eq!(fs::metadata(hidden(&path)).unwrap().ino(), fs::metadata(&path).unwrap().ino());
    drop(socket);
}

#[test]
fn inherited_sockets_are_recognised() {
    let home = directory("socket");
    let path = home.path().join("web");
    let listener = UnixListener::bind(&path).unwrap();
    let socket = Bound::from_inherited(listener.into()).unwrap();
    assert_eq!(socket.endpoint, unix(UnixKind::Stream, &path));
    fs::remove_file(&path).unwrap();
    assert!(socket.restore_path().unwrap());
    socket.remove_files();
    assert!(path.exists(), "it is not ours to remove");
    assert!(!hidden(&path).exists());

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    assert_eq!(Bound::from_inherited(listener.into()).unwrap().endpoint, Endpoint::Tcp(at));
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = udp.local_addr().unwrap();
    assert_eq!(Bound::from_inherited(udp.into()).unwrap().endpoint, Endpoint::Udp(at));
}

#[test]
fn what_is_no_listener_is_not_inherited() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let error = Bound::from_inherited(connection.into()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(Bound::from_inherited(fs::File::open("/dev/null").unwrap().into()).is_err());
    let (left, _right) = UnixStream::pair().unwrap();
    assert!(Bound::from_inherited(left.into()).is_err());
}

#[test]
fn a_listener_that_was_shut_down_is_seen_and_healed() {
    // A port that was asked for, and one that the kernel chose, which it takes back at the shutdown.
    let chosen = bound(&tcp("127.0.0.1:0"));
    let asked = {
        let free = bound(&tcp("127.0.0.1:0"));
        let endpoint = free.endpoint.clone();
        drop(free);
        bound(&endpoint)
    };
    for listener in [chosen, asked] {
        assert!(!listener.is_shut_down());
        shut_down(&listener);
        assert!(listener.is_shut_down());
        assert!(TcpStream::connect(address(&listener)).is_err());
        listener.listen_again().unwrap();
        assert!(!listener.is_shut_down());
        TcpStream::connect(address(&listener)).unwrap();
        assert_eq!(Endpoint::of(listener.as_fd()).unwrap(), listener.endpoint);
        assert_eq!(listener.queue().unwrap().1, Options::default().backlog.min(somaxconn()));
    }
}

#[test]
fn others_that_were_shut_down_are_seen() {
    let home = directory("socket");
    let sockets = [
        bound(&Endpoint::Udp("127.0.0.1:0".parse().unwrap())),
        bound(&unix(UnixKind::Stream, &home.path().join("s"))),
        bound(&unix(UnixKind::Seqpacket, &home.path().join("p"))),
        bound(&unix(UnixKind::Datagram, &home.path().join("d"))),
    ];
    for socket in sockets {
        assert!(!socket.is_shut_down(), "{}", socket.endpoint);
        shut_down(&socket);
        assert!(socket.is_shut_down(), "{}", socket.endpoint);
    }
}

fn somaxconn() -> u32 {
    fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap()
}
