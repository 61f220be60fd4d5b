//! A build while it runs: what it says, how long it may take, and its end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use drover_sandbox::{Ended, Handles, Launcher, Plan, Program, Running, Terminal, TerminalReader};
use drover_store::{BuildFailure, BuildLog, FailureCause, LogEvent, StoreError};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::failure::{Trouble, machine, of_start, of_wait};
use crate::heard::Heard;
use crate::log::Lines;
use crate::log_file::LogFile;

/// Bytes that are heard at once.
const PIECE: usize = 64 * 1024;

/// How long a builder may go on that has closed its log. Nix kills it at once, and so, by chance,
/// builders that are about to end.
const CLOSED: Duration = Duration::from_secs(2);

/// Bytes of a read after which more is likely to be there at once: a terminal holds a little more.
const MUCH: usize = 4000;

/// How long reads of one piece may take together. Meanwhile nothing else of this build is looked at.
const READING: Duration = Duration::from_millis(10);

/// How far a build may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) timeout: Option<Duration>,
    pub(crate) max_silent_time: Option<Duration>,
    pub(crate) max_log_size: Option<u64>,
}

/// A build that is to run.
pub(crate) struct Process<'a> {
    /// The derivation, for messages.
    pub(crate) derivation: &'a str,
    pub(crate) launcher: &'a Launcher,
    pub(crate) limits: Limits,
    pub(crate) cancel: &'a CancellationToken,
    pub(crate) log: Arc<dyn BuildLog>,
    pub(crate) file: Option<LogFile>,
    /// Lines of the log's end that are handed on.
    pub(crate) tail: usize,
}

/// How a build ended, and the end of what it said.
pub(crate) struct Ending {
    pub(crate) ended: Ended,
    pub(crate) tail: Vec<String>,
}

/// Makes the terminal that a build writes to.
pub(crate) fn terminal() -> Result<Terminal, Trouble> {
    Terminal::new().map_err(|error| machine("make a terminal for the build", &error).into())
}

impl Process<'_> {
    /// Runs a build to its end. Whatever comes of it, nothing of it runs any more.
    pub(crate) async fn run(
        mut self,
        plan: &Plan,
        handles: Handles,
        upper: OwnedFd,
    ) -> Result<Ending, Trouble> {
        let upper = TerminalReader::new(upper);
        let upper = upper.map_err(|error| unread(&error))?;
        // also where it's cancelled meanwhile: what is given up half-way still ends after this returns,
        // and the build's user would be somebody else's by then
        let spawned = self.launcher.spawn(plan, &handles).await;
        let builder = match &plan.command.program {
            Program::File(file) => file.as_slice(),
            Program::Own(_) => b"drover",
        };
        let mut running = spawned.map_err(|error| of_start(self.derivation, builder, &error))?;
        // or the log would never come to its end
        drop(handles);
        self.log.event(LogEvent::Started);
        let ended = self.follow(&mut running, upper).await;
        if ended.is_err() {
            // it may have ended by itself by now
            running.kill().await.map_err(|error| of_wait(&error))?;
        }
        self.log.event(LogEvent::Ended);
        if let Some(file) = self.file.take() {
            let finished = file.finish().await;
            self.tell_of_log(finished);
        }
        ended
    }

    /// A log that can't be kept is no reason to throw a build away.
    fn tell_of_log(&self, kept: Result<(), StoreError>) {
        if let Err(error) = kept {
            let text = format!("the log of '{}' can't be kept: {error}", self.derivation);
            self.log.event(LogEvent::Message(text));
        }
    }

    async fn follow(
        &mut self,
        running: &mut Running,
        mut upper: TerminalReader,
    ) -> Result<Ending, Trouble> {
        let mut heard = Heard::new(Lines::new(Arc::clone(&self.log), self.tail));
        let began = Instant::now();
        let (mut last, mut closed, mut is_flood) = (began, None::<Instant>, false);
        let mut piece = vec![0; PIECE];
        loop {
            let silence = self.limits.max_silent_time.and_then(|limit| last.checked_add(limit));
            let whole = self.limits.timeout.and_then(|limit| began.checked_add(limit));
            // also where there is always more to read
            if whole.is_some_and(|at| at <= Instant::now()) {
                return Err(self.took_too_long());
            }
            if is_flood && !self.cancel.is_cancelled() {
                heard.expect_much();
                let len = upper.read_on(&mut piece, READING);
                self.hear(&mut heard, piece.get(..len).unwrap_or_default()).await?;
                (last, is_flood) = (Instant::now(), len > 0);
                continue;
            }
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return Err(Trouble::Cancelled),
                read = upper.read(&mut piece), if closed.is_none() => match read {
                    Ok(len) if len > 0 => {
                        last = Instant::now();
                        self.hear(&mut heard, piece.get(..len).unwrap_or_default()).await?;
                        is_flood = MUCH <= len;
                    }
                    Ok(_) => closed = Some(Instant::now()),
                    Err(error) => return Err(unread(&error)),
                },
                ended = running.wait() => {
                    let ended = ended.map_err(|error| of_wait(&error))?;
                    while closed.is_none() && let Ok(len) = upper.read_at_once(&mut piece) && len > 0 {
                        self.hear(&mut heard, piece.get(..len).unwrap_or_default()).await?;
                    }
                    return Ok(Ending { ended, tail: heard.finish() });
                }
                () = until(closed.and_then(|at| at.checked_add(CLOSED))) => {
                    return end_closed(running, heard).await;
                }
                () = until(whole) => return Err(self.took_too_long()),
                () = until(silence) => return Err(self.was_silent()),
            }
        }
    }

    async fn hear(&mut self, heard: &mut Heard, bytes: &[u8]) -> Result<(), Trouble> {
        heard.take(bytes);
        if let Some(file) = &mut self.file {
            let taken = file.take(bytes).await;
            if taken.is_err() {
                self.file = None;
            }
            self.tell_of_log(taken);
        }
        match self.limits.max_log_size {
            Some(limit) if limit < heard.size() => {
                let derivation = self.derivation;
                let message = format!(
                    "'{derivation}' killed after writing more than {limit} bytes of log output"
                );
                Err(BuildFailure { cause: FailureCause::LogLimit, message }.into())
            }
            _ => Ok(()),
        }
    }

    fn was_silent(&self) -> Trouble {
        let message = self.seconds(self.limits.max_silent_time, " of silence");
        BuildFailure { cause: FailureCause::TimedOut, message }.into()
    }

    fn took_too_long(&self) -> Trouble {
        let message = self.seconds(self.limits.timeout, "");
        BuildFailure { cause: FailureCause::TimedOut, message }.into()
    }

    fn seconds(&self, limit: Option<Duration>, how: &str) -> String {
        let seconds = limit.unwrap_or_default().as_secs();
        format!("'{}' timed out after {seconds} seconds{how}", self.derivation)
    }
}

/// Kills a build that has closed its log and goes on.
async fn end_closed(running: &mut Running, heard: Heard) -> Result<Ending, Trouble> {
    let ended = running.kill().await.map_err(|error| of_wait(&error))?;
    Ok(Ending { ended, tail: heard.finish() })
}

fn unread(error: &std::io::Error) -> Trouble {
    machine("read what the build says", error).into()
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
