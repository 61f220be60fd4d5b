//! Roots and garbage on the wire.
//!
//! Follows the cases `FindRoots` and `CollectGarbage` of `performOp` in `src/libstore/daemon.cc` of
//! Nix.

use std::collections::BTreeSet;

use drover_core::{CollectAction, Liveness, StoreDir, StorePath};

use crate::codec::{Decoder, Encoder};
use crate::error::DecodeError;

/// A garbage collection that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GarbageRequest {
    /// What it is to do.
    pub action: CollectAction,
    /// The paths that are to be deleted.
    pub paths: BTreeSet<StorePath>,
    /// What is done with paths that are needed.
    pub liveness: Liveness,
    /// Bytes after which it ends; all ones for no end.
    pub max_freed: u64,
}

/// What a garbage collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GarbageResult {
    /// What was listed or deleted, as whole paths that needn't be store paths.
    pub paths: Vec<String>,
    /// Bytes freed.
    pub bytes_freed: u64,
}

impl GarbageRequest {
    pub(crate) fn encode(&self, out: &mut Encoder, store_dir: &StoreDir) {
        out.number(self.action as u64);
        out.paths(store_dir, &self.paths);
        out.flag(self.liveness == Liveness::Ignore);
        out.number(self.max_freed);
        for _obsolete in 0..3 {
            out.number(0);
        }
    }

    pub(crate) fn decode(
        from: &mut Decoder<'_>,
        store_dir: &StoreDir,
    ) -> Result<GarbageRequest, DecodeError> {
        let action = match from.number()? {
            0 => CollectAction::ListLive,
            1 => CollectAction::ListDead,
            2 => CollectAction::DeleteDead,
            3 => CollectAction::DeleteGiven,
            found => {
                return Err(DecodeError::Number { what: "garbage collection action", found });
            }
        };
        let paths = from.paths(store_dir)?;
        let ignore = from.flag()?;
        let liveness = if ignore { Liveness::Ignore } else { Liveness::Respect };
        let max_freed = from.number()?;
        for _obsolete in 0..3 {
            from.number()?;
        }
        Ok(GarbageRequest { action, paths, liveness, max_freed })
    }
}

impl GarbageResult {
    pub(crate) fn encode(&self, out: &mut Encoder) {
        out.list(self.paths.iter(), |out, path| out.text(path));
        out.number(self.bytes_freed);
        out.number(0); // obsolete: blocks freed
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Result<GarbageResult, DecodeError> {
        let paths = from.list(|from| from.text().map(str::to_owned))?;
        let bytes_freed = from.number()?;
        from.number()?;
        Ok(GarbageResult { paths, bytes_freed })
    }
}

/// Appends roots: what keeps a path, and the path.
pub(crate) fn encode_roots(
    out: &mut Encoder,
    store_dir: &StoreDir,
    roots: &BTreeSet<(String, StorePath)>,
) {
    out.list(roots.iter(), |out, (link, path)| {
        out.text(link);
        out.path(store_dir, path);
    });
}

pub(crate) fn decode_roots(
    from: &mut Decoder<'_>,
    store_dir: &StoreDir,
) -> Result<BTreeSet<(String, StorePath)>, DecodeError> {
    from.list(|from| Ok((from.text()?.to_owned(), from.path(store_dir)?)))
}
