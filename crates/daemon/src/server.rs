//! The server of the worker protocol: what all of its connections share.

use std::sync::{Arc, PoisonError, RwLock};

use drover_store::{Keeper, Realiser};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::DaemonError;
use crate::limits::Limits;
use crate::policy::Policy;
use crate::session::Session;
use crate::turns::Turns;

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
    keeper: RwLock<Arc<dyn Keeper>>,
    pub(crate) realiser: Arc<dyn Realiser>,
    pub(crate) policy: watch::Receiver<Arc<Policy>>,
    pub(crate) limits: Limits,
    pub(crate) nix_version: String,
    /// Ends connections as soon as nothing is done for them.
    stopping: CancellationToken,
    pub(crate) turns: Turns,
}

impl Shared {
    /// Waits until the server stops and has waited long enough for another request.
    pub(crate) async fn said_farewell(&self) {
        self.stopping.cancelled().await;
        tokio::time::sleep(self.limits.farewell).await;
    }

    /// Returns the store as it is configured now.
    pub(crate) fn keeper(&self) -> Arc<dyn Keeper> {
        Arc::clone(&self.keeper.read().unwrap_or_else(PoisonError::into_inner))
    }
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
        let turns = Turns::new(&limits);
        let keeper = RwLock::new(keeper);
        let shared = Shared { keeper, realiser, policy, limits, nix_version, stopping, turns };
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

    /// Has those who connect from now on served from another view of the same store, as after its
    /// settings have changed.
    pub fn replace_store(&self, keeper: Arc<dyn Keeper>) {
        *self.shared.keeper.write().unwrap_or_else(PoisonError::into_inner) = keeper;
    }

    /// Asks connections to end: each when nothing has been done for it for a while
    /// ([`Limits::farewell`]).
    pub fn stop(&self) {
        self.shared.stopping.cancel();
    }
}
