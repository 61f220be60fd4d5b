//! Sends NARs.

use std::sync::Arc;

use bytes::Bytes;
use drover_core::StorePath;
use drover_store::{Keeper, PathStream, StoreError};
use drover_wire::Response;

use crate::connection::Output;
use crate::error::DaemonError;
use crate::failure::Failure;
use crate::session::Session;

/// A NAR whose first bytes are at hand, so that it can still be refused in words.
pub(crate) struct NarOut {
    stream: Box<dyn PathStream>,
    first: Option<Bytes>,
    left: u64,
}

impl NarOut {
    /// Opens the NAR of a path that has to be valid.
    pub(crate) async fn open(keeper: &dyn Keeper, path: &StorePath) -> Result<NarOut, StoreError> {
        let infos = keeper.path_infos(std::slice::from_ref(path)).await?;
        let not_valid =
            || StoreError::NotValid { store: keeper.name().to_owned(), path: path.clone() };
        let info = infos.into_iter().next().flatten().ok_or_else(not_valid)?;
        let left = info.nar_size.0;
        let mut stream = keeper.export(vec![info]).await?;
        stream.next_path().await?.ok_or_else(not_valid)?;
        let first = stream.chunk().await?;
        Ok(NarOut { stream, first, left })
    }

    /// Sends all of it; reads the next piece while one is sent.
    ///
    /// # Errors
    ///
    /// A NAR that turns out broken, or the client. The client can't be told in words, so the
    /// connection has to end.
    pub(crate) async fn send(mut self, output: &mut Output) -> Result<(), DaemonError> {
        let mut next = self.first.take();
        while let Some(bytes) = next {
            self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| broken("long"))?;
            let (chunk, sent) = tokio::join!(self.stream.chunk(), output.send(bytes));
            sent?;
            next = chunk?;
        }
        if self.left > 0 {
            return Err(broken("short"));
        }
        Ok(())
    }
}

fn broken(how: &str) -> DaemonError {
    DaemonError::Failed { message: format!("a NAR of the store is too {how}") }
}

impl Session {
    /// `NarFromPath`: the answer is empty, and the bare NAR follows.
    pub(crate) async fn nar_from_path(&mut self, path: StorePath) -> Result<(), DaemonError> {
        let context = self.context().await?;
        let keeper = Arc::clone(&context.keeper);
        let opened = self.wires.run(self.shared.limits, NarOut::open(&*keeper, &path)).await?;
        match opened {
            Err(error) => {
                self.reply(Err(Failure::of(keeper.store_dir(), &error)));
                Ok(())
            }
            Ok(nar) => {
                self.reply(Ok(Response::Nothing));
                nar.send(&mut self.wires.output).await.map_err(|error| match error {
                    // words would be taken for contents
                    DaemonError::Store(_) | DaemonError::Failed { .. } => DaemonError::Lost {
                        doing: "sending a NAR",
                        source: std::io::Error::other(error.to_string()),
                    },
                    error => error,
                })
            }
        }
    }
}
