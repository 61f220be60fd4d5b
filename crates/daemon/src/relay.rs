//! Passes a connection on to another daemon, byte for byte.
//!
//! Follows `forwardStdioConnection` in `src/nix/unix/daemon.cc` of Nix.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy};
use tokio::net::UnixStream;

/// Passes bytes on between a client and a daemon until the daemon has said its last.
///
/// The end of what the client says is told to the daemon, which may still have something to answer.
/// Dropping the future closes both sides.
///
/// # Errors
///
/// What broke first.
pub async fn relay<R, W>(mut input: R, mut output: W, mut daemon: UnixStream) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (mut from, mut to) = daemon.split();
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
