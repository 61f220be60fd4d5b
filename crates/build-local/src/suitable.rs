//! Which derivations can be built here.

use std::collections::BTreeSet;

use drover_builtins::Builtin;
use drover_derivation::{BasicDerivation, BuildOptions};
use drover_sandbox::Machine;

use crate::settings::LocalSettings;

/// Why a derivation can't be built here, whatever it is that it makes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// A builder that is part of Nix, and not of drover.
    #[error("unsupported builtin builder '{name}'")]
    Builtin {
        /// Its name, with `builtin:`.
        name: String,
    },
    /// It wants to build while it's built.
    #[error(
        "the feature 'recursive-nix' is not supported by drover's builder, as it would let a build that is \
         shut in add to the store, and its own inputs grow while it runs; Nix on a machine whose \
         'system-features' have it can build it"
    )]
    Recursive,
    /// It's for another kind of machine.
    #[error("a '{wanted}' is required to build it, but this machine is {}", list(.here))]
    System {
        /// What it needs.
        wanted: String,
        /// What this machine builds for.
        here: Vec<String>,
    },
    /// This machine lacks something that it needs.
    #[error("this machine lacks the required system features {}", list(.lacking))]
    Features {
        /// What it lacks.
        lacking: Vec<String>,
    },
}

fn list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    words.join(", ")
}

/// Says whether a derivation can be built here.
pub(crate) fn check(
    derivation: &BasicDerivation,
    options: &BuildOptions,
    settings: &LocalSettings,
) -> Result<(), Unsupported> {
    let builtin = Builtin::of_builder(&derivation.builder);
    if derivation.is_builtin() && builtin.is_none() {
        let name = String::from_utf8_lossy(&derivation.builder).into_owned();
        return Err(Unsupported::Builtin { name });
    }
    let wanted = &options.required_system_features;
    if wanted.contains("recursive-nix") {
        return Err(Unsupported::Recursive);
    }
    // these run wherever drover does
    if builtin.is_none() && !settings.systems.contains(&derivation.system) {
        let here = settings.systems.iter().cloned().collect();
        return Err(Unsupported::System { wanted: derivation.system.clone(), here });
    }
    // what it says of its outputs every builder of ours understands
    let understood = BTreeSet::from(["ca-derivations".to_owned()]);
    let lacking = wanted.iter().filter(|it| !settings.features.contains(*it));
    let lacking: Vec<String> = lacking.filter(|it| !understood.contains(*it)).cloned().collect();
    match lacking.is_empty() {
        true => Ok(()),
        false => Err(Unsupported::Features { lacking }),
    }
}

/// Returns the machine that a build for `system` is told it runs on, as Nix has it: for 32-bit ARM
/// wherever it's built, as a processor of another kind emulates that.
pub(crate) fn machine(system: &str, own: &str) -> Machine {
    match (system, own) {
        ("armv7l-linux" | "armv6l-linux" | "armv5tel-linux", _)
        | ("i686-linux", "x86_64-linux") => Machine::Linux32,
        _ => Machine::Native,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::own("x86_64-linux", "x86_64-linux", Machine::Native)]
    #[case::i686("i686-linux", "x86_64-linux", Machine::Linux32)]
    #[case::i686_on_itself("i686-linux", "i686-linux", Machine::Native)]
    #[case::arm("aarch64-linux", "aarch64-linux", Machine::Native)]
    #[case::armv7("armv7l-linux", "aarch64-linux", Machine::Linux32)]
    #[case::armv6("armv6l-linux", "aarch64-linux", Machine::Linux32)]
    #[case::armv5("armv5tel-linux", "aarch64-linux", Machine::Linux32)]
    #[case::armv7_emulated("armv7l-linux", "x86_64-linux", Machine::Linux32)]
    #[case::emulated("aarch64-linux", "x86_64-linux", Machine::Native)]
    fn builds_for_32_bits_are_told_so(
        #[case] system: &str,
        #[case] own: &str,
        #[case] expected: Machine,
    ) {
        assert_eq!(machine(system, own), expected);
    }
}
