//! Why one of them failed.

use std::io;
use std::path::PathBuf;

use drover_download::{DownloadError, ProxyError};
use drover_store_files::FilesError;

/// Why a builder that is part of Nix failed, as the build's log says it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuiltinError {
    /// What was to be done could not be sent here.
    #[error("what is to be built can't be read")]
    Encoding(#[source] postcard::Error),
    /// The derivation lacks something.
    #[error("attribute '{name}' missing")]
    Missing {
        /// What.
        name: &'static str,
    },
    /// Something has to be text.
    #[error("attribute '{name}' is not UTF-8")]
    NotText {
        /// What.
        name: &'static str,
    },
    /// A proxy that can't be one.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The file can't be had.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// What has come is no archive.
    #[error("cannot unpack what is at '{url}'")]
    Nar {
        /// Where it's from.
        url: String,
        /// What is wrong with it.
        source: FilesError,
    },
    /// The system refused something.
    #[error("cannot {doing} '{}'", path.display())]
    Io {
        /// What was to be done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `derivations` of an environment isn't what nix-env makes of it.
    #[error("attribute 'derivations' ends in the middle, or has no number where one has to be")]
    Derivations,
    /// Two packages have the same file.
    #[error(
        "two packages have the same file, and none of them goes before the other, as both have the \
         priority {priority}:\n\n  {}\n  {}\n\nTake one of them out, or give the one that is to win a \
         smaller number:\n\n  nix-env --set-flag priority NUMBER NAME",
        one.display(),
        other.display()
    )]
    Conflict {
        /// The file that was there first.
        one: PathBuf,
        /// The other.
        other: PathBuf,
        /// The priority of both.
        priority: i64,
    },
    /// A folder of one package is something else in another.
    #[error("'{}' is a folder and '{}' is none, so they can't be at the same place", folder.display(), other.display())]
    FolderConflict {
        /// The folder.
        folder: PathBuf,
        /// What is none.
        other: PathBuf,
    },
    /// The name of a channel has to be the name of a file.
    #[error("the channel's name '{name}' can't be the name of a folder")]
    ChannelName {
        /// The name.
        name: String,
    },
    /// A channel has to be one folder.
    #[error("the channel's archive '{}' has {count} files at its top, and must have one", archive.display())]
    ChannelFiles {
        /// The archive.
        archive: PathBuf,
        /// How many there are.
        count: usize,
    },
    /// A channel's archive is broken, or has something in it that isn't unpacked.
    #[error("cannot unpack the channel's archive '{}'{}", archive.display(), at_member(.member))]
    Archive {
        /// The archive.
        archive: PathBuf,
        /// Which of its members.
        member: Option<PathBuf>,
        /// What is wrong.
        source: io::Error,
    },
}

fn at_member(member: &Option<PathBuf>) -> String {
    member.as_ref().map(|path| format!(", at '{}'", path.display())).unwrap_or_default()
}

impl BuiltinError {
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> BuiltinError {
        let path = path.into();
        move |source| BuiltinError::Io { doing, path, source }
    }
}
