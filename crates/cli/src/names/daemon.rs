//! The daemon: who listens, who is trusted, who builds; reloading and stopping.

use std::sync::Arc;
use std::time::Duration;

use drover_compat::{
    ClientTrust, CompatError, DaemonRequest, ExitStatus, Listen, Operations, Options, ServeAccess,
};
use drover_config::Scheme;
use drover_daemon::{
    Client, Limits, Listener, Policy, ServeServer, Server, Stop, Supervisor, SupervisorState,
    TrustRule, WriteAccess, relay, sockets_from_systemd, stdio,
};
use drover_fleet::{Service, ServiceOptions, Shutdown};
use drover_store::{AfterFailure, Keeper, RealiseEvent, RealiseObserver, Realiser};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::{NIX_VERSION, Opened, ThisMachine, failed};
use crate::builders::substitute;
use crate::configuration::Configuration;
use crate::terminal::Terminal;

/// How long a stop that was asked for with patience waits for what is under way.
const DRAIN: Duration = Duration::from_secs(24 * 3600);

/// What serves clients.
struct Serving {
    server: Server,
    /// Sends the newest policy.
    policy: watch::Sender<Arc<Policy>>,
    /// What builds, on other machines.
    service: Arc<Service>,
}

impl Serving {
    fn new(machine: &ThisMachine, configuration: &Configuration) -> anyhow::Result<Serving> {
        let (policy, policies) = watch::channel(Arc::new(policy(configuration)));
        let keeper: Arc<dyn Keeper> = match machine.open(None, configuration)? {
            Opened::Own(store) => store,
            Opened::Remote(store) => store,
        };
        let service = Arc::new(machine.service(configuration)?);
        let realiser = Arc::clone(&service) as Arc<dyn Realiser>;
        let version = NIX_VERSION.to_owned();
        let server = Server::new(keeper, realiser, policies, Limits::default(), version);
        Ok(Serving { server, policy, service })
    }

    /// Reads the settings and the machines anew. Builds go on.
    fn reload(&self, machine: &ThisMachine, options: &Options) -> anyhow::Result<()> {
        let configuration = Configuration::load(&options.overrides, &machine.terminal)?;
        self.service.reload(machine.machines(&configuration)?, ServiceOptions::default());
        self.policy.send_replace(Arc::new(policy(&configuration)));
        Ok(())
    }

    async fn end(&self, how: Shutdown) {
        self.service.shutdown(how).await;
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
        Listen::Stdio => on_stdio(machine, request, &configuration).await,
        Listen::Socket => {
            raise_file_limit(&machine.terminal);
            on_socket(machine, request, &configuration, options).await
        }
    }
    .map_err(|error| failed(&error))
}

async fn on_stdio(
    machine: &ThisMachine,
    request: DaemonRequest,
    configuration: &Configuration,
) -> anyhow::Result<ExitStatus> {
    let wires = stdio()?;
    // where a daemon runs it is asked, so that all builds go through one scheduler
    let usual = *configuration.settings.store.scheme() == Scheme::Auto
        && configuration.settings.store.params().is_empty();
    if usual
        && request.operations == Operations::Forwarded
        && request.trust == ClientTrust::Default
        && let Ok(daemon) = UnixStream::connect(configuration.host.daemon_socket()).await
    {
        relay(wires.input, wires.output, daemon).await?;
        return Ok(ExitStatus::SUCCESS);
    }
    let serving = Serving::new(machine, configuration)?;
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

async fn on_socket(
    machine: &ThisMachine,
    request: DaemonRequest,
    configuration: &Configuration,
    options: &Options,
) -> anyhow::Result<ExitStatus> {
    let mut signals = Signals::new()?;
    let mut listeners = sockets_from_systemd()?;
    let serving = Serving::new(machine, configuration)?;
    if listeners.is_empty() {
        listeners.push(Listener::bind(&configuration.host.daemon_socket())?);
    }
    let rule = match request.trust {
        ClientTrust::Default => TrustRule::ByPolicy,
        ClientTrust::Forced => TrustRule::Forced(drover_daemon::ClientTrust::Trusted),
        ClientTrust::Refused => TrustRule::Forced(drover_daemon::ClientTrust::NotTrusted),
    };
    let supervisor = Supervisor::new(|name| std::env::var_os(name));
    let mut tasks = JoinSet::new();
    let mut stops = Vec::new();
    for listener in listeners {
        let (stop, stopped) = oneshot::channel();
        stops.push(stop);
        let server = serving.server.clone();
        tasks.spawn(listener.run(server, rule, async { stopped.await.unwrap_or(Stop::Now) }));
    }
    tell(&machine.terminal, &supervisor, SupervisorState::Ready);
    let how = until_stopped(machine, options, &serving, &supervisor, &mut signals).await;
    tell(&machine.terminal, &supervisor, SupervisorState::Stopping);
    for stop in stops {
        // a listener that has ended needs no telling
        stop.send(how).ok();
    }
    let ended = async { while tasks.join_next().await.is_some() {} };
    match how {
        Stop::Now => {
            serving.end(Shutdown::Cancel).await;
            ended.await;
        }
        Stop::Drain(_) => {
            tokio::select! {
                () = ended => {}
                // a second word means it
                _ = signals.next(None) => {}
            }
            serving.end(Shutdown::Cancel).await;
        }
    }
    Ok(ExitStatus::SUCCESS)
}

/// Does what the daemon is told from outside, until that is to stop.
async fn until_stopped(
    machine: &ThisMachine,
    options: &Options,
    serving: &Serving,
    supervisor: &Supervisor,
    signals: &mut Signals,
) -> Stop {
    loop {
        match signals.next(supervisor.watchdog()).await {
            Signal::Alive => tell(&machine.terminal, supervisor, SupervisorState::Alive),
            Signal::Reload => {
                tell(&machine.terminal, supervisor, SupervisorState::Reloading);
                if let Err(error) = serving.reload(machine, options) {
                    machine.terminal.warn(&format!("the settings stay as they were: {error:#}"));
                }
                tell(&machine.terminal, supervisor, SupervisorState::Ready);
            }
            Signal::Stop(how) => return how,
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

fn tell(terminal: &Terminal, supervisor: &Supervisor, state: SupervisorState) {
    if let Err(error) = supervisor.tell(state) {
        terminal.warn(&format!("the service manager can't be told: {error}"));
    }
}

/// What a daemon is told from outside.
enum Signal {
    /// SIGHUP: settings have changed.
    Reload,
    /// SIGTERM or SIGINT: now; SIGUSR1: when what is under way has ended.
    Stop(Stop),
    /// Time to say that all is well.
    Alive,
}

struct Signals {
    hangup: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    drain: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            drain: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self, alive: Option<Duration>) -> Signal {
        let tick = async {
            match alive {
                Some(period) => tokio::time::sleep(period).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.interrupt.recv() => Signal::Stop(Stop::Now),
            _ = self.terminate.recv() => Signal::Stop(Stop::Now),
            _ = self.drain.recv() => Signal::Stop(Stop::Drain(DRAIN)),
            () = tick => Signal::Alive,
        }
    }
}

/// Speaks the serve protocol on standard input and output.
pub(super) async fn serve(
    machine: &ThisMachine,
    access: ServeAccess,
    options: &Options,
) -> Result<ExitStatus, CompatError> {
    let configuration = machine.configuration(options)?;
    let serving = Serving::new(machine, &configuration).map_err(|error| failed(&error))?;
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
