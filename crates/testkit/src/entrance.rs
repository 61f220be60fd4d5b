//! The way into a host: programs and files enter by its namespaces, never by a path from outside,
//! so that a link inside cannot lead out.

use std::io::Read;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Returns a command that enters the host whose first process is `init`.
pub(crate) fn enter(init: i32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["-t", &init.to_string(), "-m", "-p", "-n", "-u", "-i", "--"]);
    // who runs tests behind a shell's back has them begin with signals ignored, which no shell then traps
    command.args(["/usr/bin/env", "--default-signal=HUP,INT,QUIT", "-i", "-C", "/root"]);
    command.args(["HOME=/root", "USER=root", "LOGNAME=root"]);
    command.args(["LANG=C.UTF-8", "TERM=dumb"]);
    command.arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Writes a file in the host whose first process is `init`; other readers see all of it or none.
pub(crate) fn deliver(init: i32, path: &str, mode: u32, contents: &mut dyn Read) -> Result<()> {
    let script = "mkdir -p \"$(dirname \"$1\")\"; cat >\"$1.new\"; chmod \"$2\" \"$1.new\"; \
                  mv -f \"$1.new\" \"$1\"";
    let mut child = enter(init)
        .args(["sh", "-euc", script, "sh", path, &format!("{mode:o}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nsenter")?;
    let mut input = child.stdin.take().context("no pipe to the host")?;
    let copied = std::io::copy(contents, &mut input);
    drop(input);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot write {path} in a host: {said}");
    copied.map(drop).with_context(|| format!("cannot write {path} in a host"))
}
