//! The keys that what is built here is signed with.

use std::io::{self, Read as _};
use std::path::PathBuf;

use anyhow::Context as _;
use drover_core::SecretKey;
use zeroize::Zeroizing;

use crate::terminal::Terminal;

/// Reads the keys of `secret-key-files`. Those that are another user's are that user's to sign with.
///
/// # Errors
///
/// A file that can't be read otherwise, or that is no key.
pub(crate) fn keys(files: &[PathBuf], terminal: &Terminal) -> anyhow::Result<Vec<SecretKey>> {
    /// Bytes that a key's file may have.
    const MAX_KEY: u64 = 4096;
    let mut keys = Vec::new();
    for file in files {
        let unusable = || format!("secret-key-files: '{}' can't be used", file.display());
        let mut text = Zeroizing::new(String::new());
        let opened = fs_err::File::open(file);
        match opened.and_then(|file| file.take(MAX_KEY).read_to_string(&mut text)) {
            Ok(_) => keys.push(text.trim_end().parse().with_context(unusable)?),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                terminal.warn(&format!("{}: {error}", unusable()));
            }
            Err(error) => return Err(error).with_context(unusable),
        }
    }
    Ok(keys)
}
