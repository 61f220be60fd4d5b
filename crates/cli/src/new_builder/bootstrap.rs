//! `drover builder bootstrap`: puts drover where there is no Nix.

use anyhow::bail;
use drover_config::{Machine, Scheme};
use drover_doctor::checks::program::version;

use super::add::{Guest, Visitor, store};
use super::arguments::BootstrapArguments;
use super::upload::Upload;
use crate::configuration::Configuration;
use crate::doctor::{known, places};
use crate::exit::ExitStatus;
use crate::terminal::Terminal;

/// Where the names that it answers to are put, below the home folder.
const NAMES: &str = ".local/lib/drover/bin";

/// Puts drover on a machine, and writes its line; a drover that is there by such a line is renewed.
///
/// # Errors
///
/// The program can't run there, or whatever [`add`](super::add::add) may refuse.
pub(super) async fn bootstrap(
    arguments: &BootstrapArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let configuration = Configuration::load(&arguments.settings.overrides(), terminal)?;
    let program = Upload::of(arguments.program.as_deref())?;
    let store = store(&arguments.host)?;
    let visitor = Visitor::of(&configuration, store, &arguments.line, terminal)?;
    if let Some(machine) = visitor.listed()? {
        return renew(&visitor, &machine, &program, terminal).await;
    }
    visitor.check_file()?;
    let guest = visitor.enter().await?;
    if !arguments.even_with_nix {
        refuse_nix(&visitor, &guest).await?;
    }
    let folder = program.install(&guest.way, visitor.limit(), terminal).await?;
    let name = program_of(visitor.store().scheme());
    let store = visitor.store().clone().with_param("remote-program", &format!("{folder}/{name}"));
    visitor.to(store).enlist(&guest).await
}

fn program_of(scheme: &Scheme) -> &'static str {
    match scheme {
        Scheme::Ssh => "nix-store",
        _ => "nix-daemon",
    }
}

/// Puts the program in the place of one that is there; the line stays as it is.
async fn renew(
    visitor: &Visitor<'_>,
    machine: &Machine,
    program: &Upload,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let store = &machine.store_uri;
    let there = store.param("remote-program").unwrap_or_default();
    if !there.ends_with(&format!("{NAMES}/{}", program_of(store.scheme()))) {
        bail!(
            "'{store}' is listed already, at {}, and runs no drover that bootstrap has put there: take the \
             line away if it is to",
            machine.origin
        );
    }
    terminal.info(&format!(
        "'{store}' is listed already, at {}: its drover is renewed",
        machine.origin
    ));
    let way = visitor.way_to(machine).await?;
    program.install(&way, visitor.limit(), terminal).await?;
    visitor.examine_listed(machine).await?;
    terminal.info("the program is renewed, and builds get there; the line stays as it is");
    Ok(ExitStatus::SUCCESS)
}

/// Refuses a machine that has a Nix.
async fn refuse_nix(visitor: &Visitor<'_>, guest: &Guest) -> anyhow::Result<()> {
    let (_, program) = visitor.ssh()?;
    let (command, usual) = known(&program);
    let mut line: Vec<&str> = command.iter().map(String::as_str).collect();
    line.push("--version");
    let ran = guest.way.run(&line, visitor.limit()).await;
    let place = match version(&String::from_utf8_lossy(&ran.stdout)) {
        Some(version) => Some(format!("{} of Nix {version}", command.join(" "))),
        None => places(&guest.way, usual, visitor.limit()).await.into_iter().next(),
    };
    match place {
        None => Ok(()),
        Some(place) => bail!(
            "there is a Nix on that machine already ({place}): `drover builder add {}` builds with it; \
             --even-with-nix puts drover beside it",
            visitor.store()
        ),
    }
}
