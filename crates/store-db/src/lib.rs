//! The database of a Nix store: its schema, its questions and its transactions.
//!
//! `db.sqlite` and its neighbours (`schema`, `ca-schema`, `reserved`) are exactly those that Nix
//! keeps (`src/libstore/local-store.cc`, schema version 10), so stock Nix and this crate can use
//! one database, one after the other and at the same time. All here is synchronous; callers go
//! through a blocking thread. Invariants:
//!
//! - What is registered is registered with its references, in one transaction, or not at all.
//! - What is invalidated is durably so when the call returns ([`Database::invalidate`]); files may
//!   be unlinked only then.
//! - Every wait for another process has an end ([`OpenOptions::busy_timeout`]).

mod error;
mod graph;
mod open;
mod question;
mod realisation;
mod registration;
mod requisites;
mod reserve;
mod row;
mod schema;
mod transaction;

pub use error::DbError;
pub use graph::{Derivations, Edges, Graph, NodeId};
pub use open::{Database, DatabaseFile, Mode, OpenOptions, Sync};
pub use registration::Registration;
pub use reserve::{hold_reserve, release_reserve};
pub use schema::SCHEMA_VERSION;
