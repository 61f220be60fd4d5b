//! `nix-store --realise`, and the links that keep its results.
//!
//! Follows `opRealise` and `realisePath` (`src/nix/nix-store/nix-store.cc`) of Nix.

use std::collections::BTreeSet;
use std::path::PathBuf;

use drover_core::StorePath;
use drover_store::{BuildMode, Wanted};

use super::request::{Realise, Rehearsal, Results, Unknown};
use super::run::{Session, read_derivation};
use crate::closure::path_info;
use crate::error::CompatError;
use crate::installable::{PathWithOutputs, absolute};
use crate::options::RootWarning;
use crate::realise::Work;

/// The links that keep results: the one that was asked for, and `-2`, `-3` for further ones.
pub(super) struct Roots {
    first: Option<PathBuf>,
    number: usize,
    warning: Warning,
}

enum Warning {
    Due,
    Given,
}

impl Roots {
    pub(super) fn new(first: Option<PathBuf>) -> Roots {
        Roots { first, number: 0, warning: Warning::Due }
    }

    /// Goes on to the next result.
    fn next(&mut self) {
        self.number += 1;
    }

    /// Keeps an output of the current result, and returns what is printed for it: the link, or the
    /// path where none was asked for.
    async fn keep(
        &mut self,
        session: &mut Session<'_>,
        path: &StorePath,
        output: &str,
    ) -> Result<String, CompatError> {
        let Some(first) = &self.first else {
            let is_due = matches!(self.warning, Warning::Due);
            if is_due && session.options.root_warning == RootWarning::Once {
                self.warning = Warning::Given;
                let text = "you did not specify '--add-root'; the result might be removed by the \
                            garbage collector";
                session.console.warn(text).await?;
            }
            return Ok(session.shown(path));
        };
        let mut link = absolute(first, &session.host.working_dir()).into_os_string();
        if self.number > 1 {
            link.push(format!("-{}", self.number));
        }
        if output != "out" {
            link.push(format!("-{output}"));
        }
        let link = crate::options::text(link)?;
        Ok(session.store.add_permanent_root(path, &link).await?)
    }
}

/// Makes paths valid and prints them.
pub(super) async fn realise(
    session: &mut Session<'_>,
    realise: Realise,
    results: Results,
    mut roots: Roots,
) -> Result<(), CompatError> {
    let mut paths = Vec::new();
    for argument in &realise.paths {
        let base = session.host.working_dir();
        let store_dir = session.store.store_dir();
        paths.push(PathWithOutputs::follow(store_dir, argument, b'!', &base)?);
    }
    let work = Work::new(session.host, session.options, session.store.clone()).await?;
    let mut missing = work.missing(paths.iter().map(PathWithOutputs::wanted).collect()).await?;
    if realise.unknown == Unknown::Ignore {
        paths.retain(|path| !missing.unknown.contains(&path.path));
        missing.unknown.clear();
    }
    work.print_missing(&missing, &mut session.console).await?;
    if realise.rehearsal == Rehearsal::Yes {
        return Ok(());
    }
    let wanted = paths.iter().map(PathWithOutputs::wanted).collect();
    work.realise(wanted, realise.mode, &mut session.console).await?;
    if realise.unknown == Unknown::Ignore {
        return Ok(());
    }
    for path in paths {
        for kept in keep(session, path, &mut roots).await? {
            if results == Results::Printed {
                session.console.line(kept).await?;
            }
        }
    }
    Ok(())
}

/// Makes one path valid before something is asked of it.
pub(super) async fn force(
    session: &mut Session<'_>,
    path: &StorePath,
    roots: &mut Roots,
) -> Result<(), CompatError> {
    let path = PathWithOutputs { path: path.clone(), outputs: Vec::new() };
    let work = Work::new(session.host, session.options, session.store.clone()).await?;
    let wanted: Vec<Wanted> = vec![path.wanted()];
    work.realise(wanted, BuildMode::Normal, &mut session.console).await?;
    keep(session, path, roots).await?;
    Ok(())
}

/// Keeps what a path stands for, and returns what is printed for it, sorted.
async fn keep(
    session: &mut Session<'_>,
    path: PathWithOutputs,
    roots: &mut Roots,
) -> Result<BTreeSet<String>, CompatError> {
    roots.next();
    let PathWithOutputs { path, mut outputs } = path;
    if !path.is_derivation() {
        path_info(&*session.store, &path).await?;
        return Ok([roots.keep(session, &path, "out").await?].into());
    }
    let known = session.store.output_map(&path).await?;
    let derivation = read_derivation(&*session.store, &path).await?;
    if outputs.is_empty() {
        outputs.extend(derivation.outputs.keys().map(|output| output.as_str().to_owned()));
    }
    let mut kept = BTreeSet::new();
    for output in outputs {
        let shown = session.shown(&path);
        let found = known.get(&output).ok_or_else(|| {
            CompatError::failed(format!(
                "derivation '{shown}' does not have an output named '{output}'"
            ))
        })?;
        let found = found.clone().ok_or_else(|| {
            CompatError::failed(format!(
                "derivation '{shown}' has no known path for its output '{output}'"
            ))
        })?;
        kept.insert(roots.keep(session, &found, &output).await?);
    }
    Ok(kept)
}
