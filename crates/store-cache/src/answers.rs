//! What a cache says of paths: narinfos, remembered for as long as the store is open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use drover_core::{NarInfo, StorePath};

/// Answers that are remembered at the most.
const MOST: usize = 200_000;

/// Narinfos that were read.
#[derive(Default)]
pub(crate) struct Answers(Mutex<HashMap<StorePath, Arc<NarInfo>>>);

impl Answers {
    pub(crate) fn get(&self, path: &StorePath) -> Option<Arc<NarInfo>> {
        self.lock().get(path).cloned()
    }

    pub(crate) fn put(&self, narinfo: Arc<NarInfo>) {
        let mut known = self.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(narinfo.info.path.clone(), narinfo);
    }

    pub(crate) fn forget(&self, path: &StorePath) {
        self.lock().remove(path);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<StorePath, Arc<NarInfo>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
