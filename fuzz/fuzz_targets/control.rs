//! No request breaks the control parsers, and a refusal is a sentence.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zdsup::control::request::{
    parse_events_query, parse_history_query, parse_kpi_query, parse_pause, parse_promotion, parse_replacement,
    parse_scaling, parse_target, parse_upgrade_request,
};
use zdsup::control::types::Problem;

fuzz_target!(|bytes: &[u8]| {
    check(parse_upgrade_request(bytes));
    check(parse_target(bytes));
    check(parse_promotion(bytes));
    check(parse_scaling(bytes));
    check(parse_pause(bytes));
    check(parse_replacement(bytes));
    if let Ok(query) = std::str::from_utf8(bytes) {
        check(parse_events_query(query));
        check(parse_history_query(query));
        check(parse_kpi_query(query));
    }
});

fn check<T>(result: Result<T, Problem>) {
    if let Err(problem) = result {
        assert!(!problem.error.is_empty() && problem.hint.is_some_and(|hint| !hint.is_empty()));
    }
}
