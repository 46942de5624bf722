//! Quantities as a person would say them.

use std::time::Duration;

use crate::core::about;

/// Seconds that were measured, or are left.
pub(in crate::cli) fn span(seconds: f64) -> String {
    about(Duration::from_millis((seconds.max(0.0) * 1000.0).round() as u64))
}

/// An instant, in seconds since the epoch, as logs write it (RFC 3339, UTC).
pub(in crate::cli) fn instant(at: f64) -> String {
    let seconds = at.clamp(0.0, 253_402_300_799.0) as u64;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // From the days since the epoch to a date, by eras of 400 years that begin in March (Hinnant, "chrono-Compatible
    // Low-Level Date Algorithms").
    let day = days + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, turn) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + turn;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Bytes.
pub(super) fn size(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let kib = bytes as f64 / KIB;
    if kib < 1000.0 {
        format!("{kib:.0} KiB")
    } else if kib < 1000.0 * KIB {
        format!("{:.1} MiB", kib / KIB)
    } else {
        format!("{:.1} GiB", kib / KIB / KIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        assert_eq!([-1.0, f64::NAN, 0.0123, 0.9996, 7199.0].map(span), ["0 ms", "0 ms", "12 ms", "1.0 s", "119 min"]);
    }

    #[test]
    fn instants() {
        // As date -u -d @... says.
        let said = [-5.0, 951_782_400.9, 1_709_164_799.0, 1_795_430_090.49, 4_107_542_400.0, f64::MAX].map(instant);
        let expected = [
            "1970-01-01T00:00:00Z",
            "2000-02-29T00:00:00Z",
            "2024-02-28T23:59:59Z",
            "2026-11-23T10:34:50Z",
            "2100-03-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn sizes() {
        let said = [0, 1024, 1_000_000, 1_048_576, 36_175_872, 3 << 30].map(size);
        assert_eq!(said, ["0 KiB", "1 KiB", "977 KiB", "1.0 MiB", "34.5 MiB", "3.0 GiB"]);
    }
}
