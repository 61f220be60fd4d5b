//! What `scripts/dist` packs, around a program that is built already.

use std::path::Path;
use std::process::Command;

use crate::{DROVER, repository, run, run_ok, text};

fn dist(folder: &Path) -> Command {
    let mut command = Command::new(repository("scripts/dist"));
    command.env("DIST_DIR", folder).env("DROVER", DROVER);
    command
}

#[test]
fn an_archive_has_all_that_is_installed() {
    let folder = tempfile::tempdir().unwrap();
    let sums = run_ok(dist(folder.path()).arg("here"));
    let version = run_ok(Command::new(DROVER).arg("--version"));
    let name = format!("drover-{}-here", version.trim().trim_start_matches("drover "));
    assert!(sums.contains(&format!("{name}.tar.gz")), "{sums}");
    run_ok(Command::new("sha256sum").args(["-c", "SHA256SUMS"]).current_dir(folder.path()));

    let archive = folder.path().join(format!("{name}.tar.gz"));
    let unpacked = folder.path().join("unpacked");
    fs_err::create_dir(&unpacked).unwrap();
    run_ok(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&unpacked));
    let top = unpacked.join(&name);
    for file in [
        "lib/systemd/system/drover.socket",
        "lib/systemd/system/drover.service",
        "lib/systemd/system/drover-cache@.service",
        "share/bash-completion/completions/drover.bash",
        "share/doc/drover/LICENSE-MIT",
        "share/doc/drover/LICENSE-APACHE",
        "share/doc/drover/book/SUMMARY.md",
        "share/fish/vendor_completions.d/drover.fish",
        "share/man/man1/drover-build.1.gz",
        "share/man/man1/drover-store-gc.1.gz",
        "share/zsh/site-functions/_drover",
    ] {
        let size = fs_err::metadata(top.join(file)).unwrap().len();
        assert_ne!(size, 0, "{file} is empty");
    }
    let told = run_ok(Command::new(top.join("bin/drover")).arg("--version"));
    assert_eq!(told, version);
}

#[test]
fn what_cannot_be_packed_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(dist(folder.path()).args(["one", "two"]));
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("give one name"), "{}", text(&output.stderr));
}
