//! `zdsup reexec`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::failure::Failure;
use super::terminal::say;
use super::{Global, block_on};
use crate::control::client::{Client, ClientError};
use crate::control::types::Replacement;
use crate::exit::Exit;

/// How long the successor may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(2);

#[derive(Debug, Args)]
pub(super) struct ReexecArgs {
    /// Another binary than the one at the supervisor's own path.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

pub(super) fn run(global: &Global, args: ReexecArgs) -> Result<Exit, Failure> {
    let binary = args.binary.map(std::path::absolute).transpose()?;
    let mut client = global.client()?;
    block_on(reexec(&mut client, Replacement { binary }))?
}

async fn reexec(client: &mut Client, replacement: Replacement) -> Result<Exit, Failure> {
    let before = client.status().await?.supervisor;
    client.reexec(&replacement).await?;
    let began = Instant::now();
    loop {
        match client.status().await {
            Ok(status) if status.supervisor.incarnation > before.incarnation => {
                let (took, after) = (began.elapsed().as_millis(), status.supervisor.version);
                say(&format!("zdsup {} was replaced by {after}; it answered again after {took} ms", before.version));
                return Ok(Exit::Done);
            }
            // One that only holds has ended, and was started again.
            Ok(status) if status.supervisor.pid != before.pid && status.supervisor.holding.is_some() => {
                let reason = status.supervisor.holding.unwrap_or_default();
                return Err(Failure::new(
                    Exit::Refused,
                    format!("the next supervisor only holds what runs, too: {reason}"),
                ));
            }
            Ok(_) | Err(ClientError::Cut | ClientError::NotRunning(_)) => {}
            Err(error) if error.is_for_now() => {}
            Err(error) => return Err(error.into()),
        }
        if began.elapsed() > PATIENCE {
            return Err(Failure::new(Exit::Internal, "the supervisor has not replaced itself in 10 s")
                .hint(Some("its log says why")));
        }
        tokio::time::sleep(LOOK).await;
    }
}
