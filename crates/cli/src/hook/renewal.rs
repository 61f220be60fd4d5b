//! Whether drover's lines in the machines file still say what stands behind them, and their renewal.
//!
//! Stock Nix asks drover only for what a line says that there is: a machine of another system or with
//! another feature takes a line that says so.

use std::path::{Path, PathBuf};

use anyhow::bail;
use drover_config::{Builders, Machine, Origin, parse_machines};
use drover_doctor::HookLines;

use super::files::{Files, Purpose};
use super::install::program;
use super::lines::{HEADER, is_own_line};
use super::{behind, lines};
use crate::configuration::Configuration;
use crate::host::FileSystem;
use crate::terminal::Terminal;

/// What became of the lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// None are in the machines file.
    NoLines,
    /// They say what is there.
    AsTheyWere,
    /// They do now, in this file.
    Renewed(PathBuf),
}

/// Has drover's lines in the machines file say what is behind them.
///
/// # Errors
///
/// Others stand beside them, or the file can't be written.
pub(crate) fn renew(configuration: &Configuration, terminal: &Terminal) -> anyhow::Result<Renewal> {
    let files = Files::of(configuration, Purpose::Machine)?;
    let before = files.read_machines()?;
    let ours: Vec<&str> = before.lines().filter(|line| is_own_line(line)).collect();
    let Some(first) = ours.first() else { return Ok(Renewal::NoLines) };
    let store = first.split_whitespace().next().unwrap_or_default().parse()?;
    // the drover that is there stays the one that is asked
    let program = match lines::program_of(&store).filter(|program| program.is_file()) {
        Some(program) => program,
        None => program(configuration, terminal)?,
    };
    let machines = behind::listed_or_configured(configuration, &terminal.silent())?;
    let wanted = lines::lines(&machines, &program);
    if wanted == ours {
        return Ok(Renewal::AsTheyWere);
    }
    if lines::others(&before).next().is_some() {
        bail!("other lines stand beside drover's in '{}'", files.machines.display());
    }
    let text: String = wanted.iter().map(|line| format!("{line}\n")).collect();
    files.turn(&before)?.replace(&format!("{HEADER}{text}"))?;
    Ok(Renewal::Renewed(files.machines))
}

/// Returns what is to be judged of drover's own lines, where there are any.
pub(crate) fn own_lines(own: &[&Machine], configuration: &Configuration) -> Option<HookLines> {
    let first = own.first()?;
    let program = lines::program_of(&first.store_uri)?;
    let silent = Terminal::new(&Default::default()).silent();
    // what can't be read is told otherwise
    let machines = behind::listed_or_configured(configuration, &silent).unwrap_or_default();
    let wanted = lines::lines(&machines, &program).join("\n");
    let builders = Builders {
        text: &wanted,
        origin: &Origin::Default,
        default_system: &configuration.settings.system,
        dir: Path::new("/"),
    };
    let wanted = parse_machines(&builders, &FileSystem).ok()?.machines;
    Some(HookLines {
        origin: first.origin.to_string(),
        are_current: own.len() == wanted.len()
            && own.iter().zip(&wanted).all(|(own, wanted)| says_the_same(own, wanted)),
        is_there: program.is_file(),
        program,
    })
}

fn says_the_same(own: &Machine, wanted: &Machine) -> bool {
    let said = |line: &Machine| {
        (
            line.store_uri.clone(),
            (line.systems.clone(), line.max_jobs),
            (line.supported_features.clone(), line.mandatory_features.clone()),
        )
    };
    said(own) == said(wanted)
}
