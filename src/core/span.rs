//! Durations as a person would say them. In words; whatever is read by programs stays in seconds.
//!
//! One scale: minutes from two of them on, hours from two of them on, days from two of them on.

use std::time::Duration;

/// The units above a second, and how many seconds each has.
const UNITS: [(&str, u64); 3] = [("d", 86_400), ("h", 3_600), ("min", 60)];

/// A duration that somebody has chosen, to the tenth of a second: `250 ms`, `1.5 s`, `90 s`, `10 min`, `2 h 30 min`.
#[must_use]
pub fn spoken(span: Duration) -> String {
    if span.as_secs() == 0 {
        return format!("{} ms", span.as_millis());
    }
    let tenths = span.as_millis().saturating_add(50) / 100;
    let (mut rest, tenth) = (u64::try_from(tenths / 10).unwrap_or(u64::MAX), tenths % 10);
    let mut parts = Vec::new();
    for (unit, size) in UNITS {
        let least = if parts.is_empty() { 2 * size } else { size };
        if rest >= least {
            parts.push(format!("{} {unit}", rest / size));
            rest %= size;
        }
    }
    match tenth {
        0 if rest == 0 && !parts.is_empty() => {}
        0 => parts.push(format!("{rest} s")),
        _ => parts.push(format!("{rest}.{tenth} s")),
    }
    parts.join(" ")
}

/// A duration that was measured, or what is left of one: `250 ms`, `1.5 s`, `31 s`, `2 min`, `24 h`.
#[must_use]
pub fn about(span: Duration) -> String {
    let millis = span.as_millis();
    let seconds = span.as_secs();
    match UNITS.into_iter().find(|(_, size)| seconds >= 2 * size) {
        Some((unit, size)) => format!("{} {unit}", seconds / size),
        None if millis < 1_000 => format!("{millis} ms"),
        None if millis < 9_950 => format!("{:.1} s", span.as_secs_f64()),
        None => format!("{} s", (millis + 500) / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_is_said_exactly() {
        let said = [0, 250, 1_000, 1_500, 30_000, 59_970, 90_000, 119_900].map(Duration::from_millis).map(spoken);
        assert_eq!(said, ["0 ms", "250 ms", "1 s", "1.5 s", "30 s", "60 s", "90 s", "119.9 s"]);
        let said = [120, 150, 600, 5_400, 7_200, 9_000, 9_001, 86_400, 172_800, 180_000, 604_800];
        let expected = [
            "2 min",
            "2 min 30 s",
            "10 min",
            "90 min",
            "2 h",
            "2 h 30 min",
            "2 h 30 min 1 s",
            "24 h",
            "2 d",
            "2 d 2 h",
            "7 d",
        ];
        assert_eq!(said.map(Duration::from_secs).map(spoken), expected);
        assert_eq!(spoken(Duration::from_millis(120_500)), "2 min 0.5 s");
        assert!(spoken(Duration::MAX).ends_with(" s"));
    }

    #[test]
    fn what_was_measured_is_said_in_one_unit() {
        let said = [0, 12, 1_000, 1_249, 9_960, 59_400, 119_900, 120_000, 7_199_000, 7_200_000, 172_800_000];
        let expected = ["0 ms", "12 ms", "1.0 s", "1.2 s", "10 s", "59 s", "120 s", "2 min", "119 min", "2 h", "2 d"];
        assert_eq!(said.map(Duration::from_millis).map(about), expected);
    }
}
