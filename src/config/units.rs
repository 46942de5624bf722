//! Values that are written as text: durations, sizes, percentages, octal modes, status codes, signals, resource limits.

use std::time::Duration;

use nix::sys::signal::Signal;

/// The longest duration: far enough away to mean never, near enough to be added to any clock.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Why a text is not a value, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnitError {
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl UnitError {
    fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// `30s`, `1m30s`, `250ms`, `1h`: whole numbers, each with a unit, from the largest unit to the smallest.
pub(crate) fn duration(text: &str) -> Result<Duration, UnitError> {
    let bad = |hint: &str| UnitError::new(format!("`{text}` is not a duration"), hint);
    const FORMS: &str = "write a number and a unit, such as `250ms`, `30s`, `1m30s` or `1h`";
    if text.starts_with('-') {
        return Err(UnitError::new(format!("the duration `{text}` is negative"), FORMS));
    }
    if text.bytes().any(|byte| byte == b'.') {
        return Err(bad("write whole numbers: `1s500ms` instead of `1.5s`"));
    }
    if matches!(text, "infinity" | "inf" | "never" | "forever" | "none") {
        return Err(bad("every wait has an end here: write a long one, such as `365d`"));
    }
    let mut total: u64 = 0;
    let mut smallest = u64::MAX;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_alphabetic).count();
        let (number, unit) = (&rest[..digits], &rest[digits..digits + letters]);
        if number.is_empty() {
            return Err(bad(FORMS));
        }
        if unit.is_empty() && digits == text.len() {
            return Err(UnitError::new(
                format!("`{text}` has no unit"),
                format!("write `{text}s` for seconds, or `{text}ms`"),
            ));
        }
        let Some(&(_, millis)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(bad("the units are `d`, `h`, `m`, `s` and `ms`"));
        };
        if millis >= smallest {
            return Err(bad("write the larger unit first, and each unit once: `1m30s`"));
        }
        smallest = millis;
        total = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(millis))
            .and_then(|part| total.checked_add(part))
            .filter(|total| Duration::from_millis(*total) <= LONGEST)
            .ok_or_else(|| {
                UnitError::new(format!("the duration `{text}` is too long"), "at most 100 years: `36500d`")
            })?;
        rest = &rest[digits + letters..];
    }
    if smallest == u64::MAX { Err(bad(FORMS)) } else { Ok(Duration::from_millis(total)) }
}

/// A duration as a config writes it: `1m30s`. What is finer than a millisecond is cut off.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, millis) in DURATION_UNITS {
        if rest >= millis {
            text.push_str(&format!("{}{unit}", rest / millis));
            rest %= millis;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// `100ms..30s`; one duration alone is both ends.
pub(crate) fn duration_range(text: &str) -> Result<(Duration, Duration), UnitError> {
    match text.split_once("..") {
        Some((min, max)) => Ok((duration(min)?, duration(max)?)),
        None => duration(text).map(|both| (both, both)).map_err(|mut error| {
            error.hint = "write the first delay and the longest, such as `100ms..30s`".to_owned();
            error
        }),
    }
}

/// `64M`, `4K`, `1G`, or a plain number of bytes; the units are powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, UnitError> {
    let bad =
        || UnitError::new(format!("`{text}` is not a size"), "write a number of bytes, or one with `K`, `M` or `G`");
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = if is_digits(digits) { digits.parse().map_err(|_| bad())? } else { return Err(bad()) };
    number.checked_mul(1 << shift).ok_or_else(bad)
}

/// `25%`, `0.5%`, at most 100 % and four decimals: in millionths.
pub(crate) fn percent(text: &str) -> Result<u32, UnitError> {
    let bad = || {
        UnitError::new(format!("`{text}` is not a percentage"), "write a number from 0 to 100 and `%`, such as `25%`")
    };
    let number = text.strip_suffix('%').ok_or_else(bad)?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if !is_digits(whole) || !is_digits(decimals) || decimals.len() > 4 {
        return Err(bad());
    }
    // Four decimals of a hundredth are millionths.
    format!("{whole}{decimals:0<4}").parse().ok().filter(|millionths| *millionths <= 1_000_000).ok_or_else(bad)
}

/// Millionths as a config writes them: `0.5%`.
pub(crate) fn format_percent(millionths: u32) -> String {
    let text = format!("{}.{:04}", millionths / 10_000, millionths % 10_000);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Status codes of HTTP: `200`, `200-399`, several separated by commas. Each range has both its ends; none is empty.
pub(crate) fn statuses(text: &str) -> Result<Vec<(u16, u16)>, UnitError> {
    let bad = || {
        UnitError::new(format!("`{text}` is not a status code"), "write one such as `200`, or `200-399`, or `200,404`")
    };
    let one = |text: &str| {
        let number = if is_digits(text) { text.parse::<u16>().ok() } else { None };
        number.filter(|number| (100..=999).contains(number)).ok_or_else(bad)
    };
    let range = |text: &str| {
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (one(first)?, one(last)?),
            None => one(text).map(|both| (both, both))?,
        };
        if first > last {
            let hint = format!("write the lower one first: `{last}-{first}`");
            return Err(UnitError::new(format!("`{first}-{last}` is no range of status codes"), hint));
        }
        Ok((first, last))
    };
    text.split(',').map(|part| range(part.trim())).collect()
}

/// An octal mode or mask, at most 0777.
pub(crate) fn octal(text: &str) -> Result<u32, UnitError> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777 && text.bytes().all(|byte| byte.is_ascii_digit()))
        .ok_or_else(|| {
            UnitError::new(format!("`{text}` is not an octal mode"), "write octal digits from `0000` to `0777`")
        })
}

/// A signal that ends a process, by name: `SIGTERM` or `TERM`, `SIGRTMIN+1`.
pub(crate) fn signal(text: &str) -> Result<i32, UnitError> {
    let short = text.strip_prefix("SIG").unwrap_or(text);
    if let Some(offset) = short.strip_prefix("RTMIN") {
        let number = match offset.strip_prefix('+') {
            Some(digits) if is_digits(digits) => digits.parse::<i32>().ok(),
            None if offset.is_empty() => Some(0),
            _ => None,
        };
        return number
            .and_then(|number| number.checked_add(nix::libc::SIGRTMIN()))
            .filter(|number| *number <= nix::libc::SIGRTMAX())
            .ok_or_else(|| {
                let last = nix::libc::SIGRTMAX() - nix::libc::SIGRTMIN();
                UnitError::new(format!("`{text}` is not a signal"), format!("they go up to `SIGRTMIN+{last}`"))
            });
    }
    match format!("SIG{short}").parse::<Signal>() {
        Ok(signal @ (Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU)) => Err(UnitError::new(
            format!("{signal} suspends a process instead of ending it"),
            "the usual ones are `SIGTERM`, `SIGINT` and `SIGQUIT`",
        )),
        Ok(signal) => Ok(signal as i32),
        Err(_) => {
            let upper = format!("SIG{}", short.to_ascii_uppercase());
            let hint = match super::explain::nearest(&upper, Signal::iterator().map(Signal::as_str)) {
                Some(name) => format!("did you mean `{name}`?"),
                None => "write a signal's name, such as `SIGTERM` or `SIGQUIT`".to_owned(),
            };
            Err(UnitError::new(format!("`{text}` is not a signal"), hint))
        }
    }
}

/// The resources of setrlimit(2); whether each is counted in bytes.
pub(crate) const LIMITS: [(&str, bool); 16] = [
    ("as", true),
    ("core", true),
    ("cpu", false),
    ("data", true),
    ("fsize", true),
    ("locks", false),
    ("memlock", true),
    ("msgqueue", true),
    ("nice", false),
    ("nofile", false),
    ("nproc", false),
    ("rss", true),
    ("rtprio", false),
    ("rttime", false),
    ("sigpending", false),
    ("stack", true),
];

/// A limit: `1024` for both, `1024:4096` for soft and hard, `infinity`; sizes where the resource is counted in bytes.
pub(crate) fn limit(text: &str, bytes: bool) -> Result<(u64, u64), UnitError> {
    let one = |text: &str| {
        let value = match text {
            "infinity" => Some(u64::MAX),
            _ if bytes => size(text).ok(),
            _ if is_digits(text) => text.parse().ok(),
            _ => None,
        };
        value.ok_or_else(|| {
            let unit = if bytes { "a size such as `64M`" } else { "a number" };
            UnitError::new(format!("`{text}` is not a limit"), format!("write {unit}, `SOFT:HARD`, or `infinity`"))
        })
    };
    let (soft, hard) = match text.split_once(':') {
        Some((soft, hard)) => (one(soft)?, one(hard)?),
        None => (one(text)?, one(text)?),
    };
    if soft > hard {
        return Err(UnitError::new(
            format!("the soft limit of `{text}` is above the hard one"),
            "write the lower one first: `SOFT:HARD`",
        ));
    }
    Ok((soft, hard))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        let table = [
            ("0s", 0),
            ("250ms", 250),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("2d1h3m4s5ms", 176_584_005),
            ("36500d", 36_500 * 86_400_000),
        ];
        for (text, millis) in table {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration("90s"), duration("1m30s"));
    }

    #[test]
    fn what_is_no_duration() {
        let table = [
            ("", "`` is not a duration"),
            ("30", "`30` has no unit"),
            ("s", "`s` is not a duration"),
            ("-1s", "the duration `-1s` is negative"),
            ("1.5s", "`1.5s` is not a duration"),
            ("1 s", "`1 s` is not a duration"),
            ("30s1m", "`30s1m` is not a duration"),
            ("1s1s", "`1s1s` is not a duration"),
            ("1w", "`1w` is not a duration"),
            ("1m30", "`1m30` is not a duration"),
            ("infinity", "`infinity` is not a duration"),
            ("36501d", "the duration `36501d` is too long"),
            ("99999999999999999999s", "the duration `99999999999999999999s` is too long"),
            ("1é", "`1é` is not a duration"),
        ];
        for (text, message) in table {
            assert_eq!(duration(text).expect_err(text).message, message);
        }
    }

    #[test]
    fn ranges() {
        let millis = Duration::from_millis;
        assert_eq!(duration_range("100ms..30s"), Ok((millis(100), millis(30_000))));
        assert_eq!(duration_range("1s"), Ok((millis(1000), millis(1000))));
        assert!(duration_range("1s..").is_err());
        assert!(duration_range("1s..2s..3s").is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("4K"), Ok(4096));
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("2G"), Ok(2 << 30));
        for bad in ["", "K", "64MB", "1.5M", "-1", "64m", "+1", "99999999999999999999", "18446744073709551615K"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn percentages() {
        for (text, millionths) in
            [("0%", 0), ("0.0001%", 1), ("0.5%", 5_000), ("1%", 10_000), ("25%", 250_000), ("100%", 1_000_000)]
        {
            assert_eq!(percent(text), Ok(millionths), "{text}");
            assert_eq!(format_percent(millionths), text);
        }
        for bad in ["", "%", "25", "-1%", "101%", "100.1%", "1.%", ".5%", "0.00001%", "1,5%", "1 %", "99999999999999%"]
        {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn status_codes() {
        assert_eq!(statuses("200"), Ok(vec![(200, 200)]));
        assert_eq!(statuses("200-399"), Ok(vec![(200, 399)]));
        assert_eq!(statuses("200, 204,300-308"), Ok(vec![(200, 200), (204, 204), (300, 308)]));
        for bad in ["", "99", "1000", "2xx", "200-", "-200", "200,", "300-200", "200-300-400", "+200"] {
            assert!(statuses(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn modes() {
        assert_eq!(octal("0022"), Ok(0o022));
        assert_eq!(octal("777"), Ok(0o777));
        for bad in ["", "8", "1777", "0o22", "-1", "+22", "rwx"] {
            assert!(octal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn signals() {
        assert_eq!(signal("SIGTERM"), Ok(15));
        assert_eq!(signal("QUIT"), Ok(3));
        assert_eq!(signal("SIGRTMIN+1"), Ok(nix::libc::SIGRTMIN() + 1));
        assert_eq!(signal("SIGTREM").expect_err("no signal").hint, "did you mean `SIGTERM`?");
        assert_eq!(signal("sigterm").expect_err("no signal").hint, "did you mean `SIGTERM`?");
        for bad in ["", "15", "SIG", "SIGSTOP", "SIGRTMIN+99", "SIGRTMIN+", "SIGRTMIN-1", "RTMINX"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn limits() {
        assert_eq!(limit("1024", false), Ok((1024, 1024)));
        assert_eq!(limit("1024:4096", false), Ok((1024, 4096)));
        assert_eq!(limit("1024:infinity", false), Ok((1024, u64::MAX)));
        assert_eq!(limit("infinity", false), Ok((u64::MAX, u64::MAX)));
        assert_eq!(limit("64M", true), Ok((64 << 20, 64 << 20)));
        for bad in ["", "64M", "-1", "4096:1024", "infinity:1", "1:2:3", "unlimited"] {
            assert!(limit(bad, false).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_that_is_written_is_read_again(millis in 0..=100 * 365 * 86_400_000_u64) {
            let value = Duration::from_millis(millis);
            prop_assert_eq!(duration(&format_duration(value)), Ok(value));
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,12}|[0-9dhmsKMG.:+%-]{0,24}") {
            let _ = (duration(&text), duration_range(&text), size(&text), octal(&text), signal(&text));
            let _ = (limit(&text, true), limit(&text, false), percent(&text), statuses(&text));
        }
    }
}
