//! What outputs became whose paths don't follow from their derivations, as a cache tells it.

use drover_core::{DrvOutput, ToldRealisation};
use drover_store::StoreError;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::cache::Cache;
use crate::error::TransferError;

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
