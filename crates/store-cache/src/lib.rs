//! Binary caches as stores: a folder (`file://`) or a server (`http://`, `https://`) or a bucket
//! (`s3://`) with narinfos and compressed NARs, as stock Nix writes them.
//!
//! Nothing that a cache says is believed before it is bounded and checked: narinfos by the rules of
//! `drover_core`, NARs by size and hash on their way. Who vouches for a path is asked by whoever
//! takes it. Follows `src/libstore/binary-cache-store.cc` and its kin of Nix.

mod answers;
mod cache;
mod cache_info;
mod destination;
mod disk;
mod error;
mod fetch;
mod file;
mod http;
mod http_put;
mod marks;
mod netrc;
mod piece_reader;
mod place;
mod push;
mod realisations;
mod redirect;
mod retry;
mod s3;
mod settings;
mod small;
mod store;
mod tls;
mod told;
mod transport;
mod unnamed;

pub use error::CacheError;
pub use s3::{AwsCredentials, AwsFiles, Hidden};
pub use settings::{CacheSettings, CacheTrust, MassQuery, Pauses, ProxyUse};
pub use store::CacheStore;
pub use tls::{Identity, find_ca_file};
