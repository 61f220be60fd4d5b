//! The blocking half of an import: unpacks and checks one path after another, commits in batches.

use std::collections::HashMap;

use drover_core::{PathInfo, StorePath};
use drover_derivation::Derivation;
use drover_store::WhenValid;
use drover_store_locks::TempDir;

use super::batch::{Ready, commit};
use super::check::{self, Checks};
use super::flow::Part;
use crate::error::LocalError;
use crate::opened::patience;
use crate::tree::{self, Unpack};
use crate::view::View;

/// Paths after which a batch is committed: each takes a descriptor for its lock, of which a process
/// may have no more than 1024; and a sync takes some milliseconds, whatever it syncs.
const BATCH_PATHS: usize = 256;

/// Bytes after which a batch is committed.
const BATCH_BYTES: u64 = 256 * 1024 * 1024;

/// Whether the stream is at its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Done,
}

impl Progress {
    pub(super) fn is_done(self) -> bool {
        self == Progress::Done
    }
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
    folder: Option<TempDir>,
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

    /// Takes the next part of the stream. After an error, what was whole before it is committed
    /// and the rest is gone.
    pub(super) fn take(&mut self, part: Part) -> Result<Progress, LocalError> {
        let taken = self.take_part(part);
        if taken.is_err() {
            self.give_up()?;
        }
        taken
    }

    fn take_part(&mut self, part: Part) -> Result<Progress, LocalError> {
        match part {
            Part::Path(info) => self.begin(info)?,
            Part::Bytes(bytes) => {
                if let Current::Unpacked { unpack, .. } = &mut self.current {
                    unpack.push(&bytes)?;
                }
            }
            Part::EndOfPath => self.end_path()?,
            Part::End => {
                self.commit()?;
                return Ok(Progress::Done);
            }
        }
        Ok(Progress::More)
    }

    /// Commits what is whole, and removes what isn't.
    pub(super) fn give_up(&mut self) -> Result<(), LocalError> {
        self.discard_current();
        self.commit()
    }

    fn begin(&mut self, info: Box<PathInfo>) -> Result<(), LocalError> {
        check::check_info(&self.view, &info, &self.checks)?;
        self.view.hold([&info.path])?;
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
                self.folder.insert(folder)
            }
        };
        let entry = self.entries.to_string();
        self.entries += 1;
        let unpack = Box::new(Unpack::begin(folder, &entry, info.nar_size)?);
        self.current = Current::Unpacked { info, unpack, entry };
        Ok(())
    }

    fn end_path(&mut self) -> Result<(), LocalError> {
        let Current::Unpacked { info, unpack, entry } =
            std::mem::replace(&mut self.current, Current::None)
        else {
            return Ok(());
        };
        let Some(folder) = &self.folder else { return Ok(()) };
        let checked = unpack.finish().and_then(|(hash, size)| {
            check::check_nar(&self.view, &info, hash, size)?;
            check::check_content_address(&self.view, &info, folder, &entry)?;
            if !info.path.is_derivation() {
                return Ok(None);
            }
            let text = tree::read_file(folder, &entry)?;
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
        let outputs = derivation.as_ref().map(check::known_outputs).unwrap_or_default();
        if let Some(derivation) = derivation {
            self.derivations.insert(info.path.clone(), derivation);
        }
        self.ready_bytes = self.ready_bytes.saturating_add(info.nar_size.0);
        self.ready.push(Ready { info: *info, outputs, entry });
        if BATCH_PATHS <= self.ready.len() || BATCH_BYTES <= self.ready_bytes {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), LocalError> {
        self.ready_bytes = 0;
        self.derivations.clear();
        let ready = std::mem::take(&mut self.ready);
        match &self.folder {
            Some(folder) if !ready.is_empty() => commit(&self.view, folder, ready, self.when_valid),
            _ => Ok(()),
        }
    }

    fn discard_current(&mut self) {
        if let Current::Unpacked { unpack, entry, .. } =
            std::mem::replace(&mut self.current, Current::None)
        {
            drop(unpack);
            if let Some(folder) = &self.folder {
                tree::remove(folder, &entry).ok();
            }
        }
    }
}

/// Where a client goes away, its last path is in pieces; and whoever stopped the import wants none
/// of those that are not committed.
impl Drop for Unpacking {
    fn drop(&mut self) {
        self.discard_current();
        if let Some(folder) = &self.folder {
            for ready in &self.ready {
                tree::remove(folder, &ready.entry).ok();
            }
        }
    }
}
