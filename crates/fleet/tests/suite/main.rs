//! Runs of a fleet over fake machines, in paused time: what travels where, what is built again, what
//! fails and what doesn't, whatever the machines do.

#![allow(missing_docs, reason = "tests")]

mod cancel;
mod failures;
mod local;
mod machine;
mod machines;
mod making;
mod random;
mod recorder;
mod stream;
mod travel;
mod trust;
mod world;
