//! What the caller tells about a machine and about a job.
//!
//! Invariant: a description never changes after the event that brought it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::id::{Bandwidth, JobId, OwnerId, PathId};
use crate::machine::Needs;
use crate::reason::Reason;

/// The system that every machine can build for (fetches done by Nix itself).
const BUILTIN: &str = "builtin";

/// Whether a machine shares the caller's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MachineKind {
    /// It builds in the caller's own store: what is valid there is [`Place::Here`](crate::Place::Here).
    Local,
    /// It has a store of its own, and inputs must be moved there.
    Remote,
}

/// A machine that can build, as its line in the machines file describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// What users call it.
    pub name: String,
    /// Whether it shares the caller's store.
    pub kind: MachineKind,
    /// The systems it builds for, for example `x86_64-linux`.
    pub systems: BTreeSet<String>,
    /// How many jobs it runs at a time.
    pub slots: u32,
    /// How fast it is; a job expected to take t takes t / `speed_factor`. Not above zero means 1.
    pub speed_factor: f64,
    /// Features that a job may ask for.
    pub supported_features: BTreeSet<String>,
    /// Features that a job must ask for to run there; they count as supported.
    pub mandatory_features: BTreeSet<String>,
    /// One round trip to it.
    pub round_trip: Duration,
    /// How fast inputs get there.
    pub bandwidth: Bandwidth,
    /// Further terms on which it takes jobs, in the same slots.
    pub other_terms: Vec<Terms>,
}

/// On what terms a machine takes jobs, as one of several lines for it in the machines file says.
///
/// All lines share its slots, and each uses them up to its own number: a job takes the first that is
/// free, if that is one of so many.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// As [`Machine::systems`].
    pub systems: BTreeSet<String>,
    /// How many of the slots may be used.
    pub slots: u32,
    /// As [`Machine::speed_factor`].
    pub speed_factor: f64,
    /// As [`Machine::supported_features`].
    pub supported_features: BTreeSet<String>,
    /// As [`Machine::mandatory_features`].
    pub mandatory_features: BTreeSet<String>,
}

impl Machine {
    /// Returns the speed of its first terms; see [`Terms::speed`].
    #[must_use]
    pub fn speed(&self) -> f64 {
        speed_of(self.speed_factor)
    }

    /// Returns why it can never take a job that needs `system` and `features`, or nothing if it can.
    #[must_use]
    pub fn refusal(&self, system: &str, features: &BTreeSet<String>) -> Option<Reason> {
        let mut refusals = self.all_terms().map(|terms| terms.refusal(system, features));
        let first = refusals.next().flatten()?;
        // of several the one says most that fails for what is asked beside the system
        refusals.try_fold(first, |first, other| {
            Some(match (first, other?) {
                (Reason::LacksSystem { .. }, other) => other,
                (first, _) => first,
            })
        })
    }

    /// Returns why it can never take a job, or nothing if it can.
    pub(crate) fn refusal_of(&self, asked: &Needs) -> Option<Reason> {
        match asked.scope.includes(self.kind) {
            true => self.refusal(&asked.system, &asked.features),
            false => Some(Reason::OutOfScope { kind: self.kind }),
        }
    }

    /// Returns how many of its slots jobs may use that need `system` and `features`.
    #[must_use]
    pub fn slots_for(&self, system: &str, features: &BTreeSet<String>) -> u32 {
        let terms = self.all_terms().filter(|terms| terms.refusal(system, features).is_none());
        terms.map(|terms| terms.slots).max().unwrap_or(0)
    }

    /// Returns how many slots it has.
    #[must_use]
    pub fn all_slots(&self) -> u32 {
        self.all_terms().map(|terms| terms.slots).max().unwrap_or(0)
    }

    /// Returns all terms on which it takes jobs.
    pub(crate) fn all_terms(&self) -> impl Iterator<Item = Terms> {
        let first = Terms {
            systems: self.systems.clone(),
            slots: self.slots,
            speed_factor: self.speed_factor,
            supported_features: self.supported_features.clone(),
            mandatory_features: self.mandatory_features.clone(),
        };
        std::iter::once(first).chain(self.other_terms.iter().cloned())
    }
}

impl Terms {
    /// Returns the speed factor, with everything that is not above zero taken as 1 as Nix does.
    #[must_use]
    pub fn speed(&self) -> f64 {
        speed_of(self.speed_factor)
    }

    /// Returns why nothing that needs `system` and `features` is taken on these terms, or nothing
    /// if it is.
    ///
    /// The rules are those of `Machine::systemSupported`, `allSupported` and `mandatoryMet` in
    /// C++ Nix (`src/libstore/machines.cc`).
    #[must_use]
    pub fn refusal(&self, system: &str, features: &BTreeSet<String>) -> Option<Reason> {
        if system != BUILTIN && !self.systems.contains(system) {
            return Some(Reason::LacksSystem {
                wanted: system.to_owned(),
                offered: self.systems.clone(),
            });
        }
        let lacking: BTreeSet<String> = features
            .iter()
            .filter(|feature| {
                !self.supported_features.contains(*feature)
                    && !self.mandatory_features.contains(*feature)
            })
            .cloned()
            .collect();
        if !lacking.is_empty() {
            return Some(Reason::LacksFeatures { features: lacking });
        }
        let unasked: BTreeSet<String> =
            self.mandatory_features.difference(features).cloned().collect();
        if !unasked.is_empty() {
            return Some(Reason::MandatoryFeatures { features: unasked });
        }
        (self.slots == 0).then_some(Reason::ZeroSlots)
    }
}

fn speed_of(factor: f64) -> f64 {
    match factor {
        speed if speed.is_finite() && speed > 0.0 => speed,
        _ => 1.0,
    }
}

/// Where a job would rather run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// Wherever it is done first.
    #[default]
    Anywhere,
    /// On a local machine if one has a free lane (`preferLocalBuild`).
    PreferLocal,
}

/// Which machines may take a job, as those want it who wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// All that can.
    #[default]
    AllMachines,
    /// Only those with a store of their own.
    RemoteMachines,
    /// Only those that share the caller's store.
    LocalMachines,
    /// None at all.
    NoMachine,
}

impl Scope {
    /// Returns whether machines of a kind are in it.
    #[must_use]
    pub fn includes(self, kind: MachineKind) -> bool {
        match (self, kind) {
            (Scope::AllMachines, _)
            | (Scope::RemoteMachines, MachineKind::Remote)
            | (Scope::LocalMachines, MachineKind::Local) => true,
            (Scope::RemoteMachines, MachineKind::Local)
            | (Scope::LocalMachines, MachineKind::Remote)
            | (Scope::NoMachine, _) => false,
        }
    }

    /// Returns the scope that has machines of these kinds.
    #[must_use]
    pub fn of(kinds: &BTreeSet<MachineKind>) -> Scope {
        match (kinds.contains(&MachineKind::Local), kinds.contains(&MachineKind::Remote)) {
            (true, true) => Scope::AllMachines,
            (false, true) => Scope::RemoteMachines,
            (true, false) => Scope::LocalMachines,
            (false, false) => Scope::NoMachine,
        }
    }
}

/// Who wants a job's outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Demand {
    /// The caller, whoever else does.
    #[default]
    Asked,
    /// Only jobs that depend on it.
    ForOthers,
}

/// A job, as its derivation describes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Job {
    /// What users call it.
    pub name: String,
    /// The system it is built for, or `builtin`.
    pub system: String,
    /// Features that the machine must have.
    pub required_features: BTreeSet<String>,
    /// Where it would rather run.
    pub preference: Preference,
    /// Where it may run.
    pub scope: Scope,
    /// Who wants its outputs.
    pub demand: Demand,
    /// For whom it is done.
    pub owner: OwnerId,
    /// Paths that must be on the machine, besides the outputs of its dependencies.
    pub inputs: Vec<PathId>,
    /// Jobs whose outputs it needs; submitted earlier or in the same batch.
    pub dependencies: Vec<JobId>,
    /// The paths it makes.
    pub outputs: Vec<PathId>,
    /// How long it is expected to take on a machine of speed 1, if anything is known.
    pub expected: Option<Duration>,
}
