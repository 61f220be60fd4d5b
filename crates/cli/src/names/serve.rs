//! The serve protocol, for one client at the other end of standard input and output.

use std::sync::Arc;

use drover_compat::{CompatError, ExitStatus, Options, ServeAccess};
use drover_core::raw_bytes;
use drover_daemon::{ServeServer, WriteAccess, stdio};
use drover_fleet::Shutdown;
use drover_store::{RealiseEvent, RealiseObserver};

use super::served::{Scheduling, Serving};
use super::{ThisMachine, failed};

/// Speaks the serve protocol on standard input and output.
pub(super) async fn serve(
    machine: &ThisMachine,
    access: ServeAccess,
    options: &Options,
) -> Result<ExitStatus, CompatError> {
    let configuration = machine.configuration(options)?;
    let opened = machine.open(None, &configuration).map_err(|error| failed(&error))?;
    let serving = Serving::new(machine, opened, configuration, Scheduling::Shared);
    let serving = serving.map_err(|error| failed(&error))?;
    let write = match access {
        ServeAccess::Read => WriteAccess::Denied,
        ServeAccess::Write => WriteAccess::Allowed,
    };
    let server = ServeServer::new(&serving.server, write, Arc::new(OnStandardError));
    let wires = stdio().map_err(|error| failed(&error.into()))?;
    let served = server.serve(wires.input, wires.output).await;
    serving.end(Shutdown::Cancel).await;
    match served {
        Ok(()) => Ok(ExitStatus::SUCCESS),
        Err(error) => Err(CompatError::Failed { message: error.to_string() }),
    }
}

/// Writes the logs of builds to standard error, where clients of the serve protocol expect them.
struct OnStandardError;

impl RealiseObserver for OnStandardError {
    fn event(&self, event: RealiseEvent) {
        let line = match event {
            RealiseEvent::Line { line, .. } => line,
            RealiseEvent::Note(note) => note,
            _ => return,
        };
        // with nobody to read it there is nobody to tell
        drop(std::io::Write::write_all(
            &mut std::io::stderr().lock(),
            &raw_bytes(&format!("{line}\n")),
        ));
    }
}
