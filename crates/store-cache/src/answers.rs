//! What a cache says of paths: narinfos, remembered for as long as the store is open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use drover_core::{NarInfo, StorePath};

/// Bytes of answers that are remembered at the most, about.
const MOST: usize = 128 * 1024 * 1024;

/// Bytes that an answer takes beside its lists, and those of an entry of one, about.
const ANSWER: usize = 512;
const ENTRY: usize = 128;

/// Narinfos that were read.
#[derive(Default)]
pub(crate) struct Answers(Mutex<Known>);

#[derive(Default)]
struct Known {
    narinfos: HashMap<StorePath, Arc<NarInfo>>,
    bytes: usize,
}

/// Returns how much an answer takes, about.
fn size(narinfo: &NarInfo) -> usize {
    let info = &narinfo.info;
    ANSWER + ENTRY * (info.references.len() + info.signatures.len())
}

impl Answers {
    pub(crate) fn get(&self, path: &StorePath) -> Option<Arc<NarInfo>> {
        self.lock().narinfos.get(path).cloned()
    }

    pub(crate) fn put(&self, narinfo: Arc<NarInfo>) {
        let mut known = self.lock();
        let size = size(&narinfo);
        if known.bytes + size > MOST {
            *known = Known::default();
        }
        known.bytes += size;
        let before = known.narinfos.insert(narinfo.info.path.clone(), narinfo);
        known.drop_size(before);
    }

    pub(crate) fn forget(&self, path: &StorePath) {
        let mut known = self.lock();
        let before = known.narinfos.remove(path);
        known.drop_size(before);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn drop_size(&mut self, gone: Option<Arc<NarInfo>>) {
        let gone = gone.map_or(0, |gone| size(&gone));
        self.bytes = self.bytes.saturating_sub(gone);
    }
}
