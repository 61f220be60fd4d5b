//! `drover builder bootstrap`: puts drover where there is no Nix.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use drover_config::Scheme;

use super::add::{Visitor, store};
use super::arguments::BootstrapArguments;
use crate::configuration::Configuration;
use crate::doctor::Way;
use crate::exit::ExitStatus;
use crate::terminal::Terminal;
use crate::usual_shell::stands_alone;

/// How long the program may be on its way.
const UPLOAD_LIMIT: Duration = Duration::from_secs(600);

/// Takes the program from standard input, and says where what it answers to is. It is put in place
/// only if it runs there.
const INSTALL: &str = r#"set -eu
umask 022
mkdir -p "$HOME/.local/bin" "$HOME/.local/lib/drover"
new=$HOME/.local/bin/.drover.$$
trap 'rm -f "$new"' EXIT
cat >"$new"
chmod 755 "$new"
"$new" --version >&2
mv -f "$new" "$HOME/.local/bin/drover"
"$HOME/.local/bin/drover" compat install "$HOME/.local/lib/drover/bin" >&2
echo "installed $HOME/.local/lib/drover/bin""#;

/// Puts drover on a machine, and writes its line.
///
/// # Errors
///
/// The program can't run there, or whatever [`add`](super::add::add) may refuse.
pub(super) async fn bootstrap(
    arguments: &BootstrapArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let configuration = Configuration::load(&arguments.settings.overrides(), terminal)?;
    let program = program(arguments.program.as_deref())?;
    let store = store(&arguments.host)?;
    let visitor = Visitor::of(&configuration, store, &arguments.line, terminal)?;
    visitor.check_absent()?;
    let guest = visitor.enter().await?;
    let folder = install(&guest.way, &program, terminal).await?;
    let name = match visitor.store().scheme() {
        Scheme::Ssh => "nix-store",
        _ => "nix-daemon",
    };
    let store = visitor.store().clone().with_param("remote-program", &format!("{folder}/{name}"));
    visitor.to(store).enlist(&guest).await
}

/// Returns the program that is put there.
fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(file) = given {
        if !file.is_file() {
            bail!("'{}' is no file", file.display());
        }
        return Ok(file.to_owned());
    }
    let own = std::env::current_exe().context("cannot find drover's own file")?;
    if !stands_alone(&own) {
        bail!(
            "'{}' needs the libraries of this machine: give a static program by --program, as `make dist` \
             makes them",
            own.display()
        );
    }
    Ok(own)
}

/// Puts the program there, and returns the folder of the names that it answers to.
async fn install(way: &Way, program: &Path, terminal: &Terminal) -> anyhow::Result<String> {
    let Way::Ssh(login) = way else { bail!("this machine needs no bootstrap") };
    let size = fs_err::metadata(program)?.len();
    terminal.info(&format!("sending {} ({} KiB)", program.display(), size / 1024));
    let input = tokio::fs::File::open(program).await?;
    let ran = login.feed(&["sh", "-c", INSTALL], input, UPLOAD_LIMIT).await?;
    let printed = String::from_utf8_lossy(&ran.stdout);
    let said = String::from_utf8_lossy(&ran.stderr);
    match printed.lines().find_map(|line| line.strip_prefix("installed ")) {
        Some(folder) if !folder.contains(char::is_whitespace) => Ok(folder.to_owned()),
        Some(folder) => bail!("'{folder}' has a blank, so it can't be named in a machines file"),
        None => bail!(
            "the program does not run there: {}; is it for that machine's processor and system?",
            said.trim()
        ),
    }
}
