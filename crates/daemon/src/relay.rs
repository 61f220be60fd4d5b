//! Passes a connection on to another daemon, byte for byte.
//!
//! Follows `forwardStdioConnection` in `src/nix/unix/daemon.cc` of Nix.

use std::io;

use tokio::io::{AsyncWriteExt as _, copy};

use crate::stdio::Stdio;

/// Passes bytes on between a client and a daemon until the daemon has said its last.
///
/// The end of what the client says is told to the daemon, which may still have something to answer.
/// Dropping the future closes both sides.
///
/// # Errors
///
/// What broke first.
pub async fn relay(client: Stdio, daemon: Stdio) -> io::Result<()> {
    let Stdio { mut input, mut output } = client;
    let Stdio { input: mut from, output: mut to } = daemon;
    let up = async {
        copy(&mut input, &mut to).await?;
        to.shutdown().await?;
        std::future::pending::<io::Result<()>>().await
    };
    let down = async {
        copy(&mut from, &mut output).await?;
        output.shutdown().await
    };
    tokio::select! {
        broken = up => broken,
        done = down => done,
    }
}
