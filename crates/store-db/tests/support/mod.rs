//! Databases, path infos and stock Nix for the tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use drover_core::{Hash, HashAlgorithm, NarHash, NarSize, PathInfo, StoreDir, StorePath};
use drover_nar::{Executable, single_file_nar};
use drover_store_db::{Database, Mode, OpenOptions};

pub(crate) fn options(dir: &Path, store_dir: &StoreDir, mode: Mode) -> OpenOptions {
    std::fs::create_dir_all(dir).expect("a folder");
    OpenOptions::new(dir, store_dir, mode)
}

#[allow(dead_code, reason = "not every test binary creates one")]
pub(crate) fn create(dir: &Path) -> Database {
    Database::open(&options(dir, &StoreDir::default(), Mode::Create)).expect("a new database")
}

pub(crate) fn path(name: &str) -> StorePath {
    let hash = Hash::of(HashAlgorithm::Sha1, name.as_bytes());
    StorePath::new(hash.digest().try_into().expect("20 bytes"), &name.parse().expect("a name"))
}

/// A flat file whose contents are its name.
pub(crate) fn info(name: &str, references: &[&StorePath]) -> PathInfo {
    let nar = single_file_nar(name.as_bytes(), Executable::No);
    let hash = Hash::of(HashAlgorithm::Sha256, &nar);
    PathInfo {
        path: path(name),
        deriver: None,
        nar_hash: NarHash(hash.digest().try_into().expect("32 bytes")),
        nar_size: NarSize(nar.len() as u64),
        references: references.iter().map(|&path| path.clone()).collect(),
        registration_time: 1_600_000_000,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    }
}

/// A store of stock Nix in a folder of its own.
#[allow(dead_code, reason = "not every test binary has one")]
pub(crate) struct Stock {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) store_dir: StoreDir,
}

#[allow(dead_code, reason = "not every test binary has one")]
impl Stock {
    pub(crate) fn new() -> Stock {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().canonicalize().expect("a path");
        let store_dir = format!("{}/store", root.display()).parse().expect("a store directory");
        std::fs::create_dir_all(root.join("store")).expect("a folder");
        std::fs::create_dir_all(root.join("conf")).expect("a folder");
        Stock { folder, store_dir }
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().expect("a path").join(name)
    }

    pub(crate) fn open(&self, mode: Mode) -> Database {
        let options = options(&self.dir("state/db"), &self.store_dir, mode);
        Database::open(&options).expect("the store's database")
    }

    /// Runs a program of Nix on this store; standard output and error, where it succeeds.
    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let output = Command::new(program)
            .args(args)
            .env("NIX_STORE_DIR", self.store_dir.as_str())
            .env("NIX_STATE_DIR", self.dir("state"))
            .env("NIX_LOG_DIR", self.dir("log"))
            .env("NIX_CONF_DIR", self.dir("conf"))
            .env("NIX_REMOTE", "local")
            .env(
                "NIX_CONFIG",
                "build-users-group =\nexperimental-features = nix-command ca-derivations",
            )
            .output()
            .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let both = text(&output.stdout) + &text(&output.stderr);
        if output.status.success() { Ok(both) } else { Err(both) }
    }
}
