//! What a command finds inside, on every way to run one.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::support::{Scene, Start, change, fresh_range, fresh_user};
use drover_sandbox::{
    Access, Availability, Below, Cause, Content, Exit, Identity, Machine, Mount, Program, Source,
    SyscallFilter, Target, Terminal, UserNamespace,
};
use rstest::rstest;
use serde_json::Value;

fn namespace_here(name: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string()
}

async fn report(scene: Scene, plan: &drover_sandbox::Plan) -> Value {
    let (ended, text) = scene.run(plan).await;
    assert_eq!((ended.exit, ended.cause), (Exit::Code(0), Cause::Itself), "{text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What holds for each way.
fn assert_unprivileged(report: &Value) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(report[set], "0000000000000000", "{set}");
    }
    assert_eq!(report["Groups"], "");
    assert_eq!(report["NoNewPrivs"], "1");
    assert_eq!(report["Seccomp"], "2");
    assert_eq!(report["umask"], "0022");
    assert_eq!(report["oom_score_adj"], "500");
    assert_eq!(report["personality"], "00040000");
    let fds: Vec<&String> = report["fds"].as_object().unwrap().keys().collect();
    assert_eq!(fds, ["0", "1", "2"]);
    assert_eq!(report["fds"]["0"], "/dev/null");
    assert!(report["session"].as_str().unwrap().ends_with("terminal 0"));
}

#[tokio::test]
async fn a_build_user_in_namespaces() {
    let mut scene = Scene::new();
    let user = fresh_user();
    let plan = scene.sandboxed(Identity::User(user), &["report"]);
    let report = report(scene, &plan).await;
    assert_unprivileged(&report);
    assert_eq!(report["CapBnd"], "0000000000000000");
    assert_eq!(report["Uid"], "1000 1000 1000 1000");
    assert_eq!(report["Gid"], "100 100 100 100");
    assert_eq!(report["uid_map"], format!("1000 {} 1", user.uid));
    assert_eq!(report["gid_map"], format!("100 {} 1", user.gid));
    assert_eq!(report["NSpid"], "1");
    assert_eq!(report["processes"], serde_json::json!(["1"]));
    assert_eq!(report["hostname"], "localhost");
    assert_eq!(report["domainname"], "(none)");
    assert_eq!(report["interfaces"], serde_json::json!(["lo"]));
    assert_eq!(report["folder"], "/build");
    assert_eq!(report["session"], "pid 1 group 1 session 1 terminal 0");
    for namespace in ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"] {
        let inside = report["namespaces"][namespace].as_str().unwrap();
        assert!(!inside.is_empty());
        assert_ne!(inside, namespace_here(namespace), "{namespace}");
    }
    for (at, mount) in report["mounts"].as_object().unwrap() {
        let flags = mount.as_str().unwrap();
        assert!(flags.contains("nosuid"), "{at}: {flags}");
        let has_devices = at.starts_with("/dev/") && at != "/dev/shm";
        assert!(has_devices || flags.contains("nodev"), "{at}: {flags}");
        let writable = ["/build", "/tmp", "/dev/shm", "/dev/pts", "/proc"].contains(&at.as_str());
        assert!(has_devices || writable || flags.contains(" ro,"), "{at}: {flags}");
    }
}

/// Also where the launcher has made it before it knew for whom: nobody enters one twice.
#[tokio::test]
async fn each_command_has_a_network_of_its_own() {
    let launcher = Scene::new().launcher;
    let mut networks = BTreeSet::from([namespace_here("net")]);
    let mut running = Vec::new();
    for round in 0..4 {
        let mut scene = Scene::new();
        scene.launcher = launcher.clone();
        let plan = scene.sandboxed(Identity::User(fresh_user()), &["stubborn"]);
        let command = scene.spawn(&plan).await.unwrap();
        // all of them live on, so that no number comes twice
        let network = fs::read_link(format!("/proc/{}/ns/net", command.pid())).unwrap();
        assert!(networks.insert(network.display().to_string()), "{round}");
        let loopback = format!("/proc/{}/net/if_inet6", command.pid());
        let addresses = fs::read_to_string(loopback).unwrap();
        assert_eq!(addresses.split_whitespace().last(), Some("lo"), "{round}: {addresses}");
        running.push((scene, command));
    }
    let network = network_of_supervisor(&running[3].1);
    assert_eq!(network, namespace_here("net"), "the launcher is not where it was");
    for (_, command) in &mut running {
        command.kill().await.unwrap();
    }
}

/// The network of the supervisor of a command, which is that of its launcher.
fn network_of_supervisor(running: &drover_sandbox::Running) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    fs::read_link(format!("/proc/{parent}/ns/net")).unwrap().display().to_string()
}

#[tokio::test]
async fn a_build_user_in_namespaces_without_a_user_namespace() {
    let mut scene = Scene::new();
    let user = fresh_user();
    let mut plan = scene.sandboxed(Identity::User(user), &["report"]);
    change(&mut plan, |it| it.users = UserNamespace::Host);
    let report = report(scene, &plan).await;
    assert_unprivileged(&report);
    assert_eq!(report["CapBnd"], "0000000000000000");
    let ids = format!("{0} {0} {0} {0}", user.uid);
    assert_eq!(report["Uid"], ids);
    assert_eq!(report["namespaces"]["user"], namespace_here("user"));
    assert_ne!(report["namespaces"]["net"], namespace_here("net"));
}

#[tokio::test]
async fn a_build_user_without_namespaces() {
    let scene = Scene::new();
    let user = fresh_user();
    let plan = scene.bare(Identity::User(user), &["report"]);
    let report = report(scene, &plan).await;
    assert_unprivileged(&report);
    assert_eq!(report["CapBnd"], "0000000000000000");
    assert_eq!(report["Uid"], format!("{0} {0} {0} {0}", user.uid));
    assert_eq!(report["namespaces"]["mnt"], namespace_here("mnt"));
}

/// What the launcher does itself is shut in as a file's program is.
#[rstest]
#[case::in_namespaces(true)]
#[case::without(false)]
#[tokio::test]
async fn what_the_launcher_does_itself(#[case] namespaces: bool) {
    let user = Identity::User(fresh_user());
    let mut reports = Vec::new();
    for is_own in [false, true] {
        let mut scene = Scene::new();
        let mut plan = match namespaces {
            true => scene.sandboxed(user, &["report"]),
            false => scene.bare(user, &["report"]),
        };
        if is_own {
            plan.command.program = Program::Own(b"report".to_vec());
        }
        reports.push(report(scene, &plan).await);
    }
    let [file, mut own] = <[Value; 2]>::try_from(reports).unwrap();
    // nobody may look into what wasn't executed, itself included
    assert_eq!(own["personality"], "");
    own["personality"] = file["personality"].clone();
    assert_unprivileged(&own);
    for name in [
        "Uid",
        "Gid",
        "CapBnd",
        "SigIgn",
        "SigBlk",
        "hostname",
        "domainname",
        "uid_map",
        "gid_map",
        "limits",
        "interfaces",
        "machine",
        "folder",
    ] {
        // each works in a folder of its own where it's no other's
        if namespaces || name != "folder" {
            assert_eq!(own[name], file[name], "{name}");
        }
    }
    if namespaces {
        assert_eq!(own["processes"], serde_json::json!(["1"]));
        assert_eq!(own["mounts"], file["mounts"]);
        for namespace in ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"] {
            let inside = own["namespaces"][namespace].as_str().unwrap();
            assert!(!inside.is_empty() && inside != namespace_here(namespace), "{namespace}");
        }
    }
}

#[rstest]
#[case::threads("threads", Exit::Code(6))]
#[case::panic("panic", Exit::Code(101))]
#[case::unknown("unknown", Exit::Code(98))]
#[tokio::test]
async fn how_what_the_launcher_does_itself_ends(#[case] wanted: &str, #[case] exit: Exit) {
    let mut scene = Scene::new();
    let mut plan = scene.sandboxed(Identity::User(fresh_user()), &[]);
    plan.command.program = Program::Own(wanted.into());
    let (ended, text) = scene.run(&plan).await;
    assert_eq!((ended.exit, ended.cause), (exit, Cause::Itself), "{text}");
}

#[tokio::test]
async fn a_range_of_users_is_root_in_namespaces_of_its_own_only() {
    let mut scene = Scene::new();
    let range = fresh_range();
    let mut plan = scene.sandboxed(range, &["report"]);
    change(&mut plan, |it| {
        it.mounts.push(Mount { at: Target::new("/sys").unwrap(), what: Content::Sysfs });
    });
    let report = report(scene, &plan).await;
    let Identity::Range { first, count } = range else { unreachable!() };
    assert_eq!(report["Uid"], "0 0 0 0");
    assert_eq!(report["uid_map"], format!("0 {} {count}", first.uid));
    assert_eq!(report["NoNewPrivs"], "1");
    assert_eq!(report["Seccomp"], "2");
    assert_ne!(report["CapEff"], "0000000000000000");
    assert_eq!(report["interfaces"], serde_json::json!(["lo"]));
    assert_eq!(report["mounts"]["/sys"], "sysfs ro,nosuid,nodev,noexec (rw)");
    for namespace in ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup"] {
        assert_ne!(report["namespaces"][namespace], namespace_here(namespace), "{namespace}");
    }
}

#[rstest]
#[case::sandboxed(true)]
#[case::bare(false)]
#[tokio::test]
async fn signals_do_what_they_do_by_default(#[case] in_namespaces: bool) {
    let mut scene = Scene::new();
    let user = Identity::User(fresh_user());
    // Not the probe, as each Rust program ignores one by itself.
    let arguments = ["/proc/self/status"];
    let mut plan = match in_namespaces {
        true => scene.sandboxed(user, &arguments),
        false => scene.bare(user, &arguments),
    };
    plan.command.program = Program::File(b"/bin/cat".to_vec());
    let (_, text) = scene.run(&plan).await;
    for set in ["SigBlk", "SigIgn", "SigCgt"] {
        assert!(text.contains(&format!("{set}:\t0000000000000000\n")), "{text}");
    }
}

#[tokio::test]
async fn the_environment_and_arguments_are_the_plans() {
    let mut scene = Scene::new();
    let mut plan = scene.sandboxed(Identity::User(fresh_user()), &["report"]);
    plan.command.arguments[0] = b"-other-name".to_vec();
    let report = report(scene, &plan).await;
    assert_eq!(report["environment"], serde_json::json!(["NAME=value \u{fffd}"]));
    assert_eq!(report["arguments"], serde_json::json!(["-other-name", "report"]));
}

#[tokio::test]
async fn the_root_shows_what_was_put_there() {
    let mut scene = Scene::new();
    let user = fresh_user();
    let script = "cat /etc/passwd; readlink /dev/fd; stat -c '%a %u' /etc / /tmp; \
                  touch /x /etc/x 2>&1; touch /tmp/x /dev/shm/x /build/x && echo fine; \
                  echo to stderr > /dev/stderr; ls /";
    let mut plan = scene.sandboxed(Identity::User(user), &["-c", script]);
    plan.command.program = Program::File(b"/bin/sh".to_vec());
    let expected = "root:x:0:0:::\n/proc/self/fd\n755 65534\n755 65534\n1777 65534\n\
                    touch: cannot touch '/x': Read-only file system\n\
                    touch: cannot touch '/etc/x': Read-only file system\n\
                    fine\nto stderr\nbin\nbuild\ndev\netc\nlib\nlib64\nprobe\nproc\ntmp\nusr\n";
    let (ended, text) = scene.run(&plan).await;
    assert_eq!(text, expected);
    assert_eq!(ended.exit, Exit::Code(0));
}

/// The calls are the same on every way but for what a kernel doesn't have.
#[rstest]
#[case::sandboxed(SyscallFilter::Builds, "calls.json", 0)]
#[case::without_unix_sockets(SyscallFilter::BuildsWithoutUnixSockets, "calls-without-unix.json", 0)]
#[case::unfiltered(SyscallFilter::Off, "calls-unfiltered.json", 0o2000)]
#[tokio::test]
async fn calls_are_refused_as_ever(
    #[case] filter: SyscallFilter,
    #[case] golden: &str,
    #[case] set_id: u32,
) {
    let mut scene = Scene::new();
    let mut plan = scene.sandboxed(Identity::User(fresh_user()), &["calls"]);
    plan.filter = filter;
    let mut running = scene.spawn(&plan).await.unwrap();
    assert_eq!(running.wait().await.unwrap().exit, Exit::Code(0));
    // What is left behind, on the machine's side.
    let mode = fs::metadata(scene.build().join("probe-file")).unwrap().mode();
    assert_eq!(mode & 0o6000, set_id);
    let text = scene.output();
    let found: Value = serde_json::from_str(&text).unwrap();
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(golden);
    if std::env::var_os("DROVER_UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &text).unwrap();
    }
    let expected: Value = serde_json::from_str(&fs::read_to_string(golden).unwrap()).unwrap();
    for (call, result) in found.as_object().unwrap() {
        // A kernel that doesn't have a call refuses it too.
        let is_new = result == "ENOSYS";
        assert!(is_new || *result == expected[call], "{call}: {result}, not {}", expected[call]);
    }
}

/// T28: there is a third ABI on x86_64, whose numbers are refused as the others are, whether the kernel has it
/// or not.
#[cfg(target_arch = "x86_64")]
#[rstest]
#[case::filtered(SyscallFilter::Builds)]
#[case::unfiltered(SyscallFilter::Off)]
#[tokio::test]
async fn calls_of_x32_are_refused_as_well(#[case] filter: SyscallFilter) {
    let mut scene = Scene::new();
    let mut plan = scene.sandboxed(Identity::User(fresh_user()), &["calls-x32"]);
    plan.filter = filter;
    let mut running = scene.spawn(&plan).await.unwrap();
    assert_eq!(running.wait().await.unwrap().exit, Exit::Code(0));
    let found: Value = serde_json::from_str(&scene.output()).unwrap();
    let found = found.as_object().unwrap();
    for (call, result) in found {
        let refused = match call.as_str() {
            call if call.ends_with(" 644") => continue,
            call if call.contains("chmod") => "EPERM",
            call if call.ends_with("xattr") => "ENOTSUP",
            _ => "ENOSYS",
        };
        match filter {
            SyscallFilter::Off if refused == "ENOSYS" => {}
            SyscallFilter::Off => assert_ne!(result, refused, "{call}"),
            _ => assert_eq!(result, refused, "{call}"),
        }
    }
    assert!(20 <= found.len(), "{found:#?}");
}

#[tokio::test]
async fn a_step_that_fails_is_named_and_nothing_is_left() {
    let mut scene = Scene::new();
    let user = fresh_user();
    let mut plan = scene.sandboxed(Identity::User(user), &["report"]);
    plan.command.program = Program::File(b"/no/such/program".to_vec());
    let error = scene.spawn(&plan).await.unwrap_err().to_string();
    assert!(error.contains("could not start the program '/no/such/program'"), "{error}");
    assert!(crate::support::processes_of(user.uid).is_empty());
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let scene = Scene::new();
    let plan = scene.bare(Identity::Caller, &["report"]);
    let error = scene.spawn(&plan).await.unwrap_err().to_string();
    assert!(error.contains("name a build user"), "{error}");
}

#[tokio::test]
async fn later_mounts_can_lie_in_earlier_ones() {
    let mut scene = Scene::new();
    // the file is made in a folder of the machine, where it's there the second time
    scene.start = Start::Fresh;
    let mut plan =
        scene.sandboxed(Identity::User(fresh_user()), &["-c", "cat /build/in/deep/file"]);
    plan.command.program = Program::File(b"/bin/sh".to_vec());
    let file = Content::File { content: b"found\n".to_vec(), mode: 0o444 };
    change(&mut plan, |it| {
        it.mounts.push(Mount { at: Target::new("/build/in/deep/file").unwrap(), what: file });
    });
    let (_, text) = scene.run(&plan).await;
    assert_eq!(text, "found\n");
}

#[tokio::test]
async fn a_32_bit_machine_can_be_pretended() {
    let mut scene = Scene::new();
    let mut plan = scene.sandboxed(Identity::User(fresh_user()), &["-m"]);
    plan.command.program = Program::File(b"/bin/uname".to_vec());
    plan.personality.machine = Machine::Linux32;
    let (_, text) = scene.run(&plan).await;
    let expected = if cfg!(target_arch = "x86_64") { "i686\n" } else { "armv8l\n" };
    assert_eq!(text, expected);
}

#[tokio::test]
async fn supplementary_groups_are_those_of_the_plan() {
    let scene = Scene::new();
    let mut plan = scene.bare(Identity::User(fresh_user()), &["report"]);
    plan.groups = vec![2_000_001, 2_000_002];
    assert_eq!(report(scene, &plan).await["Groups"], "2000001 2000002");
    let mut scene = Scene::new();
    let mut plan = scene.sandboxed(Identity::User(fresh_user()), &["report"]);
    plan.groups = vec![2_000_001];
    let error = scene.spawn(&plan).await.unwrap_err().to_string();
    assert!(error.contains("supplementary groups"), "{error}");
}

#[tokio::test]
async fn a_terminal_is_one_inside_too() {
    let mut scene = Scene::new();
    let terminal = Terminal::new().unwrap();
    let mut plan = scene
        .sandboxed(Identity::User(fresh_user()), &["-c", "test -t 1 && echo yes > /dev/stderr"]);
    plan.command.program = Program::File(b"/bin/sh".to_vec());
    plan.command.output = scene.handles.add(terminal.lower);
    let mut running = scene.spawn(&plan).await.unwrap();
    let ended = running.wait().await.unwrap();
    assert_eq!(ended.exit, Exit::Code(0));
    let mut text = [0; 16];
    let len = rustix::io::read(&terminal.upper, &mut text).unwrap();
    assert_eq!(&text[..len], b"yes\n");
}

#[tokio::test]
async fn what_this_machine_can_do_is_found_out() {
    let support = Scene::new().launcher.support().await.unwrap();
    assert_eq!(support.namespaces, Availability::Available);
    assert_eq!(support.filter, Availability::Available);
}

#[tokio::test]
async fn devices_of_what_is_shown_as_it_is_work() {
    let mut scene = Scene::new();
    let mut plan = scene.sandboxed(Identity::User(fresh_user()), &["-c", "3", "/named/zero"]);
    plan.command.program = Program::File(b"/usr/bin/head".to_vec());
    let source = Source::Open(scene.open("/dev"));
    let what = Content::AsItIs(source);
    change(&mut plan, |it| it.mounts.push(Mount { at: Target::new("/named").unwrap(), what }));
    let (_, text) = scene.run(&plan).await;
    assert_eq!(text, "\0\0\0");
}

/// A symlink can't be mounted, and what it leads to isn't what was asked for.
#[rstest]
#[case::in_a_folder("link")]
#[case::deeper("deeper/link")]
#[tokio::test]
async fn a_symlink_is_shown_as_one(#[case] path: &str) {
    let mut scene = Scene::new();
    let store = scene.folder.path().join("store");
    fs::create_dir_all(store.join("deeper")).unwrap();
    std::os::unix::fs::symlink("/some/where", store.join(path)).unwrap();
    let mut plan = scene.sandboxed(Identity::User(fresh_user()), &["/store/link"]);
    plan.command.program = Program::File(b"/bin/readlink".to_vec());
    let folder = scene.open(&store);
    let source = Source::In { folder, path: Below::new(path).unwrap() };
    let what = Content::Bind { source, access: Access::ReadOnly };
    change(&mut plan, |it| it.mounts.push(Mount { at: Target::new("/store/link").unwrap(), what }));
    let (_, text) = scene.run(&plan).await;
    assert_eq!(text, "/some/where\n");
}

#[tokio::test]
async fn killing_reports_that_it_was_killed() {
    let mut scene = Scene::new();
    let user = fresh_user();
    let plan = scene.sandboxed(Identity::User(user), &["stubborn"]);
    let mut running = scene.spawn(&plan).await.unwrap();
    assert_eq!(scene.line(), "escaped");
    let ended = running.kill().await.unwrap();
    assert_eq!((ended.exit, ended.cause), (Exit::Signal(9), Cause::Killed));
    assert_eq!(running.wait().await.unwrap(), ended);
    assert!(crate::support::processes_of(user.uid).is_empty());
}
