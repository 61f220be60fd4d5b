//! Adding contents under the path that follows from them.
//!
//! Follows `LocalStore::addToStoreFromDump` of Nix (`src/libstore/local-store.cc`).

use drover_core::{
    ContentAddress, Hash, Hasher, IngestionMethod, NarHash, NarSize, PathInfo, References,
    StorePath,
};
use drover_store::{ByteStream, Content, StoreError, WhenValid};
use drover_store_locks::TempDir;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::LocalStore;
use crate::error::LocalError;
use crate::import::{Batch, Ready, check_derivation, commit, known_outputs};
use crate::layout::Access;
use crate::opened::patience;
use crate::tree::{self, FileWriter, Unpack};
use crate::view::View;

/// Bytes of a stream that are handed over at once.
const PIECE: usize = 1024 * 1024;

/// What the contents are written with.
enum Writer {
    Flat(Box<FileWriter>),
    Nar(Box<Unpack>),
}

/// The blocking half.
struct Adding {
    view: View,
    folder: Arc<TempDir>,
    /// What the contents are called there, until they are handed over.
    entry: Option<String>,
    content: Content,
    writer: Option<Writer>,
    hasher: Hasher,
    when_valid: WhenValid,
}

/// The only thing in the folder.
const ENTRY: &str = "0";

/// Bytes that a NAR of unknown size may have: none that a disk could hold has more.
const ANY_SIZE: NarSize = NarSize(1 << 62);

pub(crate) async fn add(
    store: &LocalStore,
    content: Content,
    mut bytes: Box<dyn ByteStream>,
    when_valid: WhenValid,
) -> Result<PathInfo, StoreError> {
    if store.layout().access == Access::ReadOnly {
        return look_up(store, content, bytes).await;
    }
    let mut adding = store.job(move |view| Adding::new(view.clone(), content, when_valid)).await?;
    loop {
        let mut piece = Vec::new();
        let mut size = 0;
        while size < PIECE
            && let Some(chunk) = bytes.chunk().await?
        {
            size += chunk.len();
            piece.push(chunk);
        }
        if piece.is_empty() {
            break;
        }
        adding = store
            .job(move |_| match piece.iter().try_for_each(|chunk| adding.write(chunk)) {
                Ok(()) => Ok(adding),
                Err(error) => {
                    adding.clear();
                    Err(error)
                }
            })
            .await?;
    }
    match store.job(move |_| adding.finish()).await? {
        Finished::Known(info) => Ok(info),
        Finished::New(batch, path) => {
            commit(store, batch).await?;
            store.blocking(move |view| view.path_info(&path)).await
        }
    }
}

/// Finds contents that are valid already, in a store that is only read: then there is nothing to add.
async fn look_up(
    store: &LocalStore,
    content: Content,
    mut bytes: Box<dyn ByteStream>,
) -> Result<PathInfo, StoreError> {
    let refused = || LocalError::ReadOnly { what: "add contents" };
    let mut hasher = Hasher::new(content.algorithm);
    while let Some(chunk) = bytes.chunk().await? {
        hasher.update(&chunk);
    }
    store
        .blocking(move |view| {
            // the others are hashed otherwise than they come
            if content.method == IngestionMethod::Git {
                return Err(refused());
            }
            let path = path_of(view, &content, hasher.finish())?;
            view.hold([&path])?;
            view.path_infos(std::slice::from_ref(&path))?
                .into_iter()
                .flatten()
                .next()
                .ok_or_else(refused)
        })
        .await
}

/// Returns the path of contents with this hash.
fn path_of(view: &View, content: &Content, hash: Hash) -> Result<StorePath, LocalError> {
    let Content { name, method, references, .. } = content;
    let address = ContentAddress { method: *method, hash };
    let of = References { others: references.clone(), itself: false };
    Ok(view.layout().store_dir.content_addressed_path(&address, &of, name)?)
}

/// Contents that are whole.
enum Finished {
    /// They were valid already.
    Known(PathInfo),
    /// They are to be made valid.
    New(Batch, StorePath),
}

impl Adding {
    fn new(view: View, content: Content, when_valid: WhenValid) -> Result<Adding, LocalError> {
        let wait = patience(view.options().lock_patience);
        let folder = Arc::new(TempDir::new(&view.opened.real_store, &view.roots, wait)?);
        let writer = match content.method {
            IngestionMethod::Flat | IngestionMethod::Text => {
                Writer::Flat(Box::new(FileWriter::begin(&*folder, ENTRY)?))
            }
            IngestionMethod::Nar | IngestionMethod::Git => {
                Writer::Nar(Box::new(Unpack::begin(&*folder, ENTRY, ANY_SIZE)?))
            }
        };
        let hasher = Hasher::new(content.algorithm);
        let (entry, writer) = (Some(ENTRY.to_owned()), Some(writer));
        Ok(Adding { view, folder, entry, content, writer, hasher, when_valid })
    }

    fn write(&mut self, bytes: &bytes::Bytes) -> Result<(), LocalError> {
        self.hasher.update(bytes);
        match &mut self.writer {
            Some(Writer::Flat(file)) => file.push(bytes),
            Some(Writer::Nar(unpack)) => unpack.push(bytes),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<Finished, LocalError> {
        let finished = self.checked();
        if !matches!(finished, Ok(Finished::New(..))) {
            self.clear();
        }
        finished
    }

    fn checked(&mut self) -> Result<Finished, LocalError> {
        let (nar_hash, nar_size) = match self.writer.take() {
            Some(Writer::Nar(unpack)) => unpack.finish()?,
            Some(Writer::Flat(file)) => {
                file.finish()?;
                tree::nar_hash(&*self.folder, ENTRY)?
            }
            None => return Err(LocalError::Ended),
        };
        let hash = match self.content.method {
            IngestionMethod::Git => tree::git_hash(&*self.folder, ENTRY, self.content.algorithm)?,
            _ => self.hasher.clone().finish(),
        };
        let info = self.info(hash, nar_hash, nar_size)?;
        self.view.hold([&info.path])?;
        if self.when_valid == WhenValid::Keep
            && let Some(known) = self.known(&info)?
        {
            return Ok(Finished::Known(known));
        }
        let mut outputs = Default::default();
        if info.path.is_derivation() {
            let text = tree::read_file(&*self.folder, ENTRY, &self.view.display(&info.path))?;
            let derivation = self.view.parse_derivation(&info.path, &text)?;
            check_derivation(&self.view, &info.path, &derivation, |_| None)?;
            outputs = known_outputs(&derivation);
        }
        let path = info.path.clone();
        let entry = self.entry.take().unwrap_or_default();
        let ready = vec![Ready { info, outputs, entry }];
        let (view, folder) = (self.view.clone(), self.folder.clone());
        Ok(Finished::New(Batch { view, folder, ready, when_valid: self.when_valid }, path))
    }

    /// Removes what was unpacked.
    fn clear(&mut self) {
        self.writer = None;
        if let Some(entry) = self.entry.take() {
            tree::remove(&*self.folder, &entry).ok();
        }
    }

    fn known(&self, info: &PathInfo) -> Result<Option<PathInfo>, LocalError> {
        let known = self.view.path_infos(std::slice::from_ref(&info.path))?;
        Ok(known.into_iter().flatten().next())
    }

    fn info(
        &self,
        hash: Hash,
        nar_hash: NarHash,
        nar_size: NarSize,
    ) -> Result<PathInfo, LocalError> {
        let path = path_of(&self.view, &self.content, hash.clone())?;
        let Content { method, references, .. } = &self.content;
        let address = ContentAddress { method: *method, hash };
        Ok(PathInfo {
            path,
            deriver: None,
            nar_hash,
            nar_size,
            references: references.clone(),
            registration_time: 0,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: Some(address),
        })
    }
}

/// Whoever has gone away wants nothing to stay in the folder.
impl Drop for Adding {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            tree::abandon(self.folder.clone(), vec![entry], self.writer.take());
        }
    }
}
