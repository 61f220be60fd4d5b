//! A machine with a real systemd, for what only a service manager does with a program: sockets that it holds,
//! what it forbids, control groups, restarts.
//!
//! It has no network, and what a machine does to its kernel while it boots isn't done.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::entrance::{deliver, enter};
use crate::fleet::{claim_folder, program, remove_folder};
use crate::root::{self, Contents};
use crate::running::{describe, ending};
use crate::{Suite, processes};

/// How long it may take to boot; it takes a second on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// A booted machine. Dropping it is pulling its plug.
#[derive(Debug)]
pub struct Booted {
    folder: PathBuf,
    /// Held as long as this lives: who can take it may remove the folder.
    _owner: File,
    /// `unshare`, which ends when the first process of the machine has.
    outer: Child,
    init: i32,
    group: String,
}

impl Booted {
    /// Boots a machine with Debian, systemd and stock Nix. `name` only serves to tell its folder from
    /// others.
    ///
    /// # Errors
    ///
    /// If this is not root, a program is absent, or it doesn't come up; the text holds what it said.
    pub fn new(name: &str, suite: Suite) -> Result<Booted> {
        root::check_machine()?;
        let root = suite.prepare_with(Contents::NixUnderSystemd)?;
        let (folder, owner) = claim_folder(name)?;
        fs::create_dir_all(folder.join("seed/etc/nix"))?;
        fs::write(folder.join("seed/etc/nix/nix.conf"), NIX_CONF)?;
        let stem = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let group = format!("testkit-{stem}");
        let log = folder.join("log");
        let output = File::create(&log)?;
        let outer = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--uts", "--ipc", "--propagation", "private"])
            .args(["--fork", "--kill-child=KILL", "--", "sh", "-c", include_str!("booted-init.sh")])
            .env("BOOT_DIR", &folder)
            .env("BOOT_ROOT", root)
            .env("BOOT_GROUP", &group)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot run unshare")?;
        let mut machine = Booted { folder, _owner: owner, outer, init: 0, group };
        if let Err(error) = machine.come_up() {
            let log = fs::read_to_string(&log).unwrap_or_default();
            bail!("the machine does not boot: {error:#}\n{log}");
        }
        Ok(machine)
    }

    fn come_up(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT_LIMIT;
        let unshare = i32::try_from(self.outer.id())?;
        loop {
            ensure!(self.outer.try_wait()?.is_none(), "its first process has ended");
            let first = processes::all().into_iter().find(|process| process.parent == unshare);
            if let Some(first) = first.filter(|process| process.name == "systemd") {
                self.init = first.pid;
                let state = self.run(&["systemctl", "is-active", "multi-user.target"])?;
                if state.status.success() {
                    return Ok(());
                }
            }
            ensure!(Instant::now() < deadline, "it isn't up after {BOOT_LIMIT:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a program in the machine to its end, as root, for at most ten minutes.
    ///
    /// # Errors
    ///
    /// If it can't be started; a failing program is no error, one that is ended by the clock fails with
    /// status 124.
    pub fn run(&self, argv: &[&str]) -> Result<Output> {
        let mut command = enter(self.init);
        command.args(["timeout", "-k", "5", "600"]).args(argv);
        command.stdin(Stdio::null()).output().context("cannot run nsenter")
    }

    /// Runs a shell script that must succeed, and returns its output without the last line break.
    ///
    /// # Errors
    ///
    /// If it fails; the text holds the last lines of what it said.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.run(&["sh", "-euc", script])?;
        let said = || describe(script, &output.stdout, &output.stderr);
        ensure!(output.status.success(), "{}: {}", ending(output.status), said());
        Ok(String::from_utf8_lossy(&output.stdout).trim_end_matches('\n').to_owned())
    }

    /// Copies a file into the machine, with its permissions.
    ///
    /// # Errors
    ///
    /// If the file can't be read or written.
    pub fn put(&self, source: impl AsRef<Path>, path: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let source = source.as_ref();
        let mut file =
            File::open(source).with_context(|| format!("cannot read {}", source.display()))?;
        let mode = file.metadata()?.permissions().mode();
        deliver(self.init, path, mode & 0o7777, &mut file)
    }

    /// Writes a file in the machine, making its folder if need be.
    ///
    /// # Errors
    ///
    /// If the file can't be written.
    pub fn write(&self, path: &str, contents: &str) -> Result<()> {
        deliver(self.init, path, 0o644, &mut contents.as_bytes())
    }
}

const NIX_CONF: &str = "experimental-features = nix-command\nsandbox = true\n\
    build-users-group = nixbld\nsubstituters =\ntrusted-users = root\n";

impl Drop for Booted {
    fn drop(&mut self) {
        if self.init != 0 {
            processes::send(self.init, rustix::process::Signal::KILL);
        }
        self.outer.kill().ok();
        self.outer.wait().ok();
        // a group can be removed when what was in it is gone
        let script = "mount -t cgroup2 none \"$1\"; cd \"$1\"; \
                      for try in 1 2 3 4 5 6 7 8 9; do [ -d \"$2\" ] || exit 0; \
                      find \"$2\" -depth -type d -exec rmdir {} + 2>/dev/null && exit 0; sleep 0.1; done";
        program(
            Command::new("unshare")
                .args(["--mount", "sh", "-c", script, "sh"])
                .arg(self.folder.join("groups"))
                .arg(&self.group),
        )
        .ok();
        remove_folder(&self.folder);
    }
}
