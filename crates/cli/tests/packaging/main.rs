//! What is installed around the real binary: man pages, completions, units, the NixOS module, archives,
//! and the pages of the book.
//!
//! Needs `nix-instantiate` (Debian: `nix-bin`), `bash`, `mandoc` and `systemd-analyze`
//! ; the units are also run, which takes root and `mmdebstrap`
//! (`scripts/install-needs test`).

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod archive;
mod book;
mod debian;
mod manual;
mod nixos;
mod service;
mod units;

use std::path::PathBuf;
use std::process::{Command, Output};

/// The program under test.
const DROVER: &str = env!("CARGO_BIN_EXE_drover");

/// Returns a path of the repository.
fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap().join(path)
}

/// Runs a program to its end.
fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| {
        panic!("cannot run {command:?}: {error}; scripts/install-needs test installs it")
    })
}

/// Runs a program that must succeed, and returns what it prints.
fn run_ok(command: &mut Command) -> String {
    let output = run(command);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
