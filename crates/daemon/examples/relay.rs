//! Passes its standard input and output on to a daemon's socket: `relay SOCKET`.

use std::process::ExitCode;

use drover_daemon::{Stdio, relay, stdio};
use tokio::net::UnixStream;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(socket) = std::env::args().nth(1) else { return ExitCode::from(2) };
    let connected = UnixStream::connect(socket).await.and_then(|socket| Ok((socket, stdio()?)));
    let Ok((socket, stdio)) = connected else { return ExitCode::from(3) };
    let (input, output) = socket.into_split();
    let daemon = Stdio { input: Box::new(input), output: Box::new(output) };
    match relay(stdio, daemon).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
