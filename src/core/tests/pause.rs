//! Scenes of a pause: whatever happens, it ends.

use super::super::policy::{RELEASE_AGAIN, RELEASE_TIMEOUT};
use super::super::service::{Pause, Purpose};
use super::upgrade::Bench;
use super::*;

impl Bench {
    fn pause(&mut self, max: Duration) -> Result<(), Refusal> {
        self.core.pause(self.now, self.service, max)
    }

    fn held(&mut self, on: bool, result: Result<(), &str>) {
        self.handle(Event::Held { service: self.service, on, result: result.map_err(str::to_owned) });
    }

    fn state(&self) -> Option<Pause> {
        self.core.services()[&self.service].pause
    }

    /// A service that is paused for half a minute from now.
    fn paused() -> Self {
        let mut b = Self::serving(policy());
        assert_eq!(b.pause(secs(30)), Ok(()));
        b.wants(&["hold"]);
        b.held(true, Ok(()));
        b.wants(&[]);
        assert_eq!(*b.last_step(), Step::Paused { span: secs(30) });
        b
    }
}

#[test]
fn it_is_resumed_on_request_or_when_its_time_is_over() {
    for by_itself in [false, true] {
        let mut b = Bench::paused();
        assert_eq!(b.core.poll_timeout(), Some(b.now.after(secs(30))));
        if by_itself {
            b.pass(millis(29_999));
            b.wants(&[]);
            b.pass(millis(1));
        } else {
            assert_eq!(b.core.resume(b.now, b.service), Ok(()));
        }
        b.wants(&["release"]);
        assert_eq!(b.core.resume(b.now, b.service), Err(Refusal::NotPaused));
        b.held(false, Ok(()));
        b.wants(&[]);
        assert_eq!((b.last_step(), b.state(), b.core.poll_timeout()), (&Step::Resumed, None, None));
    }
}

#[test]
fn asked_for_again_its_end_moves() {
    let mut b = Bench::paused();
    b.pass(secs(20));
    assert_eq!(b.pause(secs(15)), Ok(()));
    b.wants(&[]);
    assert_eq!(*b.last_step(), Step::Paused { span: secs(15) });
    b.pass(secs(14));
    b.wants(&[]);
    b.pass(secs(1));
    b.wants(&["release"]);
    assert_eq!(b.pause(secs(5)), Ok(()), "while it is being ended it begins anew");
    b.wants(&["hold"]);
    b.held(false, Ok(()));
    assert_eq!(b.state(), Some(Pause::Holding { until: b.now.after(secs(5)) }), "the answer came too late");
}

#[test]
fn what_cannot_be_held_is_not_paused() {
    let mut b = Bench::serving(policy());
    assert_eq!(b.pause(secs(30)), Ok(()));
    b.wants(&["hold"]);
    b.held(true, Err("a privilege is missing"));
    b.wants(&[]);
    assert_eq!((b.state(), b.core.poll_timeout()), (None, None));
}

#[test]
fn what_cannot_be_released_is_tried_again() {
    let mut b = Bench::paused();
    assert_eq!(b.core.resume(b.now, b.service), Ok(()));
    b.wants(&["release"]);
    b.held(false, Err("no memory"));
    b.wants(&[]);
    b.pass(RELEASE_AGAIN);
    b.wants(&["release"]);
    b.pass(RELEASE_TIMEOUT);
    b.wants(&["release"]);
    b.held(false, Ok(()));
    assert_eq!(b.state(), None);
}

#[test]
fn an_upgrade_goes_on_and_its_listeners_are_held_too() {
    let mut b = Bench::paused();
    let _ = b.request(Kind::Reload);
    b.pinned(2);
    b.wants(&["pin 2 reload", "hold", "prepare 2.1 r2"]);
    b.held(true, Ok(()));
    b.spawn(2, 1);
    b.on(2, 1, InstanceEvent::Ready);
    b.weights_set();
    b.told(1, 1);
    b.wants(&["launch 2.1", "weights 1=0 2=100", "stop 1.1", "upgraded 2"]);
    assert!(b.state().is_some());
}

#[test]
fn where_new_listeners_cannot_be_held_all_are_released() {
    let mut b = Bench::paused();
    let _ = b.request(Kind::Reload);
    b.pinned(2);
    b.wants(&["pin 2 reload", "hold", "prepare 2.1 r2"]);
    b.held(true, Err("a unix socket"));
    b.wants(&["release"]);
    b.held(false, Ok(()));
    b.wants(&[]);
    assert_eq!((b.last_step(), b.state()), (&Step::Resumed, None));
}

#[test]
fn a_stop_ends_it() {
    let mut b = Bench::paused();
    b.core.stop(b.now);
    b.wants(&["release", "stop 1.1"]);
    assert_eq!(b.pause(secs(1)), Err(Refusal::Stopping));
    b.told(1, 1);
    b.ends(1, 1, Exit::Code(0));
    b.wants(&["sweep 1.1"]);
    b.held(false, Err("no memory"));
    b.wants(&["finish Stopped"]);
    assert_eq!(b.core.services()[&b.service].purpose, Purpose::Stopped);
    assert_eq!(b.pause(secs(1)), Err(Refusal::Stopping));
}

#[test]
fn a_stop_does_not_wait_for_it_for_ever() {
    let mut b = Bench::paused();
    b.core.stop(b.now);
    b.told(1, 1);
    b.ends(1, 1, Exit::Code(0));
    b.wants(&["release", "stop 1.1", "sweep 1.1"]);
    b.pass(RELEASE_TIMEOUT);
    b.wants(&["finish Stopped"]);
}

#[test]
fn a_successor_is_asked_again() {
    let mut b = Bench::paused();
    b.core.ask_again(b.now);
    b.wants(&["hold"]);
    b.held(true, Ok(()));
    b.pass(secs(30));
    b.wants(&["release"]);
    b.core.ask_again(b.now);
    b.wants(&["release"]);

    let mut b = Bench::paused();
    b.core.give_up_poisoned(b.now, 2);
    b.wants(&["release"]);
}
