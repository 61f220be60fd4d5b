//! Places for sessions with a machine: on the masters there are, and on others that are opened.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use drover_store::StoreError;
use tokio::time::Instant;

use crate::master::{Choice, Need, SessionSlot};
use crate::ssh::SshHost;

/// How long further connections aren't tried where the server has refused one, while others live.
const PAUSE: Duration = Duration::from_secs(30);

/// How long a place is waited for while none is given back.
const PATIENCE: Duration = Duration::from_secs(120);

/// How often who waits for a place looks whether a connection has ended or another may be tried.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl SshHost {
    /// Takes a place on a master that is up. Where the server takes no further connection, that is one
    /// of those there are, which others give back.
    pub(crate) async fn slot(&self, need: Need) -> Result<SessionSlot, StoreError> {
        let mut since = Instant::now();
        loop {
            let refusal = match self.place_or_master(need).await {
                Ok(slot) => return Ok(slot),
                Err(error) if need == Need::Ahead || !self.has_masters() => return Err(error),
                Err(error) => error,
            };
            if PATIENCE <= since.elapsed() {
                // what runs there is none the worse
                let reason = format!("no place on a connection was given back; {refusal}");
                return Err(StoreError::OwnLimit { store: self.name.clone(), reason });
            }
            let _waiting = Waiting::begin(&self.waiting);
            if tokio::time::timeout(LOOK_AGAIN, self.freed.notified()).await.is_ok() {
                since = Instant::now();
            }
            // builds take as long as they take
            if need == Need::Build && self.has_room_for_builds() {
                since = Instant::now();
            }
        }
    }

    /// Takes a free place, or opens another master, unless one was refused a moment ago.
    async fn place_or_master(&self, need: Need) -> Result<SessionSlot, StoreError> {
        if let Some(slot) = self.free_slot(need) {
            return Ok(slot);
        }
        let _opening = self.opening.lock().await;
        if let Some(slot) = self.free_slot(need) {
            return Ok(slot);
        }
        if let Some(refusal) = self.refused_lately() {
            return Err(refusal);
        }
        let opened = self.open_master().await;
        let refusal = match &opened {
            Err(error) if self.has_masters() => {
                tracing::debug!(%error, "no further connection; those there are have to do");
                Some((Instant::now(), error.clone()))
            }
            _ => None,
        };
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
        opened
    }

    fn refused_lately(&self) -> Option<StoreError> {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, error) = refusal.as_ref().filter(|_| self.has_masters())?;
        (at.elapsed() < PAUSE).then(|| error.clone())
    }

    fn has_masters(&self) -> bool {
        let masters = self.masters.lock().unwrap_or_else(PoisonError::into_inner);
        masters.iter().any(|master| master.is_alive())
    }

    /// Whether builds can have a place beside what is always open.
    fn has_room_for_builds(&self) -> bool {
        const BESIDE: usize = 2;
        let masters = self.masters.lock().unwrap_or_else(PoisonError::into_inner);
        masters.iter().map(|master| master.places().most).sum::<usize>() > BESIDE
    }

    /// Whether somebody waits for a place.
    pub(crate) fn is_crowded(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    fn free_slot(&self, need: Need) -> Option<SessionSlot> {
        let refused = self.refusal.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let choice = if refused { Choice::NoOther } else { Choice::Another };
        let mut masters = self.masters.lock().unwrap_or_else(PoisonError::into_inner);
        masters.retain(|master| master.is_alive());
        masters.iter().find_map(|master| master.take(need, choice))
    }
}

/// One who waits for a place.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn begin(count: &AtomicUsize) -> Waiting<'_> {
        count.fetch_add(1, Ordering::AcqRel);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use tokio::process::Command;
    use tokio::task::JoinSet;

    use super::*;
    use crate::dial::ConnectOptions;
    use crate::master::Master;
    use crate::ssh::SshTarget;

    fn master(host: &SshHost) -> Arc<Master> {
        let child = Command::new("sleep").arg("1000").kill_on_drop(true).spawn().expect("sleep");
        let freed = Arc::clone(&host.freed);
        let master = Master::new(PathBuf::new(), child, JoinSet::new(), (10, freed));
        host.masters.lock().expect("not poisoned").push(Arc::clone(&master));
        master
    }

    fn slots(host: &SshHost) -> Vec<SessionSlot> {
        (0..8).map_while(|_| host.free_slot(Need::Build)).collect()
    }

    fn refusal() -> StoreError {
        StoreError::Unreachable { store: "ssh://host".to_owned(), reason: "no more".to_owned() }
    }

    fn host() -> SshHost {
        let options = ConnectOptions {
            connect_timeout: Duration::from_secs(1),
            ssh_arguments: Vec::new(),
            runtime_dir: Arc::new(tempfile::tempdir().expect("a folder")),
        };
        let target = SshTarget { host: "host".to_owned(), ..SshTarget::default() };
        SshHost::new("ssh://host".to_owned(), target, options)
    }

    #[tokio::test]
    async fn eight_sessions_fit_on_a_master() {
        let host = host();
        master(&host);
        let mut first = slots(&host);
        assert_eq!(first.len(), 8);
        assert!(host.free_slot(Need::Other).is_none(), "the ninth needs another master");
        first.pop();
        assert!(host.free_slot(Need::Other).is_some(), "a session that has ended makes room");
        let second = master(&host).first();
        assert_eq!(slots(&host).len(), 8, "seven on the second, and one on the first again");
        drop(second);
    }

    /// A server may take one connection only, be it that the user's configuration or its own limits
    /// have it so.
    #[tokio::test(start_paused = true)]
    async fn where_no_further_connection_is_taken_places_are_waited_for() {
        let host = host();
        master(&host);
        *host.refusal.lock().expect("not poisoned") = Some((Instant::now(), refusal()));
        let mut taken = slots(&host);
        assert!(host.slot(Need::Ahead).await.is_err(), "what nobody needs yet doesn't wait");
        let other = host.slot(Need::Other).await.expect("a place that builds leave");
        let (mut waits, passed) = (std::pin::pin!(host.slot(Need::Build)), 3 * PATIENCE);
        *host.refusal.lock().expect("not poisoned") = Some((Instant::now() + passed, refusal()));
        assert!(tokio::time::timeout(passed, &mut waits).await.is_err(), "builds take their time");
        assert!(host.is_crowded());
        drop(other);
        taken.pop();
        waits.await.expect("the place that was given back");
        assert!(!host.is_crowded());
    }

    #[tokio::test(start_paused = true)]
    async fn what_gets_no_place_for_long_says_what_the_server_said() {
        let host = host();
        master(&host);
        let long = Instant::now() + 2 * PATIENCE;
        *host.refusal.lock().expect("not poisoned") = Some((long, refusal()));
        let _taken: Vec<SessionSlot> = std::iter::from_fn(|| host.free_slot(Need::Other)).collect();
        let error = host.slot(Need::Other).await.err().expect("no place").to_string();
        assert!(error.contains("no more"), "{error}");
    }

    #[tokio::test]
    async fn a_dead_master_takes_no_sessions() {
        let host = host();
        master(&host).end();
        master(&host);
        let slot = loop {
            let slot = host.free_slot(Need::Other).expect("the second");
            if host.masters.lock().expect("not poisoned").len() == 1 {
                break slot;
            }
            tokio::task::yield_now().await;
        };
        drop(slot);
        assert!(host.free_slot(Need::Other).is_some());
    }
}
