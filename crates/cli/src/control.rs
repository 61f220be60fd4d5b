//! Asks the daemon of drover about its machines and builds.

mod several;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use drover_control::{Answer, ControlError, Conversation, Request, ask as ask_at, socket_beside};
use drover_daemon::control_opening;
use drover_store::Store as _;
use drover_store_local::Place;
use drover_store_remote::KeepAlive;
use tokio::io::AsyncWriteExt as _;

use self::several::{Said, concerned, disobeyed, meant, together};
use crate::configuration::Configuration;
use crate::connector::Connector;
use crate::hook;
use crate::local_store::LocalStore;
use crate::own_store;
use crate::standing::daemon_of;

/// How long the daemon may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Returns where the daemon answers questions that stands before the configured store, if one does.
fn socket(configuration: &Configuration) -> PathBuf {
    let usual = || configuration.host.daemon_socket();
    let listens = match own_store::place(&configuration.settings.store) {
        Ok(Some(Place::Local(layout) | Place::Own(layout))) => {
            daemon_of(&layout.state).unwrap_or_else(usual)
        }
        Ok(Some(Place::Daemon(socket))) => socket,
        Ok(None) | Err(_) => usual(),
    };
    socket_beside(&listens)
}

/// Asks the daemon, or else those that schedule for hooks.
///
/// # Errors
///
/// Those of [`ask_at`].
pub(crate) async fn ask(
    configuration: &Configuration,
    request: &Request,
) -> Result<Answer, ControlError> {
    let asked = ask_all(configuration, request).await;
    match asked.before_the_store {
        Some(answer) => answer,
        None => together(request, asked.of_hooks),
    }
}

/// Whose machines were told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Those of the daemon before the store, who alone builds for it.
    TheDaemons,
    /// Those of daemons for hooks, each of which has its own.
    Hooks,
}

/// Asks for the machines, as [`ask`] does.
///
/// # Errors
///
/// Those of [`ask_at`].
pub(crate) async fn machines(
    configuration: &Configuration,
) -> Result<(Answer, Whose), ControlError> {
    let asked = ask_all(configuration, &Request::Machines).await;
    match asked.before_the_store {
        Some(answer) => Ok((answer?, Whose::TheDaemons)),
        None => Ok((together(&Request::Machines, asked.of_hooks)?, Whose::Hooks)),
    }
}

/// What was answered.
struct Asked {
    /// By the daemon that stands before the store, or else that nobody is there where no other daemon is.
    before_the_store: Option<Result<Answer, ControlError>>,
    /// By those for hooks, where there is no such daemon.
    of_hooks: Vec<Said>,
}

async fn ask_all(configuration: &Configuration, request: &Request) -> Asked {
    let answer = ask_at(&socket(configuration), request, LIMIT).await;
    if !matches!(answer, Err(ControlError::NobodyThere { .. })) {
        return Asked { before_the_store: Some(answer), of_hooks: Vec::new() };
    }
    let mut of_hooks = Vec::new();
    let (request, daemons) = meant(request, hook::daemons(configuration));
    for daemon in daemons {
        let answer = ask_at(&daemon.questions, &request, LIMIT).await;
        of_hooks.push(Said { daemon, answer });
    }
    // who isn't there is the one that could be started
    of_hooks.retain(|said| !matches!(said.answer, Err(ControlError::NobodyThere { .. })));
    Asked { before_the_store: of_hooks.is_empty().then_some(answer), of_hooks }
}

/// Has all daemons do something with their machines, and returns what those say who haven't, though they have
/// such a machine.
///
/// # Errors
///
/// None has done it.
pub(crate) async fn order(
    configuration: &Configuration,
    request: &Request,
) -> anyhow::Result<Vec<String>> {
    if configuration.settings.store.scheme().is_ssh() {
        ask_needed(configuration, request).await?;
        return Ok(Vec::new());
    }
    let mut asked = ask_all(configuration, request).await;
    if let Request::Drain { machine } | Request::Resume { machine } = request {
        let mut with_names = Vec::new();
        for said in asked.of_hooks {
            let names = match said.is_refusal() {
                true => names_at(&said).await,
                false => None,
            };
            with_names.push((said, names));
        }
        asked.of_hooks = concerned(with_names, machine)?;
    }
    let disobeyed = disobeyed(&asked.of_hooks);
    let answered = match asked.before_the_store {
        Some(answer) => answer,
        None => together(request, asked.of_hooks),
    };
    needed(configuration, REMEDY, answered).await?;
    Ok(disobeyed)
}

/// Returns the machines that a daemon says that it has, if it says so.
async fn names_at(said: &Said) -> Option<Vec<String>> {
    match ask_at(&said.daemon.questions, &Request::Machines, LIMIT).await {
        Ok(Answer::Machines(machines)) => {
            Some(machines.into_iter().map(|report| report.name).collect())
        }
        _ => None,
    }
}

/// What to do where there is no daemon of drover.
const REMEDY: &str = "this needs a daemon of drover: 'drover daemon', or the one that the hook of stock Nix \
                      starts (with Nix's own daemon alone there is nobody who could tell)";

/// What to do where there is no daemon that could hold a build: the one that the hook starts holds none.
const REMEDY_TO_HOLD: &str =
    "this needs 'drover daemon', here or on a head (--store ssh-ng://HEAD)";

/// What to do where something else than drover answers on a head.
const REMEDY_THERE: &str = "this needs a daemon of drover there, and drover as the 'nix-daemon' that is run by SSH: 'drover \
                            compat install /usr/local/bin' there, or '?remote-program=drover%20daemon' behind the \
                            address of the store";

/// A daemon of drover that can be asked one thing after another.
pub(crate) struct Reached {
    conversation: Conversation,
    _keep_alive: Option<KeepAlive>,
}

impl Reached {
    /// Asks.
    ///
    /// # Errors
    ///
    /// Those of [`Conversation::ask`].
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<Answer, ControlError> {
        self.conversation.ask(request, LIMIT).await
    }
}

/// Connects to the daemon of the configured store, be it here or, with `ssh-ng://`, on a head.
///
/// # Errors
///
/// There is none, with what to do about it.
pub(crate) async fn reach(configuration: &Configuration) -> anyhow::Result<Reached> {
    let store = &configuration.settings.store;
    if store.scheme().is_ssh() {
        return reach_by_ssh(configuration).await;
    }
    let mut reached = connect(&socket(configuration)).await;
    for hooks in hook::daemons(configuration) {
        if reached.is_ok() {
            break;
        }
        if let Ok(of_hooks) = connect(&hooks.questions).await {
            reached = Ok(of_hooks);
        }
    }
    Ok(Reached { conversation: reached.context(REMEDY_TO_HOLD)?, _keep_alive: None })
}

async fn connect(socket: &Path) -> Result<Conversation, ControlError> {
    let silent = || ControlError::Silent { peer: socket.display().to_string(), limit: LIMIT };
    tokio::time::timeout(LIMIT, Conversation::connect(socket))
        .await
        .unwrap_or_else(|_| Err(silent()))
}

/// Connects by the way that Nix's clients take, through what the head lets its clients run.
async fn reach_by_ssh(configuration: &Configuration) -> anyhow::Result<Reached> {
    let local = LocalStore::choose(configuration)?;
    let connector = Connector::new(configuration)?;
    let store = connector.open_local(&local, &configuration.local_settings());
    let Some(mut wire) = store.dial().await? else {
        bail!(
            "'{}' can't be asked what it builds: ssh:// has no way for that; name it with ssh-ng://",
            store.name()
        );
    };
    let said = async {
        wire.writer.write_all(&control_opening()).await?;
        wire.writer.flush().await
    };
    let unsaid = || format!("the connection to '{}' was lost", store.name());
    tokio::time::timeout(LIMIT, said).await.with_context(unsaid)?.with_context(unsaid)?;
    let conversation = Conversation::over(store.name().to_owned(), wire.reader, wire.writer);
    Ok(Reached { conversation, _keep_alive: Some(wire.keep_alive) })
}

/// Asks the daemon, without which there is nothing to be done.
///
/// # Errors
///
/// There is none, with what to do about it; or it doesn't answer, or refuses.
pub(crate) async fn ask_needed(
    configuration: &Configuration,
    request: &Request,
) -> anyhow::Result<Answer> {
    let remedy = match request {
        Request::Detach(_) | Request::Follow { .. } | Request::Cancel { .. } => REMEDY_TO_HOLD,
        _ => REMEDY,
    };
    ask_or_tell(configuration, request, remedy).await
}

/// Looks whether there is a daemon that could hold a build. Those for hooks couldn't.
///
/// # Errors
///
/// There is none, with what to do about it.
pub(crate) async fn find_holder(configuration: &Configuration) -> anyhow::Result<()> {
    if configuration.settings.store.scheme().is_ssh() {
        let answered = ask_or_tell(configuration, &Request::Machines, REMEDY_TO_HOLD).await;
        return answered.map(drop);
    }
    match machines(configuration).await {
        Ok((_, Whose::Hooks)) => anyhow::bail!(REMEDY_TO_HOLD),
        answered => {
            let answered = answered.map(|(answer, _)| answer);
            needed(configuration, REMEDY_TO_HOLD, answered).await.map(drop)
        }
    }
}

async fn ask_or_tell(
    configuration: &Configuration,
    request: &Request,
    remedy: &'static str,
) -> anyhow::Result<Answer> {
    let answered = match configuration.settings.store.scheme().is_ssh() {
        true => reach(configuration).await?.ask(request).await,
        false => ask(configuration, request).await,
    };
    needed(configuration, remedy, answered).await
}

/// Says of an answer that is none what to do about it.
async fn needed(
    configuration: &Configuration,
    remedy: &'static str,
    answered: Result<Answer, ControlError>,
) -> anyhow::Result<Answer> {
    match answered {
        Err(nobody @ ControlError::NobodyThere { .. }) => {
            Err(anyhow::Error::from(nobody).context(remedy))
        }
        Err(error @ (ControlError::Lost { .. } | ControlError::NotUnderstood { .. })) => {
            Err(with_remedy(configuration, error).await)
        }
        Ok(Answer::Refused(reason)) => Err(ControlError::Refused { reason }.into()),
        answered => Ok(answered?),
    }
}

/// Says of a daemon that doesn't know what it's asked what to do about it.
pub(crate) async fn with_remedy(
    configuration: &Configuration,
    error: ControlError,
) -> anyhow::Error {
    if !configuration.settings.store.scheme().is_ssh() {
        return anyhow::Error::from(error).context(REMEDY);
    }
    match unreached(configuration).await {
        Some(trouble) => trouble,
        None => anyhow::Error::from(error).context(REMEDY_THERE),
    }
}

/// Returns why Nix's clients don't reach the head either, if they don't, with what is printed there.
async fn unreached(configuration: &Configuration) -> Option<anyhow::Error> {
    let local = LocalStore::choose(configuration).ok()?;
    let connector = Connector::new(configuration).ok()?;
    let store = connector.open_local(&local, &configuration.local_settings());
    store.connect().await.err().map(anyhow::Error::from)
}
