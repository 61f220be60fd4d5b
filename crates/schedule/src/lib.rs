//! The scheduler: which job runs on which machine, when, and why.
//!
//! It is a state machine without clock, I/O, randomness or locks: the caller tells it what
//! happened ([`Event`]) and when ([`Moment`]), and it answers with what is to be done
//! ([`Command`]). The same events at the same moments always give the same commands, so every
//! interleaving can be a test. It knows jobs, machines and interned paths, and nothing of Nix.
//!
//! ```
//! use drover_schedule::*;
//! use std::{collections::BTreeSet, time::Duration};
//!
//! let systems = BTreeSet::from(["x86_64-linux".to_owned()]);
//! let machine = Machine {
//!     name: "builder".to_owned(),
//!     kind: MachineKind::Remote,
//!     systems,
//!     slots: 1,
//!     speed_factor: 1.0,
//!     supported_features: BTreeSet::new(),
//!     mandatory_features: BTreeSet::new(),
//!     round_trip: Duration::from_millis(50),
//!     bandwidth: Bandwidth(10_000_000),
//!     other_terms: Vec::new(),
//! };
//! let job = Job { system: "x86_64-linux".to_owned(), ..Job::default() };
//!
//! let mut scheduler = Scheduler::new(Settings::default());
//! let commands = scheduler.on_all(
//!     Moment::START,
//!     [
//!         Event::MachineAdded { machine: MachineId(0), description: machine },
//!         Event::Submitted { job: JobId(0), description: job },
//!     ],
//! );
//! assert_eq!(commands, [Command::Connect { machine: MachineId(0) }]);
//!
//! let up = Event::Connected { machine: MachineId(0), round_trip: Duration::from_millis(50) };
//! let commands = scheduler.on(Moment(Duration::from_millis(100)), up);
//! let lane = Lane { machine: MachineId(0), index: 0 };
//! assert_eq!(commands, [Command::Start { job: JobId(0), lane, after: None }]);
//! ```

mod chain;
mod command;
mod connection;
mod description;
mod dispatch;
mod duration;
mod duty;
mod estimate;
mod event;
mod explain;
mod explanation;
mod found;
mod id;
mod index;
mod job;
mod machine;
mod outcome;
mod path;
mod population;
mod reason;
mod recall;
mod scheduler;
mod scope;
mod settings;
mod stock;
mod store;
mod submit;
mod table;

pub use command::{Command, Reasons, Verdict};
pub use description::{Demand, Job, Machine, MachineKind, Preference, Scope, Terms};
pub use event::{Chance, Event, JobFailure, MachineFault};
pub use explanation::{
    Choice, Explanation, JobCounts, JobStatus, LinkState, MachineExplanation, MachineSnapshot,
    MachineState, Outcome, Snapshot, Trouble, Why,
};
pub use id::{Bandwidth, ByteCount, JobId, Lane, MachineId, Moment, OwnerId, PathId, Place};
pub use job::Afterwards;
pub use reason::{Edge, Reason};
pub use scheduler::Scheduler;
pub use settings::{OnFailure, Policy, Rounding, Settings};
