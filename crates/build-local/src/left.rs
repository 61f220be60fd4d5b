//! What a build has left in its folders, and what becomes of that.

use std::path::PathBuf;
use std::sync::Arc;

use drover_store::LogEvent;

use crate::folders::BuildFolders;
use crate::job::{Job, Subject};
use crate::users::BuildUser;

/// What a build has left behind in its folders.
pub(crate) struct Left(BuildFolders);

/// What becomes of a build's folders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// They are removed.
    Removed,
    /// They are left to who wants to look into them.
    Kept,
}

impl Left {
    pub(crate) fn new(folders: BuildFolders) -> Left {
        Left(folders)
    }

    pub(crate) fn folders(&self) -> &BuildFolders {
        &self.0
    }

    /// Returns the path of the build's folder.
    pub(crate) fn build(&self) -> PathBuf {
        self.0.build()
    }

    /// Removes the folders, off the way of what follows; or leaves them, if they are to be kept. Until
    /// they are gone nobody else has the user.
    pub(crate) fn leave(self, job: &Job<'_>, fate: Fate, user: Arc<BuildUser>) {
        let Left(folders) = self;
        if fate == Fate::Kept {
            let note = match folders.keep() {
                Ok(folder) => format!("note: keeping build directory \"{}\"", folder.display()),
                Err(error) => format!("the build directory can't be kept: {error}"),
            };
            job.log.event(LogEvent::Message(note));
            return;
        }
        job.tracker.spawn_blocking(move || {
            if let Err(error) = folders.remove() {
                tracing::warn!("a build's folder can't be removed: {error}");
            }
            drop(user);
        });
    }
}

impl Job<'_> {
    /// Returns what becomes of the folders of a build that has failed. Those of builders that are part of
    /// Nix are never kept, as there: what they know of passwords may lie in them.
    pub(crate) fn fate_of_failed(&self, subject: &Subject) -> Fate {
        match self.keeps_failed() && !subject.derivation.is_builtin() {
            true => Fate::Kept,
            false => Fate::Removed,
        }
    }
}
