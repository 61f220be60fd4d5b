//! Carries out what the scheduler decides: the async shell around `schedule`.
//!
//! A [`Fleet`] takes derivations, asks stores for facts, feeds the scheduler events and does what it
//! commands: connect, move inputs, build, stop. Outputs stay where they were built until a job
//! elsewhere or the caller needs them. Everything that happens is told to an [`Observer`]; progress,
//! summaries and logs read that one stream.

mod ahead;
mod approach;
mod attempts;
mod bug;
mod check;
mod copied;
mod driver;
mod event;
mod fault;
mod fetch;
mod fleet;
mod found;
mod graph;
mod guess;
mod happened;
mod hidden;
mod inputs;
mod intake;
mod job_end;
mod job_log;
mod kept_folder;
mod lane;
mod lanes;
mod ledger;
mod machine;
mod machine_failed;
mod machine_state;
mod merge;
mod offer;
mod outcome;
mod path_ids;
mod places;
mod plan;
mod prepare;
mod resolve;
mod retrieve;
mod room;
mod service;
mod shared;
mod sought;
mod spoiled;
mod tee;
mod terms;
mod transfer;
mod verdict;
mod voice;
mod vouched;

pub use event::{FleetEvent, JobFailureReport, MachineTotals, Observer, Silent};
pub use fleet::{
    BuildError, CopyBack, DryRun, Fallback, Fleet, FleetOptions, Report, Target, TargetResult,
};
pub use graph::{Graph, GraphError, Node, NodeId};
pub use machine::{MachineSpec, Site};
pub use plan::{OtherMachines, Plan, PlannedJob};
pub use service::{
    BuildEnding, BuildExplanation, BuildId, BuildList, BuildNumbers, BuildState, BuildView, Census,
    Duty, KeptLog, MachineChoice, MachineCondition, MachineFailure, MachineView, OwnKind, Service,
    ServiceOptions, Shutdown,
};
pub use verdict::NO_MACHINE;
pub use vouched::OutputTrust;
