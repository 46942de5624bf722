//! What is asked for during an upgrade, and how much of it may fail.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;

use super::super::address::{Address, Inet};
use super::super::{
    Affinity, Canary, ErrorBudget, Listen, Strategy, Traffic, Upgrade, UpgradeProbe, format_duration, raw, units,
};
use super::health::{host, path};
use super::upgrade::Around;
use super::{Origin, Problem, Result, at, named, number, optional};
use crate::sys::socket::UnixKind;

/// `upgrade`: all else that is said of it.
pub(super) fn probe(
    raw: Option<Spanned<raw::Probe>>,
    budget: Option<&Spanned<raw::Percent>>,
    upgrade: &Upgrade,
    around: &Around<'_>,
) -> Result<Option<UpgradeProbe>> {
    let Some(raw) = raw else {
        return match budget {
            None => Ok(None),
            Some(budget) => {
                let remedy = around.origin.either("probe = { http = \"/\" }", "--upgrade-probe /");
                Err(Problem::new(budget.span(), "there are no requests whose errors could be counted")
                    .hint(format!("add `{remedy}`, or remove it")))
            }
        };
    };
    let place = raw.span();
    let raw = raw.into_inner();
    let Some(http) = raw.http else {
        return Err(Problem::new(place, "the probe has nothing to ask for").hint("add a path: `http = \"/\"`"));
    };
    let rate = raw.rate.map_or(Ok(UpgradeProbe::RATE), |rate| number(&rate, 1..=1000, "the requests a second"))?;
    let listen = probed(raw.listener.as_ref(), place, around.listen)?;
    let probe = UpgradeProbe {
        http: path(http)?,
        host: optional(raw.host, host)?,
        rate,
        listener: listen.name.clone(),
        max_error_rate: optional(budget, error_budget)?,
    };
    if let Some((budget, max)) = budget.zip(probe.max_error_rate) {
        let judged = Judged { place: budget.span(), budget: max, rate, upgrade, around };
        judged.can_be()?;
        judged.has_clients(listen)?;
    }
    Ok(Some(probe))
}

fn probed<'a>(name: Option<&Spanned<String>>, place: Range<usize>, listen: &'a [Listen]) -> Result<&'a Listen> {
    let fits =
        |listen: &&Listen| matches!(listen.address, Address::Tcp(_) | Address::Unix { kind: UnixKind::Stream, .. });
    let Some(name) = name else {
        return listen.iter().find(fits).ok_or_else(|| {
            Problem::new(place, "there is no listener that the probe could go through")
                .hint("add one for TCP or a unix stream, or remove the probe")
        });
    };
    let found = named(name, listen.iter().map(|listen| listen.name.as_str()), "a listener of this service")?;
    match listen.iter().find(|listen| listen.name == found) {
        Some(listen) if fits(&listen) => Ok(listen),
        Some(Listen { address, .. }) => {
            let message = format!("HTTP goes over TCP or a unix stream, and the address is `{address}`");
            Err(Problem::new(name.span(), message).hint("name another listener"))
        }
        None => Err(Problem::new(name.span(), "there is no such listener").hint("name another listener")),
    }
}

fn error_budget(percent: &Spanned<raw::Percent>) -> Result<ErrorBudget> {
    let per_million = units::percent(&percent.get_ref().0).map_err(at(percent.span()))?;
    if per_million == 1_000_000 {
        return Err(Problem::new(percent.span(), "more than all requests cannot fail").hint("write less, or remove it"));
    }
    Ok(ErrorBudget::per_million(per_million))
}

/// A budget, and what decides whether it can ever be exceeded: otherwise it would only seem to protect.
struct Judged<'a> {
    /// Where it is written.
    place: Range<usize>,
    budget: ErrorBudget,
    /// Requests a second.
    rate: u32,
    upgrade: &'a Upgrade,
    around: &'a Around<'a>,
}

impl Judged<'_> {
    fn can_be(&self) -> Result<()> {
        let Around { instances, traffic, origin, .. } = *self.around;
        match &self.upgrade.strategy {
            Strategy::Canary(canary) => self.canary_can_be(canary),
            // More than one at a time, and the first are judged while the others wait.
            Strategy::Rolling { max_surge, max_unavailable } if *max_surge.max(max_unavailable) < instances => Ok(()),
            Strategy::Rolling { .. } | Strategy::Overlap | Strategy::BlueGreen { .. } | Strategy::StopStart => {
                match traffic {
                    Traffic::Steered => {
                        let message =
                            "with steered traffic the new release answers nobody before the upgrade has succeeded";
                        let remedy = origin.either("strategy = \"canary\"", "--upgrade-strategy canary");
                        Err(self.wrong(message, format!("write `{remedy}`, or remove it")))
                    }
                    Traffic::Shared => self.soak_can_be(self.upgrade.soak, origin),
                }
            }
        }
    }

    fn soak_can_be(&self, soak: Duration, origin: Origin<'_>) -> Result<()> {
        let fewest = self.budget.fewest();
        let enough = Duration::from_secs(fewest.div_ceil(self.rate.into()).max(5));
        let longer = match origin {
            Origin::File => format!("soak = \"{}\"", format_duration(enough)),
            Origin::Flags { .. } => format!("--upgrade-soak {}", format_duration(enough)),
        };
        if soak.is_zero() {
            let message = "without a soak the upgrade has succeeded as soon as the new release answers anybody";
            return Err(self.wrong(message, format!("write `{longer}`, or remove it")));
        }
        if self.requests(soak) < fewest {
            let message = format!("{} too few to judge by", self.so_many("the soak", soak));
            return Err(
                self.wrong(message, format!("at least {fewest} are judged: write `{longer}`, or ask more often"))
            );
        }
        Ok(())
    }

    fn canary_can_be(&self, canary: &Canary) -> Result<()> {
        let fewest = self.budget.fewest();
        let (manual, longest) = (canary.manual, canary.steps.iter().map(|step| step.hold).max().unwrap_or_default());
        let lasts = |hold| manual || self.requests(hold) >= fewest;
        if !lasts(longest) {
            let message = format!("{} too few to judge by", self.so_many("the longest step", longest));
            let hint = format!("at least {fewest} are judged: let a step hold longer, or ask more often");
            return Err(self.wrong(message, hint));
        }
        let most = canary.steps.iter().filter(|step| lasts(step.hold)).map(|step| step.weight).max().unwrap_or(0);
        if canary.from.is_empty() && !self.budget.is_exceeded_by(most.into(), 100) {
            let message = format!(
                "where it is judged the new release has at most {most} % of the connections, so that no more could fail by it"
            );
            return Err(self.wrong(message, "write less, or add a step with a greater weight"));
        }
        Ok(())
    }

    /// Where clients stay with one release, one client would see the one or the other, and say nothing of the share.
    fn has_clients(&self, listen: &Listen) -> Result<()> {
        let Strategy::Canary(Canary { affinity: Affinity::Source, .. }) = self.upgrade.strategy else { return Ok(()) };
        let only_v6 = listen.options.only_v6 == Some(true);
        let is_v6 = match &listen.address {
            Address::Tcp(Inet::Addr(address)) => address.is_ipv6() && (only_v6 || !address.ip().is_unspecified()),
            Address::Tcp(Inet::Any { .. }) => only_v6,
            _ => false,
        };
        if is_v6 {
            let message = format!(
                "through `{}` the probe is one client, whom `affinity` keeps with one release: over IPv6 it has no other address",
                listen.name
            );
            return Err(self.wrong(message, "name a listener for IPv4 in the probe, or write `affinity = \"none\"`"));
        }
        Ok(())
    }

    fn wrong(&self, message: impl Into<String>, hint: impl Into<String>) -> Problem {
        Problem::new(self.place.clone(), message).hint(hint)
    }

    fn requests(&self, span: Duration) -> u64 {
        u64::try_from(span.as_millis() * u128::from(self.rate) / 1000).unwrap_or(u64::MAX)
    }

    fn so_many(&self, what: &str, span: Duration) -> String {
        let (rate, requests) = (self.rate, self.requests(span));
        let (s, are) = if requests == 1 { ("", "is") } else { ("s", "are") };
        format!("at {rate} a second {what} of {} has {requests} request{s}, which {are}", format_duration(span))
    }
}
