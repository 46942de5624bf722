//! Rows: bound, extended, adopted, and in the way of others.

use std::fs;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use nix::sys::socket::getsockopt;

use super::*;
use crate::sys::socket::{BindCause, UnixKind, UnixName, bind};

#[test]
fn a_chosen_port_is_shared_by_all_slots() {
    let row = row(3);
    assert_ne!(row.address().port(), 0);
    for slot in row.slots() {
        assert_eq!(slot.endpoint, Endpoint::Tcp(row.address()));
    }
    assert_eq!(row.order().slots(), slots(&[0, 1, 2]));
    let stream = TcpStream::connect(row.address()).unwrap();
    assert_eq!(accept_all(&row.slots()[0])[0].1, stream.local_addr().unwrap(), "everything goes to the first one");
}

#[test]
fn a_prober_reaches_the_slot_that_it_means() {
    for (address, family) in [
        ("127.0.0.1:0", Family::V4),
        ("127.0.0.9:0", Family::V4),
        ("0.0.0.0:0", Family::V4),
        ("[::1]:0", Family::V6),
        ("[::]:0", Family::Dual),
        ("[::ffff:127.0.0.1]:0", Family::V4),
    ] {
        if address.starts_with('[') && !ipv6() {
            continue;
        }
        let mut row = row_at(address, 4, &Options::default());
        assert_eq!(row.family(), family, "{address}");
        each_slot_is_reached(&mut row);
    }
    if ipv6() {
        let only = Options { only_v6: Some(true), ..Options::default() };
        let mut row = row_at("[::]:0", 3, &only);
        assert_eq!(row.family(), Family::V6);
        each_slot_is_reached(&mut row);
    }
}

#[test]
fn ipv4_clients_of_a_dual_stack_row_are_known() {
    if !ipv6() {
        return;
    }
    let mut row = row_at("[::]:0", 3, &Options::default());
    let client = client_at("127.0.0.7".parse().unwrap());
    let rules = vec![("127.1.0.0/16".parse().unwrap(), 1)];
    let mut division = Division { rules, clients: vec![(address_of(&client), SlotIndex(2))], ..between(0, 1, 0) };
    row.divide(division.clone()).unwrap();
    let target = SocketAddr::new("127.0.0.1".parse().unwrap(), row.address().port());
    let _client = connect(client, target);
    let _stranger = connect(client_at("127.0.0.7".parse().unwrap()), target);
    let _ruled = connect(client_at("127.1.2.3".parse().unwrap()), target);
    assert_eq!(waiting(&row), [1, 1, 1]);
    // As the service sees it, it is mapped.
    let (_, seen) = accept_all(&row.slots()[2])[0];
    division.clients = vec![(seen, SlotIndex(2))];
    assert!(seen.is_ipv6());
    row.divide(division).unwrap();
}

#[test]
fn a_client_is_known_behind_ip_options() {
    let mut row = row(2);
    let client = client_at("127.0.0.1".parse().unwrap());
    // Eight bytes that say nothing (NOP, RFC 791).
    set_bytes(&client, libc::SOL_IP, libc::IP_OPTIONS, &[1; 8]).unwrap();
    row.divide(Division { clients: vec![(address_of(&client), SlotIndex(1))], ..between(0, 1, 0) }).unwrap();
    let _stream = connect(client, row.address());
    assert_eq!(waiting(&row), [0, 1]);
}

#[test]
fn extension_headers_hide_the_port_and_not_the_address() {
    if !ipv6() {
        return;
    }
    let mut row = row_at("[::1]:0", 3, &Options::default());
    let client = client_at("::1".parse().unwrap());
    // Destination options: padding (PadN, RFC 8200).
    if let Err(error) = set_bytes(&client, libc::SOL_IPV6, libc::IPV6_DSTOPTS, &[0, 0, 1, 4, 0, 0, 0, 0]) {
        eprintln!("skipped: {error}");
        return;
    }
    let clients = vec![(address_of(&client), SlotIndex(1))];
    let mut groups = between(0, 1, 0).groups;
    groups.push(Group { percent: 0, slots: slots(&[2]) });
    let rules = vec![("::1".parse().unwrap(), 2)];
    row.divide(Division { clients, rules, groups, ..Division::default() }).unwrap();
    let _stream = connect(client, row.address());
    assert_eq!(waiting(&row), [0, 0, 1]);
}

fn set_bytes(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, bytes: &[u8]) -> std::io::Result<()> {
    // SAFETY: the bytes are live and as long as it says; the kernel only reads them.
    let set = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, bytes.as_ptr().cast(), bytes.len() as u32) };
    crate::sys::answer(set).map(drop)
}

#[test]
fn slots_that_are_appended_get_nothing_before_they_are_named() {
    let mut row = row(1);
    let (address, over) = (row.address(), AtomicBool::new(false));
    thread::scope(|scope| {
        let first = listener(&row.slots()[0]);
        first.set_nonblocking(false).unwrap();
        scope.spawn(|| {
            let first = first;
            while !over.load(Ordering::Relaxed) {
                drop(first.accept().unwrap());
            }
        });
        let client = scope.spawn(|| {
            let mut connections = 0;
            while !over.load(Ordering::Relaxed) {
                reset_at_end(&TcpStream::connect(address).unwrap());
                connections += 1;
            }
            connections
        });
        for _ in 0..100 {
            row.append().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        assert!(client.join().unwrap() > 0);
        let _last = TcpStream::connect(address).unwrap();
    });
    assert_eq!(waiting(&row)[1..], [0; 100]);
}

#[test]
fn a_socket_without_reuseport_gets_it_late() {
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    let bound = Bound::from_inherited(passed.into()).unwrap();
    let mut row = Row::over(bound, &Options::default()).unwrap();
    // A division that only names the first one is in force anyway.
    row.divide(Division::all_to(slots(&[0]))).unwrap();
    row.slots()[0].set_nonblocking(true).unwrap();
    let waits = TcpStream::connect(row.address()).unwrap();
    for _ in 0..2 {
        let slot = row.append().unwrap();
        row.slot(slot).unwrap().set_nonblocking(true).unwrap();
    }
    assert_eq!(accept_all(&row.slots()[0])[0].1, waits.local_addr().unwrap(), "what waited is still there");
    each_slot_is_reached(&mut row);
    let _client = TcpStream::connect(row.address()).unwrap();
    assert_eq!(waiting(&row), [1, 0, 0]);
}

#[test]
fn a_group_is_formed_late_without_a_lost_connection() {
    for _ in 0..10 {
        let passed = TcpListener::bind("127.0.0.1:0").unwrap();
        let first = passed.try_clone().unwrap();
        let mut row = Row::over(Bound::from_inherited(passed.into()).unwrap(), &Options::default()).unwrap();
        let (address, over, answered) = (row.address(), AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            scope.spawn(|| answer_until(first, &over));
            let client = scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    speak(&mut TcpStream::connect(address).unwrap()).expect("no connection is lost");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
            wait_for("a connection", || answered.load(Ordering::Relaxed) > 0);
            let slot = row.append().unwrap();
            assert_eq!(row.slot(slot).unwrap().queue().unwrap().1, Options::default().backlog.min(somaxconn()));
            let second = listener(row.slot(slot).unwrap());
            scope.spawn(|| answer_until(second, &over));
            let before = answered.load(Ordering::Relaxed);
            wait_for("connections", || answered.load(Ordering::Relaxed) > before + 5 || client.is_finished());
            row.divide(Division::all_to([slot])).unwrap();
            over.store(true, Ordering::Relaxed);
            client.join().unwrap();
            // Whoever still waits for one.
            for slot in [0, 1] {
                row.divide(Division::all_to(slots(&[slot]))).unwrap();
                drop(TcpStream::connect(address).unwrap());
            }
        });
    }
}

/// Answers connections, at least until it is over.
fn answer_until(listener: TcpListener, over: &AtomicBool) {
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        match stream.read_exact(&mut byte) {
            Ok(()) => stream.write_all(&byte).unwrap(),
            // The one that ends it says nothing.
            Err(_) if over.load(Ordering::Relaxed) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn somaxconn() -> u32 {
    fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap()
}

#[test]
fn a_passed_socket_with_reuseport_is_as_good_as_ours() {
    let passed =
        bind(&Endpoint::Tcp("127.0.0.1:0".parse().unwrap()), &Options { reuse_port: true, ..Options::default() });
    let mut row = Row::over(passed.unwrap(), &Options::default()).unwrap();
    row.append().unwrap();
    row.slots().iter().for_each(|slot| slot.set_nonblocking(true).unwrap());
    each_slot_is_reached(&mut row);
}

#[test]
fn a_passed_socket_of_another_user_cannot_be_shared() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can give a socket to another user");
        return;
    }
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    nix::unistd::fchown(&passed, Some(4711.into()), None).unwrap();
    let mut row = Row::over(Bound::from_inherited(passed.into()).unwrap(), &Options::default()).unwrap();
    let error = row.append().unwrap_err();
    assert!(matches!(error, RowError::Join(_)), "{error}");
    assert!(error.hint().unwrap().starts_with("have it made by the user"));
    assert_eq!(row.slots().len(), 1);
}

#[test]
fn mixed_reuseport_is_refused_with_the_reason() {
    let cause = |endpoint: &Endpoint| match Row::bind(endpoint, &Options::default()).unwrap_err() {
        RowError::Bind(error) => error,
        other => panic!("{other}"),
    };
    let plain = bind(&Endpoint::Tcp("127.0.0.1:0".parse().unwrap()), &Options::default()).unwrap();
    let error = cause(&plain.endpoint);
    assert_eq!(error.cause, BindCause::InUse);
    let shared = Options { reuse_port: true, ..Options::default() };
    let shared = bind(&Endpoint::Tcp("127.0.0.1:0".parse().unwrap()), &shared).unwrap();
    let error = cause(&shared.endpoint);
    assert_eq!(error.cause, BindCause::ForeignGroup);
    assert!(error.to_string().contains("would share the connections"), "{error}");
    assert!(error.hint().unwrap().starts_with("with steered traffic nobody else"));
    assert_eq!(cause(&row(2).slots()[0].endpoint).cause, BindCause::ForeignGroup, "another row");
}

#[test]
fn a_stranger_in_the_group_is_found_before_a_slot_is_appended() {
    let mut row = row(2);
    let stranger = bind(&row.slots()[0].endpoint, &Options { reuse_port: true, ..Options::default() }).unwrap();
    let error = row.append().unwrap_err();
    assert!(matches!(&error, RowError::Bind(error) if error.cause == BindCause::ForeignGroup), "{error}");
    assert_eq!(row.slots().len(), 2);
    drop(stranger);
    row.append().unwrap();
    row.slots()[2].set_nonblocking(true).unwrap();
    each_slot_is_reached(&mut row);
}

#[test]
fn options_are_changed_at_every_slot() {
    let mut row = row(2);
    let options = Options { backlog: 9, no_delay: true, ..Options::default() };
    assert_eq!(row.apply(&options), [""; 0]);
    row.append().unwrap();
    row.slots()[2].set_nonblocking(true).unwrap();
    for slot in row.slots() {
        assert_eq!(slot.queue(), Some((0, 9)));
        assert!(getsockopt(slot, sockopt::TcpNoDelay).unwrap());
    }
    each_slot_is_reached(&mut row);
    assert_eq!(
        row.apply(&Options { bind_to_device: Some("no-such-device".to_owned()), ..options }),
        ["bind-to-device"]
    );
    row.append().expect("it is as the others are");
}

#[test]
fn what_is_not_tcp_is_not_steered() {
    let name = UnixName::Abstract(format!("zdsup-steer-{}", std::process::id()).into_bytes());
    for endpoint in [Endpoint::Unix { kind: UnixKind::Stream, name }, Endpoint::Udp("127.0.0.1:0".parse().unwrap())] {
        let error = Row::bind(&endpoint, &Options::default()).unwrap_err();
        assert_eq!(error.to_string(), format!("{endpoint} cannot be steered: only TCP listeners can"));
    }
}

#[test]
fn a_row_is_adopted_with_its_order() {
    let mut row = row(3);
    shut_down(&row.slots()[0]);
    row.heal().unwrap();
    row.divide(between(1, 2, 5)).unwrap();
    let adopt = |bound: &Arc<Bound>| Arc::new(Bound::adopt(bound.fd.try_clone().unwrap(), true).unwrap());
    let slots: Vec<_> = row.slots().iter().map(adopt).collect();
    let order = serde_json::from_str(&serde_json::to_string(row.order()).unwrap()).unwrap();
    let kept = Kept { slots, order, ..kept(&row) };
    drop(row);
    let mut row = Row::adopt(kept, &Options::default()).unwrap();
    each_slot_is_reached(&mut row);
    row.append().unwrap();
    row.slots()[3].set_nonblocking(true).unwrap();
    each_slot_is_reached(&mut row);
}

#[test]
fn sockets_of_several_listeners_are_no_row() {
    let mixed = vec![row(1).slots()[0].clone(), row(1).slots()[0].clone()];
    let mixed = Kept { slots: mixed, order: Order::new(2), ..kept(&row(2)) };
    let error = Row::adopt(mixed, &Options::default()).unwrap_err();
    assert!(matches!(error, RowError::Mixed(..)), "{error}");
    let error = Row::adopt(Kept { slots: Vec::new(), ..kept(&row(1)) }, &Options::default()).unwrap_err();
    assert!(matches!(error, RowError::Empty), "{error}");
}

#[test]
fn without_a_program_connections_are_hashed() {
    let row = row(2);
    detach(row.slots()[0].as_fd()).unwrap();
    let _clients: Vec<_> = (0..64).map(|_| TcpStream::connect(row.address()).unwrap()).collect();
    assert!(waiting(&row).iter().all(|waiting| *waiting > 0), "{:?}", waiting(&row));
    assert_eq!(detach(row.slots()[0].as_fd()).unwrap_err().raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn a_program_beyond_the_kernels_memory_is_refused_with_advice() {
    let mut row = row(2);
    let network = |n: u32| Network::new(IpAddr::V4((0x0a00_0000 + n * 256).into()), 24).unwrap();
    let rules = (0..2000).map(|n| (network(n), 1)).collect();
    let long = Division { rules, ..between(0, 1, 0) };
    let room: usize = fs::read_to_string("/proc/sys/net/core/optmem_max").unwrap().trim().parse().unwrap();
    match row.divide(long) {
        Ok(()) => assert!(room > 30_000, "{room}"),
        Err(error) => {
            assert!(room < 50_000, "{error}");
            assert!(error.hint().unwrap().contains("net.core.optmem_max"));
            assert_eq!(*row.division(), Division::all_to(slots(&[0])), "the one before stays");
        }
    }
    each_slot_is_reached(&mut row);
}

pub(super) fn shut_down(slot: &Bound) {
    nix::sys::socket::shutdown(slot.fd.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
}
