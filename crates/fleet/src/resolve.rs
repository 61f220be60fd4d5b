//! Derivations whose inputs are all known.

use drover_core::{OutputName, StorePath};
use drover_derivation::{BasicDerivation, Derivation, DerivationError};

use crate::job_end::JobEnd;
use crate::prepare::JobPlan;
use crate::shared::Shared;

/// A derivation with all inputs known.
pub(crate) struct Resolved {
    pub(crate) path: StorePath,
    pub(crate) basic: BasicDerivation,
    pub(crate) inputs: Vec<StorePath>,
}

/// Whether the paths of all inputs that this run builds are known.
pub(crate) fn is_resolvable(shared: &Shared, plan: &JobPlan) -> bool {
    plan.built_inputs.iter().all(|(path, output)| shared.realised(path, output).is_some())
}

/// Puts the paths of inputs in the place of input derivations.
pub(crate) fn resolve(shared: &Shared, plan: &JobPlan) -> Result<Resolved, JobEnd> {
    let store_dir = &shared.store_dir;
    let derivation = &plan.derivation;
    let bad = |error: DerivationError| JobEnd::Derivation { cause: error.to_string() };
    let realised = |path: &StorePath, output: &OutputName| shared.realised(path, output);
    let mut inputs = plan.inputs.clone();
    for (path, output) in &plan.built_inputs {
        match realised(path, output) {
            Some(path) => inputs.push(path),
            None => {
                let cause = format!("output '{output}' of '{path}' is not known");
                return Err(JobEnd::Input { cause });
            }
        }
    }
    if derivation.must_resolve().map_err(bad)? {
        let basic = derivation.resolve(store_dir, realised).map_err(bad)?;
        let path = Derivation::from(basic.clone()).derivation_path(store_dir).map_err(bad)?;
        return Ok(Resolved { path, basic, inputs });
    }
    let basic = derivation.to_basic(inputs.iter().cloned());
    Ok(Resolved { path: plan.path.clone(), basic, inputs })
}
