//! What a build sees and is, from inside.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use drover_build_local::{BuildUsers, Groups, SandboxMode, SandboxPath};
use drover_sandbox::CgroupFolder;
use drover_store::BuildOutcome;
use rstest::rstest;

use crate::bench::{Bench, Whose, names, status};

/// The environment and the surroundings of a build are those that stock Nix gives it, but for what
/// differs between its releases and what is said here.
#[tokio::test]
async fn a_build_sees_what_stock_nix_shows_it() {
    let bench = Bench::new();
    let drv = bench.instantiate(Whose::Stock, "environment");
    let shown = format!("/nix/store/{}", drv.base_name());
    let cores = ["-r", &shown, "--option", "cores", "3"];
    let theirs = bench.nix_ok(Whose::Stock, "nix-store", &cores);
    let theirs = bench.path("stock").join(theirs.trim_start_matches('/'));
    let ours = bench.succeed("environment").await;
    let read = |path| -> BTreeSet<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    let (ours, theirs) = (read(ours["out"].clone()), read(theirs));
    let differs: Vec<&String> = ours.symmetric_difference(&theirs).collect();
    assert!(differs.is_empty(), "{differs:#?}");
}

/// T27: no build is root, has capabilities, other files or another network than its own.
#[tokio::test]
async fn a_build_has_no_privileges() {
    let bench = Bench::new();
    let drv = bench.instantiate(Whose::Ours, "whoami");
    let (_, heard) = bench.realise(&drv).await;
    let lines = heard.lines();
    assert_eq!(lines[..2], ["1000", "100"], "{lines:#?}");
    let network = std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert!(lines[2].starts_with("net:[") && lines[2] != network, "{network}: {lines:#?}");
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(lines.contains(&format!("{name}:\t0000000000000000")), "{name}: {lines:#?}");
    }
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(lines.iter().any(|found| found == line), "{line}: {lines:#?}");
    }
    // with the one that `ls` itself has opened
    assert_eq!(lines.last().unwrap().split_whitespace().collect::<String>(), "0123", "{lines:#?}");
}

#[tokio::test]
async fn more_of_the_machine_is_seen_on_request() {
    let bench = Bench::with(|settings| {
        settings.paths = ["/bin/hello=/usr/bin/busybox", "/no/such/file?"]
            .map(|path| path.parse::<SandboxPath>().unwrap())
            .to_vec();
    });
    let made = bench.succeed("seesHello").await;
    assert_eq!(std::fs::read_to_string(&made["out"]).unwrap(), "seen\n");
}

/// As GPUs and the like must.
#[tokio::test]
async fn devices_that_are_named_work() {
    let bench = Bench::with(|settings| {
        settings.paths = vec!["/x/..//named/=/dev/".parse::<SandboxPath>().unwrap()];
    });
    let made = bench.succeed("seesDevice").await;
    assert_eq!(std::fs::read_to_string(&made["out"]).unwrap(), "3\n");
}

/// Where it's said that nothing is to be shut in, all is, as the store's files are elsewhere than its
/// paths say.
#[tokio::test]
async fn a_store_that_lies_elsewhere_takes_a_sandbox() {
    let bench = Bench::with(|settings| settings.sandbox = SandboxMode::Never);
    bench.succeed("refers").await;
    bench.assert_sound();
}

#[tokio::test]
async fn structured_attributes_come_as_two_files() {
    let bench = Bench::new();
    let made = bench.succeed("structured").await;
    let text = std::fs::read_to_string(&made["out"]).unwrap();
    assert!(text.starts_with("a\n"), "{text}");
    assert!(text.contains("\"list\":[\"a\",1,true]"), "{text}");
}

/// A build has a control group of its own while it runs, by the name that Nix gives it, and none when
/// it has ended, however that comes.
#[tokio::test]
async fn a_build_has_a_control_group() {
    let mut users = None;
    let bench = Bench::with(|settings| {
        settings.groups = Groups::Always;
        users = Some(settings.users.clone());
    });
    let Some(BuildUsers::Allocated { first, count }) = users else { panic!("other users") };
    let around = CgroupFolder::of_this_process().unwrap();
    let groups = || -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(around.path()).unwrap().map(|entry| entry.unwrap().path());
        let is_ours = |path: &std::path::PathBuf| {
            let name = path.file_name()?.to_str()?.strip_prefix("nix-build-uid-")?;
            let uid: u32 = name.parse().ok()?;
            (first..first + count).contains(&uid).then_some(())
        };
        entries.filter(|path| is_ours(path).is_some()).collect()
    };
    let drv = bench.instantiate(Whose::Ours, "sleeps");
    let begun = bench.begin(&drv).await;
    let running = groups();
    assert_eq!(running.len(), 1, "{running:?}");
    let inside = std::fs::read_to_string(running[0].join("cgroup.procs")).unwrap();
    assert_ne!(inside, "");
    let uid = running[0].to_str().unwrap().rsplit('-').next().unwrap().to_owned();
    let noted = bench.path("ours/nix/var/nix/cgroups").join(uid);
    assert_eq!(std::fs::read_to_string(noted).unwrap(), running[0].to_str().unwrap());
    drop(begun);
    bench.builder.ended().await;
    assert_eq!(groups(), Vec::<std::path::PathBuf>::new());
    bench.succeed("forks").await;
    bench.fail("exits").await;
    assert_eq!(groups(), Vec::<std::path::PathBuf>::new());
    bench.assert_sound();
}

fn with_ranges() -> Bench {
    let bench = Bench::with(|settings| {
        settings.features.insert("uid-range".to_owned());
    });
    let home = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(bench.home.path(), home).unwrap();
    bench
}

/// Its root is its own, as a system that is booted in it needs; what it makes is its own as well.
#[tokio::test]
async fn a_build_with_a_range_of_users_writes_to_its_root() {
    let bench = with_ranges();
    let made = bench.succeed("rangeWrites").await;
    assert_eq!(std::fs::read_to_string(&made["out"]).unwrap(), "x\n");
    let (failure, _) = bench.fail("rangeGives").await;
    let said = failure.message;
    assert!(said.contains("suspicious ownership or permission on"), "{said}");
    bench.assert_sound();
}

/// A build that asks for a range of users is root of these, and of nothing else.
#[tokio::test]
async fn a_build_may_have_a_range_of_users() {
    let bench = with_ranges();
    let drv = bench.instantiate(Whose::Ours, "rangeOfUsers");
    let (outcome, heard) = bench.realise(&drv).await;
    assert!(matches!(outcome, BuildOutcome::Built(_)), "{outcome:#?} {:#?}", heard.lines());
    assert_eq!(heard.lines(), ["0", "0", "65536"]);
    bench.assert_sound();
}

/// Runs a program outside as somebody, and says whether it went well.
fn can(user: u32, group: u32, program: &str, at: &Path) -> bool {
    let output = Command::new("setpriv")
        .arg(format!("--reuid={user}"))
        .arg(format!("--regid={group}"))
        .args(["--clear-groups", program])
        .arg(at)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || said.contains("ermission denied"), "{output:#?}");
    output.status.success()
}

/// Returns the folder of the build that runs, and that in which its store comes about.
fn folders_of_build(bench: &Bench) -> [PathBuf; 2] {
    let [builds, store] = ["ours/nix/var/nix/builds", "ours/nix/store"].map(|it| bench.path(it));
    let [build] = names(&builds).try_into().unwrap();
    let workshops = names(&store).into_iter().map(|name| store.join(name));
    let workshops: Vec<PathBuf> = workshops.filter(|it| it.join("store").exists()).collect();
    let [workshop] = workshops.try_into().unwrap();
    [builds.join(build), workshop]
}

/// T23: who isn't of the build gets into none of its folders, whatever the build makes of their rights.
#[track_caller]
fn assert_nobody_gets_in(bench: &Bench, user: u32, group: u32) {
    let [build, workshop] = folders_of_build(bench);
    for folder in [build.join("tmp"), build.join("build"), workshop.join("store")] {
        assert!(can(0, 0, "ls", &folder), "{folder:?}");
        assert!(!can(user, group, "ls", &folder), "{folder:?}");
        assert!(!can(user, group, "touch", &folder.join("planted")), "{folder:?}");
        assert!(!can(user, group, "ls", folder.parent().unwrap()), "{folder:?}");
    }
    // that it's for this that they don't
    assert!(can(user, group, "ls", build.parent().unwrap()));
}

const NOBODY: u32 = 65_534;

#[tokio::test]
async fn nobody_else_gets_into_a_range() {
    let bench = with_ranges();
    let drv = bench.instantiate(Whose::Ours, "rangeSleeps");
    let begun = bench.begin(&drv).await;
    assert_nobody_gets_in(&bench, NOBODY, NOBODY);
    drop(begun);
    bench.builder.ended().await;
    bench.assert_sound();
}

/// Not even its own user does, from outside.
#[tokio::test]
async fn nobody_else_gets_into_a_build_that_runs() {
    let bench = Bench::new();
    let home = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(bench.home.path(), home).unwrap();
    let drv = bench.instantiate(Whose::Ours, "sleeps");
    let begun = bench.begin(&drv).await;
    let running = bench.running();
    let [user, group] = ["Uid:", "Gid:"].map(|field| {
        let ids = status(running[0], field).unwrap();
        ids.split_whitespace().next().unwrap().parse::<u32>().unwrap()
    });
    assert!(user != 0 && group != 0, "{user} {group}");
    assert_nobody_gets_in(&bench, user, group);
    assert_nobody_gets_in(&bench, NOBODY, NOBODY);
    drop(begun);
    bench.builder.ended().await;
    bench.assert_sound();
}

/// A build has a `/tmp` of its own, and a store that lies below that of this machine is there all the same.
#[rstest]
#[case::plain("plain")]
#[case::floating("floating")]
#[tokio::test]
async fn a_store_below_tmp_is_seen(#[case] attribute: &str) {
    let bench = Bench::in_place(|_| {});
    bench.succeed(attribute).await;
    bench.assert_sound();
}
