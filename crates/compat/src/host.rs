//! What the program around the commands must provide: stores, settings, streams, other programs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use drover_config::{NixConf, Settings, StoreReference, User};
use drover_core::StoreDir;
use drover_store::{Keeper, Realiser, Store};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::daemon::DaemonRequest;
use crate::error::CompatError;
use crate::exit::ExitStatus;
use crate::options::Options;

/// A stream to read from.
pub type Input = Box<dyn AsyncRead + Send + Unpin>;

/// A stream to write to. What is written here is buffered by the commands already.
pub type Output = Box<dyn AsyncWrite + Send + Unpin>;

/// Whether one who speaks the serve protocol may change the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeAccess {
    /// Only reading.
    Read,
    /// Building and adding paths too (`--write`).
    Write,
}

/// Whether standard output or error is a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// It is.
    Terminal,
    /// It is a file or a pipe.
    Elsewhere,
}

/// What another program said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub output: Vec<u8>,
}

/// All settings, as read and as text.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// Those that drover reads.
    pub settings: Settings,
    /// All of them, as text.
    pub text: NixConf,
}

impl HostSettings {
    /// Returns a setting that is on or off and that [`Settings`] doesn't have.
    pub(crate) fn switch(&self, name: &str, default: Switch) -> Switch {
        match self.text.raw(name).map(|raw| raw.text()).as_deref() {
            Some("true" | "yes" | "1") => Switch::On,
            Some("false" | "no" | "0") => Switch::Off,
            _ => default,
        }
    }
}

/// A setting that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switch {
    On,
    Off,
}

/// What `--version` tells of a machine where more is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// `system`.
    pub system: String,
    /// `extra-platforms`.
    pub extra_systems: Vec<String>,
    /// The system's configuration file, whether it's there or not.
    pub system_file: PathBuf,
    /// The user's configuration files, those that win first.
    pub user_files: Vec<PathBuf>,
    /// The store's directory.
    pub store_dir: StoreDir,
    /// The state directory.
    pub state_dir: PathBuf,
}

/// What the program around the commands must provide.
#[async_trait]
pub trait Host: Send + Sync {
    /// Returns the version of Nix that `--version` tells, such as `2.34.8`.
    fn nix_version(&self) -> String;

    /// Returns what `--version` tells of the machine where more is asked for.
    ///
    /// # Errors
    ///
    /// As [`Host::settings`].
    fn about(&self, options: &Options) -> Result<About, CompatError>;

    /// Returns a variable of the environment.
    fn variable(&self, name: &str) -> Option<OsString>;

    /// Returns the working directory, absolute.
    fn working_dir(&self) -> PathBuf;

    /// Returns who runs this.
    fn user(&self) -> User;

    /// Returns Nix's state directory, such as `/nix/var/nix`.
    fn state_dir(&self) -> PathBuf;

    /// Returns where standard output goes.
    fn destination(&self) -> Destination;

    /// Returns where standard error goes.
    fn destination_of_messages(&self) -> Destination;

    /// Opens standard input.
    fn stdin(&self) -> Input;

    /// Opens standard output.
    fn stdout(&self) -> Output;

    /// Opens standard error.
    fn stderr(&self) -> Output;

    /// Reads the settings. Those in the options win; what is odd about them is warned of by the
    /// host itself.
    ///
    /// # Errors
    ///
    /// [`CompatError::Usage`] for a value on the command line that a setting can't have.
    fn settings(&self, options: &Options) -> Result<HostSettings, CompatError>;

    /// Opens a store as one who keeps it: the one that the settings name, or another.
    ///
    /// # Errors
    ///
    /// An address that can't be opened so.
    async fn keeper(
        &self,
        address: Option<&StoreReference>,
        options: &Options,
    ) -> Result<Arc<dyn Keeper>, CompatError>;

    /// Opens a store to copy from, to copy to, or to ask: the one that the settings name, or
    /// another.
    ///
    /// # Errors
    ///
    /// An address that can't be opened.
    async fn store(
        &self,
        address: Option<&StoreReference>,
        options: &Options,
    ) -> Result<Arc<dyn Store>, CompatError>;

    /// Returns what builds for the store that the settings name.
    ///
    /// # Errors
    ///
    /// Machines or settings that can't be used.
    async fn realiser(&self, options: &Options) -> Result<Arc<dyn Realiser>, CompatError>;

    /// Runs a server of the worker protocol until it ends.
    ///
    /// # Errors
    ///
    /// Whatever ends it early.
    async fn run_daemon(
        &self,
        request: DaemonRequest,
        options: &Options,
    ) -> Result<ExitStatus, CompatError>;

    /// Speaks the serve protocol on standard input and output until the client leaves.
    ///
    /// # Errors
    ///
    /// Whatever ends it early.
    async fn run_serve(
        &self,
        access: ServeAccess,
        options: &Options,
    ) -> Result<ExitStatus, CompatError>;

    /// Runs the real Nix's program of that name in the place of this one, or waits for it; links
    /// to this very program are not it.
    ///
    /// # Errors
    ///
    /// There is none.
    async fn exec_real(
        &self,
        program: &str,
        arguments: &[OsString],
    ) -> Result<ExitStatus, CompatError>;

    /// Runs the real Nix's program of that name and keeps its standard output; standard input and
    /// error are those of this program.
    ///
    /// # Errors
    ///
    /// There is none.
    async fn capture_real(
        &self,
        program: &str,
        arguments: &[OsString],
    ) -> Result<Captured, CompatError>;
}
