//! The end of a command that has things built, so that nothing of a build is left however that comes: by
//! itself, by a failure, or by Ctrl-C.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drover_compat::ExitStatus;
use drover_fleet::Shutdown;
use drover_store::Realiser;
use tokio::sync::SetOnce;

use super::builds::Builds;
use crate::exit::Interrupted;
use crate::signals::Signals;
use crate::terminal::Terminal;

/// How long a command waits for what it leaves to be cleared away. A second signal ends that sooner.
const LONGEST: Duration = Duration::from_secs(120);

/// What builds for a store.
pub(super) enum BuiltBy {
    /// This process, on other machines.
    ThisProcess(Arc<Builds>),
    /// The daemon that keeps the store, or that stands before it.
    Daemon(Arc<dyn Realiser>),
}

impl BuiltBy {
    pub(super) fn realiser(&self) -> Arc<dyn Realiser> {
        match self {
            BuiltBy::ThisProcess(builds) => Arc::clone(builds) as Arc<dyn Realiser>,
            BuiltBy::Daemon(realiser) => Arc::clone(realiser),
        }
    }

    pub(super) async fn end(&self, how: Shutdown) {
        match self {
            BuiltBy::ThisProcess(builds) => builds.shutdown(how).await,
            // it ends what it does for those who leave
            BuiltBy::Daemon(_) => {}
        }
    }
}

/// What has built for a command, until that ends.
#[derive(Default)]
pub(super) struct Ending {
    builders: Mutex<Vec<BuiltBy>>,
    signals: SetOnce<Signals>,
}

impl Ending {
    /// Takes note of what builds. From now on signals don't end this process by themselves.
    pub(super) fn of(&self, built_by: BuiltBy) -> io::Result<Arc<dyn Realiser>> {
        let mut builders = self.builders.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.signals.initialized() {
            // nobody else sets them meanwhile, as the builders are locked
            self.signals.set(Signals::watch()?).ok();
        }
        let realiser = built_by.realiser();
        builders.push(built_by);
        Ok(realiser)
    }

    /// Waits for a command, and until nothing is left of what was built for it.
    pub(super) async fn after(
        &self,
        command: impl Future<Output = ExitStatus>,
        terminal: &Terminal,
    ) -> ExitStatus {
        let status = tokio::select! {
            status = command => status,
            () = self.interrupted() => {
                terminal.error(&Interrupted.to_string());
                ExitStatus::FAILURE
            }
        };
        let all =
            std::mem::take(&mut *self.builders.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = async {
            for built_by in &all {
                built_by.end(Shutdown::Cancel).await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(LONGEST, ended) => {}
            () = self.interrupted_again() => {}
        }
        status
    }

    async fn interrupted(&self) {
        self.signals.wait().await.first.cancelled().await;
    }

    async fn interrupted_again(&self) {
        self.signals.wait().await.second.cancelled().await;
    }
}
