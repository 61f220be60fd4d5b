//! Paths that were read and hashed a while ago, and what their files looked like then.
//!
//! Hashing takes as much time as all else that serving a NAR takes. Whose files look as they did
//! before they were hashed needn't be hashed again: nobody has changed them. What a disk does by itself
//! is found out sooner or later, as nothing counts for longer than [`FOR`].

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use drover_core::{NarHash, PathInfo, StorePath};
use drover_store::TreeStamp;
use tokio::time::Instant;

/// How long it counts that a path was good.
const FOR: Duration = Duration::from_secs(600);
/// Bytes from which on a NAR takes longer to hash than its files to look at, where they are few.
const WORTH_IT: u64 = 256 * 1024;
/// Paths that are remembered.
const MOST: usize = 16 * 1024;
/// Files that were changed so few seconds ago may be changed again without a sign of it.
const SETTLED: i64 = 3;

/// Paths that were hashed.
#[derive(Default)]
pub(crate) struct Checked(Mutex<HashMap<StorePath, Good>>);

/// What was found to be good.
struct Good {
    hash: NarHash,
    stamp: TreeStamp,
    since: Instant,
}

impl Checked {
    /// Whether it is worth while to look at a path's files.
    pub(crate) fn is_worth_it(info: &PathInfo) -> bool {
        info.nar_size.0 >= WORTH_IT
    }

    /// Whether a path is good if its files look like this before and after they are read.
    pub(crate) fn vouches(&self, info: &PathInfo, stamp: TreeStamp) -> bool {
        self.lock().get(&info.path).is_some_and(|good| {
            good.hash == info.nar_hash && good.stamp == stamp && good.since.elapsed() < FOR
        })
    }

    /// Takes note that a path had the hash that it is to have, when it looked like this before it was
    /// read.
    pub(crate) fn note(&self, info: &PathInfo, stamp: TreeStamp) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now.saturating_sub(stamp.changed) < SETTLED {
            return;
        }
        let mut known = self.lock();
        if known.len() >= MOST {
            known.retain(|_, good| good.since.elapsed() < FOR);
            if known.len() >= MOST {
                known.clear();
            }
        }
        let good = Good { hash: info.nar_hash, stamp, since: Instant::now() };
        known.insert(info.path.clone(), good);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StorePath, Good>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use drover_core::NarSize;

    use super::*;

    fn info(hash: u8) -> PathInfo {
        let path = format!("{}-a", "0".repeat(32));
        PathInfo {
            path: StorePath::from_base_name(&path).unwrap(),
            deriver: None,
            nar_hash: NarHash([hash; 32]),
            nar_size: NarSize(WORTH_IT),
            references: BTreeSet::new(),
            registration_time: 0,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: None,
        }
    }

    fn stamp(digest: u8) -> TreeStamp {
        TreeStamp { digest: [digest; 32], changed: 1 }
    }

    #[tokio::test(start_paused = true)]
    async fn vouches_for_what_looks_the_same_and_not_for_ever() {
        let checked = Checked::default();
        assert!(!checked.vouches(&info(1), stamp(1)));
        checked.note(&info(1), stamp(1));
        assert!(checked.vouches(&info(1), stamp(1)));
        assert!(!checked.vouches(&info(1), stamp(2)), "other files");
        assert!(!checked.vouches(&info(2), stamp(1)), "another hash");
        tokio::time::advance(FOR).await;
        assert!(!checked.vouches(&info(1), stamp(1)), "long ago");
    }

    #[test]
    fn what_was_changed_a_moment_ago_is_not_known() {
        let checked = Checked::default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let stamp = TreeStamp { changed: now.as_secs().cast_signed(), ..stamp(1) };
        checked.note(&info(1), stamp);
        assert!(!checked.vouches(&info(1), stamp));
    }
}
