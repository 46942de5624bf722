//! What is recorded of an upgrade, and how it gets to the disk.

use std::time::Duration;

use super::story::{Moment, phases, rollback};
use super::*;
use crate::history::Begun;

const PATIENCE: Duration = Duration::from_secs(30);

fn moments(events: &[(&'static str, f64)]) -> Vec<Moment<'static>> {
    events.iter().map(|(event, at)| Moment { event, at: *at, generation: Some(2) }).collect()
}

#[test]
fn phases_follow_the_steps_whatever_they_are_called() {
    let story = moments(&[
        ("queued", 0.0),
        ("pinning", 0.0),
        ("starting", 0.5),
        ("spawned", 1.0),
        ("spawned", 1.25),
        ("status", 1.5),
        ("ready", 2.0),
        ("shifting", 3.0),
        ("exited", 3.5),
        ("verdict", 4.0),
        ("drained", 9.0),
    ]);
    let phases: Vec<_> =
        phases(story.iter().copied(), 4.0).into_iter().map(|one| (one.name, one.start, one.duration)).collect();
    let expected = [
        ("queued", 0.0, 0.0),
        ("pinning", 0.0, 0.5),
        ("starting", 0.5, 0.5),
        ("spawned", 1.0, 1.0),
        ("ready", 2.0, 1.0),
        ("shifting", 3.0, 1.0),
    ]
    .map(|(name, start, duration)| (name.to_owned(), start, duration));
    assert_eq!(phases, expected);
    assert_eq!(rollback(story.iter().copied(), Some(2), 4.0), Some(0.5));
    assert_eq!(rollback(story.iter().copied(), Some(3), 4.0), None);
}

/// Each step of a canary has a time of its own.
#[test]
fn another_share_is_another_phase() {
    let story = [("ready", 0.0), ("weighted", 1.0), ("weighted", 3.0), ("awaiting-promotion", 6.0), ("promoted", 7.0)];
    let story = moments(&[&story[..], &[("awaiting-promotion", 7.5), ("serving", 9.0)]].concat());
    let phases: Vec<(f64, f64)> =
        phases(story.into_iter(), 9.5).iter().map(|phase| (phase.start, phase.duration)).collect();
    assert_eq!(phases, [(0.0, 1.0), (1.0, 2.0), (3.0, 3.0), (6.0, 1.5), (7.5, 1.5), (9.0, 0.5)]);
}

#[test]
fn the_time_back_is_counted_from_what_went_wrong() {
    let back = |events: &[(&'static str, f64)], candidate| rollback(moments(events).into_iter(), Some(candidate), 9.0);
    // Nobody was served by it before it was ready.
    assert_eq!(back(&[("exited", 1.0), ("ready", 2.0), ("over-budget", 8.0), ("returning", 8.5)], 2), Some(1.0));
    // What made way for one that was never ready comes back, and is another generation than that.
    assert_eq!(back(&[("spawned", 1.0), ("exited", 2.0), ("returning", 3.0)], 3), Some(6.0));
    assert_eq!(back(&[("ready", 2.0), ("exited", 9.5)], 2), None);
}

fn begun(generation: u64) -> Line {
    Line::Begun(Begun { id: generation, service: "web".into(), generation })
}

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("zdsup-recorder-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

fn numbers(path: &Path) -> Vec<u64> {
    let mut found = Vec::new();
    read::file(&path.join(FILE), |line| {
        if let Line::Begun(begun) = line {
            found.push(begun.generation);
        }
    })
    .unwrap();
    found
}

#[tokio::test]
async fn lines_are_written_in_order_and_once() {
    let directory = directory("order");
    let history = History::new(Some(directory.clone()));
    for generation in 1..=100 {
        history.append(begun(generation));
    }
    history.flush(PATIENCE);
    history.append_if_missing(begun(100));
    history.append_if_missing(begun(101));
    history.flush(PATIENCE);
    assert_eq!(numbers(&directory), (1..=101).collect::<Vec<u64>>());
    assert_eq!(history.numbers(vec!["web".into()]).await.generations["web"], 101);
    assert!(history.known().1.is_empty());
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn what_cannot_be_written_waits_and_what_does_not_fit_is_counted() {
    let directory = directory("waits");
    // The file is a directory, and then it is not.
    std::fs::create_dir_all(directory.join(FILE)).unwrap();
    let history = History::new(Some(directory.clone()));
    history.append(begun(1));
    history.flush(PATIENCE);
    for generation in 2..=WAITING_MAX as u64 + 5 {
        history.append(begun(generation));
        history.flush(PATIENCE);
    }
    assert_eq!((history.known().1.len(), history.lost()), (WAITING_MAX, 5));
    std::fs::remove_dir(directory.join(FILE)).unwrap();
    // There is no room, but it is a reason to try.
    history.append(begun(999));
    history.flush(PATIENCE);
    assert_eq!(numbers(&directory), (1..=WAITING_MAX as u64).collect::<Vec<u64>>());
    history.append(begun(1000));
    history.flush(PATIENCE);
    assert_eq!(numbers(&directory).last(), Some(&1000));
    std::fs::remove_dir_all(directory).unwrap();
}
