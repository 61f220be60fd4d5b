//! `drover builder add`: tries a machine, and writes its line.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use drover_config::{Builders, Machine, Origin, StoreReference, parse_machines};
use drover_doctor::checks::program::version;
use drover_doctor::{MachineLine, MachineReport, Report, Standing, Target, report_as_text};
use drover_store_remote::{Address, Program, SshTarget};

use super::arguments::{AddArguments, LineArguments};
use super::found::Found;
use super::{file, host_key};
use crate::address::{address, whole_address};
use crate::configuration::Configuration;
use crate::connector::Connector;
use crate::doctor::{Surroundings, Way, examine, known, machine_settings, places, target};
use crate::exit::ExitStatus;
use crate::hook::{MachinesFiles, Purpose, Renewal, renew};
use crate::host::FileSystem;
use crate::terminal::Terminal;

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
    visitor.check_file()?;
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
    /// The private key to log in with.
    ssh_key: Option<PathBuf>,
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
    /// No folder for sockets, or no such key.
    pub(super) fn of(
        configuration: &'a Configuration,
        store: StoreReference,
        arguments: &'a LineArguments,
        terminal: &'a Terminal,
    ) -> anyhow::Result<Visitor<'a>> {
        let connector = Connector::new(configuration)?;
        let limit = configuration.connect_timeout();
        let ssh_key = ssh_key(arguments, configuration)?;
        Ok(Visitor { configuration, connector, store, arguments, ssh_key, terminal, limit })
    }

    /// Returns how long a command may take there.
    pub(super) fn limit(&self) -> Duration {
        self.limit
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

    /// Returns the machine as it's listed already, if it is.
    ///
    /// # Errors
    ///
    /// The machines file can't be read.
    pub(super) fn listed(&self) -> anyhow::Result<Option<Machine>> {
        let file = file::choose(self.arguments, self.configuration)?;
        file::listed(&file, &self.store, self.configuration)
    }

    /// Checks that the machine isn't listed yet, and that it can be.
    ///
    /// # Errors
    ///
    /// It is, or the file is none that can be written.
    pub(super) fn check_file(&self) -> anyhow::Result<()> {
        let file = file::choose(self.arguments, self.configuration)?;
        file::check_absent(&file, &self.line(BTreeSet::new(), BTreeSet::new(), 1, None))?;
        file::check_writable(&file)
    }

    /// Returns how the machine is reached, and what is run there.
    ///
    /// # Errors
    ///
    /// It isn't reached by SSH.
    pub(super) fn ssh(&self) -> anyhow::Result<(SshTarget, Program)> {
        let mut store = self.store.clone();
        if let Some(key) = &self.ssh_key {
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
        let configuration = login.configuration().await?;
        let host_key =
            host_key::believed(&login, &configuration, &target, self.arguments, self.terminal);
        let host_key = host_key.await?;
        ssh.host_key = Some(host_key.clone());
        let login = self.connector.log_in(&name, ssh);
        login.open().await?;
        Ok(Guest { way: Way::Ssh(Box::new(login)), host_key, target })
    }

    /// Logs in at a machine that is listed, as builds do.
    ///
    /// # Errors
    ///
    /// The user isn't let in.
    pub(super) async fn way_to(&self, machine: &Machine) -> anyhow::Result<Way> {
        let name = machine.store_uri.to_string();
        let socket = self.configuration.host.daemon_socket();
        let Address::Ssh(ssh, _) = whole_address(machine, &socket)? else {
            bail!("'{name}' is not reached by SSH")
        };
        let login = self.connector.log_in(&name, ssh);
        login.open().await?;
        Ok(Way::Ssh(Box::new(login)))
    }

    /// Tries a machine that is listed.
    ///
    /// # Errors
    ///
    /// It can't be built on.
    pub(super) async fn examine_listed(&self, machine: &Machine) -> anyhow::Result<()> {
        let report = self.try_out(machine).await;
        let what =
            format!("the program of '{}' was renewed, but builds don't get there", self.store);
        self.want_usable(report, &what).map(drop)
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
        let report = self.try_out(&read_back(&line, self.configuration)?).await;
        let what = format!("'{}' was not added: builds don't get there", self.store);
        self.tell_oddities(&self.want_usable(report, &what)?);
        let shown = file.display();
        if !self.arguments.yes {
            let otherwise = match &self.arguments.fingerprint {
                Some(_) => {
                    "--yes writes it; the fingerprint that was given is checked all the same"
                }
                None => "--yes writes it",
            };
            host_key::confirm(&format!("{line}\nWrite this line into {shown}?"), otherwise)?;
        }
        let added = file::add(&file, &line);
        self.terminal.print(&line.to_string())?;
        added.context("the line above was not written")?;
        self.terminal.info(&format!("written into {shown}; drover doctor says how it does"));
        self.tell_hook(&file);
        Ok(ExitStatus::SUCCESS)
    }

    /// Returns the report on a machine that can be built on; that on another one is shown.
    fn want_usable(&self, report: MachineReport, what: &str) -> anyhow::Result<MachineReport> {
        if report.standing() != Standing::NotUsable {
            return Ok(report);
        }
        let report = Report { machines: vec![report], ..Report::default() };
        let told = report_as_text(&report);
        let machine = told.split_once("\n\n").map_or(told.as_str(), |(_, machine)| machine);
        self.terminal.print(machine)?;
        bail!("{what}")
    }

    /// Has stock Nix know of the machine, where it's asked by lines that lead to drover.
    fn tell_hook(&self, file: &Path) {
        let is_behind = MachinesFiles::of(self.configuration, Purpose::Machine)
            .is_ok_and(|files| files.behind == file);
        if !is_behind {
            return;
        }
        match renew(self.configuration, self.terminal) {
            Ok(Renewal::Renewed(file)) => self.terminal.info(&format!(
                "drover's lines in {} are renewed, so that stock Nix builds there, too",
                file.display()
            )),
            Ok(Renewal::AsTheyWere | Renewal::NoLines) => {}
            Err(error) => self.terminal.warn(&format!(
                "stock Nix doesn't know of the machine until `sudo drover hook install` was run: {error:#}"
            )),
        }
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
        let Found { systems, features, cores, said } = Found::of(&guest.way, own, self.limit).await;
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
                "what '{}' builds for could not be found out: give --systems, such as x86_64-linux{said}",
                self.store
            );
        }
        let cores = self.arguments.max_jobs.or(cores).unwrap_or_else(|| {
            self.terminal.warn(&format!(
                "how many cores '{}' has could not be found out, so it gets one build at a time: give \
                 --max-jobs{said}",
                self.store
            ));
            1
        });
        Ok(self.line(systems, features, cores, Some(guest.host_key.clone())))
    }

    fn line(
        &self,
        systems: BTreeSet<String>,
        features: BTreeSet<String>,
        max_jobs: u32,
        host_key: Option<String>,
    ) -> MachineLine {
        let ssh_key = self.ssh_key.clone();
        MachineLine { store: self.store.clone(), systems, ssh_key, max_jobs, features, host_key }
    }

    /// Examines a machine, step by step.
    async fn try_out(&self, machine: &Machine) -> MachineReport {
        self.terminal.info(&format!("trying {}", machine.store_uri));
        let connector = self.connector.clone();
        let surroundings = Arc::new(Surroundings::of(self.configuration, connector));
        examine(machine, &surroundings).await
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

/// Returns the whole path of the key that was given.
fn ssh_key(
    arguments: &LineArguments,
    configuration: &Configuration,
) -> anyhow::Result<Option<PathBuf>> {
    let Some(given) = &arguments.ssh_key else { return Ok(None) };
    // stock Nix takes no other
    let key = configuration.host.environment.current_dir.join(given);
    match key.is_file() {
        true => Ok(Some(key)),
        false => bail!("there is no private key '{}'", key.display()),
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
}
