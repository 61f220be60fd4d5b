//! What stock Nix starts for a build, as the machine of one of our lines: the way to the daemon that
//! schedules the builds of all hooks. That daemon is started where none listens.

use std::process::Stdio as Redirected;
use std::time::Duration;

use anyhow::{Context as _, bail};
use drover_daemon::{Stdio, need, relay, stdio};
use fs_err::File;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout_at};

use super::arguments::ConnectArguments;
use super::daemon::READY;
use super::machines::Builders;
use super::meeting::{Meeting, Met};
use super::surroundings::Whose;
use super::{behind, lines};
use crate::configuration::Configuration;
use crate::exit::ExitStatus;
use crate::terminal::Terminal;

/// How long the daemon may take to start, with that of others who start it at the same time.
const START: Duration = Duration::from_secs(10);
/// How often it's looked whether somebody else has started it.
const LOOK: Duration = Duration::from_millis(20);
/// For how long a daemon that was started for a hook stays when nobody needs it any more.
const IDLE: Duration = Duration::from_secs(600);
/// Bytes of its last words that are told.
const LAST_WORDS: u64 = 4096;

/// What is said to builds that come by a line that is out of date.
const NOBODY_BEHIND: &str = "no machine behind this line of the machines file builds all that the line says: 'drover hook install' \
                             writes the lines anew ('sudo drover hook install' the system's)";

/// Passes on what a client and the daemon say. Where no machine can be used for what comes by this line,
/// the client hears why in the place of a greeting.
pub(super) async fn connect(
    arguments: &ConnectArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let configuration = Configuration::load_beside_nix(&[], terminal)?;
    let wires = stdio()?;
    let builders = Builders::given(None, &configuration);
    let machines = behind::listed_or_configured(&configuration, terminal)?;
    let line = behind::own_line(&configuration, arguments.group);
    let Some(needed) = lines::need_of(&machines, arguments.group, line.as_ref()) else {
        // in the place of a greeting, as the daemon turns hooks away: Nix may have another way
        let Stdio { mut output, .. } = wires;
        output.write_all(format!("error: {NOBODY_BEHIND}\n").as_bytes()).await?;
        output.flush().await?;
        return Ok(ExitStatus::SUCCESS);
    };
    let (input, mut output) = reach(&configuration, &builders).await?.stream.into_split();
    output.write_all(&need(&needed)).await?;
    relay(wires, Stdio { input: Box::new(input), output: Box::new(output) }).await?;
    Ok(ExitStatus::SUCCESS)
}

/// Connects to the daemon, which is started where none listens.
///
/// # Errors
///
/// It can't be started, or takes too long.
pub(super) async fn reach(
    configuration: &Configuration,
    builders: &Builders,
) -> anyhow::Result<Met> {
    let meeting = Meeting::of(configuration, builders)?;
    let deadline = Instant::now() + START;
    loop {
        if let Some(met) = meeting.join(configuration, builders).await {
            return Ok(met);
        }
        if let Some(lock) = try_lock(&meeting)? {
            // whoever had the lock may have started it
            if let Some(met) = meeting.join(configuration, builders).await {
                return Ok(met);
            }
            start(&meeting, configuration, builders, deadline).await?;
            drop(lock);
        }
        if deadline <= Instant::now() {
            let seconds = START.as_secs();
            bail!(
                "the daemon for hooks has not started in {seconds} s; `drover hook daemon` shows why"
            );
        }
        sleep(LOOK).await;
    }
}

/// Takes the lock of those who start a daemon, if nobody has it.
fn try_lock(meeting: &Meeting) -> anyhow::Result<Option<File>> {
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let lock = options.open(&meeting.lock)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).context("cannot lock the start of the daemon for hooks"),
    }
}

/// Starts a daemon; returns when it listens.
async fn start(
    meeting: &Meeting,
    configuration: &Configuration,
    builders: &Builders,
    deadline: Instant,
) -> anyhow::Result<()> {
    let log = fs_err::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&meeting.log)?;
    // it outlives whoever has given us files
    drover_sandbox::keep_descriptors_from_children()?;
    // it would listen elsewhere: what Nix tells its hook is in no file and no variable
    let store = configuration.overrides.iter().filter(|given| given.name == "store");
    let mut daemon = Command::new(std::env::current_exe()?)
        .args(["hook", "daemon", "--detached", "--idle", &IDLE.as_secs().to_string()])
        .args(["--builders", builders.text()])
        .args(store.flat_map(|given| ["--store", &given.value]))
        .env_clear()
        .envs(Whose::started_here().environment(std::env::vars_os()))
        .current_dir("/")
        .stdin(Redirected::null())
        .stdout(Redirected::piped())
        .stderr(log.into_parts().0)
        .spawn()
        .context("cannot start the daemon for hooks")?;
    let mut said = String::new();
    if let Some(stdout) = daemon.stdout.take() {
        let mut first = BufReader::new(stdout.take(READY.len() as u64 + 1));
        match timeout_at(deadline, first.read_line(&mut said)).await {
            Ok(read) => drop(read?),
            // one that hangs would be in the way of the next
            Err(_) => daemon.start_kill()?,
        }
    }
    if said.trim_end() == READY || UnixStream::connect(&meeting.socket).await.is_ok() {
        return Ok(());
    }
    let mut last_words = String::new();
    // what it has said is worth telling if it can be read
    if let Ok(log) = File::open(&meeting.log) {
        drop(std::io::Read::read_to_string(
            &mut std::io::Read::take(log, LAST_WORDS),
            &mut last_words,
        ));
    }
    bail!("the daemon for hooks has not started: {}", last_words.trim());
}
