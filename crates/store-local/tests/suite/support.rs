//! Stores in folders of their own, streams, and stock Nix on them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use drover_store::{ByteStream, CollectAction, Collection, Keeper, Liveness, StoreError};
use drover_store_local::{Layout, LocalOptions, LocalStore, Place, Surroundings, Uid};

/// A folder with a store.
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Home {
        let home = Home { folder: tempfile::tempdir().expect("a folder") };
        std::fs::create_dir_all(home.path("conf")).expect("a folder");
        home
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().expect("a path").join(name)
    }

    fn variables(&self) -> BTreeMap<&'static str, String> {
        self.variables_of("store")
    }

    fn variables_of(&self, store: &str) -> BTreeMap<&'static str, String> {
        let text = |name| self.path(name).to_str().expect("text").to_owned();
        BTreeMap::from([
            ("NIX_STORE_DIR", text(store)),
            ("NIX_STATE_DIR", text("state")),
            ("NIX_LOG_DIR", text("log")),
            ("NIX_CONF_DIR", text("conf")),
        ])
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout_of("store")
    }

    /// The layout of a store by another path.
    pub(crate) fn layout_of(&self, store: &str) -> Layout {
        let variables = self.variables_of(store);
        let around = Surroundings {
            variable: &|name| variables.get(name).cloned(),
            exists: &Path::exists,
            writable: &Path::exists,
            uid: Uid::Root,
        };
        match Layout::decide(&"local".parse().expect("a store"), &around) {
            Ok(Place::Local(layout)) => layout,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn store(&self) -> Arc<LocalStore> {
        self.store_with(LocalOptions::default())
    }

    pub(crate) fn store_with(&self, options: LocalOptions) -> Arc<LocalStore> {
        Arc::new(LocalStore::new(self.layout(), options))
    }

    /// Runs a program of stock Nix on this store; what it prints, where it succeeds.
    pub(crate) fn stock(&self, program: &str, args: &[&str]) -> Result<String, String> {
        let output = Command::new(program)
            .args(args)
            .envs(self.variables())
            .env("NIX_REMOTE", "local")
            .env("NIX_CONFIG", "build-users-group =\nexperimental-features = nix-command")
            .output()
            .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let both = text(&output.stdout) + &text(&output.stderr);
        if output.status.success() { Ok(both) } else { Err(both) }
    }

    /// Checks that stock Nix finds nothing wrong, and that we don't.
    pub(crate) async fn verify(&self) {
        let stock = self.stock("nix-store", &["--verify", "--check-contents"]).expect("sound");
        assert!(!stock.contains("modified") && !stock.contains("disappeared"), "{stock}");
        let ours = self
            .store()
            .verify(drover_store::VerifyDepth::Contents, drover_store::Repair::No)
            .await
            .expect("verified");
        assert!(!ours.errors_left && ours.problems.is_empty(), "{ours:?}");
    }

    /// The names of what is in the store's directory.
    pub(crate) fn entries(&self) -> Vec<String> {
        // A store that nobody used yet isn't there.
        std::fs::create_dir_all(self.path("store")).expect("a folder");
        let entries = std::fs::read_dir(self.path("store")).expect("the store");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| name.into_string().expect("text"));
        let mut names: Vec<String> = names.filter(|name| name != ".links").collect();
        names.sort();
        names
    }
}

/// A file system in memory, as long as it lives. Takes root.
pub(crate) struct Mounted {
    at: PathBuf,
}

impl Mounted {
    pub(crate) fn new(at: PathBuf, options: &str) -> Mounted {
        std::fs::create_dir_all(&at).expect("a folder");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&at)
            .status()
            .expect("mount");
        assert!(mounted.success(), "cannot mount: this test needs root");
        Mounted { at }
    }

    /// Leaves no byte free until the returned file is removed.
    pub(crate) fn fill(&self) -> PathBuf {
        let fill = self.at.join("fill");
        let mut file = std::fs::File::create(&fill).expect("a file");
        for block in [vec![0; 64 * 1024], vec![0; 1]] {
            while std::io::Write::write(&mut file, &block).is_ok() {}
        }
        fill
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.at).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// A collection of all that is dead.
pub(crate) fn everything() -> Collection {
    Collection {
        action: CollectAction::DeleteDead,
        liveness: Liveness::Respect,
        paths: BTreeSet::new(),
        max_freed: None,
    }
}

/// Bytes in pieces of a given size.
pub(crate) struct Pieces {
    bytes: Bytes,
    size: usize,
}

impl Pieces {
    pub(crate) fn boxed(bytes: impl Into<Bytes>, size: usize) -> Box<dyn ByteStream> {
        Box::new(Pieces { bytes: bytes.into(), size })
    }
}

#[async_trait]
impl ByteStream for Pieces {
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let size = self.size.min(self.bytes.len());
        let piece = self.bytes.split_to(size);
        Ok((!piece.is_empty()).then_some(piece))
    }
}

/// Reads a stream to its end.
pub(crate) async fn read_all(mut bytes: Box<dyn ByteStream>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(chunk) = bytes.chunk().await.expect("bytes") {
        all.extend_from_slice(&chunk);
    }
    all
}
