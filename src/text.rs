//! Pieces of text.

/// So many of something that takes an s.
pub(crate) fn count(number: u64, one: &str) -> String {
    count_as(number, one, &format!("{one}s"))
}

/// So many of something, with the word for one and that for several.
pub(crate) fn count_as(number: u64, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// The last place up to `at`, in bytes, that is between two characters (`str::floor_char_boundary`, which Rust has from
/// 1.91 on).
pub(crate) fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}
