//! A store of its own on this machine, and the real binary that works with it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Needs no shell and no network: Nix makes an empty folder by itself.
pub(crate) const EMPTY: &str = r#"derivation { name = "empty-1.0"; builder = "builtin:buildenv"; system = "builtin"; derivations = []; manifest = "/m"; }"#;

/// Fails on every machine.
pub(crate) const BROKEN: &str =
    r#"derivation { name = "broken-1.0"; builder = "/no/such/builder"; system = "x86_64-linux"; }"#;

/// A store of its own, and nothing of this machine's configuration.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> World {
        let dir = tempfile::Builder::new().prefix("drv").tempdir().unwrap();
        fs_err::create_dir(dir.path().join("conf")).unwrap();
        let conf = "substituters =\nsystem = x86_64-linux\nbuild-users-group =\nsandbox = false\n\
            connect-timeout = 120\n";
        fs_err::write(dir.path().join("conf/nix.conf"), conf).unwrap();
        World { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> String {
        format!("local?root={}", self.path("root").display())
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drover"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NIX_")) {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .env("HOME", self.dir.path())
            .env("NIX_CONF_DIR", self.path("conf"))
            .env("NIX_USER_CONF_FILES", "")
            .env("NIX_REMOTE", self.store())
            .env("XDG_RUNTIME_DIR", "")
            .env("XDG_CACHE_HOME", self.path("cache"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs drover, and returns what it told with the KiB of memory that it took at most.
    pub(crate) fn run_measured(&self, arguments: &[&str]) -> (Told, u64) {
        let mut child =
            self.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        let mut peak = 0;
        // the high-water mark stays readable until the process is gone
        while child.try_wait().unwrap().is_none() {
            let told = fs_err::read_to_string(&status).unwrap_or_default();
            let line = told.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let now = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
            peak = now.unwrap_or(0).max(peak);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        (Told::of(child.wait_with_output().unwrap()), peak)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Told {
        Told::of(self.command(arguments).output().unwrap())
    }

    pub(crate) fn script(&self, name: &str, text: &str) -> String {
        let file = self.path(name);
        fs_err::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs_err::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        file.display().to_string()
    }
}

#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Told {
    pub(crate) fn of(output: Output) -> Told {
        Told {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn fails(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:#?}");
        for word in words {
            assert!(self.err.contains(word), "no '{word}' in {self:#?}");
        }
        assert!(!self.err.contains("panicked"), "{self:#?}");
    }

    #[track_caller]
    pub(crate) fn succeeds(&self) -> &str {
        assert_eq!(self.status, Some(0), "{self:#?}");
        &self.out
    }
}
