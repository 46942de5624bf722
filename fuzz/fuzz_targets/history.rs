//! The history is read on every start and for every question, whatever a disk has made of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zdsup::history::read::{self, Latest, Numbers, Wanted};
use zdsup::history::{Begun, Figures, Line};

fuzz_target!(|bytes: &[u8]| {
    // As it is, and with checksums that are right: the rest must then stand on its own.
    check(bytes);
    let mut mended = Vec::new();
    for members in bytes.split(|byte| *byte == b'\n') {
        mended.extend(format!("{{\"crc\":\"{:08x}\",", crc32fast::hash(members)).bytes());
        mended.extend(members);
        mended.push(b'\n');
    }
    check(&mended);
});

fn check(bytes: &[u8]) {
    let whole = Line::Begun(Begun { id: 1, service: "web".into(), generation: 1 });
    let bytes = [bytes, b"\n", &whole.encode().unwrap()].concat();
    let mut numbers = Numbers::default();
    let mut latest = Latest::new(Wanted { limit: 4, ..Wanted::default() });
    let mut figures = Figures::new(None, 0.0);
    let mut last = None;
    let skipped = read::lines(&bytes[..], |line| {
        numbers.note(&line);
        figures.add(&line);
        // What is read can be written again, and means the same.
        if let Some(text) = line.encode() {
            assert!(Line::decode(text.strip_suffix(b"\n").unwrap()).is_ok());
        }
        last = Some(line.clone());
        latest.add(line);
    })
    .unwrap();
    assert_eq!(last, Some(whole), "whatever was before, this line is whole");
    assert!(numbers.upgrade >= 1 && numbers.upgrade < u64::MAX);
    assert!(latest.newest_first().len() <= 4);
    assert_eq!(figures.kpi(1.0, skipped).skipped, skipped);
}
