//! SSH: one master connection per machine, and sessions over it.
//!
//! The transport is the `ssh` program, so that the user's configuration, agents, jump hosts and
//! hardware keys work as in a terminal. It never asks a question. A server takes ten sessions on one
//! connection by default (`MaxSessions`), so beyond eight another master is opened. Where the server
//! takes no further connection the sessions make do with those there are.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use drover_store::StoreError;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, OnceCell};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ciphers::fast_ciphers;
use crate::dial::ConnectOptions;
use crate::error::{Peer, own_limit};
use crate::master::{Master, Need, SessionSlot, most_known};
use crate::mux::{MuxError, MuxSession, open_session};
use crate::stderr::StderrTail;

/// How often another connection is tried where a server refuses sessions.
const ATTEMPTS: usize = 4;

/// How a shell ends that finds no program.
const NO_PROGRAM: i32 = 127;

/// What a host is called whose key is given; its own name may be changed by the user's configuration.
const PINNED: &str = "drover-pinned";

/// Settings of glibc's allocator: keep so many bytes.
const MALLOC_KEEPS: [&str; 3] =
    ["MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"];

/// A machine by SSH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshTarget {
    /// Host name or alias.
    pub host: String,
    /// The user there.
    pub user: Option<String>,
    /// The port there.
    pub port: Option<u16>,
    /// A private key's file (`ssh-key`).
    pub key: Option<PathBuf>,
    /// A public host key as in a `.pub` file, decoded from `base64-ssh-public-host-key`.
    pub host_key: Option<String>,
    /// Whether SSH compresses (`compress`).
    pub compression: Compression,
}

/// Whether SSH compresses what it carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As the user's configuration says.
    #[default]
    AsConfigured,
    /// It does.
    On,
}

/// A machine's masters.
pub(crate) struct SshHost {
    pub(crate) name: String,
    target: SshTarget,
    options: ConnectOptions,
    pub(crate) masters: Mutex<Vec<Arc<Master>>>,
    pub(crate) opening: tokio::sync::Mutex<()>,
    /// When the server refused a further connection, and why.
    pub(crate) refusal: Mutex<Option<(Instant, StoreError)>>,
    /// That a place was given back.
    pub(crate) freed: Arc<Notify>,
    /// Those who wait for a place.
    pub(crate) waiting: AtomicUsize,
    next: AtomicUsize,
    /// The option for faster ciphers, once it's known whether it may be set.
    ciphers: OnceCell<Option<&'static str>>,
}

impl SshHost {
    pub(crate) fn new(name: String, target: SshTarget, options: ConnectOptions) -> SshHost {
        SshHost {
            name,
            target,
            options,
            masters: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            refusal: Mutex::default(),
            freed: Arc::default(),
            waiting: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            ciphers: OnceCell::new(),
        }
    }

    /// Whether SSH itself compresses.
    pub(crate) fn compresses(&self) -> bool {
        self.target.compression == Compression::On
    }

    /// Runs `line` there, on a place or another one if the server takes no more sessions on that
    /// connection.
    pub(crate) async fn session(
        &self,
        slot: SessionSlot,
        line: &[String],
        need: Need,
    ) -> Result<(MuxSession, SessionSlot), StoreError> {
        let words: Vec<String> = line.iter().map(|word| quoted(word)).collect();
        let command = words.join(" ");
        let mut slot = slot;
        for _ in 0..ATTEMPTS {
            let opening = open_session(&slot.master().socket, &command);
            let limit = self.options.connect_timeout;
            let why = match tokio::time::timeout(limit, opening).await {
                Ok(Ok(session)) => return Ok((session, slot)),
                Ok(Err(error @ MuxError::Refused(_))) => {
                    tracing::debug!(%error, "a session was refused");
                    slot.refused();
                    slot = self.slot(need).await?;
                    continue;
                }
                Ok(Err(error)) => match own_limit_of(&error) {
                    Some(reason) => {
                        return Err(StoreError::OwnLimit { store: self.name.clone(), reason });
                    }
                    None => error.to_string(),
                },
                Err(_) => format!("no session after {} s", limit.as_secs()),
            };
            return Err(self.unreachable(why));
        }
        Err(self.unreachable("the server refuses sessions; see MaxSessions in its sshd_config"))
    }

    fn unreachable(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Unreachable { store: self.name.clone(), reason: reason.into() }
    }

    pub(crate) fn destination(&self) -> String {
        match &self.target.user {
            Some(user) => format!("{user}@{}", self.target.host),
            None => self.target.host.clone(),
        }
    }

    pub(crate) fn arguments(&self) -> Vec<String> {
        let target = &self.target;
        let mut arguments = Vec::new();
        if target.host_key.is_some() {
            // whatever the configuration makes of the host's name; the first of two counts
            arguments.push(format!("-oHostKeyAlias={PINNED}"));
        }
        arguments.extend(self.options.ssh_arguments.iter().cloned());
        arguments.extend(
            [
                "-x",
                "-a",
                "-T",
                "-oBatchMode=yes",
                "-oRemoteCommand=none",
                // a forwarded port can be had once only, and would refuse every further connection
                "-oClearAllForwardings=yes",
            ]
            .map(str::to_owned),
        );
        arguments
            .push(format!("-oConnectTimeout={}", self.options.connect_timeout.as_secs().max(1)));
        arguments
            .extend(["-oServerAliveInterval=15", "-oServerAliveCountMax=3"].map(str::to_owned));
        if let Some(port) = target.port {
            arguments.push(format!("-p{port}"));
        }
        if let Some(key) = &target.key {
            arguments.push("-i".to_owned());
            arguments.push(key.display().to_string());
        }
        if target.compression == Compression::On {
            arguments.push("-C".to_owned());
        }
        if target.host_key.is_some() {
            arguments.push(format!("-oUserKnownHostsFile={}", self.known_hosts().display()));
            arguments.push("-oGlobalKnownHostsFile=/dev/null".to_owned());
            arguments.push("-oStrictHostKeyChecking=yes".to_owned());
        }
        arguments
    }

    fn known_hosts(&self) -> PathBuf {
        self.options.runtime_dir.path().join(format!("k{}", short_hash(&self.name)))
    }

    /// Opens a connection, and takes its first place.
    pub(crate) async fn open_master(&self) -> Result<SessionSlot, StoreError> {
        let stderr = StderrTail::default();
        let peer =
            Peer { name: self.name.clone(), command: "ssh".to_owned(), stderr: stderr.clone() };
        self.pin_if_known()
            .map_err(|error| peer.not_begun("its key can't be written down", &error))?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let socket =
            self.options.runtime_dir.path().join(format!("m{}.{number}", short_hash(&self.name)));
        let ciphers = self.ciphers.get_or_init(|| async {
            fast_ciphers(&self.options.ssh_arguments, &self.destination()).await
        });
        let mut child = self
            .master_command(&socket, *ciphers.await)
            .spawn()
            .map_err(|error| peer.not_begun("ssh could not be run", &error))?;
        let mut tasks = JoinSet::new();
        if let Some(words) = child.stderr.take() {
            tasks.spawn(stderr.drain(words));
        }
        // ssh's own timeout covers the connection only; a server that goes silent in the middle of
        // the handshake is covered by twice that time
        let limit = self.options.connect_timeout * 2;
        match tokio::time::timeout(limit, is_up(&mut child)).await {
            Ok(true) => {}
            Ok(false) => {
                let last_words = async {
                    let status = child.wait().await;
                    while tasks.join_next().await.is_some() {}
                    status.ok().and_then(|status| status.code())
                };
                let code = tokio::time::timeout(limit, last_words).await.ok().flatten();
                return Err(self.refused(&peer, code));
            }
            Err(_) => {
                let seconds = limit.as_secs();
                return Err(peer.unreachable(format!("no connection after {seconds} s")));
            }
        }
        let mut masters = self.masters.lock().unwrap_or_else(PoisonError::into_inner);
        let most = most_known(&masters);
        let master = Master::new(socket, child, tasks, (most, Arc::clone(&self.freed)));
        let slot = master.first();
        masters.push(master);
        Ok(slot)
    }

    /// Under a shell that ends `ssh` when drover is gone, however it ended: the shell's standard
    /// input is a pipe whose other end is drover's.
    fn master_command(&self, socket: &Path, ciphers: Option<&str>) -> Command {
        const GUARD: &str = r#"exec 3<&0
ssh "$@" </dev/null 3<&- & ssh=$!
{ cat <&3 >/dev/null; kill $ssh; } >/dev/null 2>&1 & guard=$!
exec 3<&-
wait $ssh; status=$?
kill $guard 2>/dev/null
exit $status"#;
        let mut command = Command::new("/bin/sh");
        command.env_remove("DISPLAY").env_remove("SSH_ASKPASS");
        // glibc gives ssh's buffers of some hundred KiB back to the system and asks for them anew
        // all the time: a third of the processor time of a large transfer. Others pass this by.
        command.envs(MALLOC_KEEPS.map(|name| (name, "67108864")));
        command.args(["-c", GUARD, "sh", "-M", "-N", "-S"]).arg(socket);
        command.args(self.arguments());
        command.args(["-oControlPersist=no", "-oPermitLocalCommand=yes"]);
        command.arg("-oLocalCommand=echo started");
        command.args(ciphers);
        command.arg(self.destination());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true).process_group(0);
        command
    }

    /// Writes the host's key where `ssh` looks for it, if one is given.
    pub(crate) fn pin_if_known(&self) -> std::io::Result<()> {
        match &self.target.host_key {
            Some(key) => fs_err::write(self.known_hosts(), format!("{PINNED} {}\n", key.trim())),
            None => Ok(()),
        }
    }

    /// Says what `ssh` said, and what can be done about the usual reasons. `code` is how it ended.
    fn refused(&self, peer: &Peer, code: Option<i32>) -> StoreError {
        let said = peer.stderr.text().unwrap_or_default();
        let user = self.target.user.as_deref().unwrap_or("the user of your ssh configuration");
        if code == Some(NO_PROGRAM) {
            return self.unreachable(
                "ssh could not be run: there is none on the PATH; install OpenSSH's client (Debian \
                 and Ubuntu: apt install openssh-client)",
            );
        }
        // a host on the way may be unknown, too, and then ssh doesn't speak of this name
        if self.target.host_key.is_some()
            && said.contains("Host key verification failed")
            && said.contains(PINNED)
        {
            // ssh's own advice is about a file that is none of the user's
            return self.unreachable(
                "the host's key is not the one that is given for it, in the eighth column of its line or \
                 as 'base64-ssh-public-host-key' in its address: compare it with the machine's own \
                 (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there), then mend what is given",
            );
        }
        let hint = if said.contains("Host key verification failed") {
            "the host's key is not the one that is known (or none is): compare it, then update \
             known_hosts or the machine's public host key"
                .to_owned()
        } else if said.contains("Permission denied") {
            format!(
                "{user} can't log in there with a key and without questions: try 'ssh -oBatchMode=yes {}'",
                self.destination()
            )
        } else {
            return peer.unreachable("ssh could not connect");
        };
        peer.unreachable(hint)
    }
}

/// Returns which limit of this machine is in the way of a session, if one is.
fn own_limit_of(error: &MuxError) -> Option<String> {
    match error {
        MuxError::Io(error) => own_limit(error),
        MuxError::Refused(_) => None,
    }
}

/// Returns a word as the shell of the other machine has to be given it.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:@%+,".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Returns a few characters that stand for a name; control sockets have short paths.
fn short_hash(name: &str) -> String {
    let hash = drover_core::Hash::of(drover_core::HashAlgorithm::Sha256, name.as_bytes());
    hash.digits(drover_core::HashNotation::Base32).chars().take(8).collect()
}

/// Waits for the word that `ssh` says when it's connected; it says none where it can't be.
async fn is_up(ssh: &mut Child) -> bool {
    let mut word = [0; 8];
    match ssh.stdout.as_mut() {
        Some(stdout) => matches!(stdout.read_exact(&mut word).await, Ok(8)),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case::plain("nix-daemon", "nix-daemon")]
    #[case::option("--store", "--store")]
    #[case::address("local?root=/a", "'local?root=/a'")]
    #[case::two("a&b=c d", "'a&b=c d'")]
    #[case::quote("it's", r"'it'\''s'")]
    #[case::nothing("", "''")]
    fn words_reach_the_program_as_they_are(#[case] word: &str, #[case] expected: &str) {
        assert_eq!(quoted(word), expected);
        let shell = std::process::Command::new("sh");
        let mut shell = shell;
        let said = shell.arg("-c").arg(format!("printf %s {}", quoted(word))).output();
        assert_eq!(said.expect("a shell").stdout, word.as_bytes());
    }
}
