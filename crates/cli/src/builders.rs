//! From the machines that are configured to those of a fleet.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use drover_build_local::LocalBuilder;
use drover_config::{
    Builders, Machine as MachineLine, Origin, Scheme, Settings, lint, parse_machines,
};
use drover_core::StoreDir;
use drover_fleet::{MachineSpec, Site};
use drover_schedule::{Bandwidth, Machine, MachineKind, Terms};
use drover_store::{BuildSettings, Builder, LogKeeper, Substitute};
use drover_store_remote::{Address, Program, RemoteStore, builds_at_once};

use crate::address::{address, connections, keeps_no_logs, store_argument, whole_address};
use crate::configuration::{Configuration, tell};
use crate::connector::{Connector, bounded};
use crate::failures::Logs;
use crate::hook::behind::in_place_of_own;
use crate::host::FileSystem;
use crate::kept_logs::log_keeper;
use crate::local_store::{LocalStore, StockDaemon};
use crate::machine_names::Names;
use crate::own_builder::{self, LimitsKeptBy, LocalBuildsBy};
use crate::terminal::Terminal;

/// What the machine is called that drover runs on.
pub(crate) const LOCAL: &str = drover_store::THIS_MACHINE;

/// What a way to another machine is taken for until it was measured.
const ROUND_TRIP: Duration = Duration::from_millis(2);
const BANDWIDTH: Bandwidth = Bandwidth(50_000_000);

/// Where builds can go.
pub(crate) struct MachineList {
    /// The machines: those of `builders`, and this one unless `max-jobs` is 0.
    pub(crate) machines: Vec<MachineSpec>,
    /// Why there are not more: lines that are wrong, files that don't exist.
    pub(crate) absent: Vec<String>,
    /// drover's own builder, which has to be waited for in the end.
    pub(crate) builder: Option<LocalBuilder>,
    /// Where the logs of builds are.
    pub(crate) logs: Logs,
}

/// Which machines are meant, and what they are told with each build.
pub(crate) struct List<'a> {
    /// What stands in the place of `builders`, where a client brought it.
    pub(crate) given: Option<&'a str>,
    pub(crate) settings: BuildSettings,
    /// Keeps the logs of their builds.
    pub(crate) logs: Option<Arc<dyn LogKeeper>>,
}

/// Returns where builds can go. What is wrong in a machines file costs that machine, and is warned
/// of. On this machine drover builds where it has opened the store itself, else Nix's daemon; where
/// there is neither, nobody does.
///
/// # Errors
///
/// What is wrong in the value of `builders` itself; nothing was connected to.
pub(crate) fn machines(
    configuration: &Configuration,
    connector: &Connector,
    local: &LocalStore,
    own: Option<&Arc<drover_store_local::LocalStore>>,
    terminal: &Terminal,
) -> anyhow::Result<MachineList> {
    let list = list_of_run(configuration, own);
    let mut found = other_machines(configuration, list, connector, local, terminal)?;
    let stock = match local.stock_daemon(&configuration.host) {
        StockDaemon::Present => {
            let settings = configuration.local_settings();
            let (connector, local) = (connector.clone(), local.clone());
            let open = move || connector.open_local(&local, &settings);
            Some(Arc::new(open) as Arc<dyn Fn() -> RemoteStore + Send + Sync>)
        }
        StockDaemon::Absent => None,
    };
    let refusal = own.and_then(|own| own_builder::refusal(configuration, own.layout()));
    let (by, open): (_, Arc<dyn Fn() -> Arc<dyn Site> + Send + Sync>) = match (own, &refusal, stock)
    {
        (Some(store), None, stock) => {
            let other = stock.map(|open| Arc::new(open()) as Arc<dyn Builder>);
            let limits = LimitsKeptBy::Builder;
            let store = Arc::clone(store);
            let builder = own_builder::builder(configuration, store, limits, other, terminal)?;
            found.builder = Some(builder.clone());
            (LocalBuildsBy::Drover, Arc::new(move || Arc::new(builder.machine())))
        }
        (_, _, Some(open)) => (LocalBuildsBy::Nix, Arc::new(move || Arc::new(open()))),
        (own, refusal, None) => {
            let why = match (own, refusal) {
                (Some(_), Some(refusal)) => refusal.as_str(),
                _ => "its store is kept by somebody else, who doesn't build",
            };
            let text = format!("this machine builds nothing: {why}");
            match found.machines.is_empty() {
                true => terminal.warn(&text),
                false => terminal.detail(&text),
            }
            return Ok(found);
        }
    };
    let this = own_builder::machine(configuration, substitute(&configuration.settings), by, open)?;
    if let Some(this) = this {
        found.machines.insert(0, this);
    }
    Ok(found)
}

/// Returns what is meant where a run has its machines to itself.
fn list_of_run(
    configuration: &Configuration,
    own: Option<&Arc<drover_store_local::LocalStore>>,
) -> List<'static> {
    let mut settings = configuration.build_settings();
    let most = configuration.settings.max_log_size;
    settings.overrides.extend(most.map(|most| ("max-build-log-size".to_owned(), most.to_string())));
    List { given: None, settings, logs: log_keeper(configuration, own) }
}

/// Returns the machines of a list.
///
/// # Errors
///
/// What is wrong in the value of `builders` itself; nothing was connected to.
pub(crate) fn other_machines(
    configuration: &Configuration,
    list: List<'_>,
    connector: &Connector,
    local: &LocalStore,
    terminal: &Terminal,
) -> anyhow::Result<MachineList> {
    let daemon_socket = configuration.host.daemon_socket();
    let Lines { usable, absent } =
        usable_lines(configuration, list.given, &daemon_socket, terminal)?;
    let mut hosts = Vec::new();
    for UsableLine { line, written, whole } in &usable {
        if is_own_store(written, line, local, &daemon_socket) {
            terminal.warn(&format!(
                "{}: '{}' is this machine's own store and is left out; how many builds run here \
                 is set by max-jobs",
                line.origin,
                store_argument(&line.store_uri),
            ));
            continue;
        }
        tell_of_key(line, terminal);
        join(&mut hosts, line, whole.clone());
    }
    let mut names = Names::of(hosts.iter().map(|host| host.line));
    let substitute = builders_substitute(&configuration.settings);
    let mut silent = without_own_logs(&configuration.settings);
    let remote = hosts.into_iter().map(|host| {
        let name = names.take(host.line);
        if keeps_no_logs(&host.address) {
            silent.insert(name.clone());
        }
        let opening = Opening {
            // checked when the line was read; Nix's own bound for ssh:// is that of one build
            connections: connections(&host.line.store_uri).ok().flatten(),
            address: host.address.clone(),
            store_dir: configuration.store_dir.clone(),
            settings: list.settings.clone(),
            logs: list.logs.clone(),
            connector: connector.clone(),
        };
        remote_machine(name, host, opening, substitute)
    });
    let machines = remote.collect();
    let logs = match list.logs {
        Some(_) => Logs::Here,
        None => Logs::There { not_on: silent },
    };
    Ok(MachineList { machines, absent, builder: None, logs })
}

/// Returns this machine where it keeps no logs of its builds.
fn without_own_logs(settings: &Settings) -> BTreeSet<String> {
    (!settings.keep_build_log).then(|| LOCAL.to_owned()).into_iter().collect()
}

/// A machine, with the first of its lines and what the others say.
struct HostLines<'a> {
    line: &'a MachineLine,
    address: Address,
    other_terms: Vec<Terms>,
}

/// Adds a line. One with the same URI as another is for the same machine, whose slots they share, as
/// in Nix; with another key it has a connection of its own.
fn join<'a>(hosts: &mut Vec<HostLines<'a>>, line: &'a MachineLine, address: Address) {
    let is_it = |host: &&mut HostLines<'_>| {
        host.line.store_uri == line.store_uri && host.address == address
    };
    match hosts.iter_mut().find(is_it) {
        Some(host) => host.other_terms.push(terms(line)),
        None => hosts.push(HostLines { line, address, other_terms: Vec::new() }),
    }
}

fn terms(line: &MachineLine) -> Terms {
    Terms {
        systems: line.systems.clone(),
        slots: line.max_jobs,
        speed_factor: f64::from(line.speed_factor.get()),
        supported_features: line.supported_features.clone(),
        mandatory_features: line.mandatory_features.clone(),
    }
}

/// A line whose machine can be used.
struct UsableLine {
    line: MachineLine,
    /// Where its store is, as it's written.
    written: Address,
    /// The same, with what the other columns say of the way there.
    whole: Address,
}

/// The lines of machines that can be used, and why others can't.
struct Lines {
    usable: Vec<UsableLine>,
    absent: Vec<String>,
}

/// Reads the lines, and warns of what is strange about them.
fn usable_lines(
    configuration: &Configuration,
    given: Option<&str>,
    daemon_socket: &Path,
    terminal: &Terminal,
) -> anyhow::Result<Lines> {
    let Configuration { conf, settings, host, .. } = configuration;
    let of_client = Origin::CommandLine { flag: "--builders".into() };
    let (text, origin) = match given {
        Some(text) => (text, &of_client),
        None => (settings.builders.as_str(), conf.origin("builders")),
    };
    let builders = Builders {
        text,
        origin,
        default_system: &settings.system,
        dir: folder_of(origin, &host.environment.current_dir),
    };
    let read = in_place_of_own(parse_machines(&builders, &FileSystem)?, configuration)?;
    tell(&read.notes, terminal);
    let mut absent: Vec<String> = read.notes.iter().map(|note| note.text.clone()).collect();
    let mut leave_out = |error: anyhow::Error| {
        terminal.warn(&format!("{error:#}; it is left out"));
        absent.push(format!("{error:#}"));
    };
    read.rejected.into_iter().for_each(|error| leave_out(error.into()));
    let mut usable = Vec::new();
    for line in read.machines {
        let addresses = address(&line.store_uri, daemon_socket)
            .and_then(|written| Ok((written, whole_address(&line, daemon_socket)?)))
            .and_then(|addresses| connections(&line.store_uri).map(|_| addresses));
        match addresses {
            Ok((written, whole)) => usable.push(UsableLine { line, written, whole }),
            Err(error) => {
                let what = format!("{}: this machine can't be used", line.origin);
                let error = anyhow::Error::from(error).context(what);
                if line.origin == *origin {
                    return Err(error);
                }
                leave_out(error);
            }
        }
    }
    let lines: Vec<MachineLine> = usable.iter().map(|usable| usable.line.clone()).collect();
    tell(&lint(&lines), terminal);
    Ok(Lines { usable, absent })
}

/// Returns the folder that `@FILE` starts from.
pub(crate) fn folder_of<'a>(origin: &Origin, current_dir: &'a Path) -> &'a Path {
    match origin {
        // whoever typed it means the folder that he is in
        Origin::CommandLine { .. } | Origin::Environment { .. } => current_dir,
        _ => Path::new("/"),
    }
}

/// Warns of a private key that isn't there: `ssh` only mutters, and tries others.
fn tell_of_key(line: &MachineLine, terminal: &Terminal) {
    let Some(key) = line.ssh_key.as_deref().filter(|_| line.store_uri.scheme().is_ssh()) else {
        return;
    };
    // ssh replaces these by what they stand for
    let is_plain = key.to_str().is_some_and(|text| !text.starts_with('~') && !text.contains('%'));
    if let (true, Err(error)) = (is_plain, std::fs::File::open(key)) {
        terminal.warn(&format!(
            "{}: SSH key '{}' can't be read ({error}); ssh goes on with the keys that it finds \
             by itself",
            line.origin,
            key.display()
        ));
    }
}

/// How a machine is reached.
struct Opening {
    address: Address,
    connections: Option<NonZeroU32>,
    store_dir: StoreDir,
    settings: BuildSettings,
    logs: Option<Arc<dyn LogKeeper>>,
    connector: Connector,
}

fn remote_machine(
    name: String,
    HostLines { line, other_terms, .. }: HostLines<'_>,
    opening: Opening,
    substitute: Substitute,
) -> MachineSpec {
    let Opening { address, connections, store_dir, settings, logs, connector } = opening;
    // each build has a connection
    let at_once = connections.map_or(u32::MAX, |bound| builds_at_once(bound).get());
    let bounded_terms = |terms: Terms| Terms { slots: terms.slots.min(at_once), ..terms };
    let description = Machine {
        name: name.clone(),
        kind: MachineKind::Remote,
        systems: line.systems.clone(),
        slots: line.max_jobs.min(at_once),
        speed_factor: f64::from(line.speed_factor.get()),
        supported_features: line.supported_features.clone(),
        mandatory_features: line.mandatory_features.clone(),
        round_trip: ROUND_TRIP,
        bandwidth: BANDWIDTH,
        other_terms: other_terms.into_iter().map(bounded_terms).collect(),
    };
    let open = move || -> Arc<dyn Site> {
        let store = connector.open(&name, &store_dir, &address, &settings);
        let store = bounded(store, connections);
        Arc::new(match &logs {
            Some(logs) => store.with_build_logs(Arc::clone(logs)),
            None => store,
        })
    };
    MachineSpec { description, substitute, open: Arc::new(open) }
}

/// Returns whether other machines may fetch from their substituters.
fn builders_substitute(settings: &Settings) -> Substitute {
    match settings.builders_use_substitutes {
        true => Substitute::Yes,
        false => Substitute::No,
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use rstest::rstest;

    use super::*;

    fn lines(text: &str) -> Vec<MachineLine> {
        let files = BTreeMap::<PathBuf, String>::new();
        let builders = Builders {
            text,
            origin: &Origin::Default,
            default_system: "x86_64-linux",
            dir: Path::new("/"),
        };
        parse_machines(&builders, &files).unwrap().machines
    }

    #[test]
    fn names_are_short_but_unique() {
        let lines = lines("b1; u@b2:22; ssh-ng://b1; ssh://b3; ssh://b4; ssh://b4");
        let mut names = Names::of(lines.iter());
        let names: Vec<String> = lines.iter().map(|line| names.take(line)).collect();
        assert_eq!(
            names,
            ["ssh://b1", "u@b2:22", "ssh-ng://b1", "b3", "ssh://b4", "ssh://b4 (line 2)"]
        );
    }

    #[test]
    fn lines_with_one_uri_are_one_machine() {
        let lines = lines(
            "h x86_64-linux - 4; ssh://h aarch64-linux - 2 1 kvm; ssh-ng://h x86_64-linux; \
             ssh://u@h x86_64-linux; h i686-linux /key 1",
        );
        let mut hosts = Vec::new();
        for line in &lines {
            let uri = line.store_uri_with_params();
            join(&mut hosts, line, address(&uri, Path::new("/socket")).unwrap());
        }
        let told: Vec<(String, Vec<u32>)> = hosts
            .iter()
            .map(|host| {
                let slots = host.other_terms.iter().map(|terms| terms.slots).collect();
                (store_argument(&host.line.store_uri), slots)
            })
            .collect();
        let alone = |uri: &str| (uri.to_owned(), Vec::new());
        assert_eq!(
            told,
            [
                ("ssh://h".to_owned(), vec![2]),
                alone("ssh-ng://h"),
                alone("ssh://u@h"),
                alone("ssh://h"),
            ]
        );
        let [arm] = hosts[0].other_terms.as_slice() else { panic!("one more line") };
        assert_eq!(arm.systems, ["aarch64-linux".to_owned()].into());
        assert_eq!(arm.supported_features, ["kvm".to_owned()].into());
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
            connections: None,
            store_dir: StoreDir::default(),
            real_dir: None,
            argument: None,
        };
        let line = &lines(builder)[0];
        let address = address(&line.store_uri, socket).unwrap();
        assert_eq!(is_own_store(&address, line, &local, socket), expected);
    }
}
