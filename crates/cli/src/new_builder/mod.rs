//! `drover builder`: a machine more.
//!
//! Nothing is written before the machine was tried with the very line that is written, its host key
//! included: what is in the file afterwards works, or is not there.

mod add;
mod answer;
mod arguments;
mod bootstrap;
mod elf;
mod file;
mod found;
mod host_key;
mod known_hosts;
mod upload;

use arguments::BuilderCommand;

pub(crate) use arguments::BuilderArguments;

use crate::exit::ExitStatus;
use crate::terminal::Terminal;

/// Does what was asked for.
///
/// # Errors
///
/// Whatever it was that could not be done; the machines file is as it was.
pub(crate) async fn run(
    command: BuilderCommand,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    match command {
        BuilderCommand::Add(arguments) => add::add(&arguments, terminal).await,
        BuilderCommand::Bootstrap(arguments) => bootstrap::bootstrap(&arguments, terminal).await,
    }
}
