//! Puts drover into the machines file, and takes it out again.
//!
//! The lines that were there are kept as they are, comments and all, in the file of the machines behind
//! the hook; taking drover out puts them back.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use drover_config::Machine;

use super::arguments::{InstallArguments, LineArguments};
use super::{behind, lines, machines};
use crate::configuration::Configuration;
use crate::exit::ExitStatus;
use crate::file_turn::{FileTurn, text_of};
use crate::host;
use crate::terminal::Terminal;

/// What stands above our lines.
const HEADER: &str = "# drover builds for this machine (drover hook install).\n";

/// Prints the lines for the machines file.
///
/// # Errors
///
/// Settings or machines that can't be read.
pub(super) fn print(arguments: &LineArguments, terminal: &Terminal) -> anyhow::Result<ExitStatus> {
    let configuration = Configuration::load(&arguments.settings.overrides(), terminal)?;
    let machines = behind::listed_or_configured(&configuration, terminal)?;
    if machines.is_empty() {
        terminal.error(&no_machines(&machines::file(&configuration.host.environment)));
        return Ok(ExitStatus::GENERAL);
    }
    for line in lines::lines(&machines, &program()?) {
        terminal.print(&line)?;
    }
    Ok(ExitStatus::SUCCESS)
}

fn no_machines(file: &Path) -> String {
    let file = file.display();
    format!(
        "no machines are configured: list them in '{file}', a line each as in /etc/nix/machines"
    )
}

/// Returns this very program as it's called, so that an update in its place counts.
fn program() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find drover's own file")?;
    // Nix takes what stands in a line apart at blanks
    if program.display().to_string().contains(char::is_whitespace) {
        bail!(
            "'{}' has blanks in its path, which a machines file can't name: put drover elsewhere, such as \
             into /usr/local/bin",
            program.display()
        );
    }
    Ok(program)
}

/// Puts drover in the place of the machines.
///
/// # Errors
///
/// The machines aren't in a file that can be written, or the user doesn't want it.
pub(super) fn install(
    arguments: &InstallArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let configuration = Configuration::load(&arguments.settings.overrides(), terminal)?;
    let files = Files::of(&configuration)?;
    let before = files.read_machines()?;
    let found = behind::configured(&configuration, terminal)?;
    let is_there = before.lines().any(lines::is_own_line);
    let (kept, behind): (String, Vec<Machine>) = match (is_there, files.behind.exists()) {
        // machines may have changed meanwhile
        (true, true) => (with_others(&text_of(&files.behind)?, &before), found),
        (true, false) => bail!(
            "'{}' leads to drover, but its own machines are not listed: there is no '{}'",
            files.machines.display(),
            files.behind.display()
        ),
        // one that was interrupted behind its first step, or a file that nobody has filled
        (false, true) if !found.is_empty() && files.waits_for(&before)? => (before.clone(), found),
        (false, true) if !found.is_empty() => bail!(
            "machines are listed in '{}' and in '{}': put all of them into the latter, and empty the \
             former",
            files.machines.display(),
            files.behind.display()
        ),
        (false, true) => {
            (text_of(&files.behind)?, behind::listed_or_configured(&configuration, terminal)?)
        }
        (false, false) => (before.clone(), found),
    };
    if behind.is_empty() {
        bail!("{}", no_machines(&files.behind));
    }
    let ours: String =
        lines::lines(&behind, &program()?).iter().map(|line| format!("{line}\n")).collect();
    terminal.info(&format!(
        "{} gets\n{HEADER}{ours}and the {} listed there go to {}, where drover finds them",
        files.machines.display(),
        counted(behind.len()),
        files.behind.display()
    ));
    confirm(arguments)?;
    let turn = files.turn(&before)?;
    // nothing is lost whatever happens in between: the machines come first
    FileTurn::take_beside(&turn, &files.behind)?.replace(&kept)?;
    turn.replace(&format!("{HEADER}{ours}"))?;
    terminal.info("done; Nix reads it for its next build, and `drover hook uninstall` undoes it");
    Ok(ExitStatus::SUCCESS)
}

fn counted(machines: usize) -> String {
    match machines {
        1 => "machine".to_owned(),
        count => format!("{count} machines"),
    }
}

/// Puts the machines back.
///
/// # Errors
///
/// Drover isn't there, or files can't be written.
pub(super) fn uninstall(
    arguments: &InstallArguments,
    terminal: &Terminal,
) -> anyhow::Result<ExitStatus> {
    let configuration = Configuration::load(&arguments.settings.overrides(), terminal)?;
    let files = Files::of(&configuration)?;
    if !files.leads_to_drover()? {
        // one that was interrupted behind its first step
        if files.behind.exists() && text_of(&files.behind)? == files.read_machines()? {
            fs_err::remove_file(&files.behind)?;
            return Ok(ExitStatus::SUCCESS);
        }
        bail!("'{}' does not lead to drover", files.machines.display());
    }
    let behind = text_of(&files.behind)?;
    let before = files.read_machines()?;
    let kept = with_others(&behind, &before);
    terminal.info(&format!(
        "{} gets back what is in {}, which goes",
        files.machines.display(),
        files.behind.display()
    ));
    confirm(arguments)?;
    files.turn(&before)?.replace(&kept)?;
    if files.behind.exists() {
        fs_err::remove_file(&files.behind)?;
    }
    Ok(ExitStatus::SUCCESS)
}

/// Adds the lines that somebody has put beside ours.
fn with_others(kept: &str, machines: &str) -> String {
    let is_other =
        |line: &&str| !lines::is_own_line(line) && *line != HEADER.trim_end() && !line.is_empty();
    let mut text = kept.to_owned();
    for line in machines.lines().filter(is_other) {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(line);
        text.push('\n');
    }
    text
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
    pub(crate) fn of(configuration: &Configuration) -> anyhow::Result<Files> {
        let Configuration { settings, conf, host, .. } = configuration;
        let builders = settings.builders.trim();
        let file = builders.strip_prefix('@').filter(|file| !file.contains([';', '\n', '@']));
        let Some(file) = file.map(|file| PathBuf::from(file.trim())) else {
            bail!(
                "{}: 'builders' is '{builders}'; have it name a file, such as @/etc/nix/machines, \
                 and list the machines there",
                conf.origin("builders")
            );
        };
        let is_of_system = fs_err::canonicalize(&file)
            .is_ok_and(|real| real.starts_with(configuration.store_dir.as_str()));
        if is_of_system {
            bail!(
                "'{}' is made by the system's configuration: on NixOS set services.drover.hook.enable there",
                file.display()
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
        Ok(self.read_machines()?.lines().any(lines::is_own_line))
    }

    /// Whether the file behind drover has the lines of the machines file already, or no machine.
    fn waits_for(&self, machines: &str) -> anyhow::Result<bool> {
        let text = text_of(&self.behind)?;
        let is_empty = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        Ok(text == machines || text.lines().all(is_empty))
    }

    /// Takes the turn at the machines file, in which this stood when the user was asked.
    fn turn(&self, before: &str) -> anyhow::Result<FileTurn> {
        let turn = FileTurn::take(&self.machines)?;
        if turn.read()? != before {
            bail!(
                "'{}' has been changed meanwhile by somebody else: nothing was written; try again",
                self.machines.display()
            );
        }
        Ok(turn)
    }

    fn read_machines(&self) -> anyhow::Result<String> {
        text_of(&self.machines)
    }
}

fn confirm(arguments: &InstallArguments) -> anyhow::Result<()> {
    if arguments.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("nobody is there to be asked: --yes does it without asking");
    }
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "Do it? [y/N] ").and_then(|()| stderr.flush())?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was changed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beside_ours_are_kept() {
        let ours = "ssh-ng://localhost?remote-program=/d%20hook%20connect x86_64-linux";
        let machines = format!("{HEADER}{ours}\nssh://c # new\n");
        assert_eq!(with_others("ssh://a\n", &machines), "ssh://a\nssh://c # new\n");
        assert_eq!(with_others("ssh://a", &format!("{HEADER}{ours}\n")), "ssh://a");
    }

    #[test]
    fn knows_its_own_lines() {
        assert!(lines::is_own_line(
            "ssh-ng://localhost?remote-program=/d%20hook%20connect x86_64-linux"
        ));
        assert!(!lines::is_own_line("# ssh-ng://localhost?remote-program=/d%20hook%20connect"));
        assert!(!lines::is_own_line("ssh://b1"));
    }
}
