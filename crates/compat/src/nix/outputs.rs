//! Outputs of derivations that are there, as `DRV^out,dev` and `DRV^*` name them.

use std::ffi::OsStr;

use drover_config::StoreReference;
use drover_core::{DrvOutput, OutputName, Realisation, StorePath};
use drover_store::{Keeper, Substitute};

use super::run::{Session, Stop};
use crate::error::CompatError;
use crate::installable::PathWithOutputs;
use crate::nix_store::read_derivation;

/// Outputs of derivations.
#[derive(Default)]
pub(super) struct Outputs {
    pub(super) paths: Vec<StorePath>,
    /// What those became whose paths don't follow from the derivation.
    pub(super) realised: Vec<Realisation>,
}

impl Session<'_> {
    /// Returns outputs in a store. To build what isn't there is left to the real one.
    pub(super) async fn outputs(
        &self,
        store: Option<&StoreReference>,
        argument: &OsStr,
    ) -> Result<Outputs, Stop> {
        let real = |text: String| Stop::ForTheReal(CompatError::failed(text));
        let keeper = self.host.keeper(store, self.options).await?.session().await?;
        let base = self.host.working_dir();
        let PathWithOutputs { path, outputs: wanted } =
            PathWithOutputs::follow(keeper.store_dir(), argument, b'^', &base)
                .map_err(Stop::ForTheReal)?;
        let shown = keeper.store_dir().display(&path);
        let derivation = read_derivation(&*keeper, &path).await.map_err(Stop::ForTheReal)?;
        if let Some(name) =
            wanted.iter().find(|name| !derivation.outputs.contains_key(name.as_str()))
        {
            let text = format!("derivation '{shown}' has no output '{name}'");
            return Err(CompatError::failed(text).into());
        }
        let known = keeper.output_map(&path).await?;
        let (mut paths, mut floating) = (Vec::new(), Vec::new());
        for (name, output) in &derivation.outputs {
            if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name.as_str()) {
                continue;
            }
            let Some(out) = known.get(name.as_str()).cloned().flatten() else {
                return Err(real(format!(
                    "it isn't known what output '{name}' of '{shown}' became: build it first"
                )));
            };
            if output.path().is_none() {
                floating.push(name.clone());
            }
            paths.push(out);
        }
        let all = paths.iter().cloned().collect();
        let valid = keeper.hold_valid(&all, Substitute::No).await?;
        if let Some(path) = paths.iter().find(|path| !valid.contains(*path)) {
            let path = keeper.store_dir().display(path);
            return Err(real(format!("output '{path}' of '{shown}' is not there: build it first")));
        }
        Ok(Outputs { paths, realised: realised(&*keeper, &path, floating).await? })
    }
}

/// Returns what outputs became, as far as the store knows.
async fn realised(
    keeper: &dyn Keeper,
    derivation: &StorePath,
    outputs: Vec<OutputName>,
) -> Result<Vec<Realisation>, CompatError> {
    let mut realised = Vec::with_capacity(outputs.len());
    if !outputs.is_empty() {
        let hash = keeper.realisation_hash(derivation).await?;
        for output in outputs {
            let id = DrvOutput { hash: hash.clone(), output };
            realised.extend(keeper.realisation(&id).await?);
        }
    }
    Ok(realised)
}
