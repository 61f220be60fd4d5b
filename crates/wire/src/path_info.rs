//! Path infos on the wire.
//!
//! Follows `Serialise<UnkeyedValidPathInfo>` in `src/libstore/worker-protocol.cc` of Nix.

use std::collections::BTreeSet;

use drover_core::{NarHash, NarSize, PathInfo, Signature, StoreDir, StorePath};

use crate::codec::{Decoder, Encoder};
use crate::error::DecodeError;

/// Appends an info without its path.
pub fn encode_path_info(out: &mut Encoder, store_dir: &StoreDir, info: &PathInfo) {
    encode_contents(out, store_dir, info);
    out.flag(info.ultimate);
    encode_signatures(out, &info.signatures);
    encode_content_address(out, info);
}

/// Appends deriver, NAR hash, references, registration time and NAR size.
pub(crate) fn encode_contents(out: &mut Encoder, store_dir: &StoreDir, info: &PathInfo) {
    out.optional_path(store_dir, info.deriver.as_ref());
    out.text(&info.nar_hash.base16());
    out.paths(store_dir, &info.references);
    out.number(info.registration_time);
    out.number(info.nar_size.0);
}

pub(crate) fn encode_signatures(out: &mut Encoder, signatures: &BTreeSet<Signature>) {
    out.list(signatures.iter(), |out, signature| out.text(&signature.to_string()));
}

pub(crate) fn encode_content_address(out: &mut Encoder, info: &PathInfo) {
    let address = info.content_address.as_ref().map(ToString::to_string);
    out.text(address.as_deref().unwrap_or_default());
}

/// Appends an info with its path, as it stands before each NAR of `AddMultipleToStore`.
pub fn encode_keyed_path_info(out: &mut Encoder, store_dir: &StoreDir, info: &PathInfo) {
    out.path(store_dir, &info.path);
    encode_path_info(out, store_dir, info);
}

/// Reads an info of `path`.
///
/// # Errors
///
/// A field that isn't what it should be. A signature that is none is passed over: it vouches for
/// nothing, and must not keep a good one beside it from being seen.
pub fn decode_path_info(
    from: &mut Decoder<'_>,
    store_dir: &StoreDir,
    path: StorePath,
) -> Result<PathInfo, DecodeError> {
    let mut info = decode_contents(from, store_dir, path)?;
    info.ultimate = from.flag()?;
    info.signatures = decode_signatures(from)?;
    decode_content_address(from, &mut info)?;
    Ok(info)
}

pub(crate) fn decode_contents(
    from: &mut Decoder<'_>,
    store_dir: &StoreDir,
    path: StorePath,
) -> Result<PathInfo, DecodeError> {
    let deriver = from.optional_path(store_dir)?;
    let nar_hash = from.text()?;
    let nar_hash =
        NarHash::parse(nar_hash).map_err(|_| DecodeError::text("sha256 NAR hash", nar_hash))?;
    Ok(PathInfo {
        path,
        deriver,
        nar_hash,
        references: from.paths_up_to("references of a path", MAX_REFERENCES, store_dir)?,
        registration_time: from.number()?,
        nar_size: NarSize(from.number()?),
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    })
}

/// References that a path may have. Those of a whole system are some ten thousand.
const MAX_REFERENCES: usize = 100_000;
/// Signatures that a path may have.
const MAX_SIGNATURES: usize = 1000;

pub(crate) fn decode_signatures(
    from: &mut Decoder<'_>,
) -> Result<BTreeSet<Signature>, DecodeError> {
    let signatures: Vec<Option<Signature>> =
        from.list_up_to("signatures of a path", MAX_SIGNATURES, |from| {
            Ok(from.text()?.parse().ok())
        })?;
    Ok(signatures.into_iter().flatten().collect())
}

pub(crate) fn decode_content_address(
    from: &mut Decoder<'_>,
    info: &mut PathInfo,
) -> Result<(), DecodeError> {
    let text = from.text()?;
    if !text.is_empty() {
        let address = text.parse().map_err(|_| DecodeError::text("content address", text))?;
        info.content_address = Some(address);
    }
    Ok(())
}

/// Reads an info with its path.
///
/// # Errors
///
/// As [`decode_path_info`].
pub fn decode_keyed_path_info(
    from: &mut Decoder<'_>,
    store_dir: &StoreDir,
) -> Result<PathInfo, DecodeError> {
    let path = from.path(store_dir)?;
    decode_path_info(from, store_dir, path)
}
