//! What a machine says of itself.

use std::collections::BTreeSet;
use std::time::Duration;

use drover_doctor::MachineSettings;

use super::answer::{Answer, marked};
use crate::doctor::Way;

/// Cores and a system, where there is no Nix to ask.
const MACHINE: &str = "nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null; uname -sm
if [ -w /dev/kvm ]; then echo kvm; fi";

/// What a machine has.
pub(super) struct Found {
    pub(super) systems: BTreeSet<String>,
    pub(super) features: BTreeSet<String>,
    pub(super) cores: Option<u32>,
    /// What was said instead, where not all is known.
    pub(super) said: String,
}

impl Found {
    /// Asks a machine, whose Nix has said this.
    pub(super) async fn of(way: &Way, own: Option<MachineSettings>, limit: Duration) -> Found {
        let ran = way.run(&["sh", "-c", &marked(MACHINE)], limit).await;
        let answer = Answer::of(&ran);
        let printed = answer.printed.as_deref().unwrap_or_default();
        let cores = printed.lines().find_map(|line| line.trim().parse().ok());
        let (systems, features) = match own {
            Some(own) => (own.systems, own.features),
            None => by_uname(printed),
        };
        Found { systems, features, cores, said: answer.in_words() }
    }
}

/// Returns the system that `uname -sm` has printed, in Nix's words, and the features that a machine
/// has where nobody has set any.
fn by_uname(printed: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let system = printed.lines().find_map(|line| {
        let (kernel, machine) = line.split_once(' ')?;
        let machine = if machine == "arm64" { "aarch64" } else { machine };
        Some(format!("{machine}-{}", kernel.to_lowercase()))
    });
    let mut features: BTreeSet<String> =
        ["benchmark", "big-parallel", "nixos-test"].map(str::to_owned).into();
    features.extend(printed.lines().filter(|line| *line == "kvm").map(str::to_owned));
    (system.into_iter().collect(), features)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_nix_says_what_it_is() {
        let (systems, features) = by_uname("8\nDarwin arm64\nkvm\n");
        assert_eq!(systems, ["aarch64-darwin".to_owned()].into());
        assert!(features.contains("kvm") && features.contains("big-parallel"));
    }
}
