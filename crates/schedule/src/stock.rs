//! The choice of stock Nix, for comparison.
//!
//! Follows the loop over machines in C++ Nix's `src/nix/build-remote/build-remote.cc`: the lowest
//! load divided by speed, then the higher speed, then the lower load, then the order of the file.
//! The new job itself is not counted. Every machine is looked at for every job, as there.

use std::cmp::Ordering;
use std::time::Duration;

use crate::explanation::Why;
use crate::id::{JobId, Lane, MachineId};
use crate::job::{Decision, ReadyKey};
use crate::machine::MachineRecord;
use crate::scheduler::Scheduler;
use crate::settings::Rounding;

impl Scheduler {
    /// Starts ready jobs where stock Nix would.
    pub(crate) fn dispatch_stock(&mut self, rounding: Rounding) {
        let mut ready: Vec<ReadyKey> = Vec::new();
        for requirement in &self.with_ready {
            ready.extend(self.requirements.at(*requirement).ready.iter().copied());
        }
        ready.sort_unstable();
        for key in ready {
            if let Some(lane) = self.stock_choice(key.job, rounding) {
                let record = self.jobs.at(key.job);
                let finish = self.finish_at(record, lane.machine, self.now);
                let decision = Decision {
                    machine: lane.machine,
                    why: Why::Stock,
                    estimate: finish.since(self.now).into(),
                    others: [None; 3],
                };
                self.start(key.job, lane, decision);
            }
        }
        self.tails.clear();
    }

    fn stock_choice(&self, job: JobId, rounding: Rounding) -> Option<Lane> {
        let record = self.jobs.at(job);
        let avoid = self.machines_to_avoid(record);
        let mut best: Option<(MachineId, u32, &MachineRecord)> = None;
        for (machine, candidate) in self.machines.iter() {
            let Some(lane) = candidate.free_lane() else { continue };
            if !candidate.takes_jobs()
                || avoid.contains(&machine)
                || self.position(record.requirement, machine).is_none()
            {
                continue;
            }
            if best.is_none_or(|(_, _, best)| is_better(candidate, best, rounding)) {
                best = Some((machine, lane, candidate));
            }
        }
        best.map(|(machine, index, _)| Lane { machine, index })
    }
}

fn is_better(candidate: &MachineRecord, best: &MachineRecord, rounding: Rounding) -> bool {
    let (load, best_load) = (candidate.busy_lanes(), best.busy_lanes());
    let quotients = match rounding {
        Rounding::Float => {
            let quotient = f64::from(load) / candidate.speed;
            quotient.total_cmp(&(f64::from(best_load) / best.speed))
        }
        Rounding::Integer => {
            let quotient = u64::from(load) / whole_speed(candidate);
            quotient.cmp(&(u64::from(best_load) / whole_speed(best)))
        }
    };
    let order = quotients
        .then_with(|| best.speed.total_cmp(&candidate.speed))
        .then_with(|| load.cmp(&best_load));
    order == Ordering::Less
}

/// Returns the speed factor without its fraction, at least 1.
fn whole_speed(machine: &MachineRecord) -> u64 {
    Duration::try_from_secs_f64(machine.speed).map_or(u64::MAX, |speed| speed.as_secs().max(1))
}
