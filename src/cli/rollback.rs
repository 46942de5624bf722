//! `zdsup rollback`.

use clap::Args;

use super::Global;
use super::failure::Failure;
use super::upgrade::{self, Waiting};
use crate::control::locate;
use crate::control::types::UpgradeRequest;
use crate::core::Kind;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// The service; may be left out where there is one, or where --to names it.
    #[arg(value_name = "SERVICE")]
    service: Option<String>,

    /// The generation to go back to, such as 3 or web@3; the one that served before without it.
    #[arg(long, value_name = "GENERATION", value_parser = generation)]
    to: Option<To>,

    #[command(flatten)]
    waiting: Waiting,
}

/// `web@3` or `3`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct To {
    service: Option<String>,
    generation: u64,
}

pub(super) fn run(global: &Global, args: RollbackArgs) -> Result<Exit, Failure> {
    let RollbackArgs { service, to, waiting } = args;
    let (named, to) = to.map_or((None, None), |to| (to.service, Some(to.generation)));
    let service = match (service, named) {
        (Some(service), Some(named)) if service != named => {
            let failure = Failure::new(Exit::Usage, format!("{service} cannot go back to a generation of {named}"));
            return Err(failure.hint(Some("name the service once")));
        }
        (service, named) => service.or(named),
    };
    let request = UpgradeRequest { service, services: None, kind: Kind::Rollback, atomic: None, to };
    upgrade::upgrade(global, &request, &waiting)
}

fn generation(text: &str) -> Result<To, String> {
    let (service, number) = match text.split_once('@') {
        Some((service, number)) => (Some(service), number),
        None => (None, text),
    };
    let generation = Some(number).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let generation = generation.and_then(|number| number.parse().ok());
    match (service, generation) {
        (Some(service), _) if !locate::is_name(service) => Err(format!("{service:?} is not the name of a service")),
        (service, Some(generation)) => Ok(To { service: service.map(str::to_owned), generation }),
        (_, None) => Err(format!("{number:?} is not the number of a generation: it looks like 3 or web@3")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations() {
        let web = |generation| To { service: Some("web".into()), generation };
        assert_eq!(generation("3"), Ok(To { service: None, generation: 3 }));
        assert_eq!(generation("web@3"), Ok(web(3)));
        for bad in ["", "web", "web@", "@3", "web@3.1", "-1", "+1", "web@+1", "a/b@3", "99999999999999999999"] {
            assert!(generation(bad).is_err(), "{bad}");
        }
    }
}
