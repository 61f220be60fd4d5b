//! The machines that are listed, and those that are to be examined.

use anyhow::{Context as _, bail};
use drover_config::{Builders, Machine, Machines, Origin, StoreReference, parse_machines};

use crate::builders::folder_of;
use crate::configuration::Configuration;
use crate::hook::behind::{in_place_of_own, is_own};
use crate::host::FileSystem;

/// What `builders` has come to.
pub(super) struct Listed {
    /// As stock Nix reads it.
    pub(super) as_written: Machines,
    /// With the machines behind drover's own lines in the place of those.
    pub(super) machines: Machines,
}

impl Listed {
    /// Returns drover's own lines.
    pub(super) fn own_lines(&self) -> impl Iterator<Item = &Machine> {
        self.as_written.machines.iter().filter(|machine| is_own(machine))
    }
}

/// Reads the value of `builders`.
///
/// # Errors
///
/// What is wrong in the value itself.
pub(super) fn machines(configuration: &Configuration) -> anyhow::Result<Listed> {
    let read = || parse(&configuration.settings.builders, configuration);
    let machines = in_place_of_own(read()?, configuration)?;
    Ok(Listed { as_written: read()?, machines })
}

fn parse(text: &str, configuration: &Configuration) -> anyhow::Result<Machines> {
    let Configuration { conf, settings, host, .. } = configuration;
    let origin = conf.origin("builders");
    let builders = Builders {
        text,
        origin,
        default_system: &settings.system,
        dir: folder_of(origin, &host.environment.current_dir),
    };
    Ok(parse_machines(&builders, &FileSystem)?)
}

/// Returns the machines that are to be examined: all where none are named.
///
/// # Errors
///
/// A name that is neither a listed machine's nor an address.
pub(super) fn chosen(
    names: &[String],
    listed: &Listed,
    configuration: &Configuration,
) -> anyhow::Result<Vec<Machine>> {
    let all = &listed.machines.machines;
    if names.is_empty() {
        return Ok(all.clone());
    }
    let mut chosen: Vec<Machine> = Vec::new();
    for name in names {
        let mut found: Vec<Machine> =
            all.iter().filter(|machine| is_called(machine, name)).cloned().collect();
        if found.is_empty()
            && let Some(address) = as_address(name)
        {
            found.push(unlisted(&address, configuration)?);
        }
        if found.is_empty() {
            let names: Vec<String> =
                all.iter().map(|machine| machine.store_uri.to_string()).collect();
            let listed = match names.is_empty() {
                true => "no machine is listed".to_owned(),
                false => format!("listed are {}", names.join(", ")),
            };
            bail!(
                "no machine is called '{name}': {listed}; one that isn't listed is called HOST, USER@HOST or \
                 ssh-ng://HOST"
            );
        }
        for machine in found {
            if !chosen.contains(&machine) {
                chosen.push(machine);
            }
        }
    }
    Ok(chosen)
}

/// Returns the address that a name which isn't listed stands for, as for `drover builder add`.
fn as_address(name: &str) -> Option<String> {
    if name.contains("://") {
        return Some(name.to_owned());
    }
    let address = format!("ssh-ng://{name}");
    let store: StoreReference = address.parse().ok()?;
    let is_word = !name.starts_with('-') && !name.contains(|c: char| c.is_whitespace() || c == '/');
    (is_word && !store.is_without_ssh()).then_some(address)
}

fn is_called(machine: &Machine, name: &str) -> bool {
    let store = &machine.store_uri;
    let authority = store.authority();
    let is_host = authority.is_some_and(|authority| {
        authority.host.to_string() == name || authority.to_string() == name
    });
    is_host || name.parse().is_ok_and(|named: StoreReference| named == *store)
}

/// Returns the machine of an address that is in no line.
fn unlisted(name: &str, configuration: &Configuration) -> anyhow::Result<Machine> {
    let builders = Builders {
        text: name,
        origin: &Origin::CommandLine { flag: "not listed".into() },
        default_system: &configuration.settings.system,
        dir: &configuration.host.environment.current_dir,
    };
    let read = parse_machines(&builders, &FileSystem)?;
    read.machines.into_iter().next().with_context(|| format!("'{name}' names no machine"))
}
