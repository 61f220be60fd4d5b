//! What two peers have agreed to speak: version, features, store directory; and how they agree.
//!
//! Follows `BasicClientConnection::handshake` and `postHandshake` in
//! `src/libstore/worker-protocol-connection.cc` of Nix.

use std::collections::BTreeSet;
use std::fmt;

use drover_core::{StoreDir, Trust};

use crate::codec::{Decoder, Encoder};
use crate::error::DecodeError;

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Versions with another major number can't speak with each other.
    pub major: u8,
    /// The smaller of both sides' numbers is spoken.
    pub minor: u8,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    fn wire(self) -> u64 {
        u64::from(self.major) << 8 | u64::from(self.minor)
    }

    /// Reads a version; it has no more than two bytes.
    pub(crate) fn read(from: &mut Decoder<'_>) -> Result<Version, DecodeError> {
        let number = from.number_up_to("protocol version", 0xffff)?;
        let [minor, major, ..] = number.to_le_bytes();
        Ok(Version { major, minor })
    }
}

/// The worker protocol's newest version spoken here.
pub const WORKER_LATEST: Version = Version { major: 1, minor: 38 };
/// The worker protocol's oldest version spoken here, that of Nix 2.3.
pub const WORKER_OLDEST: Version = Version { major: 1, minor: 21 };
/// The feature by which realisations travel as paths and not as JSON.
pub const FEATURE_REALISATION_WITH_PATH: &str = "realisation-with-path-not-hash";
/// The feature by which a drover packs what it says to another one, once the client asks for it
/// ([`Request::Pack`](crate::Request::Pack)).
pub const FEATURE_PACKED: &str = "drover-packed";

const WORKER_MAGIC_CLIENT: u64 = 0x6e69_7863;
const WORKER_MAGIC_SERVER: u64 = 0x6478_696f;

/// What two peers have agreed to speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The directory that store paths are in, on both sides.
    pub store_dir: StoreDir,
    /// The version.
    pub version: Version,
    /// The features that both have.
    pub features: BTreeSet<String>,
}

impl Dialect {
    /// Whether the version is 1.`minor` or newer.
    pub fn since(&self, minor: u8) -> bool {
        self.version.minor >= minor
    }

    /// Whether realisations travel as paths.
    pub fn realisations_with_path(&self) -> bool {
        self.features.contains(FEATURE_REALISATION_WITH_PATH)
    }

    /// Whether what is said can be packed.
    pub fn can_be_packed(&self) -> bool {
        self.features.contains(FEATURE_PACKED)
    }
}

/// What a server tells of itself at the end of the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// The server's Nix version; 1.33 and newer.
    pub nix_version: Option<String>,
    /// Whether it trusts us; 1.35 and newer.
    pub trust: Trust,
}

/// Returns what a client of the worker protocol sends first: magic and version.
pub fn client_hello(version: Version) -> Vec<u8> {
    let mut out = Encoder::new();
    out.number(WORKER_MAGIC_CLIENT);
    out.number(version.wire());
    out.into_bytes()
}

/// Returns the first half of a client's first words, for one who waits for the server's version
/// before it tells its own.
pub fn client_magic() -> Vec<u8> {
    let mut out = Encoder::new();
    out.number(WORKER_MAGIC_CLIENT);
    out.into_bytes()
}

/// Returns the second half of a client's first words.
pub fn client_version(version: Version) -> Vec<u8> {
    let mut out = Encoder::new();
    out.number(version.wire());
    out.into_bytes()
}

/// Reads a server's magic and version, and returns the version that both speak.
///
/// # Errors
///
/// Another magic, or a version that isn't spoken here.
pub fn read_server_hello(from: &mut Decoder<'_>, ours: Version) -> Result<Version, DecodeError> {
    match from.number()? {
        WORKER_MAGIC_SERVER => {}
        found => return Err(DecodeError::Magic { found }),
    }
    agree("worker", Version::read(from)?, ours, WORKER_OLDEST)
}

/// Reads a client's magic.
///
/// # Errors
///
/// Another magic.
pub fn read_client_magic(from: &mut Decoder<'_>) -> Result<(), DecodeError> {
    match from.number()? {
        WORKER_MAGIC_CLIENT => Ok(()),
        found => Err(DecodeError::Magic { found }),
    }
}

/// Reads a client's version, and returns the one that both speak.
///
/// # Errors
///
/// A version that isn't spoken here.
pub fn read_client_version(from: &mut Decoder<'_>, ours: Version) -> Result<Version, DecodeError> {
    agree("worker", Version::read(from)?, ours, WORKER_OLDEST)
}

/// Returns what a server sends in answer to the client's magic: its own, and its version.
pub fn server_hello(version: Version) -> Vec<u8> {
    let mut out = Encoder::new();
    out.number(WORKER_MAGIC_SERVER);
    out.number(version.wire());
    out.into_bytes()
}

pub(crate) fn agree(
    protocol: &'static str,
    theirs: Version,
    ours: Version,
    oldest: Version,
) -> Result<Version, DecodeError> {
    if theirs.major != oldest.major || theirs < oldest {
        return Err(DecodeError::Version { protocol, found: theirs, needed: oldest });
    }
    Ok(theirs.min(ours))
}

/// Whether features are exchanged in this version: 1.38 and newer.
pub fn exchanges_features(version: Version) -> bool {
    version >= Version { major: 1, minor: 38 }
}

/// Appends a side's features, the client's first, then the server's.
pub fn write_features(out: &mut Encoder, features: &[&str]) {
    out.list(features.iter(), |out, feature| out.text(feature));
}

/// Reads the other side's features and returns those that both have.
///
/// # Errors
///
/// A list that is none.
pub fn read_features(
    from: &mut Decoder<'_>,
    ours: &[&str],
) -> Result<BTreeSet<String>, DecodeError> {
    let theirs: Vec<String> = from.list(|from| from.text().map(str::to_owned))?;
    Ok(theirs.into_iter().filter(|feature| ours.contains(&feature.as_str())).collect())
}

/// Appends what a client sends last: two obsolete settings, CPU affinity and reserved space.
pub fn write_client_end(out: &mut Encoder) {
    out.number(0);
    out.number(0);
}

/// Reads what a client sends last.
///
/// # Errors
///
/// Bytes that are missing.
pub fn read_client_end(from: &mut Decoder<'_>) -> Result<(), DecodeError> {
    if from.number()? != 0 {
        from.number()?;
    }
    from.number().map(drop)
}

/// Appends what a server tells of itself.
pub fn write_server_info(out: &mut Encoder, dialect: &Dialect, info: &ServerInfo) {
    if dialect.since(33) {
        out.text(info.nix_version.as_deref().unwrap_or_default());
    }
    if dialect.since(35) {
        out.number(match info.trust {
            Trust::Unknown => 0,
            Trust::Trusted => 1,
            Trust::NotTrusted => 2,
        });
    }
}

/// Reads what a server tells of itself.
///
/// # Errors
///
/// A trust that is none.
pub fn read_server_info(
    from: &mut Decoder<'_>,
    version: Version,
) -> Result<ServerInfo, DecodeError> {
    let since = |minor| version.minor >= minor;
    let nix_version = if since(33) { Some(from.text()?.to_owned()) } else { None };
    let trust = match if since(35) { from.number()? } else { 0 } {
        0 => Trust::Unknown,
        1 => Trust::Trusted,
        2 => Trust::NotTrusted,
        found => return Err(DecodeError::Number { what: "trust", found }),
    };
    Ok(ServerInfo { nix_version, trust })
}
