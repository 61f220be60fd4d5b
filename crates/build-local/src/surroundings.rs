//! What a build sees of the machine.
//!
//! Follows `ChrootDerivationBuilder` and `ChrootLinuxDerivationBuilder` of Nix 2.34
//! (`src/libstore/unix/build/chroot-derivation-builder.cc`, `linux-derivation-builder.cc`).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use drover_core::{StoreDir, StorePath};
use drover_sandbox::{
    Access, Availability, Below, Content, Handle, Handles, Ids, Mount, Namespaces, Network, Owner,
    PathError, Root, Source, Support, Target, UserNamespace,
};
use drover_store_local::Workshop;
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::folders::{self, BuildFolders};
use crate::reach::resolvers;
use crate::settings::{LocalSettings, SandboxPath, Wherever, straightened};
use crate::users::BuildUser;

/// What a build's store directory is called in its workshop.
pub(crate) const STORE: &str = "store";

/// Bytes that what is small and lies in memory may take: folders, links, a few files.
const ROOT_SIZE: u64 = 16 << 20;

/// Bytes that the root may take of a build that is root itself, and may write there what it likes.
const OWN_ROOT_SIZE: u64 = 1 << 30;

/// What decides what a build sees.
pub(crate) struct Scene<'a> {
    pub(crate) settings: &'a LocalSettings,
    pub(crate) store_dir: &'a StoreDir,
    /// The inputs with all that they refer to.
    pub(crate) closure: &'a BTreeSet<StorePath>,
    /// What it sees beside what the settings say.
    pub(crate) also: &'a [SandboxPath],
    pub(crate) workshop: &'a Workshop,
    pub(crate) folders: &'a BuildFolders,
    pub(crate) user: &'a BuildUser,
    pub(crate) network: Network,
    pub(crate) support: &'a Support,
}

/// Makes the folder that a build sees as the store's directory; its outputs come about there.
pub(crate) fn make_store(workshop: &Workshop, user: &BuildUser) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::mkdirat(workshop.folder(), STORE, Mode::RWXU) {
        // that of the build before, with the places of its inputs
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let store = rustix::fs::openat(workshop.folder(), STORE, flags, Mode::empty())?;
    let mode = match user {
        BuildUser::Caller(_) => 0o755,
        BuildUser::One(_) | BuildUser::Range(_) => {
            let gid = Gid::from_raw(user.ids().gid);
            rustix::fs::fchown(&store, Some(Uid::ROOT), Some(gid))?;
            0o1775
        }
    };
    rustix::fs::fchmod(&store, Mode::from_raw_mode(mode))?;
    Ok(store)
}

/// Has a range of users go through the workshop's folder, where nothing but the build's own store is yet: it
/// finds that as the first of them.
pub(crate) fn let_in(workshop: &Workshop, user: &BuildUser) -> io::Result<()> {
    match user {
        BuildUser::Range(_) => folders::let_through(workshop.folder(), user.ids()),
        BuildUser::Caller(_) | BuildUser::One(_) => Ok(()),
    }
}

/// Ends that.
pub(crate) fn shut_out(workshop: &Workshop, user: &BuildUser) -> io::Result<()> {
    match user {
        BuildUser::Range(_) => Ok(rustix::fs::fchmod(workshop.folder(), Mode::RWXU)?),
        BuildUser::Caller(_) | BuildUser::One(_) => Ok(()),
    }
}

/// Returns the surroundings of a build that is shut in.
pub(crate) fn namespaces(scene: &Scene<'_>, handles: &mut Handles) -> io::Result<Namespaces> {
    let Scene { settings, store_dir, user, network, support, .. } = scene;
    let alone = support.user_namespaces == Availability::Available;
    let users = match user {
        BuildUser::One(_) if !alone => UserNamespace::Host,
        _ => UserNamespace::Private { appears_as: user.inside() },
    };
    let inside = match users {
        UserNamespace::Host => user.ids(),
        UserNamespace::Private { appears_as } => appears_as,
    };
    let mut list = List { mounts: Vec::new(), handles };
    list.devices(settings)?;
    list.put("/proc", Content::Proc)?;
    list.accounts(inside, &settings.sandbox_build_dir)?;
    if *network == Network::Private {
        list.file("/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")?;
    }
    let recurring = std::mem::take(&mut list.mounts);
    let outer = list.open(scene.folders.outer()?);
    let own = |folder: &str| bind(outer, folder, Access::ReadWrite);
    // before a store that may lie below it
    list.put("/tmp", own(folders::TMP)?)?;
    list.store(scene)?;
    list.put(settings.sandbox_build_dir.as_str(), own(folders::BUILD)?)?;
    // the kernel shows it only to root of the network's owner, and to others not at all
    if matches!(user, BuildUser::Range(_)) && *network == Network::Private {
        list.put("/sys", Content::Sysfs)?;
    }
    list.network_files(network, settings)?;
    for path in settings.paths.iter().chain(scene.also) {
        list.sandbox_path(path, store_dir, scene)?;
    }
    let (size, root_access) = match user {
        BuildUser::Range(_) => (OWN_ROOT_SIZE, Access::ReadWrite),
        BuildUser::Caller(_) | BuildUser::One(_) => (ROOT_SIZE, Access::ReadOnly),
    };
    Ok(Namespaces {
        users,
        network: network.clone(),
        root: Root::Tmpfs { size },
        root_access,
        recurring,
        mounts: list.mounts,
        hostname: b"localhost".to_vec(),
        domainname: b"(none)".to_vec(),
    })
}

/// Mounts in the making.
struct List<'a> {
    mounts: Vec<Mount>,
    handles: &'a mut Handles,
}

impl List<'_> {
    fn open(&mut self, file: OwnedFd) -> Handle {
        self.handles.add(file)
    }

    fn put(&mut self, at: impl Into<Vec<u8>>, what: Content) -> io::Result<()> {
        let at = Target::new(at).map_err(bad_path)?;
        self.mounts.push(Mount { at, what });
        Ok(())
    }

    fn file(&mut self, at: &str, content: &[u8]) -> io::Result<()> {
        self.put(at, Content::File { content: content.to_vec(), mode: 0o444 })
    }

    /// The inputs, and the folder where outputs come about.
    fn store(&mut self, scene: &Scene<'_>) -> io::Result<()> {
        let workshop = self.open(keep(scene.workshop.folder())?);
        let store = self.open(keep(scene.workshop.store())?);
        let at = scene.store_dir.as_str();
        self.put(at, bind(workshop, STORE, Access::ReadWrite)?)?;
        for path in scene.closure {
            let what = bind(store, path.base_name(), Access::ReadOnly)?;
            self.put(scene.store_dir.display(path), what)?;
        }
        Ok(())
    }

    fn devices(&mut self, settings: &LocalSettings) -> io::Result<()> {
        let folder = self.open(open("/dev")?);
        let has_kvm = settings.features.contains("kvm");
        let kvm = has_kvm.then_some("kvm");
        for name in ["full", "null", "random", "tty", "urandom", "zero"].into_iter().chain(kvm) {
            let at = format!("/dev/{name}");
            if name == "kvm" && !Path::new(&at).exists() {
                continue;
            }
            let path = Below::new(name).map_err(bad_path)?;
            self.put(at, Content::Device(Source::In { folder, path }))?;
        }
        let size = settings.dev_shm;
        let shm = Content::Tmpfs { size, mode: 0o1777, owner: Owner::Root };
        self.put("/dev/shm", shm)?;
        self.put("/dev/pts", Content::Terminals)?;
        for (at, target) in [
            ("/dev/ptmx", "/dev/pts/ptmx"),
            ("/dev/fd", "/proc/self/fd"),
            ("/dev/stdin", "/proc/self/fd/0"),
            ("/dev/stdout", "/proc/self/fd/1"),
            ("/dev/stderr", "/proc/self/fd/2"),
        ] {
            self.put(at, Content::Symlink { target: target.into() })?;
        }
        Ok(())
    }

    fn accounts(&mut self, Ids { uid, gid }: Ids, home: &str) -> io::Result<()> {
        let accounts = format!(
            "root:x:0:0:Nix build user:{home}:/noshell\n\
             nixbld:x:{uid}:{gid}:Nix build user:{home}:/noshell\n\
             nobody:x:65534:65534:Nobody:/:/noshell\n"
        );
        let groups = format!("root:x:0:\nnixbld:!:{gid}:\nnogroup:x:65534:\n");
        self.file("/etc/passwd", accounts.as_bytes())?;
        self.file("/etc/group", groups.as_bytes())
    }

    /// What it takes to find others on the network, where there are any.
    fn network_files(&mut self, network: &Network, settings: &LocalSettings) -> io::Result<()> {
        match network {
            Network::Private => return Ok(()),
            Network::Forwarded(_) => {
                if let Some(content) = resolvers()? {
                    self.file("/etc/resolv.conf", &content)?;
                }
            }
            Network::Host => {
                self.show_if_there("/etc/resolv.conf", Path::new("/etc/resolv.conf"))?;
            }
        }
        self.file("/etc/nsswitch.conf", b"hosts: files dns\nservices: files\n")?;
        for file in ["/etc/services", "/etc/hosts"] {
            self.show_if_there(file, Path::new(file))?;
        }
        match &settings.certificates {
            Some(file) => self.show_if_there("/etc/ssl/certs/ca-certificates.crt", file),
            None => Ok(()),
        }
    }

    /// Shows what a file of the machine leads to.
    fn show_if_there(&mut self, at: &str, file: &Path) -> io::Result<()> {
        match file.canonicalize() {
            Ok(real) => {
                let source = Source::Open(self.open(open(&real)?));
                self.put(at, Content::Bind { source, access: Access::ReadOnly })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn sandbox_path(
        &mut self,
        path: &SandboxPath,
        store_dir: &StoreDir,
        scene: &Scene<'_>,
    ) -> io::Result<()> {
        let SandboxPath { inside, outside, wherever } = path;
        let at = inside.as_os_str().as_encoded_bytes().to_vec();
        let whole = straightened(outside);
        let text = whole.to_string_lossy();
        let in_store = text.strip_prefix(store_dir.as_str()).and_then(|it| it.strip_prefix('/'));
        if let Some(below) = in_store {
            if *inside == whole && !below.contains('/') {
                // it's in the closure that is shown
                return Ok(());
            }
            let folder = self.open(keep(scene.workshop.store())?);
            // what is valid stays as it is, also where the build runs as the store's owner
            return self.put(at, bind(folder, below, Access::ReadOnly)?);
        }
        match open(outside) {
            Ok(file) => {
                let source = Source::Open(self.open(file));
                self.put(at, Content::AsItIs(source))
            }
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && *wherever == Wherever::IfPresent =>
            {
                Ok(())
            }
            Err(error) => {
                let text = format!("sandbox path '{}': {error}", outside.display());
                Err(io::Error::new(error.kind(), text))
            }
        }
    }
}

/// Returns the paths of the store that `sandbox-paths` lead to; builds see them with all that they
/// refer to.
pub(crate) fn store_paths_of(paths: &[SandboxPath], store_dir: &StoreDir) -> BTreeSet<StorePath> {
    let of = |path: &SandboxPath| {
        let outside = straightened(&path.outside);
        let text = outside.to_string_lossy();
        let below = text.strip_prefix(store_dir.as_str())?.strip_prefix('/')?;
        let name = below.split('/').next()?;
        StorePath::from_base_name(name).ok()
    };
    paths.iter().filter_map(of).collect()
}

fn bind(folder: Handle, below: &str, access: Access) -> io::Result<Content> {
    let path = Below::new(below).map_err(bad_path)?;
    Ok(Content::Bind { source: Source::In { folder, path }, access })
}

fn bad_path(error: PathError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

fn keep(file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    file.try_clone_to_owned()
}

fn open(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::openat(CWD, path.as_ref(), flags, Mode::empty())?)
}
