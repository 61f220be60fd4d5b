//! Adding contents under the path that follows from them.
//!
//! Follows `LocalStore::addToStoreFromDump` of Nix (`src/libstore/local-store.cc`).

use drover_core::{
    ContentAddress, Hash, Hasher, IngestionMethod, NarHash, NarSize, PathInfo, References,
};
use drover_store::{ByteStream, Content, StoreError, WhenValid};
use drover_store_locks::TempDir;
use std::collections::BTreeSet;

use crate::LocalStore;
use crate::error::LocalError;
use crate::import::{Ready, check_derivation, commit, known_outputs};
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
    folder: TempDir,
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
    if content.method == IngestionMethod::Git {
        let store = store.layout().name.clone();
        return Err(StoreError::Unsupported { store, what: "add contents by their git hash" });
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
            .job(move |_| {
                for chunk in piece {
                    adding.write(&chunk)?;
                }
                Ok(adding)
            })
            .await?;
    }
    store.job(move |_| adding.finish()).await
}

impl Adding {
    fn new(view: View, content: Content, when_valid: WhenValid) -> Result<Adding, LocalError> {
        view.refuse_read_only("add contents")?;
        let wait = patience(view.options().lock_patience);
        let folder = TempDir::new(&view.opened.real_store, &view.roots, wait)?;
        let writer = match content.method {
            IngestionMethod::Flat | IngestionMethod::Text => {
                Writer::Flat(Box::new(FileWriter::begin(&folder, ENTRY)?))
            }
            IngestionMethod::Nar | IngestionMethod::Git => {
                Writer::Nar(Box::new(Unpack::begin(&folder, ENTRY, ANY_SIZE)?))
            }
        };
        let hasher = Hasher::new(content.algorithm);
        Ok(Adding { view, folder, content, writer: Some(writer), hasher, when_valid })
    }

    fn write(&mut self, bytes: &bytes::Bytes) -> Result<(), LocalError> {
        self.hasher.update(bytes);
        match &mut self.writer {
            Some(Writer::Flat(file)) => file.push(bytes),
            Some(Writer::Nar(unpack)) => unpack.push(bytes),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<PathInfo, LocalError> {
        let (nar_hash, nar_size) = match self.writer.take() {
            Some(Writer::Nar(unpack)) => unpack.finish()?,
            Some(Writer::Flat(file)) => {
                file.finish()?;
                tree::nar_hash(&self.folder, ENTRY)?
            }
            None => return Err(LocalError::Ended),
        };
        let hash = self.hasher.clone().finish();
        let info = self.info(hash, nar_hash, nar_size)?;
        self.view.hold([&info.path])?;
        if self.when_valid == WhenValid::Keep
            && let Some(known) = self.known(&info)?
        {
            return Ok(known);
        }
        let mut outputs = Default::default();
        if info.path.is_derivation() {
            let text = tree::read_file(&self.folder, ENTRY)?;
            let derivation = self.view.parse_derivation(&info.path, &text)?;
            check_derivation(&self.view, &info.path, &derivation, |_| None)?;
            outputs = known_outputs(&derivation);
        }
        let ready = Ready { info: info.clone(), outputs, entry: ENTRY.to_owned() };
        commit(&self.view, &self.folder, vec![ready], self.when_valid)?;
        self.view.path_info(&info.path)
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
        let Content { name, method, references, .. } = &self.content;
        let address = ContentAddress { method: *method, hash };
        let of = References { others: references.clone(), itself: false };
        let path = self.view.layout().store_dir.content_addressed_path(&address, &of, name)?;
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

/// Whatever happened, nothing stays in the folder.
impl Drop for Adding {
    fn drop(&mut self) {
        self.writer = None;
        tree::remove(&self.folder, ENTRY).ok();
    }
}
