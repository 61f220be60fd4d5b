//! What was typed of what is wanted, evaluated.

use std::path::Path;
use std::sync::Arc;

use drover_fleet::{Graph, Target};
use drover_store::{Store, Trust};
use drover_store_remote::Address;

use crate::arguments::{BuildArguments, BuildingArguments, SettingArguments, SourceArguments};
use crate::configuration::Configuration;
use crate::derivation_copy::bring_derivations;
use crate::evaluate::{Evaluator, common_arguments};
use crate::local_store::LocalStore;
use crate::terminal::Terminal;
use crate::wanted;

/// What was typed of what is wanted, and how.
pub(crate) struct Asked<'a> {
    pub(crate) source: &'a SourceArguments,
    pub(crate) settings: &'a SettingArguments,
    pub(crate) building: &'a BuildingArguments,
    pub(crate) configuration: &'a Configuration,
}

impl<'a> Asked<'a> {
    /// Returns what `drover build` was asked.
    pub(crate) fn of(arguments: &'a BuildArguments, configuration: &'a Configuration) -> Asked<'a> {
        Asked {
            source: &arguments.source,
            settings: &arguments.settings,
            building: &arguments.building,
            configuration,
        }
    }
}

/// Returns what is wanted, which is in the store then if this machine has it. `folders` are the one that the user is in and one for roots.
pub(crate) async fn wanted_targets(
    asked: Asked<'_>,
    local: &LocalStore,
    store: &dyn Store,
    (current_dir, roots): (&Path, &Path),
    terminal: &Terminal,
) -> anyhow::Result<Vec<Target>> {
    if !wanted::takes_evaluation(asked.source) {
        asked.configuration.warn_of_unknown(terminal);
    }
    let importing = import_flags(asked.building, local, store).await?;
    let evaluator = Evaluator {
        source: asked.source,
        local,
        store,
        common: common_arguments(asked.settings, &importing, local, terminal),
        roots,
    };
    let targets = wanted::targets(asked.source, &evaluator, current_dir).await?;
    bring_derivations(asked.configuration, store, &targets, terminal).await?;
    Ok(targets)
}

/// Returns what is wanted, and all that it depends on. `folders` are the one that the user is in and
/// one for roots.
pub(crate) async fn evaluate(
    asked: Asked<'_>,
    local: &LocalStore,
    store: &dyn Store,
    folders: (&Path, &Path),
    terminal: &Terminal,
) -> anyhow::Result<(Vec<Target>, Arc<Graph>)> {
    let targets = wanted_targets(asked, local, store, folders, terminal).await?;
    let derivations: Vec<_> = targets.iter().map(|target| target.derivation.clone()).collect();
    let graph = Graph::read(store, &derivations).await?;
    Ok((targets, Arc::new(graph)))
}

/// Returns what the evaluator shall know for building what an expression imports. A daemon that
/// doesn't trust this user takes no `builders`, and would say so as if it were of consequence here.
async fn import_flags<'a>(
    building: &'a BuildingArguments,
    local: &LocalStore,
    store: &dyn Store,
) -> anyhow::Result<Vec<(&'static str, &'a str)>> {
    let mut flags = Vec::new();
    flags.extend(building.max_jobs.as_deref().map(|jobs| ("--max-jobs", jobs)));
    if let Some(builders) = &building.builders {
        let is_own = matches!(local.address, Address::Local(_));
        if is_own || store.connect().await?.trust != Trust::NotTrusted {
            flags.push(("--builders", builders));
        }
    }
    Ok(flags)
}
