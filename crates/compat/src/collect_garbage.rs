//! `nix-collect-garbage`.
//!
//! Follows `src/nix/nix-collect-garbage/nix-collect-garbage.cc` of Nix.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use drover_config::User;
use drover_store::CollectAction;
use tokio::task::JoinSet;

use crate::command::{Parsed, information};
use crate::console::Console;
use crate::error::CompatError;
use crate::exit::ExitStatus;
use crate::garbage;
use crate::host::{Host, Switch};
use crate::installable::absolute;
use crate::nix_store::Rehearsal;
use crate::options::{Options, Taken, Verbosity, parse_command_line, whole_number};
use crate::profile::{self, Old};

/// Which generations of profiles go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generations {
    /// None.
    Keep,
    /// All but the current ones (`-d`).
    DeleteOld,
    /// Those that were no longer current so many days ago (`--delete-older-than 14d`).
    DeleteOlderThan {
        /// Days.
        days: u32,
    },
}

/// A call of `nix-collect-garbage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectGarbage {
    /// Which generations of profiles go first.
    pub generations: Generations,
    /// Bytes after which it ends.
    pub max_freed: Option<u64>,
    /// Whether it is done or only told.
    pub rehearsal: Rehearsal,
}

/// Parses the arguments of `nix-collect-garbage`.
pub(crate) fn parse(arguments: Vec<OsString>) -> Result<Parsed<CollectGarbage>, CompatError> {
    let mut request = CollectGarbage {
        generations: Generations::Keep,
        max_freed: None,
        rehearsal: Rehearsal::No,
    };
    let mut asked = None;
    let options = parse_command_line(arguments, |argument, cursor| {
        let flag = argument.to_str().unwrap_or_default();
        match flag {
            "--delete-old" | "-d" if request.generations == Generations::Keep => {
                request.generations = Generations::DeleteOld;
            }
            "--delete-old" | "-d" => {}
            "--delete-older-than" => {
                let days = days(&cursor.text(argument)?)?;
                request.generations = Generations::DeleteOlderThan { days };
            }
            "--dry-run" => request.rehearsal = Rehearsal::Yes,
            "--max-freed" => {
                let limit = cursor.text(argument)?;
                request.max_freed = Some(match limit.strip_prefix('-') {
                    Some(number) => whole_number(number).map(|_| 0)?,
                    None => whole_number(&limit)?,
                });
            }
            _ => return Ok(information(flag, &mut asked)),
        }
        Ok(Taken::Yes)
    })?;
    if request.max_freed.is_some() && request.rehearsal == Rehearsal::Yes {
        let rule = "options --max-freed and --dry-run cannot be combined";
        return Err(CompatError::usage(rule));
    }
    Ok(Parsed::new(options, asked, request))
}

fn days(text: &str) -> Result<u32, CompatError> {
    let Some(number) = text.strip_suffix('d') else {
        return Err(CompatError::usage(format!(
            "invalid number of days specifier '{text}', expected something like '14d'"
        )));
    };
    let days = number.parse().ok().filter(|days| *days > 0);
    days.ok_or_else(|| CompatError::usage(format!("invalid number of days specifier '{text}'")))
}

/// Deletes generations, then collects garbage.
pub(crate) async fn run(
    request: CollectGarbage,
    options: &Options,
    host: &dyn Host,
) -> Result<ExitStatus, CompatError> {
    let mut console = Console::of(host, options);
    if let Some(old) = old(request.generations) {
        for folder in profile_folders(host, options)? {
            remove_generations(&folder, old, request.rehearsal, &mut console).await?;
        }
    }
    let store = host.keeper(None, options).await?;
    match request.rehearsal {
        Rehearsal::Yes => garbage::rehearse(&*store, &mut console).await?,
        Rehearsal::No => {
            let collection = garbage::whole(CollectAction::DeleteDead, request.max_freed);
            let outcome = garbage::delete(&*store, collection, &mut console).await;
            console.flush().await?;
            outcome?;
        }
    }
    console.flush().await?;
    Ok(ExitStatus::SUCCESS)
}

fn old(generations: Generations) -> Option<Old> {
    const DAY: u64 = 24 * 3600;
    match generations {
        Generations::Keep => None,
        Generations::DeleteOld => Some(Old::NotCurrent),
        Generations::DeleteOlderThan { days } => {
            let age = Duration::from_secs(u64::from(days) * DAY);
            let before = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
            Some(Old::Before(before))
        }
    }
}

/// Returns where profiles are: the user's, those of the whole system, and the one that the user's
/// environment comes from.
fn profile_folders(host: &dyn Host, options: &Options) -> Result<BTreeSet<PathBuf>, CompatError> {
    let folder = |name| host.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let (home, state) = (folder("HOME"), host.state_dir());
    let user_state = folder("XDG_STATE_HOME");
    let user_state = user_state.or_else(|| Some(home.as_ref()?.join(".local/state")));
    let user_state = user_state.map(|state| state.join("nix"));
    let own = match host.user() {
        User::Root => Some(state.join("profiles/per-user/root")),
        User::Other => user_state.as_ref().map(|state| state.join("profiles")),
    };
    let link = match host.settings(options)?.switch("use-xdg-base-directories", Switch::Off) {
        Switch::On => user_state.map(|state| state.join("profile")),
        Switch::Off => home.map(|home| home.join(".nix-profile")),
    };
    Ok([own, Some(state.join("profiles")), link.as_deref().and_then(behind)]
        .into_iter()
        .flatten()
        .collect())
}

/// Returns the folder of the profile that a link leads to. What is no link leads nowhere: the folder that
/// it is in has other things, too.
fn behind(link: &Path) -> Option<PathBuf> {
    let target = std::fs::read_link(link).ok()?;
    Some(absolute(&target, link.parent()?).parent()?.to_owned())
}

/// Deletes old generations of all profiles in a folder and the folders below.
async fn remove_generations(
    folder: &Path,
    old: Old,
    rehearsal: Rehearsal,
    console: &mut Console,
) -> Result<(), CompatError> {
    for profile in profile::find_profiles(folder)? {
        let line = format!("removing old generations of profile {}", profile.display());
        console.say(Verbosity::INFO, &line).await?;
        let mut work = JoinSet::new();
        work.spawn_blocking(move || profile::remove_old(&profile, old, rehearsal));
        let Some(Ok(removed)) = work.join_next().await else {
            return Err(CompatError::failed("removing generations was given up"));
        };
        for number in removed? {
            let line = match rehearsal {
                Rehearsal::Yes => format!("would remove profile version {number}"),
                Rehearsal::No => format!("removing profile version {number}"),
            };
            console.say(Verbosity::NOTICE, &line).await?;
        }
    }
    Ok(())
}
