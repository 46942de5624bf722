//! Readiness datagrams: the bytes that a service sends to its `NOTIFY_SOCKET`, turned into messages.
//!
//! Pure: no socket, no clock. The protocol is sd_notify(3), read as systemd's manager reads it:
//!
//! - A datagram is lines of `KEY=VALUE`. One that is too long or has a NUL inside is dropped whole; one trailing NUL is
//!   fine. Unknown keys and lines that are none are ignored, so that newer services work.
//! - Of `STOPPING=1`, `READY=1` and `RELOADING=1` in one datagram the first in this order counts, alone.
//! - A key that is given twice counts once, with its first value.
//! - A bad value costs its own line, never the others; it is told apart from an unknown key so that it can be logged.
//! - `BARRIER=1` stands alone, or the datagram is dropped: whoever waits for it must not be told too early.

use std::time::Duration;

/// The longest datagram that is read, bytes. Give the receiving buffer one more, so that a longer one shows.
pub const MAX_DATAGRAM: usize = 4096;

/// The longest status that is kept, characters.
pub const MAX_STATUS: usize = 256;

/// The longest name of a stored descriptor, bytes (`FDNAME_MAX` of systemd).
pub const MAX_FD_NAME: usize = 255;

/// The name of descriptors that are stored without one.
pub const DEFAULT_FD_NAME: &str = "stored";

/// What one datagram says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Messages {
    /// What to act on, in the order in which to do it. Each kind at most once.
    pub messages: Vec<Message>,
    /// Lines of known keys whose value makes no sense; they count for nothing.
    pub rejected: Vec<Rejected>,
}

/// One thing that a service says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// `BARRIER=1`: close the one descriptor that came with it once everything before is done. Always alone.
    Barrier,
    /// `MAINPID=`: its main process, greater than 1. Whether it belongs to the instance is for the receiver to see.
    MainPid(i32),
    /// `STATUS=`: one line, without control characters, at most [`MAX_STATUS`] characters. Empty: no status any more.
    Status(String),
    /// `ERRNO=`: an errno(3) number.
    Errno(i32),
    /// `BUSERROR=`: a D-Bus error name, kept like a status.
    BusError(String),
    /// `EXIT_STATUS=`: the status it will exit with, or wished to.
    ExitStatus(u8),
    /// `STOPPING=1`: it is on its way out.
    Stopping,
    /// `READY=1`: it is ready, or ready again after a reload of its own.
    Ready,
    /// `RELOADING=1`: it reloads its own configuration.
    Reloading {
        /// `MONOTONIC_USEC=`: when it began, microseconds of CLOCK_MONOTONIC.
        monotonic_usec: Option<u64>,
    },
    /// `EXTEND_TIMEOUT_USEC=`: the deadline it runs under must lie at least this far ahead.
    ExtendTimeout(Duration),
    /// `WATCHDOG_USEC=`: from now on it pings this often; zero ends the watchdog.
    WatchdogUsec(Duration),
    /// `WATCHDOG=1`: it lives.
    Watchdog,
    /// `WATCHDOG=trigger`: treat it as if it had not pinged in time.
    WatchdogTrigger,
    /// `FDSTORE=1`: keep the descriptors that came with it.
    FdStore {
        /// `FDNAME=`: what to call them.
        name: String,
        /// Whether to let go of them on a hangup; `FDPOLL=0` says no.
        poll: bool,
    },
    /// `FDSTOREREMOVE=1`: let go of the descriptors of this name.
    FdStoreRemove {
        /// `FDNAME=`.
        name: String,
    },
}

/// Why a whole datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Longer than [`MAX_DATAGRAM`].
    #[error("read a notify datagram of more than {MAX_DATAGRAM} bytes")]
    TooLong,
    /// A NUL byte elsewhere than at the end.
    #[error("read a notify datagram with a NUL byte at offset {0}")]
    Nul(usize),
    /// `BARRIER=1` beside something else.
    #[error("read a notify datagram with BARRIER=1 beside other lines: it must stand alone")]
    CrowdedBarrier,
}

/// A line that counts for nothing because its value makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read {key}= in a notify datagram: it must be {wanted}")]
pub struct Rejected {
    /// The key.
    pub key: &'static str,
    /// What its value should have been.
    pub wanted: &'static str,
}

/// Reads one datagram.
///
/// # Errors
/// The datagram must be dropped as a whole, and so must the descriptors that came with it.
pub fn parse(bytes: &[u8]) -> Result<Messages, ParseError> {
    let lines = Lines::of(bytes)?;
    if lines.are_barrier()? {
        return Ok(Messages { messages: vec![Message::Barrier], rejected: Vec::new() });
    }

    let mut out = Messages::default();
    out.value(&lines, "MAINPID", "a process number greater than 1", |v| {
        number(v).and_then(|n| i32::try_from(n).ok()).filter(|pid| *pid > 1).map(Message::MainPid)
    });
    out.value(&lines, "STATUS", "a line of UTF-8", |v| text(v).map(Message::Status));
    out.value(&lines, "ERRNO", "a number from 0 to 4095", |v| {
        number(v).and_then(|n| i32::try_from(n).ok()).filter(|errno| *errno <= 4095).map(Message::Errno)
    });
    out.value(&lines, "BUSERROR", "a line of UTF-8", |v| text(v).map(Message::BusError));
    out.value(&lines, "EXIT_STATUS", "a number from 0 to 255", |v| {
        number(v).and_then(|n| u8::try_from(n).ok()).map(Message::ExitStatus)
    });
    out.lifecycle(&lines);
    out.value(&lines, "EXTEND_TIMEOUT_USEC", MICROSECONDS, |v| microseconds(v).map(Message::ExtendTimeout));
    out.value(&lines, "WATCHDOG_USEC", MICROSECONDS, |v| microseconds(v).map(Message::WatchdogUsec));
    if lines.has("WATCHDOG", "trigger") {
        out.messages.push(Message::WatchdogTrigger);
    } else if lines.has("WATCHDOG", "1") {
        out.messages.push(Message::Watchdog);
    }
    out.fd_store(&lines);
    Ok(out)
}

const MICROSECONDS: &str = "a number of microseconds";

impl Messages {
    fn value(
        &mut self,
        lines: &Lines<'_>,
        key: &'static str,
        wanted: &'static str,
        read: impl Fn(&[u8]) -> Option<Message>,
    ) {
        if let Some(value) = lines.first(key) {
            match read(value) {
                Some(message) => self.messages.push(message),
                None => self.rejected.push(Rejected { key, wanted }),
            }
        }
    }

    fn lifecycle(&mut self, lines: &Lines<'_>) {
        if lines.has("STOPPING", "1") {
            self.messages.push(Message::Stopping);
        } else if lines.has("READY", "1") {
            self.messages.push(Message::Ready);
        } else if lines.has("RELOADING", "1") {
            let stamp = lines.first("MONOTONIC_USEC");
            let monotonic_usec = stamp.and_then(number);
            if stamp.is_some() && monotonic_usec.is_none() {
                self.rejected.push(Rejected { key: "MONOTONIC_USEC", wanted: MICROSECONDS });
            }
            self.messages.push(Message::Reloading { monotonic_usec });
        }
    }

    /// Removal wins over storing; a bad name is as good as none.
    fn fd_store(&mut self, lines: &Lines<'_>) {
        let remove = lines.has("FDSTOREREMOVE", "1");
        if !remove && !lines.has("FDSTORE", "1") {
            return;
        }
        let given = lines.first("FDNAME");
        let name = given.and_then(fd_name);
        if given.is_some() && name.is_none() {
            self.rejected
                .push(Rejected { key: "FDNAME", wanted: "1 to 255 printable ASCII characters without a colon" });
        }
        match (remove, name) {
            (true, Some(name)) => self.messages.push(Message::FdStoreRemove { name }),
            (true, None) => {
                self.rejected.push(Rejected { key: "FDSTOREREMOVE", wanted: "accompanied by the FDNAME= to remove" });
            }
            (false, name) => self.messages.push(Message::FdStore {
                name: name.unwrap_or_else(|| DEFAULT_FD_NAME.to_owned()),
                poll: !lines.has("FDPOLL", "0"),
            }),
        }
    }
}

/// The lines of a datagram, as bytes: only some values have to be UTF-8.
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    /// Those of a datagram that is fit to be read.
    pub(crate) fn of(bytes: &'a [u8]) -> Result<Self, ParseError> {
        if bytes.len() > MAX_DATAGRAM {
            return Err(ParseError::TooLong);
        }
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
        match bytes.iter().position(|byte| *byte == 0) {
            Some(offset) => Err(ParseError::Nul(offset)),
            None => Ok(Self(bytes)),
        }
    }

    /// Whether they are `BARRIER=1`, which must stand alone.
    pub(crate) fn are_barrier(self) -> Result<bool, ParseError> {
        match self.has("BARRIER", "1") {
            true if self.iter().count() > 1 => Err(ParseError::CrowdedBarrier),
            barrier => Ok(barrier),
        }
    }

    fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        self.0.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
    }

    fn values(self, key: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter_map(move |line| line.strip_prefix(key.as_bytes())?.strip_prefix(b"="))
    }

    pub(crate) fn first(self, key: &'static str) -> Option<&'a [u8]> {
        self.values(key).next()
    }

    pub(crate) fn has(self, key: &'static str, value: &str) -> bool {
        self.values(key).any(|found| found == value.as_bytes())
    }
}

/// Decimal digits and nothing else: no sign, no blanks.
fn number(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

fn microseconds(value: &[u8]) -> Option<Duration> {
    number(value).map(Duration::from_micros)
}

/// Control characters are dropped: the text is shown on terminals.
fn text(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    Some(text.chars().filter(|char| !char.is_control()).take(MAX_STATUS).collect())
}

fn fd_name(value: &[u8]) -> Option<String> {
    is_fd_name(value).then(|| value.iter().map(|byte| char::from(*byte)).collect())
}

/// Whether it can be the name of a stored descriptor: printable ASCII without `:`.
pub(crate) fn is_fd_name(value: &[u8]) -> bool {
    (1..=MAX_FD_NAME).contains(&value.len()) && value.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b':')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages(text: &str) -> Vec<Message> {
        let parsed = parse(text.as_bytes()).expect("a good datagram");
        assert_eq!(parsed.rejected, [], "in {text:?}");
        parsed.messages
    }

    fn rejected(text: &str) -> Vec<&'static str> {
        let parsed = parse(text.as_bytes()).expect("a good datagram");
        assert_eq!(parsed.messages, [], "in {text:?}");
        parsed.rejected.iter().map(|bad| bad.key).collect()
    }

    #[test]
    fn each_message_is_read() {
        let second = Duration::from_secs(1);
        for (text, expected) in [
            ("READY=1", Message::Ready),
            ("READY=1\n", Message::Ready),
            ("READY=1\0", Message::Ready),
            ("STOPPING=1", Message::Stopping),
            ("RELOADING=1", Message::Reloading { monotonic_usec: None }),
            ("RELOADING=1\nMONOTONIC_USEC=17", Message::Reloading { monotonic_usec: Some(17) }),
            ("STATUS=a=b", Message::Status("a=b".into())),
            ("STATUS=", Message::Status(String::new())),
            ("STATUS=\x1b[31mred\x07\u{9b}", Message::Status("[31mred".into())),
            ("ERRNO=2", Message::Errno(2)),
            (
                "BUSERROR=org.freedesktop.DBus.Error.TimedOut",
                Message::BusError("org.freedesktop.DBus.Error.TimedOut".into()),
            ),
            ("EXIT_STATUS=255", Message::ExitStatus(255)),
            ("MAINPID=2", Message::MainPid(2)),
            ("WATCHDOG=1", Message::Watchdog),
            ("WATCHDOG=trigger", Message::WatchdogTrigger),
            ("WATCHDOG_USEC=1000000", Message::WatchdogUsec(second)),
            ("EXTEND_TIMEOUT_USEC=1000000", Message::ExtendTimeout(second)),
            ("FDSTORE=1", Message::FdStore { name: "stored".into(), poll: true }),
            ("FDSTORE=1\nFDPOLL=0\nFDNAME=a b", Message::FdStore { name: "a b".into(), poll: false }),
            ("FDSTOREREMOVE=1\nFDNAME=x", Message::FdStoreRemove { name: "x".into() }),
            ("FDSTORE=1\nFDSTOREREMOVE=1\nFDNAME=x", Message::FdStoreRemove { name: "x".into() }),
            ("BARRIER=1", Message::Barrier),
            ("BARRIER=1\n\0", Message::Barrier),
        ] {
            assert_eq!(messages(text), [expected], "{text:?}");
        }
    }

    #[test]
    fn what_is_unknown_is_ignored() {
        for text in ["", "\n", "\0", "=", "READY", "READY=", "READY=0", "READY=10", "READY =1", "ready=1", "X_READY=1"]
        {
            assert_eq!(messages(text), [], "{text:?}");
        }
        assert_eq!(messages("X_FUTURE=1\nREADY=1\ngarbage"), [Message::Ready]);
    }

    #[test]
    fn stopping_wins_over_ready_over_reloading() {
        assert_eq!(messages("RELOADING=1\nREADY=1\nSTOPPING=1"), [Message::Stopping]);
        assert_eq!(messages("RELOADING=1\nREADY=1"), [Message::Ready]);
    }

    #[test]
    fn the_order_of_acting_is_fixed_and_the_first_value_counts() {
        let expected = [Message::MainPid(9), Message::Status("a".into()), Message::Ready];
        assert_eq!(messages("READY=1\nSTATUS=a\nMAINPID=9\nSTATUS=b\nREADY=1"), expected);
    }

    #[test]
    fn a_bad_value_costs_its_own_line_only() {
        for text in [
            "MAINPID=1",
            "MAINPID=0",
            "MAINPID=-5",
            "MAINPID=+5",
            "MAINPID= 5",
            "MAINPID=",
            "MAINPID=2147483648",
            "ERRNO=4096",
            "EXIT_STATUS=256",
            "EXTEND_TIMEOUT_USEC=18446744073709551616",
            "WATCHDOG_USEC=1s",
        ] {
            let key = text.split('=').next().expect("a key");
            assert_eq!(rejected(text), [key], "{text:?}");
        }
        assert_eq!(parse(b"STATUS=\xff\nREADY=1").expect("readable").messages, [Message::Ready]);
        assert_eq!(rejected("FDSTOREREMOVE=1"), ["FDSTOREREMOVE"]);
        assert_eq!(rejected("FDSTOREREMOVE=1\nFDNAME=a:b"), ["FDNAME", "FDSTOREREMOVE"]);
        let long = format!("FDSTORE=1\nFDNAME={}", "x".repeat(MAX_FD_NAME + 1));
        let parsed = parse(long.as_bytes()).expect("readable");
        assert_eq!(parsed.messages, [Message::FdStore { name: "stored".into(), poll: true }]);
        assert_eq!(parsed.rejected.len(), 1);
    }

    #[test]
    fn a_bad_datagram_is_dropped_whole() {
        assert_eq!(parse(b"READY=1\0\0"), Err(ParseError::Nul(7)));
        assert_eq!(parse(b"READY=1\0STATUS=x"), Err(ParseError::Nul(7)));
        assert_eq!(parse(b"BARRIER=1\nREADY=1"), Err(ParseError::CrowdedBarrier));
        assert_eq!(parse(b"BARRIER=1\nBARRIER=1"), Err(ParseError::CrowdedBarrier));
        let mut bytes = b"READY=1\nX=".to_vec();
        bytes.resize(MAX_DATAGRAM, b'x');
        assert_eq!(parse(&bytes).expect("just short enough").messages, [Message::Ready]);
        bytes.push(b'x');
        assert_eq!(parse(&bytes), Err(ParseError::TooLong));
    }

    /// Lines that look like the protocol, so that the interesting paths are reached.
    fn line() -> impl Strategy<Value = Vec<u8>> {
        let key = prop::sample::select(vec![
            "READY",
            "STOPPING",
            "RELOADING",
            "MONOTONIC_USEC",
            "STATUS",
            "ERRNO",
            "BUSERROR",
            "EXIT_STATUS",
            "MAINPID",
            "WATCHDOG",
            "WATCHDOG_USEC",
            "EXTEND_TIMEOUT_USEC",
            "FDSTORE",
            "FDSTOREREMOVE",
            "FDNAME",
            "FDPOLL",
            "BARRIER",
            "X_OTHER",
            "",
        ]);
        let value = prop_oneof![
            4 => Just(b"1".to_vec()),
            1 => Just(b"0".to_vec()),
            1 => Just(b"trigger".to_vec()),
            1 => any::<u64>().prop_map(|number| number.to_string().into_bytes()),
            1 => ".{0,300}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..300),
        ];
        (key, value).prop_map(|(key, value)| [key.as_bytes(), b"=", &value].concat())
    }

    fn datagram() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..MAX_DATAGRAM + 16),
            prop::collection::vec(line(), 0..12).prop_map(|lines| lines.join(&b'\n')),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_in_stays_within_bounds(bytes in datagram()) {
            let Ok(parsed) = parse(&bytes) else { return Ok(()) };
            prop_assert!(bytes.len() <= MAX_DATAGRAM);
            let mut kinds: Vec<_> = parsed.messages.iter().map(std::mem::discriminant).collect();
            let count = kinds.len();
            kinds.dedup();
            prop_assert_eq!(kinds.len(), count);
            let lifecycle = parsed.messages.iter().filter(|message| {
                matches!(message, Message::Ready | Message::Stopping | Message::Reloading { .. })
            });
            prop_assert!(lifecycle.count() <= 1);
            for message in &parsed.messages {
                match message {
                    Message::MainPid(pid) => prop_assert!(*pid > 1),
                    Message::Status(text) | Message::BusError(text) => {
                        prop_assert!(text.chars().count() <= MAX_STATUS);
                        prop_assert!(!text.chars().any(char::is_control));
                    }
                    Message::Errno(errno) => prop_assert!((0..=4095).contains(errno)),
                    Message::FdStore { name, .. } | Message::FdStoreRemove { name } => {
                        prop_assert!((1..=MAX_FD_NAME).contains(&name.len()));
                        prop_assert!(name.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b':'));
                    }
                    Message::Barrier => prop_assert_eq!(count, 1),
                    Message::ExitStatus(_) | Message::Stopping | Message::Ready | Message::Reloading { .. }
                    | Message::ExtendTimeout(_) | Message::WatchdogUsec(_) | Message::Watchdog
                    | Message::WatchdogTrigger => {}
                }
            }
        }

        #[test]
        fn the_order_of_lines_decides_nothing_but_which_value_is_first(
            lines in prop::sample::subsequence(
                vec!["READY=1", "STOPPING=1", "RELOADING=1", "STATUS=s", "MAINPID=7", "WATCHDOG=1", "EXIT_STATUS=0"], 0..=7,
            ).prop_shuffle(),
        ) {
            let mut sorted = lines.clone();
            sorted.sort_unstable();
            prop_assert_eq!(parse(lines.join("\n").as_bytes()), parse(sorted.join("\n").as_bytes()));
        }
    }
}
