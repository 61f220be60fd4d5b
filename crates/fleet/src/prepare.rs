//! What has to be built: everything below the targets that isn't valid yet.
//!
//! Goes down from the targets and stops where outputs are valid, so a graph that is mostly there
//! costs little however deep it is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use drover_core::{Hash, OutputName, PathInfo, StoreDir, StorePath};
use drover_derivation::{Derivation, HashModuloCache};
use drover_schedule::JobId;
use drover_store::{BuildLog, Keeper, Store, StoreError, Substitute};

use crate::approach::Approach;
use crate::event::JobFailureReport;
use crate::fetch::Words;
use crate::fleet::{BuildError, DryRun, Fallback, Fleet, Target};
use crate::graph::{Graph, GraphError, Node, NodeId};
use crate::ledger::{look_up, realisation_hash};
use crate::terms::JobTerms;

mod cutoff;
mod refused;

use self::cutoff::{CutOff, cut_off};
use self::refused::Refused;

/// A derivation that is to be built.
pub(crate) struct JobPlan {
    pub(crate) node: NodeId,
    pub(crate) path: StorePath,
    pub(crate) derivation: Arc<Derivation>,
    /// Jobs whose outputs it needs.
    pub(crate) dependencies: Vec<JobId>,
    /// The outputs that it needs of derivations that are built in this run.
    pub(crate) built_inputs: Vec<(StorePath, OutputName)>,
    /// Paths that it needs and that are valid here.
    pub(crate) inputs: Vec<StorePath>,
    /// What it's known by what its outputs became, where their paths don't follow from it.
    pub(crate) realisations: Option<Hash>,
    /// What those who wait for it ask of its build; nothing in a run of one's own, whose machines
    /// were opened with it.
    pub(crate) terms: JobTerms,
}

/// What has to be done.
#[derive(Default)]
pub(crate) struct Work {
    pub(crate) jobs: Vec<JobPlan>,
    /// Jobs by their derivation's place in the graph.
    pub(crate) job_of: HashMap<NodeId, JobId>,
    /// What is known of the paths that jobs need and that are valid here, with their closure.
    pub(crate) infos: Vec<PathInfo>,
    /// The paths of outputs that are valid here, for derivations that have to be resolved.
    pub(crate) realised: Vec<(StorePath, OutputName, StorePath)>,
    /// Jobs that failed before anything began.
    pub(crate) refused: Vec<(JobId, JobFailureReport)>,
    /// Paths that were fetched from substituters, or would be.
    pub(crate) substituted: usize,
    substitutable: BTreeSet<StorePath>,
}

impl Work {
    pub(crate) fn describe(&self) -> DryRun {
        DryRun {
            build: self.jobs.iter().map(|job| job.path.clone()).collect(),
            substitute: self.substitutable.iter().cloned().collect(),
        }
    }
}

/// Outputs that are needed, by derivation.
type Needed = BTreeMap<NodeId, BTreeSet<OutputName>>;

/// What becomes of paths that substituters have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// They are fetched.
    Fetch,
    /// They are only told.
    Count,
}

/// Finds out what has to be done, and fetches what substituters have.
pub(crate) async fn prepare(
    fleet: &Fleet,
    graph: Arc<Graph>,
    targets: &[Target],
    approach: &Approach,
    what_is_offered: Offered,
) -> Result<Work, BuildError> {
    let wanted = wanted_outputs(&graph, targets)?;
    let local = fleet.local.as_ref();
    let offered = match fleet.options.substitute {
        Substitute::Yes => offered(local, targets).await?,
        Substitute::No => BTreeSet::new(),
    };
    let (valid, needed) = (BTreeSet::new(), Needed::new());
    let refused = Refused::default();
    let ledger = fleet.ledger.as_deref();
    let known = HashMap::new();
    let substitute = fleet.options.substitute;
    let mut search =
        Search { graph: &graph, ledger, substitute, valid, known, needed, refused, approach };
    let used = search.run(local, &wanted, &offered).await?;
    let substituted = used.len();
    if !used.is_empty() && what_is_offered == Offered::Fetch {
        let words = Arc::new(Words::default());
        let log = Arc::clone(&words) as Arc<dyn BuildLog>;
        let fetched = local.substitute(&used, log).await?;
        let refused = used.difference(&fetched).cloned().collect();
        search.valid.extend(fetched);
        search.needed.clear();
        if fleet.options.fallback == Fallback::Fail && !words.tell_of_absence() {
            search.refused = Refused { paths: refused, words: words.complaints() };
        }
        search.run(local, &wanted, &BTreeSet::new()).await?;
    }
    while what_is_offered == Offered::Fetch && cut_off(&mut search, local).await? == CutOff::Some {
        search.needed.clear();
        search.run(local, &wanted, &BTreeSet::new()).await?;
    }
    graph.check_purity(local.store_dir(), search.needed.keys().copied())?;
    let mut work = search.plan(local.store_dir());
    work.substituted = substituted;
    work.substitutable = used;
    if what_is_offered == Offered::Fetch {
        fetch_infos(local, &mut work, fleet.options.substitute).await?;
    }
    Ok(work)
}

fn wanted_outputs(graph: &Graph, targets: &[Target]) -> Result<Needed, BuildError> {
    let mut wanted = Needed::new();
    for target in targets {
        let Some((id, node)) =
            graph.find(&target.derivation).and_then(|id| Some((id, graph.node(id)?)))
        else {
            return Err(GraphError::NotInGraph { path: target.derivation.clone() }.into());
        };
        let has = &node.derivation.outputs;
        let names: BTreeSet<OutputName> = if target.outputs.is_empty() {
            has.keys().cloned().collect()
        } else {
            target.outputs.clone()
        };
        if let Some(output) = names.iter().find(|name| !has.contains_key(*name)) {
            let has: Vec<&str> = has.keys().map(OutputName::as_str).collect();
            return Err(BuildError::NoSuchOutput {
                derivation: target.derivation.clone(),
                output: output.clone(),
                has: has.join(", "),
            });
        }
        wanted.entry(id).or_default().extend(names);
    }
    Ok(wanted)
}

/// Asks the local store what its substituters have. A store that has none says so by an error.
async fn offered(local: &dyn Store, targets: &[Target]) -> Result<BTreeSet<StorePath>, StoreError> {
    let derivations = targets.iter().map(|target| target.derivation.clone()).collect();
    match local.missing(&derivations).await {
        Ok(missing) => Ok(missing.substitute),
        Err(StoreError::Unsupported { .. }) => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

struct Search<'a> {
    graph: &'a Graph,
    ledger: Option<&'a dyn Keeper>,
    substitute: Substitute,
    valid: BTreeSet<StorePath>,
    /// What is kept of outputs whose paths don't follow from their derivations, by derivation.
    known: HashMap<StorePath, BTreeMap<OutputName, StorePath>>,
    /// What is to be built, and the outputs needed of it.
    needed: Needed,
    refused: Refused,
    approach: &'a Approach,
}

impl Search<'_> {
    /// Goes down level by level. Returns the offered paths that are needed.
    async fn run(
        &mut self,
        local: &dyn Store,
        wanted: &Needed,
        offered: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, BuildError> {
        let mut used = BTreeSet::new();
        let mut level = wanted.clone();
        while !level.is_empty() {
            self.ask(local, &level).await?;
            let mut next = Needed::new();
            for (id, outputs) in std::mem::take(&mut level) {
                let Some(node) = self.graph.node(id) else { continue };
                let missing: Vec<&OutputName> =
                    outputs.iter().filter(|name| !self.is_valid(node, name)).collect();
                let paths: Option<Vec<&StorePath>> = missing
                    .iter()
                    .map(|name| self.path(node, name).filter(|path| offered.contains(*path)))
                    .collect();
                match paths {
                    Some(paths) => used.extend(paths.into_iter().cloned()),
                    None => self.must_build(id, outputs, &mut next),
                }
            }
            level = next;
        }
        Ok(used)
    }

    fn is_valid(&self, node: &Node, output: &OutputName) -> bool {
        self.path(node, output).is_some_and(|path| self.valid.contains(path))
    }

    /// Returns the path of an output, as far as it is known before anything is built.
    fn path<'a>(&'a self, node: &'a Node, output: &OutputName) -> Option<&'a StorePath> {
        let known = node.derivation.outputs.get(output).and_then(|output| output.path());
        known.or_else(|| self.known.get(&node.path)?.get(output))
    }

    /// Asks the store about the outputs of a level.
    async fn ask(&mut self, local: &dyn Store, level: &Needed) -> Result<(), StoreError> {
        let nodes = || level.keys().filter_map(|id| self.graph.node(*id));
        if let Some(ledger) = self.ledger {
            let unknown = nodes().filter(|node| !self.known.contains_key(&node.path));
            let found = look_up(ledger, self.substitute, unknown).await?;
            for (derivation, output, path) in found {
                self.known.entry(derivation).or_default().insert(output, path);
            }
        }
        let nodes = level.keys().filter_map(|id| self.graph.node(*id));
        let asked: BTreeSet<StorePath> = nodes
            .flat_map(|node| {
                node.derivation.outputs.keys().filter_map(|name| self.path(node, name))
            })
            .filter(|path| !self.valid.contains(*path))
            .cloned()
            .collect();
        let valid = local.hold_valid(&asked, Substitute::No).await?;
        self.valid.extend(valid);
        Ok(())
    }

    fn verdict(&self, node: &Node) -> Option<JobFailureReport> {
        let outputs = node.derivation.outputs.keys();
        self.refused.verdict(node, outputs.filter_map(|name| self.path(node, name)).collect())
    }

    /// Notes that a derivation is to be built, and what it needs for that, once.
    fn must_build(&mut self, id: NodeId, outputs: BTreeSet<OutputName>, next: &mut Needed) {
        let known = self.needed.contains_key(&id);
        self.needed.entry(id).or_default().extend(outputs);
        if known {
            return;
        }
        let Some(node) = self.graph.node(id) else { return };
        if self.verdict(node).is_some() {
            return;
        }
        self.approach.begin_for(&node.derivation);
        for (input, names) in &node.derivation.input_derivations {
            if let Some(input) = self.graph.find(input) {
                next.entry(input).or_default().extend(names.iter().cloned());
            }
        }
    }

    /// Turns what is to be built into jobs.
    fn plan(self, store_dir: &StoreDir) -> Work {
        let numbers = (0..).map(JobId);
        let job_of: HashMap<NodeId, JobId> = self.needed.keys().copied().zip(numbers).collect();
        let mut realised = self.known_to_ledger();
        let mut refused = Vec::new();
        let mut hashes = HashModuloCache::new();
        let jobs = self
            .needed
            .keys()
            .filter_map(|id| Some((*id, self.graph.node(*id)?)))
            .map(|(id, node)| {
                let derivation = Arc::clone(&node.derivation);
                let mut job = JobPlan {
                    node: id,
                    path: node.path.clone(),
                    dependencies: Vec::new(),
                    built_inputs: Vec::new(),
                    inputs: derivation.input_sources.iter().cloned().collect(),
                    derivation: Arc::clone(&derivation),
                    realisations: realisation_hash(store_dir, self.graph, node, &mut hashes),
                    terms: JobTerms::default(),
                };
                if let Some(report) = self.verdict(node) {
                    refused.extend(job_of.get(&id).map(|job| (*job, report)));
                    return JobPlan { inputs: Vec::new(), ..job };
                }
                for (input, names) in &derivation.input_derivations {
                    self.add_input(&mut job, input, names.iter(), &job_of);
                }
                if derivation.must_resolve().unwrap_or_default() {
                    realised.extend(self.known_outputs(&derivation));
                }
                job
            })
            .collect();
        Work { jobs, job_of, realised, refused, ..Work::default() }
    }

    /// Returns what was found out of outputs that are valid.
    fn known_to_ledger(&self) -> Vec<(StorePath, OutputName, StorePath)> {
        let known = self.known.iter().flat_map(|(derivation, outputs)| {
            outputs.iter().map(|(name, path)| (derivation.clone(), name.clone(), path.clone()))
        });
        known.filter(|(.., path)| self.valid.contains(path)).collect()
    }

    /// Returns the paths of the inputs of a derivation that are known before anything is built.
    fn known_outputs(&self, derivation: &Derivation) -> Vec<(StorePath, OutputName, StorePath)> {
        let inputs = derivation.input_derivations.iter().filter_map(|(input, names)| {
            Some((input, names, self.graph.node(self.graph.find(input)?)?))
        });
        let outputs = inputs.flat_map(|(input, names, node)| {
            names.iter().filter_map(move |name| {
                // what substituters say and nobody has fetched may become something else
                let path = self.path(node, name).filter(|path| self.valid.contains(*path))?;
                Some((input.clone(), name.clone(), path.clone()))
            })
        });
        outputs.collect()
    }

    fn add_input<'a>(
        &self,
        job: &mut JobPlan,
        input: &StorePath,
        names: impl Iterator<Item = &'a OutputName>,
        job_of: &HashMap<NodeId, JobId>,
    ) {
        let Some(id) = self.graph.find(input) else { return };
        let Some(node) = self.graph.node(id) else { return };
        match job_of.get(&id) {
            Some(dependency) => {
                job.dependencies.push(*dependency);
                job.built_inputs.extend(names.map(|name| (input.clone(), name.clone())));
            }
            None => job.inputs.extend(names.filter_map(|name| self.path(node, name)).cloned()),
        }
    }
}

/// Learns of the inputs that are here, and of their closure.
pub(crate) async fn fetch_infos(
    local: &dyn Store,
    work: &mut Work,
    substitute: Substitute,
) -> Result<(), StoreError> {
    let mut level: BTreeSet<StorePath> =
        work.jobs.iter().flat_map(|job| job.inputs.iter().cloned()).collect();
    let valid = local.hold_valid(&level, Substitute::No).await?;
    let lacking: BTreeSet<StorePath> = level.difference(&valid).cloned().collect();
    if substitute == Substitute::Yes && !lacking.is_empty() {
        local.hold_valid(&lacking, Substitute::Yes).await?;
    }
    let mut known: BTreeSet<StorePath> = level.clone();
    while !level.is_empty() {
        let asked: Vec<StorePath> = std::mem::take(&mut level).into_iter().collect();
        let infos = local.path_infos(&asked).await?;
        for (path, info) in asked.into_iter().zip(infos) {
            let store = local.name().to_owned();
            let info = info.ok_or(StoreError::NotValid { store, path })?;
            level.extend(info.references.iter().filter(|path| !known.contains(*path)).cloned());
            known.extend(info.references.iter().cloned());
            work.infos.push(info);
        }
    }
    Ok(())
}
