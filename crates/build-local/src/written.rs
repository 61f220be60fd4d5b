//! Derivations that are made of others, by putting the paths of outputs in the place of the derivations
//! that made them. They are in no store unless somebody writes them there, and who is told of one by its
//! path has to find it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{HashAlgorithm, IngestionMethod};
use drover_derivation::Derivation;
use drover_store::{
    ByteStream, Content, Keeper as _, Store as _, StoreError, Substitute, WhenValid,
};

use crate::failure::{Trouble, of_bug};
use crate::job::{Job, Subject};

impl Job<'_> {
    /// Has the store have the derivation that is built. One that is known by a path that isn't its own is
    /// let be: whoever asked for it brought it along.
    pub(crate) async fn write_derivation(&self, subject: &Subject) -> Result<(), Trouble> {
        let known = BTreeSet::from([subject.path.clone()]);
        if !self.store.hold_valid(&known, Substitute::No).await?.is_empty() {
            return Ok(());
        }
        let derivation = Derivation::from(subject.derivation.clone());
        let store_dir = self.store.store_dir();
        if derivation.derivation_path(store_dir)? != subject.path {
            return Ok(());
        }
        let content = Content {
            name: subject.path.store_name(),
            method: IngestionMethod::Text,
            algorithm: HashAlgorithm::Sha256,
            references: derivation.input_sources.clone(),
        };
        let text = Box::new(Text(Some(derivation.to_aterm(store_dir).into())));
        let store = Arc::clone(&self.store);
        // contents come and are written at once, which this queue's own thread can't do
        let adding = async move { store.add_content(content, text, WhenValid::Keep).await };
        let added = tokio::select! {
            added = self.tracker.spawn(adding) => added,
            // somebody else may hold its lock for as long as a build takes
            () = self.cancel.cancelled() => return Err(Trouble::Cancelled),
        };
        match added {
            Ok(added) => added.map(drop).map_err(Trouble::from),
            Err(error) => Err(of_bug(&subject.shown, &error).into()),
        }
    }
}

/// A text, in one piece.
struct Text(Option<Bytes>);

#[async_trait]
impl ByteStream for Text {
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.take())
    }
}
