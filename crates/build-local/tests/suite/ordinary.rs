//! Builds for an ordinary user, who has nobody else to build as: in a user namespace, and without.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use drover_build_local::SandboxMode;

use crate::attacks::{is_copied, planted_in_the_store};
use crate::bench::{Bench, LAUNCHER, Whose};
use crate::failures::{Failing, make_precious, takes_nothing_away};

/// Nobody in particular.
const NOBODY: u32 = 65_534;

/// Says whether this process is an ordinary user's. If it isn't, it has a test run by one.
fn is_ordinary(test: &str) -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    let home = tempfile::tempdir().unwrap();
    let copy = |from: &std::path::Path, name: &str| {
        let to = home.path().join(name);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
        to
    };
    let suite = copy(&std::env::current_exe().unwrap(), "suite");
    let launcher = copy(env!("CARGO_BIN_EXE_drover-build-local-launcher").as_ref(), "launcher");
    std::os::unix::fs::chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(suite)
        .args(["--exact", test, "--nocapture"])
        .env(LAUNCHER, launcher)
        .env("TMPDIR", home.path())
        .env("HOME", home.path())
        .current_dir(home.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{output:#?}");
    false
}

#[test]
fn builds_in_a_user_namespace() {
    if is_ordinary("ordinary::builds_in_a_user_namespace") {
        run(async {
            let bench = Bench::new();
            for attribute in ["refers", "outputs", "flat", "graph", "floatingSelf"] {
                bench.succeed(attribute).await;
            }
            let drv = bench.instantiate(Whose::Ours, "whoami");
            let (_, heard) = bench.realise(&drv).await;
            assert_eq!(heard.lines()[..2], ["1000", "100"], "{:#?}", heard.lines());
            bench.fail("exits").await;
            bench.assert_sound();
        });
    }
}

#[test]
fn builds_without_a_sandbox() {
    if is_ordinary("ordinary::builds_without_a_sandbox") {
        run(async {
            let bench = Bench::in_place(|settings| settings.sandbox = SandboxMode::Never);
            for attribute in ["refers", "outputs", "flat", "recursive", "floatingSelf", "forks"] {
                bench.succeed(attribute).await;
            }
            for attribute in ["exits", "absent", "wrongHash", "disallowed", "floatingExits"] {
                bench.fail(attribute).await;
            }
            bench.assert_sound();
        });
    }
}

#[test]
fn checks_without_a_sandbox() {
    if is_ordinary("ordinary::checks_without_a_sandbox") {
        run(crate::checks::without_a_sandbox());
    }
}

/// T26: one output is valid, another isn't; what is valid stays as it is, whatever the build does, and
/// what is built refers to it.
#[test]
fn what_is_valid_stays_without_a_sandbox() {
    if is_ordinary("ordinary::what_is_valid_stays_without_a_sandbox") {
        run(async {
            let bench = Bench::in_place(|settings| settings.sandbox = SandboxMode::Never);
            let dev = make_precious(&bench, "outputs").await;
            let made = bench.succeed("outputs").await;
            let text = std::fs::read_to_string(&made["out"]).unwrap();
            assert_eq!(Path::new(text.trim()), dev);
            assert_eq!(std::fs::read_to_string(&dev).unwrap(), "precious");
            bench.assert_sound();
            for how in Failing::ALL {
                let bench = Bench::in_place(|settings| {
                    settings.sandbox = SandboxMode::Never;
                    how.set(settings);
                });
                takes_nothing_away(&bench, how).await;
            }
        });
    }
}

/// T21: what a build that isn't shut in has made is copied, as anybody could have it open.
#[test]
fn what_is_built_without_a_sandbox_is_copied() {
    if is_ordinary("ordinary::what_is_built_without_a_sandbox_is_copied") {
        run(async {
            let bench = Bench::in_place(|settings| settings.sandbox = SandboxMode::Never);
            is_copied(&bench, "inode").await;
            bench.assert_sound();
        });
    }
}

/// T22.
#[test]
fn symlinks_lead_nowhere_without_a_sandbox() {
    if is_ordinary("ordinary::symlinks_lead_nowhere_without_a_sandbox") {
        run(async {
            let bench = Bench::in_place(|settings| settings.sandbox = SandboxMode::Never);
            planted_in_the_store(&bench).await;
        });
    }
}

/// T29: nothing of a build runs any more when nobody wants it.
#[test]
fn what_nobody_wants_is_killed_without_root() {
    if is_ordinary("ordinary::what_nobody_wants_is_killed_without_root") {
        run(async {
            let never = Bench::in_place(|settings| settings.sandbox = SandboxMode::Never);
            for bench in [Bench::new(), never] {
                let drv = bench.instantiate(Whose::Ours, "sleeps");
                bench.succeed("depAlone").await;
                let begun = bench.begin(&drv).await;
                assert!(!bench.running().is_empty());
                drop(begun);
                bench.builder.ended().await;
                bench.assert_sound();
            }
        });
    }
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(work);
}
