//! Whether files have changed that connections are made by.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::settings::CacheSettings;
use crate::tls;

/// By what it's seen that files have changed that a client is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    netrc: Option<Mark>,
    ca_file: Option<(PathBuf, Option<Mark>)>,
    /// Of our certificate and its key.
    identity: Option<[Option<Mark>; 2]>,
}

/// A file's device, number, size and time of change in nanoseconds.
type Mark = (u64, u64, u64, i128);

impl Marks {
    pub(crate) fn of(settings: &CacheSettings) -> Marks {
        let mark = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            let changed =
                i128::from(found.ctime()) * 1_000_000_000 + i128::from(found.ctime_nsec());
            Some((found.dev(), found.ino(), found.len(), changed))
        };
        let ca_file = settings.ca_file.clone().or_else(tls::find_ca_file);
        Marks {
            netrc: settings.netrc_file.as_deref().and_then(mark),
            ca_file: ca_file.map(|path| (path.clone(), mark(&path))),
            identity: settings
                .identity
                .as_ref()
                .map(|identity| [mark(&identity.certificate), mark(identity.key_file())]),
        }
    }
}
