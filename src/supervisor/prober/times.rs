//! How long requests took, in little memory: counts by time, each to about three percent.

use std::time::Duration;

/// Times below 2^5 µs are told apart by microseconds, those up to twice as long by 2 µs, and so on.
const BITS: u32 = 5;
/// About 4 s; whatever is longer counts as that.
const MAX: u64 = (1 << 22) - 1;
const COUNTS: usize = index(MAX) + 1;

/// Counts by time.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// Empty until something is counted.
    counts: Vec<u32>,
    total: u64,
}

impl Times {
    pub(super) fn add(&mut self, took: Duration) {
        self.counts.resize(COUNTS, 0);
        let micros = u64::try_from(took.as_micros()).unwrap_or(MAX).min(MAX);
        let count = &mut self.counts[index(micros)];
        *count = count.saturating_add(1);
        self.total += 1;
    }

    /// What this part of them, from 0 to 1, took at most.
    pub(super) fn percentile(&self, part: f64) -> Option<Duration> {
        let rank = ((self.total as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        let place = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        });
        place.map(|place| Duration::from_micros(longest(place)))
    }
}

const fn index(micros: u64) -> usize {
    let above = (u64::BITS - micros.leading_zeros()).saturating_sub(BITS + 1);
    ((above as usize) << BITS) + (micros >> above) as usize
}

/// The longest time that is counted at a place, microseconds.
fn longest(place: usize) -> u64 {
    let above = (place >> BITS).saturating_sub(1);
    let digits = place - (above << BITS);
    ((digits as u64 + 1) << above) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles() {
        let mut times = Times::default();
        assert_eq!(times.percentile(0.5), None);
        for millis in 1..=100 {
            times.add(Duration::from_millis(millis));
        }
        for (part, expected) in [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            let found = times.percentile(part).expect("there are some").as_secs_f64() * 1000.0;
            assert!(found >= expected && found <= expected * 1.04, "{part}: {found}");
        }
        times.add(Duration::from_secs(3600));
        assert!(times.percentile(1.0).is_some_and(|longest| longest > Duration::from_secs(4)));
    }

    proptest! {
        #[test]
        fn each_time_is_counted_where_it_belongs(micros in 0..=MAX) {
            let (place, longest) = (index(micros), longest(index(micros)));
            prop_assert!(place < COUNTS);
            prop_assert!(longest >= micros && longest - micros <= micros / 32, "{micros}: {longest}");
            prop_assert!(micros == 0 || index(micros - 1) + 1 >= place, "there is no gap");
        }
    }
}
