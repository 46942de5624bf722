//! Log lines: for a person, as JSON, or as journal entries with fields; never waiting for whoever reads them.
//!
//! Not tracing-journald: its socket is a blocking one, and a journald that does not read would stop the loop.

use std::fmt::{self, Write as _};
use std::io::IsTerminal;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::sink::Sink;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For a person; journal entries with fields where stderr is the journal.
    Human,
    /// One JSON object a line.
    Json,
}

/// Entries that journald did not take at once.
static JOURNAL_DROPPED: AtomicU64 = AtomicU64::new(0);
static STARTED: OnceLock<()> = OnceLock::new();

/// Sends every log line of this process to `stderr`, or to the journal where that is what stderr is.
pub(super) fn start(format: Format, stderr: &Sink) {
    if STARTED.set(()).is_err() {
        return;
    }
    let target = match format {
        Format::Json => Target::Json(stderr.clone()),
        Format::Human => match journal() {
            Some(socket) => Target::Journal(socket),
            None => Target::Human { sink: stderr.clone(), terminal: std::io::stderr().is_terminal() },
        },
    };
    // Only fails when a subscriber is set already, and then that one is wanted.
    let _ = tracing_subscriber::registry().with(Lines(target)).try_init();
}

/// Entries dropped so far because journald did not read.
pub(super) fn dropped() -> u64 {
    JOURNAL_DROPPED.load(Ordering::Relaxed)
}

fn journal() -> Option<UnixDatagram> {
    if !crate::sys::systemd::stderr_is_journal() {
        return None;
    }
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect("/run/systemd/journal/socket").ok()?;
    Some(socket)
}

enum Target {
    Human { sink: Sink, terminal: bool },
    Json(Sink),
    Journal(UnixDatagram),
}

struct Lines(Target);

#[derive(Default)]
struct Fields {
    message: String,
    service: Option<String>,
    generation: Option<u64>,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    /// `web@3`, `web`, or nothing.
    fn subject(&self) -> Option<String> {
        match (&self.service, self.generation) {
            (Some(service), Some(generation)) => Some(format!("{service}@{generation}")),
            (Some(service), None) => Some(service.clone()),
            (None, _) => None,
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        self.record_str(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            "service" => self.service = Some(value.to_owned()),
            name => self.others.push((name, value.into())),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "generation" => self.generation = Some(value),
            name => self.others.push((name, value.into())),
        }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with("zdsup") && *metadata.level() <= Level::INFO
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = *event.metadata().level();
        match &self.0 {
            Target::Human { sink, terminal } => sink.write(human(level, &fields, *terminal).as_bytes()),
            Target::Json(sink) => sink.write(json(level, &fields).as_bytes()),
            Target::Journal(socket) => {
                if socket.send(&entry(level, &fields)).is_err() {
                    JOURNAL_DROPPED.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

fn now() -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

fn human(level: Level, fields: &Fields, terminal: bool) -> String {
    let mut line = String::new();
    let (dim, bold, red, yellow, plain) =
        if terminal { ("\x1b[2m", "\x1b[1m", "\x1b[31m", "\x1b[33m", "\x1b[0m") } else { ("", "", "", "", "") };
    let time = now();
    // The second is as fine as a person reads it.
    let time = time.split_once('.').map_or(time.as_str(), |(seconds, _)| seconds);
    let _ = write!(line, "{dim}{time}Z{plain} ");
    match level {
        Level::ERROR => line.push_str(&format!("{red}error{plain} ")),
        Level::WARN => line.push_str(&format!("{yellow}warning{plain} ")),
        _ => {}
    }
    if let Some(subject) = fields.subject() {
        let _ = write!(line, "{bold}{subject}{plain}: ");
    }
    // What goes on below, such as a place in the config, is beyond the entry's own line.
    let (message, below) = fields.message.split_once('\n').unwrap_or((&fields.message, ""));
    line.push_str(message);
    for (name, value) in &fields.others {
        let _ = write!(line, " {dim}{name}={plain}{}", text(value));
    }
    line.push('\n');
    if !below.is_empty() {
        line.push_str(below);
        line.push('\n');
    }
    line
}

fn json(level: Level, fields: &Fields) -> String {
    let mut object = serde_json::Map::new();
    object.insert("time".into(), now().into());
    object.insert("level".into(), level.as_str().to_lowercase().into());
    object.insert("message".into(), fields.message.clone().into());
    if let Some(service) = &fields.service {
        object.insert("service".into(), service.clone().into());
    }
    if let Some(generation) = fields.generation {
        object.insert("generation".into(), generation.into());
    }
    for (name, value) in &fields.others {
        object.insert((*name).into(), value.clone());
    }
    format!("{}\n", Value::Object(object))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// One entry in journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): `KEY=value` lines, or for a value
/// that has a newline `KEY`, its length as 64 bits little-endian, and the value.
fn entry(level: Level, fields: &Fields) -> Vec<u8> {
    let mut entry = Vec::new();
    let message = match fields.subject() {
        Some(subject) => format!("{subject}: {}", fields.message),
        None => fields.message.clone(),
    };
    let priority = match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        _ => "6",
    };
    field(&mut entry, "MESSAGE", &message);
    field(&mut entry, "PRIORITY", priority);
    field(&mut entry, "SYSLOG_IDENTIFIER", "zdsup");
    if let Some(service) = &fields.service {
        field(&mut entry, "ZDSUP_SERVICE", service);
    }
    if let Some(generation) = fields.generation {
        field(&mut entry, "ZDSUP_GENERATION", &generation.to_string());
    }
    for (name, value) in &fields.others {
        field(&mut entry, &format!("ZDSUP_{}", name.to_uppercase()), &text(value));
    }
    entry
}

fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        Fields { message: "two\nlines".into(), service: Some("web".into()), generation: Some(3), ..Fields::default() }
    }

    #[test]
    fn a_journal_entry_carries_its_fields() {
        let entry = entry(Level::WARN, &fields());
        let expected = [
            b"MESSAGE\n\x10\0\0\0\0\0\0\0web@3: two\nlines\nPRIORITY=4\n".as_slice(),
            b"SYSLOG_IDENTIFIER=zdsup\nZDSUP_SERVICE=web\nZDSUP_GENERATION=3\n",
        ]
        .concat();
        assert_eq!(String::from_utf8_lossy(&entry), String::from_utf8_lossy(&expected));
    }

    #[test]
    fn fields_stand_on_the_first_line() {
        let entry = human(Level::ERROR, &Fields { others: vec![("upgrade", 7.into())], ..fields() }, false);
        let (_, rest) = entry.split_once(' ').expect("the time");
        assert_eq!(rest, "error web@3: two upgrade=7\nlines\n");
    }

    #[test]
    fn a_json_line_is_one_line() {
        let line = json(Level::INFO, &Fields { others: vec![("upgrade", 7.into()), ("key", "v".into())], ..fields() });
        assert_eq!(line.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["generation"], 3);
        assert_eq!(value["message"], "two\nlines");
        assert_eq!((&value["upgrade"], &value["key"]), (&7.into(), &"v".into()), "numbers are numbers");
    }
}
