//! What a machine can fetch by itself.

use crate::settings::MachineSettings;
use crate::step::Verdict;

/// Whether machines are told to fetch inputs by themselves (`builders-use-substitutes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetching {
    /// They are.
    ByMachines,
    /// Everything is sent from here.
    FromHere,
}

/// Judges a machine's substituters.
pub fn judge(own: Option<&MachineSettings>, fetching: Fetching) -> Verdict {
    let Some(own) = own else {
        return Verdict::unknown("its substituters could not be asked for (nix show-config)");
    };
    let list = own.substituters.join(" ");
    match (own.substituters.is_empty(), fetching) {
        (true, Fetching::ByMachines) => Verdict::odd(
            "it has no substituters, so with builders-use-substitutes all is sent from here nonetheless",
            "there: substituters = https://cache.nixos.org in nix.conf",
        ),
        (true, Fetching::FromHere) => Verdict::good("none; inputs are sent from here"),
        (false, Fetching::ByMachines) => Verdict::good(list),
        (false, Fetching::FromHere) => Verdict::good(format!(
            "{list}; not used for inputs of builds unless builders-use-substitutes is set here"
        )),
    }
}
