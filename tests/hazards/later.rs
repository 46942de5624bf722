//! Instances that differ: `--from N` (that one and those after it are another program), `--then PROGRAM` (which, with all
//! of the options), and those before it serve well.

use crate::{Options, PROGRAMS, serve};

pub(crate) fn main(options: &Options) {
    let from = options.number("--from").unwrap_or(2);
    let name = std::env::var("ZDSUP_INSTANCE").unwrap_or_default();
    let number: u64 = name.rsplit('.').next().and_then(|number| number.parse().ok()).unwrap_or(1);
    if number < from {
        return serve::main(&Options(Vec::new()));
    }
    let then = options.text("--then").unwrap_or_default();
    let program = PROGRAMS.iter().find(|(known, _)| *known == then);
    program.unwrap_or_else(|| panic!("no such program: {then:?}")).1(options);
}
