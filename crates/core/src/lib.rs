//! Names, hashes, store paths, content addresses and path infos of Nix.
//!
//! Pure: no files, no clock, no runtime. The store directory is always a value ([`StoreDir`]), so a
//! store anywhere is as good as one in `/nix/store`. Types carry no serde form; each boundary has
//! its own.

mod activity;
mod asked;
mod base32;
mod build_status;
mod causes;
mod compression;
mod content_address;
mod hash;
mod keys;
mod narinfo;
mod output_name;
mod path_info;
mod raw_text;
mod realisation;
mod realisation_file;
mod signature;
mod store_path;
mod terminal;

pub use activity::{
    Activity, ActivityId, ActivityResult, Field, json_message, json_phase, json_stop,
};
pub use asked::{
    BuildMode, CollectAction, Liveness, Repair, SignatureCheck, Substitute, Trust, VerifyDepth,
};
pub use base32::{Base32Error, decode_base32, encode_base32};
pub use build_status::BuildStatus;
pub use causes::with_causes;
pub use compression::{Compression, CompressionError};
pub use content_address::{ContentAddress, ContentAddressError, IngestionMethod, References};
pub use hash::{Hash, HashAlgorithm, HashError, HashNotation, Hasher, NarHash};
pub use keys::{KeyError, PublicKey, SecretKey, TrustedKeys, realisation_fingerprint};
pub use narinfo::{NarInfo, NarInfoError, NarInfoRule, NarUrl};
pub use output_name::OutputName;
pub use path_info::{NarSize, PathInfo};
pub use raw_text::{raw_bytes, raw_text, without_raw};
pub use realisation::{DrvOutput, DrvOutputError, Realisation};
pub use realisation_file::ToldRealisation;
pub use signature::{Signature, SignatureError};
pub use store_path::{
    StoreDir, StoreDirError, StoreName, StoreNameError, StorePath, StorePathError, StorePathProblem,
};
pub use terminal::{Colours, harmless_bytes, plain_text};
