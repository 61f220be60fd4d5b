//! `nix store gc`, `nix store delete` and `nix store optimise`: what makes room.

use drover_store::{CollectAction, Collection, Liveness};
use serde_json::json;

use super::request::{Layout, Selection};
use super::run::{Session, Stop};
use crate::error::CompatError;
use crate::garbage;
use crate::nix_store::Rehearsal;
use crate::options::Verbosity;
use crate::size::render_size;

impl Session<'_> {
    pub(super) async fn collect(
        &mut self,
        rehearsal: Rehearsal,
        max_freed: Option<u64>,
        layout: Layout,
    ) -> Result<(), CompatError> {
        let store = self.keeper().await?;
        let action = match rehearsal {
            Rehearsal::Yes => CollectAction::ListDead,
            Rehearsal::No => CollectAction::DeleteDead,
        };
        let collection = garbage::whole(action, max_freed);
        match (layout, rehearsal) {
            (Layout::Text, Rehearsal::Yes) => garbage::rehearse(&*store, &mut self.console).await,
            (Layout::Text, Rehearsal::No) => {
                garbage::delete(&*store, collection, &mut self.console).await
            }
            (layout, _) => {
                let told = garbage::told(&*store, collection).await?;
                self.tell(layout, told).await
            }
        }
    }

    pub(super) async fn delete(
        &mut self,
        paths: Selection,
        liveness: Liveness,
        layout: Layout,
    ) -> Result<(), Stop> {
        let (store, paths) = self.selected(paths).await?;
        let collection = Collection {
            action: CollectAction::DeleteGiven,
            liveness,
            paths: paths.into_iter().collect(),
            max_freed: None,
        };
        if layout == Layout::Text {
            return Ok(garbage::delete(&*store, collection, &mut self.console).await?);
        }
        let told = garbage::told(&*store, collection).await?;
        Ok(self.tell(layout, told).await?)
    }

    pub(super) async fn optimise(&mut self, layout: Layout) -> Result<(), CompatError> {
        let saved = self.keeper().await?.optimise().await?;
        match layout {
            Layout::Text => {
                let line = format!("{} freed by hard-linking", render_size(saved));
                self.console.say(Verbosity::INFO, &line).await
            }
            layout => self.tell(layout, json!({ "bytesFreed": saved })).await,
        }
    }
}
