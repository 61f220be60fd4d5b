//! Plans around the probe, and what comes out of them.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use drover_sandbox::{
    Access, Addresses, Cgroup, Command, Content, Ended, Forwarder, Handle, Handles, HardLimit,
    Identity, Ids, Isolation, Launcher, LauncherProgram, Leftovers, Limit, Machine, Mount,
    Namespaces, Network, Owner, Personality, Plan, Program, Resource, Root, Running, Scope, Source,
    SpawnError, SyscallFilter, Target, TmpfsSize, UserNamespace,
};
use rustix::fs::{Mode, OFlags};

/// The program that looks around and attacks.
pub(crate) fn probe() -> &'static str {
    env!("CARGO_BIN_EXE_drover-sandbox-probe")
}

/// What the command's user is inside.
pub(crate) const INSIDE: Ids = Ids { uid: 1000, gid: 100 };

/// Users that tests of one process may have.
const PER_PROCESS: u32 = 4096;

/// Returns a user that no other test has, in this process or another.
pub(crate) fn fresh_user() -> Ids {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id() % 100_000;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(number < PER_PROCESS, "who comes again kills what runs as who was before");
    let id = 1_000_000 + own * PER_PROCESS + number;
    Ids { uid: id, gid: id }
}

/// Returns a range of users that no other test has.
pub(crate) fn fresh_range() -> Identity {
    let own = std::process::id() % 4096;
    let id = 0x4000_0000 + own * 65_536;
    Identity::Range { first: Ids { uid: id, gid: id }, count: 65_536 }
}

/// A launcher, a plan's files, and a folder that the command may write to.
pub(crate) struct Scene {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) launcher: Launcher,
    pub(crate) handles: Handles,
    output: OwnedFd,
    pub(crate) output_handle: Handle,
    pub(crate) start: Start,
}

/// Whether a supervisor is there before its command is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// It is, where the plan allows it, as for all builds but the first.
    Ahead,
    /// It isn't.
    Fresh,
}

pub(crate) fn launcher_program() -> LauncherProgram {
    LauncherProgram { program: probe().into(), arguments: vec!["launcher".into()] }
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("build")).unwrap();
        let launcher = Launcher::start(&launcher_program()).unwrap();
        let (output, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut handles = Handles::new();
        let output_handle = handles.add(writer);
        Scene { folder, launcher, handles, output, output_handle, start: Start::Ahead }
    }

    /// The folder that is `/build` inside.
    pub(crate) fn build(&self) -> PathBuf {
        self.folder.path().join("build")
    }

    pub(crate) fn open(&mut self, path: impl AsRef<Path>) -> Handle {
        self.handles.add(open_path(path.as_ref()))
    }

    /// A plan without any namespaces.
    pub(crate) fn bare(&self, identity: Identity, arguments: &[&str]) -> Plan {
        if let Identity::User(ids) = identity {
            std::os::unix::fs::chown(self.build(), Some(ids.uid), Some(ids.gid)).unwrap();
            // The folder's own folder lets nobody through else.
            fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
        }
        bare_plan(identity, self.output_handle, probe(), &self.build(), arguments)
    }

    /// A plan with all of them.
    pub(crate) fn sandboxed(&mut self, identity: Identity, arguments: &[&str]) -> Plan {
        let mut plan = self.bare(identity, arguments);
        if let Identity::Range { first, .. } = identity {
            std::os::unix::fs::chown(self.build(), Some(first.uid), Some(first.gid)).unwrap();
        }
        let build = self.build();
        let (namespaces, files) = namespaces(&build, self.handles.len());
        for file in files.iter().skip(self.handles.len()) {
            self.handles.add(open_path(Path::new(file)));
        }
        plan.command.program = drover_sandbox::Program::File(b"/probe".to_vec());
        plan.command.folder = b"/build".to_vec();
        plan.isolation = Isolation::Namespaces(Box::new(namespaces));
        plan
    }

    pub(crate) async fn spawn(&self, plan: &Plan) -> Result<Running, SpawnError> {
        if let (Start::Ahead, Isolation::Namespaces(_)) = (self.start, &plan.isolation) {
            let mut before = plan.clone();
            before.command.program = Program::File(b"/bin/true".to_vec());
            // some plans are there to fail
            if let Ok(mut running) = self.launcher.spawn(&before, &self.handles).await {
                running.wait().await.ok();
            }
        }
        self.launcher.spawn(plan, &self.handles).await
    }

    /// Runs a plan to its end, and returns what it has printed too.
    pub(crate) async fn run(self, plan: &Plan) -> (Ended, String) {
        let mut running = self.spawn(plan).await.unwrap();
        let ended = running.wait().await.unwrap();
        (ended, self.output())
    }

    /// Returns what was printed, when all that could print has ended.
    pub(crate) fn output(mut self) -> String {
        self.handles = Handles::new();
        let mut text = String::new();
        File::from(self.output).read_to_string(&mut text).unwrap();
        text
    }

    /// Reads the next line that the command prints.
    pub(crate) fn line(&self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while rustix::io::read(&self.output, &mut byte).unwrap() == 1 && byte != [b'\n'] {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }
}

pub(crate) fn open_path(path: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

/// A plan without any namespaces, whose output is `output`.
pub(crate) fn bare_plan(
    identity: Identity,
    output: Handle,
    program: &str,
    folder: &Path,
    arguments: &[&str],
) -> Plan {
    let arguments = ["probe"].iter().chain(arguments).map(|it| it.as_bytes().to_vec()).collect();
    Plan {
        command: Command {
            program: Program::File(program.into()),
            arguments,
            environment: vec![(b"NAME".to_vec(), b"value \xff".to_vec())],
            folder: folder.as_os_str().as_encoded_bytes().to_vec(),
            output,
            umask: 0o022,
        },
        identity,
        isolation: Isolation::None,
        filter: SyscallFilter::Builds,
        scope: Scope::WhereSupported,
        cgroup: Cgroup::Inherited,
        limits: vec![
            Limit { resource: Resource::Core, soft: Some(0), hard: HardLimit::Unchanged },
            // So that what goes wrong here does it to itself.
            Limit { resource: Resource::Processes, soft: Some(200), hard: HardLimit::To(200) },
        ],
        personality: Personality { machine: Machine::Native, addresses: Addresses::Fixed },
        oom_score: Some(500),
        groups: vec![],
        leftovers: Leftovers::Kill,
    }
}

/// Surroundings with the machine's libraries and the probe, and the files that they are made of. The
/// first handle is given to the first of them that isn't the output's.
pub(crate) fn namespaces(build: &Path, first: usize) -> (Namespaces, Vec<String>) {
    let mut files: Vec<String> = (0..first).map(|_| String::new()).collect();
    let mut numbered = Handles::new();
    for _ in 0..first {
        numbered.add(open_path(Path::new("/")));
    }
    let mut mounts = Vec::new();
    let mut add = |at: &str, from: &Path, access: Option<Access>| {
        if fs::symlink_metadata(from).is_err() {
            return;
        }
        files.push(from.display().to_string());
        let source = Source::Open(numbered.add(open_path(from)));
        let what = match access {
            Some(access) => Content::Bind { source, access },
            None => Content::Device(source),
        };
        mounts.push(Mount { at: Target::new(at).unwrap(), what });
    };
    for folder in ["/usr", "/bin", "/lib", "/lib64"] {
        add(folder, Path::new(folder), Some(Access::ReadOnly));
    }
    add("/probe", Path::new(probe()), Some(Access::ReadOnly));
    add("/build", build, Some(Access::ReadWrite));
    for device in ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"] {
        add(device, Path::new(device), None);
    }
    let put = |at: &str, what| Mount { at: Target::new(at).unwrap(), what };
    let memory = TmpfsSize::Percent(10);
    let link = |target: &str| Content::Symlink { target: target.into() };
    let recurring = vec![
        put("/proc", Content::Proc),
        put("/dev/pts", Content::Terminals),
        put("/dev/ptmx", link("pts/ptmx")),
        put("/dev/shm", Content::Tmpfs { size: memory, mode: 0o1777, owner: Owner::Root }),
        put("/dev/fd", link("/proc/self/fd")),
        put("/dev/stdout", link("/proc/self/fd/1")),
        put("/dev/stderr", link("/proc/self/fd/2")),
        put("/tmp", Content::Tmpfs { size: memory, mode: 0o1777, owner: Owner::Root }),
        put("/etc/passwd", Content::File { content: b"root:x:0:0:::\n".to_vec(), mode: 0o444 }),
    ];
    let namespaces = Namespaces {
        users: UserNamespace::Private { appears_as: INSIDE },
        network: Network::Private,
        root: Root::Tmpfs { size: 1 << 20 },
        root_access: Access::ReadOnly,
        recurring,
        mounts,
        hostname: b"localhost".to_vec(),
        domainname: b"(none)".to_vec(),
    };
    (namespaces, files)
}

/// A network with a way out.
pub(crate) fn forwarded() -> Network {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = std::env::split_paths(&path).map(|folder| folder.join("pasta"));
    let program = files.find(|file| file.exists()).expect("apt install passt");
    Network::Forwarded(Forwarder { program })
}

/// Changes a plan's surroundings.
pub(crate) fn change(plan: &mut Plan, how: impl FnOnce(&mut Namespaces)) {
    match &mut plan.isolation {
        Isolation::Namespaces(namespaces) => how(namespaces),
        Isolation::None => panic!("there are no namespaces in this plan"),
    }
}

/// Waits until something is so, and says how long it took; `None` if it didn't come so in time.
pub(crate) fn within(limit: Duration, mut is_so: impl FnMut() -> bool) -> Option<Duration> {
    let start = Instant::now();
    loop {
        if is_so() {
            return Some(start.elapsed());
        }
        if limit < start.elapsed() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns the processes of a user that haven't ended.
pub(crate) fn processes_of(uid: u32) -> Vec<i32> {
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    let numbers = numbers.filter_map(|it| it.file_name().to_str()?.parse::<i32>().ok());
    let is_of = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
        };
        let lives = !line("State:").trim_start().starts_with(['Z', 'X']);
        lives && line("Uid:").split_whitespace().next() == Some(&uid.to_string())
    };
    numbers.filter(is_of).collect()
}
