//! Checks of the store, and repairs of what they find.
//!
//! Follows the case `VerifyStore` of `performOp` (`src/libstore/daemon.cc`) and `LocalStore::verifyStore`
//! (`src/libstore/local-store.cc`) of Nix.

use std::sync::Arc;

use drover_store::{BuildMode, Repair, Unmended, VerifyDepth};
use drover_wire::{DerivedPath, Response};

use crate::answer::{Answer, Context};
use crate::log_queue::Level;

impl Context {
    /// Checks the store; what is to be repaired and can't be fetched again is built again.
    pub(crate) async fn verify(&self, depth: VerifyDepth, repair: Repair) -> Answer {
        if repair == Repair::Yes {
            self.client.trust.require("you are not privileged to repair paths")?;
        }
        for step in verify_steps(depth) {
            self.log.tell(Level::Info, step);
        }
        let keeper = Arc::clone(&self.keeper);
        let found = self.hard(async move { keeper.verify(depth, repair).await }).await?;
        for problem in &found.problems {
            self.log.tell(Level::Error, problem);
        }
        let mut errors_left = found.errors_left;
        for Unmended { path, .. } in found.unmended {
            let asked = [DerivedPath::Opaque(path)];
            let built = self.realise_paths(&asked, BuildMode::Repair).await?;
            for failed in built.iter().filter(|each| !each.status.is_success()) {
                self.log.tell(Level::Error, &failed.message);
                errors_left = true;
            }
        }
        Ok(Response::Flag(errors_left))
    }
}

/// Returns what Nix says that it does while it checks a store.
fn verify_steps(depth: VerifyDepth) -> &'static [&'static str] {
    match depth {
        VerifyDepth::Existence => &["reading the Nix store...", "checking path existence..."],
        VerifyDepth::Contents => &[
            "reading the Nix store...",
            "checking path existence...",
            "checking link hashes...",
            "checking store hashes...",
        ],
    }
}
