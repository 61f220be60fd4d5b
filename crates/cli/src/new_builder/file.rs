//! The file that a machine is written into.

use std::path::{Path, PathBuf};

use anyhow::bail;
use drover_config::{Builders, Machine, Origin, StoreReference, parse_machines};
use drover_doctor::{MachineLine, appended};

use super::arguments::LineArguments;
use crate::configuration::Configuration;
use crate::file_turn::{self, FileTurn};
use crate::hook::{MachinesFiles, Purpose};
use crate::host::FileSystem;

/// Returns the file that machines are listed in: where drover stands in the machines file, that of
/// the machines behind it.
///
/// # Errors
///
/// `builders` names no single file, or one that can't be written by hand.
pub(super) fn choose(
    arguments: &LineArguments,
    configuration: &Configuration,
) -> anyhow::Result<PathBuf> {
    if let Some(file) = &arguments.machines_file {
        return Ok(configuration.host.environment.current_dir.join(file));
    }
    let files = MachinesFiles::of(configuration, Purpose::Machine)?;
    Ok(match files.leads_to_drover()? {
        true => files.behind,
        false => files.machines,
    })
}

/// Returns the machine of a host, if the file has it.
///
/// # Errors
///
/// The file can't be read.
pub(super) fn listed(
    file: &Path,
    store: &StoreReference,
    configuration: &Configuration,
) -> anyhow::Result<Option<Machine>> {
    let builders = Builders {
        text: &format!("@{}", file.display()),
        origin: &Origin::Default,
        default_system: &configuration.settings.system,
        dir: Path::new("/"),
    };
    let read = parse_machines(&builders, &FileSystem)?;
    let is_it = |machine: &Machine| {
        machine.store_uri.scheme().is_ssh()
            && !machine.store_uri.is_without_ssh()
            && machine.store_uri.authority() == store.authority()
    };
    Ok(read.machines.into_iter().find(is_it))
}

/// Checks that the file can be written by this user.
///
/// # Errors
///
/// It can't.
pub(super) fn check_writable(file: &Path) -> anyhow::Result<()> {
    file_turn::check_writable(file, ", or name another file by --machines-file")
}

/// Checks that a machine isn't in the file yet.
///
/// # Errors
///
/// It is, or its line can't be written.
pub(super) fn check_absent(file: &Path, line: &MachineLine) -> anyhow::Result<()> {
    let before = file_turn::text_of(file)?;
    with_line(file, &before, line).map(drop)
}

/// Puts the machine's line behind those that are in the file, whoever else does the same; the file is
/// written whole or not at all.
///
/// # Errors
///
/// The machine is there already, or it can't be written; what was there is there.
pub(super) fn add(file: &Path, line: &MachineLine) -> anyhow::Result<()> {
    let turn = FileTurn::take(file)?;
    turn.replace(&with_line(file, &turn.read()?, line)?)
}

fn with_line(file: &Path, before: &str, line: &MachineLine) -> anyhow::Result<String> {
    match appended(before, line) {
        Ok(text) => Ok(text),
        Err(error) => bail!("{}: {error}", file.display()),
    }
}
