//! A fleet: the caller's store, machines, and what is asked of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use drover_core::{OutputName, PathInfo, StorePath};
use drover_derivation::DerivationKind;
use drover_schedule::MachineKind;
use drover_store::{Keeper, Store, StoreError, Substitute, Trust};
use tokio_util::sync::CancellationToken;

use crate::approach::Approach;
use crate::driver::Driver;
use crate::event::{FleetEvent, JobFailureReport, MachineTotals, Observer};
use crate::graph::{Graph, GraphError};
use crate::ledger::enter;
use crate::machine::MachineSpec;
use crate::prepare::{Offered, Work, prepare};
use crate::retrieve::retrieve;
use crate::vouched::OutputTrust;

/// What comes back to the caller's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyBack {
    /// What was asked for, with its closure.
    Wanted,
    /// All that was built, as stock Nix does.
    Everything,
}

/// What becomes of a derivation whose outputs a substituter offers, where fetching them fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// It is built.
    Build,
    /// It fails.
    Fail,
}

/// How a fleet works.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// Whether what doesn't depend on a failure goes on.
    pub keep_going: bool,
    /// Whether the caller's store may fetch from its substituters instead of building.
    pub substitute: Substitute,
    /// What becomes of what can't be fetched though it's offered.
    pub fallback: Fallback,
    /// What comes back.
    pub copy_back: CopyBack,
    /// What outputs must have that come from other machines.
    pub outputs: OutputTrust,
    /// Lines of a failed build's log that are kept.
    pub log_lines: usize,
    /// The choice of machines.
    pub policy: drover_schedule::Policy,
}

/// What is wanted of one derivation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The derivation.
    pub derivation: StorePath,
    /// Outputs by name; all where empty.
    pub outputs: BTreeSet<OutputName>,
}

/// What became of a target.
#[derive(Clone, Debug)]
pub struct TargetResult {
    /// What was wanted.
    pub target: Target,
    /// The paths of its outputs, valid in the caller's store; or why there are none.
    pub outcome: Result<BTreeMap<OutputName, StorePath>, Box<JobFailureReport>>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// What became of each target, in the order of the question.
    pub targets: Vec<TargetResult>,
    /// All derivations that failed by themselves (not those that depend on them).
    pub failures: Vec<JobFailureReport>,
    /// What each machine did.
    pub machines: Vec<MachineTotals>,
    /// Derivations that were built.
    pub built: usize,
    /// Derivations that needed no build, as their outputs were on a machine already.
    pub found: usize,
    /// How long it all took.
    pub took: Duration,
}

/// Why a run came to no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The graph could not be read.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The caller's own store failed.
    #[error("the local store failed")]
    Store(#[from] StoreError),
    /// A derivation can't be built as it is.
    #[error("derivation '{derivation}' can't be built")]
    Derivation {
        /// The derivation.
        derivation: StorePath,
        /// Why.
        source: drover_derivation::DerivationError,
    },
    /// An output that the derivation doesn't have.
    #[error("derivation '{derivation}' has no output '{output}'; it has: {has}")]
    NoSuchOutput {
        /// The derivation.
        derivation: StorePath,
        /// The output asked for.
        output: OutputName,
        /// The outputs it has.
        has: String,
    },
    /// The caller's store doesn't take what builders made from this user.
    #[error(
        "the local store does not trust this user, so it takes no unsigned paths from other machines; add the user to 'trusted-users' in nix.conf (and restart the daemon), or build as root"
    )]
    LocalStoreDistrusts,
    /// The run was cancelled, and everything it had started was ended.
    #[error("cancelled")]
    Cancelled,
}

/// What a run would do.
#[derive(Clone, Debug, Default)]
pub struct DryRun {
    /// Derivations that would be built.
    pub build: Vec<StorePath>,
    /// Paths that would be fetched from substituters.
    pub substitute: Vec<StorePath>,
}

/// The caller's store, and machines that build for it.
pub struct Fleet {
    pub(crate) local: Arc<dyn Store>,
    /// The same store, where it keeps what outputs became whose paths follow from their contents.
    pub(crate) ledger: Option<Arc<dyn Keeper>>,
    pub(crate) machines: Vec<MachineSpec>,
    pub(crate) options: FleetOptions,
    pub(crate) observer: Arc<dyn Observer>,
}

impl Fleet {
    /// Returns a fleet; nothing is connected yet.
    pub fn new(
        local: Arc<dyn Store>,
        machines: Vec<MachineSpec>,
        options: FleetOptions,
        observer: Arc<dyn Observer>,
    ) -> Fleet {
        Fleet { local, ledger: None, machines, options, observer }
    }

    /// Has the caller's store asked what outputs became whose paths follow from their contents, and
    /// told of those that are built.
    pub fn with_ledger(self, ledger: Arc<dyn Keeper>) -> Fleet {
        Fleet { ledger: Some(ledger), ..self }
    }

    /// Says what [`Fleet::build`] would do, and asks no builder.
    ///
    /// # Errors
    ///
    /// As [`Fleet::build`] before the first build.
    pub async fn dry_run(
        &self,
        graph: Arc<Graph>,
        targets: Vec<Target>,
    ) -> Result<DryRun, BuildError> {
        let work = prepare(self, graph, &targets, &Approach::default(), Offered::Count).await?;
        Ok(work.describe())
    }

    /// Builds targets of a graph, and brings them into the caller's store. When `cancel` is called,
    /// everything that runs anywhere is ended before this returns.
    ///
    /// # Errors
    ///
    /// The caller's own store, a malformed graph, or the cancelling. Builds that fail are in the
    /// report.
    pub async fn build(
        &self,
        graph: Arc<Graph>,
        targets: Vec<Target>,
        cancel: CancellationToken,
    ) -> Result<Report, BuildError> {
        let started = tokio::time::Instant::now();
        let approach = Approach::new(&self.machines);
        let work = tokio::select! {
            work = prepare(self, Arc::clone(&graph), &targets, &approach, Offered::Fetch) => work?,
            () = cancel.cancelled() => return Err(BuildError::Cancelled),
        };
        self.observer.event(FleetEvent::Planned {
            to_build: work.jobs.len(),
            to_substitute: work.substituted,
            in_graph: graph.len(),
        });
        let machines = self.usable_machines(&graph, &work).await?;
        let wanted = targets.iter().map(|target| target.derivation.clone()).collect();
        let mut driver = Driver::new(self, machines, graph, wanted, work);
        driver.take_approached(&approach);
        drop(approach);
        let built = tokio::select! {
            built = build_and_retrieve(&mut driver, &targets) => built,
            () = cancel.cancelled() => Err(BuildError::Cancelled),
        };
        if let (Some(ledger), Ok(_)) = (&self.ledger, &built) {
            enter(&driver, ledger.as_ref()).await;
        }
        // on success there may be machines that have not answered yet
        driver.stop_everything().await;
        let targets = built?;
        Ok(driver.into_report(targets, started.elapsed()))
    }
}

impl Fleet {
    /// Leaves the machines out whose outputs the caller's store would not take. It takes what is
    /// content-addressed from anybody.
    pub(crate) async fn usable_machines(
        &self,
        graph: &Graph,
        work: &Work,
    ) -> Result<Vec<MachineSpec>, BuildError> {
        let remote = |spec: &MachineSpec| spec.description.kind == MachineKind::Remote;
        let needs_trust = work.jobs.iter().any(|job| {
            let kind = graph.node(job.node).map(|node| node.derivation.kind());
            !matches!(kind, Some(Ok(DerivationKind::Fixed | DerivationKind::Floating)))
        });
        if !needs_trust
            || !self.machines.iter().any(remote)
            || self.local.connect().await?.trust != Trust::NotTrusted
        {
            return Ok(self.machines.clone());
        }
        let local: Vec<MachineSpec> =
            self.machines.iter().filter(|spec| !remote(spec)).cloned().collect();
        if local.is_empty() {
            return Err(BuildError::LocalStoreDistrusts);
        }
        let note = format!("other machines are not used: {}", BuildError::LocalStoreDistrusts);
        self.observer.event(FleetEvent::Note(note));
        Ok(local)
    }
}

async fn build_and_retrieve(
    driver: &mut Driver,
    targets: &[Target],
) -> Result<Vec<TargetResult>, BuildError> {
    driver.run().await;
    retrieve(driver, targets).await
}

/// Returns the bytes of NARs.
pub(crate) fn total_bytes(infos: &[PathInfo]) -> u64 {
    infos.iter().map(|info| info.nar_size.0).sum()
}
