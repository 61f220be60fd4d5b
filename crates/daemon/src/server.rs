//! The server of the worker protocol: what all of its connections share.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use drover_store::{Keeper, Realiser};
use drover_wire::{Need, Outlook};
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
    /// Whether the names count that come ahead of its connections.
    pub naming: Naming,
}

/// Whether somebody may say of his connections by what names they come, as one who runs a forced command
/// for each of several keys does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// The names count.
    Counts,
    /// They are passed over: a name that somebody takes without being believed is nobody's.
    PassedOver,
}

impl Client {
    /// Returns a client whose names count if it's trusted.
    pub fn new(user: Option<String>, trust: ClientTrust) -> Client {
        let naming = match trust {
            ClientTrust::Trusted => Naming::Counts,
            ClientTrust::NotTrusted => Naming::PassedOver,
        };
        Client { user, trust, naming }
    }
}

/// Whether a client has said a name of its own beside that of its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// It has: it is one of several who come as one user.
    Itself,
    /// It hasn't.
    ByUser,
}

/// Talks with those who want something of the daemon itself, in a language that only this knows.
#[async_trait]
pub trait Controls: Send + Sync {
    /// Talks with a client until it goes, or says nothing for long.
    async fn converse(
        &self,
        client: Client,
        named: Named,
        input: Box<dyn AsyncRead + Send + Unpin>,
        output: Box<dyn AsyncWrite + Send + Unpin>,
    );
}

/// Says how it is with the machines, for those who come with builds for them.
#[async_trait]
pub trait Machines: Send + Sync {
    /// Says how it is with those that could take a build. Where that isn't known yet and it takes a
    /// connection to know it, so long is waited at most.
    async fn outlook(&self, need: &Need, patience: Duration) -> Outlook;

    /// For how long a build may wait until it's known whether a machine can be used: longer than connecting to
    /// one may take.
    fn patience(&self) -> Duration;
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
    /// How many clients there are.
    clients: watch::Sender<usize>,
    pub(crate) machines: Option<Arc<dyn Machines>>,
    pub(crate) controls: Option<Arc<dyn Controls>>,
}

/// A client that is there, until this is dropped.
struct Present<'a>(&'a watch::Sender<usize>);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
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
        let clients = watch::Sender::new(0);
        let shared = Shared {
            keeper,
            realiser,
            policy,
            limits,
            nix_version,
            stopping,
            turns,
            clients,
            machines: None,
            controls: None,
        };
        Server { shared: Arc::new(shared) }
    }

    /// Has those who say what they need turned away where no machine can be used for it. Must be called
    /// before the server is cloned.
    #[must_use]
    pub fn with_machines(mut self, machines: Arc<dyn Machines>) -> Server {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.machines = Some(machines);
        }
        self
    }

    /// Has those answered who want something of the daemon itself. Must be called before the server is
    /// cloned.
    #[must_use]
    pub fn with_controls(mut self, controls: Arc<dyn Controls>) -> Server {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.controls = Some(controls);
        }
        self
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
        self.shared.clients.send_modify(|count| *count += 1);
        let _present = Present(&self.shared.clients);
        match Session::greet(Arc::clone(&self.shared), client, input, output).await? {
            Some(session) => session.serve().await,
            None => Ok(()),
        }
    }

    /// Waits until there has been no client for so long.
    pub async fn unused_for(&self, idle: Duration) {
        let mut clients = self.shared.clients.subscribe();
        loop {
            // the sender lives as long as this server
            drop(clients.wait_for(|count| *count == 0).await);
            match tokio::time::timeout(idle, clients.wait_for(|count| 0 < *count)).await {
                Ok(_) => {}
                Err(_) => return,
            }
        }
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
