//! Asks the daemon of drover about its machines and builds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use drover_control::{Answer, ControlError, Conversation, Request, ask as ask_at, socket_beside};
use drover_daemon::control_opening;
use drover_store::Store as _;
use drover_store_local::Place;
use drover_store_remote::KeepAlive;
use tokio::io::AsyncWriteExt as _;

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
    let answer = ask_at(&socket(configuration), request, LIMIT).await;
    if !matches!(answer, Err(ControlError::NobodyThere { .. })) {
        return answer;
    }
    let mut answers = Vec::new();
    for hooks in hook::questions(configuration) {
        answers.push(ask_at(&hooks, request, LIMIT).await);
    }
    // who isn't there is the one that could be started
    answers.retain(|answer| !matches!(answer, Err(ControlError::NobodyThere { .. })));
    together(answers).unwrap_or(answer)
}

/// Puts together what several daemons say, each of builds and machines of its own.
fn together(answers: Vec<Result<Answer, ControlError>>) -> Option<Result<Answer, ControlError>> {
    // what one of them doesn't know another one may
    let is_refusal =
        |answer: &Result<Answer, ControlError>| matches!(answer, Err(_) | Ok(Answer::Refused(_)));
    let (refused, given): (Vec<_>, Vec<_>) = answers.into_iter().partition(is_refusal);
    let together = |all: Answer, one: Answer| match (all, one) {
        (Answer::Machines(mut all), Answer::Machines(one)) => {
            all.extend(one);
            Answer::Machines(all)
        }
        (Answer::Builds(mut all), Answer::Builds(one)) => {
            all.total += one.total;
            all.builds.extend(one.builds);
            all.detached.extend(one.detached);
            Answer::Builds(all)
        }
        (first, _) => first,
    };
    let given = given.into_iter().filter_map(Result::ok).reduce(together);
    given.map(Ok).or_else(|| refused.into_iter().next())
}

/// What to do where there is no daemon of drover.
const REMEDY: &str = "this needs a daemon of drover: 'drover daemon', or the one that the hook of stock Nix \
                      starts (with Nix's own daemon alone there is nobody who could tell)";

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
    for hooks in hook::questions(configuration) {
        if reached.is_ok() {
            break;
        }
        if let Ok(of_hooks) = connect(&hooks).await {
            reached = Ok(of_hooks);
        }
    }
    Ok(Reached { conversation: reached.context(REMEDY)?, _keep_alive: None })
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
    let answered = match configuration.settings.store.scheme().is_ssh() {
        true => reach(configuration).await?.ask(request).await,
        false => ask(configuration, request).await,
    };
    match answered {
        Err(nobody @ ControlError::NobodyThere { .. }) => {
            Err(anyhow::Error::from(nobody).context(REMEDY))
        }
        Err(error @ (ControlError::Lost { .. } | ControlError::NotUnderstood { .. })) => {
            Err(with_remedy(configuration, error))
        }
        answered => Ok(answered?),
    }
}

/// Says of a daemon that doesn't know what it's asked what to do about it.
pub(crate) fn with_remedy(configuration: &Configuration, error: ControlError) -> anyhow::Error {
    let is_there = configuration.settings.store.scheme().is_ssh();
    anyhow::Error::from(error).context(if is_there { REMEDY_THERE } else { REMEDY })
}

#[cfg(test)]
mod tests {
    use drover_control::{BuildList, BuildReport, MachineReport};

    use super::*;

    fn builds(id: &str) -> Result<Answer, ControlError> {
        let build = BuildReport { id: id.to_owned(), ..BuildReport::default() };
        Ok(Answer::Builds(BuildList { builds: vec![build], total: 3, ..BuildList::default() }))
    }

    fn refused(reason: &str) -> Result<Answer, ControlError> {
        Err(ControlError::Refused { reason: reason.to_owned() })
    }

    /// Daemons for hooks that differ are asked all of them.
    #[test]
    fn answers_of_several_daemons_are_put_together() {
        let Some(Ok(Answer::Builds(list))) = together(vec![builds("1"), builds("2")]) else {
            panic!("builds")
        };
        let ids: Vec<&str> = list.builds.iter().map(|build| build.id.as_str()).collect();
        assert_eq!((ids, list.total), (vec!["1", "2"], 6));
        let machine = || Ok(Answer::Machines(vec![MachineReport::default()]));
        let Some(Ok(Answer::Machines(machines))) = together(vec![machine(), machine()]) else {
            panic!("machines")
        };
        assert_eq!(machines.len(), 2);
    }

    /// What one of them doesn't know another one may.
    #[test]
    fn one_that_can_is_enough() {
        let done = together(vec![refused("there is no machine 'b1'"), Ok(Answer::Done)]);
        assert!(matches!(done, Some(Ok(Answer::Done))));
        let none = together(vec![refused("a"), refused("b")]);
        assert!(matches!(none, Some(Err(ControlError::Refused { reason })) if reason == "a"));
        assert!(together(Vec::new()).is_none());
    }
}
