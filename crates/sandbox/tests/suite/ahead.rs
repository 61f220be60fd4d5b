//! Supervisors that are there before their command is known: each for one command, and only for what it
//! was made for.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command as Process;
use std::time::Duration;

use drover_sandbox::{
    Content, Identity, Launcher, LauncherProgram, Mount, Owner, Plan, Running, Target, TmpfsSize,
};
use rstest::rstest;

use crate::support::{Scene, Start, change, fresh_user, launcher_program, probe, within};

/// Longer than anything here takes, unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A launcher in a mount namespace of its own, so that nobody else changes its mounts.
fn launcher_apart() -> Launcher {
    let LauncherProgram { program, arguments } = launcher_program();
    let mut all = vec!["--mount".into(), "--propagation".into(), "private".into(), "--".into()];
    all.push(program.into());
    all.extend(arguments);
    Launcher::start(&LauncherProgram { program: "unshare".into(), arguments: all }).unwrap()
}

fn scene(launcher: &Launcher) -> (Scene, Plan) {
    let mut scene = Scene::new();
    scene.launcher = launcher.clone();
    scene.start = Start::Fresh;
    let plan = scene.sandboxed(Identity::User(fresh_user()), &["stubborn"]);
    (scene, plan)
}

fn parent_of(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    parent.trim().parse().unwrap()
}

fn supervisor_of(running: &Running) -> i32 {
    parent_of(running.pid())
}

fn children_of(pid: i32) -> BTreeSet<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Waits until the launcher has forked one that no command has, and its child is there.
fn spare_of(launcher: i32, supervisors: &[i32]) -> i32 {
    let mut spare = None;
    within(LIMIT, || {
        let others = children_of(launcher).into_iter().find(|pid| !supervisors.contains(pid));
        spare = others.filter(|pid| !children_of(*pid).is_empty());
        spare.is_some()
    });
    spare.expect("no supervisor is there ahead")
}

fn is_gone(pid: i32) -> bool {
    within(LIMIT, || !Path::new(&format!("/proc/{pid}")).exists()).is_some()
}

fn namespaces_of(pid: i32) -> BTreeSet<String> {
    let links = ["mnt", "pid", "ipc", "uts", "net"]
        .map(|name| fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap());
    links.iter().map(|link| link.display().to_string()).collect()
}

#[tokio::test]
async fn the_next_command_gets_the_one_that_waits_and_the_one_after_it_another() {
    let launcher = launcher_apart();
    let (first_scene, plan) = scene(&launcher);
    let mut first = first_scene.spawn(&plan).await.unwrap();
    let mut known = vec![supervisor_of(&first)];
    let launching = parent_of(known[0]);
    let mut seen = namespaces_of(first.pid());
    let mut running = Vec::new();
    for _ in 0..3 {
        let spare = spare_of(launching, &known);
        let (scene, plan) = scene(&launcher);
        let command = scene.spawn(&plan).await.unwrap();
        assert_eq!(supervisor_of(&command), spare);
        let own = namespaces_of(command.pid());
        assert!(own.is_disjoint(&seen), "{own:?} are not new");
        seen.extend(own);
        known.push(spare);
        running.push((scene, command));
    }
    // what the first has left of itself is gone when it's killed, and touches none of the others
    first.kill().await.unwrap();
    for (_, command) in &mut running {
        assert!(Path::new(&format!("/proc/{}", command.pid())).exists());
        command.kill().await.unwrap();
    }
}

fn another_file(plan: &mut Plan) {
    let what = Content::File { content: b"other".to_vec(), mode: 0o444 };
    let at = Target::new("/etc/other").unwrap();
    change(plan, |it| it.recurring.push(Mount { at, what }));
}

fn another_name(plan: &mut Plan) {
    change(plan, |it| it.hostname = b"other".to_vec());
}

fn no_filter(plan: &mut Plan) {
    plan.filter = drover_sandbox::SyscallFilter::Off;
}

/// What is its user's can't be made before it's known whose it is.
fn a_folder_of_the_builds(plan: &mut Plan) {
    let what = Content::Tmpfs { size: TmpfsSize::Bytes(1 << 16), mode: 0o700, owner: Owner::Build };
    let at = Target::new("/own").unwrap();
    change(plan, |it| it.recurring.push(Mount { at, what }));
}

#[rstest]
#[case::another_file(another_file)]
#[case::another_name(another_name)]
#[case::no_filter(no_filter)]
#[case::a_folder_of_the_builds(a_folder_of_the_builds)]
#[tokio::test]
async fn one_that_was_made_for_something_else_is_not_used(#[case] differ: fn(&mut Plan)) {
    let launcher = launcher_apart();
    let (first_scene, plan) = scene(&launcher);
    let mut first = first_scene.spawn(&plan).await.unwrap();
    let known = supervisor_of(&first);
    let spare = spare_of(parent_of(known), &[known]);
    let (second_scene, mut plan) = scene(&launcher);
    differ(&mut plan);
    let mut second = second_scene.spawn(&plan).await.unwrap();
    assert_ne!(supervisor_of(&second), spare);
    for command in [&mut first, &mut second] {
        command.kill().await.unwrap();
    }
}

#[tokio::test]
async fn one_from_before_a_mount_is_not_used() {
    let launcher = launcher_apart();
    let (first_scene, plan) = scene(&launcher);
    let mut first = first_scene.spawn(&plan).await.unwrap();
    let known = supervisor_of(&first);
    let launching = parent_of(known);
    let spare = spare_of(launching, &[known]);
    let (second_scene, plan) = scene(&launcher);
    let build = second_scene.build();
    let mut mount = Process::new("nsenter");
    mount.arg(format!("--mount=/proc/{launching}/ns/mnt")).args(["mount", "-t", "tmpfs", "late"]);
    fs::create_dir(build.join("late")).unwrap();
    assert!(mount.arg(build.join("late")).status().unwrap().success());
    let mut second = second_scene.spawn(&plan).await.unwrap();
    assert_ne!(supervisor_of(&second), spare);
    assert!(is_gone(spare));
    // it sees what was mounted
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", second.pid())).unwrap();
    assert!(mounts.contains(" /build/late "), "{mounts}");
    for command in [&mut first, &mut second] {
        command.kill().await.unwrap();
    }
}

#[tokio::test]
async fn it_ends_with_its_launcher_and_so_does_its_child() {
    let launcher = launcher_apart();
    let (mut first_scene, plan) = scene(&launcher);
    let mut first = first_scene.spawn(&plan).await.unwrap();
    let known = supervisor_of(&first);
    let spare = spare_of(parent_of(known), &[known]);
    let child = *children_of(spare).first().unwrap();
    first.kill().await.unwrap();
    drop(first);
    first_scene.launcher = Launcher::start(&launcher_program()).unwrap();
    drop(launcher);
    assert!(is_gone(spare) && is_gone(child));
}

/// A launcher in a user namespace of its own, in which as many network namespaces may be as is said, and in
/// a mount namespace of its own. Returns its process, too.
fn launcher_with_networks(count: u32) -> (Launcher, i32) {
    const MAPS: [&str; 2] = ["uid_map", "gid_map"];
    let folder = tempfile::tempdir().unwrap();
    let (told, mapped) = (folder.path().join("told"), folder.path().join("mapped"));
    let script = r#"echo $$ > "$1"
        exec unshare --user --mount --propagation private sh -c 'until [ -e "$0" ]; do sleep 0.01; done; exec "$@"' "$2" "$3" "$4""#;
    let LauncherProgram { program, arguments } = launcher_program();
    let mut all: Vec<OsString> = ["-c", script, "sh"].map(OsString::from).to_vec();
    all.extend([told.clone().into(), mapped.clone().into(), program.into()]);
    all.extend(arguments);
    let launcher = Launcher::start(&LauncherProgram { program: "sh".into(), arguments: all });
    let pid = || fs::read_to_string(&told).ok()?.trim().parse().ok();
    let is_apart = |pid: i32| {
        let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/user")).unwrap();
        of(&pid.to_string()) != of("self")
    };
    within(LIMIT, || pid().is_some_and(is_apart)).unwrap();
    let pid = pid().unwrap();
    MAPS.iter().for_each(|map| fs::write(format!("/proc/{pid}/{map}"), "0 0 4294967294").unwrap());
    allow_networks(pid, count);
    fs::write(mapped, "").unwrap();
    within(LIMIT, || fs::read_link(format!("/proc/{pid}/exe")).unwrap() == Path::new(probe()));
    (launcher.unwrap(), pid)
}

fn allow_networks(launcher: i32, count: u32) {
    let write = format!("echo {count} > /proc/sys/user/max_net_namespaces");
    let mut process = Process::new("nsenter");
    process.arg(format!("--user=/proc/{launcher}/ns/user")).args(["sh", "-c", &write]);
    assert!(process.status().unwrap().success());
}

/// Whether a process waits for a message, as a supervisor does that has tried to make a child.
fn awaits_message(pid: i32) -> bool {
    let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    call.split(' ').next() == Some(libc::SYS_recvmsg.to_string().as_str())
}

#[tokio::test]
async fn what_kept_a_child_from_being_made_ahead_is_not_told_to_the_next_command() {
    let (launcher, launching) = launcher_with_networks(1);
    let (first_scene, plan) = scene(&launcher);
    let mut first = first_scene.spawn(&plan).await.unwrap();
    let known = supervisor_of(&first);
    let spare = || children_of(launching).into_iter().find(|pid| *pid != known);
    within(LIMIT, || spare().is_some_and(awaits_message)).unwrap();
    let spare = spare().unwrap();
    assert_eq!(children_of(spare), BTreeSet::new());
    allow_networks(launching, 100);
    let (second_scene, plan) = scene(&launcher);
    let mut second = second_scene.spawn(&plan).await.unwrap();
    assert_eq!(supervisor_of(&second), spare);
    for command in [&mut first, &mut second] {
        command.kill().await.unwrap();
    }
    // what is still so is told, whoever has tried before
    let spare = spare_of(launching, &[known, spare]);
    allow_networks(launching, 0);
    let child = *children_of(spare).first().unwrap();
    kill(child);
    let (third_scene, plan) = scene(&launcher);
    let error = third_scene.spawn(&plan).await.unwrap_err();
    assert!(error.to_string().contains("No space left on device"), "{error}");
}

/// Kills a process, and waits until it has died: until then it's as good as any other for who looks at it.
fn kill(pid: i32) {
    let killed = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    let has_died = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        !status.contains("State:") || status.contains("State:\tZ")
    };
    within(LIMIT, has_died).expect("it doesn't die");
}

#[tokio::test]
async fn a_child_that_was_killed_while_it_waited_is_made_anew() {
    let launcher = launcher_apart();
    let (first_scene, plan) = scene(&launcher);
    let mut first = first_scene.spawn(&plan).await.unwrap();
    let known = supervisor_of(&first);
    let spare = spare_of(parent_of(known), &[known]);
    let child = *children_of(spare).first().unwrap();
    kill(child);
    let (second_scene, plan) = scene(&launcher);
    let mut second = second_scene.spawn(&plan).await.unwrap();
    assert_eq!(supervisor_of(&second), spare);
    // it's the command that runs, and not what was killed
    assert_ne!(second.pid(), child);
    assert!(Path::new(&format!("/proc/{}/exe", second.pid())).exists());
    for command in [&mut first, &mut second] {
        command.kill().await.unwrap();
    }
}
