//! Where builds would run, when, and why not elsewhere, before anything is built.
//!
//! [`forecast`] runs the scheduler itself on a model of the machines, in which every build takes the
//! same time at the same speed, as nobody knows better beforehand. [`groups`] puts derivations
//! together of which all machines say the same, and [`remedies`] says what to change where nobody
//! can build them.
//!
//! Like the scheduler this has no clock, no I/O and no randomness, and knows nothing of Nix.

mod answer;
mod grouping;
mod model;
mod remedy;
mod simulation;

pub use answer::{Answer, Unusable, answer};
pub use grouping::{Group, groups};
pub use model::{Availability, Candidate, Expected, Forecast};
pub use remedy::{Remedy, remedies};
pub use simulation::forecast;
