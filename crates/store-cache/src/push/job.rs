//! The blocking half of what goes into a cache: NARs become files there.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use drover_codec::{Encoder, WholeEncoder};
use drover_core::{
    Compression, Hash, HashAlgorithm, HashNotation, Hasher, NarInfo, NarUrl, PathInfo,
};
use drover_nar::{ListError, Lister};
use drover_store::{StoreError, Verified};
use tokio::sync::mpsc;

use crate::cache::Cache;
use crate::destination::{Destination, cannot_write};
use crate::settings::Listings;

/// Pieces of a NAR that are compressed and wait to be checked.
const PASSING: usize = 8;

/// What a job has written, and what kept it from going on.
pub(super) struct Written {
    pub(super) narinfos: Vec<NarInfo>,
    pub(super) failed: Option<StoreError>,
}

/// Where a job gets a NAR.
pub(super) enum Input {
    Whole(Vec<Bytes>),
    Pieces(mpsc::Receiver<Piece>),
}

/// A piece of a NAR, or its end.
pub(super) enum Piece {
    Bytes(Bytes),
    End,
}

/// Compresses NARs, one after another.
pub(super) struct Job {
    cache: Arc<Cache>,
    destination: Destination,
    encoder: WholeEncoder,
}

/// What is found out about a NAR while it passes.
struct Checks {
    verified: Verified,
    lister: Option<Lister>,
}

/// Returns where a NAR's file is, as Nix names it.
fn url(hash: &Hash, compression: Compression) -> String {
    format!("nar/{}.nar{}", hash.digits(HashNotation::Base32), compression.file_ending())
}

impl Job {
    pub(super) fn new(cache: Arc<Cache>, destination: Destination) -> Job {
        let parameters = &cache.parameters;
        let encoder = WholeEncoder::new(parameters.compression, parameters.level);
        Job { cache, destination, encoder }
    }

    pub(super) fn run(mut self, nars: Vec<(PathInfo, Input)>) -> Written {
        let mut written = Written { narinfos: Vec::with_capacity(nars.len()), failed: None };
        for (info, input) in nars {
            match self.write(&info, input) {
                Ok(narinfo) => written.narinfos.extend(narinfo),
                Err(error) => {
                    written.failed = Some(error);
                    break;
                }
            }
        }
        written
    }

    /// Writes one. Nothing where the cache has it.
    fn write(&mut self, info: &PathInfo, input: Input) -> Result<Option<NarInfo>, StoreError> {
        if self.destination.has(&self.cache, &info.path) {
            return Ok(None);
        }
        match input {
            Input::Whole(pieces) => self.write_whole(info, &pieces).map(Some),
            Input::Pieces(pieces) => self.write_pieces(info, pieces).map(Some),
        }
    }

    fn write_whole(&mut self, info: &PathInfo, pieces: &[Bytes]) -> Result<NarInfo, StoreError> {
        let compression = self.cache.parameters.compression;
        let mut checks = self.checks(info);
        pieces.iter().try_for_each(|piece| self.check(&mut checks, info, piece))?;
        self.end_checks(checks, info)?;
        let encoded = match pieces {
            [only] => self.encoder.encode(only),
            several => self.encoder.encode(&several.concat()),
        };
        let file = encoded.map_err(|error| cannot_write(&self.cache, &error))?;
        let hash = match compression {
            Compression::None => info.nar_hash.to_hash(),
            _ => Hash::of(HashAlgorithm::Sha256, &file),
        };
        let (url, size) = (url(&hash, compression), file.len() as u64);
        self.destination.put_small_nar(&self.cache, file, &url, compression)?;
        Ok(self.narinfo(info, &url, hash, size))
    }

    fn write_pieces(
        &self,
        info: &PathInfo,
        mut pieces: mpsc::Receiver<Piece>,
    ) -> Result<NarInfo, StoreError> {
        let parameters = &self.cache.parameters;
        let compression = parameters.compression;
        let refuse = |error: io::Error| cannot_write(&self.cache, &error);
        let file = self.destination.temporary().map_err(refuse)?;
        let hashed = Hashed {
            to: BufWriter::with_capacity(128 * 1024, file),
            hasher: (compression != Compression::None).then(|| Hasher::new(HashAlgorithm::Sha256)),
            size: 0,
        };
        let mut encoder =
            Encoder::new(hashed, compression, parameters.level, info.nar_size.0).map_err(refuse)?;
        // to check a NAR takes about as long as to compress it
        let checks = std::thread::scope(|scope| {
            let (sender, passing) = sync_channel::<Bytes>(PASSING);
            let checking = scope.spawn(move || {
                let mut checks = self.checks(info);
                passing.iter().try_for_each(|bytes| self.check(&mut checks, info, &bytes))?;
                Ok(checks)
            });
            while let Some(bytes) = self.next(&mut pieces, info)? {
                // what is wrong with it comes below
                if sender.send(bytes.clone()).is_err() {
                    break;
                }
                encoder.write(&bytes).map_err(refuse)?;
            }
            drop(sender);
            checking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        self.end_checks(checks, info)?;
        let Hashed { to, hasher, size } = encoder.finish().map_err(refuse)?;
        let file = to.into_inner().map_err(|error| refuse(error.into_error()))?;
        let hash = hasher.map_or_else(|| info.nar_hash.to_hash(), Hasher::finish);
        let url = url(&hash, compression);
        self.destination.put_nar(&self.cache, file, &url, compression)?;
        Ok(self.narinfo(info, &url, hash, size))
    }

    fn checks(&self, info: &PathInfo) -> Checks {
        let verified = Verified::new(self.cache.name.clone(), info.clone());
        let listed = self.cache.parameters.listings == Listings::Written;
        Checks { verified, lister: listed.then(Lister::new) }
    }

    fn check(&self, checks: &mut Checks, info: &PathInfo, bytes: &[u8]) -> Result<(), StoreError> {
        checks.verified.pass(bytes)?;
        match &mut checks.lister {
            Some(lister) => lister.feed(bytes).map_err(|error| self.unlisted(info, &error)),
            None => Ok(()),
        }
    }

    /// Ends them, and writes the listing.
    fn end_checks(&self, checks: Checks, info: &PathInfo) -> Result<(), StoreError> {
        checks.verified.finish()?;
        let Some(lister) = checks.lister else { return Ok(()) };
        let text = lister.finish().map_err(|error| self.unlisted(info, &error))?;
        let name = format!("{}.ls", info.path.hash_part());
        self.destination.put_listing(&self.cache, &name, text)
    }

    fn unlisted(&self, info: &PathInfo, error: &ListError) -> StoreError {
        let message = format!("cannot list '{}': {error}", info.path);
        StoreError::refused(&self.cache.name, message)
    }

    fn next(
        &self,
        pieces: &mut mpsc::Receiver<Piece>,
        info: &PathInfo,
    ) -> Result<Option<Bytes>, StoreError> {
        match pieces.blocking_recv() {
            Some(Piece::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Piece::End) => Ok(None),
            None => {
                let reason = format!("the transfer of '{}' ended", info.path);
                Err(StoreError::Lost { store: self.cache.name.clone(), reason })
            }
        }
    }

    fn narinfo(&self, info: &PathInfo, url: &str, file_hash: Hash, file_size: u64) -> NarInfo {
        let mut info = PathInfo { registration_time: 0, ultimate: false, ..info.clone() };
        let fingerprint = info.fingerprint(&self.cache.store_dir);
        for key in &self.cache.parameters.secret_keys {
            info.signatures.insert(key.sign(&fingerprint));
        }
        let Ok(url) = NarUrl::parse(url) else { unreachable!("digits make a good URL") };
        NarInfo {
            info,
            url,
            compression: self.cache.parameters.compression,
            file_hash: Some(file_hash),
            file_size: Some(file_size),
            bad_signatures: 0,
        }
    }
}

/// Hashes and counts what is written.
struct Hashed<W> {
    to: W,
    /// Nothing where the hash is known already.
    hasher: Option<Hasher>,
    size: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write_all(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.size = self.size.saturating_add(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
