//! `drover show-config`: the settings that decide where builds go, as they are in force here.
//!
//! In the form of `nix config show --json`, so that whoever asks a machine for its settings needs to
//! know one form only.

use clap::Args;
use drover_doctor::{SettingRead, settings_in_force};
use serde_json::{Value, json};

use crate::arguments::{SettingArguments, VerbosityArguments};
use crate::configuration::Configuration;
use crate::exit::ExitStatus;
use crate::terminal::Terminal;

/// The arguments of `drover show-config`.
#[derive(Debug, Args)]
pub(crate) struct ShowConfigArguments {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

/// Prints the settings.
///
/// # Errors
///
/// A setting with a value that it can't have.
pub(crate) fn show(
    arguments: &ShowConfigArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let configuration = Configuration::load(&arguments.settings.overrides(), terminal)?;
    let settings = settings_in_force(&configuration.settings, |name| configuration.places(name));
    if arguments.json {
        terminal.print(&as_json(settings).to_string())?;
        return Ok(ExitStatus::SUCCESS);
    }
    for setting in settings {
        terminal.print(&setting.to_string())?;
    }
    Ok(ExitStatus::SUCCESS)
}

fn as_json(settings: Vec<SettingRead>) -> Value {
    let told = settings
        .into_iter()
        .map(|SettingRead { name, value, .. }| (name.to_owned(), json!({ "value": value })));
    Value::Object(told.collect())
}

#[cfg(test)]
mod tests {
    use drover_config::{Environment, LocalSystem, NixConf, Settings, User};
    use drover_doctor::MachineSettings;

    use super::*;

    #[test]
    fn doctor_understands_it() {
        let conf = NixConf::default();
        let system = LocalSystem::new("x86_64-linux", User::Other);
        let settings = Settings::new(&conf, &Environment::default(), &system).unwrap();
        let told = as_json(settings_in_force(&settings, |_| Vec::new()));
        let read = MachineSettings::parse(&told.to_string()).unwrap();
        assert!(read.systems.contains("i686-linux") && read.features.contains("big-parallel"));
        assert_eq!(read.substituters, ["https://cache.nixos.org/"]);
    }
}
