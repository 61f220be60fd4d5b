//! What the user typed behind `drover doctor`.

use clap::Args;
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
    /// Where --for names attributes, the Nix file that they are in
    #[arg(short, long, value_name = "FILE", requires = "wanted")]
    pub(crate) file: Option<String>,
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

    /// Returns the derivations that `--for` is about.
    pub(crate) fn source(&self) -> SourceArguments {
        // with a file, installables are its attributes
        SourceArguments {
            installables: self.wanted.clone(),
            file: self.file.clone(),
            ..SourceArguments::default()
        }
    }
}
