//! Paths as `nix-store --export` writes them, whose NARs come before what is known of them.
//!
//! Follows `importPaths` in `src/libstore/export-import.cc` of Nix. Each NAR waits in a file without a
//! name until its info has come.

use std::io::SeekFrom;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use drover_core::{HashAlgorithm, Hasher, NarHash, NarSize, PathInfo, StoreDir};
use drover_nar::{Limits as NarLimits, Parser, Progress};
use drover_store::{PathStream, StoreError};
use drover_wire::{DecodeError, Decoder};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use crate::connection::Input;
use crate::error::DaemonError;

const EXPORT_MAGIC: u64 = 0x4558_494e;
const CHUNK: usize = 256 * 1024;

/// One path whose NAR waits in a file.
pub(crate) struct Spooled {
    info: Option<PathInfo>,
    nar: File,
}

/// Reads the next path; `None` at the end of the list.
pub(crate) async fn next_exported(
    input: &mut Input,
    store_dir: &StoreDir,
) -> Result<Option<Spooled>, DaemonError> {
    if input.message(|from| from.number_up_to("mark before a path", 1)).await? == 0 {
        return Ok(None);
    }
    let spooled = |source| DaemonError::Lost { doing: "writing a NAR to a temporary file", source };
    let mut nar = File::from_std(tempfile::tempfile().map_err(spooled)?);
    let mut parser = Parser::new(NarLimits::default());
    let mut hasher = Hasher::new(HashAlgorithm::Sha256);
    loop {
        let mut bytes = input.bytes(u64::MAX).await?;
        let progress = parser.feed(&bytes, &mut ())?;
        if let Progress::Done { consumed } = progress {
            input.put_back(&bytes.split_off(consumed));
        }
        hasher.update(&bytes);
        nar.write_all(&bytes).await.map_err(spooled)?;
        if progress != Progress::More {
            break;
        }
    }
    nar.flush().await.map_err(spooled)?;
    nar.seek(SeekFrom::Start(0)).await.map_err(spooled)?;
    let nar_hash = NarHash(hasher.finish().digest().try_into().unwrap_or_default());
    let nar_size = NarSize(parser.received());
    let info = input.message(|from| decode_info(from, store_dir, nar_hash, nar_size)).await?;
    Ok(Some(Spooled { info: Some(info), nar }))
}

fn decode_info(
    from: &mut Decoder<'_>,
    store_dir: &StoreDir,
    nar_hash: NarHash,
    nar_size: NarSize,
) -> Result<PathInfo, DecodeError> {
    match from.number()? {
        EXPORT_MAGIC => {}
        found => return Err(DecodeError::Number { what: "mark behind a NAR", found }),
    }
    let path = from.path(store_dir)?;
    let references = from.paths(store_dir)?;
    let deriver = from.optional_path(store_dir)?;
    if from.number()? == 1 {
        from.text()?; // a signature of old
    }
    Ok(PathInfo {
        path,
        deriver,
        nar_hash,
        nar_size,
        references,
        registration_time: 0,
        ultimate: false,
        signatures: std::collections::BTreeSet::new(),
        content_address: None,
    })
}

#[async_trait]
impl PathStream for Spooled {
    fn count(&self) -> usize {
        1
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        Ok(self.info.take())
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let mut bytes = BytesMut::with_capacity(CHUNK);
        let lost = |error: std::io::Error| StoreError::Lost {
            store: "temporary file".to_owned(),
            reason: error.to_string(),
        };
        let count = self.nar.read_buf(&mut bytes).await.map_err(lost)?;
        Ok((count > 0).then(|| bytes.freeze()))
    }
}
