//! Values of the database's columns.

use std::collections::BTreeSet;

use drover_core::{NarHash, NarSize, PathInfo, Signature, StoreDir, StorePath};
use rusqlite::Row;

use crate::DbError;

/// A row's identity, `ValidPaths.id`.
pub(crate) type RowId = i64;

/// The columns that [`info_of`] reads, in its order.
pub(crate) const INFO_COLUMNS: &str =
    "id, path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca";

fn bad(path: &str, column: &'static str, value: &str) -> DbError {
    let value = value.chars().take(300).collect();
    DbError::BadRow { path: path.chars().take(300).collect(), column, value }
}

pub(crate) fn parse_path(store_dir: &StoreDir, text: &str) -> Result<StorePath, DbError> {
    store_dir.parse(text).map_err(|_| bad(text, "path", text))
}

/// Reads a row of `ValidPaths`. The outer error is SQLite's, the inner one that of the contents.
pub(crate) fn info_of(
    store_dir: &StoreDir,
    row: &Row<'_>,
) -> rusqlite::Result<Result<(RowId, PathInfo), DbError>> {
    let path: String = row.get(1)?;
    let hash: String = row.get(2)?;
    let time: i64 = row.get(3)?;
    let deriver: Option<String> = row.get(4)?;
    let size: Option<i64> = row.get(5)?;
    let ultimate: Option<i64> = row.get(6)?;
    let signatures: Option<String> = row.get(7)?;
    let address: Option<String> = row.get(8)?;
    let id = row.get(0)?;
    let parse = || {
        let deriver = deriver.as_deref().filter(|text| !text.is_empty());
        let deriver = deriver
            .map(|text| store_dir.parse(text).map_err(|_| bad(&path, "deriver", text)))
            .transpose()?;
        let size = size.unwrap_or(0);
        let nar_size = u64::try_from(size).map_err(|_| bad(&path, "narSize", &size.to_string()))?;
        let address = address.as_deref().filter(|text| !text.is_empty());
        let content_address =
            address.map(|text| text.parse().map_err(|_| bad(&path, "ca", text))).transpose()?;
        Ok(PathInfo {
            path: parse_path(store_dir, &path)?,
            deriver,
            nar_hash: NarHash::parse(&hash).map_err(|_| bad(&path, "hash", &hash))?,
            nar_size: NarSize(nar_size),
            references: BTreeSet::new(),
            registration_time: u64::try_from(time).unwrap_or(0),
            ultimate: ultimate == Some(1),
            signatures: parse_signatures(signatures.as_deref()),
            content_address,
        })
    };
    Ok(parse().map(|info| (id, info)))
}

/// Reads a list of signatures. One that is none vouches for nothing, and is passed over; it stays
/// in the database.
pub(crate) fn parse_signatures(text: Option<&str>) -> BTreeSet<Signature> {
    text.unwrap_or_default().split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect()
}

pub(crate) fn print_signatures(signatures: &BTreeSet<Signature>) -> Option<String> {
    let texts: Vec<String> = signatures.iter().map(ToString::to_string).collect();
    (!texts.is_empty()).then(|| texts.join(" "))
}

/// Returns a list with signatures added, what stands there left as it is.
pub(crate) fn merge_signatures(
    text: Option<&str>,
    signatures: &BTreeSet<Signature>,
) -> Option<String> {
    let mut words: Vec<String> =
        text.unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    for signature in signatures.iter().map(ToString::to_string) {
        if !words.contains(&signature) {
            words.push(signature);
        }
    }
    words.sort();
    (!words.is_empty()).then(|| words.join(" "))
}
