//! A machine as those see it who ask how a service is doing.

use std::collections::BTreeSet;
use std::time::Duration;

use drover_schedule::{Machine, MachineFault, Reason};

/// A machine of a service, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineView {
    /// Its name, and what it takes.
    pub description: Machine,
    /// Whether it can be used.
    pub condition: MachineCondition,
    /// Slots in which something runs, up to [`Machine::all_slots`]; more where there were more
    /// slots when that was started.
    pub busy: u32,
    /// Jobs that were sent there and stand behind others.
    pub queued: u32,
    /// How it failed last, also where it works again.
    pub last_failure: Option<MachineFailure>,
}

/// Whether a machine can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineCondition {
    /// Nobody has needed it so far, or for long: it isn't connected.
    Unused,
    /// It is being connected to.
    Connecting,
    /// It is connected.
    Connected,
    /// It is connected after a failure, and gets one job at a time until one succeeds.
    OnProbation,
    /// It failed, and is left alone for a while.
    Down {
        /// How long until it is tried again at the earliest.
        again: Duration,
    },
    /// It doesn't let us in, or isn't what the configuration says; never tried again before the
    /// configuration is read anew.
    Refused,
    /// It was told to take nothing new.
    Draining,
    /// It is in the configuration no more, and something still runs there.
    Leaving,
}

/// A machine's failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineFailure {
    /// What kind of failure it was.
    pub fault: MachineFault,
    /// What it said.
    pub cause: String,
    /// How long ago that was.
    pub ago: Duration,
}

impl MachineView {
    /// Returns a machine that nobody has needed so far.
    pub(crate) fn unused(description: Machine) -> MachineView {
        let condition = MachineCondition::Unused;
        MachineView { description, condition, busy: 0, queued: 0, last_failure: None }
    }

    /// Returns why it can never take what needs `system` and `features`, by the scheduler's own
    /// rules; nothing if it can, once it is up and has a free slot.
    pub fn refuses(&self, system: &str, features: &BTreeSet<String>) -> Option<Reason> {
        self.description.refusal(system, features)
    }

    /// Whether it takes jobs now, or will as soon as it is connected and has a free slot.
    pub fn is_usable(&self) -> bool {
        match self.condition {
            MachineCondition::Unused
            | MachineCondition::Connecting
            | MachineCondition::Connected
            | MachineCondition::OnProbation => true,
            MachineCondition::Down { .. }
            | MachineCondition::Refused
            | MachineCondition::Draining
            | MachineCondition::Leaving => false,
        }
    }

    /// Returns how many slots are free for what needs `system` and `features`; none if it can't be
    /// used or refuses that. Those of a machine that isn't connected yet count.
    pub fn free_slots(&self, system: &str, features: &BTreeSet<String>) -> u32 {
        let slots = match self.condition {
            MachineCondition::OnProbation => 1.min(self.description.slots_for(system, features)),
            _ if self.is_usable() => self.description.slots_for(system, features),
            _ => 0,
        };
        slots.saturating_sub(self.busy)
    }
}

#[cfg(test)]
mod tests {
    use drover_schedule::{Bandwidth, MachineKind};
    use rstest::rstest;

    use super::*;

    fn words(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn view(condition: MachineCondition, busy: u32) -> MachineView {
        let description = Machine {
            name: "builder".to_owned(),
            kind: MachineKind::Remote,
            systems: words(&["x86_64-linux"]),
            slots: 4,
            speed_factor: 1.0,
            supported_features: words(&["kvm"]),
            mandatory_features: words(&[]),
            round_trip: Duration::ZERO,
            bandwidth: Bandwidth(0),
            other_terms: Vec::new(),
        };
        MachineView { condition, busy, ..MachineView::unused(description) }
    }

    #[rstest]
    #[case::unused(MachineCondition::Unused, 0, 4)]
    #[case::some_taken(MachineCondition::Connected, 3, 1)]
    #[case::full(MachineCondition::Connected, 4, 0)]
    #[case::had_more_slots_before(MachineCondition::Connected, 6, 0)]
    #[case::on_probation(MachineCondition::OnProbation, 0, 1)]
    #[case::probed(MachineCondition::OnProbation, 1, 0)]
    #[case::down(MachineCondition::Down { again: Duration::from_secs(1) }, 0, 0)]
    #[case::refused(MachineCondition::Refused, 0, 0)]
    #[case::draining(MachineCondition::Draining, 1, 0)]
    #[case::leaving(MachineCondition::Leaving, 1, 0)]
    fn counts_free_slots(
        #[case] condition: MachineCondition,
        #[case] busy: u32,
        #[case] free: u32,
    ) {
        let machine = view(condition, busy);
        assert_eq!(machine.free_slots("x86_64-linux", &words(&["kvm"])), free);
        assert_eq!(machine.free_slots("aarch64-linux", &words(&[])), 0);
        assert_eq!(machine.free_slots("x86_64-linux", &words(&["big-parallel"])), 0);
    }

    #[test]
    fn refuses_as_the_scheduler_does() {
        let machine = view(MachineCondition::Connected, 0);
        assert_eq!(machine.refuses("x86_64-linux", &words(&["kvm"])), None);
        let features = words(&["kvm", "big-parallel"]);
        let refusal = machine.refuses("x86_64-linux", &features);
        assert_eq!(refusal, Some(Reason::LacksFeatures { features: words(&["big-parallel"]) }));
    }
}
