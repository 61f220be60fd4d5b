//! What is to be run, in what surroundings, as data.
//!
//! A [`Plan`] holds no open files and does nothing: it can be compared, printed, and sent to another
//! process. Open files stand in [`Handles`](crate::Handles) beside it, and the plan names them by
//! [`Handle`]. Whatever is combined here either works or is refused by name when it is spawned;
//! nothing is left out in silence, apart from what says that it may be ([`Scope::WhereSupported`]).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::handles::Handle;
use crate::network::Network;
use crate::target::{Below, Target};

/// One command and everything that it may see and touch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What is run.
    pub command: Command,
    /// As whom.
    pub identity: Identity,
    /// The supplementary groups that it has, as root only, and not in a user namespace of its own:
    /// there, all groups but its own are nobody's. Without root, the caller's can't be left.
    pub groups: Vec<u32>,
    /// What it sees of the machine.
    pub isolation: Isolation,
    /// Which system calls it's refused.
    pub filter: SyscallFilter,
    /// Whether it's kept from abstract sockets and processes outside.
    pub scope: Scope,
    /// The control group that it starts in.
    pub cgroup: Cgroup,
    /// Resource limits; those not named stay as they are for the caller.
    pub limits: Vec<Limit>,
    /// The kernel's face towards it.
    pub personality: Personality,
    /// How eagerly the kernel kills it when memory runs out, from -1000 to 1000; `None` keeps the
    /// caller's.
    pub oom_score: Option<i16>,
    /// What happens to processes that outlive the command.
    pub leftovers: Leftovers,
}

/// The command itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// What is run.
    pub program: Program,
    /// All arguments of a file, with the zeroth, which need not be its name.
    pub arguments: Vec<Vec<u8>>,
    /// The whole environment of a file, in this order; nothing is added or inherited.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// The working folder as seen from inside.
    pub folder: Vec<u8>,
    /// Where stdout and stderr go: a pipe or the lower end of a terminal. It's given to the user
    /// that the command runs as, so that `/dev/stderr` can be opened. Stdin is `/dev/null`.
    pub output: Handle,
    /// The file mode creation mask.
    pub umask: u16,
}

/// What a command consists of.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Program {
    /// A file as seen from inside; never searched in `PATH`.
    File(Vec<u8>),
    /// What the launcher's own program does when it's given these bytes; see
    /// [`run_launcher_for`](crate::run_launcher_for).
    ///
    /// It runs in the surroundings and as the user of the plan like any other command, and takes no
    /// file of these surroundings. Arguments and environment are not used.
    Own(Vec<u8>),
}

impl fmt::Debug for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Program::File(file) => out.debug_tuple("File").field(&file.escape_ascii()).finish(),
            // what is in them may be secret
            Program::Own(bytes) => write!(out, "Own({} bytes)", bytes.len()),
        }
    }
}

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ids {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// As whom the command runs, as the machine counts users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    /// The user who runs this program. Root is refused here, as a build as root
    /// could do anything, but for root of a namespace with no other user ([`Standing`](crate::Standing)).
    Caller,
    /// One user that nobody else has in the meantime. Takes root.
    User(Ids),
    /// A range of users and groups that nobody else has; the command is root in a user namespace
    /// that consists of them, with all capabilities over that namespace. Takes root.
    Range {
        /// The first user and group, which appear as 0 inside.
        first: Ids,
        /// How many follow, the first included.
        count: u32,
    },
}

/// What the command sees of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Isolation {
    /// Everything that its user may see. Its processes are still found and killed, privileges
    /// dropped and system calls filtered.
    ///
    /// As [`Identity::Caller`] it is the same user as the supervisor, and could kill that, but for
    /// [`Scope`]; what it has left behind would stay then.
    None,
    /// Namespaces of its own: mounts, processes, System V IPC and message queues, host name, control
    /// groups, and what else is said there.
    Namespaces(Box<Namespaces>),
}

/// The surroundings of a command in namespaces of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Whether users are renumbered.
    pub users: UserNamespace,
    /// Which network there is.
    pub network: Network,
    /// What is at `/` before the mounts.
    pub root: Root,
    /// Whether `/` itself may be written to when all mounts are made.
    pub root_access: Access,
    /// What is put into the root first, and will be for the next command as well: where it is all root's,
    /// that is made ahead. It names the first of the open files.
    pub recurring: Vec<Mount>,
    /// What is put into the root then, in this order. Folders on the way to a place are made as needed,
    /// with mode 755; no symlink is ever followed.
    pub mounts: Vec<Mount>,
    /// The host name.
    pub hostname: Vec<u8>,
    /// The NIS domain name.
    pub domainname: Vec<u8>,
}

/// Whether users have other numbers inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserNamespace {
    /// The same as outside. Only for [`Identity::User`].
    Host,
    /// One user and one group with these numbers; for a range, `appears_as` is not used.
    Private {
        /// The numbers inside.
        appears_as: Ids,
    },
}

/// What is at `/` to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// An empty file system in memory that ends with the command.
    Tmpfs {
        /// The most that it may hold, in bytes.
        size: u64,
    },
    /// A folder of the machine.
    Folder(Handle),
}

/// Whether something may be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// It may not.
    ReadOnly,
    /// As far as its mode and owner allow.
    ReadWrite,
}

/// Something at a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where it is, as seen from inside.
    pub at: Target,
    /// What it is.
    pub what: Content,
}

/// What can be put into the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A file or folder of the machine, with what is mounted below it. A symlink can't be mounted:
    /// an equal one is made. Set-user bits and devices in it don't count.
    Bind {
        /// What is shown.
        source: Source,
        /// Whether it may be written to.
        access: Access,
    },
    /// As [`Content::Bind`], but it may be written to and its devices work: what the administrator names.
    AsItIs(Source),
    /// A device of the machine, such as `/dev/null`.
    Device(Source),
    /// An empty file system in memory.
    Tmpfs {
        /// The most that it may hold, as the kernel reads it: bytes, or per cent of all memory.
        size: TmpfsSize,
        /// The mode of its root.
        mode: u16,
        /// The owner of its root.
        owner: Owner,
    },
    /// The processes of the namespace.
    Proc,
    /// The kernel's devices, read-only.
    Sysfs,
    /// Terminals of its own.
    Terminals,
    /// A folder. One that is there already gets this mode and owner, and keeps what is in it.
    Folder {
        /// Its mode.
        mode: u16,
        /// Its owner.
        owner: Owner,
    },
    /// A file with this content.
    File {
        /// What is in it.
        content: Vec<u8>,
        /// Its mode.
        mode: u16,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads.
        target: Vec<u8>,
    },
}

/// The size of a file system in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TmpfsSize {
    /// In bytes.
    Bytes(u64),
    /// In per cent of the machine's memory.
    Percent(u8),
}

/// A file or folder of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// What this handle stands for.
    Open(Handle),
    /// What is below an open folder, found without following any symlink.
    In {
        /// The folder.
        folder: Handle,
        /// The way from there.
        path: Below,
    },
}

/// Whom something in the root belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// Root of the machine where this program runs as root and the command isn't root inside;
    /// otherwise the command's user, as there's nobody else.
    Root,
    /// The user that the command runs as.
    Build,
    /// Root, and the group that the command runs as.
    RootAndBuildGroup,
}

/// Which system calls are refused, in all of the machine's ABIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyscallFilter {
    /// None. For those who ask for it by name, and for tests.
    Off,
    /// Making set-user and set-group files fails with `EPERM`, extended attributes with `ENOTSUP`
    /// (the newer `*xattrat` family with `ENOSYS`), and `io_uring`, which would get around the
    /// filter, with `ENOSYS`.
    Builds,
    /// As [`SyscallFilter::Builds`], and Unix sockets can't be made (`socketpair` works): nobody can
    /// pass an open file in or out by one.
    BuildsWithoutUnixSockets,
}

/// Whether the command is kept from abstract sockets and from signalling processes outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// No.
    Off,
    /// As far as this kernel can (Landlock, Linux 6.12 and later); [`Support`](crate::Support) says
    /// whether it can.
    WhereSupported,
    /// Yes; a kernel that can't is an error.
    Required,
}

/// The control group that the command starts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cgroup {
    /// That of the caller.
    Inherited,
    /// A folder of the second version's hierarchy, with nothing in it. The command is in it before
    /// it can do anything, and what is left in it in the end is killed. It isn't removed.
    Leaf(Handle),
}

/// One resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// What is limited.
    pub resource: Resource,
    /// The limit that counts; `None` is none.
    pub soft: Option<u64>,
    /// How far the command may raise it.
    pub hard: HardLimit,
}

/// How far a limit can be raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HardLimit {
    /// As far as the caller could.
    Unchanged,
    /// Up to this.
    To(u64),
}

/// What can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    /// The size of core dumps, in bytes.
    Core,
    /// Processor time, in seconds.
    Cpu,
    /// The size of files, in bytes.
    FileSize,
    /// Open files.
    OpenFiles,
    /// Processes of the user.
    Processes,
    /// The stack, in bytes.
    Stack,
    /// Address space, in bytes.
    AddressSpace,
}

/// What `uname` says and where memory is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Personality {
    /// Which machine the kernel claims to be.
    pub machine: Machine,
    /// Whether addresses differ from run to run.
    pub addresses: Addresses,
}

/// Which machine the kernel claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Machine {
    /// What it is.
    Native,
    /// Its 32-bit kin: i686 on x86_64, armv8l on aarch64.
    Linux32,
}

/// Whether addresses differ from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Addresses {
    /// They do.
    Random,
    /// They don't, which makes builds more alike.
    Fixed,
}

/// What happens to processes that outlive the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leftovers {
    /// They are killed, however they tried to get away.
    Kill,
    /// They stay. There is no use for this but to show in tests what the other prevents.
    Leave,
}
