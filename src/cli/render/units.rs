//! Quantities as a person would say them.

/// Seconds.
pub(in crate::cli) fn span(seconds: f64) -> String {
    let millis = (seconds.max(0.0) * 1000.0).round() as u64;
    let whole = (millis + 500) / 1000;
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..9_950 => format!("{:.1} s", millis as f64 / 1000.0),
        9_950..120_000 => format!("{whole} s"),
        120_000..7_200_000 => format!("{} min", whole / 60),
        7_200_000..172_800_000 => format!("{} h", whole / 3600),
        _ => format!("{} d", whole / 86_400),
    }
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

/// So many of something.
pub(super) fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let said = [-1.0, 0.0, 0.0123, 0.9996, 1.25, 9.96, 59.4, 119.9, 120.0, 7199.0, 7200.0, 172_800.0].map(span);
        let expected =
            ["0 ms", "0 ms", "12 ms", "1.0 s", "1.2 s", "10 s", "59 s", "120 s", "2 min", "119 min", "2 h", "2 d"];
        assert_eq!(said, expected);
    }

    #[test]
    fn sizes() {
        let said = [0, 1024, 1_000_000, 1_048_576, 36_175_872, 3 << 30].map(size);
        assert_eq!(said, ["0 KiB", "1 KiB", "977 KiB", "1.0 MiB", "34.5 MiB", "3.0 GiB"]);
    }
}
