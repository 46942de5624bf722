//! No text breaks the reading of a config, and every refusal can be shown.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match zdsup::config::parse(text, Path::new("web.toml"), None) {
        Ok(config) => assert!(!config.services.is_empty() && config.in_order().len() == config.services.len()),
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "the error is one line: {error:?}");
            assert!(!error.render(true).is_empty() && !error.render(false).is_empty());
        }
    }
});
