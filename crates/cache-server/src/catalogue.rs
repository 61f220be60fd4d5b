//! Paths by their hash parts, as narinfos.
//!
//! What was found is kept for a second: a client asks for a path's narinfo and then for its NAR, many
//! clients ask for the same, and signing takes time. What was not found is asked for anew, as it may
//! have come meanwhile.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use drover_core::{
    Compression, Hash, HashAlgorithm, HashNotation, NarInfo, NarUrl, PathInfo, encode_base32,
};
use drover_store::{Keeper, StoreError};
use http::HeaderValue;
use tokio::time::Instant;

use crate::request::HashPart;
use crate::settings::{NarForm, Signers};

/// How long an answer is given again.
const FRESH: Duration = Duration::from_secs(1);
/// Bytes of narinfos that are kept, about.
const MOST: usize = 64 * 1024 * 1024;

/// A path that is there.
pub(crate) struct Entry {
    /// What is known of it, with all signatures.
    pub(crate) info: PathInfo,
    /// Its narinfo.
    pub(crate) text: Bytes,
    /// Names that text.
    pub(crate) etag: HeaderValue,
}

/// Paths by their hash parts.
pub(crate) struct Catalogue {
    store: Arc<dyn Keeper>,
    signers: Signers,
    form: NarForm,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    entries: HashMap<HashPart, (Instant, Arc<Entry>)>,
    bytes: usize,
}

impl Catalogue {
    pub(crate) fn new(store: Arc<dyn Keeper>, signers: Signers, form: NarForm) -> Catalogue {
        Catalogue { store, signers, form, known: Mutex::default() }
    }

    pub(crate) fn signers(&self) -> &Signers {
        &self.signers
    }

    /// Returns the path with this hash part, if it is valid.
    pub(crate) async fn find(
        &self,
        hash_part: &HashPart,
    ) -> Result<Option<Arc<Entry>>, StoreError> {
        let now = Instant::now();
        if let Some(entry) = self.known().fresh(hash_part, now) {
            return Ok(Some(entry));
        }
        let Some(path) = self.store.by_hash_part(hash_part.as_str()).await? else {
            return Ok(None);
        };
        let infos = self.store.path_infos(&[path]).await?;
        let Some(info) = infos.into_iter().next().flatten() else { return Ok(None) };
        let entry = Arc::new(self.describe(info));
        self.known().put(hash_part.clone(), now, Arc::clone(&entry));
        Ok(Some(entry))
    }

    /// Forgets what was found, as there is more to know now.
    pub(crate) fn forget(&self, hash_part: &HashPart) {
        self.known().remove(hash_part);
    }

    fn describe(&self, info: PathInfo) -> Entry {
        let store_dir = self.store.store_dir();
        let mut info = PathInfo { registration_time: 0, ultimate: false, ..info };
        self.signers.sign(&mut info, store_dir);
        let (hash_part, nar_hash) = (info.path.hash_part(), encode_base32(&info.nar_hash.0));
        let url = format!("nar/{hash_part}-{nar_hash}.nar{}", self.form.ending());
        let Ok(url) = NarUrl::parse(&url) else { unreachable!("digits make a good URL") };
        let (compression, file_hash, file_size) = match self.form {
            NarForm::Plain => {
                (Compression::None, Some(info.nar_hash.to_hash()), Some(info.nar_size.0))
            }
            NarForm::Zstd => (Compression::Zstd, None, None),
        };
        let narinfo = NarInfo { info, url, compression, file_hash, file_size, bad_signatures: 0 };
        let text = Bytes::from(narinfo.to_text(store_dir));
        let digest = Hash::of(HashAlgorithm::Sha256, &text).digits(HashNotation::Base32);
        let etag = format!("\"{digest}\"");
        let etag = HeaderValue::try_from(etag).unwrap_or_else(|_| HeaderValue::from_static("*"));
        Entry { info: narinfo.info, text, etag }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn fresh(&self, hash_part: &HashPart, now: Instant) -> Option<Arc<Entry>> {
        let (since, entry) = self.entries.get(hash_part)?;
        (now.duration_since(*since) < FRESH).then(|| Arc::clone(entry))
    }

    fn put(&mut self, hash_part: HashPart, now: Instant, entry: Arc<Entry>) {
        self.remove(&hash_part);
        if self.bytes > MOST {
            self.entries.retain(|_, (since, _)| now.duration_since(*since) < FRESH);
            self.bytes = self.entries.values().map(|(_, entry)| weight(entry)).sum();
            // all of them are fresh: whoever asks for that many has them looked up each time
            if self.bytes > MOST {
                self.entries.clear();
                self.bytes = 0;
            }
        }
        self.bytes += weight(&entry);
        self.entries.insert(hash_part, (now, entry));
    }

    fn remove(&mut self, hash_part: &HashPart) {
        if let Some((_, entry)) = self.entries.remove(hash_part) {
            self.bytes = self.bytes.saturating_sub(weight(&entry));
        }
    }
}

/// Bytes that an entry takes, about: its text, and the same in parts.
fn weight(entry: &Entry) -> usize {
    512 + 3 * entry.text.len()
}
