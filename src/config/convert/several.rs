//! Several services of one file: what each may name of the others, and must leave to them.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;

use super::super::{Service, order, raw};
use super::listen::{self, Places};
use super::{Origin, Problem, Result, named, service};

/// The services of a file, in its order.
pub(crate) fn services(raw: BTreeMap<Spanned<String>, raw::Service>) -> Result<Vec<Service>> {
    let mut by_place: Vec<_> = raw.into_iter().collect();
    by_place.sort_by_key(|(name, _)| name.span().start);
    if by_place.is_empty() {
        return Err(
            Problem::new(0..0, "no service").hint("add one: `[service.web]` with `command = [\"/path/to/program\"]`")
        );
    }
    let placed = by_place.into_iter().map(|(name, raw)| Placed::new(&name, raw)).collect::<Result<Vec<_>>>()?;
    for (number, one) in placed.iter().enumerate() {
        for other in &placed[..number] {
            check_listeners(one, other)?;
        }
    }
    check_order(&placed)?;
    Ok(placed.into_iter().map(|placed| placed.service).collect())
}

/// A service, and where it says what has to do with others.
struct Placed {
    service: Service,
    listen: Vec<Places>,
    after: Vec<Spanned<String>>,
}

impl Placed {
    fn new(name: &Spanned<String>, raw: raw::Service) -> Result<Self> {
        let listen = raw.listen.iter().map(Places::of).collect();
        let after = raw.after.clone();
        Ok(Self { service: service(name, raw, Origin::File)?, listen, after })
    }
}

fn check_listeners(one: &Placed, other: &Placed) -> Result<()> {
    for (listener, places) in one.service.listen.iter().zip(&one.listen) {
        for (theirs, their_places) in other.service.listen.iter().zip(&other.listen) {
            listen::check_apart(listener, places, theirs, their_places).map_err(|problem| {
                problem.hint(format!(
                    "choose another address: `{}` and `{}` each have their listeners to themselves",
                    other.service.name, one.service.name
                ))
            })?;
        }
    }
    Ok(())
}

fn check_order(placed: &[Placed]) -> Result<()> {
    let mut after = Vec::with_capacity(placed.len());
    for one in placed {
        after.push(earlier(one, placed)?);
    }
    let circle = match order::in_order(&after) {
        Ok(_) => return Ok(()),
        Err(circle) => circle,
    };
    let name = |number: usize| placed[number].service.name.as_str();
    // Where each says that it comes after the next.
    let next = circle.iter().cycle().skip(1);
    let mut places = circle.iter().zip(next).map(|(one, next)| {
        let place = after[*one].iter().position(|earlier| earlier == next).map(|at| placed[*one].after[at].span());
        (place.unwrap_or(0..0), format!("`{}` after `{}`", name(*one), name(*next)))
    });
    let (first, _): (Range<usize>, _) = places.next().unwrap_or_default();
    let names: Vec<_> = circle.iter().chain(circle.first()).map(|number| format!("`{}`", name(*number))).collect();
    let message = format!("the services come after each other in a circle: {}", names.join(" after "));
    let problem = Problem::new(first, message).hint("remove one of them");
    Err(places.fold(problem, |problem, (place, label)| problem.also(place, label)))
}

/// The numbers of the services that one comes after.
fn earlier(one: &Placed, placed: &[Placed]) -> Result<Vec<usize>> {
    let mut earlier: Vec<usize> = Vec::with_capacity(one.after.len());
    for (at, entry) in one.after.iter().enumerate() {
        if *entry.get_ref() == one.service.name {
            return Err(Problem::new(entry.span(), format!("`{}` cannot come after itself", one.service.name))
                .hint("remove it"));
        }
        let others = placed.iter().map(|other| other.service.name.as_str()).filter(|name| *name != one.service.name);
        let found = named(entry, others, "another service of this file")?;
        if let Some(twice) = one.after[..at].iter().find(|other| other.get_ref() == found) {
            return Err(Problem::new(entry.span(), format!("`{found}` is named twice"))
                .also(twice.span(), "the first time")
                .hint("remove one of the two"));
        }
        earlier.extend(placed.iter().position(|other| other.service.name == found));
    }
    Ok(earlier)
}
