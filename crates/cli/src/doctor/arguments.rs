//! What the user typed behind `drover doctor`.

use clap::{ArgAction, Args};
use drover_config::Override;

use crate::arguments::{SettingArguments, SourceArguments, VerbosityArguments};

/// The arguments of `drover doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    /// Machines to examine: hosts or addresses, listed or not (USER@HOST, ssh-ng://HOST); by default all
    /// that are listed
    #[arg(value_name = "BUILDER")]
    pub(crate) builders_to_examine: Vec<String>,
    /// Say what these derivations ask for and no machine has: PATH.drv, a flake reference, or with -f
    /// an attribute
    #[arg(long = "for", value_name = "INSTALLABLE")]
    pub(crate) wanted: Vec<String>,
    /// The Nix file that --for names attributes of; without --for, all of what it comes to
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<String>,
    /// Pass an expression to the function in the file
    #[arg(long, num_args = 2, value_names = ["NAME", "EXPR"], action = ArgAction::Append, allow_hyphen_values = true, requires = "file")]
    pub(crate) arg: Vec<String>,
    /// Pass a string to the function in the file
    #[arg(long, num_args = 2, value_names = ["NAME", "VALUE"], action = ArgAction::Append, allow_hyphen_values = true, requires = "file")]
    pub(crate) argstr: Vec<String>,
    /// Machines as in /etc/nix/machines, in the place of those that are configured
    #[arg(long, value_name = "MACHINES")]
    pub(crate) builders: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

impl DoctorArguments {
    /// Returns the settings that were typed.
    pub(crate) fn overrides(&self) -> Vec<Override> {
        let mut overrides = self.settings.overrides();
        let builders = self.builders.as_deref();
        overrides.extend(builders.map(|builders| Override::flag("builders", builders)));
        overrides
    }

    /// Whether it's to be said what derivations ask for and no machine has.
    pub(crate) fn asks(&self) -> bool {
        !self.wanted.is_empty() || self.file.is_some()
    }

    /// Returns the derivations that are to be looked at.
    pub(crate) fn source(&self) -> SourceArguments {
        // with a file, installables are its attributes
        SourceArguments {
            installables: self.wanted.clone(),
            file: self.file.clone(),
            arg: self.arg.clone(),
            argstr: self.argstr.clone(),
            ..SourceArguments::default()
        }
    }
}
