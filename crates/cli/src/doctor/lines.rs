//! The configuration as it was understood, and what is odd about it.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use drover_config::{ConfigError, Files as _, Machine, Origin, Sandbox, UnknownSetting};
use drover_doctor::{
    BuildersSetting, FileRead, Finding, KeyFile, KeyState, LineRead, LocalTrust, Presence, Reader,
    Report, Requirement, VariableRead, changed_settings, judge_builders, judge_hook, judge_key,
    judge_lines, settings_in_force,
};
use drover_store::{Store as _, Trust};
use drover_store_remote::Address;

use super::arguments::DoctorArguments;
use super::examine::Surroundings;
use super::guarded;
use super::listed::Listed;
use crate::configuration::Configuration;
use crate::derivation_show::to_build;
use crate::forwarding;
use crate::hook::own_lines;
use crate::host::FileSystem;
use crate::local_store::LocalStore;
use crate::own_store;
use crate::terminal::Terminal;

/// Returns what is to be said of the configuration.
///
/// # Errors
///
/// This machine's own settings can't be found out.
pub(super) async fn report(
    configuration: &Configuration,
    listed: &Listed,
    asked: Option<&[Requirement]>,
    surroundings: &Surroundings,
) -> anyhow::Result<Report> {
    let Configuration { conf, settings, host, .. } = configuration;
    let machines = &listed.machines;
    let mut findings: Vec<Finding> = conf.notes().iter().map(Finding::from).collect();
    findings.extend(conf.unknown().map(|unknown| unknown_setting(&unknown)));
    findings.extend(machines.notes.iter().map(Finding::from));
    findings.extend(machines.rejected.iter().map(|error| {
        let remedy =
            "mend or take away the line: stock Nix uses no machine at all if one line is wrong";
        Finding::warning("machines", chain(error), remedy)
    }));
    findings.extend(listed.own_lines().map(own_line));
    let own: Vec<&Machine> = listed.own_lines().collect();
    findings.extend(own_lines(&own, configuration).iter().flat_map(judge_hook));
    findings.extend(judge_lines(&machines.machines, asked));
    let user = surroundings.user.as_str();
    let trust = local_trust(configuration, surroundings).await;
    let reader = match (user, trust) {
        ("root", _) | (_, LocalTrust::NoDaemon) => Reader::Ssh(user),
        _ => Reader::NotSsh(user),
    };
    findings.extend(keys(&machines.machines).iter().filter_map(|key| judge_key(key, reader)));
    let origin = conf.origin("builders");
    findings.extend(judge_builders(&BuildersSetting {
        origin,
        is_of_system: is_of_system(origin, &host.environment.conf_dir()),
        user,
        trust,
    }));
    findings.extend(guarded::findings(configuration, &machines.machines));
    findings.extend(network_of_builds(configuration)?);
    let is_set = host.environment.nix_config.is_some();
    let in_force = settings_in_force(settings, |name| configuration.places(name));
    Ok(Report {
        files: files(configuration),
        variables: vec![VariableRead { name: "NIX_CONFIG", is_set }],
        settings: changed_settings(in_force, &Configuration::defaults()?),
        builders: (settings.builders.clone(), configuration.places("builders").join(", ")),
        lines: machines.machines.iter().map(line).collect(),
        rejected: machines.rejected.len(),
        bad_settings: 0,
        findings,
        machines: Vec::new(),
    })
}

/// Says which network builds here have that may use one, if there are builds here that are shut in.
fn network_of_builds(configuration: &Configuration) -> anyhow::Result<Option<Finding>> {
    let Configuration { conf, settings, .. } = configuration;
    let slots = settings.max_jobs.resolve(crate::host::processors());
    if slots == 0 || settings.sandbox != Sandbox::Enabled {
        return Ok(None);
    }
    let forwarder = forwarding::forwarder(conf)?;
    let origin = match conf.raw(forwarding::SETTING) {
        Some(_) => conf.origin(forwarding::SETTING).to_string(),
        None => forwarding::SETTING.to_owned(),
    };
    let finding = Finding::hint(origin, forwarding::told(conf, forwarder.as_ref()));
    Ok(Some(match forwarding::remedy(conf, forwarder.as_ref()) {
        Some(remedy) => finding.mended_by(remedy),
        None => finding,
    }))
}

/// Says of a line of nix.conf what is wrong with it.
pub(super) fn bad_line(error: &ConfigError) -> Finding {
    let remedy = "mend or take away the line: stock Nix does nothing at all while it's there";
    Finding::warning("nix.conf", error.to_string(), remedy)
}

fn own_line(own: &Machine) -> Finding {
    let text = "leads to drover, which builds on the machines behind it; those are examined";
    Finding::hint(&own.origin, text)
}

fn unknown_setting(UnknownSetting { origin, name, nearest }: &UnknownSetting<'_>) -> Finding {
    let remedy = match nearest {
        Some(nearest) => format!("is '{nearest}' meant? As it is, it has no effect"),
        None => "take it away, or look its name up: as it is, it has no effect".to_owned(),
    };
    Finding::warning(origin, format!("unknown setting '{name}'"), remedy)
}

fn chain(error: &drover_config::MachinesError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn is_of_system(origin: &Origin, conf_dir: &Path) -> bool {
    match origin {
        Origin::Default => true,
        Origin::File { path, .. } => path.starts_with(conf_dir),
        _ => false,
    }
}

/// Returns the files of the configuration, in the order in which they count.
fn files(configuration: &Configuration) -> Vec<FileRead> {
    let environment = &configuration.host.environment;
    let system = environment.conf_dir().join("nix.conf");
    let places = std::iter::once(system).chain(environment.user_conf_files());
    let read = |path: std::path::PathBuf| {
        let presence = match FileSystem.read(&path) {
            Ok(Some(_)) => Presence::Read,
            Ok(None) => Presence::Absent,
            Err(error) => Presence::Unreadable { reason: error.to_string() },
        };
        FileRead { path, presence }
    };
    places.map(read).collect()
}

fn line(machine: &Machine) -> LineRead {
    let listed = |words: &BTreeSet<String>| words.iter().cloned().collect::<Vec<_>>();
    LineRead {
        origin: machine.origin.to_string(),
        store: machine.store_uri.to_string(),
        systems: listed(&machine.systems).join(","),
        max_jobs: machine.max_jobs,
        speed_factor: machine.speed_factor.get(),
        supported_features: listed(&machine.supported_features),
        mandatory_features: listed(&machine.mandatory_features),
    }
}

/// Looks at the keys that lines name.
fn keys(machines: &[Machine]) -> Vec<KeyFile> {
    let of_ssh = machines.iter().filter(|machine| machine.store_uri.scheme().is_ssh());
    let named = of_ssh.filter_map(|machine| Some((machine, machine.ssh_key.as_ref()?)));
    // ssh replaces these by what they stand for
    let is_plain = |path: &Path| {
        path.to_str().is_some_and(|text| !text.starts_with('~') && !text.contains('%'))
    };
    let named = named.filter(|(_, path)| is_plain(path));
    let look = |(machine, path): (&Machine, &std::path::PathBuf)| {
        let opened = std::fs::File::open(path).and_then(|file| file.metadata());
        let state = match opened {
            Ok(found) => KeyState::Readable { mode: found.permissions().mode() },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => KeyState::Absent,
            Err(error) => KeyState::Unreadable { reason: error.to_string() },
        };
        KeyFile { origin: machine.origin.to_string(), path: path.clone(), state }
    };
    named.map(look).collect()
}

/// Asks the local store whether it trusts this user.
async fn local_trust(configuration: &Configuration, surroundings: &Surroundings) -> LocalTrust {
    let Ok(local) = LocalStore::choose(configuration) else { return LocalTrust::Unknown };
    let is_daemon = matches!(local.address, Address::Socket(_));
    if !is_daemon
        || own_store::writable_layout(&configuration.settings.store).is_ok_and(|it| it.is_some())
    {
        return LocalTrust::NoDaemon;
    }
    let store = surroundings.connector.open_local(&local, &Default::default());
    match tokio::time::timeout(surroundings.limit, store.connect()).await {
        Ok(Ok(description)) => match description.trust {
            Trust::Trusted => LocalTrust::Trusted,
            Trust::NotTrusted => LocalTrust::NotTrusted,
            Trust::Unknown => LocalTrust::Unknown,
        },
        _ => LocalTrust::Unknown,
    }
}

/// Returns what the derivations that would be built for `--for` need, each kind once.
///
/// # Errors
///
/// What can't be evaluated or read.
pub(super) async fn requirements(
    arguments: &DoctorArguments,
    configuration: &Configuration,
    terminal: &Terminal,
) -> anyhow::Result<Vec<Requirement>> {
    let derivations =
        to_build(&arguments.source(), &arguments.settings, configuration, terminal).await?;
    let mut requirements: Vec<Requirement> = Vec::new();
    for (path, derivation) in derivations {
        let features = derivation.required_system_features()?;
        let is_known =
            |known: &Requirement| known.system == derivation.system && known.features == features;
        if !requirements.iter().any(is_known) {
            let derivation_path = configuration.store_dir.display(&path);
            let system = derivation.system.clone();
            requirements.push(Requirement { derivation: derivation_path, system, features });
        }
    }
    Ok(requirements)
}
