//! The server of the worker protocol: what all of its connections share.

use std::sync::Arc;

use drover_store::{Keeper, Realiser};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::error::DaemonError;
use crate::limits::Limits;
use crate::policy::Policy;
use crate::session::Session;

/// Checks of the whole store, and the like, that clients who aren't trusted may have running.
const HEAVY: usize = 2;

/// Whether a client is trusted: to such a one everything is open, as to root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTrust {
    /// It is.
    Trusted,
    /// It isn't.
    NotTrusted,
}

/// Who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The user's name, or its number where it has none; nothing where nobody knows.
    pub user: Option<String>,
    /// What it may do.
    pub trust: ClientTrust,
}

/// A server of the worker protocol. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) keeper: Arc<dyn Keeper>,
    pub(crate) realiser: Arc<dyn Realiser>,
    pub(crate) policy: watch::Receiver<Arc<Policy>>,
    pub(crate) limits: Limits,
    pub(crate) nix_version: String,
    /// Ends connections as soon as nothing is done for them.
    pub(crate) stopping: CancellationToken,
    pub(crate) heavy: Semaphore,
}

impl Server {
    /// Returns a server over a store and what builds for it. The newest policy that `policy` holds
    /// counts for each connection and each `SetOptions`; `nix_version` is what clients are told.
    pub fn new(
        keeper: Arc<dyn Keeper>,
        realiser: Arc<dyn Realiser>,
        policy: watch::Receiver<Arc<Policy>>,
        limits: Limits,
        nix_version: String,
    ) -> Server {
        let stopping = CancellationToken::new();
        let heavy = Semaphore::new(HEAVY);
        let shared = Shared { keeper, realiser, policy, limits, nix_version, stopping, heavy };
        Server { shared: Arc::new(shared) }
    }

    /// Serves one client until it goes. Dropping the future ends what is done for it.
    ///
    /// # Errors
    ///
    /// Why the connection ended otherwise than by the client's going between two requests. The client
    /// has been told whatever it could be told.
    pub async fn serve<R, W>(&self, client: Client, input: R, output: W) -> Result<(), DaemonError>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let (input, output) = (Box::new(input), Box::new(output));
        Session::greet(Arc::clone(&self.shared), client, input, output).await?.serve().await
    }

    /// Asks connections to end: those that nothing is done for end now, others after what is being
    /// done for them.
    pub fn stop(&self) {
        self.shared.stopping.cancel();
    }
}
