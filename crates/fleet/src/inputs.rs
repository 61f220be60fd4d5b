//! How a job's inputs come to the machine of its lane.

use std::sync::Arc;

use drover_core::{PathInfo, StorePath};
use drover_schedule::Place;
use drover_store::{Pending, Store, StoreError};
use tokio::sync::watch;

use crate::fetch::fetch_there;
use crate::fleet::total_bytes;
use crate::job_end::JobEnd;
use crate::lane::{LaneContext, Open};
use crate::merge::{Culprit, Merged};
use crate::places::{Flight, Needs, Way};
use crate::transfer::{AlsoHere, BULKY, Destination, copy_all};

/// Bytes of inputs from which on they don't go through the lane while it builds something else:
/// the server would not read them before that has ended.
const ASIDE: u64 = 256 * 1024;

/// Whether a build runs on the lane.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Busy {
    Yes,
    No,
}

/// Inputs that were sent ahead of a build.
pub(crate) struct Import {
    done: Pending<()>,
    pub(crate) paths: Vec<PathInfo>,
    state: watch::Sender<Flight>,
    culprit: Culprit,
}

impl Import {
    /// Starts an import on connections of its own.
    pub(crate) fn aside(
        context: &LaneContext,
        to: Destination,
        bring: Vec<(PathInfo, Place)>,
        state: watch::Sender<Flight>,
    ) -> Import {
        let paths = bring.iter().map(|(info, _)| info.clone()).collect();
        let (culprit, shared) = (to.culprit.clone(), Arc::clone(&context.shared));
        let done = Box::pin(async move { copy_all(&shared, to, bring).await });
        Import { done, paths, state, culprit }
    }

    /// Waits until they are valid there.
    pub(crate) async fn finish(self, context: &LaneContext) -> Result<(), JobEnd> {
        match self.done.await {
            Ok(()) => {
                context.shared.places.landed(&self.paths, context.berth);
                let (machine, generation) = (context.machine, context.generation);
                context.shared.paths_arrived(machine, generation, &self.paths);
                self.state.send_replace(Flight::Landed);
                Ok(())
            }
            Err(error) => {
                let paths = self.paths.iter().map(|info| &info.path);
                context.shared.places.not_coming(paths, context.berth);
                self.state.send_replace(Flight::Failed);
                Err(broken(&self.culprit, error))
            }
        }
    }
}

/// Sends what is missing on its way, and waits for what others bring.
pub(crate) async fn bring(
    context: &Arc<LaneContext>,
    on: &Open,
    wanted: &[StorePath],
    busy: Busy,
    also_here: AlsoHere,
) -> Result<Option<Import>, JobEnd> {
    let (state, watched) = watch::channel(Flight::Flying);
    let places = &context.shared.places;
    let Needs { bring, await_others, await_first, lost } =
        places.claim(wanted, context.berth, &watched, |paths| way_of(paths, busy));
    if let Some(path) = lost.first() {
        places.not_coming(bring.iter().map(|(info, _)| &info.path), context.berth);
        return Err(JobEnd::Input { cause: format!("input '{path}' is nowhere any more") });
    }
    let not_brought = || JobEnd::Input { cause: "an input could not be brought".to_owned() };
    let claimed: Vec<StorePath> = bring.iter().map(|(info, _)| info.path.clone()).collect();
    let (bring, first) = tokio::join!(fetch_there(context, bring), all_landed(await_first));
    if !first {
        places.not_coming(claimed.iter(), context.berth);
        return Err(not_brought());
    }
    let import = match bring.is_empty() {
        true => {
            state.send_replace(Flight::Landed);
            None
        }
        false => Some(start_import(context, on, bring, state, busy, also_here).await?),
    };
    if !all_landed(await_others).await {
        if let Some(import) = import {
            import.finish(context).await?;
        }
        return Err(not_brought());
    }
    Ok(import)
}

/// Waits for what others bring. A carrier that is gone has failed.
pub(crate) async fn all_landed(flights: Vec<watch::Receiver<Flight>>) -> bool {
    for mut flight in flights {
        let landed = flight.wait_for(|state| *state != Flight::Flying).await;
        if !landed.is_ok_and(|state| *state == Flight::Landed) {
            return false;
        }
    }
    true
}

async fn start_import(
    context: &Arc<LaneContext>,
    on: &Open,
    bring: Vec<(PathInfo, Place)>,
    state: watch::Sender<Flight>,
    busy: Busy,
    also_here: AlsoHere,
) -> Result<Import, JobEnd> {
    let shared = &context.shared;
    let paths: Vec<PathInfo> = bring.iter().map(|(info, _)| info.clone()).collect();
    let mut culprit = Culprit::default();
    if goes_aside(&paths, busy) {
        let to = Destination {
            store: Arc::clone(&context.site) as Arc<dyn Store>,
            berth: context.berth,
            machine: Some(context.machine),
            culprit,
            also_here,
        };
        return Ok(Import::aside(context, to, bring, state));
    }
    let transfer = shared.start_transfer(&bring, Some(context.machine));
    let to = shared.traffic(context.berth.place);
    match Merged::open(shared.as_ref(), bring, to, transfer, culprit.clone()).await {
        Ok(mut merged) => {
            // from here on a source that breaks off may take the lane with it
            merged.culprit = on.culprit.clone();
            culprit = on.culprit.clone();
            Ok(Import { done: on.lane.import(Box::new(merged)), paths, state, culprit })
        }
        Err(error) => {
            shared.places.not_coming(paths.iter().map(|info| &info.path), context.berth);
            Err(broken(&culprit, error))
        }
    }
}

/// Whether inputs take other channels than the lane's: a busy lane reads nothing before its build
/// has ended, and several bulky paths are faster side by side.
pub(crate) fn goes_aside(paths: &[PathInfo], busy: Busy) -> bool {
    let bulky = paths.iter().filter(|info| info.nar_size.0 >= BULKY).count();
    bulky > 1 || (busy == Busy::Yes && total_bytes(paths) > ASIDE)
}

fn way_of(paths: &[PathInfo], busy: Busy) -> Way {
    match busy {
        Busy::Yes if !goes_aside(paths, busy) => Way::BehindBuild,
        Busy::Yes | Busy::No => Way::Free,
    }
}

/// Says whose connection broke.
pub(crate) fn broken(culprit: &Culprit, error: StoreError) -> JobEnd {
    match culprit.get() {
        Some((origin, error)) => JobEnd::Broken { error: error.clone(), source: Some(*origin) },
        None => JobEnd::Broken { error, source: None },
    }
}
