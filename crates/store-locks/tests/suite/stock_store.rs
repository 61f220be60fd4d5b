//! A store of stock Nix in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use drover_core::{StoreDir, StorePath};
use drover_store_locks::{Delay, Verdict, Wait};

pub(crate) fn silent(_: Delay<'_>) -> Verdict {
    Verdict::Wait
}

/// Longer than anything here takes on a machine that does much else.
pub(crate) fn patience() -> Wait<'static> {
    Wait::up_to(Duration::from_secs(60), &silent)
}

pub(crate) struct StockStore {
    folder: tempfile::TempDir,
    pub(crate) dir: StoreDir,
}

impl StockStore {
    pub(crate) fn new() -> StockStore {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        let dir: StoreDir = real.join("store").to_str().unwrap().parse().unwrap();
        let store = StockStore { folder, dir };
        store.nix(&["--init"]);
        store
    }

    pub(crate) fn real(&self) -> &Path {
        Path::new(self.dir.as_str())
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.real().parent().unwrap().join("var")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `nix-store` with these arguments, on this store.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nix-store");
        command
            .args(arguments)
            .env("NIX_STORE_DIR", self.real())
            .env("NIX_STATE_DIR", self.state())
            .env("NIX_LOG_DIR", self.state().join("log"))
            .env("NIX_CONF_DIR", self.folder.path())
            .env("HOME", self.folder.path())
            .env("NIX_CONFIG", "build-users-group =\nsubstituters =\nsandbox = false")
            .env_remove("NIX_REMOTE")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn nix(&self, arguments: &[&str]) -> String {
        let output: Output = self.command(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "nix-store {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Adds a file with this name and contents, which no root keeps.
    pub(crate) fn add(&self, name: &str, contents: &str) -> StorePath {
        std::fs::write(self.file(name), contents).unwrap();
        let path = self.nix(&["--add", self.file(name).to_str().unwrap()]);
        self.dir.parse(&path).unwrap()
    }

    pub(crate) fn has(&self, path: &StorePath) -> bool {
        self.real().join(path.base_name()).symlink_metadata().is_ok()
    }

    /// Starts `nix-store --gc` and returns once it has found its roots; it goes on when the fifo
    /// is written to. Nix 2.8 and later ones look at different variables.
    pub(crate) fn collector_that_waits(&self) -> (Child, PathBuf) {
        let fifo = self.file("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let child = self
            .command(&["--gc"])
            .env("_NIX_TEST_GC_SYNC", &fifo)
            .env("_NIX_TEST_GC_SYNC_2", &fifo)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let began = Instant::now();
        let reads = |pid: u32| {
            let wchan = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            // An open of a fifo that nobody writes to yet does not return.
            let call = wchan.split(' ').next().unwrap_or_default().to_owned();
            call == "257" || call == "56" || call == "2"
        };
        while !reads(child.id()) || !self.state().join("gc-socket/socket").exists() {
            assert!(began.elapsed() < Duration::from_secs(60), "the collector never waited");
            std::thread::sleep(Duration::from_millis(20));
        }
        // Not just some other file that it was opening.
        std::thread::sleep(Duration::from_millis(200));
        (child, fifo)
    }
}
