//! Takes clients in at a unix socket.
//!
//! Follows `daemonLoop` in `src/nix/unix/daemon.cc` of Nix, with a task for each client in the place of
//! a process. Nothing is read from a client before it is known who it is and what it may.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::geteuid;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use crate::error::DaemonError;
use crate::peer::Peer;
use crate::server::{Client, ClientTrust, Server};
use crate::socket::halves;

/// For how long somebody who was refused may take to read why.
const REFUSAL: Duration = Duration::from_secs(1);
/// Rest after the system could not take a client in, mostly for want of file descriptors.
const OUT_OF_BREATH: Duration = Duration::from_millis(100);

/// Whether clients are who the kernel says, or all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustRule {
    /// The policy decides by user and group.
    ByPolicy,
    /// Everybody may connect, and is this (`--force-trusted`, `--force-untrusted`).
    Forced(ClientTrust),
    /// Only the user that the daemon runs as may connect, and root, and is trusted.
    OwnUser,
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// What is being done for clients may take so long to end.
    Drain(Duration),
    /// Everything ends now.
    Now,
}

/// A socket that clients can connect to as soon as it's shown, and wait at until it's served.
///
/// Who finds a socket may count on all that goes with it.
#[derive(Debug)]
pub struct Draft {
    socket: StdUnixListener,
    /// Where it is until then.
    draft: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// Puts the socket where clients look for it.
    ///
    /// # Errors
    ///
    /// The file can't be put there.
    pub fn show(self) -> Result<Listener, DaemonError> {
        let shown = || {
            let found = fs_err::symlink_metadata(&self.draft)?;
            let mut listener = Listener::from_socket(self.socket.try_clone()?)?;
            fs_err::rename(&self.draft, &self.path)?;
            listener.file = Some((self.path.clone(), (found.dev(), found.ino())));
            Ok(listener)
        };
        shown().map_err(|error: io::Error| refusal(&self.path, error.to_string()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // it is gone where it was shown
        drop(fs_err::remove_file(&self.draft));
    }
}

fn refusal(path: &Path, reason: String) -> DaemonError {
    DaemonError::Listen { path: path.to_owned(), reason }
}

/// A socket that clients connect to.
pub struct Listener {
    socket: UnixListener,
    /// The file, with its device and inode, where it is ours to remove.
    file: Option<(PathBuf, (u64, u64))>,
}

impl Listener {
    /// Makes the socket, open to everybody from its first moment on, in the place of one that nobody
    /// listens to any more. The folder is made where it is missing.
    ///
    /// # Errors
    ///
    /// Another daemon listens there, or something that is no socket stands there.
    pub fn bind(path: &Path) -> Result<Listener, DaemonError> {
        Listener::draft(path)?.show()
    }

    /// Makes the same, where nobody looks for it yet.
    ///
    /// # Errors
    ///
    /// Those of [`Listener::bind`].
    pub fn draft(path: &Path) -> Result<Draft, DaemonError> {
        let failed = |error: io::Error| refusal(path, error.to_string());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        fs_err::create_dir_all(folder).map_err(failed)?;
        match fs_err::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(refusal(path, "something else than a socket is there".to_owned()));
            }
            Ok(_) if StdUnixStream::connect(path).is_ok() => {
                return Err(refusal(path, "another daemon listens there".to_owned()));
            }
            _ => {}
        }
        let draft = folder.join(format!(".s{}", std::process::id()));
        drop(fs_err::remove_file(&draft));
        let socket = StdUnixListener::bind(&draft).map_err(failed)?;
        let made = Draft { socket, draft, path: path.to_owned() };
        let everybody = std::fs::Permissions::from_mode(0o666);
        fs_err::set_permissions(&made.draft, everybody).map_err(failed)?;
        Ok(made)
    }

    /// Returns the listener of a socket that somebody else has made.
    ///
    /// # Errors
    ///
    /// Not a socket that can be listened at.
    pub fn from_socket(socket: StdUnixListener) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        Ok(Listener { socket: UnixListener::from_std(socket)?, file: None })
    }

    /// Returns where it listens, where that is a file.
    pub fn path(&self) -> Option<PathBuf> {
        match &self.file {
            Some((path, _)) => Some(path.clone()),
            None => self.socket.local_addr().ok()?.as_pathname().map(Path::to_owned),
        }
    }

    /// Serves clients until `stop`, then sees to the end of those that are there. Dropping the future
    /// ends all of them.
    pub async fn run(self, server: Server, rule: TrustRule, stop: impl Future<Output = Stop>) {
        let mut stop = std::pin::pin!(stop);
        let mut clients = JoinSet::new();
        let counts = Counts::default();
        let how = loop {
            tokio::select! {
                biased;
                how = &mut stop => break how,
                accepted = self.socket.accept() => match accepted {
                    Ok((socket, _)) => {
                        let visit = Visit { server: server.clone(), rule, counts: counts.clone() };
                        clients.spawn(visit.receive(socket));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot take a client in");
                        sleep(OUT_OF_BREATH).await;
                    }
                },
                Some(ended) = clients.join_next(), if !clients.is_empty() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a connection was cut short");
                    }
                }
            }
        };
        self.close();
        server.stop();
        if let Stop::Drain(limit) = how {
            let drained = async { while clients.join_next().await.is_some() {} };
            if timeout(limit, drained).await.is_err() {
                tracing::warn!(clients = clients.len(), "ending what did not end in time");
            }
        }
        clients.shutdown().await;
    }

    /// Removes the file, unless another daemon has put its own there.
    fn close(self) {
        drop(self.socket);
        if let Some((path, identity)) = self.file
            && let Ok(found) = fs_err::symlink_metadata(&path)
            && (found.dev(), found.ino()) == identity
            && let Err(error) = fs_err::remove_file(&path)
        {
            tracing::warn!(%error, "the socket stays");
        }
    }
}

/// Connections in all, and by user.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<HashMap<Option<u32>, usize>>>);

struct Counted {
    counts: Counts,
    uid: Option<u32>,
}

impl Counts {
    fn add(&self, uid: Option<u32>) -> (Counted, usize) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(uid).or_default();
        *count += 1;
        (Counted { counts: self.clone(), uid }, *count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.uid);
            }
        }
    }
}

/// One client from its coming to its going.
struct Visit {
    server: Server,
    rule: TrustRule,
    counts: Counts,
}

impl Visit {
    async fn receive(self, socket: UnixStream) {
        match self.admit(&socket).await {
            Err(refusal) => {
                tracing::warn!(%refusal, "refused a client");
                refuse(socket, &refusal).await;
            }
            Ok((client, _counted)) => {
                tracing::info!(user = ?client.user, trust = ?client.trust, "accepted a client");
                let served = match halves(socket) {
                    Ok((input, output)) => self.server.serve(client, input, output).await,
                    Err(source) => Err(DaemonError::Lost { doing: "watching a socket", source }),
                };
                if let Err(error) = served {
                    tracing::info!(%error, "a connection ended");
                }
            }
        }
    }

    async fn admit(&self, socket: &UnixStream) -> Result<(Client, [Counted; 2]), String> {
        let limits = self.server.shared.limits;
        let (in_all, total) = self.counts.add(None);
        if total > limits.connections {
            return Err(format!("the daemon has {} connections already", limits.connections));
        }
        let credentials = socket
            .peer_cred()
            .map_err(|error| format!("cannot tell who the client is: {error}"))?;
        let uid = credentials.uid();
        let (of_user, count) = self.counts.add(Some(uid));
        if uid != 0 && count > limits.connections_per_user {
            let most = limits.connections_per_user;
            return Err(format!("user {uid} has {most} connections to the daemon already"));
        }
        let client = match self.rule {
            TrustRule::Forced(trust) => Client::new(Some(uid.to_string()), trust),
            TrustRule::OwnUser if uid != 0 && uid != geteuid().as_raw() => {
                return Err(format!("user {uid} is not the one that this daemon is for"));
            }
            TrustRule::OwnUser => {
                let Peer { user, .. } = look_up(credentials).await?;
                Client::new(Some(user), ClientTrust::Trusted)
            }
            TrustRule::ByPolicy => {
                let peer = look_up(credentials).await?;
                let policy = Arc::clone(&self.server.shared.policy.borrow());
                policy.admit(&peer).map_err(|refusal| refusal.to_string())?
            }
        };
        Ok((client, [in_all, of_user]))
    }
}

async fn look_up(credentials: UCred) -> Result<Peer, String> {
    let uid = credentials.uid();
    let found = spawn_blocking(move || Peer::of(credentials)).await;
    found.map_err(|error| format!("cannot look up user {uid}: {error}"))
}

/// Says why and hangs up, without having read a byte. Nix's clients show what they can't understand.
async fn refuse(mut socket: UnixStream, refusal: &str) {
    let said = async {
        socket.write_all(format!("error: {refusal}\n").as_bytes()).await?;
        socket.shutdown().await?;
        // a socket that is closed too early swallows what was said
        sleep(REFUSAL).await;
        io::Result::Ok(())
    };
    if let Ok(Err(error)) = timeout(2 * REFUSAL, said).await {
        tracing::debug!(%error, "could not tell a client why it was refused");
    }
}
