//! What those are told who ask how the machines are, and what they may have done with them.
//!
//! Invariant: an answer is made of the engine's own state at one moment, and nothing waits for it.

use std::collections::BTreeSet;

use drover_schedule::{Event, LinkState, MachineId, MachineSnapshot, MachineState, Reason};
use tokio::sync::oneshot;

use crate::service::engine::Engine;
use crate::service::view::{MachineCondition, MachineFailure, MachineView};

/// Whether a machine is to take jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It takes jobs.
    Working,
    /// It gets nothing new; what runs there ends.
    Draining,
}

/// What was asked for beside builds.
pub(crate) struct Control {
    /// Names of machines that get nothing new.
    pub(crate) drained: BTreeSet<String>,
    /// Those who wait for a machine to be connected.
    pub(crate) reaching: Vec<oneshot::Sender<Vec<MachineView>>>,
}

/// Notes whether the machines of a name are to take jobs.
pub(crate) fn note_duty(drained: &mut BTreeSet<String>, name: &str, duty: Duty) {
    match duty {
        Duty::Working => {
            drained.remove(name);
        }
        Duty::Draining => {
            drained.insert(name.to_owned());
        }
    }
}

impl Engine {
    /// Returns all machines, in their order; without those that were in the configuration once and
    /// where nothing runs any more.
    pub(crate) fn views(&self) -> Vec<MachineView> {
        let snapshots = self.driver.scheduler.snapshot().machines;
        let views = snapshots.iter().zip(&self.driver.machines).map(|(snapshot, state)| {
            let description = state.spec.description.clone();
            let failure = snapshot.trouble.as_ref().map(|trouble| MachineFailure {
                fault: trouble.fault,
                cause: trouble.cause.to_string(),
                ago: self.driver.now().since(trouble.since),
            });
            MachineView {
                condition: self.condition(snapshot),
                busy: snapshot.running,
                queued: snapshot.queued,
                last_failure: failure,
                ..MachineView::unused(description)
            }
        });
        views.filter(|view| view.condition != MachineCondition::Leaving || view.busy != 0).collect()
    }

    fn condition(&self, snapshot: &MachineSnapshot) -> MachineCondition {
        match (&snapshot.state, snapshot.link) {
            _ if self.retired.contains(&snapshot.machine) => MachineCondition::Leaving,
            (MachineState::Not(Reason::Draining), _) => MachineCondition::Draining,
            (_, LinkState::Unused) => MachineCondition::Unused,
            (_, LinkState::Connecting) => MachineCondition::Connecting,
            (_, LinkState::Connected) => MachineCondition::Connected,
            (_, LinkState::OnProbation) => MachineCondition::OnProbation,
            (_, LinkState::Down { again }) => {
                MachineCondition::Down { again: again.since(self.driver.now()) }
            }
            (_, LinkState::Refused) => MachineCondition::Refused,
        }
    }

    /// Has all machines connected to that nobody has needed so far, and answers when it's known
    /// whether one can be used.
    pub(crate) fn reach(&mut self, reply: oneshot::Sender<Vec<MachineView>>) {
        for machine in self.present() {
            self.tell_scheduler(Event::Reach { machine });
        }
        self.control.reaching.push(reply);
    }

    /// Answers those who wait for a machine, if one is connected or none is being connected to.
    pub(crate) fn tell_reached(&mut self) {
        self.control.reaching.retain(|reply| !reply.is_closed());
        if self.control.reaching.is_empty() {
            return;
        }
        let views = self.views();
        let is = |wanted: MachineCondition| views.iter().any(|view| view.condition == wanted);
        let is_up = is(MachineCondition::Connected) || is(MachineCondition::OnProbation);
        if is_up || !is(MachineCondition::Connecting) {
            for reply in std::mem::take(&mut self.control.reaching) {
                // who asked may have gone
                reply.send(views.clone()).ok();
            }
        }
    }

    /// Sets whether the machines of a name are to take jobs, also such as come into the
    /// configuration later.
    pub(crate) fn set_duty(&mut self, name: &str, duty: Duty) {
        note_duty(&mut self.control.drained, name, duty);
        for machine in self.present() {
            let state = self.driver.machines.get(machine.0 as usize);
            if state.is_some_and(|state| state.spec.description.name == name) {
                self.tell_scheduler(match duty {
                    Duty::Working => Event::Resume { machine },
                    Duty::Draining => Event::Drain { machine },
                });
            }
        }
    }

    /// Returns the machines that are in the configuration.
    fn present(&self) -> Vec<MachineId> {
        let machines = (0..).map(MachineId).take(self.driver.machines.len());
        machines.filter(|machine| !self.retired.contains(machine)).collect()
    }
}
