//! What machines are asked when a run begins: which inputs of jobs they have, and which outputs.
//!
//! All machines are asked at once, each in one go with its greeting, or behind it where that is long.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use drover_core::{DrvOutput, OutputName, PathInfo, StorePath};
use drover_schedule::{Machine, MachineId};
use drover_store::{Description, StoreError, Substitute};
use futures::future::try_join_all;
use tokio::time::{Instant, timeout, timeout_at};
use tokio::try_join;

use crate::machine::Site;
use crate::machine_state::Generation;
use crate::prepare::JobPlan;
use crate::shared::{Answer, Happened, Shared};

/// Bytes of paths in the first message, as no more goes with a greeting.
const AT_FIRST: usize = 48 * 1024;
/// Bytes that a path takes beside its name.
const AROUND_NAME: usize = 40;
/// Paths that are asked about in one message later.
const LATER: usize = 10_000;
/// Outputs without known paths that are asked about before anything is built: each is a question of
/// its own.
const UNNAMED_AT_FIRST: usize = 200;
/// How long a machine that answers may take for those. What it hasn't said by then isn't used.
const UNNAMED: Duration = Duration::from_secs(5);

/// An output whose path doesn't follow from its derivation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unnamed {
    pub(crate) derivation: StorePath,
    /// What its realisations are kept under.
    pub(crate) id: DrvOutput,
}

/// Outputs of jobs that a machine is asked about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sought {
    /// Those whose paths are known.
    pub(crate) paths: BTreeSet<StorePath>,
    pub(crate) unnamed: BTreeSet<Unnamed>,
}

/// What a machine was found to have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) infos: Vec<PathInfo>,
    /// What outputs became, as it says.
    pub(crate) realised: Vec<(StorePath, OutputName, StorePath)>,
}

/// What came of the first questions to a machine.
pub(crate) struct Greeted {
    pub(crate) description: Description,
    /// Paths that jobs need and that it has.
    pub(crate) valid: BTreeSet<StorePath>,
    pub(crate) found: Findings,
    /// Outputs that it wasn't asked about.
    pub(crate) unasked: Sought,
}

impl Sought {
    /// Adds the outputs of a job.
    pub(crate) fn add(&mut self, plan: &JobPlan) {
        let outputs = &plan.derivation.outputs;
        let paths: Option<Vec<StorePath>> =
            outputs.values().map(|output| output.path().cloned()).collect();
        if let Some(paths) = paths {
            return self.paths.extend(paths);
        }
        let Some(hash) = &plan.realisations else { return };
        self.unnamed.extend(outputs.keys().map(|output| Unnamed {
            derivation: plan.path.clone(),
            id: DrvOutput { hash: hash.clone(), output: output.clone() },
        }));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.unnamed.is_empty()
    }

    /// Divides it into what is asked with the greeting and what is asked behind it.
    fn divided(&self, inputs: &BTreeSet<StorePath>) -> (Sought, Sought) {
        let (mut first, mut later) = (Sought::default(), Sought::default());
        // what is to be protected stands in it twice
        match 2 * size(inputs) + size(&self.paths) <= AT_FIRST {
            true => first.paths = self.paths.clone(),
            false => later.paths = self.paths.clone(),
        }
        match self.unnamed.len() <= UNNAMED_AT_FIRST {
            true => first.unnamed = self.unnamed.clone(),
            false => later.unnamed = self.unnamed.clone(),
        }
        (first, later)
    }
}

impl Findings {
    pub(crate) fn is_empty(&self) -> bool {
        self.infos.is_empty()
    }

    fn add(&mut self, other: Findings) {
        self.infos.extend(other.infos);
        self.realised.extend(other.realised);
    }
}

/// Returns the outputs of those jobs that a machine could build: of others its word counts nothing.
pub(crate) fn sought_of<'a>(
    description: &Machine,
    plans: impl Iterator<Item = &'a JobPlan>,
) -> Sought {
    let mut sought = Sought::default();
    let is_for_it = |plan: &&JobPlan| {
        let features = plan.derivation.required_system_features().unwrap_or_default();
        description.refusal(&plan.derivation.system, &features).is_none()
    };
    plans.filter(is_for_it).for_each(|plan| sought.add(plan));
    sought
}

/// Connects to a machine, and asks which inputs and outputs it has, all in one go if that isn't much.
pub(crate) async fn greet(
    site: &dyn Site,
    inputs: &BTreeSet<StorePath>,
    outputs: &Sought,
) -> Result<Greeted, StoreError> {
    let (at_first, unasked) = outputs.divided(inputs);
    // the questions go with the greeting; what it lacks it may fetch when a job needs it
    let all = site.hold_and_seek(inputs, &at_first.paths).await?;
    let description = site.connect().await?;
    let mut found = infos_of(site, all.intersection(&at_first.paths).cloned().collect()).await?;
    found.add(unnamed_of(site, &at_first.unnamed).await?);
    let valid = all.intersection(inputs).cloned().collect();
    Ok(Greeted { description, valid, found, unasked })
}

/// Returns how many bytes paths take in a message, about.
fn size(paths: &BTreeSet<StorePath>) -> usize {
    paths.iter().map(|path| path.base_name().len() + AROUND_NAME).sum()
}

/// Tells the driver of a machine that is connected, with the outputs that it wasn't asked about in the
/// greeting if it says by then which it has: before that nothing is built there. What it says later
/// follows.
pub(crate) async fn tell_connected(
    site: &dyn Site,
    shared: &Shared,
    (machine, generation): (MachineId, Generation),
    mut answer: Answer,
    unasked: &Sought,
    until: Instant,
) {
    let nothing = BTreeSet::new();
    let mut asking = pin!(async {
        match unasked.is_empty() {
            true => Findings::default(),
            // a connection that broke is found out by those who work on it
            false => ask(site, &nothing, unasked).await.map(|(_, found)| found).unwrap_or_default(),
        }
    });
    let in_time = timeout_at(until, &mut asking).await.ok();
    let is_late = in_time.is_none();
    answer.found.add(in_time.unwrap_or_default());
    shared.tell(Happened::Connected { machine, generation, answer });
    if is_late {
        let found = asking.await;
        if !found.is_empty() {
            shared.tell(Happened::Found { machine, generation, found });
        }
    }
}

/// Asks a machine that is connected which inputs it has, and holds them, and which outputs. All come
/// at once: the outputs of a job, and what they refer to, may be in several parts.
pub(crate) async fn ask(
    site: &dyn Site,
    inputs: &BTreeSet<StorePath>,
    outputs: &Sought,
) -> Result<(BTreeSet<StorePath>, Findings), StoreError> {
    let paths: Vec<StorePath> = outputs.paths.iter().cloned().collect();
    let (first, rest) = paths.split_at(paths.len().min(LATER));
    let first: BTreeSet<StorePath> = first.iter().cloned().collect();
    let nothing = BTreeSet::new();
    let seek = async |held: &BTreeSet<StorePath>, sought: BTreeSet<StorePath>| {
        let valid = site.hold_and_seek(held, &sought).await?;
        let found = infos_of(site, valid.intersection(&sought).cloned().collect()).await?;
        Ok::<_, StoreError>((valid.intersection(held).cloned().collect(), found))
    };
    let parts = rest.chunks(LATER).map(|part| seek(&nothing, part.iter().cloned().collect()));
    let unnamed = unnamed_of(site, &outputs.unnamed);
    let (first, parts, unnamed) = try_join!(seek(inputs, first), try_join_all(parts), unnamed)?;
    let (valid, mut found): (BTreeSet<StorePath>, Findings) = first;
    for (_, part) in parts {
        found.add(part);
    }
    found.add(unnamed);
    Ok((valid, found))
}

/// Has paths kept, and returns what is known of those that are there.
async fn infos_of(site: &dyn Site, paths: BTreeSet<StorePath>) -> Result<Findings, StoreError> {
    if paths.is_empty() {
        return Ok(Findings::default());
    }
    let there: Vec<StorePath> = paths.iter().cloned().collect();
    let (held, asked) = (site.hold_valid(&paths, Substitute::No), site.path_infos(&there));
    let (kept, infos) = try_join!(held, asked)?;
    // what was collected before it was held is none
    let infos = infos.into_iter().flatten().filter(|info| kept.contains(&info.path)).collect();
    Ok(Findings { infos, realised: Vec::new() })
}

/// Asks what outputs became whose paths don't follow from their derivations, as far as that can be
/// asked.
async fn unnamed_of(site: &dyn Site, unnamed: &BTreeSet<Unnamed>) -> Result<Findings, StoreError> {
    if unnamed.is_empty() {
        return Ok(Findings::default());
    }
    let ids: Vec<DrvOutput> = unnamed.iter().map(|one| one.id.clone()).collect();
    let asked = async {
        let became = match site.realised(&ids).await {
            Err(StoreError::Unsupported { .. } | StoreError::Refused { .. }) => {
                return Ok(Findings::default());
            }
            became => became?,
        };
        let realised: Vec<_> = unnamed
            .iter()
            .zip(became)
            .filter_map(|(one, became)| {
                Some((one.derivation.clone(), one.id.output.clone(), became?.realisation.out_path))
            })
            .collect();
        let paths = realised.iter().map(|(.., path)| path.clone()).collect();
        Ok(Findings { realised, ..infos_of(site, paths).await? })
    };
    timeout(UNNAMED, asked).await.unwrap_or_else(|_| Ok(Findings::default()))
}
