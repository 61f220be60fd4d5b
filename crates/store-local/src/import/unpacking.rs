//! The blocking half of an import: unpacks and checks one path after another, and puts them together
//! in batches that are to be committed.

use std::collections::HashMap;
use std::sync::Arc;

use drover_core::{PathInfo, StorePath};
use drover_derivation::Derivation;
use drover_store::WhenValid;
use drover_store_locks::TempDir;

use super::batch::{Batch, Ready};
use super::check::{self, Checks};
use super::flow::{Parcel, Part};
use crate::error::LocalError;
use crate::failpoint::{Point, reach};
use crate::opened::patience;
use crate::tree::{self, Unpack};
use crate::view::View;

/// Paths after which a batch is committed: each takes a descriptor for its lock, of which a process
/// may have no more than 1024; and a sync takes some milliseconds, whatever it syncs.
const BATCH_PATHS: usize = 256;

/// Bytes after which a batch is committed.
const BATCH_BYTES: u64 = 256 * 1024 * 1024;

/// Why no more parts of the stream are taken for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// There are none.
    Starved,
    /// What is whole should be committed first.
    Full,
    /// This was the last one.
    Ended,
}

enum Current {
    /// Between two paths.
    None,
    /// A path that is valid already; its bytes are passed over.
    Skipped,
    /// A path that is being unpacked.
    Unpacked { info: Box<PathInfo>, unpack: Box<Unpack>, entry: String },
}

/// Paths on their way from a stream to the store.
pub(super) struct Unpacking {
    view: View,
    checks: Checks,
    when_valid: WhenValid,
    /// Where paths are unpacked, made for the first one.
    folder: Option<Arc<TempDir>>,
    entries: u64,
    current: Current,
    ready: Vec<Ready>,
    ready_bytes: u64,
    /// Derivations among those that are ready.
    derivations: HashMap<StorePath, Derivation>,
}

impl Unpacking {
    pub(super) fn new(
        view: View,
        checks: Checks,
        when_valid: WhenValid,
    ) -> Result<Unpacking, LocalError> {
        view.refuse_read_only("add paths")?;
        Ok(Unpacking {
            view,
            checks,
            when_valid,
            folder: None,
            entries: 0,
            current: Current::None,
            ready: Vec::new(),
            ready_bytes: 0,
            derivations: HashMap::new(),
        })
    }

    /// Takes parts of the stream. After an error, what was whole before it is to be committed, and
    /// the rest is gone.
    pub(super) fn take(
        &mut self,
        parts: &mut impl Iterator<Item = Parcel>,
    ) -> Result<Stop, LocalError> {
        let taken = self.take_parts(parts);
        if taken.is_err() {
            self.discard_current();
        }
        taken
    }

    /// The stream ended before it was whole; what was is to be committed all the same.
    pub(super) fn give_up(&mut self) -> Result<Stop, LocalError> {
        self.discard_current();
        Err(LocalError::Ended)
    }

    fn take_parts(&mut self, parts: &mut impl Iterator<Item = Parcel>) -> Result<Stop, LocalError> {
        for Parcel { part, .. } in parts {
            match part {
                Part::Path(info) => self.begin(info)?,
                Part::Bytes(bytes) => {
                    if let Current::Unpacked { info, unpack, .. } = &mut self.current {
                        let view = &self.view;
                        unpack
                            .push(&bytes)
                            .map_err(|error| super::room::told(view, &info.path, error))?;
                    }
                }
                Part::EndOfPath => {
                    self.end_path()?;
                    if BATCH_PATHS <= self.ready.len() || BATCH_BYTES <= self.ready_bytes {
                        return Ok(Stop::Full);
                    }
                }
                Part::End => return Ok(Stop::Ended),
            }
        }
        Ok(Stop::Starved)
    }

    /// Takes what is whole, to be committed.
    pub(super) fn batch(&mut self) -> Option<Batch> {
        self.ready_bytes = 0;
        self.derivations.clear();
        let ready = std::mem::take(&mut self.ready);
        let folder = self.folder.clone().filter(|_| !ready.is_empty())?;
        let (view, when_valid) = (self.view.clone(), self.when_valid);
        Some(Batch { view, folder, ready, when_valid })
    }

    fn begin(&mut self, info: Box<PathInfo>) -> Result<(), LocalError> {
        check::check_info(&self.view, &info, &self.checks)?;
        self.view.hold([&info.path])?;
        reach(Point::AfterRoot);
        let known = self.ready.iter().any(|ready| ready.info.path == info.path)
            || (self.when_valid == WhenValid::Keep && !self.view.valid([&info.path])?.is_empty());
        if known {
            self.current = Current::Skipped;
            return Ok(());
        }
        let folder = match &self.folder {
            Some(folder) => folder,
            None => {
                let wait = patience(self.view.options().lock_patience);
                let real_store = &self.view.opened.real_store;
                let folder = TempDir::new(real_store, &self.view.roots, wait)?;
                self.folder.insert(Arc::new(folder))
            }
        };
        let entry = self.entries.to_string();
        self.entries += 1;
        let unpack = Box::new(Unpack::begin(&**folder, &entry, info.nar_size)?);
        self.current = Current::Unpacked { info, unpack, entry };
        Ok(())
    }

    fn end_path(&mut self) -> Result<(), LocalError> {
        let Current::Unpacked { info, unpack, entry } =
            std::mem::replace(&mut self.current, Current::None)
        else {
            return Ok(());
        };
        let Some(folder) = self.folder.as_deref() else { return Ok(()) };
        let checked = unpack.finish().and_then(|(hash, size)| {
            reach(Point::AfterUnpack);
            check::check_nar(&self.view, &info, hash, size)?;
            check::check_content_address(&self.view, &info, folder, &entry)?;
            if !info.path.is_derivation() {
                return Ok(None);
            }
            let text = tree::read_file(folder, &entry, &self.view.display(&info.path))?;
            let derivation = self.view.parse_derivation(&info.path, &text)?;
            let pending = |path: &StorePath| self.derivations.get(path).cloned();
            check::check_derivation(&self.view, &info.path, &derivation, pending)?;
            Ok(Some(derivation))
        });
        let derivation = match checked {
            Ok(derivation) => derivation,
            Err(error) => {
                tree::remove(folder, &entry).ok();
                return Err(error);
            }
        };
        reach(Point::AfterCheck);
        let outputs = derivation.as_ref().map(check::known_outputs).unwrap_or_default();
        if let Some(derivation) = derivation {
            self.derivations.insert(info.path.clone(), derivation);
        }
        self.ready_bytes = self.ready_bytes.saturating_add(info.nar_size.0);
        self.ready.push(Ready { info: *info, outputs, entry });
        Ok(())
    }

    fn discard_current(&mut self) {
        if let Current::Unpacked { unpack, entry, .. } =
            std::mem::replace(&mut self.current, Current::None)
        {
            drop(unpack);
            if let Some(folder) = &self.folder {
                tree::remove(&**folder, &entry).ok();
            }
        }
    }
}

/// Where a client goes away, its last path is in pieces; and whoever stopped the import wants none
/// of those that are not committed.
impl Drop for Unpacking {
    fn drop(&mut self) {
        let Some(folder) = self.folder.take() else { return };
        let mut entries: Vec<String> = self.ready.drain(..).map(|ready| ready.entry).collect();
        let current = std::mem::replace(&mut self.current, Current::None);
        if let Current::Unpacked { entry, .. } = &current {
            entries.push(entry.clone());
        }
        if !entries.is_empty() {
            tree::abandon(folder, entries, current);
        }
    }
}
