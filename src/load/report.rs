//! What is known after a load: a compact record of each request.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::{Class, Failure};

/// On what kind of connection a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mode {
    /// A connection of its own.
    New,
    /// The first on a connection that is to be kept.
    First,
    /// A later one on a kept connection.
    Reused,
}

/// One request, in twelve bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it began, microseconds since the report's start.
    pub start: u32,
    /// From its begin to its end, microseconds.
    pub latency: u32,
    /// Which first word answered: an index into the report's words; meaningless where it failed.
    word: u16,
    /// On what kind of connection.
    pub mode: Mode,
    /// How it failed, if it did.
    pub failure: Option<Class>,
}

/// One of the first failures, for a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// When the request began.
    pub at: Instant,
    /// On what kind of connection.
    pub mode: Mode,
    /// How it failed.
    pub class: Class,
    /// More about it.
    pub detail: String,
}

/// Latencies of the requests that ended well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// How many there were.
    pub count: u64,
    /// The median.
    pub p50: Duration,
    /// 99 of 100 were no slower.
    pub p99: Duration,
    /// 999 of 1000 were no slower.
    pub p999: Duration,
    /// The slowest.
    pub max: Duration,
}

/// How many failures are kept with their details.
const EXAMPLES: usize = 16;

/// What became of every request.
#[derive(Clone, Debug)]
pub struct Report {
    /// Requests begun, and so ended.
    pub total: u64,
    /// Those that ended well.
    pub ok: u64,
    /// The others, by class.
    pub errors: BTreeMap<Class, u64>,
    /// Each of them; in no order.
    pub samples: Vec<Sample>,
    /// The first failures with their details, in order.
    pub examples: Vec<Example>,
    started: Instant,
    words: Vec<String>,
    indexes: HashMap<String, u16>,
}

impl Report {
    /// An empty one; offsets count from `started`.
    #[must_use]
    pub fn new(started: Instant) -> Self {
        Self {
            total: 0,
            ok: 0,
            errors: BTreeMap::new(),
            samples: Vec::new(),
            examples: Vec::new(),
            started,
            words: Vec::new(),
            indexes: HashMap::new(),
        }
    }

    /// When the load began.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Requests that did not end well.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.total - self.ok
    }

    /// How many answers began with each word: which generation answered how often.
    #[must_use]
    pub fn answers(&self) -> BTreeMap<&str, u64> {
        let mut answers = BTreeMap::new();
        for sample in self.samples.iter().filter(|sample| sample.failure.is_none()) {
            *answers.entry(self.word(sample)).or_default() += 1;
        }
        answers
    }

    /// The first word of a request's answer; empty where it failed.
    #[must_use]
    pub fn word(&self, sample: &Sample) -> &str {
        match sample.failure {
            None => self.words.get(usize::from(sample.word)).map_or("", String::as_str),
            Some(_) => "",
        }
    }

    /// When a request began.
    #[must_use]
    pub fn at(&self, sample: &Sample) -> Instant {
        self.started + Duration::from_micros(sample.start.into())
    }

    /// Those that were in flight at any moment from `from` to `to`.
    #[must_use]
    pub fn window(&self, from: Instant, to: Instant) -> Self {
        self.split(&[from..to]).0
    }

    /// Those that were in flight at any moment of any of the windows, and the others.
    #[must_use]
    pub fn split(&self, windows: &[Range<Instant>]) -> (Self, Self) {
        let (mut inside, mut outside) = (Self::new(self.started), Self::new(self.started));
        let is_inside = |at: Instant, end: Instant| windows.iter().any(|w| at <= w.end && end >= w.start);
        for sample in &self.samples {
            let at = self.at(sample);
            let end = at + Duration::from_micros(sample.latency.into());
            let part = if is_inside(at, end) { &mut inside } else { &mut outside };
            part.push(*sample, self.word(sample));
        }
        for example in &self.examples {
            let part = if is_inside(example.at, example.at) { &mut inside } else { &mut outside };
            part.examples.push(example.clone());
        }
        (inside, outside)
    }

    /// Latencies of the requests that ended well.
    #[must_use]
    pub fn percentiles(&self) -> Latency {
        let mut sorted: Vec<u32> = self.samples.iter().filter(|s| s.failure.is_none()).map(|s| s.latency).collect();
        sorted.sort_unstable();
        let Some(&max) = sorted.last() else { return Latency::default() };
        // The nearest rank: the smallest value that so many per mille are not above.
        let rank = |per_mille: usize| {
            let at = (sorted.len() * per_mille).div_ceil(1000).max(1) - 1;
            Duration::from_micros(sorted[at].into())
        };
        Latency {
            count: sorted.len() as u64,
            p50: rank(500),
            p99: rank(990),
            p999: rank(999),
            max: Duration::from_micros(max.into()),
        }
    }

    /// Adds another report's requests.
    pub fn merge(&mut self, other: Self) {
        if other.started < self.started {
            // Offsets are unsigned: the earlier start stays.
            let later = std::mem::replace(self, other);
            return self.merge(later);
        }
        let shift = micros(other.started - self.started);
        for sample in &other.samples {
            let moved = Sample { start: sample.start.saturating_add(shift), ..*sample };
            self.push(moved, other.word(sample));
        }
        self.examples.extend(other.examples);
        self.examples.sort_by_key(|example| example.at);
        self.examples.truncate(EXAMPLES);
    }

    /// Adds one request.
    pub fn record(&mut self, at: Instant, latency: Duration, mode: Mode, outcome: Result<String, Failure>) {
        let start = micros(at.saturating_duration_since(self.started));
        let sample = Sample { start, latency: micros(latency), word: 0, mode, failure: None };
        match outcome {
            Ok(word) => self.push(sample, &word),
            Err(Failure { class, detail }) => {
                self.push(Sample { failure: Some(class), ..sample }, "");
                if self.examples.len() < EXAMPLES {
                    self.examples.push(Example { at, mode, class, detail });
                }
            }
        }
    }

    fn push(&mut self, sample: Sample, word: &str) {
        self.total += 1;
        let word = match sample.failure {
            None => {
                self.ok += 1;
                self.index(word)
            }
            Some(class) => {
                *self.errors.entry(class).or_default() += 1;
                0
            }
        };
        self.samples.push(Sample { word, ..sample });
    }

    /// The index of a word; words beyond what sixteen bits can tell apart share the last index.
    fn index(&mut self, word: &str) -> u16 {
        if let Some(&index) = self.indexes.get(word) {
            return index;
        }
        let Ok(index) = u16::try_from(self.words.len()) else { return u16::MAX };
        self.words.push(word.to_owned());
        self.indexes.insert(word.to_owned(), index);
        index
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
