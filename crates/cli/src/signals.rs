//! Ctrl-C and its relatives.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::exit::ExitStatus;

/// Cancels at the first SIGINT, SIGTERM or SIGHUP, and ends the process at the second, for as long
/// as what is returned is kept.
pub(crate) fn cancel_on_signals(cancel: CancellationToken) -> io::Result<JoinSet<()>> {
    let mut signals = Signals {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
        hangup: signal(SignalKind::hangup())?,
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        signals.next().await;
        cancel.cancel();
        signals.next().await;
        std::process::exit(ExitStatus::INTERRUPTED.0.into());
    });
    Ok(tasks)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
