//! Which machines are worth waiting for by those who can do without: each for a moment, once until it has
//! been up. A machine that is silent would keep every build from starting otherwise.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use drover_daemon::Wait;
use drover_fleet::{MachineCondition, MachineView};

/// For how long a machine is worth waiting for by who could do without.
pub(super) const MOMENT: Duration = Duration::from_secs(1);

/// Since when machines have been awaited that weren't up meanwhile, by name.
#[derive(Debug, Default)]
pub(super) struct AwaitedSince(BTreeMap<String, Instant>);

impl AwaitedSince {
    /// Takes note of how all machines are.
    pub(super) fn note(&mut self, views: &[MachineView], now: Instant) {
        for view in views {
            let name = &view.description.name;
            if is_up(view) {
                self.0.remove(name);
            } else if !self.0.contains_key(name)
                && !matches!(view.condition, MachineCondition::Draining)
            {
                self.0.insert(name.clone(), now);
            }
        }
    }

    /// Returns whether one of these machines is worth waiting for.
    pub(super) fn wait_for(&self, views: &[MachineView], now: Instant) -> Wait {
        let is_new = |view: &MachineView| {
            self.0
                .get(&view.description.name)
                .is_none_or(|since| now.saturating_duration_since(*since) < MOMENT)
        };
        match views.iter().any(|view| is_awaited(view) && is_new(view)) {
            true => Wait::Worthwhile,
            false => Wait::InVain,
        }
    }

    /// Returns how long one waits who would wait so long: not at all where that is less than a moment and machines
    /// have been waited for in vain, as such questions come by the thousand. They are being tried anyhow.
    pub(super) fn patience(
        &self,
        views: &[MachineView],
        now: Instant,
        patience: Duration,
    ) -> Duration {
        match self.wait_for(views, now) {
            Wait::InVain if patience < MOMENT => Duration::ZERO,
            _ => patience,
        }
    }
}

pub(super) fn is_up(view: &MachineView) -> bool {
    matches!(view.condition, MachineCondition::Connected | MachineCondition::OnProbation)
}

/// Whether a machine hasn't answered yet.
pub(super) fn is_awaited(view: &MachineView) -> bool {
    matches!(view.condition, MachineCondition::Unused | MachineCondition::Connecting)
}

#[cfg(test)]
mod tests {
    use drover_fleet::MachineView;

    use super::*;

    fn view(name: &str, condition: MachineCondition) -> MachineView {
        MachineView { condition, ..crate::names::hooks::tests::unused(name) }
    }

    /// Only the first question is waited for, however many follow.
    #[test]
    fn a_silent_machine_is_waited_for_once() {
        let silent = [view("b1", MachineCondition::Connecting)];
        let (start, mut awaited) = (Instant::now(), AwaitedSince::default());
        awaited.note(&silent, start);
        assert_eq!(awaited.wait_for(&silent, start), Wait::Worthwhile);
        let mut now = start + MOMENT;
        for condition in [
            MachineCondition::Connecting,
            MachineCondition::Down { again: MOMENT },
            MachineCondition::Unused,
            MachineCondition::Connecting,
        ] {
            let silent = [view("b1", condition)];
            awaited.note(&silent, now);
            assert_eq!(awaited.wait_for(&silent, now), Wait::InVain, "{condition:?}");
            // who asks for the thousandth time doesn't wait at all, who needs one does
            let patience = |patience| awaited.patience(&silent, now, patience);
            assert_eq!(patience(MOMENT / 50), Duration::ZERO);
            assert_eq!(patience(MOMENT * 30), MOMENT * 30);
            now += MOMENT;
        }
    }

    /// One that was up has only been given up as nobody needed it.
    #[test]
    fn a_machine_that_was_up_is_waited_for_anew() {
        let (start, mut awaited) = (Instant::now(), AwaitedSince::default());
        awaited.note(&[view("b1", MachineCondition::Connecting)], start);
        awaited.note(&[view("b1", MachineCondition::Connected)], start + MOMENT);
        let again = [view("b1", MachineCondition::Unused)];
        awaited.note(&again, start + 9 * MOMENT);
        assert_eq!(awaited.wait_for(&again, start + 9 * MOMENT), Wait::Worthwhile);
    }

    #[test]
    fn machines_are_waited_for_each_by_itself() {
        let (start, mut awaited) = (Instant::now(), AwaitedSince::default());
        let both =
            [view("b1", MachineCondition::Connected), view("b2", MachineCondition::Connecting)];
        awaited.note(&both, start);
        // those who can use the first don't ask for it
        awaited.note(&both, start + MOMENT);
        assert_eq!(awaited.wait_for(&both[1..], start + MOMENT), Wait::InVain);
    }
}
