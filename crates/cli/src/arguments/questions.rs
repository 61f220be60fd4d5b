//! What was typed to ask where builds run and would run, and how the machines are.

use clap::{Args, Subcommand};

use super::{BuildingArguments, SettingArguments, SourceArguments, VerbosityArguments};

/// The arguments of `drover explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    #[command(flatten)]
    pub(crate) building: BuildingArguments,
    /// Connect to no machine: those of which no daemon knows anything are taken to be usable
    #[arg(long)]
    pub(crate) no_connect: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

/// The arguments of `drover builds`.
#[derive(Debug, Args)]
pub(crate) struct BuildsArguments {
    /// What to say.
    #[command(subcommand)]
    pub(crate) command: Option<BuildsCommand>,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    /// Print JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

/// What to say of builds.
#[derive(Debug, Subcommand)]
pub(crate) enum BuildsCommand {
    /// Say why a build is where it is, and why not elsewhere
    Explain {
        /// Its number, or its derivation
        build: String,
    },
    /// Print what is kept of the log of a build that runs
    Log {
        /// Its number, or its derivation
        build: String,
    },
    /// Show how a detached build goes until it is over, and end as it does. Ctrl-C leaves it alone
    Attach {
        /// Its name, as drover build --detach has printed it
        #[arg(value_name = "ID")]
        build: String,
    },
    /// End a detached build of one's own; trusted users end others', too
    Cancel {
        /// Its name, as drover build --detach has printed it
        #[arg(value_name = "ID")]
        build: String,
    },
}

/// The arguments of `drover machines`.
#[derive(Debug, Args)]
pub(crate) struct MachinesArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Option<MachinesCommand>,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

/// What to do with a machine.
#[derive(Debug, Subcommand)]
pub(crate) enum MachinesCommand {
    /// Give a machine no more builds; those that run there end. Lasts until it is resumed or the
    /// daemon is started anew; for trusted users
    Drain {
        /// Its name, as drover machines tells it
        machine: String,
    },
    /// Give a machine builds again; for trusted users
    Resume {
        /// Its name, as drover machines tells it
        machine: String,
    },
}
