//! The compressions of files in binary caches.
//!
//! Names and file endings follow `src/libutil/compression.cc` and `src/libstore/binary-cache-store.cc`
//! of Nix.

use std::fmt;
use std::str::FromStr;

/// How a file of a binary cache is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// XZ, which stock Nix writes by default.
    Xz,
    /// Zstandard.
    Zstd,
    /// Bzip2; what a narinfo means that names no compression.
    Bzip2,
    /// Gzip.
    Gzip,
    /// Brotli.
    Brotli,
}

/// A compression that isn't read or written here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "compression '{}' is not known here, only none, xz, zstd, bzip2, gzip and br", name.escape_default()
)]
pub struct CompressionError {
    /// The name as given, cut after 100 characters.
    pub name: String,
}

impl Compression {
    /// All of them.
    pub const ALL: [Compression; 6] = [
        Compression::None,
        Compression::Xz,
        Compression::Zstd,
        Compression::Bzip2,
        Compression::Gzip,
        Compression::Brotli,
    ];

    /// Returns the name as narinfos and store parameters have it.
    pub const fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
            Compression::Bzip2 => "bzip2",
            Compression::Gzip => "gzip",
            Compression::Brotli => "br",
        }
    }

    /// Returns what Nix writes behind `.nar`; nothing for gzip, too.
    pub const fn file_ending(self) -> &'static str {
        match self {
            Compression::None | Compression::Gzip => "",
            Compression::Xz => ".xz",
            Compression::Zstd => ".zst",
            Compression::Bzip2 => ".bz2",
            Compression::Brotli => ".br",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(name: &str) -> Result<Compression, CompressionError> {
        Compression::ALL
            .into_iter()
            .find(|compression| compression.name() == name)
            .ok_or_else(|| CompressionError { name: name.chars().take(100).collect() })
    }
}
