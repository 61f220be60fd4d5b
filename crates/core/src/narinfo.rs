//! The text in which binary caches tell of a path: `HASH.narinfo`.
//!
//! Fields and their order follow `src/libstore/nar-info.cc` of Nix. Reading is stricter than there:
//! no field may stand twice but `Sig`, no line may lack its `: `, and a `URL` must stay inside of the
//! cache. A signature that is none is set aside, so that it can't veto a good one beside it.

use std::collections::BTreeSet;

use crate::{
    Compression, CompressionError, ContentAddress, ContentAddressError, Hash, HashError,
    HashNotation, NarHash, NarSize, PathInfo, Signature, StoreDir, StorePath, StorePathError,
};

/// What a binary cache tells of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NarInfo {
    /// What any store knows of the path. Never `ultimate`, and without registration time.
    pub info: PathInfo,
    /// Where the file with the NAR is.
    pub url: NarUrl,
    /// How it is compressed.
    pub compression: Compression,
    /// The hash of that file, where it is told. No signature covers it.
    pub file_hash: Option<Hash>,
    /// The bytes of that file, where they are told; 0 tells nothing, as in Nix. No signature covers them.
    pub file_size: Option<u64>,
    /// `Sig` lines that are no signatures; they vouch for nothing.
    pub bad_signatures: usize,
}

/// Where the file with a NAR is: relative to the cache, and inside of it.
///
/// At most 2,048 printable ASCII characters; no scheme, host or leading slash, no `.` or `..` and
/// nothing that another program could take for them. There may be a query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NarUrl(String);

/// Why a text is not a narinfo.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NarInfoError {
    /// More bytes than are read.
    #[error("narinfo has {size} bytes, the most is {}", NarInfo::MAX_SIZE)]
    Size {
        /// Bytes of the text.
        size: usize,
    },
    /// A line that breaks a rule.
    #[error("narinfo line {line}: {rule}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// The rule.
        rule: NarInfoRule,
    },
    /// A field that must be there isn't.
    #[error("narinfo has no {field}")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// It tells of another path than the one asked for.
    #[error("narinfo is of '{found}', not of '{expected}'")]
    OtherPath {
        /// The path asked for.
        expected: StorePath,
        /// The path that it tells of.
        found: StorePath,
    },
}

/// The rule that a line of a narinfo breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NarInfoRule {
    /// Bytes that are not UTF-8.
    #[error("it must be UTF-8")]
    Utf8,
    /// The last line doesn't end.
    #[error("it must end with a newline")]
    NoNewline,
    /// A control character, such as a carriage return.
    #[error("it must not have control characters")]
    Control,
    /// No `: ` behind a name.
    #[error("it must be a name, a colon, a space and a value")]
    NoColon,
    /// A field that was there before.
    #[error("{field} must not stand twice")]
    Twice {
        /// The field.
        field: &'static str,
    },
    /// `StorePath`, or one of `References` or `Deriver`.
    #[error("{field}: {source}")]
    Path {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: StorePathError,
    },
    /// `URL`.
    #[error(
        "URL must be relative and stay in the cache, without '.', '..' and characters to escape"
    )]
    Url,
    /// `Compression`.
    #[error(transparent)]
    Compression(CompressionError),
    /// `NarHash` or `FileHash`.
    #[error("{field}: {source}")]
    Hash {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: HashError,
    },
    /// `NarHash` is not a SHA-256 with its name in front.
    #[error("NarHash must be sha256:DIGITS or sha256-DIGITS")]
    NotSha256,
    /// `NarSize` or `FileSize`.
    #[error("{field} must be a decimal number of bytes, {} at most", u64::MAX)]
    Size {
        /// The field.
        field: &'static str,
    },
    /// `NarSize`: no NAR is empty.
    #[error("{field} must not be 0")]
    NoSize {
        /// The field.
        field: &'static str,
    },
    /// `CA`.
    #[error("CA: {0}")]
    ContentAddress(ContentAddressError),
    /// More `Sig` than anybody needs.
    #[error("there must be {} Sig at most", NarInfo::MAX_SIGNATURES)]
    Signatures,
}

impl NarUrl {
    /// Returns the URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// [`NarInfoRule::Url`].
    pub fn parse(text: &str) -> Result<NarUrl, NarInfoRule> {
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"\\#\"<>^`{|}".contains(&byte);
        let path = text.split_once('?').map_or(text, |(path, _)| path);
        let escapes = path.to_ascii_lowercase();
        let escapes = ["%2e", "%2f", "%5c", "%00", "%25"].iter().any(|bad| escapes.contains(bad));
        let good = text.len() <= 2048
            && text.bytes().all(plain)
            && !path.contains(':')
            && !escapes
            && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if good { Ok(NarUrl(text.to_owned())) } else { Err(NarInfoRule::Url) }
    }
}

impl NarInfo {
    /// Bytes that a narinfo may have at the most: a path can have many thousands of references.
    pub const MAX_SIZE: usize = 2 * 1024 * 1024;
    /// Signatures that it may have at the most.
    pub const MAX_SIGNATURES: usize = 256;

    /// Reads a narinfo of a store in `store_dir`. Fields that are not known are passed over.
    ///
    /// # Errors
    ///
    /// The first rule that it breaks, with the line.
    pub fn parse(text: &[u8], store_dir: &StoreDir) -> Result<NarInfo, NarInfoError> {
        if text.len() > NarInfo::MAX_SIZE {
            return Err(NarInfoError::Size { size: text.len() });
        }
        let mut fields = Fields::default();
        let mut rest = text;
        let mut line = 0;
        while !rest.is_empty() {
            line += 1;
            let refuse = |rule| NarInfoError::Line { line, rule };
            let end = rest.iter().position(|byte| *byte == b'\n');
            let end = end.ok_or_else(|| refuse(NarInfoRule::NoNewline))?;
            let (this, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            rest = after.get(1..).unwrap_or_default();
            let this = std::str::from_utf8(this).map_err(|_| refuse(NarInfoRule::Utf8))?;
            fields.take(this, store_dir).map_err(refuse)?;
        }
        fields.finish()
    }

    /// Checks that it is the answer to a question for `path`.
    ///
    /// # Errors
    ///
    /// [`NarInfoError::OtherPath`], also where only the name differs.
    pub fn answers(&self, path: &StorePath) -> Result<(), NarInfoError> {
        if self.info.path == *path {
            return Ok(());
        }
        Err(NarInfoError::OtherPath { expected: path.clone(), found: self.info.path.clone() })
    }

    /// Returns the text, byte for byte as Nix writes it.
    pub fn to_text(&self, store_dir: &StoreDir) -> String {
        let mut text = String::with_capacity(1024);
        let mut put = |name: &str, value: &str| {
            for part in [name, ": ", value, "\n"] {
                text.push_str(part);
            }
        };
        let info = &self.info;
        put("StorePath", &store_dir.display(&info.path));
        put("URL", self.url.as_str());
        put("Compression", self.compression.name());
        if let Some(hash) = &self.file_hash {
            put("FileHash", &hash.display(HashNotation::Base32));
        }
        if let Some(size) = self.file_size {
            put("FileSize", &size.to_string());
        }
        put("NarHash", &info.nar_hash.to_string());
        put("NarSize", &info.nar_size.0.to_string());
        let references: Vec<&str> = info.references.iter().map(StorePath::base_name).collect();
        put("References", &references.join(" "));
        if let Some(deriver) = &info.deriver {
            put("Deriver", deriver.base_name());
        }
        for signature in &info.signatures {
            put("Sig", &signature.to_string());
        }
        if let Some(address) = &info.content_address {
            put("CA", &address.to_string());
        }
        text
    }
}

/// The fields read so far.
#[derive(Default)]
struct Fields {
    path: Option<StorePath>,
    url: Option<NarUrl>,
    compression: Option<Compression>,
    file_hash: Option<Hash>,
    file_size: Option<u64>,
    nar_hash: Option<NarHash>,
    nar_size: Option<u64>,
    references: Option<BTreeSet<StorePath>>,
    deriver: Option<Option<StorePath>>,
    signatures: BTreeSet<Signature>,
    bad_signatures: usize,
    content_address: Option<ContentAddress>,
}

impl Fields {
    fn take(&mut self, line: &str, store_dir: &StoreDir) -> Result<(), NarInfoRule> {
        if line.chars().any(char::is_control) {
            return Err(NarInfoRule::Control);
        }
        let (name, value) = line.split_once(": ").ok_or(NarInfoRule::NoColon)?;
        if name.is_empty() || name.contains([':', ' ']) {
            return Err(NarInfoRule::NoColon);
        }
        match name {
            "StorePath" => {
                let path = store_dir.parse(value);
                let path = path.map_err(|source| bad_path("StorePath", source))?;
                put(&mut self.path, "StorePath", path)
            }
            "URL" => put(&mut self.url, "URL", NarUrl::parse(value)?),
            "Compression" => {
                let compression = value.parse().map_err(NarInfoRule::Compression)?;
                put(&mut self.compression, "Compression", compression)
            }
            "FileHash" => {
                let hash: Result<Hash, _> = value.parse();
                let hash =
                    hash.map_err(|source| NarInfoRule::Hash { field: "FileHash", source })?;
                put(&mut self.file_hash, "FileHash", hash)
            }
            "FileSize" => put(&mut self.file_size, "FileSize", size("FileSize", value)?),
            "NarHash" => put(&mut self.nar_hash, "NarHash", nar_hash(value)?),
            "NarSize" => put(&mut self.nar_size, "NarSize", nar_size(value)?),
            "References" => put(&mut self.references, "References", references(value)?),
            "Deriver" => put(&mut self.deriver, "Deriver", deriver(value)?),
            "Sig" => self.sign(value),
            "CA" => {
                let address = value.parse().map_err(NarInfoRule::ContentAddress)?;
                put(&mut self.content_address, "CA", address)
            }
            _ => Ok(()),
        }
    }

    fn sign(&mut self, value: &str) -> Result<(), NarInfoRule> {
        if self.signatures.len() + self.bad_signatures >= NarInfo::MAX_SIGNATURES {
            return Err(NarInfoRule::Signatures);
        }
        match value.parse() {
            Ok(signature) => drop(self.signatures.insert(signature)),
            Err(_) => self.bad_signatures += 1,
        }
        Ok(())
    }

    fn finish(self) -> Result<NarInfo, NarInfoError> {
        fn need<T>(field: &'static str, value: Option<T>) -> Result<T, NarInfoError> {
            value.ok_or(NarInfoError::Missing { field })
        }
        Ok(NarInfo {
            info: PathInfo {
                path: need("StorePath", self.path)?,
                deriver: self.deriver.flatten(),
                nar_hash: need("NarHash", self.nar_hash)?,
                nar_size: NarSize(need("NarSize", self.nar_size)?),
                references: self.references.unwrap_or_default(),
                registration_time: 0,
                ultimate: false,
                signatures: self.signatures,
                content_address: self.content_address,
            },
            url: need("URL", self.url)?,
            compression: self.compression.unwrap_or(Compression::Bzip2),
            file_hash: self.file_hash,
            file_size: self.file_size.filter(|size| *size != 0),
            bad_signatures: self.bad_signatures,
        })
    }
}

fn put<T>(slot: &mut Option<T>, field: &'static str, value: T) -> Result<(), NarInfoRule> {
    if slot.replace(value).is_some() { Err(NarInfoRule::Twice { field }) } else { Ok(()) }
}

fn bad_path(field: &'static str, source: StorePathError) -> NarInfoRule {
    NarInfoRule::Path { field, source }
}

fn size(field: &'static str, value: &str) -> Result<u64, NarInfoRule> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let size = if digits { value.parse().ok() } else { None };
    size.ok_or(NarInfoRule::Size { field })
}

fn nar_size(value: &str) -> Result<u64, NarInfoRule> {
    let field = "NarSize";
    Some(size(field, value)?).filter(|size| *size > 0).ok_or(NarInfoRule::NoSize { field })
}

fn nar_hash(value: &str) -> Result<NarHash, NarInfoRule> {
    if !value.starts_with("sha256:") && !value.starts_with("sha256-") {
        return Err(NarInfoRule::NotSha256);
    }
    NarHash::parse(value).map_err(|source| NarInfoRule::Hash { field: "NarHash", source })
}

fn references(value: &str) -> Result<BTreeSet<StorePath>, NarInfoRule> {
    value
        .split(' ')
        .filter(|text| !text.is_empty())
        .map(|text| {
            StorePath::from_base_name(text).map_err(|source| bad_path("References", source))
        })
        .collect()
}

/// Reads the deriver; `unknown-deriver` is what old caches say of none.
fn deriver(value: &str) -> Result<Option<StorePath>, NarInfoRule> {
    if value == "unknown-deriver" {
        return Ok(None);
    }
    let path = StorePath::from_base_name(value);
    path.map(Some).map_err(|source| bad_path("Deriver", source))
}
