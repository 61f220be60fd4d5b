//! Names of a derivation's outputs.
//!
//! An output's name becomes a part of its store path's name (`outputPathName` in Nix,
//! `src/libstore/derivations.cc`), so it has the same rules.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use crate::StoreNameError;
use crate::store_path::check_name;

/// Name of an output such as `out` or `dev`, with the rules of [`StoreName`](crate::StoreName).
///
/// Cheap to clone; the names that most derivations use are kept once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutputName(Arc<str>);

/// The output names that nixpkgs uses most; parsing them allocates nothing.
static COMMON: LazyLock<Vec<Arc<str>>> = LazyLock::new(|| {
    ["out", "dev", "lib", "bin", "man", "doc", "info", "debug", "data", "dist", "static", "devdoc"]
        .map(Arc::from)
        .into()
});

impl OutputName {
    /// Returns `out`, the name of the main output.
    pub fn out() -> OutputName {
        OutputName(shared("out"))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `out`, which leaves no trace in the store path's name.
    pub fn is_out(&self) -> bool {
        &*self.0 == "out"
    }
}

fn shared(name: &str) -> Arc<str> {
    COMMON.iter().find(|&common| **common == *name).map_or_else(|| name.into(), Arc::clone)
}

impl FromStr for OutputName {
    type Err = StoreNameError;

    fn from_str(name: &str) -> Result<Self, StoreNameError> {
        check_name(name)?;
        Ok(OutputName(shared(name)))
    }
}

impl Borrow<str> for OutputName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OutputName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OutputName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
