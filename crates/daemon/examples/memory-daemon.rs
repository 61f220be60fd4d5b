//! A daemon over a store in memory, for clients to be tried on: `memory-daemon SOCKET SERVE-SOCKET`.
//! The second socket speaks the serve protocol.

#[path = "../tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use drover_daemon::{ClientTrust, Listener, ServeServer, Stop, TrustRule, WriteAccess};
use support::sockets::{Silent, serve_at};

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(socket), Some(serve)) = (arguments.next(), arguments.next()) else {
        return ExitCode::from(2);
    };
    let world = support::world();
    let Ok(listener) = Listener::bind(Path::new(&socket)) else { return ExitCode::FAILURE };
    let server = ServeServer::new(&world.server, WriteAccess::Allowed, Arc::new(Silent));
    let trust = TrustRule::Forced(ClientTrust::Trusted);
    let stop = async {
        drop(tokio::signal::ctrl_c().await);
        Stop::Now
    };
    tokio::select! {
        () = listener.run(world.server.clone(), trust, stop) => {}
        () = serve_at(Path::new(&serve), server) => {}
    }
    ExitCode::SUCCESS
}
