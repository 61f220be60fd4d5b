//! A command that runs, from the caller's side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::Shutdown;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::WaitError;
use crate::launcher::Launcher;
use crate::leftovers;
use crate::message::{self, Message, Report};
use crate::plan::Ids;

/// A command that runs. Dropping it kills the command and all that it has started.
#[derive(Debug)]
pub struct Running {
    control: AsyncFd<OwnedFd>,
    pidfd: OwnedFd,
    pid: i32,
    rescue: Option<Rescue>,
    ended: Option<Ended>,
}

/// What is done when a supervisor is killed: killing the users that it watched.
#[derive(Debug)]
pub(crate) struct Rescue {
    pub(crate) launcher: Launcher,
    pub(crate) first: Ids,
    pub(crate) count: u32,
}

/// How a command ended. Nothing that it has started runs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What the kernel says.
    pub exit: Exit,
    /// Why.
    pub cause: Cause,
    /// What became of its network meanwhile.
    pub connection: Connection,
    /// What it used.
    pub usage: Usage,
}

/// How the command's first process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It left with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// Why a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// By itself, or by somebody else's doing.
    Itself,
    /// By [`Running::kill`].
    Killed,
}

/// What became of a command's network while it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Connection {
    /// It was the same to the end.
    Kept,
    /// What carried it ended before the command did: from then on nobody was reached.
    Lost,
}

/// What a command used, as far as its first process has waited for others; a control group knows
/// better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in user space.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// The most memory that one process has held, in bytes.
    pub max_rss: u64,
}

impl Running {
    pub(crate) fn new(
        control: AsyncFd<OwnedFd>,
        pidfd: OwnedFd,
        pid: i32,
        rescue: Option<Rescue>,
    ) -> Running {
        Running { control, pidfd, pid, rescue, ended: None }
    }

    /// Returns the number of its first process, as this machine counts. For messages; signals are
    /// for [`Running::kill`].
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns the descriptor of its first process.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Waits until it has ended and nothing that it has started runs any more.
    ///
    /// Dropping the future loses nothing; when it has ended, every further call says so.
    ///
    /// # Errors
    /// If the supervisor is gone. The command has been killed then.
    pub async fn wait(&mut self) -> Result<Ended, WaitError> {
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        match self.hear().await {
            Ok(ended) => {
                self.ended = Some(ended);
                Ok(ended)
            }
            Err(error) => {
                // Nobody else is left to do it.
                leftovers::kill(&self.pidfd).unwrap_or_default();
                if let Some(Rescue { launcher, first, count }) = &self.rescue {
                    launcher.kill_users(*first, *count).await.map_err(WaitError::Rescue)?;
                }
                Err(error)
            }
        }
    }

    /// Hears the supervisor out.
    async fn hear(&self) -> Result<Ended, WaitError> {
        let message = next_report(&self.control).await.map_err(WaitError::Supervisor)?;
        let report = message.ok_or(WaitError::Vanished)?.read();
        match report.map_err(|errno| WaitError::Supervisor(errno.into()))? {
            Report::Ended { status, asked, connection, user, system, max_rss } => {
                let exit = match libc::WIFEXITED(status) {
                    true => Exit::Code(libc::WEXITSTATUS(status)),
                    false => Exit::Signal(libc::WTERMSIG(status)),
                };
                let cause = if asked { Cause::Killed } else { Cause::Itself };
                let usage = Usage { user, system, max_rss };
                Ok(Ended { exit, cause, connection, usage })
            }
            Report::Failed(failure) => Err(WaitError::Step(failure)),
            Report::Started { .. } | Report::Done | Report::Supports(_) => Err(WaitError::Vanished),
        }
    }

    /// Kills it and all that it has started, and waits until nothing is left.
    ///
    /// # Errors
    /// As [`Running::wait`].
    pub async fn kill(&mut self) -> Result<Ended, WaitError> {
        if self.ended.is_none() {
            // If the supervisor is gone, waiting says so.
            rustix::net::shutdown(&self.control, Shutdown::Write).unwrap_or_default();
        }
        self.wait().await
    }
}

/// Receives the next message of a supervisor; `None` if it's gone.
pub(crate) async fn next_report(control: &AsyncFd<OwnedFd>) -> io::Result<Option<Message>> {
    control.async_io(Interest::READABLE, |control| Ok(message::receive(control)?)).await
}
