//! The two directions of a connection while work is done for it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use drover_wire::{Dialect, Encoder, LogMessage, Response};
use tokio::time::{Instant, sleep_until};

use crate::connection::{Input, Output};
use crate::error::DaemonError;
use crate::failure::Failure;
use crate::log_queue::LogQueue;

/// The two directions of a connection, and what is to be told.
pub(crate) struct Wires {
    pub(crate) input: Input,
    pub(crate) output: Output,
    pub(crate) log: Arc<LogQueue>,
}

impl Wires {
    /// Packs both directions from now on.
    pub(crate) async fn pack(&mut self) -> Result<(), DaemonError> {
        self.output.flush().await?;
        self.output.pack();
        self.input.unpack();
        Ok(())
    }

    pub(crate) fn reply(&mut self, dialect: &Dialect, result: Result<Response, Failure>) {
        self.log.move_all_into(&mut self.output);
        let mut out = Encoder::new();
        match result {
            Ok(response) => {
                LogMessage::Last.encode(&mut out, dialect.version.minor);
                response.encode(&mut out, dialect);
            }
            Err(failure) => {
                LogMessage::Error(failure.to_remote()).encode(&mut out, dialect.version.minor);
            }
        }
        self.output.push(&out.into_bytes());
    }

    /// Waits for work, and passes on what there is to tell. The work ends when the client goes.
    pub(crate) async fn run<T>(
        &mut self,
        limits: crate::limits::Limits,
        work: impl Future<Output = T>,
    ) -> Result<T, DaemonError> {
        let Wires { input, output, log } = self;
        let mut work = pin!(work);
        let mut gone_at: Option<Instant> = None;
        loop {
            log.move_into(output);
            let deadline = gone_at.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                value = &mut work => return Ok(value),
                flushed = output.flush(), if output.pending() > 0 => flushed?,
                () = log.ready(), if output.pending() == 0 => {}
                () = input.hangup(), if gone_at.is_none() => {
                    gone_at = Some(Instant::now() + limits.after_hangup);
                }
                () = sleep_until(deadline), if gone_at.is_some() => {
                    return Err(DaemonError::Gone { doing: "waiting for an answer" });
                }
            }
        }
    }
}

/// Waits for work that takes the client's data, and for the end of that data. A failure is told at
/// once, so that the client can stop sending; then there is nothing left to answer.
pub(crate) async fn run_fed<T>(
    output: &mut Output,
    log: &LogQueue,
    minor: u8,
    failed: &AtomicBool,
    work: impl Future<Output = Result<T, Failure>>,
    feed: impl Future<Output = Result<(), DaemonError>>,
) -> Result<Option<T>, DaemonError> {
    let (mut work, mut feed) = (pin!(work), pin!(feed));
    let (mut outcome, mut is_fed) = (None, false);
    loop {
        if is_fed && let Some(outcome) = outcome {
            return Ok(outcome);
        }
        log.move_into(output);
        tokio::select! {
            biased;
            result = &mut work, if outcome.is_none() => outcome = Some(match result {
                Ok(value) => Some(value),
                Err(failure) => {
                    failed.store(true, Ordering::Relaxed);
                    log.move_all_into(output);
                    let mut out = Encoder::new();
                    LogMessage::Error(failure.to_remote()).encode(&mut out, minor);
                    output.push(&out.into_bytes());
                    None
                }
            }),
            flushed = output.flush(), if output.pending() > 0 => flushed?,
            ended = &mut feed, if !is_fed => {
                ended?;
                is_fed = true;
            }
            () = log.ready(), if output.pending() == 0 && outcome.is_none() => {}
        }
    }
}
