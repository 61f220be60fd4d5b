//! `drover builder add`: tries a machine, and writes its line.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use drover_config::{Builders, Machine, Origin, StoreReference, parse_machines};
use drover_doctor::checks::program::version;
use drover_doctor::{MachineLine, MachineReport, Report, Route, Standing, Target, report_as_text};
use drover_store_remote::{Address, Program, SshTarget};

use super::arguments::{AddArguments, LineArguments};
use super::{file, host_key};
use crate::address::address;
use crate::configuration::Configuration;
use crate::connector::Connector;
use crate::doctor::{Surroundings, Way, examine, known, machine_settings, places, target};
use crate::exit::ExitStatus;
use crate::host::FileSystem;
use crate::terminal::Terminal;

/// Cores and a system, where there is no Nix to ask.
const MACHINE: &str = "nproc; uname -sm; if [ -w /dev/kvm ]; then echo kvm; fi";

/// Tries a machine, and writes its line.
///
/// # Errors
///
/// The machine can't be built on, is listed already, or the file can't be written.
pub(super) async fn add(
    arguments: &AddArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let overrides = arguments.settings.overrides();
    let configuration = Configuration::load(&overrides, terminal)?;
    let store = store(&arguments.host)?;
    let visitor = Visitor::of(&configuration, store, &arguments.line, terminal)?;
    // nobody wants to wait to be told so
    visitor.check_absent()?;
    let guest = visitor.enter().await?;
    visitor.enlist(&guest).await
}

/// Returns the address of a machine, which `USER@HOST` is, too.
pub(super) fn store(host: &str) -> anyhow::Result<StoreReference> {
    let text = match host.contains("://") {
        true => host.to_owned(),
        false => format!("ssh-ng://{host}"),
    };
    let store: StoreReference = text.parse()?;
    match store.scheme().is_ssh() && !store.is_without_ssh() {
        true => Ok(store),
        false => bail!("'{host}' is not reached by SSH: give USER@HOST, or ssh-ng://HOST"),
    }
}

/// Who looks at a machine that is to be added.
pub(super) struct Visitor<'a> {
    configuration: &'a Configuration,
    connector: Connector,
    store: StoreReference,
    arguments: &'a LineArguments,
    terminal: &'a Terminal,
    limit: Duration,
}

/// A machine that has let us in.
pub(super) struct Guest {
    /// How commands are run there.
    pub(super) way: Way,
    host_key: String,
    target: Target,
}

impl<'a> Visitor<'a> {
    /// Returns a visitor to the machine of an address.
    ///
    /// # Errors
    ///
    /// No folder for sockets.
    pub(super) fn of(
        configuration: &'a Configuration,
        store: StoreReference,
        arguments: &'a LineArguments,
        terminal: &'a Terminal,
    ) -> anyhow::Result<Visitor<'a>> {
        let connector = Connector::new(configuration)?;
        let limit = configuration.connect_timeout();
        Ok(Visitor { configuration, connector, store, arguments, terminal, limit })
    }

    /// Returns the same visitor, to another program there.
    pub(super) fn to(mut self, store: StoreReference) -> Visitor<'a> {
        self.store = store;
        self
    }

    /// Returns the address.
    pub(super) fn store(&self) -> &StoreReference {
        &self.store
    }

    /// Checks that the machine isn't listed yet.
    ///
    /// # Errors
    ///
    /// It is, or the file is none that can be written.
    pub(super) fn check_absent(&self) -> anyhow::Result<()> {
        let file = file::choose(self.arguments, self.configuration)?;
        file::check_absent(&file, &self.line(BTreeSet::new(), BTreeSet::new(), 1, None))
    }

    fn ssh(&self) -> anyhow::Result<(SshTarget, Program)> {
        let mut store = self.store.clone();
        if let Some(key) = &self.arguments.ssh_key {
            store = store.with_param("ssh-key", &key.display().to_string());
        }
        match address(&store, &self.configuration.host.daemon_socket())? {
            Address::Ssh(target, program) => Ok((target, program)),
            _ => bail!("'{store}' is not reached by SSH"),
        }
    }

    /// Logs in, once the host's key is believed.
    ///
    /// # Errors
    ///
    /// It isn't, or the user isn't let in.
    pub(super) async fn enter(&self) -> anyhow::Result<Guest> {
        let (mut ssh, _) = self.ssh()?;
        let name = self.store.to_string();
        let target = target(&ssh);
        let login = self.connector.log_in(&name, ssh.clone());
        let route = Route::parse(&login.configuration().await?)
            .with_context(|| format!("ssh -G {} says no host name", target.destination))?;
        let host_key =
            host_key::believed(&login, &route, &target, self.arguments, self.terminal).await?;
        ssh.host_key = Some(host_key.clone());
        let login = self.connector.log_in(&name, ssh);
        login.open().await?;
        Ok(Guest { way: Way::Ssh(Box::new(login)), host_key, target })
    }

    /// Finds out what the machine has, tries it, and writes its line.
    ///
    /// # Errors
    ///
    /// It can't be built on, is listed already, or the file can't be written.
    pub(super) async fn enlist(mut self, guest: &Guest) -> anyhow::Result<ExitStatus> {
        self.find_program(guest).await?;
        let line = self.describe(guest).await?;
        let file = file::choose(self.arguments, self.configuration)?;
        file::check_absent(&file, &line)?;
        let report = self.try_out(&line).await?;
        if report.standing() == Standing::NotUsable {
            let report = Report { machines: vec![report], ..Report::default() };
            let told = report_as_text(&report);
            let machine = told.split_once("\n\n").map_or(told.as_str(), |(_, machine)| machine);
            self.terminal.print(machine)?;
            bail!("'{}' was not added: builds don't get there", self.store);
        }
        self.tell_oddities(&report);
        let shown = file.display();
        if !self.arguments.yes {
            host_key::confirm(&format!("{line}\nWrite this line into {shown}?"))?;
        }
        file::add(&file, &line)?;
        self.terminal.print(&line.to_string())?;
        self.terminal.info(&format!("written into {shown}; drover doctor says how it does"));
        Ok(ExitStatus::SUCCESS)
    }

    /// Says where the program is, where it isn't on the `PATH` and the user hasn't said it.
    async fn find_program(&mut self, guest: &Guest) -> anyhow::Result<()> {
        let (_, program) = self.ssh()?;
        let (command, usual) = known(&program);
        let mut line: Vec<&str> = command.iter().map(String::as_str).collect();
        line.push("--version");
        let ran = guest.way.run(&line, self.limit).await;
        if version(&String::from_utf8_lossy(&ran.stdout)).is_some()
            || self.store.param("remote-program").is_some()
        {
            return Ok(());
        }
        if let Some(place) = places(&guest.way, usual, self.limit).await.first() {
            self.terminal.info(&format!(
                "{usual} is not on the PATH of {}, but at {place}",
                guest.target.destination
            ));
            self.store = self.store.clone().with_param("remote-program", place);
        }
        Ok(())
    }

    /// Finds out what the machine has.
    async fn describe(&self, guest: &Guest) -> anyhow::Result<MachineLine> {
        let (_, program) = self.ssh()?;
        let own = machine_settings(&guest.way, known(&program).0, self.limit).await;
        let ran = guest.way.run(&["sh", "-c", MACHINE], self.limit).await;
        let printed = String::from_utf8_lossy(&ran.stdout).into_owned();
        let cores = printed.lines().find_map(|line| line.trim().parse().ok());
        let (systems, features) = match own {
            Some(own) => (own.systems, own.features),
            None => by_uname(&printed),
        };
        let levels = |system: &String| !system.contains("-v") || !system.ends_with("-linux");
        let systems: BTreeSet<String> = match self.arguments.systems.is_empty() {
            true => systems.into_iter().filter(levels).collect(),
            false => self.arguments.systems.iter().cloned().collect(),
        };
        let features: BTreeSet<String> = match &self.arguments.features {
            None => features.into_iter().filter(|feature| feature != "uid-range").collect(),
            Some(given) => given.iter().filter(|it| !it.is_empty()).cloned().collect(),
        };
        if systems.is_empty() {
            bail!(
                "what '{}' builds for could not be found out: give --systems, such as x86_64-linux",
                self.store
            );
        }
        let cores = self.arguments.max_jobs.or(cores).unwrap_or(1);
        Ok(self.line(systems, features, cores, Some(guest.host_key.clone())))
    }

    fn line(
        &self,
        systems: BTreeSet<String>,
        features: BTreeSet<String>,
        max_jobs: u32,
        host_key: Option<String>,
    ) -> MachineLine {
        let ssh_key = self.arguments.ssh_key.clone();
        MachineLine { store: self.store.clone(), systems, ssh_key, max_jobs, features, host_key }
    }

    /// Examines the machine by the line that is to be written.
    async fn try_out(&self, line: &MachineLine) -> anyhow::Result<MachineReport> {
        self.terminal.info(&format!("trying {}", self.store));
        let machine = read_back(line, self.configuration)?;
        let connector = self.connector.clone();
        let surroundings = Arc::new(Surroundings::of(self.configuration, connector));
        Ok(examine(&machine, &surroundings).await)
    }

    fn tell_oddities(&self, report: &MachineReport) {
        for step in &report.steps {
            if step.verdict.grade == drover_doctor::Grade::Odd {
                let remedy = step.verdict.remedy.as_deref().unwrap_or_default();
                self.terminal.warn(&format!(
                    "{}: {}; {remedy}",
                    step.name.as_str(),
                    step.verdict.text
                ));
            }
        }
    }
}

/// Returns the machine that a line is read as.
fn read_back(line: &MachineLine, configuration: &Configuration) -> anyhow::Result<Machine> {
    let builders = Builders {
        text: &line.to_string(),
        origin: &Origin::CommandLine { flag: "the new line".into() },
        default_system: &configuration.settings.system,
        dir: std::path::Path::new("/"),
    };
    let read = parse_machines(&builders, &FileSystem)?;
    read.machines.into_iter().next().context("the line of the machine is empty")
}

/// Returns the system that `uname -sm` has printed, in Nix's words, and the features that a machine
/// has where nobody has set any.
fn by_uname(printed: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let system = printed.lines().find_map(|line| {
        let (kernel, machine) = line.split_once(' ')?;
        let machine = if machine == "arm64" { "aarch64" } else { machine };
        Some(format!("{machine}-{}", kernel.to_lowercase()))
    });
    let mut features: BTreeSet<String> =
        ["benchmark", "big-parallel", "nixos-test"].map(str::to_owned).into();
    features.extend(printed.lines().filter(|line| *line == "kvm").map(str::to_owned));
    (system.into_iter().collect(), features)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_addresses() {
        assert_eq!(store("alice@b1").unwrap().to_string(), "ssh-ng://alice@b1");
        assert_eq!(store("ssh://b1").unwrap().to_string(), "ssh://b1");
        for refused in ["localhost", "https://b1", "-oProxyCommand=x"] {
            assert!(store(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn a_machine_without_nix_says_what_it_is() {
        let (systems, features) = by_uname("8\nDarwin arm64\nkvm\n");
        assert_eq!(systems, ["aarch64-darwin".to_owned()].into());
        assert!(features.contains("kvm") && features.contains("big-parallel"));
    }
}
