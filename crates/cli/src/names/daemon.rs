//! The daemon: who listens, who is trusted, who builds; reloading and stopping.

use std::path::{Path, PathBuf};

use drover_compat::{
    ClientTrust, CompatError, DaemonRequest, ExitStatus, Listen, Operations, Options,
};
use drover_daemon::{
    Client, Forwarder, Limits, Listener, Stdio, Stop, Supervisor, SupervisorState, TrustRule,
    relay, sockets_from_systemd, stdio,
};
use drover_fleet::Shutdown;
use drover_store::Store as _;
use drover_store_local::Place;
use drover_store_remote::{RemoteStore, Wire};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::ahead::{Passing, daemon_ahead, pass_on};
use super::served::{Scheduling, Serving};
use super::signals::{Signal, Signals};
use super::{NIX_VERSION, Opened, ThisMachine, failed};
use crate::configuration::Configuration;
use crate::host::raise_file_limit;
use crate::own_store;
use crate::standing::Standing;

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
            raise_file_limit();
            on_socket(machine, request, configuration, options).await
        }
    }
    .map_err(|error| failed(&error))
}

async fn on_stdio(
    machine: &ThisMachine,
    request: DaemonRequest,
    configuration: Configuration,
    options: &Options,
) -> anyhow::Result<ExitStatus> {
    let mut wires = stdio()?;
    let opened = machine.open(None, &configuration)?;
    if request.operations == Operations::Forwarded
        && request.trust == ClientTrust::Default
        && let Some(ahead) = daemon_ahead(&opened, &configuration)
    {
        match pass_on(wires, ahead).await {
            Ok(()) => return Ok(ExitStatus::SUCCESS),
            Err(Passing::Broken(error)) => return Err(error.into()),
            Err(Passing::Nobody(back)) => wires = back,
        }
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
    let client = Client::new(None, trust);
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
    let at = listeners.iter().find_map(Listener::path).unwrap_or_else(|| socket.clone());
    refuse_oneself(&configuration, &at)?;
    if configuration.settings.trusted_users.iter().any(|user| user == "*") {
        let text = "by 'trusted-users = *' whoever may connect may do all that root may";
        machine.terminal.warn(text);
    }
    let opened = machine.open(None, &configuration)?;
    let state = prepare(machine, &opened).await;
    let serving = Serving::new(machine, opened, configuration, Scheduling::Own)?;
    let draft = match listeners.is_empty() {
        true => Some(Listener::draft(&socket)?),
        false => None,
    };
    // whoever finds the socket finds all that goes with it
    let standing = state.and_then(|state| place(machine, &state));
    let rule = rule_of(request.trust);
    let mut questions = serving.answer_questions(machine, &at, rule);
    if let Some(draft) = draft {
        listeners.push(draft.show()?);
    }
    let _standing = standing.and_then(|standing| announce(machine, standing, &at));
    let outside = Outside { machine, options, serving: &serving, supervisor: &supervisor };
    outside.serve(listeners, rule, &mut signals, std::future::pending()).await;
    questions.shutdown().await;
    Ok(ExitStatus::SUCCESS)
}

/// Refuses to serve what is behind the daemon's own socket: each of its connections would be a client
/// of itself.
fn refuse_oneself(configuration: &Configuration, socket: &Path) -> anyhow::Result<()> {
    let store = &configuration.settings.store;
    match own_store::place(store)? {
        Some(Place::Daemon(other)) if other == socket => anyhow::bail!(
            "'{store}' is what this daemon would serve at '{}' itself: set NIX_REMOTE, 'store' or \
             '--store' to 'local'",
            socket.display()
        ),
        _ => Ok(()),
    }
}

/// Makes a store of our own where it is absent, and returns its state directory.
async fn prepare(machine: &ThisMachine, opened: &Opened) -> Option<PathBuf> {
    let Opened::Own(store) = opened else { return None };
    if let Err(error) = store.connect().await {
        let error = anyhow::Error::from(error);
        machine.terminal.warn(&format!("the store can't be used as it is: {error:#}"));
    }
    Some(store.layout().state.clone())
}

fn rule_of(trust: ClientTrust) -> TrustRule {
    match trust {
        ClientTrust::Default => TrustRule::ByPolicy,
        ClientTrust::Forced => TrustRule::Forced(drover_daemon::ClientTrust::Trusted),
        ClientTrust::Refused => TrustRule::Forced(drover_daemon::ClientTrust::NotTrusted),
    }
}

/// Takes the place of the daemon that stands before the store, unless another one has it.
fn place(machine: &ThisMachine, state: &Path) -> Option<Standing> {
    Standing::take(state).unwrap_or_else(|error| {
        warn_of_builds_beside(machine, &error);
        None
    })
}

/// Says that this daemon stands there, and where it listens.
fn announce(machine: &ThisMachine, standing: Standing, socket: &Path) -> Option<Standing> {
    let announced = standing.announce(socket);
    announced.inspect_err(|error| warn_of_builds_beside(machine, error)).ok()
}

fn warn_of_builds_beside(machine: &ThisMachine, error: &std::io::Error) {
    let what = "others on this machine will build beside this daemon, not through it";
    machine.terminal.warn(&format!("{what}: {error}"));
}

/// What is done of what the daemon is told from outside.
pub(super) struct Outside<'a> {
    pub(super) machine: &'a ThisMachine,
    pub(super) options: &'a Options,
    pub(super) serving: &'a Serving,
    pub(super) supervisor: &'a Supervisor,
}

impl Outside<'_> {
    /// Serves who comes, until the daemon is told to stop or `unused` says that nobody needs it.
    pub(super) async fn serve(
        &self,
        listeners: Vec<Listener>,
        rule: TrustRule,
        signals: &mut Signals,
        unused: impl Future<Output = ()>,
    ) {
        let mut tasks = JoinSet::new();
        let mut stops = Vec::new();
        for listener in listeners {
            let (stop, stopped) = oneshot::channel();
            stops.push(stop);
            let server = self.serving.server.clone();
            tasks.spawn(listener.run(server, rule, async { stopped.await.unwrap_or(Stop::Now) }));
        }
        self.tell(SupervisorState::Ready).await;
        let how = tokio::select! {
            how = self.until_stopped(signals) => how,
            () = unused => Stop::Now,
        };
        self.tell(SupervisorState::Stopping).await;
        for stop in stops {
            // a listener that has ended needs no telling
            stop.send(how).ok();
        }
        self.end(how, tasks, signals).await;
    }

    /// Does what the daemon is told, until that is to stop.
    async fn until_stopped(&self, signals: &mut Signals) -> Stop {
        loop {
            match signals.next().await {
                Signal::Alive => self.tell(SupervisorState::Alive).await,
                Signal::Reload => {
                    self.tell(SupervisorState::Reloading).await;
                    if let Err(error) = self.serving.reload(self.machine, self.options) {
                        let text = format!("the settings stay as they were: {error:#}");
                        self.machine.terminal.warn(&text);
                    }
                    self.tell(SupervisorState::Ready).await;
                }
                Signal::Stop(how) => return how,
            }
        }
    }

    /// Waits until all has ended, here and on the machines.
    async fn end(&self, how: Stop, mut listeners: JoinSet<()>, signals: &mut Signals) {
        self.serving.refuse_new();
        let ended = async {
            while listeners.join_next().await.is_some() {}
            if matches!(how, Stop::Drain(_)) {
                self.serving.nothing_held().await;
            }
        };
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
                Signal::Alive => self.tell(SupervisorState::Alive).await,
                Signal::Stop(Stop::Now) => return,
                Signal::Stop(Stop::Drain(_)) | Signal::Reload => {}
            }
        }
    }

    async fn tell(&self, state: SupervisorState) {
        let told = match state {
            // the next one comes soon
            SupervisorState::Alive => self.supervisor.tell(state),
            _ => self.supervisor.tell_in_time(state).await,
        };
        if let Err(error) = told {
            self.machine.terminal.warn(&format!("the service manager can't be told: {error}"));
        }
    }
}
