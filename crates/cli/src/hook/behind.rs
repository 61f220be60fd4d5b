//! The machines that stand behind the hook.

use std::path::Path;

use drover_config::{Builders, Machine, Machines, Origin, parse_machines};

use super::{lines, machines};
use crate::builders::folder_of;
use crate::configuration::{Configuration, tell};
use crate::host::FileSystem;
use crate::terminal::Terminal;

/// Returns the machines that stand behind the hook: those of its file, or where there is none yet those
/// of `builders`.
///
/// # Errors
///
/// What is wrong in the value of `builders` itself, or a file that can't be read.
pub(super) fn listed_or_configured(
    configuration: &Configuration,
    terminal: &Terminal,
) -> anyhow::Result<Vec<Machine>> {
    let file = machines::file(&configuration.host.environment);
    match file.exists() {
        true => usable(listed(configuration)?, terminal),
        false => configured(configuration, terminal),
    }
}

/// Returns the machines of `builders`, and those behind the hook in the place of it.
///
/// # Errors
///
/// What is wrong in the value of `builders` itself, or a file that can't be read.
pub(super) fn configured(
    configuration: &Configuration,
    terminal: &Terminal,
) -> anyhow::Result<Vec<Machine>> {
    let Configuration { conf, settings, host, .. } = configuration;
    let builders = Builders {
        text: &settings.builders,
        origin: conf.origin("builders"),
        default_system: &settings.system,
        dir: folder_of(conf.origin("builders"), &host.environment.current_dir),
    };
    let read = parse_machines(&builders, &FileSystem)?;
    usable(in_place_of_own(read, configuration)?, terminal)
}

/// Returns the machines that a value of `builders` comes to, whose files start from a folder, saying nothing
/// of what is wrong with it.
///
/// # Errors
///
/// What is wrong in the value itself, or a file that can't be read.
pub(crate) fn meant(
    configuration: &Configuration,
    text: &str,
    dir: &Path,
) -> anyhow::Result<Vec<Machine>> {
    let default_system = &configuration.settings.system;
    let builders = Builders { text, origin: &Origin::Default, default_system, dir };
    let read = in_place_of_own(parse_machines(&builders, &FileSystem)?, configuration)?;
    Ok(read.machines.into_iter().filter(|line| !is_own(line)).collect())
}

/// Returns machines in a form that is the same for lists that mean the same, however they are written.
pub(crate) fn as_listed(machines: &[Machine]) -> Vec<String> {
    let mut lines: Vec<String> = machines.iter().map(one_as_listed).collect();
    lines.sort_unstable();
    lines
}

fn one_as_listed(machine: &Machine) -> String {
    let Machine { store_uri, systems, ssh_key, max_jobs, speed_factor, .. } = machine;
    let Machine { supported_features, mandatory_features, public_host_key, .. } = machine;
    format!(
        "{store_uri} {systems:?} {ssh_key:?} {max_jobs} {} {supported_features:?} \
         {mandatory_features:?} {public_host_key:?}",
        speed_factor.get()
    )
}

/// Warns of what can't be used.
fn usable(read: Machines, terminal: &Terminal) -> anyhow::Result<Vec<Machine>> {
    tell(&read.notes, terminal);
    for error in read.rejected {
        terminal.warn(&format!("{:#}; it is left out", anyhow::Error::from(error)));
    }
    Ok(read.machines.into_iter().filter(|line| !is_own(line)).collect())
}

/// Reads the machines that stand behind the hook.
fn listed(configuration: &Configuration) -> anyhow::Result<Machines> {
    let Configuration { settings, host, .. } = configuration;
    let file = machines::file(&host.environment);
    let builders = Builders {
        text: &format!("@{}", file.display()),
        origin: &Origin::Default,
        default_system: &settings.system,
        dir: Path::new("/"),
    };
    Ok(parse_machines(&builders, &FileSystem)?)
}

/// Puts the machines behind the hook in the place of drover's own lines among machines: it would give
/// builds to itself otherwise.
pub(crate) fn in_place_of_own(
    mut read: Machines,
    configuration: &Configuration,
) -> anyhow::Result<Machines> {
    let Some(first) = read.machines.iter().position(is_own) else { return Ok(read) };
    read.machines.retain(|line| !is_own(line));
    let mut behind = listed(configuration)?;
    behind.machines.retain(|line| !is_own(line));
    read.machines.splice(first..first, behind.machines);
    read.rejected.extend(behind.rejected);
    read.notes.extend(behind.notes);
    Ok(read)
}

/// Returns drover's line of a number as it stands among the machines that stock Nix has; nothing where it's
/// named otherwise, such as on a command line.
pub(super) fn own_line(configuration: &Configuration, group: usize) -> Option<Machine> {
    let Configuration { conf, settings, host, .. } = configuration;
    let origin = conf.origin("builders");
    let builders = Builders {
        text: &settings.builders,
        origin,
        default_system: &settings.system,
        dir: folder_of(origin, &host.environment.current_dir),
    };
    let read = parse_machines(&builders, &FileSystem).ok()?;
    read.machines.into_iter().find(|line| lines::group_of(&line.store_uri) == Some(group))
}

/// Whether a line leads to drover itself.
pub(crate) fn is_own(machine: &Machine) -> bool {
    lines::is_own(&machine.store_uri)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;

    fn listed(text: &str) -> Vec<String> {
        let (origin, default_system) = (&Origin::Default, "x86_64-linux");
        let builders = Builders { text, origin, default_system, dir: Path::new("/") };
        let none = BTreeMap::<PathBuf, String>::new();
        as_listed(&parse_machines(&builders, &none).unwrap().machines)
    }

    #[test]
    fn lists_that_mean_the_same_are_alike() {
        let one = listed("ssh-ng://a x86_64-linux - 2 1 kvm,big; ssh://b");
        assert_eq!(one, listed("b  x86_64-linux\nssh-ng://a - - 2 1 big,kvm # near"));
        for other in [
            "ssh-ng://a - - 3 1 big,kvm; b",
            "ssh-ng://a - - 2 1 big; b",
            "ssh://b",
            "ssh-ng://a - /key 2 1 big,kvm; b",
        ] {
            assert_ne!(one, listed(other), "{other}");
        }
    }
}
