//! What a disk may do to a history, and what is read from it all the same.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::file::{append, append_within};
use super::line::{LINE_MAX, Unread};
use super::read::{self, Latest, Numbers, Wanted};
use super::*;
use crate::core::{Kind, Verdict};

/// A private directory that goes with its owner.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("zdsup-history-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("state").join(FILE)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn upgrade(id: u64, generation: u64, verdict: Verdict) -> UpgradeRecord {
    UpgradeRecord {
        id,
        service: "web".into(),
        kind: Kind::Reload,
        generation: Some(generation),
        from: generation.checked_sub(1),
        release: Some("/srv/web".into()),
        argv: vec!["web".into(), "--all".into()],
        directory: Some("/srv".into()),
        digest: Some("6c62272e07bb014262b821756295c58d".into()),
        requested_by: vec![0, 1000],
        takes_back: None,
        at: 1_700_000_000.25 + id as f64 * 100.0,
        duration: id as f64,
        verdict,
        reason: (verdict != Verdict::Upgraded).then(|| "never ready in 30 s".into()),
        exit_code: if verdict == Verdict::Upgraded { 0 } else { 4 },
        step: "done".into(),
        phases: vec![PhaseRecord { name: "pinning".into(), start: 0.0, duration: 0.5 }],
        rollback: (verdict == Verdict::RolledBack).then_some(0.25),
        drain: None,
        probe: None,
    }
}

fn encoded(record: &UpgradeRecord) -> Vec<u8> {
    Line::Upgrade(Box::new(record.clone())).encode().unwrap()
}

fn drained(id: u64, generation: u64, duration: f64) -> Line {
    let at = 1_700_000_050.0 + id as f64 * 100.0;
    Line::Drained(Drained { id, service: "web".into(), generation, at, duration, served: true })
}

fn read(bytes: &[u8]) -> (Vec<Line>, u64) {
    let mut lines = Vec::new();
    let skipped = read::lines(bytes, |line| lines.push(line)).unwrap();
    (lines, skipped)
}

fn ids(bytes: &[u8]) -> Vec<u64> {
    let mut latest = Latest::new(Wanted { limit: usize::MAX, ..Wanted::default() });
    read::lines(bytes, |line| latest.add(line)).unwrap();
    latest.newest_first().iter().rev().map(|record| record.id).collect()
}

#[test]
fn a_line_is_json_and_comes_back_as_it_was() {
    let record = upgrade(7, 4, Verdict::RolledBack);
    let line = encoded(&record);
    let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(json["upgrade"]["verdict"], "rolled-back");
    assert_eq!(read(&line), (vec![Line::Upgrade(Box::new(record))], 0));
}

#[test]
fn a_line_of_a_later_version_is_not_damage() {
    let members = b"\"rehearsed\":{\"id\":1}}";
    let line = [format!("{{\"crc\":\"{:08x}\",", crc32fast::hash(members)).as_bytes(), members].concat();
    assert_eq!(Line::decode(&line), Err(Unread::Unknown));
    // A field that is not known yet is no reason to lose the rest.
    let text = String::from_utf8(encoded(&upgrade(1, 1, Verdict::Upgraded))).unwrap();
    let members = text.trim_end().split_once(',').unwrap().1.replace("\"id\":1,", "\"id\":1,\"later\":[2],");
    let line = format!("{{\"crc\":\"{:08x}\",{members}", crc32fast::hash(members.as_bytes()));
    assert!(Line::decode(line.as_bytes()).is_ok());
}

#[test]
fn whatever_is_torn_or_garbage_is_skipped_and_the_rest_is_read() {
    let lines: Vec<Vec<u8>> = (1..=4).map(|id| encoded(&upgrade(id, id, Verdict::Upgraded))).collect();
    let whole = lines.concat();
    assert_eq!(ids(&whole), [1, 2, 3, 4]);
    // Torn anywhere in the last line; only its newline is not missed.
    let begin = whole.len() - lines[3].len();
    for end in begin + 1..whole.len() - 1 {
        assert_eq!(ids(&whole[..end]), [1, 2, 3], "{end}");
        assert_eq!(read(&whole[..end]).1, 1);
    }
    assert_eq!(ids(&whole[..whole.len() - 1]), [1, 2, 3, 4]);
    // Garbage between lines, and in the place of one.
    let garbage = [&lines[0][..], b"\0\0\xff{}\n", &lines[1][..], b"{\"crc\":\"00000000\",\"upgrade\":{}}\n"].concat();
    assert_eq!((ids(&garbage), read(&garbage).1), (vec![1, 2], 2));
    // One bit, anywhere.
    for at in 0..lines[0].len() - 1 {
        let mut flipped = lines[0].clone();
        flipped[at] ^= 1;
        assert_eq!(ids(&[&flipped[..], &lines[1][..]].concat()), [2], "{at}");
    }
    // A line without end.
    let endless = [&lines[0][..], &vec![b'x'; 3 * LINE_MAX + 7], b"\n", &lines[1][..]].concat();
    assert_eq!((ids(&endless), read(&endless).1), (vec![1, 2], 1));
}

#[test]
fn what_follows_a_torn_line_begins_on_a_line_of_its_own() {
    let directory = Directory::new();
    let path = directory.file();
    append(&path, &encoded(&upgrade(1, 1, Verdict::Upgraded))).unwrap();
    let torn = encoded(&upgrade(2, 2, Verdict::Upgraded));
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&torn[..torn.len() / 2]).unwrap();
    append(&path, &encoded(&upgrade(3, 3, Verdict::Upgraded))).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!((ids(&bytes), read(&bytes).1), (vec![1, 3], 1));
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
}

#[test]
fn a_full_disk_is_an_error_and_loses_nothing_that_was_there() {
    let line = encoded(&upgrade(1, 1, Verdict::Upgraded));
    let directory = Directory::new();
    std::fs::create_dir(directory.0.join("state")).unwrap();
    // A link is not followed, and a device is no history: nobody fills a disk by that.
    std::os::unix::fs::symlink("/dev/full", directory.file()).unwrap();
    assert_eq!(append(&directory.file(), &line).unwrap_err().raw_os_error(), Some(nix::libc::ELOOP));
    let error = append(std::path::Path::new("/dev/full"), &line).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn it_is_bounded_and_no_number_is_forgotten() {
    let directory = Directory::new();
    let path = directory.file();
    let rare = UpgradeRecord { service: "rare".into(), ..upgrade(1, 42, Verdict::Upgraded) };
    append(&path, &encoded(&rare)).unwrap();
    const LIMIT: u64 = 16 * 1024;
    for id in 2..=300 {
        append_within(&path, &encoded(&upgrade(id, id + 100, Verdict::Upgraded)), LIMIT).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() <= LIMIT);
    }
    let bytes = std::fs::read(&path).unwrap();
    let ids = ids(&bytes);
    assert_eq!(read(&bytes).1, 0);
    assert!(ids.len() > 10 && ids.is_sorted() && ids.last() == Some(&300), "{ids:?}");
    let numbers = Numbers::read(&path, &["web", "rare"]).unwrap();
    assert_eq!(numbers.upgrade, 300);
    assert_eq!((numbers.generations["web"], numbers.generations["rare"]), (400, 42));
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn numbers_are_found_at_the_end_or_in_all_of_it() {
    let directory = Directory::new();
    let path = directory.file();
    assert_eq!(Numbers::read(&path, &["web"]).unwrap(), Numbers::default());
    let rare = UpgradeRecord { service: "rare".into(), ..upgrade(1, 9, Verdict::Failed) };
    let mut bytes = encoded(&rare);
    // More than what is looked at first, most of it garbage.
    bytes.extend(vec![b'#'; 600 * 1024]);
    bytes.extend(b"\n");
    bytes.extend(Line::Begun(Begun { id: 5, service: "web".into(), generation: 3 }).encode().unwrap());
    bytes.extend(Line::Begun(Begun { id: u64::MAX, service: "web".into(), generation: u64::MAX }).encode().unwrap());
    append(&path, &bytes).unwrap();
    let found = |services: &[&str]| Numbers::read(&path, services).unwrap();
    assert_eq!(found(&["web"]).generations.get("rare"), None);
    assert_eq!(found(&["web"]), Numbers { upgrade: 5, generations: [("web".to_owned(), 3)].into() });
    assert_eq!(found(&["web", "rare"]).generations["rare"], 9);
}

#[test]
fn records_are_chosen_and_joined() {
    let mut latest = Latest::new(Wanted { service: Some("web".into()), after: 2, generation: None, limit: 2 });
    for id in 1..=5 {
        let record = upgrade(id, id, Verdict::Upgraded);
        latest.add(Line::Upgrade(Box::new(record.clone())));
        latest.add(Line::Upgrade(Box::new(record.clone())));
        latest.add(Line::Upgrade(Box::new(UpgradeRecord { service: "api".into(), ..record })));
    }
    latest.add(drained(4, 3, 1.5));
    latest.add(drained(1, 0, 9.0));
    let records = latest.newest_first();
    assert_eq!(records.iter().map(|record| (record.id, record.drain)).collect::<Vec<_>>(), [(5, None), (4, Some(1.5))]);
}

#[test]
fn a_record_that_is_written_late_loses_nothing_and_stands_where_it_belongs() {
    let mut latest = Latest::new(Wanted { limit: 10, ..Wanted::default() });
    let record = |id| Line::Upgrade(Box::new(upgrade(id, id, Verdict::Upgraded)));
    // One that is never on record keeps no other out.
    (100..2000).for_each(|id| latest.add(drained(id, 1, 7.0)));
    // Its prober waits for the last answers, while what it ended is gone, and another upgrade has its verdict.
    [drained(4, 3, 1.5), record(5), record(4), drained(5, 4, 2.5)].into_iter().for_each(|line| latest.add(line));
    // Another time's.
    [drained(7, 6, 9.0), record(8)].into_iter().for_each(|line| latest.add(line));
    let records = latest.newest_first();
    let said: Vec<_> = records.iter().map(|record| (record.id, record.drain)).collect();
    assert_eq!(said, [(8, None), (5, Some(2.5)), (4, Some(1.5))]);
}

#[test]
fn figures() {
    let start = UpgradeRecord { kind: Kind::Start, ..upgrade(1, 1, Verdict::Upgraded) };
    let probe = ProbeSummary {
        inside: ProbeFigures { requests: 200, errors: 1, p50: 0.001, p99: 0.01 },
        ..ProbeSummary::default()
    };
    let probed = UpgradeRecord { probe: Some(probe), ..upgrade(4, 4, Verdict::Upgraded) };
    let mut lines: Vec<Line> = [
        start,
        upgrade(2, 2, Verdict::Upgraded),
        upgrade(3, 3, Verdict::Failed),
        probed.clone(),
        probed,
        upgrade(5, 5, Verdict::RolledBack),
        upgrade(6, 6, Verdict::Refused),
    ]
    .map(|record| Line::Upgrade(Box::new(record)))
    .into();
    lines.extend([drained(2, 1, 1.0), drained(4, 2, 3.0), drained(4, 2, 3.0)]);
    let kpi = |from: f64| {
        let mut figures = Figures::new(Some("web".into()), from);
        lines.iter().for_each(|line| figures.add(line));
        figures.kpi(60.0, 2)
    };
    let all = kpi(0.0);
    assert_eq!((all.deployments, all.upgraded, all.failed, all.rolled_back, all.refused), (4, 2, 1, 1, 1));
    assert_eq!((all.success_rate, all.client_error_rate, all.skipped), (Some(0.5), Some(0.005), 2));
    assert_eq!(all.upgrade, Spread { count: 2, p50: Some(2.0), mean: Some(3.0), max: Some(4.0) });
    assert_eq!(all.rollback, Spread { count: 1, p50: Some(0.25), mean: Some(0.25), max: Some(0.25) });
    assert_eq!(all.drain, Spread { count: 2, p50: Some(1.0), mean: Some(2.0), max: Some(3.0) });
    let late = kpi(1_700_000_450.0);
    assert_eq!((late.deployments, late.success_rate, late.client_error_rate), (1, Some(0.0), None));
    assert_eq!(kpi(f64::MAX).drain, Spread::default());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_disturb_what_follows(garbage in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let line = encoded(&upgrade(1, 1, Verdict::Upgraded));
        let (lines, _) = read(&[&garbage[..], b"\n", &line[..]].concat());
        let whole = Line::decode(line.trim_ascii_end()).ok();
        prop_assert_eq!(lines.last(), whole.as_ref());
    }

    #[test]
    fn a_history_torn_and_gone_on_with_keeps_every_whole_line(cuts in proptest::collection::vec(0..400_usize, 1..8)) {
        let directory = Directory::new();
        let path = directory.file();
        let mut whole = Vec::new();
        for (at, cut) in cuts.into_iter().enumerate() {
            let id = at as u64 + 1;
            append(&path, &encoded(&upgrade(id, id, Verdict::Upgraded))).unwrap();
            whole.push(id);
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            let before = file.metadata().unwrap().len();
            let length = encoded(&upgrade(id, id, Verdict::Upgraded)).len();
            let cut = cut.min(length);
            file.set_len(before - cut as u64).unwrap();
            if cut > 1 {
                whole.pop();
            }
        }
        prop_assert_eq!(ids(&std::fs::read(&path).unwrap()), whole);
    }
}
