//! No datagram breaks the notify parser, and what it makes of one keeps its promises.
#![no_main]

use libfuzzer_sys::fuzz_target;
use zdsup::notify::{MAX_DATAGRAM, MAX_FD_NAME, MAX_STATUS, Message, parse};

fuzz_target!(|bytes: &[u8]| {
    let Ok(parsed) = parse(bytes) else { return };
    assert!(bytes.len() <= MAX_DATAGRAM);
    for (index, message) in parsed.messages.iter().enumerate() {
        let is_of_its_kind = |other: &Message| std::mem::discriminant(other) == std::mem::discriminant(message);
        assert!(!parsed.messages[..index].iter().any(is_of_its_kind), "each kind at most once");
        match message {
            Message::Barrier => assert_eq!(parsed.messages.len(), 1, "a barrier stands alone"),
            Message::MainPid(pid) => assert!(*pid > 1),
            Message::Status(text) | Message::BusError(text) => {
                assert!(text.chars().count() <= MAX_STATUS && !text.chars().any(char::is_control));
            }
            Message::FdStore { name, .. } | Message::FdStoreRemove { name } => {
                assert!(name.len() <= MAX_FD_NAME && name.is_ascii() && !name.contains(':'));
            }
            _ => {}
        }
    }
});
