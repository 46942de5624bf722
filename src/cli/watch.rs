//! `zdsup status --watch`.
//!
//! On a terminal each picture is drawn over the one before: from the first corner, every line to its end, then the rest
//! of the screen. It is written at once and leaves the terminal as it was, so that nothing flickers, and nothing has to
//! be restored whenever it ends.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tokio::time::Instant;

use super::failure::Failure;
use super::render::{self, Peaks};
use super::status::{now, only};
use super::terminal::{Style, height};
use crate::control::client::{Client, ClientError};
use crate::control::types::Status;
use crate::exit::Exit;

/// How often it is looked: for a terminal, and for anything else.
const LOOK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(1));
/// How long a supervisor may be gone until nobody is taken to follow it.
const SUCCESSION: Duration = Duration::from_secs(5);

/// To the first corner (ECMA-48: CUP), without wrapping what is too wide (DEC: DECAWM).
const BEGIN: &str = "\x1b[?7l\x1b[H";
/// To the end of the line (EL), then to the next.
const NEXT: &str = "\x1b[K\r\n";
/// To the end of the line and of the screen (ED), and wrapping again.
const END: &str = "\x1b[K\x1b[J\x1b[?7h";

/// Shows how everything stands, or these services do, as it changes.
pub(super) async fn watch(client: &mut Client, services: &[String], json: bool) -> Result<Exit, Failure> {
    let mut screen = Screen::new(json);
    let ended = tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
        ended = show(client, services, &mut screen) => ended,
    };
    screen.end();
    ended
}

async fn show(client: &mut Client, services: &[String], screen: &mut Screen) -> Result<Exit, Failure> {
    let mut seen = false;
    let mut gone: Option<Instant> = None;
    loop {
        let looked = Instant::now();
        match client.status().await {
            Ok(mut status) => {
                (seen, gone) = (true, None);
                only(&mut status, services)?;
                if !screen.show(&status)? {
                    return Ok(Exit::Done);
                }
            }
            Err(error)
                if seen && (error.is_for_now() || matches!(error, ClientError::Cut | ClientError::NotRunning(_))) =>
            {
                if gone.get_or_insert(looked).elapsed() > SUCCESSION {
                    return Err(Failure::new(
                        Exit::NoSupervisor,
                        "the supervisor has ended, and no other took its place",
                    ));
                }
            }
            Err(error) => return Err(error.into()),
        }
        // One that is being replaced is back soon.
        let pause = if gone.is_some() { LOOK.0 / 5 } else { screen.pause() };
        tokio::time::sleep_until(looked + pause).await;
    }
}

/// Where it is shown.
enum Screen {
    Json,
    Lines(Peaks),
    Terminal { peaks: Peaks, drawn: bool },
}

impl Screen {
    fn new(json: bool) -> Self {
        let moves = io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        match (json, moves) {
            (true, _) => Self::Json,
            (false, true) => Self::Terminal { peaks: Peaks::default(), drawn: false },
            (false, false) => Self::Lines(Peaks::default()),
        }
    }

    fn pause(&self) -> Duration {
        match self {
            Self::Terminal { .. } => LOOK.0,
            Self::Json | Self::Lines(_) => LOOK.1,
        }
    }

    /// Whether somebody looks.
    fn show(&mut self, status: &Status) -> Result<bool, Failure> {
        let style = Style::of(&io::stdout());
        let text = match self {
            Self::Json => {
                let json = serde_json::to_string(status);
                json.map_err(|error| Failure::new(Exit::Internal, error.to_string()))? + "\n"
            }
            Self::Lines(peaks) => {
                let now = now();
                format!("--- {}\n{}", render::instant(now), render::watch(status, peaks, now, style))
            }
            Self::Terminal { peaks, drawn } => {
                let height = height(&io::stdout()).unwrap_or(24);
                // What stands there goes up rather than away.
                let room = if std::mem::replace(drawn, true) { String::new() } else { "\n".repeat(height) };
                room + &picture(&render::watch(status, peaks, now(), style), height)
            }
        };
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Failure::new(Exit::Internal, format!("cannot write to stdout: {error}"))),
        }
    }

    /// What is written next begins a line of its own.
    fn end(&self) {
        if matches!(self, Self::Terminal { drawn: true, .. }) {
            // A terminal that is gone shows nothing any more.
            let _ = io::stdout().write_all(b"\n");
        }
    }
}

/// A text drawn over whatever a terminal of this height shows. The last line stays free.
fn picture(text: &str, height: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let room = height.saturating_sub(1).max(1);
    let more = format!("… {} more lines", lines.len().saturating_sub(room.saturating_sub(1)));
    let shown: Vec<&str> = match lines.len() > room {
        true => lines[..room - 1].iter().copied().chain([more.as_str()]).collect(),
        false => lines,
    };
    format!("{BEGIN}{}{END}", shown.join(NEXT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_covers_what_was_there_and_never_scrolls() {
        assert_eq!(picture("a\nb\n", 24), "\x1b[?7l\x1b[Ha\x1b[K\r\nb\x1b[K\x1b[J\x1b[?7h");
        let long = "line\n".repeat(30);
        let drawn = picture(&long, 24);
        assert_eq!(drawn.matches("\r\n").count(), 22);
        assert!(drawn.contains("… 8 more lines"), "{drawn}");
        for height in 0..4 {
            assert!(picture(&long, height).matches("\r\n").count() <= height, "{height}");
        }
    }
}
