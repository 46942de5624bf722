//! What a reload changes about the listeners.

use super::{Listen, ListenOptions};

/// The listeners of two configs of one service, compared by (family, type, address).
///
/// An address whose port the kernel chooses says nothing about which socket it is; those are told apart by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenDiff<'a> {
    /// In both, in the new order.
    pub kept: Vec<KeptListener<'a>>,
    /// Only in the new one, in its order.
    pub added: Vec<&'a Listen>,
    /// Only in the old one, in its order.
    pub removed: Vec<&'a Listen>,
}

/// A listener that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptListener<'a> {
    /// As it was.
    pub old: &'a Listen,
    /// As it is to be. Its name may differ.
    pub new: &'a Listen,
    /// The options that differ, by their keys in the file.
    pub changed: Vec<&'static str>,
}

impl<'a> ListenDiff<'a> {
    /// Compares two lists of listeners.
    #[must_use]
    pub fn new(old: &'a [Listen], new: &'a [Listen]) -> Self {
        let mut diff = Self::default();
        for new in new {
            match old.iter().find(|old| is_same(old, new)) {
                Some(old) => diff.kept.push(KeptListener { old, new, changed: changed(&old.options, &new.options) }),
                None => diff.added.push(new),
            }
        }
        diff.removed = old.iter().filter(|old| !new.iter().any(|new| is_same(old, new))).collect();
        diff
    }

    /// Whether the same sockets stay with the same options and names, in the same order or not.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.kept.iter().all(|kept| kept.changed.is_empty() && kept.old.name == kept.new.name)
    }
}

fn is_same(old: &Listen, new: &Listen) -> bool {
    old.address.is_same(&new.address) && (!old.address.is_ephemeral() || old.name == new.name)
}

fn changed(old: &ListenOptions, new: &ListenOptions) -> Vec<&'static str> {
    // Taken apart, so that an option that is added cannot be forgotten here.
    let ListenOptions {
        backlog,
        reuse_port,
        only_v6,
        free_bind,
        transparent,
        no_delay,
        keep_alive,
        defer_accept,
        fast_open,
        receive_buffer,
        send_buffer,
        bind_to_device,
        mode,
        user,
        group,
    } = new;
    [
        ("backlog", old.backlog != *backlog),
        ("reuse-port", old.reuse_port != *reuse_port),
        ("only-v6", old.only_v6 != *only_v6),
        ("free-bind", old.free_bind != *free_bind),
        ("transparent", old.transparent != *transparent),
        ("no-delay", old.no_delay != *no_delay),
        ("keep-alive", old.keep_alive != *keep_alive),
        ("defer-accept", old.defer_accept != *defer_accept),
        ("fast-open", old.fast_open != *fast_open),
        ("receive-buffer", old.receive_buffer != *receive_buffer),
        ("send-buffer", old.send_buffer != *send_buffer),
        ("bind-to-device", old.bind_to_device != *bind_to_device),
        ("mode", old.mode != *mode),
        ("user", old.user != *user),
        ("group", old.group != *group),
    ]
    .into_iter()
    .filter_map(|(key, differs)| differs.then_some(key))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(name: &str, address: &str) -> Listen {
        let address = address.parse().unwrap_or_else(|error| panic!("{address}: {error}"));
        Listen { name: name.to_owned(), address, options: ListenOptions::default() }
    }

    #[test]
    fn listeners_are_compared_by_address() {
        let old = [listen("http", "8080"), listen("admin", "127.0.0.1:9000"), listen("dns", "udp:53")];
        let mut new = [listen("web", "[::]:8080"), listen("dns", "53"), listen("admin", "127.0.0.1:9000")];
        new[2].options.backlog = Some(16);
        new[2].options.no_delay = true;
        let diff = ListenDiff::new(&old, &new);
        assert_eq!(diff.kept.len(), 2);
        assert_eq!((diff.kept[0].old, diff.kept[0].new), (&old[0], &new[0]), "renamed");
        assert_eq!(diff.kept[1].changed, ["backlog", "no-delay"]);
        assert_eq!(diff.added, [&new[1]], "TCP 53 is not UDP 53");
        assert_eq!(diff.removed, [&old[2]]);
        assert!(!diff.is_empty());
    }

    #[test]
    fn the_same_in_another_order_is_no_change() {
        let old = [listen("a", "8080"), listen("b", "unix:/run/b")];
        let new = [old[1].clone(), old[0].clone()];
        assert!(ListenDiff::new(&old, &new).is_empty());
    }

    #[test]
    fn ephemeral_listeners_are_told_apart_by_name() {
        let old = [listen("a", "127.0.0.1:0"), listen("b", "127.0.0.1:0")];
        let new = [listen("b", "127.0.0.1:0"), listen("c", "127.0.0.1:0")];
        let diff = ListenDiff::new(&old, &new);
        assert_eq!((diff.kept.len(), &diff.added[..], &diff.removed[..]), (1, &[&new[1]][..], &[&old[0]][..]));
        assert_eq!(diff.kept[0].old, &old[1]);
    }
}
