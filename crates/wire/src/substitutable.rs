//! What substituters know of paths, on the wire.
//!
//! Follows the cases `QuerySubstitutablePathInfo` and `QuerySubstitutablePathInfos` of `performOp` in
//! `src/libstore/daemon.cc` of Nix.

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{ContentAddress, StoreDir, StorePath};

use crate::codec::{Decoder, Encoder};
use crate::dialect::Dialect;
use crate::error::DecodeError;

/// Paths that are asked for, with their content addresses where the client knows them (1.22).
pub type SubstitutableQuery = BTreeMap<StorePath, Option<ContentAddress>>;

/// What a substituter knows of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubstitutableInfo {
    /// The derivation that made it.
    pub deriver: Option<StorePath>,
    /// The paths it refers to.
    pub references: BTreeSet<StorePath>,
    /// Bytes to download; 0 where unknown.
    pub download_size: u64,
    /// Bytes of its NAR; 0 where unknown.
    pub nar_size: u64,
}

impl SubstitutableInfo {
    pub(crate) fn encode(&self, out: &mut Encoder, store_dir: &StoreDir) {
        out.optional_path(store_dir, self.deriver.as_ref());
        out.paths(store_dir, &self.references);
        out.number(self.download_size);
        out.number(self.nar_size);
    }

    pub(crate) fn decode(
        from: &mut Decoder<'_>,
        store_dir: &StoreDir,
    ) -> Result<SubstitutableInfo, DecodeError> {
        Ok(SubstitutableInfo {
            deriver: from.optional_path(store_dir)?,
            references: from.paths(store_dir)?,
            download_size: from.number()?,
            nar_size: from.number()?,
        })
    }
}

pub(crate) fn encode_query(out: &mut Encoder, dialect: &Dialect, query: &SubstitutableQuery) {
    out.list(query.iter(), |out, (path, address)| {
        out.path(&dialect.store_dir, path);
        if dialect.since(22) {
            let address = address.as_ref().map(ToString::to_string);
            out.text(address.as_deref().unwrap_or_default());
        }
    });
}

pub(crate) fn decode_query(
    from: &mut Decoder<'_>,
    dialect: &Dialect,
) -> Result<SubstitutableQuery, DecodeError> {
    from.list(|from| {
        let path = from.path(&dialect.store_dir)?;
        let address = match if dialect.since(22) { from.text()? } else { "" } {
            "" => None,
            text => Some(text.parse().map_err(|_| DecodeError::text("content address", text))?),
        };
        Ok((path, address))
    })
}
