//! The files that machines are listed in.

use std::path::PathBuf;

use anyhow::bail;

use super::lines::is_own_line;
use super::machines;
use crate::configuration::Configuration;
use crate::file_turn::{FileTurn, text_of};
use crate::host;

/// What the files are to be written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Drover is to be put into the machines file, or taken out.
    Hook,
    /// A machine is to be listed.
    Machine,
}

impl Purpose {
    /// What is done where the system's configuration makes the file.
    fn on_nixos(self) -> &'static str {
        match self {
            Purpose::Hook => "set services.drover.hook.enable there",
            Purpose::Machine => {
                "add the machine to nix.buildMachines there, or name another file by --machines-file"
            }
        }
    }

    /// What else may be done where `builders` names no file.
    fn otherwise(self) -> &'static str {
        match self {
            Purpose::Hook => "",
            Purpose::Machine => "; or name the file by --machines-file",
        }
    }
}

/// The files that are written.
pub(crate) struct Files {
    /// The machines file that stock Nix reads.
    pub(crate) machines: PathBuf,
    /// The machines behind drover's own lines, where those are there.
    pub(crate) behind: PathBuf,
}

impl Files {
    /// Returns the files.
    ///
    /// # Errors
    ///
    /// `builders` names no single file, or one that the system's configuration makes.
    pub(crate) fn of(configuration: &Configuration, purpose: Purpose) -> anyhow::Result<Files> {
        let Configuration { settings, conf, host, .. } = configuration;
        let builders = settings.builders.trim();
        let file = builders.strip_prefix('@').filter(|file| !file.contains([';', '\n', '@']));
        let Some(file) = file.map(|file| PathBuf::from(file.trim())) else {
            bail!(
                "{}: 'builders' is '{builders}'; have it name a file, such as @/etc/nix/machines, \
                 and list the machines there{}",
                conf.origin("builders"),
                purpose.otherwise()
            );
        };
        let is_of_system = fs_err::canonicalize(&file)
            .is_ok_and(|real| real.starts_with(configuration.store_dir.as_str()));
        if is_of_system {
            bail!(
                "'{}' is made by the system's configuration: on NixOS {}",
                file.display(),
                purpose.on_nixos()
            );
        }
        let behind = machines::behind(&host.environment, &file, host::user());
        Ok(Files { machines: file, behind })
    }

    /// Whether drover's own lines are in the machines file.
    ///
    /// # Errors
    ///
    /// It can't be read.
    pub(crate) fn leads_to_drover(&self) -> anyhow::Result<bool> {
        Ok(self.read_machines()?.lines().any(is_own_line))
    }

    /// Whether the file behind drover has the lines of the machines file already, below comments at the most,
    /// or no machine.
    pub(super) fn waits_for(&self, machines: &str) -> anyhow::Result<bool> {
        let is_empty = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        Ok(self.comments_behind(machines)?.lines().all(is_empty))
    }

    /// Returns the lines of the file behind drover that stay when the machines go there: those above, where it
    /// has them already, as after an installation that was interrupted.
    pub(super) fn comments_behind(&self, machines: &str) -> anyhow::Result<String> {
        let mut text = text_of(&self.behind)?;
        if let Some(above) = text.strip_suffix(machines) {
            text.truncate(above.len());
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(text)
    }

    /// Takes the turn at the machines file, in which this stood when the user was asked.
    pub(super) fn turn(&self, before: &str) -> anyhow::Result<FileTurn> {
        let turn = FileTurn::take(&self.machines)?;
        if turn.read()? != before {
            bail!(
                "'{}' has been changed meanwhile by somebody else: nothing was written; try again",
                self.machines.display()
            );
        }
        Ok(turn)
    }

    pub(super) fn read_machines(&self) -> anyhow::Result<String> {
        text_of(&self.machines)
    }
}
