//! Paths on their way out, packed ahead by a few blocks on blocking threads.
//!
//! No thread waits for a reader that is slow: each piece of work packs some bytes and ends; the next
//! one runs while those are read.

use std::collections::VecDeque;

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{NarSize, PathInfo, StorePath};
use drover_nar::Blocks;
use drover_store::{PathStream, StoreError};
use drover_store_files::Packer;
use tokio::task::JoinHandle;

use crate::LocalStore;
use crate::error::LocalError;
use crate::tree::path_pack;
use crate::view::View;

/// Bytes that one piece of work packs.
const AHEAD: usize = 1024 * 1024;
/// The same where only one path is wanted: many may want one each, and take their time.
const AHEAD_OF_ONE: usize = 256 * 1024;

enum Item {
    Path(Box<PathInfo>),
    Bytes(Bytes),
    EndOfPath,
}

/// The blocking half: what is still to be packed.
struct Packing {
    view: View,
    left: VecDeque<PathInfo>,
    current: Option<(PathInfo, Box<Packer>, u64)>,
    /// Bytes that one piece of work packs.
    ahead: usize,
    memory: Blocks,
}

impl Packing {
    /// Packs the next bytes, a whole number of paths if they are small. Nothing at the end.
    fn work(&mut self) -> Result<Vec<Item>, LocalError> {
        let mut items = Vec::new();
        let mut packed = 0;
        while packed < self.ahead {
            let Some((info, pack, size)) = &mut self.current else {
                let Some(info) = self.left.pop_front() else { break };
                let pack = path_pack(&self.view, &info.path)?.with_memory(self.memory.clone());
                let pack = Box::new(pack);
                items.push(Item::Path(Box::new(info.clone())));
                self.current = Some((info, pack, 0));
                continue;
            };
            match pack.next_block()? {
                Some(block) => {
                    *size += block.len() as u64;
                    packed += block.len();
                    if info.nar_size.0 < *size {
                        return Err(self.view.changed(info, *size));
                    }
                    items.push(Item::Bytes(block));
                }
                None if *size != info.nar_size.0 => return Err(self.view.changed(info, *size)),
                None => {
                    items.push(Item::EndOfPath);
                    // A small path costs more than its bytes.
                    packed += 512;
                    self.current = None;
                }
            }
        }
        Ok(items)
    }
}

impl View {
    fn changed(&self, info: &PathInfo, size: u64) -> LocalError {
        let path = self.display(&info.path);
        LocalError::Modified { path, specified: info.nar_size, got: NarSize(size) }
    }
}

type Work = JoinHandle<(Packing, Result<Vec<Item>, LocalError>)>;

struct Export {
    store: String,
    count: usize,
    items: VecDeque<Item>,
    work: Option<Work>,
}

/// Streams valid paths.
///
/// What the caller believes of them must be what is registered; whether the files still have that
/// hash is for `verify` to say, their size is watched.
pub(crate) async fn export(
    store: &LocalStore,
    infos: Vec<PathInfo>,
) -> Result<Box<dyn PathStream>, StoreError> {
    let count = infos.len();
    let ahead = if count == 1 { AHEAD_OF_ONE } else { AHEAD };
    let name = store.layout().name.clone();
    let packing = store
        .blocking(move |view| {
            let paths: Vec<StorePath> = infos.iter().map(|info| info.path.clone()).collect();
            for (info, known) in infos.iter().zip(view.path_infos(&paths)?) {
                let path = view.display(&info.path);
                let known = known.ok_or(LocalError::NotValid { path: path.clone() })?;
                if known.nar_hash != info.nar_hash {
                    let (specified, got) = (info.nar_hash, known.nar_hash);
                    return Err(LocalError::Hash { path, specified, got });
                }
                if known.nar_size != info.nar_size {
                    let (specified, got) = (info.nar_size, known.nar_size);
                    return Err(LocalError::Size { path, specified, got });
                }
            }
            let (view, left, memory) = (view.clone(), infos.into(), Packer::memory());
            Ok(Packing { view, left, current: None, ahead, memory })
        })
        .await?;
    let work = (count > 0).then(|| start(packing));
    Ok(Box::new(Export { store: name, count, items: VecDeque::new(), work }))
}

fn start(mut packing: Packing) -> Work {
    tokio::task::spawn_blocking(move || {
        let items = packing.work();
        (packing, items)
    })
}

impl Export {
    /// Returns the next item without taking it.
    async fn peek(&mut self) -> Result<Option<&Item>, StoreError> {
        if self.items.is_empty()
            && let Some(work) = &mut self.work
        {
            let done = work.await;
            self.work = None;
            let fail = |error: LocalError| error.into_store_error(&self.store);
            let (packing, items) =
                done.map_err(|error| fail(LocalError::Thread(error.to_string())))?;
            self.items = items.map_err(fail)?.into();
            if !(packing.left.is_empty() && packing.current.is_none()) {
                self.work = Some(start(packing));
            }
        }
        Ok(self.items.front())
    }
}

#[async_trait]
impl PathStream for Export {
    fn count(&self) -> usize {
        self.count
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        // What is left of a path that wasn't read to its end.
        while let Some(item) = self.peek().await? {
            let is_path = matches!(item, Item::Path(_));
            let item = self.items.pop_front();
            if is_path {
                let Some(Item::Path(info)) = item else { break };
                return Ok(Some(*info));
            }
        }
        Ok(None)
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        match self.peek().await? {
            Some(Item::Bytes(bytes)) => {
                let bytes = bytes.clone();
                self.items.pop_front();
                Ok(Some(bytes))
            }
            Some(Item::EndOfPath) => {
                self.items.pop_front();
                Ok(None)
            }
            Some(Item::Path(_)) | None => Ok(None),
        }
    }
}
