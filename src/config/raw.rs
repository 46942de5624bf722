//! What the file says, word for word. Flags are turned into the same. Nothing is checked here but keys and types.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct File {
    pub(crate) supervisor: Supervisor,
    pub(crate) service: BTreeMap<Spanned<String>, Service>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Supervisor {
    pub(crate) operators: Vec<Spanned<String>>,
    pub(crate) viewers: Vec<Spanned<String>>,
    pub(crate) atomic: bool,
    pub(crate) metrics: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Service {
    pub(crate) command: Option<Command>,
    pub(crate) instances: Option<Spanned<i64>>,
    pub(crate) traffic: Option<Spanned<String>>,
    pub(crate) after: Vec<Spanned<String>>,
    pub(crate) working_directory: Option<Spanned<Native>>,
    pub(crate) user: Option<Spanned<String>>,
    pub(crate) group: Option<Spanned<String>>,
    pub(crate) supplementary_groups: Option<Vec<Spanned<String>>>,
    pub(crate) umask: Option<Spanned<Octal>>,
    pub(crate) limits: BTreeMap<Spanned<String>, Spanned<Amount>>,
    pub(crate) nice: Option<Spanned<i64>>,
    pub(crate) oom_score_adjust: Option<Spanned<i64>>,
    pub(crate) no_new_privileges: bool,
    pub(crate) environment: BTreeMap<Spanned<String>, Spanned<String>>,
    pub(crate) environment_file: Option<Spanned<Native>>,
    pub(crate) clear_environment: bool,
    pub(crate) non_blocking: bool,
    pub(crate) log: Option<Spanned<Log>>,
    pub(crate) listen_pid: Option<bool>,
    pub(crate) fd_store_max: Option<Spanned<i64>>,
    pub(crate) listen: Vec<Spanned<Listen>>,
    pub(crate) ready: Ready,
    pub(crate) health: Option<Spanned<Health>>,
    pub(crate) watchdog: Watchdog,
    pub(crate) upgrade: Upgrade,
    pub(crate) drain: Drain,
    pub(crate) restart: Restart,
    pub(crate) hooks: Hooks,
}

/// A program and its arguments.
pub(crate) type Command = Spanned<Vec<Spanned<Native>>>;

#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Listen {
    pub(crate) name: Option<Spanned<String>>,
    pub(crate) address: Option<Spanned<String>>,
    pub(crate) backlog: Option<Spanned<i64>>,
    pub(crate) reuse_port: Option<Spanned<bool>>,
    pub(crate) only_v6: Option<Spanned<bool>>,
    pub(crate) free_bind: Option<Spanned<bool>>,
    pub(crate) transparent: Option<Spanned<bool>>,
    pub(crate) no_delay: Option<Spanned<bool>>,
    pub(crate) keep_alive: Option<Spanned<bool>>,
    pub(crate) defer_accept: Option<Spanned<DurationText>>,
    pub(crate) fast_open: Option<Spanned<i64>>,
    pub(crate) receive_buffer: Option<Spanned<Amount>>,
    pub(crate) send_buffer: Option<Spanned<Amount>>,
    pub(crate) bind_to_device: Option<Spanned<String>>,
    pub(crate) mode: Option<Spanned<Octal>>,
    pub(crate) user: Option<Spanned<String>>,
    pub(crate) group: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Ready {
    pub(crate) by: Option<Spanned<String>>,
    pub(crate) timeout: Option<Spanned<DurationText>>,
    pub(crate) fd: Option<Spanned<i64>>,
    pub(crate) exec: Option<Command>,
    pub(crate) interval: Option<Spanned<DurationText>>,
    pub(crate) alive_for: Option<Spanned<DurationText>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Health {
    pub(crate) http: Option<Spanned<String>>,
    pub(crate) url: Option<Spanned<String>>,
    pub(crate) tcp: Option<Spanned<bool>>,
    pub(crate) exec: Option<Command>,
    pub(crate) listener: Option<Spanned<String>>,
    pub(crate) private: Option<Spanned<String>>,
    pub(crate) host: Option<Spanned<String>>,
    pub(crate) status: Option<Spanned<Amount>>,
    pub(crate) body: Option<Spanned<String>>,
    pub(crate) interval: Option<Spanned<DurationText>>,
    pub(crate) timeout: Option<Spanned<DurationText>>,
    pub(crate) successes: Option<Spanned<i64>>,
    pub(crate) failures: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Watchdog {
    pub(crate) timeout: Option<Spanned<DurationText>>,
    pub(crate) signal: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Upgrade {
    pub(crate) strategy: Option<Spanned<String>>,
    pub(crate) max_surge: Option<Spanned<Amount>>,
    pub(crate) max_unavailable: Option<Spanned<Amount>>,
    pub(crate) canary: Option<Spanned<Canary>>,
    pub(crate) standby: Option<Spanned<DurationText>>,
    pub(crate) soak: Option<Spanned<DurationText>>,
    pub(crate) max_draining: Option<Spanned<i64>>,
    pub(crate) keep_releases: Option<Spanned<i64>>,
    pub(crate) probe: Option<Spanned<Probe>>,
    pub(crate) max_error_rate: Option<Spanned<Percent>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Canary {
    pub(crate) steps: Vec<Spanned<Step>>,
    pub(crate) manual: bool,
    pub(crate) from: Vec<Spanned<String>>,
    pub(crate) affinity: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Step {
    pub(crate) weight: Option<Spanned<i64>>,
    pub(crate) hold: Option<Spanned<DurationText>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Probe {
    pub(crate) http: Option<Spanned<String>>,
    pub(crate) host: Option<Spanned<String>>,
    pub(crate) rate: Option<Spanned<i64>>,
    pub(crate) listener: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Drain {
    pub(crate) signal: Option<Spanned<String>>,
    pub(crate) timeout: Option<Spanned<DurationText>>,
    pub(crate) spread: Option<Spanned<DurationText>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Restart {
    pub(crate) backoff: Option<Spanned<BackoffText>>,
    pub(crate) give_up_after: Option<Spanned<i64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Hooks {
    pub(crate) before_start: Commands,
    pub(crate) after_ready: Commands,
    pub(crate) after_switch: Commands,
    pub(crate) after_drain: Commands,
    pub(crate) on_failure: Commands,
    pub(crate) on_rollback: Commands,
    pub(crate) timeout: Option<Spanned<DurationText>>,
}

/// An array whose elements are told what the whole is when they are something else.
macro_rules! array {
    ($(#[$doc:meta])* $name:ident($element:ty), $expecting:literal) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(crate) struct $name(pub(crate) Vec<$element>);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct ArrayVisitor;

                impl<'de> Visitor<'de> for ArrayVisitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<$name, A::Error> {
                        let mut elements = Vec::new();
                        while let Some(element) = list.next_element()? {
                            elements.push(element);
                        }
                        Ok($name(elements))
                    }
                }

                deserializer.deserialize_seq(ArrayVisitor)
            }
        }
    };
}

array!(
    /// Several commands.
    Commands(Spanned<Words>),
    "an array of commands"
);
array!(
    /// One of them: a program and its arguments.
    Words(Spanned<Native>),
    "an array of commands"
);

/// A derived struct could also be read from an array, key by key in their order. These are tables and nothing else.
macro_rules! table {
    ($name:ident, $expecting:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct TableVisitor;

                impl<'de> Visitor<'de> for TableVisitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$name, A::Error> {
                        // The one that serde derived, for it is an inherent function.
                        $name::deserialize(MapAccessDeserializer::new(map))
                    }
                }

                deserializer.deserialize_map(TableVisitor)
            }
        }
    };
}

table!(File, "a table");
table!(Supervisor, "a table such as [supervisor]");
table!(Service, "a table with the service's name, such as [service.web]");
table!(Listen, "a table such as [[service.web.listen]]");
table!(Ready, "a table such as [service.web.ready]");
table!(Health, "a table such as [service.web.health]");
table!(Watchdog, "a table such as [service.web.watchdog]");
table!(Upgrade, "a table such as [service.web.upgrade]");
table!(Canary, "a table such as [service.web.upgrade.canary]");
table!(Step, "a table such as { weight = 5, hold = \"30s\" }");
table!(Probe, "a table such as { http = \"/\" }");
table!(Drain, "a table such as [service.web.drain]");
table!(Restart, "a table such as [service.web.restart]");
table!(Hooks, "a table such as [service.web.hooks]");
table!(LogTable, "a table");

/// `"capture"`, `"inherit"`, `"journal"` or `{ file = "..." }`.
#[derive(Debug)]
pub(crate) enum Log {
    Word(String),
    File(Spanned<Native>),
}

#[derive(Debug, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
struct LogTable {
    file: Spanned<Native>,
}

impl<'de> Deserialize<'de> for Log {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LogVisitor;

        impl<'de> Visitor<'de> for LogVisitor {
            type Value = Log;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"capture\", \"inherit\", \"journal\" or { file = \"/path\" }")
            }

            fn visit_str<E>(self, word: &str) -> Result<Log, E> {
                Ok(Log::Word(word.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Log, A::Error> {
                LogTable::deserialize(MapAccessDeserializer::new(map)).map(|table| Log::File(table.file))
            }
        }

        deserializer.deserialize_any(LogVisitor)
    }
}

/// A number, or a text that means one: sizes, limits, parts of a number of instances, status codes.
#[derive(Debug)]
pub(crate) enum Amount {
    Number(i64),
    Text(String),
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AmountVisitor;

        impl Visitor<'_> for AmountVisitor {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number or a string")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Amount, E> {
                Ok(Amount::Number(number))
            }

            fn visit_str<E>(self, text: &str) -> Result<Amount, E> {
                Ok(Amount::Text(text.to_owned()))
            }
        }

        deserializer.deserialize_any(AmountVisitor)
    }
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident($inner:ty), $expecting:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub(crate) struct $name(pub(crate) $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct TextVisitor;

                impl Visitor<'_> for TextVisitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E>(self, text: &str) -> Result<$name, E> {
                        Ok($name(text.into()))
                    }
                }

                deserializer.deserialize_str(TextVisitor)
            }
        }
    };
}

text!(
    /// What goes to the kernel as bytes: an argument or a path. A command line can hold ones that are not UTF-8.
    Native(OsString),
    "a string"
);
text!(
    /// A duration.
    DurationText(String),
    "a duration in quotes, such as \"30s\""
);
text!(
    /// Two durations.
    BackoffText(String),
    "two durations in quotes, such as \"100ms..30s\""
);
text!(
    /// A part of a hundred.
    Percent(String),
    "a percentage in quotes, such as \"1%\""
);
text!(
    /// A mode or a mask.
    Octal(String),
    "octal digits in quotes, such as \"0022\""
);

impl Native {
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(&self.0)
    }
}
