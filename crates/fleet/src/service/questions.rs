//! What anybody may ask a service, whether somebody has something built or not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use drover_store::{Keeper, StoreError};
use tokio::sync::oneshot;

use crate::machine::MachineSpec;
use crate::service::builds::{BuildExplanation, BuildId, BuildList, KeptLog};
use crate::service::control::{Duty, note_duty};
use crate::service::engine::Command;
use crate::service::view::{MachineCondition, MachineView};
use crate::service::{Service, State};

impl Service {
    /// Returns how each machine is, in the order of the configuration. Nothing is connected for it.
    pub async fn machines(&self) -> Vec<MachineView> {
        let handle = match &*self.state() {
            State::Running(handle) => Arc::clone(handle),
            State::Asleep { machines, drained, .. } => return asleep(machines, drained),
            State::Stopped => return Vec::new(),
        };
        let (reply, views) = oneshot::channel();
        handle.send(Command::Machines { reply });
        views.await.unwrap_or_default()
    }

    /// Returns what is built or waits to be, for all clients.
    pub async fn builds(&self) -> BuildList {
        self.ask(|reply| Command::Builds { reply }).await.unwrap_or_default()
    }

    /// Returns the last build of a derivation that has this base name, also of those that are over: as long as
    /// it is known why it was where it was.
    pub async fn last_build(&self, name: &str) -> Option<BuildId> {
        let name = name.to_owned();
        self.ask(|reply| Command::Last { name, reply }).await.flatten()
    }

    /// Returns why a build is where it is, or was; nothing where it is not known, or not any more.
    pub async fn explain(&self, build: BuildId) -> Option<BuildExplanation> {
        self.ask(|reply| Command::Explain { build, reply }).await.flatten()
    }

    /// Returns what is kept of the log of a build; nothing where it is not known, or not any more.
    pub async fn kept_log(&self, build: BuildId) -> Option<KeptLog> {
        self.ask(|reply| Command::Log { build, reply }).await.flatten()
    }

    /// Asks the engine, if it runs.
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let handle = match &*self.state() {
            State::Running(handle) => Arc::clone(handle),
            State::Asleep { .. } | State::Stopped => return None,
        };
        let (reply, answer) = oneshot::channel();
        handle.send(question(reply));
        answer.await.ok()
    }

    /// Has machines connected to that nobody has needed so far, and returns how all are when the
    /// first is connected, or none can be; or as they are after `deadline`. What is being connected
    /// to then goes on. One that was left alone after a failure stays so.
    ///
    /// # Errors
    ///
    /// The service has been shut down, or is for a store in another directory.
    pub async fn reach(
        &self,
        store: &dyn Keeper,
        deadline: Duration,
    ) -> Result<Vec<MachineView>, StoreError> {
        let handle = self.handle(store)?;
        let (reply, views) = oneshot::channel();
        handle.send(Command::Reach { reply });
        match tokio::time::timeout(deadline, views).await {
            Ok(views) => Ok(views.unwrap_or_default()),
            Err(_) => Ok(self.machines().await),
        }
    }

    /// Sets whether the machines of a name take jobs, until the service ends. It counts for such as
    /// come into the configuration later, too.
    pub fn set_duty(&self, name: &str, duty: Duty) {
        match &mut *self.state() {
            State::Asleep { drained, .. } => note_duty(drained, name, duty),
            State::Running(handle) => {
                handle.send(Command::SetDuty { name: name.to_owned(), duty });
            }
            State::Stopped => {}
        }
    }
}

/// Returns how machines are before anybody has asked for anything.
fn asleep(machines: &[MachineSpec], drained: &BTreeSet<String>) -> Vec<MachineView> {
    let view = |spec: &MachineSpec| {
        let view = MachineView::unused(spec.description.clone());
        match drained.contains(&view.description.name) {
            true => MachineView { condition: MachineCondition::Draining, ..view },
            false => view,
        }
    };
    machines.iter().map(view).collect()
}
