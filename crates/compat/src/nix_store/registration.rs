//! What is registered of paths, as text: `--dump-db`, `--load-db`, `--register-validity`.
//!
//! ```text
//! PATH
//! HASH      only where it is given: 64 hexadecimal digits
//! SIZE      only where the hash is
//! DERIVER   or an empty line
//! COUNT
//! REFERENCE as many
//! ```
//!
//! Follows `makeValidityRegistration` and `decodeValidPathInfo` (`src/libstore/store-api.cc`) and
//! `registerValidity` (`nix-store.cc`) of Nix.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use drover_core::{Hash, HashAlgorithm, NarHash, NarSize, PathInfo, StoreDir, StorePath};
use drover_store::Adoption;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use super::request::Registered;
use super::run::Session;
use crate::closure::path_infos;
use crate::error::CompatError;
use crate::export_format::reading;

/// Bytes that a line may have.
const MAX_LINE: u64 = 4096;

/// References that a path may have.
const MAX_REFERENCES: u64 = 1 << 20;

/// Paths that are looked up at once.
const BATCH: usize = 1000;

/// Prints what is registered of paths; of all that are valid where none are given.
pub(super) async fn dump(
    session: &mut Session<'_>,
    arguments: &[OsString],
) -> Result<(), CompatError> {
    let paths: Vec<StorePath> = match arguments {
        [] => session.store.all_valid().await?.into_iter().collect(),
        given => given.iter().map(|path| session.follow(path)).collect::<Result<_, _>>()?,
    };
    for paths in paths.chunks(BATCH) {
        for info in path_infos(&*session.store, paths).await? {
            let text = encode(session.store.store_dir(), &info);
            session.console.write(text.as_bytes()).await?;
        }
    }
    Ok(())
}

/// Registers what standard input says of paths whose files are there.
pub(super) async fn register(
    session: &mut Session<'_>,
    registered: Registered,
    adoption: Adoption,
) -> Result<(), CompatError> {
    let store_dir = session.store.store_dir().clone();
    let mut input = BufReader::new(session.host.stdin());
    let mut infos = BTreeMap::new();
    while let Some(info) = decode(&mut input, &store_dir, adoption).await? {
        infos.insert(info.path.clone(), info);
    }
    if registered == Registered::Keep {
        let paths: BTreeSet<StorePath> = infos.keys().cloned().collect();
        for path in session.store.hold_valid(&paths, drover_store::Substitute::No).await? {
            infos.remove(&path);
        }
    }
    let infos = infos.into_values().collect();
    Ok(session.store.register_validity(infos, adoption).await?)
}

fn encode(store_dir: &StoreDir, info: &PathInfo) -> String {
    let deriver = info.deriver.as_ref().map(|path| store_dir.display(path));
    let mut text = format!(
        "{}\n{}\n{}\n{}\n{}\n",
        store_dir.display(&info.path),
        info.nar_hash.base16(),
        info.nar_size.0,
        deriver.unwrap_or_default(),
        info.references.len()
    );
    for reference in &info.references {
        text.push_str(&store_dir.display(reference));
        text.push('\n');
    }
    text
}

/// Reads what is said of one path; none at the end of the input.
async fn decode(
    input: &mut (impl AsyncBufRead + Unpin),
    store_dir: &StoreDir,
    adoption: Adoption,
) -> Result<Option<PathInfo>, CompatError> {
    let Some(path) = line(input).await? else { return Ok(None) };
    let (nar_hash, nar_size) = match adoption {
        Adoption::Measured => (NarHash([0; 32]), NarSize(0)),
        Adoption::AsGiven | Adoption::Canonical => {
            let hash = Hash::parse(&needed(input).await?, Some(HashAlgorithm::Sha256))?;
            let hash = NarHash(hash.digest().try_into().unwrap_or_default());
            (hash, NarSize(number(input).await?))
        }
    };
    let deriver = match needed(input).await?.as_str() {
        "" => None,
        deriver => Some(store_dir.parse(deriver)?),
    };
    let count = number(input).await?;
    if count > MAX_REFERENCES {
        let message = format!("{count} references of one path are refused");
        return Err(CompatError::failed(message));
    }
    let mut references = BTreeSet::new();
    for _ in 0..count {
        references.insert(store_dir.parse(&needed(input).await?)?);
    }
    Ok(Some(PathInfo {
        path: store_dir.parse(&path)?,
        deriver,
        nar_hash,
        nar_size,
        references,
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    }))
}

async fn number(input: &mut (impl AsyncBufRead + Unpin)) -> Result<u64, CompatError> {
    let text = needed(input).await?;
    text.parse().map_err(|_| CompatError::failed("number expected"))
}

async fn needed(input: &mut (impl AsyncBufRead + Unpin)) -> Result<String, CompatError> {
    line(input).await?.ok_or_else(|| CompatError::failed("missing input"))
}

/// Returns the next line; what has no line feed at its end is none, as for Nix.
async fn line(input: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<String>, CompatError> {
    let mut bytes = Vec::new();
    input.take(MAX_LINE).read_until(b'\n', &mut bytes).await.map_err(reading)?;
    if bytes.pop() != Some(b'\n') {
        return match bytes.len() as u64 + 1 >= MAX_LINE {
            true => Err(CompatError::failed("a line of more than 4096 bytes is refused")),
            false => Ok(None),
        };
    }
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| CompatError::failed("a line on standard input is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const NAME: &str = "/nix/store/3880j94arxkya3irs3d8nr2x076sp1m8-a";

    async fn read(text: &str, adoption: Adoption) -> Result<Option<PathInfo>, String> {
        decode(&mut text.as_bytes(), &StoreDir::default(), adoption)
            .await
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn what_is_printed_is_read() {
        let hash = "00".repeat(32);
        let text = format!("{NAME}\n{hash}\n400\n{NAME}.drv\n1\n{NAME}\n");
        let info = read(&text, Adoption::AsGiven).await.unwrap().unwrap();
        assert_eq!(encode(&StoreDir::default(), &info), text);
        assert_eq!(read("", Adoption::AsGiven).await, Ok(None));
    }

    #[tokio::test]
    async fn without_hashes() {
        let info = read(&format!("{NAME}\n\n0\n"), Adoption::Measured).await.unwrap().unwrap();
        assert_eq!(info.deriver, None);
        assert!(info.references.is_empty());
    }

    #[rstest]
    #[case("PATH\n", "missing input")]
    #[case("PATH\n\nx\n", "number expected")]
    #[case("PATH\n\n-1\n", "number expected")]
    #[case("PATH\n\n2\nPATH\n", "missing input")]
    #[case("PATH\n\n1\nPATH", "missing input")]
    #[case("PATH\n\n99999999\n", "99999999 references of one path are refused")]
    #[tokio::test]
    async fn broken_input(#[case] text: &str, #[case] expected: &str) {
        let text = text.replace("PATH", NAME);
        assert_eq!(read(&text, Adoption::Measured).await.unwrap_err(), expected);
    }

    #[tokio::test]
    async fn endless_lines_end() {
        let said = read(&"x".repeat(10_000), Adoption::Measured).await.unwrap_err();
        assert_eq!(said, "a line of more than 4096 bytes is refused");
    }
}
