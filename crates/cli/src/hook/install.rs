//! Puts drover into the machines file, and takes it out again.
//!
//! The lines that were there are kept as they are, comments and all, in the file of the machines behind
//! the hook; taking drover out puts them back.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::bail;
use drover_config::Machine;

use super::arguments::{InstallArguments, LineArguments};
use super::files::{Files, Purpose};
use super::lines::{HEADER, is_own_line};
use super::{behind, lines, machines};
use crate::configuration::Configuration;
use crate::exit::ExitStatus;
use crate::file_turn::{FileTurn, check_writable, text_of};
use crate::own_program::own_program;
use crate::terminal::Terminal;

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
    for line in lines::lines(&machines, &program(&configuration, terminal)?) {
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
pub(super) fn program(
    configuration: &Configuration,
    terminal: &Terminal,
) -> anyhow::Result<PathBuf> {
    let program = own_program(&configuration.host, terminal)?;
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
    let files = Files::of(&configuration, Purpose::Hook)?;
    check_writable(&files.machines, "")?;
    check_writable(&files.behind, "")?;
    let before = files.read_machines()?;
    let found = behind::configured(&configuration, terminal)?;
    let (kept, behind) =
        Behind { files: &files, before: &before, found }.sort(&configuration, terminal)?;
    if behind.is_empty() {
        bail!("{}", no_machines(&files.behind));
    }
    let ours: String = lines::lines(&behind, &program(&configuration, terminal)?)
        .iter()
        .map(|line| format!("{line}\n"))
        .collect();
    let what = match before.lines().any(is_own_line) {
        true => format!("the {} behind it: {}", counted(behind.len()), files.behind.display()),
        false => format!(
            "and the {} to {}, where drover finds {}",
            counted_moves(behind.len()),
            files.behind.display(),
            if behind.len() == 1 { "it" } else { "them" }
        ),
    };
    terminal.info(&format!("{} gets\n{HEADER}{ours}{what}", files.machines.display()));
    confirm(arguments)?;
    let turn = files.turn(&before)?;
    // nothing is lost whatever happens in between: the machines come first
    FileTurn::take_beside(&turn, &files.behind)?.replace_from(&turn, &kept)?;
    turn.replace(&format!("{HEADER}{ours}"))?;
    terminal.info("done; Nix reads it for its next build, and `drover hook uninstall` undoes it");
    Ok(ExitStatus::SUCCESS)
}

/// The machines that are to stand behind the hook, wherever they stand now.
struct Behind<'a> {
    files: &'a Files,
    /// What is in the machines file.
    before: &'a str,
    /// The machines of `builders`.
    found: Vec<Machine>,
}

impl Behind<'_> {
    /// Returns the text of the file behind the hook, and its machines.
    fn sort(
        self,
        configuration: &Configuration,
        terminal: &Terminal,
    ) -> anyhow::Result<(String, Vec<Machine>)> {
        let Behind { files, before, found } = self;
        Ok(match (before.lines().any(is_own_line), files.behind.exists()) {
            // machines may have changed meanwhile
            (true, true) => (with_others(&text_of(&files.behind)?, before), found),
            (true, false) => bail!(
                "'{}' leads to drover, but its own machines are not listed: there is no '{}'",
                files.machines.display(),
                files.behind.display()
            ),
            (false, true) if !found.is_empty() && files.waits_for(before)? => {
                (files.comments_behind(before)? + before, found)
            }
            (false, true) if !found.is_empty() => bail!(
                "machines are listed in '{}' and in '{}': put all of them into the latter, and empty the \
                 former",
                files.machines.display(),
                files.behind.display()
            ),
            (false, true) => {
                (text_of(&files.behind)?, behind::listed_or_configured(configuration, terminal)?)
            }
            (false, false) => (before.to_owned(), found),
        })
    }
}

fn counted_moves(machines: usize) -> String {
    match machines {
        1 => "machine listed there goes".to_owned(),
        count => format!("{count} machines listed there go"),
    }
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
    let files = Files::of(&configuration, Purpose::Hook)?;
    check_writable(&files.machines, "")?;
    if !files.leads_to_drover()? {
        // one that was interrupted behind its first step
        if files.behind.exists() && text_of(&files.behind)? == files.read_machines()? {
            terminal.info(&format!(
                "{} doesn't lead to drover, and {} says the same, as where 'drover hook install' was \
                 interrupted: the latter goes",
                files.machines.display(),
                files.behind.display()
            ));
            confirm(arguments)?;
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
    let mut text = kept.to_owned();
    for line in lines::others(machines) {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(line);
        text.push('\n');
    }
    text
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
}
