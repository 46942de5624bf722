//! No text breaks the address grammar, and an address that is displayed is read as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zdsup::config::{Address, split_listen};

fuzz_target!(|text: &str| {
    let (_, address) = split_listen(text);
    match address.parse::<Address>() {
        Ok(address) => assert_eq!(address.to_string().parse(), Ok(address)),
        Err(error) => assert!(!error.to_string().is_empty() && !error.hint().is_empty()),
    }
});
