//! Drover under stock Nix: builds that its hook hands over, of all clients, on one schedule.
//!
//! Two ways lead here. A line of the machines file makes drover one of the machines ([`lines`]): Nix
//! starts `drover hook connect` for each build, which leads to the daemon ([`daemon`]). Or Nix calls
//! drover as its build hook ([`answer`]).

mod answer;
mod arguments;
pub(crate) mod behind;
mod connect;
mod daemon;
mod files;
mod install;
mod lines;
mod machines;
mod meeting;
mod order;
mod renewal;
mod surroundings;
mod told;

use crate::arguments::Command;
use crate::exit::ExitStatus;
use crate::terminal::Terminal;

pub(crate) use arguments::HookArguments;
use arguments::HookCommand;
pub(crate) use files::{Files as MachinesFiles, Purpose};
pub(crate) use machines::listed_in;
pub(crate) use meeting::{Daemon, daemons};
pub(crate) use renewal::{Renewal, own_lines, renew};

/// By this name the program is the build hook, for a Nix such as 2.8 whose `build-hook` can have no
/// arguments.
pub(crate) const PROGRAM: &str = "drover-build-hook";

/// Closes what Nix gives its hook beside the descriptors that this one uses: the other end of the pipe for
/// the build's output, which would never break while it's open here. To be called before anything is
/// opened.
///
/// # Errors
///
/// The system can't.
pub(crate) fn leave_descriptors(command: &Command) -> std::io::Result<()> {
    const BEHIND_LOG: u32 = 5;
    match command {
        Command::Hook(HookArguments { command: None, .. }) => {
            drover_sandbox::close_inherited(BEHIND_LOG)
        }
        _ => Ok(()),
    }
}

/// Does what was asked for.
///
/// # Errors
///
/// Whatever it was that could not be done.
pub(crate) async fn run(
    arguments: HookArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    match arguments.command {
        Some(HookCommand::Line(arguments)) => install::print(&arguments, terminal),
        Some(HookCommand::Install(arguments)) => install::install(&arguments, terminal),
        Some(HookCommand::Uninstall(arguments)) => install::uninstall(&arguments, terminal),
        Some(HookCommand::Connect(arguments)) => connect::connect(&arguments, terminal).await,
        Some(HookCommand::Daemon(arguments)) => daemon::run(&arguments, terminal).await,
        None => answer::run(terminal).await,
    }
}
