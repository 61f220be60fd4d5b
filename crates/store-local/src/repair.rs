//! Damaged paths are fetched again from stores that have them as they were.
//!
//! Follows `LocalStore::verifyStore` and `repairPath` of Nix (`src/libstore/local-store.cc`).

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::PathInfo;
use drover_store::{PathStream, SignatureCheck, StoreError, Unmended, Verification, WhenValid};

use crate::LocalStore;
use crate::error::LocalError;
use crate::import::{Checks, import};
use crate::tree;
use crate::verify::{Found, Problem};

/// Mends what can be mended. What can't is told, and doesn't keep the rest from it.
pub(crate) async fn repair(store: &LocalStore, found: Found) -> Verification {
    let mut verification = Verification::default();
    for problem in found.problems {
        match problem {
            Problem::Harmless(text) => verification.problems.push(text),
            Problem::Link { name, text } => {
                verification.problems.push(text);
                let removed = store.blocking(move |view| tree::remove_link(view, &name)).await;
                if let Err(error) = removed {
                    verification.problems.push(error.to_string());
                    verification.errors_left = true;
                }
            }
            Problem::Broken { info, text } => {
                verification.problems.push(text);
                if let Err(error) = repair_path(store, &info).await {
                    let (path, why) = (info.path, error.to_string());
                    verification.unmended.push(Unmended { path, why });
                }
            }
        }
    }
    verification
}

/// Puts the contents that are registered in the place of those that are there.
pub(crate) async fn repair_path(store: &LocalStore, info: &PathInfo) -> Result<(), StoreError> {
    let mut last = None;
    let supply = store.supply();
    let sources = &supply.sources;
    for source in sources.substituters.iter().map(|substituter| &substituter.store) {
        let outcome = async {
            let known = source.path_infos(std::slice::from_ref(&info.path)).await?;
            let Some(known) = known.into_iter().flatten().next() else { return Ok(false) };
            if known.nar_hash != info.nar_hash {
                return Ok(false);
            }
            // Some Nix did not note sizes.
            let info = PathInfo { nar_size: known.nar_size, ..info.clone() };
            let contents = source.export(vec![known]).await?;
            let paths = Box::new(Registered { info: Some(info), contents });
            // The hash is the one that is registered, which is what vouches for it.
            let checks = Checks { signatures: SignatureCheck::Skip };
            import(store, paths, checks, WhenValid::Replace).await?;
            Ok(true)
        };
        match outcome.await {
            Ok(true) => {
                let path = store.layout().store_dir.display(&info.path);
                tracing::info!("repaired path '{path}' from '{}'", source.name());
                return Ok(());
            }
            Ok(false) => {}
            Err(error) => last = Some(error),
        }
    }
    let path = store.layout().store_dir.display(&info.path);
    let unasked = sources.unasked.iter().map(|why| format!("; {why}")).collect();
    Err(last.unwrap_or_else(|| store.told(LocalError::NoSource { path, unasked })))
}

/// A path with the info that is registered, and the contents that another store has.
struct Registered {
    info: Option<PathInfo>,
    contents: Box<dyn PathStream>,
}

#[async_trait]
impl PathStream for Registered {
    fn count(&self) -> usize {
        1
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        let theirs = self.contents.next_path().await?;
        Ok(self.info.take().filter(|_| theirs.is_some()))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        self.contents.chunk().await
    }
}
