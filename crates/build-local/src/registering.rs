//! From a build's outputs to valid paths, or to what they were compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drover_core::{OutputName, StorePath};
use drover_store::{Keeper as _, Store as _, StoreError, Substitute, WhenValid};
use drover_store_local::{BuildLocks, Product, Workshop};

use crate::failure::Trouble;
use crate::job::{Job, Outputs, Purpose, Subject};

impl Job<'_> {
    /// Builds, and makes valid what was built.
    pub(crate) async fn build_and_register(
        &self,
        subject: &Subject,
        workshop: &Arc<Workshop>,
        locks: BuildLocks,
    ) -> Result<(Outputs, BuildLocks), Trouble> {
        let products = match self.build(subject, workshop, &locks, &[]).await {
            Ok(products) => products,
            Err(trouble) => {
                self.clear(subject, &locks).await?;
                return Err(trouble);
            }
        };
        let realisations = self.realisations(subject, &products)?;
        let when_valid = match self.purpose {
            Purpose::Repair => WhenValid::Replace,
            Purpose::Build | Purpose::Check => WhenValid::Keep,
        };
        let names: Vec<(OutputName, StorePath)> = products
            .iter()
            .map(|(name, product)| (name.clone(), product.info.path.clone()))
            .collect();
        let mut products: Vec<Product> =
            products.into_values().map(|product| self.signed(product)).collect();
        if self.purpose == Purpose::Repair {
            self.drop_undamaged(&mut products).await?;
        }
        let locked = tokio::select! {
            locked = self.store.lock_products(locks, products) => locked?,
            () = self.cancel.cancelled() => return Err(Trouble::Cancelled),
        };
        let registering = self.store.register_outputs(workshop, locked, realisations, when_valid);
        let locks = registering.await?;
        Ok((self.infos(names).await?, locks))
    }

    /// Makes outputs valid that have other hashes than their derivation says, each at the path that
    /// follows from the hash that it has; their derivation hasn't made them.
    ///
    /// The build has failed and still has the locks of other paths, so nobody is waited for: whoever has
    /// the lock of such a path makes it himself, and may be waiting for one of those.
    pub(crate) async fn keep_mismatched(
        &self,
        workshop: &Arc<Workshop>,
        products: BTreeMap<OutputName, Product>,
    ) {
        if self.purpose != Purpose::Build {
            return;
        }
        let keeping = async {
            let paths = products.values().map(|product| product.info.path.clone()).collect();
            let Some(locks) = self.store.lock_free_outputs(paths).await? else { return Ok(()) };
            let products = products.into_values().map(|product| self.signed(product)).collect();
            let locked = self.store.lock_products(locks, products).await?;
            let registering =
                self.store.register_outputs(workshop, locked, Vec::new(), WhenValid::Keep);
            registering.await.map(drop)
        };
        let kept: Result<(), StoreError> = keeping.await;
        if let Err(error) = kept {
            // that the hash is another one is what the user has to hear
            tracing::warn!(%error, "what has another hash is not kept");
        }
    }

    /// Forgets outputs that are valid and as they should be, which stay.
    async fn drop_undamaged(&self, products: &mut Vec<Product>) -> Result<(), Trouble> {
        let paths: BTreeSet<StorePath> =
            products.iter().map(|product| product.info.path.clone()).collect();
        let valid = self.store.hold_valid(&paths, Substitute::No).await?;
        let damaged = self.store.damaged(&valid).await?;
        products.retain(|Product { info, .. }| {
            !valid.contains(&info.path) || damaged.contains(&info.path)
        });
        Ok(())
    }

    /// Signs an output with all keys, as Nix signs what it has built itself.
    fn signed(&self, mut product: Product) -> Product {
        let keys = &self.settings.keys.0;
        if !keys.is_empty() {
            let fingerprint = product.info.fingerprint(self.store.store_dir());
            product.info.signatures = keys.iter().map(|key| key.sign(&fingerprint)).collect();
        }
        product
    }

    /// Builds once more, and leaves what is valid as it is. What was made is removed with the workshop,
    /// unless it differs and is to be looked at.
    pub(crate) async fn build_and_compare(
        &self,
        subject: &Subject,
        workshop: &Arc<Workshop>,
        locks: BuildLocks,
        valid: Outputs,
    ) -> Result<(Outputs, BuildLocks), Trouble> {
        let done = self.build(subject, workshop, &locks, &valid).await;
        self.clear(subject, &locks).await?;
        done.map(|_| (valid, locks))
    }
}
