//! Pieces of text.

/// The last place up to `at`, in bytes, that is between two characters (`str::floor_char_boundary`, which Rust has from
/// 1.91 on).
pub(crate) fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}
