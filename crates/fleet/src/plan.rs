//! What a run would have to do, for those who want to know where it would be done.

use std::collections::HashMap;
use std::sync::Arc;

use drover_core::StorePath;
use drover_derivation::Derivation;
use drover_schedule::{Job, PathId, Preference};

use crate::approach::Approach;
use crate::fleet::{BuildError, Fleet, Target};
use crate::graph::Graph;
use crate::prepare::{JobPlan, Offered, prepare};

/// What a run would have to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What would be built.
    pub jobs: Vec<PlannedJob>,
    /// Paths that would be fetched from substituters.
    pub substitute: Vec<StorePath>,
    /// Whether machines other than the caller's own can be used for it.
    pub other_machines: OtherMachines,
}

/// A derivation that would be built.
#[derive(Clone, Debug)]
pub struct PlannedJob {
    /// The derivation.
    pub derivation: StorePath,
    /// What the scheduler is told of it. Its dependencies are numbered by their places in the plan;
    /// inputs that are here already are left out.
    pub job: Job,
}

/// Whether machines other than the caller's own can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherMachines {
    /// They can.
    Usable,
    /// The caller's store doesn't take what they make from this user
    /// ([`BuildError::LocalStoreDistrusts`]).
    Distrusted,
}

impl Fleet {
    /// Says what [`Fleet::build`] would have to build, and asks no builder.
    ///
    /// # Errors
    ///
    /// As [`Fleet::build`] before the first build.
    pub async fn plan(&self, graph: Arc<Graph>, targets: &[Target]) -> Result<Plan, BuildError> {
        let approach = Approach::default();
        let shared = Arc::clone(&graph);
        let work = prepare(self, shared, targets, &approach, Offered::Count).await?;
        let other_machines = match self.usable_machines(&graph, &work).await {
            Ok(usable) if usable.len() == self.machines.len() => OtherMachines::Usable,
            Ok(_) | Err(BuildError::LocalStoreDistrusts) => OtherMachines::Distrusted,
            Err(error) => return Err(error),
        };
        let substitute = work.describe().substitute;
        let mut ids = HashMap::new();
        let planned = work.jobs.iter().map(|plan| {
            let outputs = plan.derivation.outputs.values().filter_map(|output| output.path());
            let outputs = outputs.map(|path| number(&mut ids, path)).collect();
            let job = Job { outputs, ..describe(plan) };
            PlannedJob { derivation: plan.path.clone(), job }
        });
        Ok(Plan { jobs: planned.collect(), substitute, other_machines })
    }
}

fn number(ids: &mut HashMap<StorePath, PathId>, path: &StorePath) -> PathId {
    let next = PathId(u32::try_from(ids.len()).unwrap_or(u32::MAX));
    *ids.entry(path.clone()).or_insert(next)
}

/// Returns what the scheduler is told of a job, but for what depends on the run: its paths, and who
/// wants them.
pub(crate) fn describe(plan: &JobPlan) -> Job {
    let derivation: &Derivation = &plan.derivation;
    let prefer_local = derivation.options().is_ok_and(|options| options.prefer_local_build);
    Job {
        name: plan.path.to_string(),
        system: derivation.system.clone(),
        required_features: derivation.required_system_features().unwrap_or_default(),
        preference: match prefer_local {
            true => Preference::PreferLocal,
            false => Preference::Anywhere,
        },
        dependencies: plan.dependencies.clone(),
        ..Job::default()
    }
}
