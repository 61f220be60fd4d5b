//! Servers at sockets, for clients in other processes.

use std::path::Path;
use std::sync::{Arc, Mutex};

use drover_daemon::{ClientTrust, ServeServer, Server};
use drover_store::{RealiseEvent, RealiseObserver};
use tokio::net::UnixListener;
use tokio::task::JoinSet;

/// Hears nothing.
pub struct Silent;

impl RealiseObserver for Silent {
    fn event(&self, _: RealiseEvent) {}
}

/// Keeps what it hears.
#[derive(Default)]
pub struct Heard(pub Mutex<Vec<RealiseEvent>>);

impl RealiseObserver for Heard {
    fn event(&self, event: RealiseEvent) {
        self.0.lock().expect("no panic").push(event);
    }
}

/// Speaks the worker protocol with all who come, and trusts them.
pub async fn work_at(listener: UnixListener, server: Server) {
    let mut clients = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("a client");
        let server = server.clone();
        clients.spawn(async move {
            let (input, output) = client.into_split();
            // whatever went wrong, the client complains of it
            drop(server.serve(super::client(ClientTrust::Trusted), input, output).await);
        });
    }
}

/// Speaks the serve protocol with all who come.
pub async fn serve_at(socket: &Path, server: ServeServer) {
    let listener = UnixListener::bind(socket).expect("a socket");
    let server = Arc::new(server);
    let mut clients = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("a client");
        let server = Arc::clone(&server);
        clients.spawn(async move {
            let (input, output) = client.into_split();
            // whatever went wrong, the client complains of it
            drop(server.serve(input, output).await);
        });
    }
}
