//! Builds for an ordinary user, who has nobody else to build as: in a user namespace, and without.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use drover_build_local::SandboxMode;
use drover_core::{NarHash, NarSize, PathInfo};
use drover_store::{Adoption, BuildFailure, Keeper as _, Store as _};

use crate::bench::{Bench, LAUNCHER, Whose, names};

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
            for attribute in ["outputs", "someOutputs"] {
                let drv = bench.instantiate(Whose::Ours, attribute);
                let shown = bench.store.store_dir().display(&drv);
                let binding = ["-q", "--binding", "dev", &shown];
                let dev = bench.nix_ok(Whose::Ours, "nix-store", &binding);
                std::fs::write(&dev, "precious").unwrap();
                let info = PathInfo {
                    path: bench.store.store_dir().parse(&dev).unwrap(),
                    deriver: None,
                    nar_hash: NarHash([0; 32]),
                    nar_size: NarSize(0),
                    references: BTreeSet::new(),
                    registration_time: 0,
                    ultimate: false,
                    signatures: BTreeSet::new(),
                    content_address: None,
                };
                bench.store.register_validity(vec![info], Adoption::Measured).await.unwrap();
                if attribute == "outputs" {
                    let made = bench.succeed(attribute).await;
                    let text = std::fs::read_to_string(&made["out"]).unwrap();
                    assert_eq!(text.trim(), dev);
                } else {
                    let (failure, _) = bench.fail(attribute).await;
                    assert!(matches!(failure, BuildFailure::Failed { .. }));
                }
                assert_eq!(std::fs::read_to_string(&dev).unwrap(), "precious");
            }
            bench.assert_sound();
            let left = names(&bench.path("ours/nix/store"));
            assert!(!left.iter().any(|name| name.ends_with("-some-outputs")), "{left:#?}");
        });
    }
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(work);
}
