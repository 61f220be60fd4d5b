//! The launcher of builds, as the tests' own program.

use std::process::ExitCode;

fn main() -> ExitCode {
    match drover_sandbox::run_launcher_for(drover_builtins::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
