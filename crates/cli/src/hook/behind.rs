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

/// Whether a line leads to drover itself.
pub(crate) fn is_own(machine: &Machine) -> bool {
    lines::is_own(&machine.store_uri)
}
