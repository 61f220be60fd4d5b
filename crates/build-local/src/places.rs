//! The places on which a build was shown its inputs, for the next build that is shown the same.
//!
//! Whatever of the store a build sees is mounted on something in the folder that it has for a store: an
//! empty file or folder, each of them made before the build and removed after it, which takes longer than
//! to mount what is shown there. So a queue keeps that folder where nothing is left in it but these
//! places. They are root's, as is the folder, which is sticky: the build can't have changed, moved or
//! removed any, and what it has made there itself has been taken out or isn't kept.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use drover_core::StorePath;
use drover_sandbox::Standing;
use drover_store_local::Workshop;
use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::harvest::Reach;
use crate::job::{Purpose, Shelter, Subject};
use crate::settings::LocalSettings;
use crate::surroundings::STORE;

/// Inputs from which on it's worth it: fewer are made sooner than looked through.
const MANY: usize = 32;

/// What a queue has kept of the build before.
#[derive(Default)]
pub(crate) struct Places(Mutex<Option<Kept>>);

struct Kept {
    workshop: Arc<Workshop>,
    shown: BTreeSet<StorePath>,
}

impl Places {
    /// Returns the workshop of the build before if the same was shown in it. Another one is returned as
    /// an error, to be cleared.
    pub(crate) fn take(&self, subject: &Subject) -> Result<Option<Arc<Workshop>>, Arc<Workshop>> {
        match self.lock().take() {
            Some(kept) if subject.shelter == Shelter::Namespaces => {
                match kept.shown == subject.closure {
                    true => Ok(Some(kept.workshop)),
                    false => Err(kept.workshop),
                }
            }
            Some(kept) => Err(kept.workshop),
            None => Ok(None),
        }
    }

    /// Keeps a workshop, if nothing is in it but the places of a build's inputs. Otherwise it's returned,
    /// to be cleared. The build has gone well, and nothing of it runs any more.
    pub(crate) fn keep(&self, workshop: Arc<Workshop>, subject: Subject) -> Option<Arc<Workshop>> {
        match holds_only(&workshop, &subject.closure) {
            Ok(true) => {
                let kept = Kept { workshop, shown: subject.closure };
                self.lock().replace(kept).map(|before| before.workshop)
            }
            // whatever it is, it's cleared away
            Ok(false) | Err(_) => Some(workshop),
        }
    }

    /// Clears away what is kept. Synchronous, for a thread that may block.
    pub(crate) fn clear(&self) {
        if let Some(kept) = self.lock().take() {
            kept.workshop.clear();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a build's places may be kept: where it has many, nobody else could get at them, and they are
/// another user's than the build's.
pub(crate) fn may_be_kept(subject: &Subject, purpose: Purpose, settings: &LocalSettings) -> bool {
    purpose == Purpose::Build
        && subject.shelter == Shelter::Namespaces
        && subject.reach == Reach::None
        && MANY <= subject.closure.len()
        && settings.pre_build_hook.is_none()
        && !subject.options.required_system_features.contains("uid-range")
        && Standing::of_this_process() == Standing::Root
}

/// Whether a workshop holds a store with a place at each of these names, and nothing else at all. What is
/// a symlink is shown by making one, which can't be done again, and so isn't a place.
fn holds_only(workshop: &Workshop, shown: &BTreeSet<StorePath>) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let store: OwnedFd = rustix::fs::openat(workshop.folder(), STORE, flags, Mode::empty())?;
    let names: HashSet<&[u8]> = shown.iter().map(|path| path.base_name().as_bytes()).collect();
    Ok(has_only(workshop.folder(), &HashSet::from([STORE.as_bytes()]))? && has_only(store, &names)?)
}

fn has_only(folder: impl AsFd, names: &HashSet<&[u8]>) -> Result<bool, Errno> {
    let mut count = 0;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name if names.contains(name) && is_place(entry.file_type()) => count += 1,
            _ => return Ok(false),
        }
    }
    Ok(count == names.len())
}

fn is_place(kind: FileType) -> bool {
    matches!(kind, FileType::Directory | FileType::RegularFile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_as_a_symlink_is_no_place() {
        let home = tempfile::tempdir().unwrap();
        let open = || std::fs::File::open(home.path()).unwrap();
        let names = HashSet::from([b"a".as_slice()]);
        std::os::unix::fs::symlink("elsewhere", home.path().join("a")).unwrap();
        assert_eq!(has_only(open(), &names), Ok(false));
    }

    #[test]
    fn one_name_too_many_or_too_few_is_seen() {
        let home = tempfile::tempdir().unwrap();
        let open = || std::fs::File::open(home.path()).unwrap();
        let names = HashSet::from([b"a".as_slice(), b"b".as_slice()]);
        std::fs::write(home.path().join("a"), "").unwrap();
        assert_eq!(has_only(open(), &names), Ok(false));
        std::fs::create_dir(home.path().join("b")).unwrap();
        assert_eq!(has_only(open(), &names), Ok(true));
        std::fs::write(home.path().join(".c"), "").unwrap();
        assert_eq!(has_only(open(), &names), Ok(false));
    }
}
