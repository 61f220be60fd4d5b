//! From the machines that are configured to those of a fleet.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use drover_config::{Machine as MachineLine, Scheme, Settings, lint, parse_machines};
use drover_fleet::{MachineSpec, Site};
use drover_schedule::{Bandwidth, Machine, MachineKind};
use drover_store::Substitute;
use drover_store_remote::{Address, Program};

use crate::address::{address, store_argument};
use crate::configuration::{Configuration, tell};
use crate::connector::Connector;
use crate::host::{self, FileSystem};
use crate::local_store::LocalStore;
use crate::terminal::Terminal;

/// What the machine is called that drover runs on.
pub(crate) const LOCAL: &str = "local";

/// What a way to another machine is taken for until it was measured.
const ROUND_TRIP: Duration = Duration::from_millis(2);
const BANDWIDTH: Bandwidth = Bandwidth(50_000_000);

/// Returns all machines that builds can go to: those of `builders`, and this one unless `max-jobs`
/// is 0.
///
/// # Errors
///
/// A line that is wrong, as in Nix; nothing was connected to.
pub(crate) fn machines(
    configuration: &Configuration,
    connector: &Connector,
    local: &LocalStore,
    terminal: &Terminal,
) -> anyhow::Result<Vec<MachineSpec>> {
    let Configuration { conf, settings, .. } = configuration;
    let origin = conf.origin("builders");
    let read = parse_machines(&settings.builders, origin, &settings.system, &FileSystem)?;
    tell(&read.notes, terminal);
    tell(&lint(&read.machines), terminal);
    let daemon_socket = configuration.host.daemon_socket();
    let mut names = Names::of(&read.machines);
    let mut machines: Vec<MachineSpec> =
        local_machine(configuration, connector, local).into_iter().collect();
    for line in &read.machines {
        let wrong = || format!("{}: this machine can't be used", line.origin);
        let written = address(&line.store_uri, &daemon_socket).with_context(wrong)?;
        if is_own_store(&written, line, local, &daemon_socket) {
            terminal.warn(&format!(
                "{}: '{}' is this machine's own store and is left out; how many builds run here \
                 is set by max-jobs",
                line.origin,
                store_argument(&line.store_uri),
            ));
            continue;
        }
        let address = match line.store_uri.scheme().is_ssh() {
            true => address(&line.store_uri_with_params(), &daemon_socket).with_context(wrong)?,
            false => written,
        };
        machines.push(remote_machine(names.take(line), line, address, configuration, connector));
    }
    Ok(machines)
}

/// Returns this machine, if it builds.
fn local_machine(
    configuration: &Configuration,
    connector: &Connector,
    local: &LocalStore,
) -> Option<MachineSpec> {
    let settings = &configuration.settings;
    let slots = settings.max_jobs.resolve(host::processors());
    if slots == 0 {
        return None;
    }
    let (connector, local) = (connector.clone(), local.clone());
    let build_settings = configuration.local_settings();
    let mut systems = settings.extra_platforms.clone();
    systems.insert(settings.system.clone());
    Some(MachineSpec {
        description: Machine {
            name: LOCAL.to_owned(),
            kind: MachineKind::Local,
            systems,
            slots,
            speed_factor: 1.0,
            supported_features: settings.system_features.clone(),
            mandatory_features: Default::default(),
            round_trip: Duration::ZERO,
            bandwidth: Bandwidth(0),
        },
        substitute: substitute(settings),
        open: Arc::new(move || Arc::new(connector.open_local(&local, &build_settings))),
    })
}

fn remote_machine(
    name: String,
    line: &MachineLine,
    address: Address,
    configuration: &Configuration,
    connector: &Connector,
) -> MachineSpec {
    let description = Machine {
        name: name.clone(),
        kind: MachineKind::Remote,
        systems: line.systems.clone(),
        slots: line.max_jobs,
        speed_factor: f64::from(line.speed_factor.get()),
        supported_features: line.supported_features.clone(),
        mandatory_features: line.mandatory_features.clone(),
        round_trip: ROUND_TRIP,
        bandwidth: BANDWIDTH,
    };
    let connector = connector.clone();
    let store_dir = configuration.store_dir.clone();
    let build_settings = configuration.build_settings();
    let open = move || -> Arc<dyn Site> {
        Arc::new(connector.open(&name, &store_dir, &address, &build_settings))
    };
    let substitute = match configuration.settings.builders_use_substitutes {
        true => Substitute::Yes,
        false => Substitute::No,
    };
    MachineSpec { description, substitute, open: Arc::new(open) }
}

/// Returns whether the local store may fetch from its substituters.
pub(crate) fn substitute(settings: &Settings) -> Substitute {
    match settings.substitute && !settings.substituters.is_empty() {
        true => Substitute::Yes,
        false => Substitute::No,
    }
}

/// Whether building there would be building in the local store, a second time over.
fn is_own_store(
    address: &Address,
    line: &MachineLine,
    local: &LocalStore,
    daemon_socket: &Path,
) -> bool {
    if *address == local.address {
        return true;
    }
    let is_usual = match &local.address {
        Address::Socket(socket) => socket == daemon_socket,
        Address::Local(program) => is_usual_store(program),
        Address::Ssh(..) => false,
    };
    let scheme = line.store_uri.scheme();
    let names_usual = match address {
        Address::Local(program) => is_usual_store(program),
        _ => *scheme == Scheme::Daemon,
    };
    is_usual && names_usual
}

/// Whether a program of Nix would open the store that it opens when told nothing.
fn is_usual_store(program: &Program) -> bool {
    let (command, store, usual) = match program {
        Program::Worker { command, store } => (command, store, "nix-daemon"),
        Program::Serve { command, store } => (command, store, "nix-store"),
    };
    let is_plain = matches!(command.as_slice(), [only] if only == usual);
    is_plain && store.as_deref().is_none_or(|store| matches!(store, "auto" | "local" | "daemon"))
}

/// Gives each machine a name that no other has: user, host and port where that is enough.
struct Names {
    hosts: BTreeMap<String, usize>,
    taken: BTreeMap<String, usize>,
}

impl Names {
    fn of(lines: &[MachineLine]) -> Names {
        let mut hosts = BTreeMap::new();
        for line in lines {
            *hosts.entry(short_name(line)).or_default() += 1;
        }
        Names { hosts, taken: BTreeMap::from([(LOCAL.to_owned(), 1)]) }
    }

    fn take(&mut self, line: &MachineLine) -> String {
        let short = short_name(line);
        let name = match self.hosts.get(&short) {
            Some(1) => short,
            _ => store_argument(&line.store_uri),
        };
        let count = self.taken.entry(name.clone()).or_default();
        *count += 1;
        if *count == 1 { name } else { format!("{name} (line {count})") }
    }
}

fn short_name(line: &MachineLine) -> String {
    match line.store_uri.authority() {
        Some(authority) => {
            let mut authority = authority.clone();
            authority.password = None;
            authority.to_string()
        }
        None => store_argument(&line.store_uri),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use drover_config::Origin;
    use drover_core::StoreDir;
    use rstest::rstest;

    use super::*;

    fn lines(text: &str) -> Vec<MachineLine> {
        let files = BTreeMap::<PathBuf, String>::new();
        parse_machines(text, &Origin::Default, "x86_64-linux", &files).unwrap().machines
    }

    #[test]
    fn names_are_short_but_unique() {
        let lines = lines("b1; u@b2:22; ssh-ng://b1; ssh://b3; ssh://b4; ssh://b4");
        let mut names = Names::of(&lines);
        let names: Vec<String> = lines.iter().map(|line| names.take(line)).collect();
        assert_eq!(
            names,
            ["ssh://b1", "u@b2:22", "ssh-ng://b1", "b3", "ssh://b4", "ssh://b4 (line 2)"]
        );
    }

    #[rstest]
    #[case::daemon("unix:///run/daemon", "daemon", true)]
    #[case::same_socket("unix:///x", "unix:///x", true)]
    #[case::other_socket("unix:///run/daemon", "unix:///x", false)]
    #[case::localhost("unix:///run/daemon", "ssh-ng://localhost", true)]
    #[case::shim("unix:///run/daemon", "ssh-ng://localhost?remote-program=/s", false)]
    #[case::another_store("unix:///run/daemon", "ssh-ng://localhost?remote-store=/r", false)]
    #[case::private("local?root=/r", "ssh-ng://localhost", false)]
    #[case::private_twice("local?root=/r", "local?root=/r", true)]
    #[case::by_ssh("unix:///run/daemon", "ssh-ng://localhost:22", false)]
    fn own_store(#[case] local: &str, #[case] builder: &str, #[case] expected: bool) {
        let socket = Path::new("/run/daemon");
        let local = LocalStore {
            name: local.to_owned(),
            address: address(&local.parse().unwrap(), socket).unwrap(),
            store_dir: StoreDir::default(),
            real_dir: None,
            argument: None,
        };
        let line = &lines(builder)[0];
        let address = address(&line.store_uri, socket).unwrap();
        assert_eq!(is_own_store(&address, line, &local, socket), expected);
    }
}
