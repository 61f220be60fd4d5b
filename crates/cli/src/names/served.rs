//! What serves clients: the server, the store behind it, who builds, what is held.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use drover_compat::Options;
use drover_daemon::{Controls, Limits, Policy, Server, TrustRule};
use drover_detached::{Holder, Limits as HoldLimits};
use drover_fleet::Shutdown;
use drover_store::{AfterFailure, Keeper};
use drover_store_overlay::OverlayStore;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::control::Overseer;
use super::detached::Detached;
use super::hooks::Note;
use super::{BuiltBy, NIX_VERSION, Opened, ThisMachine};
use crate::builders::substitute;
use crate::configuration::Configuration;

/// For how long those who follow what is held may take to hear of its end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Who schedules what clients have built, where the store is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheduling {
    /// The daemon that stands before the store, if there is one.
    Shared,
    /// This process, which is to stand there.
    Own,
}

/// Where what is built for clients is kept.
pub(super) enum Outputs {
    /// In the store.
    Stored,
    /// Beside it, until the client has fetched and registered it.
    Aside(OverlayStore),
}

/// What serves clients.
pub(super) struct Serving {
    pub(super) server: Server,
    pub(super) outputs: Outputs,
    /// Sends the newest policy.
    pub(super) policy: watch::Sender<Arc<Policy>>,
    pub(super) built_by: BuiltBy,
    /// Answers what is asked of this process itself, where it builds.
    pub(super) overseer: Option<Arc<Overseer>>,
    /// Sends the newest view of the store.
    pub(super) keeper: watch::Sender<Arc<dyn Keeper>>,
    /// Takes note of settings that were read anew.
    pub(super) note: Option<Note>,
}

impl Serving {
    pub(super) fn new(
        machine: &ThisMachine,
        opened: Opened,
        configuration: Configuration,
        scheduling: Scheduling,
    ) -> anyhow::Result<Serving> {
        let (policy, policies) = watch::channel(Arc::new(policy(&configuration)));
        let built_by = match (&opened, scheduling) {
            (Opened::Own(store), Scheduling::Own) => machine.built_here(store, configuration)?,
            _ => machine.built_by(&opened, configuration)?,
        };
        let (realiser, version) = (built_by.realiser(), NIX_VERSION.to_owned());
        let keeper = keeper(opened);
        let store_dir = keeper.store_dir().clone();
        let (keeper, keepers) = watch::channel(keeper);
        let overseer = match (&built_by, scheduling) {
            (BuiltBy::ThisProcess(builds), Scheduling::Own) => {
                let holder = Arc::new(Holder::new(built_by.realiser(), HoldLimits::default()));
                let detached = Detached { holder, keeper: keepers, store_dir: store_dir.clone() };
                let (builds, policy) = (Arc::clone(builds), policy.subscribe());
                let detached = Some(detached);
                Some(Arc::new(Overseer { builds, policy, store_dir, detached }))
            }
            _ => None,
        };
        let first = Arc::clone(&keeper.borrow());
        let server = Server::new(first, realiser, policies, Limits::default(), version);
        let server = answering(server, overseer.as_ref());
        let outputs = Outputs::Stored;
        Ok(Serving { server, outputs, policy, built_by, overseer, keeper, note: None })
    }

    /// Reads the settings and the machines anew. Builds go on; who connects from now on finds the
    /// store as it is configured now.
    pub(super) fn reload(&self, machine: &ThisMachine, options: &Options) -> anyhow::Result<()> {
        let configuration =
            Arc::new(Configuration::load_beside_nix(&options.overrides, &machine.terminal)?);
        let opened = machine.open(None, &configuration)?;
        match (&self.built_by, &opened, &self.outputs) {
            (BuiltBy::ThisProcess(builds), _, Outputs::Aside(_)) => {
                builds.reload(Arc::clone(&configuration), None)?;
            }
            (BuiltBy::ThisProcess(builds), Opened::Own(store), Outputs::Stored) => {
                let builder = machine.builder(&configuration, store)?;
                builds.reload(Arc::clone(&configuration), builder)?;
            }
            _ => {}
        }
        if let Some(note) = &self.note {
            note(&configuration);
        }
        let keeper = keeper(opened);
        let keeper = match &self.outputs {
            Outputs::Stored => keeper,
            Outputs::Aside(overlay) => Arc::new(overlay.over(keeper)),
        };
        self.keeper.send_replace(Arc::clone(&keeper));
        self.server.replace_store(keeper);
        self.policy.send_replace(Arc::new(policy(&configuration)));
        Ok(())
    }

    /// Answers questions about the builds of this process, beside the socket where it listens.
    pub(super) fn answer_questions(
        &self,
        machine: &ThisMachine,
        beside: &Path,
        rule: TrustRule,
    ) -> JoinSet<()> {
        match &self.overseer {
            Some(overseer) => Arc::clone(overseer).listen(beside, rule, &machine.terminal),
            None => JoinSet::new(),
        }
    }

    /// Returns what is held for those who have gone.
    fn holder(&self) -> Option<&Holder> {
        Some(&*self.overseer.as_ref()?.detached.as_ref()?.holder)
    }

    /// Holds nothing new any more for those who go.
    pub(super) fn refuse_new(&self) {
        if let Some(holder) = self.holder() {
            holder.refuse_new();
        }
    }

    /// Waits until nothing is held any more.
    pub(super) async fn nothing_held(&self) {
        if let Some(holder) = self.holder() {
            holder.idle().await;
            // who follows the last one is to hear how it ended
            if !holder.list().is_empty() {
                tokio::time::sleep(LAST_WORDS).await;
            }
        }
    }

    pub(super) async fn end(&self, how: Shutdown) {
        if let Some(holder) = self.holder() {
            holder.shutdown().await;
        }
        self.built_by.end(how).await;
    }
}

/// Has a server answer what is asked of the process itself.
pub(super) fn answering(server: Server, overseer: Option<&Arc<Overseer>>) -> Server {
    match overseer {
        Some(overseer) => server.with_controls(Arc::clone(overseer) as Arc<dyn Controls>),
        None => server,
    }
}

pub(super) fn keeper(opened: Opened) -> Arc<dyn Keeper> {
    match opened {
        Opened::Own(store) => store,
        Opened::Remote(store) => store,
    }
}

pub(super) fn policy(configuration: &Configuration) -> Policy {
    let settings = &configuration.settings;
    Policy {
        trusted_users: settings.trusted_users.clone(),
        allowed_users: settings.allowed_users.clone(),
        naming_users: settings.naming_users.clone(),
        build_users_group: Some(settings.build_users_group.clone()),
        substituters: settings.substituters.iter().map(ToString::to_string).collect(),
        trusted_substituters: settings
            .trusted_substituters
            .iter()
            .map(ToString::to_string)
            .collect(),
        substitute: substitute(settings),
        after_failure: match settings.keep_going {
            true => AfterFailure::KeepGoing,
            false => AfterFailure::Stop,
        },
        build: configuration.build_settings(),
    }
}
