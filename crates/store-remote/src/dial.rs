//! Where a server is, and how a connection to it is opened.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use drover_store::StoreError;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::error::{Peer, own_limit};
use crate::master::{Need, SessionSlot};
use crate::mux::{MuxControl, MuxSession};
use crate::ssh::{SshHost, SshTarget};
use crate::stderr::StderrTail;

/// What is run at the other end, and the protocol that it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// `nix-daemon --stdio`: the worker protocol.
    Worker {
        /// The program and its first arguments, `nix-daemon` mostly.
        command: Vec<String>,
        /// The store that it shall open (`--store`), its own where absent.
        store: Option<String>,
    },
    /// `nix-store --serve --write`: the serve protocol.
    Serve {
        /// The program and its first arguments, `nix-store` mostly.
        command: Vec<String>,
        /// The store that it shall open (`--store`), its own where absent.
        store: Option<String>,
    },
}

impl Program {
    /// Returns the whole command line.
    pub(crate) fn command_line(&self) -> Vec<String> {
        let (command, end, store) = match self {
            Program::Worker { command, store } => (command, ["--stdio"].as_slice(), store),
            Program::Serve { command, store } => {
                (command, ["--serve", "--write"].as_slice(), store)
            }
        };
        let mut line = command.clone();
        line.extend(end.iter().map(|&word| word.to_owned()));
        if let Some(store) = store {
            line.extend(["--store".to_owned(), store.clone()]);
        }
        line
    }
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A daemon's socket.
    Socket(PathBuf),
    /// A program on this machine, on its standard input and output.
    Local(Program),
    /// A program on another machine, by SSH.
    Ssh(SshTarget, Program),
}

/// Why a store's address can't be used here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// A kind of store that can't be connected to.
    #[error(
        "store '{uri}' is not one that drover can connect to; it knows daemon, unix://SOCKET, ssh-ng://HOST and ssh://HOST"
    )]
    Scheme {
        /// The address as given.
        uri: String,
    },
    /// A binary cache, which isn't connected to but fetched from.
    #[error(
        "store '{uri}' is a binary cache: paths are copied from it and to it (drover copy, \
         substituters), and drover path-info looks at it; nothing else is done with one"
    )]
    Cache {
        /// The address as given.
        uri: String,
    },
    /// A host name that `ssh` would take for an option, or none at all.
    #[error("store '{uri}' has no good host name")]
    Host {
        /// The address as given.
        uri: String,
    },
    /// A parameter with a bad value.
    #[error("store '{uri}': parameter '{name}' can't be '{value}'")]
    Parameter {
        /// The address as given.
        uri: String,
        /// The parameter.
        name: String,
        /// Its value.
        value: String,
    },
}

/// How connections are made.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// How long it may take until the other side greets.
    pub connect_timeout: Duration,
    /// Further arguments for `ssh`, from `NIX_SSHOPTS`.
    pub ssh_arguments: Vec<String>,
    /// A folder of one's own with a short path, for control sockets.
    pub runtime_dir: Arc<tempfile::TempDir>,
}

/// An open connection before the first word.
pub struct Wire {
    /// What the server says.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What the server hears.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    pub(crate) peer: Peer,
    /// Ends the connection when it is dropped.
    pub keep_alive: KeepAlive,
}

/// What has to live as long as a connection.
pub struct KeepAlive {
    _held: Held,
    _stderr: JoinSet<()>,
}

/// What is ended with a connection.
enum Held {
    Nothing,
    Child { _served: Served },
    Session { _control: MuxControl, _slot: SessionSlot },
}

/// A program on this machine that serves a connection. Dropped, it is asked to end, so that it can
/// end what it does for others; one that doesn't is killed.
struct Served(Option<Child>);

impl Drop for Served {
    fn drop(&mut self) {
        /// How long a program may take to end what it does.
        const PATIENCE: Duration = Duration::from_secs(5);
        let Some(mut child) = self.0.take() else { return };
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        // without a number it has been waited for
        let Some(pid) = pid else { return };
        if let Err(error) = kill_process_group(pid, Signal::TERM) {
            tracing::debug!(%error, "a program could not be asked to end");
        }
        // at the end of this process there is nobody to wait for it
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                if timeout(PATIENCE, child.wait()).await.is_err() {
                    // what has ended meanwhile can't be killed
                    child.start_kill().ok();
                }
            });
        }
    }
}

/// Opens connections to one server.
pub(crate) enum Dialler {
    Socket(PathBuf),
    Local(Program),
    Ssh(Arc<SshHost>, Program, Approach),
}

/// Whether a byte less on the way is worth work at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// It is: the way leads to another machine.
    Long,
    /// It isn't: it stays on this one, or is shortened already.
    Short,
}

/// A connection that was begun before somebody asked for one.
#[derive(Default)]
pub(crate) struct Approach {
    begun: Mutex<Option<AbortOnDropHandle<Result<SessionSlot, StoreError>>>>,
    tasks: TaskTracker,
}

impl Dialler {
    pub(crate) fn new(name: &str, address: Address, options: &ConnectOptions) -> Dialler {
        match address {
            Address::Socket(path) => Dialler::Socket(path),
            Address::Local(program) => Dialler::Local(program),
            Address::Ssh(target, program) => Dialler::Ssh(
                Arc::new(SshHost::new(name.to_owned(), target, options.clone())),
                program,
                Approach::default(),
            ),
        }
    }

    pub(crate) fn is_socket(&self) -> bool {
        matches!(self, Dialler::Socket(_))
    }

    /// Whether somebody waits for others to end what they have open.
    pub(crate) fn is_crowded(&self) -> bool {
        matches!(self, Dialler::Ssh(host, ..) if host.is_crowded())
    }

    pub(crate) fn way(&self) -> Way {
        match self {
            Dialler::Ssh(host, ..) if !host.compresses() => Way::Long,
            Dialler::Socket(_) | Dialler::Local(_) | Dialler::Ssh(..) => Way::Short,
        }
    }

    /// Begins what comes before the first connection.
    pub(crate) fn approach(&self) {
        if let Dialler::Ssh(host, _, approach) = self {
            let host = Arc::clone(host);
            let task = approach.tasks.spawn(async move { host.slot(Need::Other).await });
            *approach.begun.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(AbortOnDropHandle::new(task));
        }
    }

    /// Opens one more connection.
    pub(crate) async fn open(&self, name: &str, need: Need) -> Result<Wire, StoreError> {
        match self {
            Dialler::Socket(path) => {
                let peer = Peer {
                    name: name.to_owned(),
                    command: path.display().to_string(),
                    stderr: StderrTail::default(),
                };
                let stream =
                    tokio::net::UnixStream::connect(path).await.map_err(
                        |error| match own_limit(&error) {
                            Some(reason) => StoreError::OwnLimit { store: name.to_owned(), reason },
                            None => peer.unreachable(socket_reason(path, &error)),
                        },
                    )?;
                let (reader, writer) = stream.into_split();
                let keep_alive = KeepAlive { _held: Held::Nothing, _stderr: JoinSet::new() };
                Ok(Wire { reader: Box::new(reader), writer: Box::new(writer), peer, keep_alive })
            }
            Dialler::Local(program) => {
                let line = program.command_line();
                let mut words = line.iter();
                let mut command = Command::new(words.next().map_or("", String::as_str));
                command.args(words);
                spawn(name, command, line.join(" "))
            }
            Dialler::Ssh(host, program, approach) => {
                let line = program.command_line();
                let begun = approach.begun.lock().unwrap_or_else(PoisonError::into_inner).take();
                let slot = match begun {
                    Some(begun) => begun.await.unwrap_or_else(|_| Err(not_begun(name)))?,
                    None => host.slot(need).await?,
                };
                let (session, slot) = host.session(slot, &line, need).await?;
                Ok(on_master(name, session, slot, line.join(" ")))
            }
        }
    }
}

/// Returns the error of a connection whose beginning ended without a word.
fn not_begun(name: &str) -> StoreError {
    let reason = "the connection was given up".to_owned();
    StoreError::Unreachable { store: name.to_owned(), reason }
}

fn socket_reason(path: &std::path::Path, error: &std::io::Error) -> String {
    let hint = match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            "; is the Nix daemon running (systemctl start nix-daemon, or: sudo nix-daemon &)?"
        }
        std::io::ErrorKind::PermissionDenied => {
            "; are you among the 'allowed-users' of this machine's nix.conf?"
        }
        _ => "",
    };
    format!("{}: {error}{hint}", path.display())
}

/// Returns the connection to a program that runs on another machine.
fn on_master(name: &str, session: MuxSession, slot: SessionSlot, line: String) -> Wire {
    let stderr = StderrTail::default();
    let peer = Peer { name: name.to_owned(), command: line, stderr: stderr.clone() };
    let MuxSession { stdin, stdout, stderr: words, control } = session;
    let mut tasks = JoinSet::new();
    tasks.spawn(stderr.drain(words));
    let held = Held::Session { _control: control, _slot: slot };
    let keep_alive = KeepAlive { _held: held, _stderr: tasks };
    Wire { reader: Box::new(stdout), writer: Box::new(stdin), peer, keep_alive }
}

/// Starts a program whose standard input and output are the connection.
fn spawn(name: &str, mut command: Command, line: String) -> Result<Wire, StoreError> {
    let stderr = StderrTail::default();
    let peer = Peer { name: name.to_owned(), command: line, stderr: stderr.clone() };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // a group of its own: the terminal's Ctrl-C is drover's to handle, in order
    command.process_group(0);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => peer.no_program("No such file or directory"),
        _ => peer.not_begun(&format!("'{}' could not be run", peer.command), &error),
    })?;
    let (Some(stdin), Some(stdout), Some(words)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(peer.unreachable("its standard streams could not be had"));
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(stderr.drain(words));
    let keep_alive =
        KeepAlive { _held: Held::Child { _served: Served(Some(child)) }, _stderr: tasks };
    Ok(Wire { reader: Box::new(stdout), writer: Box::new(stdin), peer, keep_alive })
}
