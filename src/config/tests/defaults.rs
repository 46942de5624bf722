//! The manual's tables (docs/config.md) against the code: every key, every default, every example, every flag.

use std::collections::BTreeSet;

use super::*;
use crate::config::explain::TABLES;

const MANUAL: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/config.md"));

/// A row of the manual: one key.
#[derive(Debug)]
struct Row {
    /// `[service.NAME.drain]`.
    table: String,
    key: String,
    flag: Option<String>,
    /// The default as TOML, where it is a value.
    default: Option<String>,
    /// Another value, as TOML.
    example: String,
}

fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut table = "";
    for line in MANUAL.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            table = heading.trim_matches('`');
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if !table.starts_with('[') || cells.len() != 7 || !cells[1].starts_with('`') {
            continue;
        }
        let code = |cell: &str| cell.strip_prefix('`')?.strip_suffix('`').map(str::to_owned);
        rows.push(Row {
            table: table.to_owned(),
            key: code(cells[1]).expect("a key"),
            flag: code(cells[2]),
            default: code(cells[3]).filter(|default| !default.contains('`')),
            example: code(cells[4]).unwrap_or_else(|| panic!("no example: {line}")),
        });
    }
    rows
}

const LISTEN: &str =
    "[[service.web.listen]]\naddress = \"8080\"\n[[service.web.listen]]\nname = \"admin\"\naddress = \"8081\"\n";

/// A file with a key as the row wants it, and all that it needs beside it; without the key where there is no value.
fn file(row: &Row, value: Option<&str>) -> String {
    let line = value.map_or(String::new(), |value| format!("{} = {value}\n", row.key));
    let table = row.table.replace("NAME", "web");
    let steered = format!("traffic = \"steered\"\n{LISTEN}");
    let canary = format!("{steered}[service.web.upgrade]\nstrategy = \"canary\"\n");
    let before = match (row.table.as_str(), row.key.as_str()) {
        ("[service.NAME.health]", "listener") => &steered,
        ("[service.NAME.upgrade]", "max-surge") => "instances = 8\n",
        ("[service.NAME.upgrade]", "standby") => &steered,
        ("[service.NAME.upgrade]", "max-error-rate") | ("[service.NAME.upgrade.probe]", _) => LISTEN,
        ("[service.NAME.upgrade.canary]" | "[[service.NAME.upgrade.canary.steps]]", _) => &canary,
        _ => "",
    };
    let beside = match (row.table.as_str(), row.key.as_str(), value) {
        ("[supervisor]", ..) => return format!("[supervisor]\n{line}{MINIMAL}"),
        ("[service.NAME]", "command", Some(_)) => return format!("[service.web]\n{line}"),
        ("[service.NAME]", "traffic", _) => return format!("{MINIMAL}{line}{LISTEN}"),
        ("[service.NAME]", "after", _) => return format!("{MINIMAL}{line}[service.api]\ncommand = [\"api\"]\n"),
        ("[service.NAME]", ..) => return format!("{MINIMAL}{line}"),
        ("[[service.NAME.listen]]", "address", Some(_)) => "",
        ("[[service.NAME.listen]]", "mode" | "user" | "group", _) => "address = \"unix:/run/web.sock\"\n",
        ("[[service.NAME.listen]]", ..) => "address = \"8080\"\n",
        ("[service.NAME.ready]", "by", Some("\"alive\"")) => "alive-for = \"1s\"\n",
        ("[service.NAME.ready]", "fd", _) => "by = \"fd\"\n",
        ("[service.NAME.ready]", "exec", _) => "by = \"exec\"\n",
        ("[service.NAME.ready]", "interval", _) => "by = \"exec\"\nexec = [\"/bin/true\"]\n",
        ("[service.NAME.ready]", "alive-for", _) => "by = \"alive\"\n",
        ("[service.NAME.upgrade]", "max-surge" | "max-unavailable", _) => "strategy = \"rolling\"\n",
        ("[service.NAME.upgrade]", "standby", _) => "strategy = \"blue-green\"\n",
        ("[service.NAME.upgrade]", "max-error-rate", _) => "soak = \"5s\"\nprobe = { http = \"/\" }\n",
        ("[service.NAME.upgrade.canary]", ..) => "steps = [{ weight = 5, hold = \"1s\" }]\n",
        ("[[service.NAME.upgrade.canary.steps]]", "weight", _) => "hold = \"1s\"\n",
        ("[[service.NAME.upgrade.canary.steps]]", ..) => "weight = 5\n",
        ("[service.NAME.upgrade.probe]", "host" | "rate" | "listener", _) => "http = \"/\"\n",
        ("[service.NAME.hooks]", ..) => return format!("{MINIMAL}working-directory = \"/\"\n{table}\n{line}"),
        ("[service.NAME.health]", "http" | "tcp", Some(_)) => "private = \"health\"\n",
        ("[service.NAME.health]", "private", Some(_)) => "http = \"/healthz\"\n",
        // Something to check all the same.
        ("[service.NAME.health]", "http" | "url" | "tcp" | "exec" | "private", None) => "exec = [\"/bin/true\"]\n",
        ("[service.NAME.health]", "url" | "exec", Some(_)) => "",
        ("[service.NAME.health]", "listener", _) => "http = \"/healthz\"\n",
        ("[service.NAME.health]", ..) => "http = \"/healthz\"\nprivate = \"health\"\n",
        _ => "",
    };
    format!("{MINIMAL}{before}{table}\n{beside}{line}")
}

#[test]
fn the_manual_has_every_key_and_no_other() {
    let rows = rows();
    for (table, keys) in TABLES.into_iter().filter(|(table, _)| !table.is_empty()) {
        let documented: BTreeSet<&str> =
            rows.iter().filter(|row| row.table == table).map(|row| row.key.as_str()).collect();
        let known = keys.iter().copied().filter(|key| !has_table(table, key)).collect();
        assert_eq!(documented, known, "{table}");
    }
    assert!(rows.iter().all(|row| TABLES.iter().any(|(table, _)| *table == row.table)));
}

/// Whether a key of a table has a table of its own.
fn has_table(table: &str, key: &str) -> bool {
    let inner = format!("{}.{key}", table.trim_matches(['[', ']']));
    TABLES.iter().any(|(table, _)| table.trim_matches(['[', ']']) == inner)
}

#[test]
fn the_known_keys_are_those_that_are_read() {
    for (table, keys) in TABLES {
        let table = table.replace("NAME", "web");
        let error = toml::from_str::<raw::File>(&format!("{table}\n__probe = 1\n")).expect_err("an unknown key");
        let read: BTreeSet<&str> = error.message().split('`').skip(3).step_by(2).collect();
        assert_eq!(read, keys.iter().copied().collect(), "{table}");
    }
}

#[test]
fn every_default_of_the_manual_is_the_codes() {
    let mut count = 0;
    for row in rows() {
        if let Some(default) = &row.default {
            let written = good(&file(&row, Some(default)));
            assert_eq!(written, good(&file(&row, None)), "{row:?}");
            count += 1;
        }
    }
    assert!(count > 15, "only {count} defaults were found in the manual");
}

#[test]
fn every_example_of_the_manual_is_good_and_makes_a_difference() {
    for row in rows() {
        let with = good(&file(&row, Some(&row.example)));
        match load_text(&file(&row, None)) {
            Ok(without) => assert_ne!(with, without, "{row:?}"),
            Err(error) => assert!(is_required(&row), "{row:?}: {}", error.render(false)),
        }
    }
}

fn is_required(row: &Row) -> bool {
    let line =
        MANUAL.lines().find(|line| line.starts_with(&format!("| `{}` |", row.key)) && line.contains("| required"));
    row.default.is_none() && line.is_some()
}

#[test]
fn flags_and_their_defaults_are_those_of_the_manual() {
    let command = RunFlags::augment_args(clap::Command::new("run"));
    let mut documented: BTreeSet<String> = rows().into_iter().filter_map(|row| row.flag).collect();
    assert!(documented.remove("--"), "the command stands after `--`");
    let flags = command.get_arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?))).collect();
    assert_eq!(documented, flags);

    for row in rows() {
        let argument = command
            .get_arguments()
            .find(|argument| argument.get_long().is_some_and(|long| row.flag.as_deref() == Some(&format!("--{long}"))));
        let help = argument.and_then(|argument| argument.get_help()).map(ToString::to_string).unwrap_or_default();
        if let Some((_, default)) = help.split_once("[default: ") {
            let default = default.trim_end_matches(']');
            let written = row.default.as_deref().unwrap_or(default).trim_matches('"');
            assert!(default == written || default.contains(' '), "{row:?}: the help says {default}");
        }
    }
}

#[test]
fn the_manuals_first_file_is_good_and_its_error_is_real() {
    let mut blocks = MANUAL.split("```");
    let toml = blocks.nth(1).and_then(|block| block.strip_prefix("toml\n")).expect("a file");
    let service = service(toml);
    assert_eq!(service.upgrade.soak, Duration::from_secs(5));

    let shown = blocks.nth(1).and_then(|block| block.strip_prefix("text\n")).expect("an error");
    let spoilt =
        format!("{MINIMAL}\n# What follows is wrong.\n[[service.web.listen]]\nname = \"http\"\nadress = \"8080\"\n");
    assert_eq!(load_text(&spoilt).expect_err("misspelt").render(false), shown.trim_end());
}
