//! Logs of what other machines build, in the log folder of the local store, as stock Nix keeps them.
//!
//! Only where drover writes the store itself: a daemon of Nix takes no logs from its clients.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_core::StorePath;
use drover_store::{
    BuildLog, BuildRequest, Keeper as _, LogEvent, LogKeeper, OwnSetting, Pending, StoreError,
};
use drover_store_local::LocalStore;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::configuration::Configuration;

/// Bytes that are kept back before there is a file, and handed over at once from then on: most logs are
/// short, and need no thread while the build runs.
const PIECE: usize = 64 * 1024;

/// Pieces that may wait to be compressed. Then the connection waits.
const QUEUE: usize = 64;

/// Keeps logs in a store's log folder.
struct KeptLogs(Arc<LocalStore>);

/// Returns what keeps the logs of other machines' builds, unless they aren't to be kept.
pub(crate) fn log_keeper(
    configuration: &Configuration,
    store: Option<&Arc<LocalStore>>,
) -> Option<Arc<dyn LogKeeper>> {
    let store = store.filter(|_| configuration.settings.keep_build_log)?;
    Some(Arc::new(KeptLogs(Arc::clone(store))))
}

impl LogKeeper for KeptLogs {
    fn keep(
        &self,
        request: &BuildRequest,
        to: Arc<dyn BuildLog>,
    ) -> (Arc<dyn BuildLog>, Pending<()>) {
        let store = self.0.new_session();
        store.set_own(request.wishes.logs.map(OwnSetting::Logs).as_slice());
        let (derivation, runtime) = (request.derivation.clone(), Handle::current());
        let file = LogFile { store, derivation, runtime, pending: Vec::new(), writing: None };
        let log = Arc::new(KeptLog { to, file: Mutex::new(Some(file)) });
        let kept = Arc::clone(&log);
        let keeping = async move {
            let file = kept.file().take();
            match file {
                Some(file) => file.finish().await,
                None => Ok(()),
            }
        };
        (log, Box::pin(keeping))
    }
}

/// Passes on what a build says, and writes its lines down.
struct KeptLog {
    to: Arc<dyn BuildLog>,
    /// None when the build is over.
    file: Mutex<Option<LogFile>>,
}

impl KeptLog {
    fn file(&self) -> MutexGuard<'_, Option<LogFile>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BuildLog for KeptLog {
    fn event(&self, event: LogEvent) {
        if let LogEvent::Line(line) = &event
            && let Some(file) = self.file().as_mut()
        {
            file.take(line);
        }
        self.to.event(event);
    }
}

/// A log in the making.
struct LogFile {
    store: LocalStore,
    derivation: StorePath,
    runtime: Handle,
    pending: Vec<u8>,
    writing: Option<Writing>,
}

struct Writing {
    queue: SyncSender<Piece>,
    task: JoinHandle<Result<(), StoreError>>,
}

enum Piece {
    Bytes(Vec<u8>),
    /// The log is whole. Without this it isn't kept.
    End,
}

impl LogFile {
    fn take(&mut self, line: &str) {
        self.pending.extend_from_slice(line.as_bytes());
        self.pending.push(b'\n');
        if PIECE <= self.pending.len() {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let piece = Piece::Bytes(std::mem::take(&mut self.pending));
        let writing = self.writing.get_or_insert_with(|| {
            let (queue, pieces) = sync_channel(QUEUE);
            let (store, derivation) = (self.store.new_session(), self.derivation.clone());
            let runtime = self.runtime.clone();
            let write = move || write(&store, &derivation, &runtime, &pieces);
            Writing { queue, task: self.runtime.spawn_blocking(write) }
        });
        // where writing has failed, its end says so
        writing.queue.send(piece).ok();
    }

    /// Keeps the log.
    async fn finish(mut self) -> Result<(), StoreError> {
        if self.writing.is_none() {
            let mut writer = self.store.begin_build_log(&self.derivation).await?;
            writer.write(&self.pending)?;
            return writer.finish();
        }
        self.hand_over();
        let Some(Writing { queue, task }) = self.writing else { return Ok(()) };
        queue.send(Piece::End).ok();
        task.await.unwrap_or(Ok(()))
    }
}

fn write(
    store: &LocalStore,
    derivation: &StorePath,
    runtime: &Handle,
    pieces: &Receiver<Piece>,
) -> Result<(), StoreError> {
    let mut writer = runtime.block_on(store.begin_build_log(derivation))?;
    loop {
        match pieces.recv() {
            Ok(Piece::Bytes(bytes)) => writer.write(&bytes)?,
            Ok(Piece::End) => return writer.finish(),
            Err(_) => return Ok(()),
        }
    }
}
