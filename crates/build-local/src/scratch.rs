//! Where a build writes its outputs: at their own places, unless these aren't known or aren't free.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{Hash, HashAlgorithm, OutputName, StorePath};
use drover_derivation::output_path_name;
use drover_store::Store as _;

use crate::failure::{Trouble, failed};
use crate::job::{Job, Shelter, Subject};

impl Job<'_> {
    /// Returns where outputs are written unless one of them is valid already.
    pub(crate) fn usual_scratch(
        &self,
        subject: &Subject,
    ) -> Result<BTreeMap<OutputName, StorePath>, Trouble> {
        let outputs = subject.derivation.outputs.iter();
        let scratch = outputs.map(|(name, output)| {
            let path = match output.path() {
                Some(path) => path.clone(),
                None => self.placeholder_path(subject, name)?,
            };
            Ok((name.clone(), path))
        });
        scratch.collect()
    }

    /// Returns a path that no output has, but that follows from the derivation, as the same does in
    /// Nix: what a build writes where nobody can find it to rewrite it stays the same then.
    fn placeholder_path(
        &self,
        subject: &Subject,
        output: &OutputName,
    ) -> Result<StorePath, Trouble> {
        let name = output_path_name(&subject.derivation.name, output)?;
        let kind = format!("rewrite:{}:name:{output}", subject.path.base_name());
        Ok(self.store.store_dir().make_path(&kind, &zeros()?, &name))
    }

    /// A build that isn't shut in must not write where something valid is.
    pub(crate) async fn choose_scratch(&self, subject: &mut Subject) -> Result<(), Trouble> {
        if subject.shelter == Shelter::Namespaces {
            return Ok(());
        }
        let paths: BTreeSet<StorePath> = subject.scratch.values().cloned().collect();
        let valid = self.store.hold_valid(&paths, drover_store::Substitute::No).await?;
        let drv = subject.path.base_name().to_owned();
        for path in subject.scratch.values_mut().filter(|path| valid.contains(*path)) {
            let kind = format!("rewrite:{drv}:{}", path.base_name());
            *path = self.store.store_dir().make_path(&kind, &zeros()?, &path.store_name());
        }
        let paths: BTreeSet<StorePath> = subject.scratch.values().cloned().collect();
        self.store.hold_valid(&paths, drover_store::Substitute::No).await?;
        Ok(())
    }
}

fn zeros() -> Result<Hash, Trouble> {
    let hash = Hash::from_digest(HashAlgorithm::Sha256, &[0; 32]);
    hash.map_err(|error| failed(error.to_string()).into())
}
