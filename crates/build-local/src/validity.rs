//! What is valid already of what a build makes.

use std::collections::BTreeSet;

use drover_core::{DrvOutput, Hash, OutputName, StorePath};
use drover_derivation::{Derivation, DerivationKind, HashModuloCache};
use drover_store::{Keeper as _, Store as _, Substitute};

use crate::compare::nothing_to_compare;
use crate::failure::Trouble;
use crate::inputs;
use crate::job::{Job, Outputs, Subject};

impl Job<'_> {
    /// Returns the outputs if they are all there.
    pub(crate) async fn already_valid(
        &self,
        subject: &Subject,
    ) -> Result<Option<Outputs>, Trouble> {
        let valid = self.valid_outputs(subject).await?;
        Ok((valid.len() == subject.derivation.outputs.len()).then_some(valid))
    }

    /// Returns the outputs that are there, all that are wanted among them.
    pub(crate) async fn to_compare(&self, subject: &Subject) -> Result<Outputs, Trouble> {
        let valid = self.valid_outputs(subject).await?;
        let wanted = &self.request.outputs;
        let is_there = |name: &OutputName| valid.iter().any(|(valid, _)| valid == name);
        let is_wanted = |name: &&OutputName| wanted.is_empty() || wanted.contains(name.as_str());
        match subject.derivation.outputs.keys().filter(is_wanted).all(is_there) {
            true => Ok(valid),
            false => Err(nothing_to_compare(&subject.shown).into()),
        }
    }

    async fn valid_outputs(&self, subject: &Subject) -> Result<Outputs, Trouble> {
        let mut outputs = Vec::new();
        for (name, output) in &subject.derivation.outputs {
            let path = match (output.path(), subject.kind) {
                (Some(path), _) => Some(path.clone()),
                (None, DerivationKind::Impure) => None,
                (None, _) => {
                    let id = DrvOutput { hash: self.masked(subject)?, output: name.clone() };
                    self.store.realisation(&id).await?.map(|realisation| realisation.out_path)
                }
            };
            outputs.extend(path.map(|path| (name.clone(), path)));
        }
        let paths: BTreeSet<StorePath> = outputs.iter().map(|(_, path)| path.clone()).collect();
        let valid = self.store.hold_valid(&paths, Substitute::No).await?;
        outputs.retain(|(_, path)| valid.contains(path));
        self.infos(outputs).await
    }

    pub(crate) fn masked(&self, subject: &Subject) -> Result<Hash, Trouble> {
        let derivation = Derivation::from(subject.derivation.clone());
        let store_dir = self.store.store_dir();
        Ok(HashModuloCache::new().masked(store_dir, &derivation)?.to_hash())
    }

    pub(crate) async fn infos(
        &self,
        outputs: Vec<(OutputName, StorePath)>,
    ) -> Result<Outputs, Trouble> {
        let paths: BTreeSet<StorePath> = outputs.iter().map(|(_, path)| path.clone()).collect();
        let infos = inputs::infos(&self.store, &paths).await?;
        let find = |path: &StorePath| infos.iter().find(|info| info.path == *path).cloned();
        Ok(outputs.into_iter().filter_map(|(name, path)| Some((name, find(&path)?))).collect())
    }
}
