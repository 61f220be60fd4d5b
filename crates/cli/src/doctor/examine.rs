//! One machine, step by step.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use drover_config::Machine;
use drover_doctor::checks::protocol::Greeter;
use drover_doctor::checks::{
    build, clock, disk, overdue, program, protocol, quiet, substituters, system, trust,
};
use drover_doctor::{MachineReport, MachineSettings, StepName, Target, Verdict};
use drover_store::{Description, Store as _, StoreError, Trust};
use drover_store_remote::{Address, Program, RemoteStore};
use tokio::time::timeout;

use super::chart::{Chart, timed};
use super::way::Way;
use super::{login, noop, own};
use crate::address::whole_address;
use crate::configuration::Configuration;
use crate::connector::Connector;

/// How long the build may take, and the way of its output back: it does nothing, but a machine may
/// be busy.
const BUILD_LIMIT: Duration = Duration::from_secs(120);

/// What all examinations have in common.
pub(crate) struct Surroundings {
    pub(crate) connector: Connector,
    /// How long a step may take.
    pub(crate) limit: Duration,
    /// Who runs `ssh` here.
    pub(crate) user: String,
    configuration: Configuration,
    knocks: login::Knocks,
}

impl Surroundings {
    /// Returns what is configured.
    pub(crate) fn of(configuration: &Configuration, connector: Connector) -> Surroundings {
        Surroundings {
            connector,
            limit: configuration.connect_timeout(),
            user: user(),
            configuration: configuration.clone(),
            knocks: login::Knocks::default(),
        }
    }

    fn fetching(&self) -> substituters::Fetching {
        match self.configuration.settings.builders_use_substitutes {
            true => substituters::Fetching::ByMachines,
            false => substituters::Fetching::FromHere,
        }
    }
}

/// Returns the name of this process's user, or its number.
fn user() -> String {
    let uid = rustix::process::geteuid();
    let name = fs_err::read_to_string("/etc/passwd").ok().and_then(|text| {
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(uid.as_raw())).then(|| name.to_owned())
        })
    });
    name.unwrap_or_else(|| uid.as_raw().to_string())
}

/// Examines a machine.
pub(crate) async fn examine(machine: &Machine, surroundings: &Surroundings) -> MachineReport {
    let mut chart = Chart::default();
    // where a step went wrong the rest isn't reached
    go_through(machine, surroundings, &mut chart).await;
    MachineReport {
        store: machine.store_uri.to_string(),
        origin: machine.origin.to_string(),
        steps: chart.finish(),
    }
}

async fn go_through(
    machine: &Machine,
    surroundings: &Surroundings,
    chart: &mut Chart,
) -> Option<()> {
    let socket = surroundings.configuration.host.daemon_socket();
    let address = match whole_address(machine, &socket) {
        Ok(address) => address,
        Err(error) => {
            let remedy = "write ssh-ng://HOST in column 1 of its line";
            return chart.note(StepName::Name, None, Verdict::wrong(error.to_string(), remedy));
        }
    };
    let name = machine.store_uri.to_string();
    let store_dir = &surroundings.configuration.store_dir;
    let store = surroundings.connector.open(&name, store_dir, &address, &Default::default());
    let mut subject = Subject { machine, surroundings, target: Target::default(), store };
    let (way, program, user) = match &address {
        Address::Ssh(ssh, program) => {
            let way = surroundings.connector.log_in(&name, ssh.clone());
            subject.target = login::target(ssh);
            let limits = (&surroundings.knocks, surroundings.limit);
            let route = login::reach(chart, &way, ssh, limits).await?;
            (Way::Ssh(Box::new(way)), Some(program), route.user)
        }
        Address::Local(program) => {
            without_ssh(chart)?;
            (Way::Here, Some(program), surroundings.user.clone())
        }
        Address::Socket(_) => {
            without_ssh(chart)?;
            (Way::Here, None, surroundings.user.clone())
        }
    };
    let trust = subject.speak(chart, &way, program, &user).await?;
    let own = subject.look_around(chart, &way, program).await?;
    subject.build(chart, trust, own.as_ref()).await
}

fn without_ssh(chart: &mut Chart) -> Option<()> {
    for name in [StepName::Name, StepName::Port, StepName::HostKey, StepName::Login] {
        chart.note(name, None, Verdict::good("not needed: it is reached without SSH"))?;
    }
    Some(())
}

/// A machine, and what is needed to look at it.
struct Subject<'a> {
    machine: &'a Machine,
    surroundings: &'a Surroundings,
    target: Target,
    store: RemoteStore,
}

impl Subject<'_> {
    /// From the program to its greeting.
    async fn speak(
        &self,
        chart: &mut Chart,
        way: &Way,
        program: Option<&Program>,
        user: &str,
    ) -> Option<Trust> {
        let command = match program {
            Some(program) => {
                self.ask_version(chart, way, program).await?;
                Some(own::known(program).0.join(" "))
            }
            None => {
                let verdict = Verdict::good("not needed: a daemon listens, or not");
                chart.note(StepName::Program, None, verdict)?;
                None
            }
        };
        let greeter = command.as_deref().map_or(Greeter::Socket, Greeter::Command);
        let description = self.greet(chart, way, greeter).await?;
        let trusted = match description.trust {
            Trust::Trusted => trust::Trusted::Yes,
            Trust::NotTrusted => trust::Trusted::No,
            Trust::Unknown => trust::Trusted::NotSaid,
        };
        chart.note(StepName::Trust, None, trust::judge(trusted, user))?;
        Some(description.trust)
    }

    /// What is printed before the protocol, and the protocol. Whether the former does harm is seen by
    /// the latter.
    async fn greet(
        &self,
        chart: &mut Chart,
        way: &Way,
        greeter: Greeter<'_>,
    ) -> Option<Description> {
        let limit = self.surroundings.limit;
        let (printed, took) = timed(way.run(&["true"], limit)).await;
        // as long as a connection and a greeting may take by their own limits
        let limit = limit * 4;
        let (greeting, took_greeting) = timed(timeout(limit, self.store.connect())).await;
        let spoken = match greeting {
            Ok(Err(StoreError::ForeignWords { .. })) => quiet::Spoken::No,
            // where it fails, that isn't why
            _ => quiet::Spoken::Yes,
        };
        let quiet = quiet::judge(&printed.stdout, spoken, &self.target);
        chart.note(StepName::Quiet, Some(took), quiet)?;
        let Ok(greeting) = greeting else {
            let verdict = overdue(limit, &self.target.destination);
            chart.note(StepName::Protocol, Some(took_greeting), verdict);
            return None;
        };
        let greeting = greeting.map_err(|error| error.to_string());
        let said = greeting.as_ref().map_err(String::as_str).map(
            |Description { protocol, nix_version, .. }| (protocol.as_str(), nix_version.as_deref()),
        );
        chart.note(StepName::Protocol, Some(took_greeting), protocol::judge(said, greeter))?;
        greeting.ok()
    }

    async fn ask_version(&self, chart: &mut Chart, way: &Way, program: &Program) -> Option<()> {
        let limit = self.surroundings.limit;
        let (command, usual) = own::known(program);
        let mut line: Vec<&str> = command.iter().map(String::as_str).collect();
        line.push("--version");
        let (ran, took) = timed(way.run(&line, limit)).await;
        let stdout = String::from_utf8_lossy(&ran.stdout);
        let stderr = String::from_utf8_lossy(&ran.stderr);
        let elsewhere = match program::version(&stdout) {
            Some(_) => Vec::new(),
            None => own::places(way, usual, limit).await,
        };
        let command = command.join(" ");
        let asked = program::Asked {
            command: &command,
            stdout: &stdout,
            stderr: &stderr,
            elsewhere: &elsewhere,
        };
        let scheme = self.machine.store_uri.scheme().as_str();
        let verdict = program::judge(&asked, scheme, &self.target);
        chart.note(StepName::Program, Some(took), verdict)
    }

    /// What the machine is like.
    async fn look_around(
        &self,
        chart: &mut Chart,
        way: &Way,
        program: Option<&Program>,
    ) -> Option<Option<MachineSettings>> {
        let limit = self.surroundings.limit;
        let store_dir = self.surroundings.configuration.store_dir.as_str();
        let command = program.map(|program| own::known(program).0).unwrap_or_default();
        let (own, took) = timed(own::machine_settings(way, command, limit)).await;
        chart.note(StepName::System, Some(took), system::judge(self.machine, own.as_ref()))?;

        let real = program.and_then(own::real_store);
        let folders = disk::folders(real.as_deref(), store_dir);
        let script = [["sh", "-c", disk::SCRIPT, "sh"].as_slice(), &folders].concat();
        let (ran, took) = timed(way.run(&script, limit)).await;
        let free = disk::free(&String::from_utf8_lossy(&ran.stdout));
        chart.note(StepName::Disk, Some(took), disk::judge(free, store_dir))?;

        let before = now();
        let (ran, took) = timed(way.run(&["date", "+%s"], limit)).await;
        let there = clock::seconds(&String::from_utf8_lossy(&ran.stdout));
        chart.note(StepName::Clock, Some(took), clock::judge(before, there, now()))?;

        let verdict = substituters::judge(own.as_ref(), self.surroundings.fetching());
        chart.note(StepName::Substituters, None, verdict)?;
        Some(own)
    }

    /// The build, for the first of the line's systems that the machine has.
    async fn build(
        &self,
        chart: &mut Chart,
        trust: Trust,
        own: Option<&MachineSettings>,
    ) -> Option<()> {
        let Machine { systems, mandatory_features, max_jobs, .. } = self.machine;
        let has = |system: &&String| own.is_some_and(|own| own.systems.contains(*system));
        let system = systems.iter().find(has).or_else(|| systems.iter().next());
        let system = match (system, max_jobs) {
            (Some(system), 1..) => system,
            (None, _) => {
                let came = build::Came::NotTried("its line lists no system".to_owned());
                return chart.note(StepName::Build, None, build::judge("", &came));
            }
            (_, 0) => {
                let came = build::Came::NotTried("its line has max jobs 0".to_owned());
                return chart.note(StepName::Build, None, build::judge("", &came));
            }
        };
        let building = noop::build(&self.store, trust, system, mandatory_features);
        let (came, took) = timed(timeout(BUILD_LIMIT, building)).await;
        let verdict = match came {
            Ok(came) => build::judge(system, &came),
            Err(_) => overdue(BUILD_LIMIT, &self.target.destination),
        };
        chart.note(StepName::Build, Some(took), verdict)
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
