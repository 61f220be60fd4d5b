//! The control group of a build (`use-cgroups`): all that it starts is in it, and is killed with it.
//!
//! Follows `LinuxDerivationBuilder::prepareUser` of Nix 2.34
//! (`src/libstore/unix/build/linux-derivation-builder.cc`): groups have the same names, and those of
//! build users are recorded in the same place, so that either ends what a killed one of the other has
//! left there.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use drover_sandbox::{CgroupFolder, CgroupLeaf};

use crate::users::BuildUser;

/// A group that one build is in. It has to be ended.
#[derive(Debug)]
pub(crate) struct Group(CgroupLeaf);

impl Group {
    /// Makes one in the group that this process is in. `locks` is where the locks on users are. May
    /// block for as long as killing what was left takes.
    pub(crate) fn new(user: &BuildUser, locks: &Path) -> io::Result<Group> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let around = CgroupFolder::of_this_process()?;
        let leaf = match user {
            BuildUser::Caller(_) => {
                let count = COUNT.fetch_add(1, Ordering::Relaxed);
                around.leaf(&format!("nix-build-pid-{}-{count}", std::process::id()))?
            }
            BuildUser::One(_) | BuildUser::Range(_) => {
                let uid = user.ids().uid;
                let name = format!("nix-build-uid-{uid}");
                record(&locks.join("cgroups"), uid, &around.path().join(&name))?;
                let leaf = around.leaf(&name)?;
                leaf.give_to(user.ids())?;
                leaf
            }
        };
        Ok(Group(leaf))
    }

    /// Returns its folder.
    pub(crate) fn folder(&self) -> io::Result<OwnedFd> {
        self.0.folder()
    }

    /// Removes it. Nothing of the build runs any more.
    pub(crate) fn end(self, derivation: &str) {
        if let Ok(usage) = self.0.usage() {
            tracing::debug!("'{derivation}' has used {usage:?}");
        }
        if let Err(error) = self.0.remove() {
            tracing::warn!("the control group of '{derivation}' can't be removed: {error}");
        }
    }
}

/// Notes where a user's group is, and removes the one that was noted before: it may be another one's
/// that doesn't lie where this one will.
fn record(folder: &Path, uid: u32, group: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let file = folder.join(uid.to_string());
    match fs::read_to_string(&file) {
        Ok(before) => {
            let before = Path::new(before.trim_end());
            if let (Some(around), Some(name)) = (before.parent(), before.file_name())
                && before.exists()
            {
                // one that is there is killed and removed, and another one made in its place
                CgroupFolder::at(around)?.leaf(&name.to_string_lossy())?.remove()?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::write(&file, group.as_os_str().as_encoded_bytes())
}
