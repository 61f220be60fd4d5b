//! What was typed to look at derivations.

use clap::{Args, ValueEnum};

use super::{SettingArguments, SourceArguments, VerbosityArguments};

/// The arguments of `drover derivation show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArguments {
    #[command(flatten)]
    pub(crate) source: SourceArguments,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    /// Show all that they depend on, too
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Print what a machine must have to build them instead: path, system, features
    #[arg(long, conflicts_with = "format")]
    pub(crate) features: bool,
    /// The Nix whose form is printed
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ShowFormatArgument,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

/// The Nix whose form is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShowFormatArgument {
    /// Today's
    #[default]
    #[value(name = "2.34")]
    Nix2_34,
    /// That of Nix 2.26
    #[value(name = "2.26")]
    Nix2_26,
    /// That of Nix 2.8
    #[value(name = "2.8")]
    Nix2_8,
}
