//! How commands are run where a machine's Nix is.

use std::process::Stdio;
use std::time::Duration;

use drover_store_remote::{Login, Ran};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// Bytes of each stream of a command that are kept.
const KEPT: u64 = 256 * 1024;

/// How commands are run where a machine's Nix is.
pub(crate) enum Way {
    /// On another machine.
    Ssh(Box<Login>),
    /// On this machine.
    Here,
}

impl Way {
    /// Runs a command, and returns what it has printed within the limit. Where it can't be run at
    /// all, that stands in the place of its standard error.
    pub(crate) async fn run(&self, line: &[&str], limit: Duration) -> Ran {
        let ran = match self {
            Way::Ssh(login) => login.run(line, limit).await.map_err(|error| error.to_string()),
            Way::Here => here(line, limit).await.map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => {
                    format!("{}: No such file or directory", line.first().unwrap_or(&""))
                }
                _ => error.to_string(),
            }),
        };
        ran.unwrap_or_else(|error| Ran { stdout: Vec::new(), stderr: error.into_bytes() })
    }
}

async fn here(line: &[&str], limit: Duration) -> std::io::Result<Ran> {
    let mut words = line.iter();
    let mut command = Command::new(words.next().copied().unwrap_or_default());
    command.args(words).kill_on_drop(true).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut ran = Ran::default();
    if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
        let (mut stdout, mut stderr) = (stdout.take(KEPT), stderr.take(KEPT));
        let both = async {
            tokio::join!(stdout.read_to_end(&mut ran.stdout), stderr.read_to_end(&mut ran.stderr))
        };
        // what has come until then is there
        drop(tokio::time::timeout(limit, both).await);
    }
    Ok(ran)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_end_has_said_something() {
        let line = ["sh", "-c", "echo some; exec sleep 1000"];
        let ran = Way::Here.run(&line, Duration::from_millis(500)).await;
        assert_eq!(ran.stdout, b"some\n");
        let ran = Way::Here.run(&["/no/such/program"], Duration::from_secs(60)).await;
        assert_eq!(ran.stderr, b"/no/such/program: No such file or directory");
    }
}
