//! The machines as their files list them: whoever changes a file needn't tell anybody.

use std::sync::PoisonError;

use super::{Builds, Stamp};
use crate::builders::folder_of;
use crate::configuration::Configuration;
use crate::hook::{behind, listed_in};

/// Returns the files that machines are listed in, as they are now.
pub(super) fn machine_files(configuration: &Configuration) -> Vec<Stamp> {
    let Configuration { conf, settings, host, .. } = configuration;
    let dir = folder_of(conf.origin("builders"), &host.environment.current_dir);
    Stamp::of_all(&listed_in(&settings.builders, dir, &host.environment))
}

impl Builds {
    /// Reads the machines anew where a file that lists them has changed, as stock Nix does for each
    /// build. What is built goes on; the settings stay as they were read.
    pub(super) fn look_at_machines(&self) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        let now = machine_files(&state.configuration);
        if *read == now {
            return;
        }
        *read = now;
        let here = (self.store.as_ref(), state.builder.as_ref());
        let machines = self.machine.machines(&state.configuration, None, here);
        let options = self.askers.options(&state.configuration);
        match machines.and_then(|machines| Ok((machines, options?))) {
            Ok((machines, options)) => self.service.reload(machines, options),
            Err(error) => {
                self.machine.terminal.warn(&format!("the machines stay as they were: {error:#}"));
            }
        }
        self.reload_brought(&mut state);
    }
}

/// Whether a client's list comes to the very machines that are configured: their slots are counted once.
pub(super) fn means_the_same(configuration: &Configuration, builders: &str) -> bool {
    let Configuration { conf, settings, host, .. } = configuration;
    let here = host.environment.current_dir.as_path();
    let dir = folder_of(conf.origin("builders"), here);
    let configured = behind::meant(configuration, &settings.builders, dir);
    let brought = behind::meant(configuration, builders, here);
    match (configured, brought) {
        (Ok(configured), Ok(brought)) => {
            behind::as_listed(&configured) == behind::as_listed(&brought)
        }
        // what is wrong with it is told where it's read
        _ => false,
    }
}
