//! `drover show-config`: the settings that decide where builds go, as they are in force here.
//!
//! In the form of `nix config show --json`, so that whoever asks a machine for its settings needs to
//! know one form only.

use clap::Args;
use drover_config::{MaxJobs, Settings};
use serde_json::{Map, Value, json};

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
    let settings = values(&configuration.settings);
    if arguments.json {
        let told: Map<String, Value> =
            settings.map(|(name, value)| (name.to_owned(), json!({ "value": value }))).collect();
        terminal.print(&Value::Object(told).to_string())?;
        return Ok(ExitStatus::SUCCESS);
    }
    for (name, value) in settings {
        let text = match value {
            Value::Array(words) => {
                let words = words.iter().filter_map(Value::as_str);
                words.collect::<Vec<_>>().join(" ")
            }
            Value::String(text) => text,
            other => other.to_string(),
        };
        // where nobody wrote it, it's the default
        terminal.print(&format!("{name} = {text} ({})", configuration.conf.origin(name)))?;
    }
    Ok(ExitStatus::SUCCESS)
}

fn values(settings: &Settings) -> impl Iterator<Item = (&'static str, Value)> {
    let stores: Vec<String> = settings.substituters.iter().map(ToString::to_string).collect();
    let max_jobs = match settings.max_jobs {
        MaxJobs::Auto => json!("auto"),
        MaxJobs::Count(count) => json!(count),
    };
    [
        ("builders", json!(settings.builders)),
        ("builders-use-substitutes", json!(settings.builders_use_substitutes)),
        ("cores", json!(settings.cores)),
        ("extra-platforms", json!(settings.extra_platforms)),
        ("max-jobs", max_jobs),
        ("store", json!(settings.store.to_string())),
        ("substituters", json!(stores)),
        ("system", json!(settings.system)),
        ("system-features", json!(settings.system_features)),
        ("trusted-public-keys", json!(settings.trusted_public_keys)),
        ("trusted-users", json!(settings.trusted_users)),
    ]
    .into_iter()
}

#[cfg(test)]
mod tests {
    use drover_config::{Environment, LocalSystem, NixConf, User};
    use drover_doctor::MachineSettings;

    use super::*;

    #[test]
    fn doctor_understands_it() {
        let conf = NixConf::default();
        let system = LocalSystem::new("x86_64-linux", User::Other);
        let settings = Settings::new(&conf, &Environment::default(), &system).unwrap();
        let told: Map<String, Value> = values(&settings)
            .map(|(name, value)| (name.to_owned(), json!({ "value": value })))
            .collect();
        let read = MachineSettings::parse(&Value::Object(told).to_string()).unwrap();
        assert!(read.systems.contains("i686-linux") && read.features.contains("big-parallel"));
        assert_eq!(read.substituters, ["https://cache.nixos.org/"]);
    }
}
