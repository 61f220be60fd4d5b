//! Real servers with throw-away stores, and servers that follow a script.
#![allow(dead_code, reason = "each test uses some of them")]

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use drover_core::{
    ContentAddress, Hash, HashAlgorithm, IngestionMethod, OutputName, PathInfo, StoreDir,
    StoreName, StorePath,
};
use drover_derivation::{BasicDerivation, Derivation, Environment, Output};
use drover_store::contract::flat_file;
use drover_store::{
    BuildPlan, BuildRequest, BuildSettings, BuildWishes, ByteStream, Content, Keeper, Store as _,
    StoreError, Trust, WhenValid,
};
use drover_store_remote::{Address, ConnectOptions, Program, RemoteStore};
use drover_wire::{
    Decoder, Dialect, Encoder, LogMessage, Request, Response, ServerInfo, Version,
    exchanges_features, read_client_end, read_client_magic, read_client_version, read_features,
    server_hello, write_features, write_server_info,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

/// A folder for a test, short enough for sockets.
/// Returns what a lane is asked to build for an output that is known.
pub(crate) fn build_of(out: StorePath) -> BuildRequest {
    let basic = BasicDerivation {
        name: "x".parse().expect("a name"),
        outputs: [("out".parse().expect("a name"), Output::InputAddressed(out.clone()))].into(),
        input_sources: BTreeSet::new(),
        system: "x".to_owned(),
        builder: "x".into(),
        args: Vec::new(),
        environment: Environment::default(),
    };
    BuildRequest {
        derivation: StorePath::new([1; 20], &"x.drv".parse().expect("a name")),
        outputs: ["out".to_owned()].into(),
        known_outputs: [("out".to_owned(), out)].into(),
        plan: BuildPlan::Derivation(Box::new(basic)),
        wishes: BuildWishes::default(),
        bring: None,
    }
}

pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("drover-").tempdir_in("/tmp").expect("a folder")
}

pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Returns a store at an address; `limit` is how long a greeting may take.
pub(crate) fn store_at(address: Address, limit: Duration) -> RemoteStore {
    let options = ConnectOptions {
        connect_timeout: limit,
        ssh_arguments: Vec::new(),
        runtime_dir: Arc::new(folder()),
    };
    RemoteStore::new("test", StoreDir::default(), address, &options, BuildSettings::default())
}

/// Returns a store behind a command that should speak the worker protocol.
pub(crate) fn behind(command: &[&str]) -> RemoteStore {
    let program = Program::Worker { command: words(command), store: None };
    store_at(Address::Local(program), Duration::from_secs(10))
}

/// Returns the address of the installed `nix-daemon` on an empty store in `folder`.
pub(crate) fn worker(folder: &Path) -> Address {
    let store = Some(format!("local?root={}", folder.display()));
    Address::Local(Program::Worker { command: nix(folder, "nix-daemon"), store })
}

/// Returns the address of the installed `nix-store` on an empty store in `folder`.
pub(crate) fn serve(folder: &Path) -> Address {
    let store = Some(format!("local?root={}", folder.display()));
    Address::Local(Program::Serve { command: nix(folder, "nix-store"), store })
}

/// A program of Nix with a configuration that doesn't depend on the machine's.
pub(crate) fn nix(folder: &Path, program: &str) -> Vec<String> {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|path| path.join(program).exists());
    assert!(found, "{program} is not installed: these tests need the stock Nix");
    std::fs::write(
        folder.join("nix.conf"),
        "sandbox = false\nbuild-users-group =\nsubstituters =\ntrusted-users = *\n",
    )
    .expect("a file");
    let conf = format!("NIX_CONF_DIR={}", folder.display());
    let home = format!("HOME={}", folder.display());
    words(&["env", "-u", "NIX_REMOTE", &conf, &home, program])
}

/// A real daemon's store in a folder of its own, where it can build without a sandbox.
pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) store_dir: StoreDir,
}

impl Site {
    pub(crate) fn new() -> Site {
        let folder = folder();
        let store_dir = folder.path().join("store").display().to_string();
        Site { store_dir: store_dir.parse().expect("a store directory"), folder }
    }

    pub(crate) fn uri(&self) -> String {
        let folder = self.folder.path().display();
        format!("local?store={folder}/store&state={folder}/state&log={folder}/log")
    }

    /// Returns the store behind a `nix-daemon --stdio`.
    pub(crate) fn store(&self) -> RemoteStore {
        let command = nix(self.folder.path(), "nix-daemon");
        self.at(Address::Local(Program::Worker { command, store: Some(self.uri()) }))
    }

    /// Returns the store behind a `nix-store --serve`.
    pub(crate) fn served(&self) -> RemoteStore {
        let command = nix(self.folder.path(), "nix-store");
        self.at(Address::Local(Program::Serve { command, store: Some(self.uri()) }))
    }

    /// Returns the store behind a daemon's socket, and the daemon.
    pub(crate) async fn socket(&self) -> (RemoteStore, tokio::process::Child) {
        let socket = self.folder.path().join("socket");
        let command = nix(self.folder.path(), "nix-daemon");
        let (program, arguments) = command.split_first().expect("a command");
        let mut daemon = tokio::process::Command::new(program);
        daemon.args(arguments).args(["--store", &self.uri()]);
        daemon.env("NIX_DAEMON_SOCKET_PATH", &socket).kill_on_drop(true);
        daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = daemon.spawn().expect("a daemon");
        let store = self.at(Address::Socket(socket));
        let listening = async {
            while store.connect().await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(listening).await;
        (store, daemon)
    }

    fn at(&self, address: Address) -> RemoteStore {
        let options = ConnectOptions {
            connect_timeout: Duration::from_secs(20),
            ssh_arguments: Vec::new(),
            runtime_dir: Arc::new(folder()),
        };
        let store_dir = self.store_dir.clone();
        RemoteStore::new("test", store_dir, address, &options, BuildSettings::default())
    }

    /// Returns a derivation whose output must be the file `hello`, and whose builder is this script.
    pub(crate) fn derivation(&self, name: &str, script: &str) -> Derivation {
        let name: StoreName = name.parse().expect("a name");
        let out: OutputName = "out".parse().expect("a name");
        let hash = Hash::of(HashAlgorithm::Sha256, b"hello");
        let address = ContentAddress { method: IngestionMethod::Flat, hash };
        let output = Output::fixed(&self.store_dir, &name, &out, address).expect("an output");
        let path = self.store_dir.display(output.path().expect("a path"));
        BasicDerivation {
            environment: [("out", path.as_str()), ("name", name.as_str())].into_iter().collect(),
            name,
            outputs: [(out, output)].into(),
            input_sources: BTreeSet::new(),
            system: format!("{}-linux", std::env::consts::ARCH),
            builder: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
        }
        .into()
    }

    /// Adds a derivation to the store.
    pub(crate) async fn add(&self, store: &dyn Keeper, derivation: &Derivation) -> StorePath {
        let content = Content {
            name: format!("{}.drv", derivation.basic.name).parse().expect("a name"),
            method: IngestionMethod::Text,
            algorithm: HashAlgorithm::Sha256,
            references: BTreeSet::new(),
        };
        let text = Pieces::boxed([derivation.to_aterm(&self.store_dir)]);
        let info = store.add_content(content, text, WhenValid::Keep).await.expect("an addition");
        let expected = derivation.derivation_path(&self.store_dir).expect("a path");
        assert_eq!(info.path, expected);
        expected
    }
}

/// Bytes in pieces; they end with an error if there is one.
pub(crate) struct Pieces(pub(crate) VecDeque<Vec<u8>>, pub(crate) Option<StoreError>);

impl Pieces {
    pub(crate) fn boxed(pieces: impl IntoIterator<Item = Vec<u8>>) -> Box<dyn ByteStream> {
        Box::new(Pieces(pieces.into_iter().collect(), None))
    }
}

#[async_trait::async_trait]
impl ByteStream for Pieces {
    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        match (self.0.pop_front(), self.1.take()) {
            (Some(piece), error) => {
                self.1 = error;
                Ok(Some(piece.into()))
            }
            (None, Some(error)) => Err(error),
            (None, None) => Ok(None),
        }
    }
}

/// A server in this process that follows a script on each connection.
pub(crate) struct Fake {
    _folder: tempfile::TempDir,
    socket: PathBuf,
    pub(crate) connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Fake {
    /// Starts a server; `script` gets the number of the connection, from 0.
    pub(crate) fn new<F>(script: impl Fn(usize, Client) -> F + Send + Sync + 'static) -> Fake
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let folder = folder();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = count.fetch_add(1, Ordering::AcqRel);
                served.spawn(script(number, Client { stream, rest: Vec::new() }));
            }
        });
        Fake { _folder: folder, socket, connections, _tasks: tasks }
    }

    pub(crate) fn store(&self) -> RemoteStore {
        store_at(Address::Socket(self.socket.clone()), Duration::from_secs(10))
    }

    /// Returns the store; the server is watched with a patience that follows from `limit`.
    pub(crate) fn patient_store(&self, limit: Duration) -> RemoteStore {
        store_at(Address::Socket(self.socket.clone()), limit)
    }

    /// The same, with settings for builds.
    pub(crate) fn patient_store_with(
        &self,
        limit: Duration,
        settings: BuildSettings,
    ) -> RemoteStore {
        let options = ConnectOptions {
            connect_timeout: limit,
            ssh_arguments: Vec::new(),
            runtime_dir: Arc::new(folder()),
        };
        let address = Address::Socket(self.socket.clone());
        RemoteStore::new("test", StoreDir::default(), address, &options, settings)
    }

    pub(crate) fn impatient_store(&self) -> RemoteStore {
        store_at(Address::Socket(self.socket.clone()), Duration::from_secs(1))
    }
}

/// A connection as a server sees it.
pub(crate) struct Client {
    stream: UnixStream,
    rest: Vec<u8>,
}

impl Client {
    /// Reads a message; nothing where the client is gone.
    pub(crate) async fn read<T>(
        &mut self,
        decode: impl Fn(&mut Decoder<'_>) -> Result<T, drover_wire::DecodeError>,
    ) -> Option<T> {
        loop {
            let mut decoder = Decoder::new(&self.rest);
            match decode(&mut decoder) {
                Ok(value) => {
                    let consumed = decoder.consumed();
                    self.rest.drain(..consumed);
                    return Some(value);
                }
                Err(drover_wire::DecodeError::Incomplete { .. }) => {}
                Err(error) => panic!("the client said something wrong: {error}"),
            }
            if self.stream.read_buf(&mut self.rest).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub(crate) async fn request(&mut self, dialect: &Dialect) -> Option<Request> {
        self.read(|from| Request::decode(from, dialect)).await
    }

    /// Reads framed data to its end.
    pub(crate) async fn frames(&mut self) -> Option<Vec<u8>> {
        let mut data = Vec::new();
        loop {
            let len = self.read(drover_wire::read_frame_header).await?;
            if len == 0 {
                return Some(data);
            }
            data.extend(self.bytes(usize::try_from(len).expect("a small frame")).await?);
        }
    }

    pub(crate) async fn bytes(&mut self, len: usize) -> Option<Vec<u8>> {
        while self.rest.len() < len {
            if self.stream.read_buf(&mut self.rest).await.unwrap_or(0) == 0 {
                return None;
            }
        }
        Some(self.rest.drain(..len).collect())
    }

    /// Sends bytes; a client that is gone is no error here.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.ok();
    }

    pub(crate) async fn say(&mut self, message: LogMessage) {
        let mut out = Encoder::new();
        message.encode(&mut out, 38);
        self.send(&out.into_bytes()).await;
    }

    /// Sends an answer, with the end of messages before it.
    pub(crate) async fn answer(&mut self, dialect: &Dialect, response: &Response) {
        let mut out = Encoder::new();
        LogMessage::Last.encode(&mut out, dialect.version.minor);
        response.encode(&mut out, dialect);
        self.send(&out.into_bytes()).await;
    }

    /// Agrees on a version of the worker protocol.
    pub(crate) async fn greet(&mut self, minor: u8) -> Option<Dialect> {
        let ours = Version { major: 1, minor };
        self.read(read_client_magic).await?;
        self.send(&server_hello(ours)).await;
        let version = self.read(move |from| read_client_version(from, ours)).await?;
        let mut out = Encoder::new();
        if exchanges_features(version) {
            self.read(|from| read_features(from, &[])).await?;
            write_features(&mut out, &[]);
        }
        self.read(read_client_end).await?;
        let dialect =
            Dialect { store_dir: StoreDir::default(), version, features: Default::default() };
        let info = ServerInfo { nix_version: Some("fake".to_owned()), trust: Trust::Trusted };
        write_server_info(&mut out, &dialect, &info);
        LogMessage::Last.encode(&mut out, version.minor);
        self.send(&out.into_bytes()).await;
        Some(dialect)
    }

    /// Greets without a word before all of the first questions have arrived, and answers them
    /// together with the greeting.
    pub(crate) async fn greet_with_answers(&mut self) -> Option<Dialect> {
        let ours = Version { major: 1, minor: 38 };
        self.read(read_client_magic).await?;
        let version = self.read(move |from| read_client_version(from, ours)).await?;
        let features = self.read(|from| read_features(from, &["realisation-with-path-not-hash"]));
        let features = features.await?;
        self.read(read_client_end).await?;
        let dialect = Dialect { store_dir: StoreDir::default(), version, features };
        let mut answers = Encoder::new();
        loop {
            LogMessage::Last.encode(&mut answers, version.minor);
            match self.request(&dialect).await? {
                Request::AddTempRoot(_) => Response::Done.encode(&mut answers, &dialect),
                Request::QueryValidPaths(paths, _) => {
                    Response::Paths(paths).encode(&mut answers, &dialect);
                    break;
                }
                request => panic!("{request:?} was not expected"),
            }
        }
        let mut out = Encoder::new();
        write_features(&mut out, &["realisation-with-path-not-hash"]);
        let info = ServerInfo { nix_version: Some("fake".to_owned()), trust: Trust::Trusted };
        write_server_info(&mut out, &dialect, &info);
        LogMessage::Last.encode(&mut out, version.minor);
        let mut words = server_hello(ours);
        words.extend(out.into_bytes());
        words.extend(answers.into_bytes());
        self.send(&words).await;
        Some(dialect)
    }

    /// Waits until the client is gone.
    pub(crate) async fn wait_for_end(&mut self) {
        let mut buffer = [0; 4096];
        while self.stream.read(&mut buffer).await.is_ok_and(|read| read != 0) {}
    }
}

/// Asks a real server to look for roots, which looks at all processes of the machine: it gives up
/// where one of them, not of this test, is in a folder whose path is too long to be told.
pub(crate) async fn undisturbed<T, F>(ask: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    loop {
        match ask().await {
            Err(StoreError::Refused { message, .. }) if message.contains("File name too long") => {}
            answer => break answer,
        }
    }
}

/// Nothing hangs.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), future).await.expect("an answer in time")
}

/// The file that fake servers have.
pub(crate) fn file() -> (PathInfo, Bytes) {
    flat_file("file", &b"some contents ".repeat(1000), &[])
}

/// Serves one file.
pub(crate) async fn serve_file(client: &mut Client, dialect: &Dialect) {
    let (info, nar) = file();
    while let Some(request) = client.request(dialect).await {
        match request {
            Request::NarFromPath(_) => {
                client.answer(dialect, &Response::Nothing).await;
                client.send(&nar).await;
            }
            Request::QueryPathInfo(path) => {
                let known = (path == info.path).then(|| Box::new(info.clone()));
                client.answer(dialect, &Response::PathInfo(known)).await;
            }
            Request::AddTempRoot(_) => client.answer(dialect, &Response::Done).await,
            Request::QueryValidPaths(paths, _) => {
                client.answer(dialect, &Response::Paths(paths)).await;
            }
            other => panic!("{other:?}"),
        }
    }
}
