//! The daemon that schedules what stock Nix's hooks have built: nothing is built on this machine, and
//! what was built waits beside the store.

mod awaited;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use drover_compat::Options;
use drover_daemon::{
    Limits, Listener, Machines, Need, Outlook, Policy, Server, Supervisor, TrustRule, Wait,
    sockets_from_systemd,
};
use drover_fleet::{MachineCondition, MachineView};
use drover_store::{Keeper, Realiser};
use drover_store_overlay::OverlayStore;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use self::awaited::{AwaitedSince, is_awaited, is_up};
use super::builds::{Askers, Builds};
use super::control::Overseer;
use super::daemon::Outside;
use super::served::{Outputs, Serving, answering, keeper, policy};
use super::signals::Signals;
use super::stamps::Stamp;
use super::{BuiltBy, NIX_VERSION, ThisMachine};
use crate::configuration::Configuration;
use crate::host::raise_file_limit;

/// For how long a build waits until it's known whether a machine can be used, where `connect-timeout` says nothing.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much longer than connecting may take a build waits, so that it's told why there is no connection.
const SLACK: Duration = Duration::from_secs(1);

/// How often it's looked whether machines have answered.
const LOOK: Duration = Duration::from_millis(20);

/// How often it's looked whether a file has changed, or a machine drains still.
const FOLLOW: Duration = Duration::from_secs(1);

/// The machines of a daemon for hooks, as they are now.
struct HookMachines {
    machine: ThisMachine,
    options: Options,
    store: Arc<dyn Keeper>,
    builds: Arc<Builds>,
    /// What the machines were read from.
    files: Vec<PathBuf>,
    read: Mutex<Vec<Stamp>>,
    awaited: Mutex<AwaitedSince>,
    /// For how long builds wait for machines.
    patience: watch::Receiver<Duration>,
    note: Note,
    /// Takes the newest policy.
    policy: watch::Sender<Arc<Policy>>,
}

/// Returns for how long builds wait until it's known whether a machine can be used, as `connect-timeout` is set.
fn patience(connect_timeout: Option<Duration>) -> Duration {
    connect_timeout.map_or(PATIENCE, |limit| limit.saturating_add(SLACK))
}

/// Takes note of the settings, whenever they were read.
pub(super) type Note = Arc<dyn Fn(&Configuration) + Send + Sync>;

impl HookMachines {
    /// Reads the machines and the settings anew if a file has changed: stock Nix reads them for each build.
    async fn refresh(&self) -> anyhow::Result<()> {
        let mut read = self.read.lock().await;
        let now = Stamp::of_all(&self.files);
        if *read == now {
            return Ok(());
        }
        // also where it's no good: it's told once, and read again when it has changed
        *read = now;
        let Options { overrides, .. } = &self.options;
        let configuration = Configuration::load_beside_nix(overrides, &self.machine.terminal)?;
        (self.note)(&configuration);
        self.policy.send_replace(Arc::new(policy(&configuration)));
        self.builds.reload(Arc::new(configuration), None)
    }

    /// As [`HookMachines::refresh`], with a warning where what is read is no good.
    async fn refresh_or_warn(&self) {
        if let Err(error) = self.refresh().await {
            self.machine.terminal.warn(&format!("the machines stay as they were: {error:#}"));
        }
    }

    /// Reads them anew whenever files change.
    async fn follow_files(&self) {
        loop {
            tokio::time::sleep(FOLLOW).await;
            self.refresh_or_warn().await;
        }
    }

    /// Returns the machines that could take a build as they are when one of them is up or all have answered, or
    /// as they are after so long: that machines were reached may be said of others that are up.
    async fn settled(&self, need: &Need, began: Instant, patience: Duration) -> Vec<MachineView> {
        loop {
            let views = self.fitting(need).await;
            let is_settled =
                views.iter().any(is_up) || !views.iter().any(|view| is_unanswered(view, began));
            if is_settled || patience <= began.elapsed() {
                return views;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Returns the machines that could take a build, as they are; all are taken note of.
    async fn fitting(&self, need: &Need) -> Vec<MachineView> {
        let mut views = self.builds.configured().machines().await;
        self.awaited.lock().await.note(&views, Instant::now());
        views.retain(|view| view.refuses(&need.system, &need.features).is_none());
        views
    }
}

#[async_trait]
impl Machines for HookMachines {
    async fn outlook(&self, need: &Need, patience: Duration) -> Outlook {
        self.refresh_or_warn().await;
        let (began, service) = (Instant::now(), self.builds.configured());
        let mut views = self.fitting(need).await;
        if !views.iter().any(is_up) && views.iter().any(is_unknown) {
            let patience = self.awaited.lock().await.patience(&views, Instant::now(), patience);
            let reached = service.reach(self.store.as_ref(), patience).await;
            if let Err(error) = reached {
                return Outlook::Unusable { reason: error.to_string() };
            }
            views = self.settled(need, began, patience).await;
        }
        let open = u32::try_from(service.census().await.open).unwrap_or(u32::MAX);
        let wait = match views.iter().any(|view| is_unanswered(view, began)) {
            true => Some(self.awaited.lock().await.wait_for(&views, Instant::now())),
            false => None,
        };
        prospect(&views, need, open, wait)
    }

    fn patience(&self) -> Duration {
        *self.patience.borrow()
    }
}

/// Returns what a build may hope for: from machines that are up, from those that may be in a moment, where any
/// hasn't answered yet (`wait`), or else from such as drain.
fn prospect(views: &[MachineView], need: &Need, open: u32, wait: Option<Wait>) -> Outlook {
    let sum =
        |count: &dyn Fn(&MachineView) -> u32| views.iter().map(count).fold(0, u32::saturating_add);
    let slots = sum(&|view| view.description.slots_for(&need.system, &need.features));
    if views.iter().any(is_up) {
        let free = sum(&|view| view.free_slots(&need.system, &need.features));
        return Outlook::Usable { slots, free, open };
    }
    let reason = troubles(views, need);
    if let Some(wait) = wait {
        return Outlook::Unknown { wait, trouble: reason };
    }
    match views.iter().any(|view| view.condition == MachineCondition::Draining) {
        true => Outlook::Draining { slots, open, reason },
        false => Outlook::Unusable { reason },
    }
}

/// Says why none of the machines can be used.
fn troubles(views: &[MachineView], need: &Need) -> String {
    if views.is_empty() {
        return format!("no machine that is listed builds for {}", need.system);
    }
    let troubles: Vec<String> = views.iter().map(trouble).collect();
    format!("no machine can be used now: {}", troubles.join("; "))
}

/// Whether it isn't known if a machine can be used: also where it has been left alone for long enough.
fn is_unknown(view: &MachineView) -> bool {
    match view.condition {
        MachineCondition::Down { again } => again.is_zero(),
        _ => is_awaited(view),
    }
}

/// Whether a machine hasn't answered since somebody has begun to wait for it. One that has failed meanwhile is
/// known to be down, though it's being tried again by now.
fn is_unanswered(view: &MachineView, began: Instant) -> bool {
    let waited = began.elapsed();
    let has_failed = view.last_failure.as_ref().is_some_and(|failure| failure.ago <= waited);
    is_awaited(view) && !has_failed
}

/// Says why a machine can't be used.
fn trouble(view: &MachineView) -> String {
    let name = &view.description.name;
    match (&view.condition, &view.last_failure) {
        (MachineCondition::Draining, _) => format!("'{name}' takes nothing new"),
        (_, Some(failure)) => {
            format!("'{name}' {} s ago: {}", failure.ago.as_secs(), failure.cause)
        }
        (_, None) => format!("'{name}' has not greeted yet"),
    }
}

/// What a daemon for hooks is told.
pub(crate) struct ForHooks<'a, R> {
    /// The files that its machines are read from.
    pub(crate) files: Vec<PathBuf>,
    /// Where it listens: a place that only this user can reach.
    pub(crate) socket: &'a Path,
    /// Beside what it answers questions of those who can't reach that place, if it does.
    pub(crate) questions: Option<PathBuf>,
    /// Takes note of the settings, whenever they were read.
    pub(crate) note: Arc<dyn Fn(&Configuration) + Send + Sync>,
    /// After how long without a client it ends.
    pub(crate) idle: Option<Duration>,
    /// Called when it listens.
    pub(crate) ready: R,
}

/// Runs the daemon that schedules the builds of hooks.
pub(super) async fn run<R: FnOnce()>(
    machine: &ThisMachine,
    options: &Options,
    hooks: ForHooks<'_, R>,
) -> anyhow::Result<()> {
    raise_file_limit();
    let supervisor = Supervisor::new(|name| std::env::var_os(name));
    let mut signals = Signals::new(supervisor.watchdog())?;
    let (serving, machines) = serving(machine, options, hooks.files, Arc::clone(&hooks.note))?;
    let mut listeners = sockets_from_systemd()?;
    let draft = match listeners.is_empty() {
        true => Some(Listener::draft(hooks.socket)?),
        false => None,
    };
    let unused = async {
        match hooks.idle {
            Some(idle) => unused(&serving, &machines.builds, idle).await,
            None => std::future::pending().await,
        }
    };
    // allowed-users counts for those who come without a build, too
    let until_unused = async {
        tokio::select! {
            () = unused => {}
            () = machines.follow_files() => {}
        }
    };
    // whoever finds the socket finds the other one, too
    let mut questions = serving.answer_questions(machine, hooks.socket, TrustRule::OwnUser);
    let mut of_others = match &hooks.questions {
        Some(beside) => serving.answer_questions(machine, beside, TrustRule::ByPolicy),
        None => JoinSet::new(),
    };
    if let Some(draft) = draft {
        listeners.push(draft.show()?);
    }
    (hooks.ready)();
    let outside = Outside { machine, options, serving: &serving, supervisor: &supervisor };
    let rule = TrustRule::OwnUser;
    outside.serve(listeners, rule, &mut signals, until_unused).await;
    questions.shutdown().await;
    of_others.shutdown().await;
    Ok(())
}

/// Waits until nobody has needed the daemon for so long. While a machine drains somebody does: the next daemon would
/// know nothing of it.
async fn unused(serving: &Serving, builds: &Builds, idle: Duration) {
    loop {
        serving.server.unused_for(idle).await;
        if !builds.is_draining().await {
            return;
        }
        tokio::time::sleep(FOLLOW).await;
    }
}

/// Returns what serves hooks, whose machines are read from these files.
fn serving(
    machine: &ThisMachine,
    options: &Options,
    files: Vec<PathBuf>,
    note: Note,
) -> anyhow::Result<(Serving, Arc<HookMachines>)> {
    let configuration = Configuration::load_beside_nix(&options.overrides, &machine.terminal)?;
    note(&configuration);
    let read = Mutex::new(Stamp::of_all(&files));
    let store = keeper(machine.open(None, &configuration)?);
    let (policy, policies) = watch::channel(Arc::new(policy(&configuration)));
    let (set_patience, patience) = watch::channel(patience(configuration.set_connect_timeout()));
    let note: Note = Arc::new(move |configuration| {
        note(configuration);
        set_patience.send_replace(self::patience(configuration.set_connect_timeout()));
    });
    let builds =
        Arc::new(Builds::new(machine, Askers::Hooks, Arc::new(configuration), (None, None))?);
    let machines = Arc::new(HookMachines {
        machine: machine.clone(),
        options: options.clone(),
        store: Arc::clone(&store),
        builds: Arc::clone(&builds),
        files,
        read,
        awaited: Mutex::default(),
        patience,
        note: Arc::clone(&note),
        policy: policy.clone(),
    });
    let realiser = Arc::clone(&builds) as Arc<dyn Realiser>;
    let (limits, version) = (Limits::default(), NIX_VERSION.to_owned());
    let store_dir = store.store_dir().clone();
    let overlay = OverlayStore::new(Arc::clone(&store));
    let overseer = Arc::new(Overseer {
        builds: Arc::clone(&builds),
        policy: policy.subscribe(),
        store_dir,
        detached: None,
    });
    let over: Arc<dyn Keeper> = Arc::new(overlay.over(store));
    let keeper = watch::Sender::new(Arc::clone(&over));
    let server = Server::new(over, realiser, policies, limits, version)
        .with_machines(Arc::clone(&machines) as Arc<dyn Machines>);
    let (built_by, overseer) = (BuiltBy::ThisProcess(builds), Some(overseer));
    let server = answering(server, overseer.as_ref());
    let outputs = Outputs::Aside(overlay);
    let serving = Serving { server, outputs, policy, built_by, overseer, keeper, note: Some(note) };
    Ok((serving, machines))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use drover_schedule::{Bandwidth, Machine, MachineKind};

    use super::*;

    /// Returns a machine that nobody has needed so far.
    pub(super) fn unused(name: &str) -> MachineView {
        let description = Machine {
            name: name.to_owned(),
            kind: MachineKind::Remote,
            systems: BTreeSet::from(["x86_64-linux".to_owned()]),
            slots: 2,
            speed_factor: 1.0,
            supported_features: BTreeSet::new(),
            mandatory_features: BTreeSet::new(),
            round_trip: Duration::ZERO,
            bandwidth: Bandwidth(0),
            other_terms: Vec::new(),
        };
        let condition = MachineCondition::Unused;
        MachineView { description, condition, busy: 0, queued: 0, last_failure: None }
    }

    /// Whoever lets machines take longer isn't told before that they can't be used, and who wants to know sooner
    /// doesn't wait.
    #[test]
    fn builds_wait_as_long_as_connecting_may_take() {
        assert_eq!(patience(None), Duration::from_secs(30));
        assert_eq!(patience(Some(Duration::from_secs(120))), Duration::from_secs(121));
        assert_eq!(patience(Some(Duration::from_secs(3))), Duration::from_secs(4));
        assert_eq!(patience(Some(Duration::MAX)), Duration::MAX);
    }

    /// Somebody has said that it drains, and will say that it doesn't: what only it could take waits.
    #[test]
    fn a_machine_that_drains_is_not_one_that_is_down() {
        let need = Need { system: "x86_64-linux".to_owned(), ..Need::default() };
        let view = |condition| MachineView { condition, ..unused("b1") };
        let drains = || view(MachineCondition::Draining);
        let expected = Outlook::Draining {
            slots: 2,
            open: 7,
            reason: "no machine can be used now: 'b1' takes nothing new".to_owned(),
        };
        assert_eq!(prospect(&[drains()], &need, 7, None), expected);
        let up = [drains(), view(MachineCondition::Connected)];
        assert!(matches!(prospect(&up, &need, 7, None), Outlook::Usable { free: 2, .. }));
        // one that may be up in a moment is better
        let both = [drains(), unused("b1")];
        let soon = prospect(&both, &need, 7, Some(Wait::Worthwhile));
        assert!(matches!(soon, Outlook::Unknown { wait: Wait::Worthwhile, .. }), "{soon:?}");
        assert!(matches!(prospect(&[], &need, 7, None), Outlook::Unusable { .. }));
    }

    /// One that is being tried again is still told to be down, with what it said.
    #[test]
    fn what_is_known_of_a_machine_stays_known() {
        let failure = drover_fleet::MachineFailure {
            fault: drover_schedule::MachineFault::Unreachable,
            cause: "Connection refused".to_owned(),
            ago: Duration::from_secs(3),
        };
        let again = MachineView {
            condition: MachineCondition::Connecting,
            last_failure: Some(failure),
            ..unused("b1")
        };
        let told = troubles(&[again, unused("b2")], &Need::default());
        let expected = "no machine can be used now: 'b1' 3 s ago: Connection refused; 'b2' has not greeted yet";
        assert_eq!(told, expected);
    }
}
