//! A host in memory for the commands, with a store that keeps its paths there.

mod keeper;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use async_trait::async_trait;
use drover_compat::{
    About, Captured, CompatError, DaemonRequest, Destination, ExitStatus, Host, HostSettings,
    Input, Options, Output, Program, ServeAccess, run, run_own,
};
use drover_config::{Environment, LocalSystem, NixConf, Settings, StoreReference, User};
use drover_store::{Keeper, Realiser, Store};
use tokio::io::AsyncWrite;

pub(crate) use keeper::TestKeeper;

/// Bytes written to a stream.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl AsyncWrite for Sink {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: u8,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

/// A host in memory.
pub(crate) struct TestHost {
    pub(crate) store: Arc<TestKeeper>,
    /// Stores at addresses.
    pub(crate) others: BTreeMap<String, Arc<TestKeeper>>,
    pub(crate) variables: BTreeMap<String, OsString>,
    pub(crate) folder: PathBuf,
    /// What the real Nix is asked for, and what it says.
    pub(crate) real: Mutex<Vec<Vec<OsString>>>,
    pub(crate) real_says: Captured,
    pub(crate) daemons: Mutex<Vec<DaemonRequest>>,
    pub(crate) served: Mutex<Vec<ServeAccess>>,
    input: Mutex<Vec<u8>>,
    out: Sink,
    err: Sink,
}

impl TestHost {
    pub(crate) fn new() -> TestHost {
        TestHost {
            store: Arc::default(),
            others: BTreeMap::new(),
            variables: BTreeMap::new(),
            folder: std::env::temp_dir(),
            real: Mutex::default(),
            real_says: Captured { status: ExitStatus::SUCCESS, output: Vec::new() },
            daemons: Mutex::default(),
            served: Mutex::default(),
            input: Mutex::default(),
            out: Sink::default(),
            err: Sink::default(),
        }
    }

    /// Runs a command without input.
    pub(crate) async fn run(&self, program: Program, arguments: &[&str]) -> Done {
        self.run_with(program, arguments.iter().map(OsString::from).collect(), b"").await
    }

    /// Runs a command with input.
    pub(crate) async fn run_with(
        &self,
        program: Program,
        arguments: Vec<OsString>,
        input: &[u8],
    ) -> Done {
        *self.input.lock().unwrap() = input.to_vec();
        let status = run(program, arguments, self).await;
        self.done(status)
    }

    /// Runs one of drover's own words.
    pub(crate) async fn run_own(&self, arguments: &[&str]) -> Done {
        let arguments = arguments.iter().map(OsString::from).collect();
        let status = run_own(arguments, "drover", self).await;
        self.done(status)
    }

    fn done(&self, status: ExitStatus) -> Done {
        let out = std::mem::take(&mut *self.out.0.lock().unwrap());
        let err = std::mem::take(&mut *self.err.0.lock().unwrap());
        Done { status: status.0, out, err: String::from_utf8(err).unwrap() }
    }

    fn choose(&self, address: Option<&StoreReference>) -> Result<Arc<TestKeeper>, CompatError> {
        let Some(address) = address else { return Ok(self.store.clone()) };
        let found = self.others.get(&address.to_string()).cloned();
        found.ok_or_else(|| CompatError::Host { message: format!("no store '{address}'") })
    }
}

#[async_trait]
impl Host for TestHost {
    fn nix_version(&self) -> String {
        "2.34.8".to_owned()
    }

    fn about(&self, _: &Options) -> Result<About, CompatError> {
        Ok(About {
            system: "x86_64-linux".to_owned(),
            extra_systems: vec!["i686-linux".to_owned(), "x86_64-v2-linux".to_owned()],
            system_file: "/etc/nix/nix.conf".into(),
            user_files: vec!["/home/a/.config/nix/nix.conf".into(), "/etc/xdg/nix/nix.conf".into()],
            store_dir: Default::default(),
            state_dir: "/nix/var/nix".into(),
        })
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }

    fn working_dir(&self) -> PathBuf {
        self.folder.clone()
    }

    fn user(&self) -> User {
        User::Other
    }

    fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn destination(&self) -> Destination {
        Destination::Elsewhere
    }

    fn destination_of_messages(&self) -> Destination {
        Destination::Elsewhere
    }

    fn stdin(&self) -> Input {
        Box::new(io::Cursor::new(std::mem::take(&mut *self.input.lock().unwrap())))
    }

    fn stdout(&self) -> Output {
        Box::new(self.out.clone())
    }

    fn stderr(&self) -> Output {
        Box::new(self.err.clone())
    }

    fn settings(&self, options: &Options) -> Result<HostSettings, CompatError> {
        let environment = Environment::default();
        let files: BTreeMap<PathBuf, String> = BTreeMap::new();
        let bad = |message: String| CompatError::usage(message);
        let text = NixConf::load(&environment, &files, &options.overrides)
            .map_err(|error| bad(error.to_string()))?;
        let system = LocalSystem::new("x86_64-linux", User::Other);
        let settings =
            Settings::new(&text, &environment, &system).map_err(|error| bad(error.to_string()))?;
        Ok(HostSettings { settings, text })
    }

    async fn keeper(
        &self,
        address: Option<&StoreReference>,
        _: &Options,
    ) -> Result<Arc<dyn Keeper>, CompatError> {
        Ok(self.choose(address)?)
    }

    async fn store(
        &self,
        address: Option<&StoreReference>,
        _: &Options,
    ) -> Result<Arc<dyn Store>, CompatError> {
        Ok(self.choose(address)?)
    }

    async fn realiser(&self, _: &Options) -> Result<Arc<dyn Realiser>, CompatError> {
        Ok(self.store.clone())
    }

    async fn run_daemon(
        &self,
        request: DaemonRequest,
        _: &Options,
    ) -> Result<ExitStatus, CompatError> {
        self.daemons.lock().unwrap().push(request);
        Ok(ExitStatus::SUCCESS)
    }

    async fn run_serve(&self, access: ServeAccess, _: &Options) -> Result<ExitStatus, CompatError> {
        self.served.lock().unwrap().push(access);
        Ok(ExitStatus::SUCCESS)
    }

    async fn exec_real(
        &self,
        program: &str,
        arguments: &[OsString],
    ) -> Result<ExitStatus, CompatError> {
        let mut line = vec![OsString::from(program)];
        line.extend(arguments.iter().cloned());
        self.real.lock().unwrap().push(line);
        Ok(self.real_says.status)
    }

    async fn capture_real(
        &self,
        program: &str,
        arguments: &[OsString],
    ) -> Result<Captured, CompatError> {
        self.exec_real(program, arguments).await?;
        Ok(self.real_says.clone())
    }
}
