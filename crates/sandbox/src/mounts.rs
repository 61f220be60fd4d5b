//! The root file system of a command, made by descriptor: nothing is ever found by a path that
//! somebody could bend, and no symlink is followed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags,
};

use crate::error::{At, Failure, Step};
use crate::plan::{Access, Content, Ids, Mount, Owner, Root, TmpfsSize};
use crate::sources::{Found, PlaceKind, Sources};
use crate::sys;
use crate::target::Target;

/// Whom files can be given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owners {
    /// Whatever is made belongs to the command's user, as there's nobody else.
    OnlyBuild,
    /// Whatever is made belongs to the machine's root, and can be given to this user.
    RootOr(Ids),
    /// Whatever is made belongs to the machine's root, as the command's user isn't known yet.
    Root,
}

/// The root of a command in the making.
pub(crate) struct Tree {
    root: OwnedFd,
    owners: Owners,
    /// The folder where something was put last: most of it goes where the last went.
    parent: Option<(Vec<u8>, OwnedFd)>,
}

const NO_SUID_OR_DEVICES: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

impl Tree {
    /// Begins a root, in a mount namespace that is this process's own.
    pub(crate) fn begin(
        root: Root,
        sources: &mut Sources<'_>,
        owners: Owners,
    ) -> Result<Tree, Failure> {
        rustix::process::umask(Mode::empty());
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).at(Step::CutMounts)?;
        let root = match root {
            Root::Tmpfs { size } => root_in_memory(size)?,
            Root::Folder(handle) => sources.tree(handle)?,
        };
        secure(&root, NO_SUID_OR_DEVICES).at(Step::MakeRoot)?;
        move_tree(&root, CWD, b"/").at(Step::MakeRoot)?;
        Ok(Tree { root, owners, parent: None })
    }

    /// Sets whom what is put from now on can be given to.
    pub(crate) fn set_owners(&mut self, owners: Owners) {
        self.owners = owners;
    }

    /// Puts everything in its place, in this order.
    pub(crate) fn put_all(
        &mut self,
        mounts: &[Mount],
        sources: &mut Sources<'_>,
    ) -> Result<(), Failure> {
        mounts.iter().try_for_each(|mount| self.put(mount, sources))
    }

    fn put(&mut self, mount: &Mount, sources: &mut Sources<'_>) -> Result<(), Failure> {
        let at = &mount.at;
        match &mount.what {
            Content::Bind { source, access } => {
                let attributes = match access {
                    Access::ReadOnly => NO_SUID_OR_DEVICES | libc::MOUNT_ATTR_RDONLY,
                    Access::ReadWrite => NO_SUID_OR_DEVICES,
                };
                self.bind(at, sources.find(source)?, attributes)
            }
            Content::AsItIs(source) => {
                self.bind(at, sources.find(source)?, libc::MOUNT_ATTR_NOSUID)
            }
            Content::Device(source) => {
                let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;
                self.bind(at, sources.find(source)?, attributes)
            }
            Content::Tmpfs { size, mode, owner } => self.tmpfs(at, *size, *mode, *owner),
            Content::Proc => {
                let flags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
                self.put_new(at, new_mount("proc", &[], flags))
            }
            Content::Sysfs => {
                let flags = MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_RDONLY;
                self.put_new(at, new_mount("sysfs", &[], flags))
            }
            Content::Terminals => {
                let options = [("mode", "0620".to_owned()), ("ptmxmode", "0666".to_owned())];
                let flags = MountAttrFlags::MOUNT_ATTR_NOEXEC;
                self.put_new(at, new_terminals(&options, flags))
            }
            Content::Folder { mode, owner } => self.folder(at, *mode, *owner),
            Content::File { content, mode } => self.file(at, content, *mode),
            Content::Symlink { target } => self.symlink(at, target),
        }
    }

    fn bind(&mut self, at: &Target, found: Found, attributes: u64) -> Result<(), Failure> {
        match found {
            Found::Symlink(target) => self.symlink(at, &target),
            Found::Tree(tree, kind) => {
                secure(&tree, attributes).on(Step::Mount, at)?;
                self.put_on(&tree, at, kind)
            }
        }
    }

    fn tmpfs(
        &mut self,
        at: &Target,
        size: TmpfsSize,
        mode: u16,
        owner: Owner,
    ) -> Result<(), Failure> {
        let size = match size {
            TmpfsSize::Bytes(bytes) => bytes.to_string(),
            TmpfsSize::Percent(percent) => format!("{percent}%"),
        };
        let mut options = vec![("size", size), ("mode", format!("{mode:o}"))];
        if let Some((uid, gid)) = self.ids_of(owner) {
            options.push(("uid", uid.to_string()));
            options.push(("gid", gid.to_string()));
        }
        self.put_new(at, new_mount("tmpfs", &options, MountAttrFlags::empty()))
    }

    fn folder(&mut self, at: &Target, mode: u16, owner: Owner) -> Result<(), Failure> {
        let step = Step::MakeFile;
        let (parent, name) = self.parent_of(at)?;
        match rustix::fs::mkdirat(parent, &*name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).on(step, at),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(parent, &*name, flags, Mode::empty()).on(step, at)?;
        if let Some((uid, gid)) = self.ids_of(owner) {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::fchown(&folder, Some(uid), Some(gid)).on(step, at)?;
        }
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(mode.into())).on(step, at)
    }

    fn file(&mut self, at: &Target, content: &[u8], mode: u16) -> Result<(), Failure> {
        let step = Step::MakeFile;
        let (parent, name) = self.parent_of(at)?;
        let file = make_file(parent, &name).on(step, at)?;
        let mut rest = content;
        while !rest.is_empty() {
            let len = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest)).on(step, at)?;
            rest = rest.get(len..).unwrap_or_default();
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode.into())).on(step, at)
    }

    fn symlink(&mut self, at: &Target, target: &[u8]) -> Result<(), Failure> {
        let (parent, name) = self.parent_of(at)?;
        rustix::fs::symlinkat(target, parent, &*name).on(Step::MakeFile, at)
    }

    /// Puts a new file system on a folder.
    fn put_new(&mut self, at: &Target, mount: Result<OwnedFd, Errno>) -> Result<(), Failure> {
        self.put_on(&mount.on(Step::Mount, at)?, at, PlaceKind::Folder)
    }

    /// Puts a mount on a place, which is made if it isn't there.
    fn put_on(&mut self, tree: &OwnedFd, at: &Target, kind: PlaceKind) -> Result<(), Failure> {
        let step = Step::MakePlace;
        let (parent, name) = self.parent_of(at)?;
        match check_place(parent, &name, kind) {
            Err(Errno::NOENT) => make_place(parent, &name, kind),
            checked => checked,
        }
        .on(step, at)?;
        // nobody else changes anything in here, and a symlink isn't followed
        move_tree(tree, parent, &name).on(Step::Mount, at)?;
        self.forget_below(at);
        Ok(())
    }

    /// What is known of folders below a new mount is from before it.
    fn forget_below(&mut self, at: &Target) {
        let covers = |parent: &[u8]| {
            let rest = parent.strip_prefix(at.as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.parent.take_if(|(parent, _)| covers(parent));
    }

    /// Returns the folder that something is to be in, which is made if it isn't there, and its name.
    fn parent_of(&mut self, at: &Target) -> Result<(BorrowedFd<'_>, Vec<u8>), Failure> {
        let path = at.as_bytes();
        let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let (parent, name) = path.split_at(slash);
        let name = name.strip_prefix(b"/").unwrap_or(name).to_vec();
        if self.parent.as_ref().is_none_or(|(known, _)| known != parent) {
            let folder = self.walk(at)?;
            self.parent = Some((parent.to_vec(), folder));
        }
        match &self.parent {
            Some((_, folder)) => Ok((folder.as_fd(), name)),
            None => Err(Errno::NOENT).on(Step::MakePlace, at),
        }
    }

    /// Goes down to the folder that something is to be in, name by name.
    fn walk(&self, at: &Target) -> Result<OwnedFd, Failure> {
        let step = Step::MakePlace;
        let look = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open =
            |from: &OwnedFd, name: &[u8]| rustix::fs::openat(from, name, look, Mode::empty());
        let mut folder = open(&self.root, b".").on(step, at)?;
        let mut names = at.names().peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                break;
            }
            folder = match open(&folder, name) {
                Err(Errno::NOENT) => {
                    let mode = Mode::from_raw_mode(0o755);
                    rustix::fs::mkdirat(&folder, name, mode).on(step, at)?;
                    open(&folder, name)
                }
                opened => opened,
            }
            .on(step, at)?;
        }
        Ok(folder)
    }

    fn ids_of(&self, owner: Owner) -> Option<(u32, u32)> {
        match (self.owners, owner) {
            (Owners::OnlyBuild, _) => None,
            (Owners::RootOr(_) | Owners::Root, Owner::Root) => Some((0, 0)),
            // nobody asks for that before it's known, and root is the one who can do no harm
            (Owners::Root, Owner::Build | Owner::RootAndBuildGroup) => Some((0, 0)),
            (Owners::RootOr(ids), Owner::Build) => Some((ids.uid, ids.gid)),
            (Owners::RootOr(ids), Owner::RootAndBuildGroup) => Some((0, ids.gid)),
        }
    }

    /// Makes this the root, and takes the old one away.
    pub(crate) fn switch(self, access: Access) -> Result<(), Failure> {
        let step = Step::EnterRoot;
        if let Access::ReadOnly = access {
            make_read_only(&self.root).at(step)?;
        }
        rustix::process::fchdir(&self.root).at(step)?;
        // The old root comes to lie on the new one, from where it's taken off.
        rustix::process::pivot_root(".", ".").at(step)?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).at(step)?;
        rustix::process::chdir("/").at(step)
    }
}

fn root_in_memory(size: u64) -> Result<OwnedFd, Failure> {
    let options = [("size", size.to_string()), ("mode", "755".to_owned())];
    new_mount("tmpfs", &options, MountAttrFlags::empty()).at(Step::MakeRoot)
}

/// Makes a file system that is nowhere yet, without set-user bits or devices.
fn new_mount(
    kind: &str,
    options: &[(&str, String)],
    flags: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    new_mount_with(kind, options, flags)
}

/// Terminals are devices.
fn new_terminals(options: &[(&str, String)], flags: MountAttrFlags) -> Result<OwnedFd, Errno> {
    new_mount_with("devpts", options, flags | MountAttrFlags::MOUNT_ATTR_NOSUID)
}

fn new_mount_with(
    kind: &str,
    options: &[(&str, String)],
    flags: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(&context, *key, value.as_str())?;
    }
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Checks that what is to be mounted on is of the right kind, and no symlink.
fn check_place(parent: BorrowedFd<'_>, name: &[u8], kind: PlaceKind) -> Result<(), Errno> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match (kind, FileType::from_raw_mode(stat.st_mode)) {
        (_, FileType::Symlink) => Err(Errno::LOOP),
        (PlaceKind::Folder, FileType::Directory) => Ok(()),
        (PlaceKind::Folder, _) => Err(Errno::NOTDIR),
        (PlaceKind::File, FileType::Directory) => Err(Errno::ISDIR),
        (PlaceKind::File, _) => Ok(()),
    }
}

fn make_place(parent: BorrowedFd<'_>, name: &[u8], kind: PlaceKind) -> Result<(), Errno> {
    match kind {
        PlaceKind::Folder => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        PlaceKind::File => {
            let mode = Mode::from_raw_mode(0o444);
            rustix::fs::mknodat(parent, name, FileType::RegularFile, mode, 0)
        }
    }
}

fn make_file(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o444))
}

fn secure(tree: &OwnedFd, attributes: u64) -> Result<(), Errno> {
    sys::add_mount_attributes(tree.as_fd(), attributes, sys::Reach::Below)
}

fn make_read_only(root: &OwnedFd) -> Result<(), Errno> {
    sys::add_mount_attributes(root.as_fd(), libc::MOUNT_ATTR_RDONLY, sys::Reach::Itself)
}

/// Puts a mount on what is at `path` from `to` on; a symlink there isn't followed.
fn move_tree(tree: &OwnedFd, to: BorrowedFd<'_>, path: &[u8]) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", to, path, flags)
}
