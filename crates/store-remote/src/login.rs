//! Looking at a machine by SSH, step by step, and running single commands there.
//!
//! The `ssh` that is run, and what it is told, are the same as for builds: what goes well here goes
//! well there.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use drover_store::StoreError;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use crate::dial::ConnectOptions;
use crate::master::Need;
use crate::ssh::{SshHost, SshTarget};

/// Bytes of each stream of a command that are kept.
const KEPT: u64 = 256 * 1024;

/// A machine by SSH. The connection is opened on first use, and ended when this is dropped.
pub struct Login {
    host: SshHost,
    name: String,
    limit: Duration,
    options: ConnectOptions,
}

/// What a command has printed, as far as it's kept (256 KiB of each).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// On standard output.
    pub stdout: Vec<u8>,
    /// On standard error.
    pub stderr: Vec<u8>,
}

impl Login {
    /// Returns the machine; nothing is connected yet.
    pub fn new(name: &str, target: SshTarget, options: &ConnectOptions) -> Login {
        Login {
            host: SshHost::new(name.to_owned(), target, options.clone()),
            name: name.to_owned(),
            limit: options.connect_timeout,
            options: options.clone(),
        }
    }

    /// Returns what `ssh -G` says of the way to the machine. Nothing is connected.
    ///
    /// # Errors
    ///
    /// `ssh` can't be run, or refuses its configuration; its words are in the error.
    pub async fn configuration(&self) -> Result<String, StoreError> {
        let (status, ran) = self.ssh(&["-G"], &[]).await?;
        match status.is_some_and(|status| status.success()) {
            true => Ok(text(&ran.stdout)),
            false => Err(self.unreachable(text(&ran.stderr))),
        }
    }

    /// Logs in by a connection of its own, and returns what `ssh -v` says of it: which key the host
    /// has shown, whether it is the one that is known, and whether the user was let in. A server may
    /// shut out those who connect and don't log in (`PerSourcePenalties`), so it's done whole.
    ///
    /// # Errors
    ///
    /// `ssh` can't be run, or hears nothing.
    pub async fn greeting(&self) -> Result<String, StoreError> {
        self.host.pin_if_known().map_err(|error| self.unreachable(error.to_string()))?;
        // a key that nobody knows is to be told, and not to be noted by the way
        let (_, ran) = self.ssh(&["-v", "-oStrictHostKeyChecking=yes"], &[]).await?;
        Ok(text(&ran.stderr))
    }

    /// Connects without logging in, and returns the key that the host shows, as in a `.pub` file (kind, a
    /// space, base64), whatever is known of it.
    ///
    /// # Errors
    ///
    /// `ssh` can't be run, hears nothing, or gets no key; its words are in the error.
    pub async fn shown_key(&self) -> Result<String, StoreError> {
        let learnt = self.options.runtime_dir.path().join("shown-key");
        let failed = |error: std::io::Error| self.unreachable(error.to_string());
        // another host's key may be there from an earlier question
        fs_err::write(&learnt, "").map_err(failed)?;
        let file = format!("-oUserKnownHostsFile={}", learnt.display());
        let arguments = [
            "-v",
            &file,
            "-oGlobalKnownHostsFile=/dev/null",
            "-oStrictHostKeyChecking=accept-new",
            "-oHostKeyAlias=shown",
            "-oHashKnownHosts=no",
            "-oUpdateHostKeys=no",
        ];
        let (_, ran) = self.ssh(&arguments, &["-oPreferredAuthentications=none"]).await?;
        let lines = fs_err::read_to_string(&learnt).map_err(failed)?;
        match lines.lines().find_map(|line| line.strip_prefix("shown ")) {
            Some(key) => Ok(key.trim().to_owned()),
            None => Err(self.unreachable(without_debug(&text(&ran.stderr)))),
        }
    }

    /// Logs in.
    ///
    /// # Errors
    ///
    /// The host can't be reached, or doesn't let this user in without a question.
    pub async fn open(&self) -> Result<(), StoreError> {
        self.host.slot(Need::Other).await.map(drop)
    }

    /// Runs a command there by the user's shell, with nothing on its standard input, and returns
    /// what it has printed when it has ended, or what there is of it after `limit`: a process in the
    /// background may keep its output open.
    ///
    /// # Errors
    ///
    /// The host can't be reached, or gives no session.
    pub async fn run(&self, line: &[&str], limit: Duration) -> Result<Ran, StoreError> {
        let line: Vec<String> = line.iter().map(|&word| word.to_owned()).collect();
        let slot = self.host.slot(Need::Other).await?;
        let (session, slot) = self.host.session(slot, &line, Need::Other).await?;
        drop(session.stdin);
        let mut ran = Ran::default();
        let streams = async {
            tokio::join!(
                keep(session.stdout, &mut ran.stdout),
                keep(session.stderr, &mut ran.stderr)
            )
        };
        // what has come until then is there
        drop(tokio::time::timeout(limit, streams).await);
        drop((session.control, slot));
        Ok(ran)
    }

    /// Runs a command there that reads `input`, and returns what it has printed when it has ended.
    ///
    /// # Errors
    ///
    /// The host can't be reached or gives no session, or it takes longer than `limit`.
    pub async fn feed(
        &self,
        line: &[&str],
        mut input: impl AsyncRead + Unpin,
        limit: Duration,
    ) -> Result<Ran, StoreError> {
        let line: Vec<String> = line.iter().map(|&word| word.to_owned()).collect();
        let slot = self.host.slot(Need::Other).await?;
        let (session, slot) = self.host.session(slot, &line, Need::Other).await?;
        let mut stdin = session.stdin;
        let mut ran = Ran::default();
        let all = async {
            tokio::join!(
                async {
                    // one that ends early has said why
                    tokio::io::copy(&mut input, &mut stdin).await.ok();
                    drop(stdin);
                },
                keep(session.stdout, &mut ran.stdout),
                keep(session.stderr, &mut ran.stderr),
            )
        };
        let ended = tokio::time::timeout(limit, all).await;
        drop((session.control, slot));
        match ended {
            Ok(_) => Ok(ran),
            Err(_) => Err(self.unreachable(format!("it took longer than {} s", limit.as_secs()))),
        }
    }

    /// Runs `ssh`, with arguments before the usual ones, which they win over, and behind them.
    /// What it has said until it took too long is returned without a status.
    async fn ssh(
        &self,
        first: &[&str],
        last: &[&str],
    ) -> Result<(Option<ExitStatus>, Ran), StoreError> {
        let mut command = Command::new("ssh");
        command.env_remove("DISPLAY").env_remove("SSH_ASKPASS");
        command.args(first).args(["-oControlMaster=no", "-oControlPath=none"]);
        command.args(self.host.arguments()).args(last).arg(self.host.destination()).arg("true");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true).process_group(0);
        let failed = |error: std::io::Error| self.unreachable(format!("ssh: {error}"));
        let mut child = command.spawn().map_err(failed)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut ran = Ran::default();
        let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
            return Err(self.unreachable("the streams of ssh could not be had".to_owned()));
        };
        let ended = async {
            tokio::join!(keep(stdout, &mut ran.stdout), keep(stderr, &mut ran.stderr));
            child.wait().await
        };
        match tokio::time::timeout(self.limit * 2, ended).await {
            Ok(status) => Ok((Some(status.map_err(failed)?), ran)),
            Err(_) => Ok((None, ran)),
        }
    }

    fn unreachable(&self, reason: String) -> StoreError {
        StoreError::Unreachable { store: self.name.clone(), reason }
    }
}

/// Reads to the end, and keeps the beginning.
async fn keep(mut from: impl AsyncRead + Unpin, into: &mut Vec<u8>) {
    // what can't be read any more has ended
    (&mut from).take(KEPT).read_to_end(into).await.ok();
    tokio::io::copy(&mut from, &mut tokio::io::sink()).await.ok();
}

/// Leaves out what `ssh -v` says beside what is wrong.
fn without_debug(said: &str) -> String {
    let is_told = |line: &&str| !line.starts_with("debug") && !line.starts_with("OpenSSH_");
    said.lines().filter(is_told).map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn text(bytes: &[u8]) -> String {
    drover_core::plain_text(&String::from_utf8_lossy(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_without_how_it_was_found() {
        let said = "OpenSSH_10.0p2 Debian\r\ndebug1: Reading configuration data\r\n\
                    ssh: Could not resolve hostname x: Name or service not known\r\n";
        assert_eq!(
            without_debug(said),
            "ssh: Could not resolve hostname x: Name or service not known"
        );
    }
}
