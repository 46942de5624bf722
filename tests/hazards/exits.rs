//! Ends before it is ready: `--status N`, `--after MS`.

use crate::Options;

pub(crate) fn main(options: &Options) {
    println!("starting");
    eprintln!("cannot read /etc/missing.conf");
    if let Some(span) = options.span("--after") {
        std::thread::sleep(span);
    }
    std::process::exit(options.number("--status").map_or(1, |status| i32::try_from(status).expect("a small number")));
}
