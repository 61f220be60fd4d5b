//! The choice of stock Nix, for comparison.
//!
//! Follows the loop over machines in C++ Nix's `src/nix/build-remote/build-remote.cc`: the lowest
//! load divided by speed, then the higher speed, then the lower load, then the order of the file.
//! The new job itself is not counted. Every machine is looked at for every job, as there.

use std::cmp::Ordering;
use std::time::Duration;

use crate::explanation::Why;
use crate::id::{JobId, Lane};
use crate::job::{Decision, ReadyKey};
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
        let classes = &self.requirements.at(record.requirement).classes;
        let mut best: Option<(Lane, Line)> = None;
        for (machine, candidate) in self.machines.iter() {
            if !candidate.takes_jobs() || avoid.contains(&machine) {
                continue;
            }
            for face in candidate.faces.iter().filter(|face| classes.contains(&face.class)) {
                let Some(index) = candidate.free_lane(face.slots) else { continue };
                let line = Line { load: candidate.busy_lanes_below(face.slots), speed: face.speed };
                if best.is_none_or(|(_, best)| line.is_better(best, rounding)) {
                    best = Some((Lane { machine, index }, line));
                }
            }
        }
        best.map(|(lane, _)| lane)
    }
}

/// What counts of a line of the machines file.
#[derive(Clone, Copy)]
struct Line {
    load: u32,
    speed: f64,
}

impl Line {
    fn is_better(self, best: Line, rounding: Rounding) -> bool {
        let quotients = match rounding {
            Rounding::Float => {
                let quotient = f64::from(self.load) / self.speed;
                quotient.total_cmp(&(f64::from(best.load) / best.speed))
            }
            Rounding::Integer => {
                let quotient = u64::from(self.load) / self.whole_speed();
                quotient.cmp(&(u64::from(best.load) / best.whole_speed()))
            }
        };
        let order = quotients
            .then_with(|| best.speed.total_cmp(&self.speed))
            .then_with(|| self.load.cmp(&best.load));
        order == Ordering::Less
    }

    /// Returns the speed factor without its fraction, at least 1.
    fn whole_speed(self) -> u64 {
        let speed = Duration::try_from_secs_f64(self.speed);
        speed.map_or(u64::MAX, |speed| speed.as_secs().max(1))
    }
}
