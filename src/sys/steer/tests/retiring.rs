//! Hazards 1 and 38: what began before a switch.

use super::*;

fn available(retirement: std::io::Result<Retirement>) -> Option<Retirement> {
    match retirement {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            eprintln!("skipped: this kernel has no tcp_diag");
            None
        }
        other => Some(other.unwrap()),
    }
}

#[test]
fn accept_queue_reset() {
    let mut row = row(2);
    row.divide(between(0, 1, 100)).unwrap();
    let mut clients: Vec<_> = (0..400).map(|_| TcpStream::connect(row.address()).unwrap()).collect();
    for percent in (0..100).rev() {
        row.divide(between(0, 1, percent)).unwrap();
    }
    let Some(mut retirement) = available(Retirement::begin(row.address().port())) else { return };
    assert_eq!(retirement.check(&row.slots()[1]).unwrap(), Remaining { handshakes: 0, queued: 400 });
    assert_eq!(waiting(&row), [0, 400]);
    let mut accepted = accept_all(&row.slots()[1]);
    assert_eq!(accepted.len(), 400);
    assert!(retirement.check(&row.slots()[1]).unwrap().is_nothing());
    for (stream, _) in &mut accepted {
        stream.write_all(b"!").unwrap();
    }
    for client in &mut clients {
        client.read_exact(&mut [0]).expect("none is reset");
    }
}

#[test]
fn half_open_at_switch() {
    for address in ["127.0.0.1:0", "[::]:0"] {
        if address.starts_with('[') && !ipv6() {
            continue;
        }
        let options = Options { defer_accept: Some(30), ..Options::default() };
        let mut row = row_at(address, 2, &options);
        let target = SocketAddr::new("127.0.0.1".parse().unwrap(), row.address().port());
        // Connected, as the client sees it; the listener waits for data.
        let mut early = TcpStream::connect(target).unwrap();
        row.divide(Division::all_to(slots(&[1]))).unwrap();
        let Some(mut retirement) = available(Retirement::begin(target.port())) else { return };
        let mut late = TcpStream::connect(target).unwrap();
        let old = row.slots()[0].clone();
        assert_eq!(
            retirement.check(&old).unwrap(),
            Remaining { handshakes: 1, queued: 0 },
            "those after it do not count"
        );
        early.write_all(b"x").unwrap();
        late.write_all(b"x").unwrap();
        wait_for("both queues", || waiting(&row) == [1, 1]);
        assert_eq!(
            retirement.check(&old).unwrap(),
            Remaining { handshakes: 0, queued: 1 },
            "it lands where it was steered"
        );
        let accepted = accept_all(&old);
        assert_eq!(accepted[0].1.port(), early.local_addr().unwrap().port());
        assert!(retirement.check(&old).unwrap().is_nothing());
    }
}
