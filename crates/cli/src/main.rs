//! The `drover` command: parse, configure, wire, print, exit.
//!
//! Arguments go through two steps: what was typed ([`arguments`]), and what it means together with
//! the configuration and the environment ([`configuration`]). Only this crate names concrete stores
//! and builders, and only [`terminal`] and [`progress`] write to the terminal.

mod address;
mod arguments;
mod build;
mod builders;
mod configuration;
mod connector;
mod derivation_show;
mod evaluate;
mod exit;
mod failures;
mod host;
mod installable;
mod json;
mod local_store;

mod out_link;
mod progress;
mod signals;
mod ssh_options;
mod store_ping;
mod summary;
mod terminal;
mod units;
mod wanted;

use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::{Arguments, Command, DerivationCommand, StoreCommand};
use crate::exit::ExitStatus;
use crate::terminal::Terminal;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(refusal) => return terminal::usage(&refusal).into(),
    };
    let terminal = Terminal::new(arguments.command.verbosity());
    let terminal = match &arguments.command {
        Command::Build(build) => terminal.with_speech(&build.speech),
        _ => terminal,
    };
    terminal.start_tracing();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return terminal.failure(&error.into()).into(),
    };
    let outcome = runtime.block_on(run(arguments.command, &terminal));
    // what still runs is waiting for a peer that nobody needs any more
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    match outcome {
        Ok(status) => status.into(),
        Err(error) => terminal.failure(&error).into(),
    }
}

async fn run(command: Command, terminal: &Terminal) -> anyhow::Result<ExitStatus> {
    match command {
        Command::Build(arguments) => build::build(*arguments, terminal).await,
        Command::Store { command: StoreCommand::Ping(arguments) } => {
            store_ping::ping(arguments, terminal).await
        }
        Command::Derivation { command: DerivationCommand::Show(arguments) } => {
            derivation_show::show(*arguments, terminal).await
        }
    }
}
