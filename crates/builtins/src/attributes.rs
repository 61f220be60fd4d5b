//! What a derivation says to its builder.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use crate::BuiltinError;

/// The environment of a build.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(pub(crate) &'a BTreeMap<Vec<u8>, Vec<u8>>);

impl<'a> Attributes<'a> {
    pub(crate) fn bytes(self, name: &'static str) -> Result<&'a [u8], BuiltinError> {
        let value = self.0.get(name.as_bytes());
        value.map(Vec::as_slice).ok_or(BuiltinError::Missing { name })
    }

    pub(crate) fn text(self, name: &'static str) -> Result<&'a str, BuiltinError> {
        std::str::from_utf8(self.bytes(name)?).map_err(|_| BuiltinError::NotText { name })
    }

    pub(crate) fn is_set(self, name: &str) -> bool {
        self.0.get(name.as_bytes()).is_some_and(|value| value == b"1")
    }
}

pub(crate) fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}
