//! Chores of the repository: `cargo xtask tidy` checks the house rules that the compiler does not
//! (`--write` draws the map of the crates anew), `cargo xtask bench` measures drover against stock Nix.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a program for people at a terminal

mod bench;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask tidy [--write] | bench";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["tidy"] => tidy::run(&workspace()),
        ["tidy", "--write"] => tidy::write(&workspace()),
        ["bench"] => bench::run(&workspace()),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the root of the workspace.
fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}
