//! The format of `nix-store --export`: paths with their NARs and references, one after another.
//!
//! ```text
//! export = (1 path)* 0
//! path   = NAR 0x4558494e PATH count REFERENCE* DERIVER 0
//! ```
//!
//! Numbers are 8 bytes, the lowest first; strings are their length, their bytes, and zeros up to a
//! multiple of 8. In the place of the last 0 old releases had 1 and a signature, which is read over.
//! Follows `exportPath` and `importPaths` (`src/libstore/export-import.cc`) of Nix.

use std::collections::BTreeSet;

use drover_core::{PathInfo, StoreDir, StorePath};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::error::CompatError;

/// What follows a NAR, so that a reader knows that it is one of these.
pub const EXPORT_MAGIC: u64 = 0x4558_494e;

/// Goes before each path.
pub const ONE_MORE: [u8; 8] = 1u64.to_le_bytes();

/// Goes behind the last.
pub const NO_MORE: [u8; 8] = 0u64.to_le_bytes();

/// Bytes that a path or a signature may have.
const MAX_STRING: u64 = 4096;

/// References that a path may have.
const MAX_REFERENCES: u64 = 1 << 20;

/// Returns what follows the NAR of a path.
pub fn trailer(store_dir: &StoreDir, info: &PathInfo) -> Vec<u8> {
    let mut bytes = EXPORT_MAGIC.to_le_bytes().to_vec();
    put_string(&mut bytes, &store_dir.display(&info.path));
    bytes.extend((info.references.len() as u64).to_le_bytes());
    for reference in &info.references {
        put_string(&mut bytes, &store_dir.display(reference));
    }
    let deriver = info.deriver.as_ref().map(|path| store_dir.display(path));
    put_string(&mut bytes, &deriver.unwrap_or_default());
    bytes.extend(0u64.to_le_bytes());
    bytes
}

fn put_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

/// What follows the NAR of a path, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The path.
    pub path: StorePath,
    /// What it refers to.
    pub references: BTreeSet<StorePath>,
    /// What it was built from.
    pub deriver: Option<StorePath>,
}

/// Reads whether there is one more path.
///
/// # Errors
///
/// Anything that isn't an export.
pub async fn read_more(input: &mut (impl AsyncRead + Unpin)) -> Result<bool, CompatError> {
    match read_number(input).await? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CompatError::failed(
            "input doesn't look like something created by 'nix-store --export'",
        )),
    }
}

/// Reads what follows the NAR of a path.
///
/// # Errors
///
/// Paths of another store, more than a million references, and an early end.
pub async fn read_trailer(
    input: &mut (impl AsyncRead + Unpin),
    store_dir: &StoreDir,
) -> Result<Trailer, CompatError> {
    if read_number(input).await? != EXPORT_MAGIC {
        return Err(CompatError::failed("Nix archive cannot be imported; wrong format"));
    }
    let path = store_dir.parse(&read_string(input).await?)?;
    let count = read_number(input).await?;
    if count > MAX_REFERENCES {
        let message = format!("an export with {count} references of one path is refused");
        return Err(CompatError::failed(message));
    }
    let mut references = BTreeSet::new();
    for _ in 0..count {
        references.insert(store_dir.parse(&read_string(input).await?)?);
    }
    let deriver = read_string(input).await?;
    let deriver = match deriver.as_str() {
        "" => None,
        deriver => Some(store_dir.parse(deriver)?),
    };
    if read_number(input).await? == 1 {
        read_string(input).await?;
    }
    Ok(Trailer { path, references, deriver })
}

async fn read_number(input: &mut (impl AsyncRead + Unpin)) -> Result<u64, CompatError> {
    input.read_u64_le().await.map_err(reading)
}

async fn read_string(input: &mut (impl AsyncRead + Unpin)) -> Result<String, CompatError> {
    let length = read_number(input).await?;
    if length > MAX_STRING {
        let message = format!("a string of {length} bytes in an export is refused");
        return Err(CompatError::failed(message));
    }
    let mut bytes = Vec::new();
    let padded = length.next_multiple_of(8);
    if input.take(padded).read_to_end(&mut bytes).await.map_err(reading)? as u64 != padded {
        return Err(CompatError::EndOfFile);
    }
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if bytes.get(length..).is_none_or(|padding| padding.iter().any(|byte| *byte != 0)) {
        return Err(CompatError::failed("a string in an export has padding that is not zero"));
    }
    bytes.truncate(length);
    String::from_utf8(bytes).map_err(|_| CompatError::failed("a path in an export is not UTF-8"))
}

/// Returns the error of reading standard input.
pub(crate) fn reading(source: std::io::Error) -> CompatError {
    match source.kind() {
        std::io::ErrorKind::UnexpectedEof => CompatError::EndOfFile,
        _ => CompatError::Stream { action: "reading from file", source },
    }
}

#[cfg(test)]
mod tests {
    use drover_core::{NarHash, NarSize};

    use super::*;

    fn path(name: &str) -> StorePath {
        StorePath::from_base_name(&format!("{}-{name}", "0".repeat(32))).unwrap()
    }

    fn info() -> PathInfo {
        PathInfo {
            path: path("a"),
            deriver: Some(path("a.drv")),
            nar_hash: NarHash([0; 32]),
            nar_size: NarSize(0),
            references: [path("a"), path("b")].into(),
            registration_time: 0,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: None,
        }
    }

    #[tokio::test]
    async fn trailers_round_trip() {
        let store_dir = StoreDir::default();
        let bytes = trailer(&store_dir, &info());
        let read = read_trailer(&mut bytes.as_slice(), &store_dir).await.unwrap();
        let expected = Trailer {
            path: path("a"),
            references: info().references,
            deriver: Some(path("a.drv")),
        };
        assert_eq!(read, expected);
    }

    #[tokio::test]
    async fn old_signatures_are_read_over() {
        let store_dir = StoreDir::default();
        let mut bytes = trailer(&store_dir, &info());
        bytes.truncate(bytes.len() - 8);
        bytes.extend(1u64.to_le_bytes());
        put_string(&mut bytes, "signature");
        let mut rest = bytes.as_slice();
        assert!(read_trailer(&mut rest, &store_dir).await.is_ok());
        assert!(rest.is_empty());
    }

    #[tokio::test]
    async fn broken_trailers_are_refused() {
        let store_dir = StoreDir::default();
        let whole = trailer(&store_dir, &info());
        for length in 0..whole.len() {
            let cut = &whole[..length];
            let said = read_trailer(&mut &*cut, &store_dir).await.unwrap_err().to_string();
            assert_eq!(said, "unexpected end-of-file", "{length}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x80;
            // whatever it says, it comes back, and takes no more than there is
            drop(read_trailer(&mut changed.as_slice(), &store_dir).await);
        }
        let mut other = whole.clone();
        other[0] = 0;
        let said = read_trailer(&mut other.as_slice(), &store_dir).await.unwrap_err().to_string();
        assert_eq!(said, "Nix archive cannot be imported; wrong format");
    }

    #[tokio::test]
    async fn what_is_no_export_is_named() {
        let said = read_more(&mut b"foobarfo".as_slice()).await.unwrap_err().to_string();
        assert_eq!(said, "input doesn't look like something created by 'nix-store --export'");
        assert!(read_more(&mut ONE_MORE.as_slice()).await.unwrap());
        assert!(!read_more(&mut NO_MORE.as_slice()).await.unwrap());
    }
}
