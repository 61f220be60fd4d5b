//! The real Nix's programs, which evaluate, and know stores that aren't known here.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use drover_compat::{Captured, CompatError, ExitStatus};

/// Finds a program on the `PATH` that is not this very one under another name.
fn find(program: &str) -> Result<PathBuf, CompatError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::current_exe().ok().and_then(|file| file.canonicalize().ok());
    let is_other = |file: &Path| match file.canonicalize() {
        Ok(real) => real.is_file() && Some(real) != own,
        Err(_) => false,
    };
    let mut found = std::env::split_paths(&path).map(|dir| dir.join(program));
    found.find(|file| is_other(file)).ok_or_else(|| CompatError::Failed {
        message: format!(
            "this is left to the real Nix, as all evaluation is and what is done with binary caches and \
             other stores that aren't kept here, and there is no '{program}' on the PATH beside \
             drover's own; install Nix (Debian and Ubuntu: apt install nix-bin; elsewhere: \
             https://nixos.org/download)"
        ),
    })
}

fn cannot_run(file: &Path, source: std::io::Error) -> CompatError {
    CompatError::File { action: "running", path: file.to_owned(), source }
}

/// Becomes the program.
pub(super) fn exec(program: &str, arguments: &[OsString]) -> Result<ExitStatus, CompatError> {
    let file = find(program)?;
    let error = std::process::Command::new(&file).arg0(program).args(arguments).exec();
    Err(cannot_run(&file, error))
}

/// Runs the program, and keeps what it prints.
pub(super) async fn capture(
    program: &str,
    arguments: &[OsString],
) -> Result<Captured, CompatError> {
    let file = find(program)?;
    let mut command = tokio::process::Command::new(&file);
    command.arg0(program).args(arguments).stdout(Stdio::piped()).kill_on_drop(true);
    let ran = command.spawn().map_err(|error| cannot_run(&file, error))?.wait_with_output().await;
    let ran = ran.map_err(|error| cannot_run(&file, error))?;
    let signalled = ran.status.signal().map(|signal| 128 + signal);
    let code = ran.status.code().or(signalled).and_then(|code| u8::try_from(code).ok());
    let status = ExitStatus(code.unwrap_or(ExitStatus::FAILURE.0));
    Ok(Captured { status, output: ran.stdout })
}
