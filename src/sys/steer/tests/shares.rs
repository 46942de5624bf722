//! Who gets what, by counting.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::*;

const CONNECTIONS: usize = 20_000;

/// How many of so many connections each slot gets.
fn count(row: &Row, connections: usize) -> Vec<usize> {
    let mut counts = vec![0; row.slots().len()];
    let mut left = connections;
    while left > 0 {
        let batch = left.min(200);
        let clients: Vec<_> = (0..batch).map(|_| TcpStream::connect(row.address()).unwrap()).collect();
        clients.iter().for_each(reset_at_end);
        for (count, slot) in counts.iter_mut().zip(row.slots()) {
            *count += accept_all(slot).len();
        }
        left -= batch;
    }
    assert_eq!(counts.iter().sum::<usize>(), connections, "none is lost");
    counts
}

fn is_shared(percent: u32) {
    let mut row = row(2);
    row.divide(between(0, 1, percent)).unwrap();
    // Outside once in a thousand draws; twice in a row it is no accident.
    let outside = |draw: &Vec<usize>| !within_binomial(draw[1], CONNECTIONS, percent);
    let draws: Vec<_> = (0..2).map(|_| count(&row, CONNECTIONS)).take_while(outside).collect();
    assert!(draws.len() < 2, "{draws:?} at {percent} percent");
}

#[test]
fn five_of_a_hundred_connections() {
    is_shared(5);
}

#[test]
fn half_of_the_connections() {
    is_shared(50);
}

#[test]
fn all_of_the_connections_and_none() {
    is_shared(100);
    let mut row = row(2);
    row.divide(between(0, 1, 0)).unwrap();
    assert_eq!(count(&row, 2000), [2000, 0]);
}

#[test]
fn slots_of_a_group_share_equally() {
    let mut row = row(5);
    let group = |percent, numbers: &[usize]| Group { percent, slots: slots(numbers) };
    row.divide(Division { groups: vec![group(50, &[0, 4]), group(50, &[1, 2, 3])], ..Division::default() }).unwrap();
    let counts = count(&row, 6000);
    for (slot, expected) in [1500.0, 1000.0, 1000.0, 1000.0, 1500.0f64].into_iter().enumerate() {
        assert!((counts[slot] as f64 - expected).abs() < 4.5 * expected.sqrt(), "{counts:?}");
    }
}

#[test]
fn a_thousand_switches_under_load_lose_no_connection() {
    const SWITCHES: usize = 1000;
    let mut row = row(2);
    let address = row.address();
    let (over, closed, served) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for slot in row.slots() {
            slot.set_nonblocking(false).unwrap();
            let listener = listener(slot);
            let closed = &closed;
            scope.spawn(move || {
                while !closed.load(Ordering::Relaxed) {
                    let (mut stream, _) = listener.accept().unwrap();
                    // The connection that ends it says nothing.
                    let mut byte = [0];
                    if stream.read_exact(&mut byte).is_ok() {
                        stream.write_all(&byte).unwrap();
                    }
                }
            });
        }
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let mut stream = TcpStream::connect(address).unwrap();
                        speak(&mut stream).expect("no connection is lost");
                        reset_at_end(&stream);
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for switch in 0..SWITCHES {
            row.divide(between(0, 1, [0, 100, 50, 95, 5][switch % 5])).unwrap();
            let before = served.load(Ordering::Relaxed);
            wait_for("connections", || {
                served.load(Ordering::Relaxed) > before + 2 || clients.iter().any(|client| client.is_finished())
            });
        }
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap();
        }
        closed.store(true, Ordering::Relaxed);
        for slot in [0, 1] {
            row.divide(Division::all_to(slots(&[slot]))).unwrap();
            drop(TcpStream::connect(address).unwrap());
        }
    });
    assert!(served.load(Ordering::Relaxed) >= 3 * SWITCHES);
}

#[test]
fn a_client_never_goes_back_while_shares_rise() {
    let mut row = row(2);
    let clients: Vec<IpAddr> = (0..1000).map(|n| Ipv4Addr::from_bits(0x7f00_0001 + n * 61).into()).collect();
    let mut new_before: Vec<IpAddr> = Vec::new();
    for percent in [0, 5, 25, 50, 75, 100, 0] {
        row.divide(Division { affinity: Affinity::Source, ..between(0, 1, percent) }).unwrap();
        let mut at: HashMap<IpAddr, usize> = HashMap::new();
        for clients in clients.chunks(500) {
            let streams: Vec<_> = clients.iter().map(|client| connect(client_at(*client), row.address())).collect();
            streams.iter().for_each(reset_at_end);
            for (place, slot) in row.slots().iter().enumerate() {
                at.extend(accept_all(slot).into_iter().map(|(_, client)| (client.ip(), place)));
            }
        }
        let new: Vec<IpAddr> = clients.iter().copied().filter(|client| at[client] == 1).collect();
        assert!(within_binomial(new.len(), clients.len(), percent), "{} at {percent} percent", new.len());
        if percent > 0 {
            assert!(new_before.iter().all(|client| at[client] == 1), "at {percent} percent one went back");
        }
        for client in &clients {
            assert_eq!(at[client] == 1, percentile(*client) >= 100 - percent, "{client}");
        }
        new_before = new;
    }
    assert_eq!(new_before, [IpAddr::V4(Ipv4Addr::LOCALHOST); 0], "an abort takes all of them back");
}

#[test]
fn networks_go_to_their_group() {
    let mut row = row(2);
    let rules = vec![("127.1.0.0/16".parse().unwrap(), 1), ("127.2.3.4".parse().unwrap(), 1)];
    row.divide(Division { rules, ..between(0, 1, 0) }).unwrap();
    let at = |source: &str| {
        let _stream = connect(client_at(source.parse().unwrap()), row.address());
        row.slots().iter().position(|slot| !accept_all(slot).is_empty()).unwrap()
    };
    assert_eq!(["127.1.0.1", "127.1.255.254", "127.2.3.4", "127.2.3.5", "127.0.0.1"].map(at), [1, 1, 1, 0, 0]);
}
