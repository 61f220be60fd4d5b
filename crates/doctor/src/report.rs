//! All that was found out.

use std::path::PathBuf;

use crate::finding::Finding;
use crate::in_force::SettingRead;
use crate::step::{Grade, Step};

/// All that was found out.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Files of the configuration, in the order in which they are read: the last one wins.
    pub files: Vec<FileRead>,
    /// Variables with lines as in those files, which win over them.
    pub variables: Vec<VariableRead>,
    /// What else is set of that which decides where builds go.
    pub settings: Vec<SettingRead>,
    /// The value of `builders`, and where it was written.
    pub builders: (String, String),
    /// The lines of machines as they were understood.
    pub lines: Vec<LineRead>,
    /// How many lines of machines can't be read.
    pub rejected: usize,
    /// How many lines of settings can't be read.
    pub bad_settings: usize,
    /// What is odd about the configuration.
    pub findings: Vec<Finding>,
    /// The machines, each examined.
    pub machines: Vec<MachineReport>,
}

/// A file of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRead {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it is there.
    pub presence: Presence,
}

/// Whether a file is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It was read.
    Read,
    /// There is none.
    Absent,
    /// It can't be read.
    Unreadable {
        /// Why not.
        reason: String,
    },
}

/// A variable of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariableRead {
    /// Its name.
    pub name: &'static str,
    /// Whether it is set: then it was read.
    pub is_set: bool,
}

/// A line of a machines file, as it was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct LineRead {
    /// Where it is written.
    pub origin: String,
    /// The store.
    pub store: String,
    /// The systems, joined by commas.
    pub systems: String,
    /// Builds at once.
    pub max_jobs: u32,
    /// The speed factor.
    pub speed_factor: f32,
    /// The features that it has.
    pub supported_features: Vec<String>,
    /// The features that derivations must ask for.
    pub mandatory_features: Vec<String>,
}

/// A machine, examined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineReport {
    /// Its store, as Nix calls it.
    pub store: String,
    /// Where it is written.
    pub origin: String,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// Whether a machine can be built on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It can.
    Usable,
    /// It can, with things to look at.
    UsableWithOddities(usize),
    /// It can't.
    NotUsable,
}

impl MachineReport {
    /// Returns whether the machine can be built on.
    pub fn standing(&self) -> Standing {
        let count = |grade| self.steps.iter().filter(|step| step.verdict.grade == grade).count();
        match (count(Grade::Wrong) + count(Grade::NotReached), count(Grade::Odd)) {
            (0, 0) => Standing::Usable,
            (0, odd) => Standing::UsableWithOddities(odd),
            _ => Standing::NotUsable,
        }
    }
}

impl Report {
    /// Returns how many machines can be built on.
    pub fn usable(&self) -> usize {
        let usable = |machine: &&MachineReport| machine.standing() != Standing::NotUsable;
        self.machines.iter().filter(usable).count()
    }

    /// Whether there are machines, all of them can be built on, and all lines can be read: stock Nix
    /// uses no machine at all where one line is wrong, and does nothing where one of its settings is.
    pub fn is_well(&self) -> bool {
        let all_are_read = self.rejected == 0 && self.bad_settings == 0;
        !self.machines.is_empty() && self.usable() == self.machines.len() && all_are_read
    }
}
