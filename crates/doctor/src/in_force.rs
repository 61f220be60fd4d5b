//! The settings that decide where builds go, as they are in force here.

use std::fmt;

use drover_config::{MaxJobs, Settings, without_password};
use serde_json::{Value, json};

/// A setting that decides where builds go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingRead {
    /// Its name.
    pub name: &'static str,
    /// Its value, in the form of `nix config show --json`.
    pub value: Value,
    /// Where it is written: more than one place where lines add to each other.
    pub origins: Vec<String>,
}

impl fmt::Display for SettingRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match &self.value {
            Value::Array(words) => {
                words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
            }
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        write!(f, "{} = {text} ({})", self.name, self.origins.join(", "))
    }
}

/// Returns the settings that decide where builds go; `origins` says where a setting is written.
pub fn settings_in_force(
    settings: &Settings,
    origins: impl Fn(&str) -> Vec<String>,
) -> Vec<SettingRead> {
    let read = |(name, value)| SettingRead { name, value, origins: origins(name) };
    values(settings).into_iter().map(read).collect()
}

/// Returns those that aren't as they are where nobody has set anything (`defaults`), but for
/// `builders`, which a report tells of by itself. Reports are shown to others: passwords in addresses are
/// left out.
pub fn changed_settings(in_force: Vec<SettingRead>, defaults: &Settings) -> Vec<SettingRead> {
    let defaults = values(defaults);
    let is_default = |setting: &SettingRead| {
        defaults.iter().any(|(name, value)| *name == setting.name && *value == setting.value)
    };
    in_force
        .into_iter()
        .filter(|setting| setting.name != "builders" && !is_default(setting))
        .map(|setting| SettingRead { value: for_others(setting.value), ..setting })
        .collect()
}

fn for_others(value: Value) -> Value {
    match value {
        Value::String(text) => without_password(&text).into(),
        Value::Array(words) => words.into_iter().map(for_others).collect(),
        other => other,
    }
}

fn values(settings: &Settings) -> [(&'static str, Value); 14] {
    let stores: Vec<String> = settings.substituters.iter().map(ToString::to_string).collect();
    let max_jobs = match settings.max_jobs {
        MaxJobs::Auto => json!("auto"),
        MaxJobs::Count(count) => json!(count),
    };
    [
        ("builders", json!(settings.builders)),
        ("builders-use-substitutes", json!(settings.builders_use_substitutes)),
        ("connect-timeout", json!(settings.connect_timeout.map_or(0, |limit| limit.as_secs()))),
        ("cores", json!(settings.cores)),
        ("extra-platforms", json!(settings.extra_platforms)),
        ("local-speed-factor", json!(settings.local_speed_factor)),
        ("max-jobs", max_jobs),
        ("require-sigs-from-builders", json!(settings.require_sigs_from_builders)),
        ("store", json!(settings.store.to_string())),
        ("substituters", json!(stores)),
        ("system", json!(settings.system)),
        ("system-features", json!(settings.system_features)),
        ("trusted-public-keys", json!(settings.trusted_public_keys)),
        ("trusted-users", json!(settings.trusted_users)),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use drover_config::{Environment, LocalSystem, NixConf, User};

    use super::*;

    /// Returns what is told of a `nix.conf`, whose lines are all at the same place.
    fn changed(text: &str) -> Vec<String> {
        let files = BTreeMap::from([(PathBuf::from("/etc/nix/nix.conf"), text.to_owned())]);
        let environment = Environment::default();
        let system = LocalSystem::new("x86_64-linux", User::Other);
        let settings = |conf: &NixConf| Settings::new(conf, &environment, &system).unwrap();
        let conf = NixConf::load(&environment, &files, &[]).unwrap();
        let in_force = settings_in_force(&settings(&conf), |_| vec!["/n:1".to_owned()]);
        let changed = changed_settings(in_force, &settings(&NixConf::default()));
        changed.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_as_by_default_is_not_told() {
        assert_eq!(changed(""), [""; 0]);
        assert_eq!(changed("max-jobs = 1\nbuilders = ssh://a\nkeep-going = true\n"), [""; 0]);
        assert_eq!(
            changed(
                "max-jobs = 0\nextra-platforms = \nbuilders-use-substitutes = yes\nstore = daemon\n\
                 extra-substituters = https://me:secret@c\nsystem-features = kvm\nconnect-timeout = 3\n\
                 local-speed-factor = 2\nrequire-sigs-from-builders = true\n"
            ),
            [
                "builders-use-substitutes = true (/n:1)",
                "connect-timeout = 3 (/n:1)",
                "extra-platforms =  (/n:1)",
                "local-speed-factor = 2 (/n:1)",
                "max-jobs = 0 (/n:1)",
                "require-sigs-from-builders = true (/n:1)",
                "store = daemon (/n:1)",
                "substituters = https://cache.nixos.org/ https://me:…@c (/n:1)",
                "system-features = kvm (/n:1)",
            ]
        );
    }
}
