//! `nix-store`.

mod files;
mod graph;
mod keep;
mod name;
mod parse;
mod query;
mod query_flags;
mod registration;
mod request;
mod run;
mod transfer;

pub(crate) use parse::parse;
pub(crate) use query::build_log;
pub use request::{
    ClosureOutputs, Collect, Force, Invalid, Operation, Query, QueryKind, Realise, Registered,
    Rehearsal, Results, StoreRequest, Subject, Unknown,
};
pub use run::run_store_request;
pub(crate) use run::{modified, read_derivation, run};
