//! Names of files: the only way in which this crate says where something is.

use std::ffi::{CStr, CString};
use std::fmt;
use std::str::FromStr;

use drover_core::StorePath;
use drover_nar::NameRule;

use crate::FilesError;

/// The name of a file in a directory: not empty, neither `.` nor `..`, without slash or NUL, so
/// that it can't lead out of the directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(CString);

impl FileName {
    /// Takes bytes for a name. Whether a file system allows the name shows when it is used.
    ///
    /// # Errors
    ///
    /// [`FilesError::InvalidName`].
    pub fn new(name: &[u8]) -> Result<FileName, FilesError> {
        let invalid = |rule| FilesError::InvalidName { name: name.into(), rule };
        match name {
            b"" => Err(invalid(NameRule::Empty)),
            b"." | b".." => Err(invalid(NameRule::Dots)),
            _ if name.contains(&b'/') => Err(invalid(NameRule::Slash)),
            _ => CString::new(name).map(FileName).map_err(|_| invalid(NameRule::Nul)),
        }
    }

    /// Returns the name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        &self.0
    }

    /// Takes a name from a directory, where only names are. `None` for `.` and `..`.
    pub(crate) fn listed(name: &CStr) -> Option<FileName> {
        (!matches!(name.to_bytes(), b"." | b"..")).then(|| FileName(name.to_owned()))
    }
}

impl FromStr for FileName {
    type Err = FilesError;

    fn from_str(name: &str) -> Result<FileName, FilesError> {
        FileName::new(name.as_bytes())
    }
}

impl TryFrom<&StorePath> for FileName {
    type Error = FilesError;

    /// Returns a path's name in its store directory.
    fn try_from(path: &StorePath) -> Result<FileName, FilesError> {
        FileName::new(path.base_name().as_bytes())
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::empty(b"", "invalid file name \"\": it is empty")]
    #[case::dot(b".", "invalid file name \".\": it is reserved")]
    #[case::dot_dot(b"..", "invalid file name \"..\": it is reserved")]
    #[case::slash(b"/etc", "invalid file name \"/etc\": it contains a slash")]
    #[case::nul(b"a\0", "invalid file name \"a\\x00\": it contains a NUL byte")]
    fn refuses_what_leads_out(#[case] name: &[u8], #[case] message: &str) {
        assert_eq!(FileName::new(name).unwrap_err().to_string(), message);
    }
}
