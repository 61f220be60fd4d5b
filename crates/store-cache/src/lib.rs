//! Binary caches as stores: a folder (`file://`) or a server (`http://`, `https://`) with narinfos
//! and compressed NARs, as stock Nix writes them.
//!
//! Nothing that a cache says is believed before it is bounded and checked: narinfos by the rules of
//! `drover_core`, NARs by size and hash on their way. Who vouches for a path is asked by whoever
//! takes it. Follows `src/libstore/binary-cache-store.cc` and its kin of Nix.

mod answers;
mod cache;
mod cache_info;
mod decode;
mod disk;
mod encode;
mod error;
mod fetch;
mod file;
mod http;
mod netrc;
mod push;
mod redirect;
mod retry;
mod settings;
mod store;
mod tls;
mod transport;

pub use error::CacheError;
pub use settings::{CacheSettings, CacheTrust, MassQuery, ProxyUse};
pub use store::CacheStore;
pub use tls::find_ca_file;
