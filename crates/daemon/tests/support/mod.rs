//! A store in memory, builds by script, and clients that speak any version.
#![allow(dead_code, unreachable_pub, reason = "each test uses some of it")]
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

pub mod client;
pub mod keeper;
pub mod realiser;
pub mod sockets;

use std::sync::Arc;

use drover_daemon::{Client, ClientTrust, Limits, Policy, Server};
use tokio::sync::watch;

pub use client::Peer;
pub use keeper::TestKeeper;
pub use realiser::Scripted;

/// A server, and what is behind it.
pub struct World {
    pub server: Server,
    pub keeper: Arc<TestKeeper>,
    pub realiser: Arc<Scripted>,
    pub policy: watch::Sender<Arc<Policy>>,
}

pub fn world() -> World {
    world_with(Limits::default(), Policy::default())
}

pub fn world_with(limits: Limits, policy: Policy) -> World {
    let keeper = Arc::new(TestKeeper::default());
    let realiser = Arc::new(Scripted::default());
    let (policy, receiver) = watch::channel(Arc::new(policy));
    let server =
        Server::new(keeper.clone(), realiser.clone(), receiver, limits, "2.34.8".to_owned());
    World { server, keeper, realiser, policy }
}

pub fn client(trust: ClientTrust) -> Client {
    Client::new(Some("test".to_owned()), trust)
}

impl World {
    /// Connects a client of a version.
    pub async fn connect(&self, trust: ClientTrust, minor: u8) -> Peer {
        Peer::connect(&self.server, trust, minor).await
    }

    pub async fn trusted(&self) -> Peer {
        self.connect(ClientTrust::Trusted, 38).await
    }

    pub async fn untrusted(&self) -> Peer {
        self.connect(ClientTrust::NotTrusted, 38).await
    }
}
