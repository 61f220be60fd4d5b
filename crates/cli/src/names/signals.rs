//! What a daemon is told from outside.

use std::io;
use std::time::Duration;

use drover_daemon::Stop;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How long a stop that was asked for with patience waits for what is under way.
const DRAIN: Duration = Duration::from_secs(24 * 3600);

/// What a daemon is told from outside.
pub(super) enum Signal {
    /// SIGHUP: settings have changed.
    Reload,
    /// SIGTERM or SIGINT: now; SIGUSR1: when what is under way has ended.
    Stop(Stop),
    /// Time to say that all is well.
    Alive,
}

/// Listens for what a daemon is told.
pub(super) struct Signals {
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    drain: tokio::signal::unix::Signal,
    alive: Option<Interval>,
}

impl Signals {
    /// `alive` is how often it is time to say that all is well.
    pub(super) fn new(alive: Option<Duration>) -> io::Result<Signals> {
        let alive = alive.filter(|period| !period.is_zero()).map(|period| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            drain: signal(SignalKind::user_defined1())?,
            alive,
        })
    }

    /// Waits for the next. Nothing is lost where this is dropped.
    pub(super) async fn next(&mut self) -> Signal {
        let tick = async {
            match &mut self.alive {
                Some(ticks) => drop(ticks.tick().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.interrupt.recv() => Signal::Stop(Stop::Now),
            _ = self.terminate.recv() => Signal::Stop(Stop::Now),
            _ = self.drain.recv() => Signal::Stop(Stop::Drain(DRAIN)),
            () = tick => Signal::Alive,
        }
    }
}
