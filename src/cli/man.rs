//! `zdsup man`: one page with every command on it.

use std::io::{self, Write};

use clap::Command;
use clap_mangen::Man;

use super::command;
use super::failure::Failure;
use super::terminal::print;
use crate::exit::Exit;

pub(super) fn run() -> Result<Exit, Failure> {
    print(page()?)
}

/// The page, as roff for man(7).
fn page() -> io::Result<Vec<u8>> {
    let root = command();
    let mut page = Vec::new();
    let man = Man::new(root.clone()).manual("zdsup");
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    for command in root.get_subcommands().filter(|command| command.get_name() != "help") {
        write_command(&mut page, command)?;
    }
    writeln!(page, ".SH \"GLOBAL OPTIONS\"\nThey may stand before or after the command.")?;
    page.extend(body_of(|out| man.render_options_section(out))?);
    writeln!(page, ".SH \"EXIT STATUS\"\nThe same for every command.")?;
    for (exit, meaning) in Exit::TABLE {
        writeln!(page, ".TP\n\\fB{}\\fR\n{}", exit.code(), escaped(meaning))?;
    }
    page.extend_from_slice(REST.as_bytes());
    Ok(page)
}

fn write_command(page: &mut Vec<u8>, command: &Command) -> io::Result<()> {
    // What holds for every command is said once.
    let own = command.clone().mut_args(|arg| {
        let elsewhere = arg.is_global_set() || matches!(arg.get_id().as_str(), "help" | "version");
        arg.hide(elsewhere)
    });
    let man = Man::new(own);
    writeln!(page, ".SS \"zdsup {}\"", command.get_name())?;
    page.extend(body_of(|out| man.render_synopsis_section(out))?);
    writeln!(page, ".PP")?;
    page.extend(body_of(|out| man.render_description_section(out))?);
    page.extend(body_of(|out| man.render_options_section(out))?);
    Ok(())
}

/// A section without its heading; headings within it become plain paragraphs.
fn body_of(render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let mut section = Vec::new();
    render(&mut section)?;
    let section = String::from_utf8_lossy(&section);
    let mut body = String::new();
    for line in section.lines().filter(|line| !line.starts_with(".ie") && !line.starts_with(".el")) {
        match line.strip_prefix(".SH ") {
            None => body.push_str(line),
            // The section has its heading, or is about nothing else.
            Some("SYNOPSIS" | "DESCRIPTION" | "OPTIONS" | "\"GLOBAL OPTIONS\"") => continue,
            Some(heading) => body.push_str(&format!(".PP\n\\fI{}\\fR", heading.trim_matches('"'))),
        }
        body.push('\n');
    }
    Ok(body.into_bytes())
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('-', "\\-")
}

const REST: &str = r#".SH SIGNALS
To a supervisor:
.TP
\fBSIGHUP\fR
Upgrade every service, as \fBzdsup reload \-\-no\-wait\fR does.
.TP
\fBSIGTERM\fR, \fBSIGINT\fR
Drain everything, then end. A second one ends everything at once.
.SH ENVIRONMENT
.TP
\fBZDSUP_NAME\fR
The supervisor that a command is meant for, where \fB\-\-name\fR does not say so. \fBzdsup run\fR does not read it.
.TP
\fBRUNTIME_DIRECTORY\fR
Its first entry is the runtime directory of \fBzdsup run\fR; set by systemd. Services do not see it.
.TP
\fBXDG_RUNTIME_DIR\fR
Where the runtime directories of users' supervisors are.
.TP
\fBNO_COLOR\fR
Not empty: no colours.
.SH FILES
.TP
\fI/run/zdsup/NAME/control.sock\fR, \fI$XDG_RUNTIME_DIR/zdsup/NAME/control.sock\fR
The control socket. It speaks HTTP/1.1 and JSON:
.B curl \-\-unix\-socket /run/zdsup/NAME/control.sock http://zdsup/v1/status
; and /v1/openapi.json describes it.
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_heading_stands_once() {
        let page = String::from_utf8(page().expect("a page")).expect("text");
        let headings =
            |line: &&str| line.starts_with(".S") || (line.starts_with("\\fI") && line.ends_with("OPTIONS\\fR"));
        let mut headings: Vec<&str> = page
            .lines()
            .filter(headings)
            .map(|line| {
                line.trim_start_matches(".SH ").trim_start_matches("\\fI").trim_end_matches("\\fR").trim_matches('"')
            })
            .collect();
        assert!(headings.contains(&"GLOBAL OPTIONS") && headings.len() > 10, "{headings:?}");
        let count = headings.len();
        headings.sort_unstable();
        headings.dedup();
        assert_eq!(headings.len(), count, "{page}");
    }
}
