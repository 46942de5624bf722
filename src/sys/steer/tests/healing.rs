//! Hazard 37: a service calls shutdown() on its slot.

use super::rows::shut_down;
use super::*;
use crate::sys::socket::get_int;

#[test]
fn slot_shutdown() {
    let mut row = row(4);
    row.divide(between(0, 1, 50)).unwrap();
    let queued = connect(client_at("127.0.0.1".parse().unwrap()), row.address());
    shut_down(&row.slots()[1]);
    assert_eq!(row.shut_down(), slots(&[1]));
    assert_eq!(row.heal().unwrap(), slots(&[1]));
    // The last one moved into the hole, and the one that listens again is at the end.
    assert_eq!(row.order().slots(), slots(&[0, 3, 2, 1]));
    assert_eq!(row.search().run().unwrap(), *row.order());
    drop(queued);
    row.slots().iter().for_each(|slot| drop(accept_all(slot)));
    each_slot_is_reached(&mut row);
    assert_eq!(waiting(&row), [0; 4]);
    row.append().unwrap();
    row.slots()[4].set_nonblocking(true).unwrap();
    each_slot_is_reached(&mut row);
}

#[test]
fn a_row_of_one_is_healed() {
    let mut row = row(1);
    shut_down(&row.slots()[0]);
    row.heal().unwrap();
    row.append().unwrap();
    row.slots()[1].set_nonblocking(true).unwrap();
    each_slot_is_reached(&mut row);
}

#[test]
fn several_slots_shut_down_at_once_are_found_by_probes() {
    for order in [[0, 1], [1, 0], [3, 0], [2, 4], [4, 2]] {
        let mut row = row(5);
        for slot in order {
            shut_down(&row.slots()[slot]);
        }
        let mut healed = row.heal().unwrap();
        healed.sort_unstable();
        assert_eq!(healed.len(), 2);
        each_slot_is_reached(&mut row);
    }
}

#[test]
fn a_slot_that_its_service_let_listen_again_is_found() {
    let mut row = row_at(&format!("127.0.0.1:{}", free_port()), 3, &Options::default());
    shut_down(&row.slots()[0]);
    row.slots()[0].listen_again().unwrap();
    assert_eq!(row.shut_down(), []);
    assert_eq!(row.heal().unwrap(), []);
    assert_eq!(row.order().slots(), slots(&[2, 1, 0]));
    each_slot_is_reached(&mut row);
}

#[test]
fn probes_leave_nothing_behind() {
    let row = row(3);
    let _client = TcpStream::connect(row.address()).unwrap();
    assert_eq!(row.search().run().unwrap(), *row.order());
    assert_eq!(waiting(&row), [1, 0, 0], "no service sees a probe");
    for slot in row.slots() {
        assert_eq!(get_int(slot.as_fd(), libc::SOL_IP, libc::IP_MINTTL).unwrap(), 0);
    }
}

#[test]
fn a_shutdown_while_nobody_looked_is_healed_at_adoption() {
    let row = row(4);
    let kept = kept(&row);
    shut_down(&row.slots()[2]);
    shut_down(&row.slots()[0]);
    let mut row = Row::adopt(kept, &Options::default()).unwrap();
    assert_eq!(row.shut_down(), []);
    each_slot_is_reached(&mut row);
}

#[test]
fn an_order_that_is_lost_is_found_again() {
    let mut row = row(4);
    shut_down(&row.slots()[1]);
    row.heal().unwrap();
    let lost = Kept { order: serde_json::from_str("[0,7,7]").unwrap(), ..kept(&row) };
    let mut again = Row::adopt(lost, &Options::default()).unwrap();
    assert_eq!(again.order(), row.order());
    each_slot_is_reached(&mut again);
}

#[test]
fn a_held_row_is_healed_and_stays_held() {
    let mut row = row(3);
    row.hold().unwrap();
    shut_down(&row.slots()[0]);
    shut_down(&row.slots()[1]);
    row.heal().unwrap();
    assert!(waits_outside(&row));
    row.release().unwrap();
    each_slot_is_reached(&mut row);
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
