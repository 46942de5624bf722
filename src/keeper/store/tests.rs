use std::fs::File;

use super::*;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a good name")
}

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn held(store: &Store) -> Vec<&str> {
    store.iter().map(|(name, _)| std::str::from_utf8(name).unwrap()).collect()
}

/// A store for so many, whatever this process may open.
fn store(capacity: usize) -> Store {
    let mut store = Store::new(u64::MAX);
    store.capacity = capacity;
    store
}

#[test]
fn descriptors_of_one_name_are_a_list() {
    let mut store = store(8);
    for text in ["a", "b", "a"] {
        assert!(store.add(name(text), &null()));
    }
    assert_eq!(held(&store), ["a", "b", "a"]);
    assert_eq!(store.names, 6);
    store.remove(b"a");
    assert_eq!(held(&store), ["b"]);
    store.remove(b"a");
    assert_eq!((held(&store), store.names), (vec!["b"], 2));
}

#[test]
fn a_copy_is_kept_once_under_a_name() {
    let fd = null();
    if !is_same_description(fd.as_fd(), fd.as_fd()) {
        eprintln!("skipped: kcmp is not permitted");
        return;
    }
    let mut store = store(8);
    let copy = fd.try_clone().unwrap();
    assert!(store.add(name("a"), &fd) && store.add(name("a"), &copy) && store.add(name("b"), &copy));
    assert_eq!(held(&store), ["a", "b"]);
}

#[test]
fn a_full_store_refuses_and_has_room_again() {
    let mut store = store(2);
    assert!(store.add(name("a"), &null()) && store.add(name("b"), &null()));
    assert!(!store.add(name("c"), &null()));
    store.remove(b"a");
    assert!(store.add(name("c"), &null()));
    assert_eq!(held(&store), ["b", "c"]);
}

#[test]
fn names_fit_into_one_variable() {
    let mut store = store(8);
    store.names = NAMES_MAX - 6;
    assert!(!store.add(name("123456"), &null()));
    assert!(store.add(name("12345"), &null()));
    assert!(!store.add(name("1"), &null()));
}

#[test]
fn the_store_never_grows_and_leaves_room_below() {
    for limit in [0, 64, 300, 1024, 4096, 9000, 524_288, u64::MAX] {
        let store = Store::new(limit);
        assert_eq!(store.entries.capacity(), store.capacity, "{limit}");
        assert!(store.capacity <= CAPACITY);
        let floor = store.floor as usize;
        assert!(floor >= 3 + store.capacity + OWN_FDS + FDS_PER_MESSAGE);
        assert!(store.capacity == 0 || (floor + store.capacity) as u64 <= limit);
    }
    assert_eq!(Store::new(1024).capacity, 376);
    assert_eq!(Store::new(20_000).capacity, CAPACITY);
}

#[test]
fn names_are_those_of_the_protocol_and_short() {
    assert_eq!(name("zdsup.x").as_bytes(), b"zdsup.x");
    assert!(Name::new(&[b'x'; NAME_MAX]).is_some());
    for wrong in [&b""[..], b"a:b", b"a\nb", b"\xff", &[b'x'; NAME_MAX + 1], &[b'x'; 4000]] {
        assert!(Name::new(wrong).is_none(), "{wrong:?}");
    }
}

#[test]
fn datagrams_are_told_apart() {
    for (text, expected) in [
        ("FDSTORE=1\nFDNAME=zdsup.a\nFDPOLL=0", Request::Store(b"zdsup.a")),
        ("FDSTORE=1\0", Request::Store(b"stored")),
        ("FDNAME=zdsup.a\nFDSTOREREMOVE=1\n", Request::Remove(b"zdsup.a")),
        ("FDSTORE=1\nFDSTOREREMOVE=1\nFDNAME=a", Request::Remove(b"a")),
        ("FDSTOREREMOVE=1", Request::Nothing),
        ("BARRIER=1", Request::Nothing),
        ("FDSTORE=2", Request::Foreign),
        ("READY=1\nSTATUS=serving", Request::Foreign),
        ("EXTEND_TIMEOUT_USEC=15000000", Request::Foreign),
        ("FDSTORE=1\0FDNAME=a", Request::Nothing),
    ] {
        assert_eq!(Request::read(text.as_bytes()), expected, "{text:?}");
    }
    assert_eq!(Request::read(&[b'x'; notify::MAX_DATAGRAM + 1]), Request::Nothing);
}
