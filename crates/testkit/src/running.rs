//! A program that runs in a host: its output so far, its signals, its end.
//!
//! Output goes to files rather than pipes, so a program is never held up by a slow reader.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::processes;

/// What can be sent to a program in a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// A polite request to end.
    Terminate,
    /// The end, at once.
    Kill,
    /// Stand still.
    Stop,
    /// Go on after [`Signal::Stop`].
    Continue,
}

impl From<Signal> for rustix::process::Signal {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Interrupt => Self::INT,
            Signal::Terminate => Self::TERM,
            Signal::Kill => Self::KILL,
            Signal::Stop => Self::STOP,
            Signal::Continue => Self::CONT,
        }
    }
}

/// A program running in a host. Dropping it kills it and all that it started.
#[derive(Debug)]
pub struct Running {
    child: Child,
    line: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Starts `command`, which enters the host; `stem` is where the output files go.
    pub(crate) fn start(mut command: Command, line: String, stem: &str) -> Result<Running> {
        let (stdout, stderr) = (PathBuf::from(format!("{stem}.out")), format!("{stem}.err").into());
        command.stdin(Stdio::null()).stdout(File::create(&stdout)?).stderr(File::create(&stderr)?);
        let child = command.spawn().with_context(|| format!("cannot start {line}"))?;
        Ok(Running { child, line, stdout, stderr })
    }

    /// Returns what the program has written to standard output so far.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// Returns what the program has written to standard error so far.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Returns the process id of the program, as seen from outside of the host.
    pub fn pid(&self) -> Option<i32> {
        let entrance = self.entrance();
        processes::all().iter().find(|process| process.parent == entrance).map(|it| it.pid)
    }

    /// Sends a signal to the program, not to what it started.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            processes::send(pid, signal.into());
        }
        if signal == Signal::Continue {
            // what entered the host stands still with what it started
            processes::send(self.entrance(), signal.into());
        }
    }

    /// Returns the exit status if the program has ended.
    ///
    /// # Errors
    ///
    /// If the system cannot tell.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until `text` stands in standard output or standard error.
    ///
    /// # Errors
    ///
    /// If the program ends without it, or `limit` passes.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            // The order matters: what is written before the end must be seen.
            let ended = self.try_wait()?;
            if self.stdout().contains(text) || self.stderr().contains(text) {
                return Ok(());
            }
            if let Some(status) = ended {
                bail!("{status} before {text:?} was seen: {}", self.describe());
            }
            if limit < start.elapsed() {
                bail!("{text:?} not seen within {limit:?}: {}", self.describe());
            }
            pause();
        }
    }

    /// Waits for the end of the program and returns its status and output.
    ///
    /// # Errors
    ///
    /// If `limit` passes; the program is killed then.
    pub fn wait(mut self, limit: Duration) -> Result<Output> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.try_wait()? {
                let stdout = fs::read(&self.stdout)?;
                return Ok(Output { status, stdout, stderr: fs::read(&self.stderr)? });
            }
            if limit < start.elapsed() {
                bail!("not done within {limit:?}: {}", self.describe());
            }
            pause();
        }
    }

    fn describe(&self) -> String {
        describe(&self.line, self.stdout().as_bytes(), self.stderr().as_bytes())
    }

    fn entrance(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or_default()
    }

    /// Has what enters the host stand still; what it has started by then goes on.
    fn stand_still(&self) {
        processes::send(self.entrance(), rustix::process::Signal::STOP);
        while processes::is_running(self.entrance()) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn kill(&mut self) {
        // What enters the host must not start the program behind the last look.
        self.stand_still();
        // Twice, because a process may have started another between look and blow.
        for _ in 0..2 {
            for process in processes::below(self.entrance()) {
                processes::send(process.pid, rustix::process::Signal::KILL);
            }
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.kill();
        }
        fs::remove_file(&self.stdout).ok();
        fs::remove_file(&self.stderr).ok();
    }
}

/// Returns one text with the command line and what it said, for error messages.
pub(crate) fn describe(line: &str, stdout: &[u8], stderr: &[u8]) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
    format!("`{line}`\n--- stdout\n{}\n--- stderr\n{}", tail(&stdout), tail(&stderr))
}

/// Returns how a program ended, in words.
pub(crate) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no status".to_owned(),
    }
}

/// The last lines are the ones that say why.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines.iter().skip(lines.len().saturating_sub(40)).copied().collect::<Vec<_>>().join("\n")
}

fn text(path: &PathBuf) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn pause() {
    std::thread::sleep(Duration::from_millis(4));
}
