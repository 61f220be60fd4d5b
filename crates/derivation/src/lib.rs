//! Derivations of Nix: the recipes of builds, their text and JSON forms, and what follows from them.
//!
//! Pure: no files, no clock, no runtime. A derivation is read from the bytes of a `.drv` file
//! ([`Derivation::parse_aterm`]) or put together from the parts that a protocol carries
//! ([`BasicDerivation`]), and printed again byte for byte. From it follow its own store path
//! ([`Derivation::derivation_path`]), the paths of its outputs ([`HashModuloCache`],
//! [`Derivation::check_outputs`]), the derivation to build once the outputs of its inputs are known
//! ([`Derivation::resolve`]), and what a machine must offer to build it
//! ([`BasicDerivation::options`]).
//!
//! Strings of derivations are bytes, as in Nix. Nothing recurses, nothing is allocated on a length
//! that a file claims, and a file that Nix would not have written is refused by name.

mod aterm;
mod byte_string;
mod check;
mod derivation;
mod environment;
mod error;
mod modulo;
mod nix_json;
mod options;
mod output;
mod output_names;
mod path_pool;
mod resolve;
mod show;

pub use aterm::MAX_ATERM_SIZE;
pub use byte_string::{ByteString, EscapedBytes};
pub use derivation::{BasicDerivation, Derivation, DerivationKind, derivation_name};
pub use environment::Environment;
pub use error::{DerivationError, DerivationProblem};
pub use modulo::{HashModulo, HashModuloCache};
pub use nix_json::compact_json;
pub use options::{BuildOptions, StructuredAttributes};
pub use output::{Output, OutputColumns, output_path, output_path_name};
pub use output_names::OutputNames;
pub use path_pool::PathPool;
pub use resolve::{downstream_placeholder, output_placeholder};
pub use show::{ShowFormat, show_json};
