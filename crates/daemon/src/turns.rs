//! Turns at work that is hard on the whole store: collecting, checking, linking, listing all of it.
//!
//! Such work keeps a thread, and a collection may wait for another one for an hour. Only so much of
//! it goes on at a time, in all and for each user, so that everybody else finds threads. A turn ends
//! with the work and not with the client: one that comes, asks and goes gains nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use drover_store::StoreError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::limits::Limits;
use crate::server::{Client, ClientTrust};

/// Turns at hard work.
pub(crate) struct Turns {
    /// Those of trusted clients, whom nobody else can keep waiting.
    trusted: Arc<Semaphore>,
    others: Arc<Semaphore>,
    per_user: usize,
    users: Mutex<HashMap<Option<String>, Arc<Semaphore>>>,
    tasks: TaskTracker,
}

/// A turn; it ends when this is dropped.
pub(crate) struct Turn {
    _of_all: Option<OwnedSemaphorePermit>,
    _of_user: Option<OwnedSemaphorePermit>,
}

impl Turns {
    pub(crate) fn new(limits: &Limits) -> Turns {
        Turns {
            trusted: Arc::new(Semaphore::new(limits.heavy)),
            others: Arc::new(Semaphore::new(limits.heavy)),
            per_user: limits.heavy_per_user,
            users: Mutex::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Waits for a client's turn: first among what its user asks for, then among all.
    pub(crate) async fn take(&self, client: &Client) -> Turn {
        let (all, of_user) = match client.trust {
            ClientTrust::Trusted => (&self.trusted, None),
            ClientTrust::NotTrusted => (&self.others, Some(self.user(client))),
        };
        // neither is ever closed
        let of_user = match of_user {
            Some(user) => user.acquire_owned().await.ok(),
            None => None,
        };
        let of_all = Arc::clone(all).acquire_owned().await.ok();
        Turn { _of_all: of_all, _of_user: of_user }
    }

    fn user(&self, client: &Client) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|_, turns| Arc::strong_count(turns) > 1);
        let new = || Arc::new(Semaphore::new(self.per_user));
        Arc::clone(users.entry(client.user.clone()).or_insert_with(new))
    }

    /// Does work when it is its turn. What was begun goes on when nobody waits for it any more.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        client: &Client,
        store: &str,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = self.take(client).await;
        let working = self.tasks.spawn(async move {
            let done = work.await;
            drop(turn);
            done
        });
        working.await.unwrap_or_else(|error| {
            Err(StoreError::refused(store, format!("the work was cut short: {error}")))
        })
    }
}
