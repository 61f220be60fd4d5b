//! What outputs became whose paths don't follow from their derivations, as a cache tells it.

use std::io::Write as _;

use drover_core::{DrvOutput, Realisation, ToldRealisation};
use drover_store::StoreError;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::cache::Cache;
use crate::destination::{Destination, Writing, cannot_write, write_whole};
use crate::error::TransferError;
use crate::http_put::Upload;

/// The kind of file that it is.
const JSON: &str = "application/json";

impl Cache {
    /// Says what outputs became, in the order of the question. What the cache tells badly it doesn't
    /// know, with a warning. Nothing of that is kept: it may be told any moment, by whoever builds.
    pub(crate) async fn realised(
        &self,
        outputs: &[DrvOutput],
    ) -> Result<Vec<Option<ToldRealisation>>, StoreError> {
        self.info().await?;
        stream::iter(outputs.to_vec())
            .map(|output| self.realised_one(output))
            .buffered(self.settings.connections())
            .try_collect()
            .await
            .map_err(|error: TransferError| error.of(&self.name))
    }

    /// Writes what outputs became, signed by the cache's keys as narinfos are.
    pub(crate) async fn keep_realised(&self, realised: &[Realisation]) -> Result<(), StoreError> {
        for realisation in realised {
            let mut told = ToldRealisation::from(realisation.clone());
            let fingerprint = told.fingerprint();
            for key in &self.parameters.secret_keys {
                told.realisation.signatures.insert(key.sign(&fingerprint));
            }
            let name = ToldRealisation::file_name(&realisation.id);
            self.write_small(&name, told.to_file()).await?;
        }
        Ok(())
    }

    async fn write_small(&self, name: &str, text: String) -> Result<(), StoreError> {
        let refuse = |error: std::io::Error| cannot_write(self, &error);
        let fail = |error: TransferError| error.of(&self.name);
        match &self.writing {
            Writing::Files(Destination::Folder(folder)) => {
                fs_err::create_dir_all(folder.join("realisations")).map_err(refuse)?;
                write_whole(folder, name, text.as_bytes()).map_err(refuse)
            }
            Writing::Files(Destination::Server(server)) => {
                server.put(name, JSON, &Upload::text(text)).await.map_err(fail)
            }
            Writing::Bucket(bucket) => {
                let mut file = tempfile::NamedTempFile::new().map_err(refuse)?;
                file.write_all(text.as_bytes()).map_err(refuse)?;
                bucket.put(file.path(), name, JSON).await.map_err(fail)
            }
        }
    }

    async fn realised_one(
        &self,
        output: DrvOutput,
    ) -> Result<Option<ToldRealisation>, TransferError> {
        let Ok(_turn) = self.questions.acquire().await else { return Ok(None) };
        let name = ToldRealisation::file_name(&output);
        let text = match self.transport.read(&name, ToldRealisation::MAX_FILE).await {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            Err(
                error @ (TransferError::TooLarge { .. }
                | TransferError::Decode { .. }
                | TransferError::Read { .. }),
            ) => {
                tracing::warn!("{error}; the cache is taken not to know '{output}'");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        match ToldRealisation::parse_file(&text, &output) {
            Ok(told) => Ok(Some(told)),
            Err(rule) => {
                let url = self.transport.url(&name);
                tracing::warn!("{url}: {rule}; the cache is taken not to know '{output}'");
                Ok(None)
            }
        }
    }
}
