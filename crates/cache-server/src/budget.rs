//! Memory for what is made ahead of its readers, of whom any number may be slow.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that are counted as one.
const UNIT: u64 = 1024;

/// Bytes that all of a kind may take together.
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    most: u32,
}

/// Some of them, until this is dropped.
pub(crate) struct Share(OwnedSemaphorePermit);

impl Budget {
    /// Returns a budget of so many bytes, rounded to kibibytes.
    pub(crate) fn new(bytes: u64) -> Budget {
        let most = units(bytes);
        Budget { free: Arc::new(Semaphore::new(most as usize)), most }
    }

    /// Waits for bytes; those who came before have theirs before. Whoever wants more than there are
    /// has all of them.
    pub(crate) async fn take(&self, bytes: u64) -> Option<Share> {
        let wanted = units(bytes).min(self.most);
        // it is never closed
        Arc::clone(&self.free).acquire_many_owned(wanted).await.ok().map(Share)
    }

    #[cfg(test)]
    pub(crate) fn left(&self) -> u64 {
        self.free.available_permits() as u64 * UNIT
    }
}

impl Share {
    /// Adds another share of the same budget.
    pub(crate) fn add(&mut self, other: Share) {
        self.0.merge(other.0);
    }

    /// Returns bytes that give their share back when nobody holds them any more.
    pub(crate) fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _share: self })
    }
}

struct Held {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_held_counts_until_it_is_gone() {
        let budget = Budget::new(4096);
        let mut first = budget.take(1000).await.unwrap();
        first.add(budget.take(1024).await.unwrap());
        assert_eq!(budget.left(), 2048);
        let bytes = first.hold(Bytes::from_static(b"abc"));
        let part = bytes.slice(1..);
        drop(bytes);
        assert!(budget.take(4096).now_or_never().is_none(), "somebody reads it");
        drop(part);
        assert!(budget.take(1 << 40).now_or_never().is_some(), "all there is");
    }
}
