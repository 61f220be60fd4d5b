//! What is said of the folders of failed builds.

use drover_schedule::{JobId, MachineId, MachineKind};

use crate::driver::Driver;
use crate::event::FleetEvent;

impl Driver {
    /// Says that a failed build's folder is on another machine, where somebody wants it kept, as Nix's
    /// build hook does (`src/nix/build-remote/build-remote.cc`).
    pub(crate) fn tell_of_kept_folder(&self, machine: MachineId, job: JobId) {
        let machine = self.machines.get(machine.0 as usize);
        let is_here = machine.is_none_or(|it| it.spec.description.kind == MachineKind::Local);
        let keeps = self.jobs.get(job.0 as usize).map(|job| job.plan.terms.wishes().keep_failed);
        if !is_here && keeps == Some(true) {
            let text = "warning: The failed build directory was kept on the remote builder due to \
                        `--keep-failed`.";
            self.shared.observer.event(FleetEvent::Note(text.to_owned()));
        }
    }
}
