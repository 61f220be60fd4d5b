//! What hostile commands try, and what happens when those who watch them die.
//!
//! Each attack is also made without the defence that it's about, and has to succeed then: else the
//! test would say nothing.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command as Program, Stdio};
use std::time::Duration;

use crate::support::{Scene, change, forwarded, fresh_user, probe, processes_of, within};
use drover_sandbox::{
    Access, Cause, Content, Exit, Identity, Ids, Leftovers, Mount, Network, Owner, Plan, Root,
    Scope, Source, SpawnError, SyscallFilter, Target, TmpfsSize, WaitError,
};
use rstest::rstest;

/// How long what was killed may take to be gone: many processes at once on a busy machine.
const SOON: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug)]
enum Way {
    Sandboxed,
    Bare,
}

fn plan(scene: &mut Scene, way: Way, user: Ids, arguments: &[&str]) -> Plan {
    match way {
        Way::Sandboxed => scene.sandboxed(Identity::User(user), arguments),
        Way::Bare => scene.bare(Identity::User(user), arguments),
    }
}

fn gone(user: Ids) -> bool {
    within(SOON, || processes_of(user.uid).is_empty()).is_some()
}

/// A command that has left a process behind: of another session, deaf to signals.
#[rstest]
#[case::sandboxed(Way::Sandboxed)]
#[case::bare(Way::Bare)]
#[tokio::test]
async fn nothing_is_left_when_a_command_ends(#[case] way: Way) {
    let mut scene = Scene::new();
    let user = fresh_user();
    let mut plan = plan(&mut scene, way, user, &["escape", "600"]);
    let mut running = scene.spawn(&plan).await.unwrap();
    let ended = running.wait().await.unwrap();
    assert_eq!((ended.exit, ended.cause), (Exit::Code(0), Cause::Itself));
    assert!(processes_of(user.uid).is_empty());

    plan = scene.bare(Identity::User(user), &["escape", "600"]);
    plan.leftovers = Leftovers::Leave;
    let mut running = scene.spawn(&plan).await.unwrap();
    running.wait().await.unwrap();
    assert_eq!(processes_of(user.uid).len(), 1, "without the defence, it stays");
    scene.launcher.kill_users(user, 1).await.unwrap();
    assert!(gone(user));
}

#[rstest]
#[case::stubborn_sandboxed(Way::Sandboxed, "stubborn")]
#[case::stubborn_bare(Way::Bare, "stubborn")]
#[case::bomb_sandboxed(Way::Sandboxed, "bomb")]
#[case::bomb_bare(Way::Bare, "bomb")]
#[tokio::test]
async fn nothing_is_left_when_a_command_is_killed(#[case] way: Way, #[case] attack: &str) {
    let mut scene = Scene::new();
    let user = fresh_user();
    let plan = plan(&mut scene, way, user, &[attack]);
    let mut running = scene.spawn(&plan).await.unwrap();
    scene.line();
    assert!(within(SOON, || 1 < processes_of(user.uid).len()).is_some());
    let ended = running.kill().await.unwrap();
    assert_eq!((ended.exit, ended.cause), (Exit::Signal(9), Cause::Killed));
    assert!(gone(user));
}

#[rstest]
#[case::stubborn(Way::Bare, "stubborn")]
#[case::bomb(Way::Bare, "bomb")]
#[tokio::test]
async fn without_the_defence_something_is_left(#[case] way: Way, #[case] attack: &str) {
    let mut scene = Scene::new();
    let user = fresh_user();
    let mut plan = plan(&mut scene, way, user, &[attack]);
    plan.leftovers = Leftovers::Leave;
    let mut running = scene.spawn(&plan).await.unwrap();
    scene.line();
    assert!(within(SOON, || 1 < processes_of(user.uid).len()).is_some());
    running.kill().await.unwrap();
    assert!(!processes_of(user.uid).is_empty());
    scene.launcher.kill_users(user, 1).await.unwrap();
    assert!(gone(user));
}

#[tokio::test]
async fn dropping_kills_too() {
    let mut scene = Scene::new();
    let user = fresh_user();
    let plan = scene.sandboxed(Identity::User(user), &["stubborn"]);
    let running = scene.spawn(&plan).await.unwrap();
    scene.line();
    assert!(!processes_of(user.uid).is_empty());
    drop(running);
    assert!(gone(user));
}

/// A caller in a process of its own, which can be killed.
struct Caller {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Caller {
    /// Starts one that runs a plan, as root or as somebody else.
    fn start(scene: &Scene, plan: &Plan, files: &[String], user: Option<Ids>) -> Caller {
        use std::os::unix::process::CommandExt as _;
        let text = scene.folder.path().join("plan");
        fs::write(&text, postcard::to_stdvec(plan).unwrap()).unwrap();
        let program = scene.folder.path().join("probe");
        // By a process of its own: what another thread of this one forks would keep a file that is
        // written here open, and then it can't be started.
        if !program.exists() {
            let copied = Program::new("cp").arg(probe()).arg(&program).status().unwrap();
            assert!(copied.success());
        }
        let mut command = Program::new(&program);
        command.arg("caller").arg(&program).arg(&text).args(files).stdout(Stdio::piped());
        if let Some(Ids { uid, gid }) = user {
            command.uid(uid).gid(gid);
        }
        let mut process = command.spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Caller { process, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }
}

/// The files of a scene by their paths, for a caller in another process.
fn paths(scene: &Scene, way: Way) -> Vec<String> {
    let output = scene.folder.path().join("output");
    File::create(&output).unwrap();
    let mut paths = vec![format!("+{}", output.display())];
    if let Way::Sandboxed = way {
        let (_, files) = crate::support::namespaces(&scene.build(), 1);
        paths.extend(files.into_iter().skip(1));
    }
    paths
}

#[rstest]
#[case::stubborn_sandboxed(Way::Sandboxed, "stubborn")]
#[case::stubborn_bare(Way::Bare, "stubborn")]
#[case::bomb_sandboxed(Way::Sandboxed, "bomb")]
#[case::bomb_bare(Way::Bare, "bomb")]
#[tokio::test]
async fn nothing_is_left_when_the_caller_is_killed(#[case] way: Way, #[case] attack: &str) {
    let mut scene = Scene::new();
    let user = fresh_user();
    let mut plan = plan(&mut scene, way, user, &[attack]);
    let files = paths(&scene, way);
    let mut caller = Caller::start(&scene, &plan, &files, None);
    assert!(caller.line().starts_with("started"));
    assert!(within(SOON, || 1 < processes_of(user.uid).len()).is_some());
    caller.process.kill().unwrap();
    assert_eq!(caller.process.wait().unwrap().signal(), Some(9));
    assert!(gone(user));

    plan = scene.bare(Identity::User(user), &[attack]);
    plan.leftovers = Leftovers::Leave;
    let mut caller = Caller::start(&scene, &plan, &files, None);
    assert!(caller.line().starts_with("started"));
    assert!(within(SOON, || 1 < processes_of(user.uid).len()).is_some());
    caller.process.kill().unwrap();
    caller.process.wait().unwrap();
    // Long enough for what is killed to be gone.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!processes_of(user.uid).is_empty(), "without the defence, something stays");
    scene.launcher.kill_users(user, 1).await.unwrap();
    assert!(gone(user));
}

/// What the command's processes are kept from: taking hold of who watches them, who couldn't kill them then.
const REFUSED: &str = "Operation not permitted (os error 1)";

#[rstest]
#[case::sandboxed(Way::Sandboxed)]
#[case::bare(Way::Bare)]
#[tokio::test]
async fn a_command_cannot_take_hold_of_its_supervisor(#[case] way: Way) {
    let mut scene = Scene::new();
    let user = fresh_user();
    let plan = plan(&mut scene, way, user, &["trace-parent"]);
    let mut running = scene.spawn(&plan).await.unwrap();
    let expected = match way {
        // who that is isn't known there
        Way::Sandboxed => "no parent",
        Way::Bare => REFUSED,
    };
    assert_eq!(scene.line(), expected);
    running.kill().await.unwrap();
    assert!(gone(user));
}

/// Nor can it where its supervisor is of the same user, where the kernel's Landlock can do that much.
#[tokio::test]
async fn without_root_it_cannot_take_hold_of_its_supervisor_either() {
    let scene = Scene::new();
    if !Scope::is_supported() {
        return;
    }
    let user = fresh_user();
    let mut plan = scene.bare(Identity::User(user), &["trace-parent"]);
    plan.identity = Identity::Caller;
    let files = paths(&scene, Way::Bare);
    let output = scene.folder.path().join("output");
    std::os::unix::fs::chown(&output, Some(user.uid), Some(user.gid)).unwrap();
    let mut caller = Caller::start(&scene, &plan, &files, Some(user));
    let first = caller.line();
    assert!(first.starts_with("started"), "{first}");
    let said = || fs::read_to_string(&output).unwrap();
    assert!(within(SOON, || said().contains('\n')).is_some());
    let first = said().lines().next().unwrap().to_owned();
    caller.process.kill().unwrap();
    caller.process.wait().unwrap();
    let is_gone = gone(user);
    if !is_gone {
        scene.launcher.kill_users(user, 1).await.unwrap();
    }
    assert_eq!(first, REFUSED);
    assert!(is_gone);
}

fn parent_of(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).unwrap()
}

/// Even if somebody kills the very process that watches.
#[rstest]
#[case::sandboxed(Way::Sandboxed)]
#[case::bare(Way::Bare)]
#[tokio::test]
async fn nothing_is_left_when_the_supervisor_is_killed(#[case] way: Way) {
    let mut scene = Scene::new();
    let user = fresh_user();
    let plan = plan(&mut scene, way, user, &["stubborn"]);
    let mut running = scene.spawn(&plan).await.unwrap();
    scene.line();
    let supervisor = rustix::process::Pid::from_raw(parent_of(running.pid())).unwrap();
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
    assert!(matches!(running.wait().await, Err(WaitError::Vanished)));
    assert!(gone(user));
}

/// Commands don't need the launcher that started them, and the next is started by another.
#[tokio::test]
async fn a_killed_launcher_is_replaced() {
    let mut scene = Scene::new();
    let user = fresh_user();
    let plan = scene.sandboxed(Identity::User(user), &["stubborn"]);
    let mut running = scene.spawn(&plan).await.unwrap();
    scene.line();
    let launcher = parent_of(parent_of(running.pid()));
    let launcher = rustix::process::Pid::from_raw(launcher).unwrap();
    rustix::process::kill_process(launcher, rustix::process::Signal::KILL).unwrap();

    let mut other = scene.bare(Identity::User(fresh_user()), &[]);
    other.command.program = drover_sandbox::Program::File(b"/bin/true".to_vec());
    // A request that the launcher took with it into its grave is an error that says so.
    let mut tries = 0;
    let mut next = loop {
        tries += 1;
        match scene.spawn(&other).await {
            Err(SpawnError::Vanished) if tries < 5 => {}
            spawned => break spawned.unwrap(),
        }
    };
    assert_eq!(next.wait().await.unwrap().exit, Exit::Code(0));
    assert!(!processes_of(user.uid).is_empty());
    running.kill().await.unwrap();
    assert!(gone(user));
}

#[tokio::test]
async fn what_is_left_of_an_earlier_command_is_killed_before_the_next() {
    let mut scene = Scene::new();
    let user = fresh_user();
    let mut plan = scene.bare(Identity::User(user), &["escape", "600"]);
    plan.leftovers = Leftovers::Leave;
    scene.spawn(&plan).await.unwrap().wait().await.unwrap();
    assert_eq!(processes_of(user.uid).len(), 1);
    let plan = scene.sandboxed(Identity::User(user), &["stubborn"]);
    let mut running = scene.spawn(&plan).await.unwrap();
    scene.line();
    scene.line();
    assert_eq!(processes_of(user.uid).len(), 2, "the new ones only");
    running.kill().await.unwrap();
}

/// Without root: in namespaces, and without.
#[rstest]
#[case::sandboxed_escape(Way::Sandboxed, "escape")]
#[case::sandboxed_stubborn(Way::Sandboxed, "stubborn")]
#[case::bare_stubborn(Way::Bare, "stubborn")]
#[case::bare_bomb(Way::Bare, "bomb")]
#[tokio::test]
async fn nothing_is_left_without_root_either(#[case] way: Way, #[case] attack: &str) {
    let mut scene = Scene::new();
    let user = fresh_user();
    // As for a user of the build's own, and then as who calls.
    let arguments: &[&str] = if attack == "escape" { &["escape", "600"] } else { &[attack] };
    let mut plan = plan(&mut scene, way, user, arguments);
    plan.identity = Identity::Caller;
    let files = paths(&scene, way);
    let output = scene.folder.path().join("output");
    std::os::unix::fs::chown(&output, Some(user.uid), Some(user.gid)).unwrap();
    let mut caller = Caller::start(&scene, &plan, &files, Some(user));
    let first = caller.line();
    assert!(first.starts_with("started"), "{first}");
    if attack == "escape" {
        let ended = caller.line();
        assert!(ended.contains("Code(0)"), "{ended}");
        caller.process.wait().unwrap();
    } else {
        assert!(within(SOON, || fs::metadata(&output).unwrap().len() != 0).is_some());
        caller.process.kill().unwrap();
        caller.process.wait().unwrap();
    }
    assert!(gone(user), "{:?}", processes_of(user.uid));
}

/// The same, seen from inside.
#[tokio::test]
async fn without_root_a_command_is_as_unprivileged() {
    let mut scene = Scene::new();
    let user = fresh_user();
    let mut plan = scene.sandboxed(Identity::User(user), &["report"]);
    plan.identity = Identity::Caller;
    let files = paths(&scene, Way::Sandboxed);
    let output = scene.folder.path().join("output");
    std::os::unix::fs::chown(&output, Some(user.uid), Some(user.gid)).unwrap();
    let mut caller = Caller::start(&scene, &plan, &files, Some(user));
    let first = caller.line();
    assert!(first.starts_with("started"), "{first}");
    assert!(caller.line().contains("Code(0)"));
    caller.process.wait().unwrap();
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(output).unwrap()).unwrap();
    assert_eq!(report["Uid"], "1000 1000 1000 1000");
    assert_eq!(report["uid_map"], format!("1000 {} 1", user.uid));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(report[set], "0000000000000000", "{set}");
    }
    assert_eq!((&report["NoNewPrivs"], &report["Seccomp"]), (&"1".into(), &"2".into()));
    assert_eq!(report["interfaces"], serde_json::json!(["lo"]));
    for namespace in ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"] {
        let here = fs::read_link(format!("/proc/self/ns/{namespace}")).unwrap();
        assert_ne!(report["namespaces"][namespace], here.display().to_string(), "{namespace}");
    }
}

/// Which way an open file goes.
#[derive(Clone, Copy, Debug)]
enum Direction {
    /// The command goes to a listener outside.
    Outwards,
    /// Somebody outside comes to the command.
    Inwards,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Smuggled {
    Yes,
    No,
}

/// A command hands its output, open for writing, to an accomplice, who writes to it.
#[rstest]
#[case::out_private(
    Direction::Outwards,
    Network::Private,
    Scope::Off,
    SyscallFilter::Builds,
    Smuggled::No
)]
#[case::out_forwarded(
    Direction::Outwards,
    forwarded(),
    Scope::Off,
    SyscallFilter::Builds,
    Smuggled::No
)]
#[case::out_scoped(
    Direction::Outwards,
    Network::Host,
    Scope::Required,
    SyscallFilter::Builds,
    Smuggled::No
)]
#[case::out_filtered(
    Direction::Outwards,
    Network::Host,
    Scope::Off,
    SyscallFilter::BuildsWithoutUnixSockets,
    Smuggled::No
)]
#[case::out_undefended(
    Direction::Outwards,
    Network::Host,
    Scope::Off,
    SyscallFilter::Builds,
    Smuggled::Yes
)]
#[case::in_private(
    Direction::Inwards,
    Network::Private,
    Scope::Off,
    SyscallFilter::Builds,
    Smuggled::No
)]
#[case::in_forwarded(
    Direction::Inwards,
    forwarded(),
    Scope::Off,
    SyscallFilter::Builds,
    Smuggled::No
)]
#[case::in_filtered(
    Direction::Inwards,
    Network::Host,
    Scope::Off,
    SyscallFilter::BuildsWithoutUnixSockets,
    Smuggled::No
)]
#[case::in_undefended(
    Direction::Inwards,
    Network::Host,
    Scope::Off,
    SyscallFilter::Builds,
    Smuggled::Yes
)]
// What `Network::Host` says of itself: this is not closed.
#[case::in_scoped(
    Direction::Inwards,
    Network::Host,
    Scope::Required,
    SyscallFilter::Builds,
    Smuggled::Yes
)]
#[tokio::test]
async fn open_files_are_not_smuggled(
    #[case] direction: Direction,
    #[case] network: Network,
    #[case] scope: Scope,
    #[case] filter: SyscallFilter,
    #[case] expected: Smuggled,
) {
    let mut scene = Scene::new();
    let user = fresh_user();
    let name = format!("drover-test-{}", user.uid);
    let inside = match direction {
        Direction::Outwards => ["hand-over", &name, "/build/out"],
        Direction::Inwards => ["give", &name, "/build/out"],
    };
    let mut plan = scene.sandboxed(Identity::User(user), &inside);
    change(&mut plan, |it| it.network = network);
    (plan.scope, plan.filter) = (scope, filter);
    let outside = |word: &str| {
        let mut program = Program::new(probe());
        program.args([word, &name]).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut accomplice = match direction {
        Direction::Outwards => {
            let mut accomplice = outside("listen");
            let stdout = accomplice.stdout.take().unwrap();
            let listening = BufReader::new(stdout).lines().next().unwrap().unwrap();
            assert_eq!(listening, "listening");
            accomplice
        }
        Direction::Inwards => outside("report"),
    };
    let mut running = scene.spawn(&plan).await.unwrap();
    if let Direction::Inwards = direction {
        accomplice.wait().unwrap();
        // It listens, or has said why it can't.
        scene.line();
        accomplice = outside("fetch");
        accomplice.wait().unwrap();
    }
    if let (Direction::Inwards, Smuggled::No) = (direction, expected) {
        running.kill().await.unwrap();
    }
    running.wait().await.unwrap();
    accomplice.kill().unwrap();
    accomplice.wait().unwrap();
    let content = fs::read_to_string(scene.build().join("out")).unwrap();
    let smuggled = if content.is_empty() { Smuggled::No } else { Smuggled::Yes };
    assert_eq!(smuggled, expected, "{content}");
}

/// The same between two commands, both with the machine's network.
#[rstest]
#[case::scoped(Scope::Required, Smuggled::No)]
#[case::undefended(Scope::Off, Smuggled::Yes)]
#[tokio::test]
async fn commands_do_not_meet(#[case] scope: Scope, #[case] expected: Smuggled) {
    let (mut listening, mut handing) = (Scene::new(), Scene::new());
    let name = format!("drover-meeting-{}", fresh_user().uid);
    let mut listener = listening.sandboxed(Identity::User(fresh_user()), &["listen", &name]);
    let arguments = ["hand-over", name.as_str(), "/build/out"];
    let mut hander = handing.sandboxed(Identity::User(fresh_user()), &arguments);
    for plan in [&mut listener, &mut hander] {
        change(plan, |it| it.network = Network::Host);
        plan.scope = scope;
    }
    let mut waits = listening.spawn(&listener).await.unwrap();
    assert_eq!(listening.line(), "listening");
    handing.spawn(&hander).await.unwrap().wait().await.unwrap();
    waits.kill().await.unwrap();
    let content = fs::read_to_string(handing.build().join("out")).unwrap();
    let smuggled = if content.is_empty() { Smuggled::No } else { Smuggled::Yes };
    assert_eq!(smuggled, expected, "{content}");
}

/// A root that somebody has prepared: where something is to be put, a symlink leads out of it.
#[rstest]
#[case::file("/link", Content::File { content: b"planted".to_vec(), mode: 0o666 })]
#[case::file_below("/links/file", Content::File { content: b"planted".to_vec(), mode: 0o666 })]
#[case::folder("/links", Content::Folder { mode: 0o777, owner: Owner::Build })]
#[case::folder_below("/links/new", Content::Folder { mode: 0o777, owner: Owner::Build })]
#[case::symlink_below("/links/new", Content::Symlink { target: b"x".to_vec() })]
#[case::memory("/links", Content::Tmpfs { size: TmpfsSize::Bytes(4096), mode: 0o777, owner: Owner::Build })]
#[case::memory_below("/links/new", Content::Tmpfs { size: TmpfsSize::Bytes(4096), mode: 0o777, owner: Owner::Build })]
#[case::processes("/links", Content::Proc)]
#[tokio::test]
async fn no_symlink_is_followed_at_a_place(#[case] at: &str, #[case] what: Content) {
    let mut scene = Scene::new();
    let sentinel = scene.folder.path().join("sentinel");
    fs::create_dir(&sentinel).unwrap();
    fs::write(sentinel.join("file"), "untouched").unwrap();
    let root = scene.folder.path().join("root");
    fs::create_dir(&root).unwrap();
    symlink(&sentinel, root.join("links")).unwrap();
    symlink(sentinel.join("file"), root.join("link")).unwrap();
    let before = state(&sentinel);

    let mut plan = scene.sandboxed(Identity::User(fresh_user()), &["report"]);
    let handle = scene.open(&root);
    change(&mut plan, |it| {
        it.root = Root::Folder(handle);
        it.mounts.insert(0, Mount { at: Target::new(at).unwrap(), what });
    });
    let error = scene.spawn(&plan).await.unwrap_err();
    assert!(matches!(error, SpawnError::Step(_)), "{error}");
    assert_eq!(state(&sentinel), before);
    // Whoever goes by the path is led out.
    fs::write(root.join("links/file"), "led astray").unwrap();
    assert_ne!(state(&sentinel), before);
}

/// The same for what is shown: a folder in which something is replaced by a symlink.
#[tokio::test]
async fn no_symlink_is_followed_to_a_source() {
    let mut scene = Scene::new();
    let secret = scene.folder.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key"), "secret").unwrap();
    let inputs = scene.folder.path().join("inputs");
    fs::create_dir(&inputs).unwrap();
    symlink(&secret, inputs.join("input")).unwrap();
    let mut plan = scene.sandboxed(Identity::User(fresh_user()), &["report"]);
    let folder = scene.open(&inputs);
    let path = drover_sandbox::Below::new("input/key").unwrap();
    let source = Source::In { folder, path };
    let what = Content::Bind { source, access: Access::ReadOnly };
    change(&mut plan, |it| it.mounts.push(Mount { at: Target::new("/key").unwrap(), what }));
    let error = scene.spawn(&plan).await.unwrap_err().to_string();
    assert!(error.contains("find what is to be shown 'input/key'"), "{error}");
    assert_eq!(fs::read_to_string(inputs.join("input/key")).unwrap(), "secret");
}

/// What a handle stands for was exchanged after it was opened.
#[tokio::test]
async fn an_exchanged_folder_is_refused() {
    let mut scene = Scene::new();
    let (real, other) = (scene.folder.path().join("real"), scene.folder.path().join("other"));
    fs::create_dir(&real).unwrap();
    let mut plan = scene.sandboxed(Identity::User(fresh_user()), &["report"]);
    let handle = scene.open(&real);
    let what = Content::Bind { source: Source::Open(handle), access: Access::ReadWrite };
    change(&mut plan, |it| it.mounts.push(Mount { at: Target::new("/in").unwrap(), what }));
    scene.spawn(&plan).await.unwrap().wait().await.unwrap();

    fs::rename(&real, &other).unwrap();
    // It has followed the file, so nothing was lost.
    scene.spawn(&plan).await.unwrap().wait().await.unwrap();
    fs::remove_dir(&other).unwrap();
    symlink("/etc", &real).unwrap();
    let error = scene.spawn(&plan).await.unwrap_err();
    assert!(matches!(error, SpawnError::Step(_)), "{error}");
}

/// Name, content, mode and owner of all that is in a folder, and of itself.
fn state(folder: &std::path::Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;
    let mut all: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let content = fs::read_to_string(&path).unwrap_or_default();
            let status = fs::symlink_metadata(&path).unwrap();
            format!("{} {content} {:o} {}", path.display(), status.mode(), status.uid())
        })
        .collect();
    let status = fs::symlink_metadata(folder).unwrap();
    all.push(format!("{:o} {}", status.mode(), status.uid()));
    all.sort();
    all
}
