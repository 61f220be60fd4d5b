//! A machine as the fleet is told of it.

use std::sync::Arc;

use drover_store::{Builder, Store, Substitute};

/// Something that is both a store and a builder.
pub trait Site: Store + Builder {}

impl<T: Store + Builder> Site for T {}

/// A machine: what it takes, and how to reach it.
#[derive(Clone)]
pub struct MachineSpec {
    /// What the scheduler needs to know. Its `name` is how the user calls the machine; a machine of
    /// kind `Local` builds into the caller's own store.
    pub description: drover_schedule::Machine,
    /// Whether it may fetch inputs from its own substituters (`builders-use-substitutes`).
    pub substitute: Substitute,
    /// Opens it, and opens it anew after it failed; it connects on first use.
    pub open: Arc<dyn Fn() -> Arc<dyn Site> + Send + Sync>,
}
