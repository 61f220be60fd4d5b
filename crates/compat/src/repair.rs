//! Damaged paths that no other store has as they were are built again.
//!
//! Follows `LocalStore::repairPath` (`src/libstore/build/entry-points.cc`) of Nix.

use std::sync::Arc;

use drover_core::StorePath;
use drover_store::{BuildMode, Keeper, StoreError, Wanted};

use crate::console::Console;
use crate::error::CompatError;
use crate::host::Host;
use crate::options::Options;
use crate::realise::Work;

/// What paths are repaired with.
pub(crate) struct Repairer<'a> {
    pub(crate) host: &'a dyn Host,
    pub(crate) options: &'a Options,
    pub(crate) store: Arc<dyn Keeper>,
}

impl Repairer<'_> {
    /// Fetches a path again, or builds it again.
    pub(crate) async fn repair(
        &self,
        path: StorePath,
        console: &mut Console,
    ) -> Result<(), CompatError> {
        match self.store.repair(&path).await {
            Ok(()) => Ok(()),
            // who can't repair at all doesn't build for it either
            Err(error @ StoreError::Unsupported { .. }) => Err(error.into()),
            Err(_) => self.build_again(path, console).await,
        }
    }

    /// Builds a path again that can't be fetched.
    pub(crate) async fn build_again(
        &self,
        path: StorePath,
        console: &mut Console,
    ) -> Result<(), CompatError> {
        let work = Work::new(self.host, self.options, self.store.clone()).await?;
        work.realise(vec![Wanted::Path(path)], BuildMode::Repair, console).await
    }
}
