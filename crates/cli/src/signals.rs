//! Ctrl-C and its relatives.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Watches for SIGINT, SIGTERM and SIGHUP for as long as it is kept.
pub(crate) struct Signals {
    /// Cancelled at the first: end in good order.
    pub(crate) first: CancellationToken,
    /// Cancelled at the second: leave at once.
    pub(crate) second: CancellationToken,
    _tasks: JoinSet<()>,
}

impl Signals {
    /// Begins to watch.
    pub(crate) fn watch() -> io::Result<Signals> {
        let mut source = Source {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        };
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let tokens = [first.clone(), second.clone()];
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            for token in tokens {
                source.next().await;
                token.cancel();
            }
        });
        Ok(Signals { first, second, _tasks: tasks })
    }
}

struct Source {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Source {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
