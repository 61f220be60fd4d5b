//! What the user typed behind `drover builder`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::arguments::{SettingArguments, VerbosityArguments};

/// The arguments of `drover builder`.
#[derive(Debug, Args)]
pub(crate) struct BuilderArguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: BuilderCommand,
}

/// What to do with a machine.
#[derive(Debug, Subcommand)]
pub(crate) enum BuilderCommand {
    /// Try a machine, and write it into the machines file
    Add(Box<AddArguments>),
    /// Put drover on a machine, without root there, and write it into the machines file
    Bootstrap(Box<BootstrapArguments>),
}

/// The arguments of `drover builder add`.
#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// USER@HOST, an alias of ~/.ssh/config, or an address such as ssh-ng://HOST?remote-program=/bin/nix-daemon
    #[arg(value_name = "HOST")]
    pub(crate) host: String,
    #[command(flatten)]
    pub(crate) line: LineArguments,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

/// The arguments of `drover builder bootstrap`.
#[derive(Debug, Args)]
pub(crate) struct BootstrapArguments {
    /// USER@HOST, or an alias of ~/.ssh/config
    #[arg(value_name = "HOST")]
    pub(crate) host: String,
    /// The program for that machine; this very one where it needs no libraries
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    /// Put it there though the machine has a Nix
    #[arg(long)]
    pub(crate) even_with_nix: bool,
    #[command(flatten)]
    pub(crate) line: LineArguments,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

/// What the line is to say beside what is found out.
#[derive(Debug, Args)]
#[command(next_help_heading = "The line")]
pub(crate) struct LineArguments {
    /// Builds at once; by default as many as the machine has cores
    #[arg(short = 'j', long, value_name = "N")]
    pub(crate) max_jobs: Option<u32>,
    /// Systems, separated by commas; by default those of its Nix
    #[arg(long, value_name = "SYSTEMS", value_delimiter = ',')]
    pub(crate) systems: Vec<String>,
    /// Features, separated by commas; by default those of its Nix
    #[arg(long, value_name = "FEATURES", value_delimiter = ',')]
    pub(crate) features: Option<Vec<String>>,
    /// The private key to log in with
    #[arg(long, value_name = "FILE")]
    pub(crate) ssh_key: Option<PathBuf>,
    /// The host key that is expected, by its fingerprint (SHA256:…); nothing is asked then
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) fingerprint: Option<String>,
    /// The file to write; by default the one that 'builders' names
    #[arg(long, value_name = "FILE")]
    pub(crate) machines_file: Option<PathBuf>,
    /// Ask nothing: the key that the host shows is believed
    #[arg(short, long)]
    pub(crate) yes: bool,
}

impl BuilderArguments {
    /// Returns how much is to be said.
    pub(crate) fn verbosity(&self) -> &VerbosityArguments {
        match &self.command {
            BuilderCommand::Add(arguments) => &arguments.verbosity,
            BuilderCommand::Bootstrap(arguments) => &arguments.verbosity,
        }
    }
}
