//! How a service is upgraded, and which of its settings can go together.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::super::{
    Affinity, Canary, CanaryStep, Listen, Network, NetworkError, Strategy, Traffic, Upgrade, raw, units,
};
use super::probe::probe;
use super::{INSTANCES_MAX, Origin, Problem, Result, choice, duration, nonzero, number};
use crate::text::count;

const STRATEGIES: [&str; 5] = ["overlap", "rolling", "canary", "blue-green", "stop-start"];

const STEPS_MAX: usize = 32;

/// Each is a few instructions of a program that the kernel limits to 4096.
const NETWORKS_MAX: usize = 64;

/// What of the service an upgrade has to fit.
#[derive(Debug)]
pub(super) struct Around<'a> {
    pub(super) instances: u32,
    pub(super) traffic: Traffic,
    /// Where the traffic is written, if it is.
    pub(super) traffic_place: Option<Range<usize>>,
    pub(super) listen: &'a [Listen],
    pub(super) origin: Origin<'a>,
}

pub(super) fn upgrade(raw: raw::Upgrade, around: &Around<'_>) -> Result<Upgrade> {
    let default = Upgrade::default();
    let mut upgrade = Upgrade {
        soak: raw.soak.as_ref().map_or(Ok(default.soak), duration)?,
        max_draining: raw.max_draining.as_ref().map_or(Ok(default.max_draining), |max| {
            number(max, 1..=u32::MAX.into(), "the number of draining generations")
        })?,
        keep_releases: raw
            .keep_releases
            .as_ref()
            .map_or(Ok(default.keep_releases), |keep| number(keep, 0..=100, "the number of kept releases"))?,
        strategy: Wanted {
            strategy: raw.strategy,
            max_surge: raw.max_surge,
            max_unavailable: raw.max_unavailable,
            canary: raw.canary,
            standby: raw.standby,
        }
        .strategy(around)?,
        probe: None,
    };
    upgrade.probe = probe(raw.probe, raw.max_error_rate.as_ref(), &upgrade, around)?;
    Ok(upgrade)
}

/// The strategy, and the keys that belong to one of them.
struct Wanted {
    strategy: Option<Spanned<String>>,
    max_surge: Option<Spanned<raw::Amount>>,
    max_unavailable: Option<Spanned<raw::Amount>>,
    canary: Option<Spanned<raw::Canary>>,
    standby: Option<Spanned<raw::DurationText>>,
}

impl Wanted {
    fn strategy(self, around: &Around<'_>) -> Result<Strategy> {
        let word = match &self.strategy {
            None => Strategy::default().word(),
            Some(word) => choice(word, &STRATEGIES, "a strategy")?,
        };
        only_with(word, "rolling", self.max_surge.as_ref(), around.origin)?;
        only_with(word, "rolling", self.max_unavailable.as_ref(), around.origin)?;
        only_with(word, "canary", self.canary.as_ref(), around.origin)?;
        only_with(word, "blue-green", self.standby.as_ref(), around.origin)?;
        let place = self.strategy.as_ref().map_or(0..0, Spanned::span);
        match word {
            "rolling" => rolling(self.max_surge.as_ref(), self.max_unavailable.as_ref(), &place, around),
            "canary" => {
                around.needs_steered(word, &place)?;
                canary(self.canary, &place, around.origin).map(Strategy::Canary)
            }
            "blue-green" => {
                around.needs_steered(word, &place)?;
                let standby = self.standby.as_ref().map_or(Ok(Strategy::STANDBY), duration)?;
                Ok(Strategy::BlueGreen { standby })
            }
            "stop-start" => Ok(Strategy::StopStart),
            _ => Ok(Strategy::Overlap),
        }
    }
}

impl Around<'_> {
    fn needs_steered(&self, strategy: &str, place: &Range<usize>) -> Result<()> {
        if self.traffic == Traffic::Steered {
            return Ok(());
        }
        let message = format!(
            "`{strategy}` needs steered traffic: of a shared socket each process takes connections as soon as it runs"
        );
        let remedy = self.origin.either("traffic = \"steered\"", "--traffic steered");
        let problem = Problem::new(place.clone(), message).hint(format!("write `{remedy}`, or another strategy"));
        Err(match &self.traffic_place {
            Some(traffic) => problem.also(traffic.clone(), "the traffic"),
            None => problem,
        })
    }
}

/// Refuses a key whose strategy is not the chosen one: it would have no effect.
fn only_with<T>(strategy: &str, needed: &str, value: Option<&Spanned<T>>, origin: Origin<'_>) -> Result<()> {
    match value {
        Some(value) if strategy != needed => {
            let message = format!("this belongs to the strategy `{needed}`, not to `{strategy}`");
            let remedy = match origin {
                Origin::File => format!("strategy = \"{needed}\""),
                Origin::Flags { .. } => format!("--upgrade-strategy {needed}"),
            };
            Err(Problem::new(value.span(), message).hint(format!("write `{remedy}`, or remove it")))
        }
        _ => Ok(()),
    }
}

fn rolling(
    surge: Option<&Spanned<raw::Amount>>,
    unavailable: Option<&Spanned<raw::Amount>>,
    place: &Range<usize>,
    around: &Around<'_>,
) -> Result<Strategy> {
    let max_surge = match surge {
        None => Strategy::MAX_SURGE,
        Some(amount) => instances(amount, around.instances, u64::div_ceil)?,
    };
    let max_unavailable = match unavailable {
        None => Strategy::MAX_UNAVAILABLE,
        Some(amount) => instances(amount, around.instances, |parts, whole| parts / whole)?,
    };
    if max_surge > 0 || max_unavailable > 0 {
        return Ok(Strategy::Rolling { max_surge, max_unavailable });
    }
    // The surge is written: it is not 0 by itself.
    let message = "nothing could be replaced: no instance may be added, and none may be missing";
    let problem = Problem::new(surge.map_or(place.clone(), Spanned::span), message);
    let remedy = around.origin.either("max-surge = 1", "--upgrade-max-surge 1");
    let problem = match unavailable.map(Spanned::get_ref) {
        Some(raw::Amount::Text(text)) => {
            let of = count(around.instances.into(), "instance");
            problem.hint(format!("`{text}` of {of}, rounded down, is 0: write `{remedy}`, or a larger part"))
        }
        _ => {
            let other = around.origin.either("max-unavailable = 1", "--upgrade-max-unavailable 1");
            problem.hint(format!("write `{remedy}`, or `{other}`"))
        }
    };
    Err(match unavailable {
        Some(unavailable) => problem.also(unavailable.span(), "none missing"),
        None => problem,
    })
}

/// A number of instances, or a part of them all.
fn instances(amount: &Spanned<raw::Amount>, of: u32, divide: impl FnOnce(u64, u64) -> u64) -> Result<u32> {
    let (range, what) = (0..=INSTANCES_MAX, "the number of instances");
    match amount.get_ref() {
        raw::Amount::Number(count) => number(&Spanned::new(amount.span(), *count), range, what),
        raw::Amount::Text(text) => {
            let millionths = units::percent(text).map_err(|error| {
                Problem::new(amount.span(), error.message).hint("write a number, or a percentage such as `\"25%\"`")
            })?;
            let count = divide(u64::from(of) * u64::from(millionths), 1_000_000);
            number(&Spanned::new(amount.span(), i64::try_from(count).unwrap_or(i64::MAX)), range, what)
        }
    }
}

fn canary(raw: Option<Spanned<raw::Canary>>, place: &Range<usize>, origin: Origin<'_>) -> Result<Canary> {
    let place = raw.as_ref().map_or(place.clone(), Spanned::span);
    let raw = raw.map(Spanned::into_inner).unwrap_or_default();
    if raw.steps.is_empty() {
        let remedy = origin.either("canary = { steps = [{ weight = 5, hold = \"30s\" }] }", "--upgrade-canary 5:30s");
        return Err(Problem::new(place, "a canary needs at least one step").hint(format!("write `{remedy}`")));
    }
    if let Some(step) = raw.steps.get(STEPS_MAX) {
        return Err(Problem::new(step.span(), format!("more than {STEPS_MAX} steps")).hint("remove some"));
    }
    let affinity = match &raw.affinity {
        None => Affinity::default(),
        Some(word) => match choice(word, &["source", "none"], "an affinity")? {
            "source" => Affinity::Source,
            _ => Affinity::Random,
        },
    };
    Ok(Canary { steps: steps(&raw.steps, raw.manual, origin)?, manual: raw.manual, from: from(&raw.from)?, affinity })
}

fn steps(raw: &[Spanned<raw::Step>], manual: bool, origin: Origin<'_>) -> Result<Vec<CanaryStep>> {
    let mut steps: Vec<CanaryStep> = Vec::with_capacity(raw.len());
    let mut before: Option<Range<usize>> = None;
    for step in raw {
        let raw::Step { weight, hold } = step.get_ref();
        let Some(weight) = weight else {
            return Err(Problem::new(step.span(), "the step has no weight").hint("add one: `weight = 5`"));
        };
        let place = weight.span();
        let weight: u32 = match weight.get_ref() {
            100 => {
                return Err(Problem::new(place, "the weight cannot be 100")
                    .hint("remove the step: after the last one everything goes to the new release"));
            }
            _ => number(weight, 1..=99, "the weight")?,
        };
        if let Some((last, before)) = steps.last().zip(before)
            && weight <= last.weight
        {
            return Err(Problem::new(place, format!("the weight does not rise: {weight} after {}", last.weight))
                .also(before, "the step before")
                .hint("write weights that rise from step to step"));
        }
        let hold = match hold {
            Some(hold) => nonzero(hold, "the step's time", "remove the step, or write how long it holds")?,
            None if manual => Duration::ZERO,
            None => {
                let in_flags = format!("write `{weight}:30s`, or no time at any step, to wait for `zdsup promote`");
                return Err(Problem::new(step.span(), "the step has no time").hint(match origin {
                    Origin::File => {
                        "add `hold = \"30s\"`, or `manual = true` beside `steps` to wait for `zdsup promote`"
                    }
                    Origin::Flags { .. } => &in_flags,
                }));
            }
        };
        steps.push(CanaryStep { weight, hold });
        before = Some(place);
    }
    Ok(steps)
}

fn from(raw: &[Spanned<String>]) -> Result<Vec<Network>> {
    if let Some(network) = raw.get(NETWORKS_MAX) {
        return Err(Problem::new(network.span(), format!("more than {NETWORKS_MAX} networks")).hint("remove some"));
    }
    let network = |text: &Spanned<String>| {
        let parsed = text.get_ref().parse();
        parsed.map_err(|error: NetworkError| Problem::new(text.span(), error.to_string()).hint(error.hint()))
    };
    raw.iter().map(network).collect()
}
