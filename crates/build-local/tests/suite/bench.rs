//! A workbench: two stores with the same derivations, one for drover and one for stock Nix.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drover_build_local::{BuildUsers, LocalBuilder, LocalMachine, LocalSettings};
use drover_core::{StoreDir, StorePath};
use drover_derivation::{Derivation, derivation_name};
use drover_sandbox::LauncherProgram;
use drover_store::{
    BuildFailure, BuildLog, BuildOutcome, BuildPlan, BuildRequest, BuildWishes, Builder as _, Lane,
    LogEvent, Pending, Store as _,
};
use drover_store_local::{Access, Layout, LocalOptions, LocalStore};

/// Derivations for tests.
const CORPUS: &str = include_str!("corpus.nix");

/// Where the launcher is, for who can't go where it was built.
pub(crate) const LAUNCHER: &str = "DROVER_TEST_LAUNCHER";

/// Two stores, and what builds into one of them.
pub(crate) struct Bench {
    pub(crate) home: tempfile::TempDir,
    pub(crate) store: Arc<LocalStore>,
    pub(crate) builder: LocalBuilder,
    machine: LocalMachine,
    form: Form,
    /// The first of the users that builds can have.
    first: u32,
    /// Keeps its users from other tests.
    _users: UnixListener,
}

/// A build that runs.
pub(crate) struct Begun {
    /// Its queue, which it ends with.
    pub(crate) lane: Box<dyn Lane>,
    pub(crate) outcome: Pending<BuildOutcome>,
    pub(crate) heard: Arc<Heard>,
}

/// Where a store's files are.
#[derive(Clone, Copy)]
enum Form {
    /// Elsewhere than its paths say.
    Diverted,
    /// Where they say.
    InPlace,
}

/// Takes down what a build says.
#[derive(Default)]
pub(crate) struct Heard(Mutex<Vec<LogEvent>>);

impl BuildLog for Heard {
    fn event(&self, event: LogEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl Heard {
    pub(crate) fn lines(&self) -> Vec<String> {
        let events = self.0.lock().unwrap();
        let line = |event: &LogEvent| match event {
            LogEvent::Line(line) => Some(line.clone()),
            _ => None,
        };
        events.iter().filter_map(line).collect()
    }

    pub(crate) fn events(&self) -> Vec<LogEvent> {
        self.0.lock().unwrap().clone()
    }
}

/// Whose store is meant.
#[derive(Clone, Copy)]
pub(crate) enum Whose {
    Ours,
    Stock,
}

/// What builds can wait for: a file that they see as `/signal/go` when it's given.
pub(crate) struct Signal(tempfile::TempDir);

impl Signal {
    pub(crate) fn new() -> Signal {
        let everybodys = Permissions::from_mode(0o755);
        Signal(tempfile::Builder::new().permissions(everybodys).tempdir().unwrap())
    }

    pub(crate) fn show(&self, settings: &mut LocalSettings) {
        let path = format!("/signal={}", self.0.path().display());
        settings.paths.push(path.parse().unwrap());
    }

    pub(crate) fn give(&self) {
        std::fs::write(self.0.path().join("go"), "").unwrap();
    }
}

/// Shows builds the probe of `drover-sandbox` as `/probe`, with this machine's libraries, which it needs.
pub(crate) fn with_probe(settings: &mut LocalSettings) {
    let paths = ["/lib", "/lib64?", "/usr/lib", "/usr/lib64?"].map(str::to_owned);
    let probe = format!("/probe={}", probe().display());
    let paths = paths.into_iter().chain([probe]).map(|path| path.parse().unwrap());
    settings.paths.extend(paths);
}

/// The probe, which lies where the launcher does: building all of the workspace builds it.
pub(crate) fn probe() -> PathBuf {
    let launcher = Path::new(env!("CARGO_BIN_EXE_drover-build-local-launcher"));
    let probe = launcher.with_file_name("drover-sandbox-probe");
    assert!(
        probe.exists(),
        "'{}' is missing: 'cargo build --workspace --bins' makes it",
        probe.display()
    );
    probe
}

/// How many tests can have users of their own at a time.
const BLOCKS: u32 = 8192;

/// How many users each test has.
const EACH: u32 = 0x2_0000;

/// How long what comes soon may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Says which users were reserved for a test in another network, where names are others'.
pub(crate) const USERS: &str = "DROVER_TEST_USERS";

/// Returns users that no other test has, in this process or another, for as long as the socket is there: a
/// build kills all that runs as its own.
fn fresh_users() -> (u32, UnixListener) {
    let (own, held) = reserve();
    let given = std::env::var(USERS).ok();
    (given.map_or(own, |given| given.parse().unwrap()), held)
}

/// Returns the first of users that no other test has.
pub(crate) fn reserve() -> (u32, UnixListener) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let own = (std::process::id() % 256) * 32;
    loop {
        let at = own.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % BLOCKS;
        // a name that one can have at a time, and that goes with who has it
        let name = SocketAddr::from_abstract_name(format!("drover-test-users-{at}")).unwrap();
        match UnixListener::bind_addr(&name) {
            Ok(held) => {
                return (0x3800_0000 + at * EACH, held);
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}"),
        }
    }
}

pub(crate) fn launcher() -> LauncherProgram {
    let program = std::env::var_os(LAUNCHER).map(PathBuf::from);
    LauncherProgram {
        program: program
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_drover-build-local-launcher").into()),
        arguments: Vec::new(),
    }
}

fn system() -> String {
    format!("{}-linux", std::env::consts::ARCH)
}

fn layout(form: Form, root: &Path) -> Layout {
    let real = root.join("nix/store");
    Layout {
        name: "local".to_owned(),
        store_dir: match form {
            Form::Diverted => StoreDir::default(),
            Form::InPlace => real.to_str().unwrap().parse().unwrap(),
        },
        real,
        state: root.join("nix/var/nix"),
        log: root.join("nix/var/log/nix"),
        access: Access::ReadWrite,
    }
}

fn settings(first: u32) -> LocalSettings {
    let mut settings = LocalSettings::new(launcher(), &system());
    settings.users = BuildUsers::Allocated { first, count: EACH };
    settings
}

/// What builds into a store of a workbench that another process has, or another builder, with what keeps its users.
pub(crate) fn visitor(home: &Path) -> (LocalBuilder, UnixListener) {
    let store =
        LocalStore::new(layout(Form::Diverted, &home.join("ours")), LocalOptions::default());
    let (first, held) = fresh_users();
    (LocalBuilder::new(Arc::new(store), settings(first)), held)
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with(|_| {})
    }

    /// A workbench whose settings are changed.
    pub(crate) fn with(change: impl FnOnce(&mut LocalSettings)) -> Bench {
        Bench::of(Form::Diverted, change)
    }

    /// A workbench whose store's files are where its paths say.
    pub(crate) fn in_place(change: impl FnOnce(&mut LocalSettings)) -> Bench {
        Bench::of(Form::InPlace, change)
    }

    fn of(form: Form, change: impl FnOnce(&mut LocalSettings)) -> Bench {
        let home = tempfile::Builder::new().prefix("bench").tempdir().unwrap();
        let bin = home.path().join("tools/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::copy("/usr/bin/busybox", bin.join("busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", bin.join("sh")).unwrap();
        std::fs::write(home.path().join("corpus.nix"), CORPUS).unwrap();
        std::fs::write(home.path().join("process"), std::process::id().to_string()).unwrap();
        std::fs::create_dir(home.path().join("conf")).unwrap();
        let system = system();
        let conf = format!(
            "substituters =\nbuild-users-group =\nsandbox = true\nsystem = {system}\n\
             extra-platforms = i686-linux armv7l-linux\n\
             experimental-features = ca-derivations impure-derivations nix-command\n"
        );
        std::fs::write(home.path().join("conf/nix.conf"), conf).unwrap();
        let layout = layout(form, &home.path().join("ours"));
        let store = Arc::new(LocalStore::new(layout, LocalOptions::default()));
        let (first, held) = fresh_users();
        let mut settings = settings(first);
        settings.systems.extend(["i686-linux", "armv7l-linux"].map(str::to_owned));
        settings.cores = 3;
        if Path::new("/dev/kvm").exists() {
            settings.features.insert("kvm".to_owned());
        }
        change(&mut settings);
        let builder = LocalBuilder::new(Arc::clone(&store), settings);
        let machine = builder.machine();
        Bench { home, store, builder, machine, form, first, _users: held }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs a program of stock Nix on one of the stores.
    pub(crate) fn nix(&self, whose: Whose, program: &str, arguments: &[&str]) -> Output {
        let root = match whose {
            Whose::Ours => "ours",
            Whose::Stock => "stock",
        };
        let mut command = Command::new(program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NIX_")) {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .env("HOME", self.home.path())
            .env("NIX_CONF_DIR", self.path("conf"))
            .env("NIX_USER_CONF_FILES", "")
            .env("outside", "a variable from outside");
        let root = self.path(root);
        match self.form {
            Form::Diverted => {
                command.env("NIX_REMOTE", format!("local?root={}", root.display()));
            }
            Form::InPlace => {
                command
                    .env("NIX_REMOTE", "local")
                    .env("NIX_STORE_DIR", root.join("nix/store"))
                    .env("NIX_STATE_DIR", root.join("nix/var/nix"))
                    .env("NIX_LOG_DIR", root.join("nix/var/log/nix"));
            }
        }
        command.output().unwrap()
    }

    #[track_caller]
    pub(crate) fn nix_ok(&self, whose: Whose, program: &str, arguments: &[&str]) -> String {
        let output = self.nix(whose, program, arguments);
        assert!(output.status.success(), "{program} {arguments:?}: {output:#?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Makes a derivation of the corpus in one of the stores.
    #[track_caller]
    pub(crate) fn instantiate(&self, whose: Whose, attribute: &str) -> StorePath {
        let tools = self.path("tools");
        let file = self.path("corpus.nix");
        let arguments =
            [file.to_str().unwrap(), "-A", attribute, "--arg", "tools", tools.to_str().unwrap()];
        let text = self.nix_ok(whose, "nix-instantiate", &arguments);
        self.store.store_dir().parse(text.split('!').next().unwrap()).unwrap()
    }

    /// Builds a derivation with all that it depends on.
    pub(crate) async fn realise(&self, drv: &StorePath) -> (BuildOutcome, Arc<Heard>) {
        let text = self.store.read_files(std::slice::from_ref(drv)).await.unwrap();
        let name = derivation_name(drv).unwrap();
        let derivation = Derivation::parse_aterm(self.store.store_dir(), &name, &text[0]).unwrap();
        for input in derivation.input_derivations.keys() {
            let (outcome, heard) = Box::pin(self.realise(input)).await;
            let BuildOutcome::Built(_) = outcome else {
                panic!("{input}: {outcome:#?} {:#?}", heard.lines())
            };
        }
        self.build(drv, BuildWishes::default()).await
    }

    /// Builds one derivation.
    pub(crate) async fn build(
        &self,
        drv: &StorePath,
        wishes: BuildWishes,
    ) -> (BuildOutcome, Arc<Heard>) {
        let lane = self.machine.open_lane().await.unwrap();
        let heard = Arc::new(Heard::default());
        let request = request(drv, wishes);
        let outcome = lane.build(request, Arc::clone(&heard) as Arc<dyn BuildLog>).await.unwrap();
        drop(lane);
        self.builder.ended().await;
        (outcome, heard)
    }

    /// Starts to build a derivation whose inputs are there, and returns when it says something.
    pub(crate) async fn begin(&self, drv: &StorePath) -> Begun {
        let lane = self.machine.open_lane().await.unwrap();
        let heard = Arc::new(Heard::default());
        let log = Arc::clone(&heard) as Arc<dyn BuildLog>;
        let mut outcome = lane.build(request(drv, BuildWishes::default()), log);
        let ended = tokio::select! {
            () = until(|| !heard.lines().is_empty()) => None,
            ended = &mut outcome => Some(ended),
        };
        if let Some(ended) = ended {
            assert!(!heard.lines().is_empty(), "{ended:#?}");
            outcome = Box::pin(std::future::ready(ended));
        }
        Begun { lane, outcome, heard }
    }

    /// Returns the first of the users that its builds can have.
    pub(crate) fn first_user(&self) -> u32 {
        self.first
    }

    /// Returns the numbers of all processes that run of its builds: as one of its users, or with a path in their
    /// command lines or environments that only its derivations know.
    pub(crate) fn running(&self) -> Vec<i32> {
        let users = self.first..self.first + EACH;
        let mark = self.home.path().as_os_str().as_encoded_bytes();
        let is_of_build = |number: &i32| {
            let lives = status(*number, "State:").is_some_and(|it| !it.starts_with(['Z', 'X']));
            let user = status(*number, "Uid:");
            let user = user.and_then(|ids| ids.split_whitespace().next()?.parse().ok());
            let is_marked = ["cmdline", "environ"].iter().any(|file| {
                let text = std::fs::read(format!("/proc/{number}/{file}")).unwrap_or_default();
                text.windows(mark.len()).any(|part| part == mark)
            });
            lives && (is_marked || user.is_some_and(|user| users.contains(&user)))
        };
        processes().into_iter().filter(is_of_build).collect()
    }

    /// Builds a derivation once more that was built before, and compares.
    pub(crate) async fn check(
        &self,
        drv: &StorePath,
        wishes: BuildWishes,
    ) -> (BuildOutcome, Arc<Heard>) {
        let lane = self.machine.open_lane().await.unwrap();
        let heard = Arc::new(Heard::default());
        let log = Arc::clone(&heard) as Arc<dyn BuildLog>;
        let outcome = lane.check(request(drv, wishes), log).await.unwrap();
        drop(lane);
        self.builder.ended().await;
        (outcome, heard)
    }

    /// Builds a derivation of the corpus that must fail.
    pub(crate) async fn fail(&self, attribute: &str) -> (BuildFailure, Arc<Heard>) {
        let drv = self.instantiate(Whose::Ours, attribute);
        let (outcome, heard) = self.realise(&drv).await;
        match outcome {
            BuildOutcome::Failed(failure) => (failure, heard),
            built => panic!("{built:#?} {:#?}", heard.lines()),
        }
    }

    /// Builds a derivation of the corpus that must go well, and returns its outputs' real paths.
    pub(crate) async fn succeed(&self, attribute: &str) -> BTreeMap<String, PathBuf> {
        let drv = self.instantiate(Whose::Ours, attribute);
        let (outcome, heard) = self.realise(&drv).await;
        match outcome {
            BuildOutcome::Built(built) => built
                .outputs
                .into_iter()
                .map(|(name, info)| (name, self.store.layout().real_path(&info.path)))
                .collect(),
            failed => panic!("{attribute}: {failed:#?} {:#?}", heard.lines()),
        }
    }

    /// What the store knows of some paths: name, hash, size, deriver and references.
    pub(crate) fn known(&self, whose: Whose, paths: &BTreeSet<String>) -> String {
        let mut arguments = vec!["--dump-db"];
        arguments.extend(paths.iter().map(String::as_str));
        self.nix_ok(whose, "nix-store", &arguments)
    }

    /// Checks that stock Nix finds the store sound, and that no build has left anything, nor anybody.
    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        assert_eq!(self.running(), Vec::<i32>::new(), "something of a build runs");
        let output = self.nix(Whose::Ours, "nix-store", &["--verify", "--check-contents"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && !said.contains("error"), "{output:#?}");
        assert_eq!(names(&self.path("ours/nix/var/nix/builds")), Vec::<String>::new());
        let valid = self.nix_ok(Whose::Ours, "nix", &["path-info", "--all"]);
        let known: BTreeSet<&str> = valid.lines().collect();
        for name in names(&self.path("ours/nix/store")) {
            let path = format!("{}/{name}", self.store.store_dir());
            assert!(name.starts_with('.') || known.contains(path.as_str()), "{name} is left");
        }
    }
}

pub(crate) fn request(drv: &StorePath, wishes: BuildWishes) -> BuildRequest {
    BuildRequest {
        derivation: drv.clone(),
        outputs: BTreeSet::new(),
        known_outputs: BTreeMap::new(),
        plan: BuildPlan::FromStore,
        wishes,
        bring: None,
    }
}

/// Returns the numbers of all processes.
pub(crate) fn processes() -> Vec<i32> {
    let names = std::fs::read_dir("/proc").unwrap().map(|it| it.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).collect()
}

/// Returns what the kernel says of a process, if it's there.
pub(crate) fn status(number: i32, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{number}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field)).map(|it| it.trim().to_owned())
}

/// Waits until something is so.
pub(crate) async fn until(is_so: impl Fn() -> bool) {
    let comes_so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, comes_so).await.expect("it didn't come so");
}

/// Returns what is in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
