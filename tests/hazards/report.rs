//! Writes down everything that it finds at its start, then waits for its end: `--to FILE`.

use std::fmt::Write;

use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        writeln!(text, "{key} {value}").expect("a string can be written to");
    };
    line("pid", &std::process::id());
    line("directory", &std::env::current_dir().expect("there is a directory").display());
    for (name, value) in std::env::vars_os() {
        line("env", &format_args!("{}={}", name.display(), value.display()));
    }
    for word in std::env::args_os() {
        line("arg", &word.display());
    }
    for entry in std::fs::read_dir("/proc/self/fd").expect("there is a /proc") {
        let entry = entry.expect("it can be read");
        // The descriptor that reads the directory is gone by the time that anybody could look.
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        if target.to_string_lossy().starts_with("/proc/") {
            continue;
        }
        let number = entry.file_name();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", number.display())).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default().trim().to_owned();
        line("fd", &format_args!("{} {flags} {}", number.display(), target.display()));
    }
    let status = std::fs::read_to_string("/proc/self/status").expect("there is a /proc");
    for wanted in ["SigBlk", "SigIgn", "SigCgt", "Uid", "Gid", "Groups", "NoNewPrivs", "Umask"] {
        let value = status.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix(':'));
        line(wanted, &value.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let limits = std::fs::read_to_string("/proc/self/limits").expect("there is a /proc");
    for limit in limits.lines().filter(|limit| limit.starts_with("Max open files")) {
        line("limit", &limit.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    // The process group and the session: fields 5 and 6 of proc_pid_stat(5), after the name in parentheses.
    let stat = std::fs::read_to_string("/proc/self/stat").expect("there is a /proc");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    line("group", &fields[2]);
    line("session", &fields[3]);
    let signals = os::hold_stop_signals();
    let path = options.text("--to").expect("--to FILE");
    let draft = format!("{path}.new");
    std::fs::write(&draft, text).expect("the report can be written");
    std::fs::rename(&draft, path).expect("the report can be put in its place");
    os::notify("READY=1");
    signals.wait().expect("signals can be waited for");
}
