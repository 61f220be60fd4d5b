//! The `drover` command: what is typed and configured, and who works with whom for it.
//!
//! Arguments go through two steps: what was typed ([`arguments`]), and what it means together with
//! the configuration and the environment ([`configuration`]). Only this crate names concrete stores
//! and builders (and `build-local` the store that it builds in), and only [`terminal`] and [`progress`] write to the terminal.

mod address;
mod after_build;
mod arguments;
mod asked;
mod attach;
mod build;
mod build_list;
mod builders;
mod cache_serve;
mod caches;
mod compat_install;
mod configuration;
mod connector;
mod control;
mod derivation_copy;
mod derivation_show;
mod detach;
mod doctor;
mod downloads;
mod evaluate;
mod exit;
mod explain;
mod failures;
mod file_turn;
mod forwarding;
mod hook;
mod host;
mod installable;
mod json;
mod kept_logs;
mod key;
mod local_store;
mod machine_list;
mod machine_names;
mod manual;
mod names;
mod new_builder;
mod out_link;
mod output_trust;
mod own_builder;
mod own_program;
mod own_store;
mod progress;
mod rebuild;
mod runtime_dir;
mod show_config;
mod signals;
mod signing;
mod ssh_options;
mod standing;
mod store_ping;
mod store_words;
mod substituters;
mod summary;
mod table;
mod terminal;
mod units;
mod usual_shell;
mod variables;
mod wanted;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use drover_compat::Program;

use crate::arguments::{
    Arguments, CacheCommand, Command, CompatCommand, DerivationCommand, StoreCommand,
    VerbosityArguments,
};
use crate::exit::ExitStatus;
use crate::terminal::Terminal;

/// What still runs at the end is waiting for a peer that nobody needs any more.
const AFTERMATH: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let mut words = std::env::args_os().peekable();
    let called = words.next().unwrap_or_default();
    // before any thread
    everybody_may_read();
    if words.peek().is_some_and(|word| word == own_builder::LAUNCHER) {
        return be_the_launcher();
    }
    if let Some(program) = Program::of_argv0(Path::new(&called)) {
        return by_name(program, words.collect());
    }
    let arguments = match typed(Path::new(&called)) {
        Ok(arguments) => arguments,
        Err(refusal) => return terminal::usage(&refusal).into(),
    };
    if let Err(error) = hook::leave_descriptors(&arguments.command) {
        return Terminal::new(&arguments.command.verbosity()).failure(&error.into()).into();
    }
    let terminal = Terminal::new(&arguments.command.verbosity());
    let terminal = match &arguments.command {
        Command::Build(build) => terminal.with_speech(&build.speech),
        _ => terminal,
    };
    match &arguments.command {
        Command::Cache { .. } => terminal.start_tracing_of_server(),
        _ => terminal.start_tracing(),
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return terminal.failure(&error.into()).into(),
    };
    let outcome = runtime.block_on(run(arguments.command, &terminal));
    leave(runtime);
    match outcome {
        Ok(status) => status.into(),
        Err(error) => terminal.failure(&error).into(),
    }
}

/// As Nix does: what is in a store is for everybody to read, and for nobody else to write, whatever whoever
/// starts this has for their own files. What is private gets its mode where it's made.
fn everybody_may_read() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}

/// Returns what the user typed, or what Nix means that calls this program as its build hook.
fn typed(called: &Path) -> Result<Arguments, clap::Error> {
    match called.file_name().is_some_and(|name| name == hook::PROGRAM) {
        true => {
            let words = ["drover", "hook"].into_iter().map(OsString::from);
            Arguments::try_parse_from(words.chain(std::env::args_os().skip(1)))
        }
        false => Arguments::try_parse()
            .map_err(|refusal| manual::with_all_words(refusal, std::env::args_os())),
    }
}

/// Starts builds for the process that has started this one.
fn be_the_launcher() -> ExitCode {
    match drover_sandbox::run_launcher_for(drover_builtins::run) {
        Ok(()) => ExitStatus::SUCCESS.into(),
        Err(error) => Terminal::new(&VerbosityArguments::default()).failure(&error.into()).into(),
    }
}

/// Does what Nix's program of that name does.
fn by_name(program: Program, arguments: Vec<OsString>) -> ExitCode {
    let terminal = Terminal::new(&VerbosityArguments::default());
    terminal.start_tracing();
    match runtime() {
        Ok(runtime) => {
            let status = runtime.block_on(names::run(program, arguments, &terminal));
            leave(runtime);
            status.into()
        }
        Err(error) => terminal.failure(&error.into()).into(),
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Ends what still runs, and sees to it that nothing is left of it however long it takes.
fn leave(runtime: tokio::runtime::Runtime) {
    runtime.shutdown_timeout(AFTERMATH);
    runtime_dir::remove_all();
}

async fn run(command: Command, terminal: &Terminal) -> anyhow::Result<ExitStatus> {
    if let Some(help) = manual::asked_of(&command) {
        return manual::print(help.as_bytes());
    }
    match command {
        Command::Build(arguments) => build::build(*arguments, terminal).await,
        Command::Explain(arguments) => explain::explain(*arguments, terminal).await,
        Command::Builds(arguments) => build_list::run(arguments, terminal).await,
        Command::Machines(arguments) => machine_list::run(arguments, terminal).await,
        Command::Store { command: StoreCommand::Ping(arguments) } => {
            store_ping::ping(arguments, terminal).await
        }
        Command::Store { command: StoreCommand::Other(arguments) } => {
            Ok(own_words(&["store"], arguments, terminal).await)
        }
        Command::Daemon { arguments } => {
            Ok(names::run(Program::NixDaemon, arguments, terminal).await)
        }
        Command::Copy { arguments } => Ok(own_words(&["copy"], arguments, terminal).await),
        Command::PathInfo { arguments } => Ok(own_words(&["path-info"], arguments, terminal).await),
        Command::Gc { arguments } => Ok(own_words(&["store", "gc"], arguments, terminal).await),
        Command::Cache { command: CacheCommand::Serve(arguments) } => {
            cache_serve::serve(*arguments, terminal).await
        }
        Command::Key(arguments) => key::run(arguments.command, terminal).await,
        Command::Compat { command: CompatCommand::Install { folder } } => {
            compat_install::install(&folder, terminal)
        }
        Command::Doctor(arguments) => doctor::run(*arguments, terminal).await,
        Command::Builder(arguments) => new_builder::run(arguments.command, terminal).await,
        Command::Hook(arguments) => hook::run(arguments, terminal).await,
        Command::Derivation { command: DerivationCommand::Show(arguments) } => {
            derivation_show::show(*arguments, terminal).await
        }
        Command::ShowConfig(arguments) => show_config::show(&arguments, terminal),
        Command::Completions(arguments) => manual::completions(&arguments),
        Command::ManPages(arguments) => manual::man_pages(&arguments),
    }
}

/// Does what a command of Nix does, under drover's own name.
async fn own_words(first: &[&str], rest: Vec<OsString>, terminal: &Terminal) -> ExitStatus {
    let arguments = first.iter().map(OsString::from).chain(rest).collect();
    names::run_own(arguments, terminal).await
}
