//! Threads that make many small files at once.
//!
//! What a small file costs is the file system's work, which it does for several threads at the same
//! time, be it in one directory: two make 20,000 files of 4 KB in little more than half of the time
//! that one takes.

use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use drover_nar::Executable;

use crate::folder::{Failure, Folder};
use crate::form::Style;
use crate::{FileName, FilesError};

/// Threads, if the machine has as many processors.
const MOST: usize = 4;

/// Files that are handed over at once.
const FILES: usize = 32;

/// Bytes of contents that are handed over at once, or a few more.
const BYTES: usize = 256 << 10;

/// Directories that the files handed over at once are in: each is open until they are made.
const FOLDERS: usize = 8;

/// Handovers that may wait.
const WAITING: usize = 4;

/// Threads that make files.
#[derive(Debug)]
pub(crate) struct Crew {
    gathering: Batch,
    /// Absent once nothing more will come.
    queue: Option<SyncSender<Batch>>,
    threads: Vec<JoinHandle<()>>,
    failure: Arc<Failure>,
}

/// Files that are made by one thread, one after the other.
#[derive(Debug, Default)]
struct Batch {
    files: Vec<SmallFile>,
    /// Their contents, one after the other.
    contents: Vec<u8>,
    folders: usize,
}

#[derive(Debug)]
struct SmallFile {
    folder: Arc<Folder>,
    name: FileName,
    executable: Executable,
    size: usize,
}

impl Crew {
    /// Starts as many threads as there are processors; none at all if there is just one.
    pub(crate) fn start(style: Style, failure: &Arc<Failure>) -> Option<Crew> {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        if processors < 2 {
            return None;
        }
        let (queue, batches) = sync_channel(WAITING);
        let batches = Arc::new(Mutex::new(batches));
        let start = || {
            let (batches, failure) = (batches.clone(), failure.clone());
            let name = "nar-files".to_owned();
            let work = move || work(&batches, style, &failure);
            // Those that can't be had are done without.
            std::thread::Builder::new().name(name).spawn(work).ok()
        };
        let threads: Vec<_> = (0..processors.min(MOST)).filter_map(|_| start()).collect();
        let (gathering, queue, failure) = (Batch::default(), Some(queue), failure.clone());
        (!threads.is_empty()).then_some(Crew { gathering, queue, threads, failure })
    }

    /// Takes more of the contents of the file that will be added next.
    pub(crate) fn contents(&mut self, chunk: &[u8]) {
        self.gathering.contents.extend_from_slice(chunk);
    }

    /// Takes a file whose contents, `size` bytes, are here.
    pub(crate) fn add(
        &mut self,
        folder: Arc<Folder>,
        name: FileName,
        executable: Executable,
        size: usize,
    ) {
        let batch = &mut self.gathering;
        let same = batch.files.last().is_some_and(|last| Arc::ptr_eq(&last.folder, &folder));
        batch.folders += usize::from(!same);
        batch.files.push(SmallFile { folder, name, executable, size });
        let full =
            FILES <= batch.files.len() || BYTES <= batch.contents.len() || FOLDERS <= batch.folders;
        if full {
            self.send();
        }
    }

    /// Hands over what there is, when there is room for it.
    fn send(&mut self) {
        let batch = std::mem::take(&mut self.gathering);
        if let Some(queue) = &self.queue
            && queue.send(batch).is_err()
        {
            // All threads are gone, by a panic that is passed on when they are waited for.
            self.failure.stop();
        }
    }

    /// Waits until all files are made.
    pub(crate) fn finish(mut self) {
        self.send();
        self.queue = None;
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

impl Drop for Crew {
    /// Waits until nothing more is made.
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        self.failure.stop();
        self.queue = None;
        for thread in self.threads.drain(..) {
            // How it went is of no interest any more.
            thread.join().ok();
        }
    }
}

fn work(batches: &Mutex<Receiver<Batch>>, style: Style, failure: &Failure) {
    loop {
        // One waits for the next batch, the others for that one to have it.
        let next = batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(batch) = next else { return };
        let mut contents = batch.contents.as_slice();
        for file in batch.files {
            let (own, rest) = contents.split_at_checked(file.size).unwrap_or_default();
            contents = rest;
            if failure.happened() {
                continue;
            }
            let SmallFile { folder, name, executable, .. } = &file;
            if let Err((action, errno)) =
                style.make_file(folder.dir(), name.as_c_str(), *executable, own)
            {
                let path = folder.path(Some(name.as_bytes()));
                failure.record(FilesError::make(action, path, errno));
            }
        }
    }
}
