//! Logs of what other machines build, in the log folder of the local store, as stock Nix keeps them.
//!
//! Only where drover writes the store itself: a daemon of Nix takes no logs from its clients.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drover_core::{StorePath, raw_bytes};
use drover_store::{
    BuildLog, BuildRequest, Keeper as _, LogEvent, LogKeeper, OwnSetting, Pending, StoreError,
};
use drover_store_local::LocalStore;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

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
        let kept = Kept(Arc::clone(&log));
        let keeping = async move {
            let file = kept.0.file().take();
            match file {
                Some(file) => file.finish().await,
                None => Ok(()),
            }
        };
        (log, Box::pin(keeping))
    }
}

/// Whoever may keep a log; when this is dropped it's over, whoever still tells of the build.
struct Kept(Arc<KeptLog>);

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.0.file().take());
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

    fn is_kept(&self) -> bool {
        true
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

/// A thread of its own, as it may take as long as the build: those that all else blocks on are few.
struct Writing {
    queue: SyncSender<Piece>,
    ended: oneshot::Receiver<Result<(), StoreError>>,
}

impl Writing {
    /// Hands something over. Where writing has failed, its end says so.
    fn take(&self, runtime: &Handle, piece: Piece) {
        let Err(TrySendError::Full(piece)) = self.queue.try_send(piece) else { return };
        let wait = || drop(self.queue.send(piece));
        match runtime.runtime_flavor() {
            // others go on meanwhile
            RuntimeFlavor::MultiThread => tokio::task::block_in_place(wait),
            _ => wait(),
        }
    }
}

enum Piece {
    Bytes(Vec<u8>),
    /// The log is whole. Without this it isn't kept.
    End,
}

impl LogFile {
    fn take(&mut self, line: &str) {
        self.pending.extend_from_slice(&raw_bytes(line));
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
            let (told, ended) = oneshot::channel();
            let write = move || drop(told.send(write(&store, &derivation, &runtime, &pieces)));
            // where there can be no thread, nobody tells how it ended
            drop(std::thread::Builder::new().name("log".to_owned()).spawn(write));
            Writing { queue, ended }
        });
        writing.take(&self.runtime, piece);
    }

    /// Keeps the log.
    async fn finish(mut self) -> Result<(), StoreError> {
        if self.writing.is_none() {
            let mut writer = self.store.begin_build_log(&self.derivation).await?;
            writer.write(&self.pending)?;
            return writer.finish();
        }
        self.hand_over();
        let Some(writing) = self.writing else { return Ok(()) };
        writing.take(&self.runtime, Piece::End);
        writing.ended.await.unwrap_or_else(|_| {
            let reason = "no thread could be started that writes it".to_owned();
            Err(StoreError::OwnLimit { store: "the local store".to_owned(), reason })
        })
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
