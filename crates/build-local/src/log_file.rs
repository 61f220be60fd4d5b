//! The log of a build on the disk, compressed away from where the build is heard.

use drover_core::StorePath;
use drover_store::StoreError;
use drover_store_local::{BuildLogWriter, LocalStore};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Bytes that are kept back before there is a file, and handed over at once from then on: most logs
/// are short, and need no thread while the build runs.
const PIECE: usize = 64 * 1024;

/// Pieces that may wait to be written. Then the build waits.
const QUEUE: usize = 64;

/// A log in the making.
pub(crate) struct LogFile {
    store: LocalStore,
    derivation: StorePath,
    pending: Vec<u8>,
    writing: Option<Writing>,
}

struct Writing {
    queue: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<Result<(), StoreError>>,
}

impl LogFile {
    pub(crate) fn new(store: LocalStore, derivation: StorePath) -> LogFile {
        LogFile { store, derivation, pending: Vec::new(), writing: None }
    }

    /// Takes the next bytes.
    pub(crate) async fn take(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.pending.extend_from_slice(bytes);
        match self.pending.len() < PIECE {
            true => Ok(()),
            false => self.hand_over().await,
        }
    }

    async fn hand_over(&mut self) -> Result<(), StoreError> {
        let piece = std::mem::take(&mut self.pending);
        let writing = match &self.writing {
            Some(writing) => writing,
            None => {
                let writer = self.store.begin_build_log(&self.derivation).await?;
                let (queue, pieces) = mpsc::channel(QUEUE);
                let task = tokio::task::spawn_blocking(move || write(writer, pieces));
                self.writing.insert(Writing { queue, task })
            }
        };
        // where writing has failed, its end says so
        writing.queue.send(piece).await.ok();
        Ok(())
    }

    /// Keeps the log.
    pub(crate) async fn finish(mut self) -> Result<(), StoreError> {
        if self.writing.is_none() {
            // most are short: another thread would be longer on its way to it than at it
            let mut writer = self.store.begin_build_log(&self.derivation).await?;
            writer.write(&self.pending)?;
            return writer.finish();
        }
        self.hand_over().await?;
        let Some(Writing { queue, task }) = self.writing else { return Ok(()) };
        drop(queue);
        task.await.unwrap_or(Ok(()))
    }
}

fn write(
    mut writer: BuildLogWriter,
    mut pieces: mpsc::Receiver<Vec<u8>>,
) -> Result<(), StoreError> {
    while let Some(piece) = pieces.blocking_recv() {
        writer.write(&piece)?;
    }
    writer.finish()
}
