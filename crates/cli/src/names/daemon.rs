//! The daemon: who listens, who is trusted, who builds; reloading and stopping.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use drover_compat::{
    ClientTrust, CompatError, DaemonRequest, ExitStatus, Listen, Operations, Options, ServeAccess,
};
use drover_config::Scheme;
use drover_daemon::{
    Client, Forwarder, Limits, Listener, Policy, ServeServer, Server, Stdio, Stop, Supervisor,
    SupervisorState, TrustRule, WriteAccess, relay, sockets_from_systemd, stdio,
};
use drover_fleet::Shutdown;
use drover_store::{AfterFailure, Keeper, RealiseEvent, RealiseObserver, Store as _};
use drover_store_remote::{RemoteStore, Wire};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::builds::Builds;
use super::signals::{Signal, Signals};
use super::{BuiltBy, NIX_VERSION, Opened, ThisMachine, failed};
use crate::builders::substitute;
use crate::configuration::Configuration;
use crate::standing::{Standing, daemon_of};
use crate::terminal::Terminal;

/// Who schedules what clients have built, where the store is at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheduling {
    /// The daemon that stands before the store, if there is one.
    Shared,
    /// This process, which is to stand there.
    Own,
}

/// What serves clients.
struct Serving {
    server: Server,
    /// Sends the newest policy.
    policy: watch::Sender<Arc<Policy>>,
    built_by: BuiltBy,
}

impl Serving {
    fn new(
        machine: &ThisMachine,
        opened: Opened,
        configuration: Configuration,
        scheduling: Scheduling,
    ) -> anyhow::Result<Serving> {
        let (policy, policies) = watch::channel(Arc::new(policy(&configuration)));
        let built_by = match (&opened, scheduling) {
            (Opened::Own(store), Scheduling::Own) => {
                let builds = Builds::new(machine, Arc::new(configuration), store)?;
                BuiltBy::ThisProcess(Arc::new(builds))
            }
            _ => machine.built_by(&opened, configuration)?,
        };
        let (realiser, version) = (built_by.realiser(), NIX_VERSION.to_owned());
        let server = Server::new(keeper(opened), realiser, policies, Limits::default(), version);
        Ok(Serving { server, policy, built_by })
    }

    /// Reads the settings and the machines anew. Builds go on; who connects from now on finds the
    /// store as it is configured now.
    fn reload(&self, machine: &ThisMachine, options: &Options) -> anyhow::Result<()> {
        let configuration = Arc::new(Configuration::load(&options.overrides, &machine.terminal)?);
        let opened = machine.open(None, &configuration)?;
        if let (BuiltBy::ThisProcess(builds), Opened::Own(store)) = (&self.built_by, &opened) {
            builds.reload(Arc::clone(&configuration), store)?;
        }
        self.server.replace_store(keeper(opened));
        self.policy.send_replace(Arc::new(policy(&configuration)));
        Ok(())
    }

    async fn end(&self, how: Shutdown) {
        self.built_by.end(how).await;
    }
}

fn keeper(opened: Opened) -> Arc<dyn Keeper> {
    match opened {
        Opened::Own(store) => store,
        Opened::Remote(store) => store,
    }
}

fn policy(configuration: &Configuration) -> Policy {
    let settings = &configuration.settings;
    Policy {
        trusted_users: settings.trusted_users.clone(),
        allowed_users: settings.allowed_users.clone(),
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

/// Runs a daemon, on its socket or on standard input and output.
pub(super) async fn run(
    machine: &ThisMachine,
    request: DaemonRequest,
    options: &Options,
) -> Result<ExitStatus, CompatError> {
    let configuration = machine.configuration(options)?;
    match request.listen {
        Listen::Stdio => on_stdio(machine, request, configuration, options).await,
        Listen::Socket => {
            raise_file_limit(&machine.terminal);
            on_socket(machine, request, configuration, options).await
        }
    }
    .map_err(|error| failed(&error))
}

/// Returns where the daemon may listen to which a connection is to be passed on: the one that stands
/// before the store, or the usual one, so that all builds go through one scheduler.
fn daemon_ahead(opened: &Opened, configuration: &Configuration) -> Option<PathBuf> {
    if let Opened::Own(store) = opened
        && let Some(socket) = daemon_of(&store.layout().state)
    {
        return Some(socket);
    }
    let store = &configuration.settings.store;
    let usual = *store.scheme() == Scheme::Auto && store.params().is_empty();
    usual.then(|| configuration.host.daemon_socket())
}

async fn on_stdio(
    machine: &ThisMachine,
    request: DaemonRequest,
    configuration: Configuration,
    options: &Options,
) -> anyhow::Result<ExitStatus> {
    let wires = stdio()?;
    let opened = machine.open(None, &configuration)?;
    if request.operations == Operations::Forwarded
        && request.trust == ClientTrust::Default
        && let Some(socket) = daemon_ahead(&opened, &configuration)
        && let Ok(daemon) = UnixStream::connect(socket).await
    {
        let (input, output) = daemon.into_split();
        relay(wires, Stdio { input: Box::new(input), output: Box::new(output) }).await?;
        return Ok(ExitStatus::SUCCESS);
    }
    // a store that is another daemon's is best asked of that daemon
    if request.trust != ClientTrust::Refused
        && let Opened::Remote(store) = &opened
        && let Some(Wire { reader, writer, keep_alive, .. }) = store.dial().await?
    {
        let daemon = Stdio { input: reader, output: writer };
        match request.operations {
            Operations::Forwarded => relay(wires, daemon).await?,
            Operations::Processed => forwarder(store, options).run(wires, daemon).await?,
        }
        drop(keep_alive);
        return Ok(ExitStatus::SUCCESS);
    }
    let serving = Serving::new(machine, opened, configuration, Scheduling::Shared)?;
    let trust = match request.trust {
        ClientTrust::Default | ClientTrust::Forced => drover_daemon::ClientTrust::Trusted,
        ClientTrust::Refused => drover_daemon::ClientTrust::NotTrusted,
    };
    let client = Client { user: None, trust };
    let served = serving.server.serve(client, wires.input, wires.output).await;
    serving.end(Shutdown::Cancel).await;
    served?;
    Ok(ExitStatus::SUCCESS)
}

fn forwarder(store: &RemoteStore, options: &Options) -> Forwarder {
    Forwarder {
        limits: Limits::default(),
        nix_version: NIX_VERSION.to_owned(),
        store_dir: store.store_dir().clone(),
        verbosity: u64::from(options.verbosity.0),
    }
}

async fn on_socket(
    machine: &ThisMachine,
    request: DaemonRequest,
    configuration: Configuration,
    options: &Options,
) -> anyhow::Result<ExitStatus> {
    let supervisor = Supervisor::new(|name| std::env::var_os(name));
    let mut signals = Signals::new(supervisor.watchdog())?;
    let mut listeners = sockets_from_systemd()?;
    let socket = configuration.host.daemon_socket();
    let opened = machine.open(None, &configuration)?;
    let state = match &opened {
        Opened::Own(store) => {
            // makes it where it is absent
            if let Err(error) = store.connect().await {
                let error = anyhow::Error::from(error);
                machine.terminal.warn(&format!("the store can't be used as it is: {error:#}"));
            }
            Some(store.layout().state.clone())
        }
        Opened::Remote(_) => None,
    };
    let serving = Serving::new(machine, opened, configuration, Scheduling::Own)?;
    if listeners.is_empty() {
        listeners.push(Listener::bind(&socket)?);
    }
    let at = listeners.iter().find_map(Listener::path).unwrap_or(socket);
    let _standing = state.and_then(|state| stand(machine, &state, &at));
    let rule = rule_of(request.trust);
    let mut tasks = JoinSet::new();
    let mut stops = Vec::new();
    for listener in listeners {
        let (stop, stopped) = oneshot::channel();
        stops.push(stop);
        let server = serving.server.clone();
        tasks.spawn(listener.run(server, rule, async { stopped.await.unwrap_or(Stop::Now) }));
    }
    let outside = Outside { machine, options, serving: &serving, supervisor: &supervisor };
    outside.tell(SupervisorState::Ready);
    let how = outside.until_stopped(&mut signals).await;
    outside.tell(SupervisorState::Stopping);
    for stop in stops {
        // a listener that has ended needs no telling
        stop.send(how).ok();
    }
    outside.end(how, tasks, &mut signals).await;
    Ok(ExitStatus::SUCCESS)
}

fn rule_of(trust: ClientTrust) -> TrustRule {
    match trust {
        ClientTrust::Default => TrustRule::ByPolicy,
        ClientTrust::Forced => TrustRule::Forced(drover_daemon::ClientTrust::Trusted),
        ClientTrust::Refused => TrustRule::Forced(drover_daemon::ClientTrust::NotTrusted),
    }
}

/// Says that this daemon stands before the store, unless another one does.
fn stand(machine: &ThisMachine, state: &Path, socket: &Path) -> Option<Standing> {
    Standing::announce(state, socket).unwrap_or_else(|error| {
        let what = "others on this machine will build beside this daemon, not through it";
        machine.terminal.warn(&format!("{what}: {error}"));
        None
    })
}

/// What is done of what the daemon is told from outside.
struct Outside<'a> {
    machine: &'a ThisMachine,
    options: &'a Options,
    serving: &'a Serving,
    supervisor: &'a Supervisor,
}

impl Outside<'_> {
    /// Does what the daemon is told, until that is to stop.
    async fn until_stopped(&self, signals: &mut Signals) -> Stop {
        loop {
            match signals.next().await {
                Signal::Alive => self.tell(SupervisorState::Alive),
                Signal::Reload => {
                    self.tell(SupervisorState::Reloading);
                    if let Err(error) = self.serving.reload(self.machine, self.options) {
                        let text = format!("the settings stay as they were: {error:#}");
                        self.machine.terminal.warn(&text);
                    }
                    self.tell(SupervisorState::Ready);
                }
                Signal::Stop(how) => return how,
            }
        }
    }

    /// Waits until all has ended, here and on the machines.
    async fn end(&self, how: Stop, mut listeners: JoinSet<()>, signals: &mut Signals) {
        let ended = async { while listeners.join_next().await.is_some() {} };
        match how {
            Stop::Now => {
                self.serving.end(Shutdown::Cancel).await;
                ended.await;
            }
            Stop::Drain(_) => {
                tokio::select! {
                    () = ended => {}
                    () = self.until_stopped_now(signals) => {}
                }
                self.serving.end(Shutdown::Cancel).await;
            }
        }
    }

    /// Waits for the word to stop at once, while what is under way ends. No other counts.
    async fn until_stopped_now(&self, signals: &mut Signals) {
        loop {
            match signals.next().await {
                Signal::Alive => self.tell(SupervisorState::Alive),
                Signal::Stop(Stop::Now) => return,
                Signal::Stop(Stop::Drain(_)) | Signal::Reload => {}
            }
        }
    }

    fn tell(&self, state: SupervisorState) {
        if let Err(error) = self.supervisor.tell(state) {
            self.machine.terminal.warn(&format!("the service manager can't be told: {error}"));
        }
    }
}

/// Lets the daemon have as many files open as it may: each client and each path that is being added
/// takes some, and the usual limit is made for programs that serve nobody.
fn raise_file_limit(terminal: &Terminal) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        terminal.warn(&format!("the limit of open files stays as it is: {error}"));
    }
}

/// Speaks the serve protocol on standard input and output.
pub(super) async fn serve(
    machine: &ThisMachine,
    access: ServeAccess,
    options: &Options,
) -> Result<ExitStatus, CompatError> {
    let configuration = machine.configuration(options)?;
    let opened = machine.open(None, &configuration).map_err(|error| failed(&error))?;
    let serving = Serving::new(machine, opened, configuration, Scheduling::Shared);
    let serving = serving.map_err(|error| failed(&error))?;
    let write = match access {
        ServeAccess::Read => WriteAccess::Denied,
        ServeAccess::Write => WriteAccess::Allowed,
    };
    let server = ServeServer::new(&serving.server, write, Arc::new(OnStandardError));
    let wires = stdio().map_err(|error| failed(&error.into()))?;
    let served = server.serve(wires.input, wires.output).await;
    serving.end(Shutdown::Cancel).await;
    match served {
        Ok(()) => Ok(ExitStatus::SUCCESS),
        Err(error) => Err(CompatError::Failed { message: error.to_string() }),
    }
}

/// Writes the logs of builds to standard error, where clients of the serve protocol expect them.
struct OnStandardError;

impl RealiseObserver for OnStandardError {
    fn event(&self, event: RealiseEvent) {
        let line = match event {
            RealiseEvent::Line { line, .. } => line,
            RealiseEvent::Note(note) => note,
            _ => return,
        };
        // with nobody to read it there is nobody to tell
        drop(std::io::Write::write_all(
            &mut std::io::stderr().lock(),
            format!("{line}\n").as_bytes(),
        ));
    }
}
