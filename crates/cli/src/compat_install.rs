//! `drover compat install`: links by which drover answers to the names of Nix's programs.

use std::path::Path;

use anyhow::bail;
use drover_compat::Program;

use crate::exit::ExitStatus;
use crate::host::Host;
use crate::own_program::own_program;
use crate::terminal::Terminal;

/// Makes the links in a folder, which is made where it is missing. Links of ours are made anew;
/// nothing else is touched.
///
/// # Errors
///
/// Something else has one of the names; nothing was made then.
pub(crate) fn install(folder: &Path, terminal: &Terminal) -> anyhow::Result<ExitStatus> {
    let own = own_program(&Host::of_this_process(), terminal)?;
    fs_err::create_dir_all(folder)?;
    for program in Program::ALL {
        let link = folder.join(program.name());
        match fs_err::symlink_metadata(&link) {
            Ok(found) if !found.is_symlink() || !leads_to_drover(&link) => bail!(
                "'{}' is there already and is not a link to drover; choose another folder, or \
                 take it away",
                link.display()
            ),
            _ => {}
        }
    }
    for program in Program::ALL {
        let link = folder.join(program.name());
        if link.is_symlink() {
            fs_err::remove_file(&link)?;
        }
        fs_err::os::unix::fs::symlink(&own, &link)?;
        terminal.print(&link.display().to_string())?;
    }
    Ok(ExitStatus::SUCCESS)
}

/// Whether a link leads to a drover, be it this one or one that is gone.
fn leads_to_drover(link: &Path) -> bool {
    let target = fs_err::read_link(link).unwrap_or_default();
    target.file_name().is_some_and(|name| name == "drover")
}
