//! Hold and release.

use super::*;
use crate::sys::socket::{UnixKind, UnixName, bind};

/// The first SYN is sent again after a second, the next after two more.
const RETRY: Duration = Duration::from_secs(4);

#[test]
fn new_connections_wait_and_old_ones_go_on() {
    let mut row = row(2);
    row.divide(between(0, 1, 50)).unwrap();
    let mut before = TcpStream::connect(row.address()).unwrap();
    let (mut accepted, _) = row.slots().iter().flat_map(|slot| accept_all(slot)).next().unwrap();
    row.divide(Division::all_to(slots(&[1]))).unwrap();
    let _queued = TcpStream::connect(row.address()).unwrap();
    row.hold().unwrap();
    assert_eq!(row.append().unwrap(), SlotIndex(2));
    row.slots()[2].set_nonblocking(true).unwrap();

    let drops = || row.dam().unwrap().drops().unwrap();
    let before_it = drops();
    let clients: Vec<_> = (0..3).map(|_| Prober::bind(row.address()).unwrap().connect().unwrap()).collect();
    wait_for("the first segments", || drops() >= before_it + 3);
    accepted.set_nonblocking(false).unwrap();
    before.write_all(b"x").unwrap();
    accepted.read_exact(&mut [0]).expect("an established connection goes on");
    assert_eq!(accept_all(&row.slots()[1]).len(), 1, "so does what waits");
    // Weights may move meanwhile, and a probe reaches its instance.
    row.divide(Division::all_to(slots(&[2]))).unwrap();
    each_slot_is_reached(&mut row);
    assert!(waits_outside(&row));

    row.release().unwrap();
    let released = Instant::now();
    clients.iter().for_each(connected);
    assert!(released.elapsed() < RETRY, "{:?}", released.elapsed());
    assert_eq!(waiting(&row), [0, 0, 3]);
    row.hold().unwrap();
    assert!(waits_outside(&row), "again, with the same dam");
}

#[test]
fn every_kind_of_row_is_held() {
    for address in ["0.0.0.0:0", "127.0.0.8:0", "[::1]:0", "[::]:0"] {
        if address.starts_with('[') && !ipv6() {
            continue;
        }
        let mut row = row_at(address, 1, &Options::default());
        row.hold().unwrap();
        assert!(waits_outside(&row), "{address}");
        row.release().unwrap();
        each_slot_is_reached(&mut row);
    }
}

#[test]
fn a_listener_that_was_shared_is_held_as_a_row() {
    let passed = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut row = Row::over(Bound::from_inherited(passed.into()).unwrap(), &Options::default()).unwrap();
    row.slots()[0].set_nonblocking(true).unwrap();
    row.hold().unwrap();
    assert!(waits_outside(&row));
    row.release().unwrap();
    let _client = TcpStream::connect(row.address()).unwrap();
    assert_eq!(waiting(&row), [1]);
}

#[test]
fn a_hold_is_adopted() {
    let mut row = row(2);
    row.hold().unwrap();
    row = Row::adopt(kept(&row), &Options::default()).unwrap();
    assert!(row.is_held() && waits_outside(&row));
    // Its dam was not kept: the kernel has hashed new connections since, and the order is another one.
    let lost = Kept { dam: None, ..kept(&row) };
    drop(row);
    let mut row = Row::adopt(lost, &Options::default()).unwrap();
    assert!(row.is_held() && waits_outside(&row));
    row.release().unwrap();
    each_slot_is_reached(&mut row);
}

#[test]
fn a_handshake_that_has_begun_is_completed() {
    let options = Options { defer_accept: Some(30), ..Options::default() };
    let mut row = row_at("127.0.0.1:0", 1, &options);
    let mut client = TcpStream::connect(row.address()).unwrap();
    row.hold().unwrap();
    client.write_all(b"x").unwrap();
    wait_for("the connection", || waiting(&row) == [1]);
    let (mut stream, _) = accept_all(&row.slots()[0]).remove(0);
    stream.read_exact(&mut [0]).unwrap();
}

/// Holds a listener by a filter, or says why not.
fn held(listener: &Bound) -> bool {
    match hold(listener) {
        Err(error @ HoldError::NotPermitted) => {
            assert!(error.hint().unwrap().contains("CAP_NET_ADMIN"));
            eprintln!("skipped: {error}");
            false
        }
        other => {
            other.unwrap();
            true
        }
    }
}

#[test]
fn a_filter_holds_what_is_no_row() {
    let options = Options { defer_accept: Some(30), ..Options::default() };
    let listener = bind(&Endpoint::Tcp("127.0.0.1:0".parse().unwrap()), &options).unwrap();
    let Endpoint::Tcp(address) = listener.endpoint else { unreachable!() };
    let mut client = TcpStream::connect(address).unwrap();
    if !held(&listener) {
        return;
    }
    client.write_all(b"x").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut accepted = Vec::new();
    wait_for("the connection", || {
        accepted = accept_all(&listener);
        !accepted.is_empty()
    });
    // It has inherited the filter, which does not concern it.
    let (stream, _) = &mut accepted[0];
    stream.set_nonblocking(false).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    client.write_all(b"y").unwrap();
    stream.read_exact(&mut [0]).unwrap();

    let drops = listener.drops().unwrap();
    let late = Prober::bind(address).unwrap().connect().unwrap();
    wait_for("the first segment", || listener.drops().unwrap() > drops);
    release(&listener).unwrap();
    let released = Instant::now();
    connected(&late);
    assert!(released.elapsed() < RETRY, "{:?}", released.elapsed());
    release(&listener).expect("nothing happens");
}

#[test]
fn a_filter_and_a_program_are_both_asked() {
    let mut row = row(2);
    if !held(&row.slots()[1]) {
        return;
    }
    row.divide(Division::all_to(slots(&[1]))).unwrap();
    let drops = row.slots()[1].drops().unwrap();
    let _late = Prober::bind(row.address()).unwrap().connect().unwrap();
    wait_for("the first segment", || row.slots()[1].drops().unwrap() > drops);
    row.divide(Division::all_to(slots(&[0]))).unwrap();
    let _client = TcpStream::connect(row.address()).unwrap();
    assert_eq!(waiting(&row), [1, 0]);
    release(&row.slots()[1]).unwrap();
    drop(accept_all(&row.slots()[0]));
    each_slot_is_reached(&mut row);
}

#[test]
fn others_cannot_be_held() {
    let name = UnixName::Abstract(format!("zdsup-hold-{}", std::process::id()).into_bytes());
    let listener = bind(&Endpoint::Unix { kind: UnixKind::Stream, name }, &Options::default()).unwrap();
    let error = hold(&listener).unwrap_err();
    assert_eq!(error.to_string(), format!("{} cannot be held: only TCP listeners can", listener.endpoint));
    assert!(release(&listener).is_err());
}
