//! Runs of a fleet over fake machines, in paused time: what travels where, what is built again, what
//! fails and what doesn't, whatever the machines do.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a panic is how a test fails")]

mod again;
mod cancel;
mod checks;
mod clients;
mod failures;
mod fetch;
mod found;
mod keeper;
mod local;
mod machine;
mod machines;
mod making;
mod random;
mod recall;
mod recorder;
mod run;
mod scale;
mod service;
mod service_random;
mod shared_found;
mod site;
mod stream;
mod terms;
mod travel;
mod trust;
mod views;
mod world;
