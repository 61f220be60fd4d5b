//! Small NARs, which are fetched in one piece: to hand one from a task to a thread and back takes longer
//! than to decompress it.

use bytes::Bytes;
use drover_codec::decode_whole;
use drover_core::{NarInfo, PathInfo};
use drover_store::StoreError;

use crate::cache::Cache;
use crate::error::TransferError;

/// Bytes of a NAR, and of its file, that are fetched in one piece.
const SMALL: u64 = 64 * 1024;

/// Fetches a NAR if it is small. Nothing where it isn't, or what came isn't one of the announced size;
/// then it's fetched as others are, which finds out what is wrong.
///
/// # Errors
///
/// What can't be had, however often it's tried.
pub(crate) async fn fetch_small(
    cache: &Cache,
    info: &PathInfo,
    narinfo: &NarInfo,
) -> Result<Option<Bytes>, StoreError> {
    let size = info.nar_size.0;
    let file_is_small = narinfo.file_size.is_none_or(|size| size <= SMALL);
    let Ok(most) = usize::try_from(size) else { return Ok(None) };
    if size > SMALL || !file_is_small {
        return Ok(None);
    }
    // as far as it can't be compressed
    let limit = narinfo.file_size.unwrap_or_else(|| size.saturating_add(size / 8 + 1024));
    let file = match cache.transport.read(narinfo.url.as_str(), limit).await {
        Ok(Some(file)) => file,
        Ok(None) | Err(TransferError::TooLarge { .. }) => return Ok(None),
        Err(error) => return Err(error.of_nar(&cache.name, &info.path)),
    };
    match decode_whole(&file, narinfo.compression, most) {
        Some(Ok(nar)) if nar.len() == most => Ok(Some(nar)),
        _ => Ok(None),
    }
}
