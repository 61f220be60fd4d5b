//! The settings of a machine's own Nix (`nix config show --json`, once `nix show-config`).

use std::collections::BTreeSet;

use serde_json::Value;

/// The settings of a machine's own Nix that matter to who builds there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineSettings {
    /// `system` and `extra-platforms`.
    pub systems: BTreeSet<String>,
    /// `system-features`
    pub features: BTreeSet<String>,
    /// `substituters`
    pub substituters: Vec<String>,
}

impl MachineSettings {
    /// Reads what Nix prints. Lines before the first `{` are passed over: a login script may have
    /// printed them. Returns nothing where there are no settings.
    pub fn parse(printed: &str) -> Option<MachineSettings> {
        let object = printed.get(printed.find('{')?..)?;
        let mut values = serde_json::Deserializer::from_str(object).into_iter::<Value>();
        let settings = values.next()?.ok()?;
        let value = |name: &str| settings.get(name)?.get("value");
        let words = |name: &str| -> Vec<String> {
            match value(name) {
                Some(Value::Array(words)) => {
                    words.iter().filter_map(Value::as_str).map(str::to_owned).collect()
                }
                Some(Value::String(words)) => {
                    words.split_ascii_whitespace().map(str::to_owned).collect()
                }
                _ => Vec::new(),
            }
        };
        let system = value("system")?.as_str()?.to_owned();
        Some(MachineSettings {
            systems: std::iter::once(system).chain(words("extra-platforms")).collect(),
            features: words("system-features").into_iter().collect(),
            substituters: words("substituters"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_json_of_nix_behind_whatever_is_printed_first() {
        let printed = "Welcome!\n{\"system\":{\"value\":\"x86_64-linux\"},\
                       \"extra-platforms\":{\"value\":[\"i686-linux\"]},\
                       \"system-features\":{\"value\":[\"kvm\"]},\
                       \"substituters\":{\"value\":[\"https://c\"]}}\nbye";
        let settings = MachineSettings::parse(printed).unwrap();
        assert_eq!(settings.systems, ["i686-linux", "x86_64-linux"].map(str::to_owned).into());
        assert_eq!(settings.features, ["kvm".to_owned()].into());
        assert_eq!(settings.substituters, ["https://c"]);
        assert_eq!(MachineSettings::parse("{}"), None);
        assert_eq!(MachineSettings::parse("no such command"), None);
    }
}
