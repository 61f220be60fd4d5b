//! What is offered to a machine that doesn't trust us: inputs that are signed. What it takes it need
//! not build by itself.
//!
//! Which keys a machine trusts can only be found out by trying. A signature that it doesn't take
//! costs one attempt, and never a build.

use std::collections::BTreeSet;
use std::sync::Arc;

use drover_core::{PathInfo, StorePath};
use drover_store::{Store, StoreError};
use tokio::sync::watch;

use crate::inputs::{Import, all_landed};
use crate::job_end::JobEnd;
use crate::lane::LaneContext;
use crate::merge::Culprit;
use crate::places::{Flight, Needs, Way};
use crate::transfer::{AlsoHere, Destination};

/// Brings those of `inputs` that the machine takes, with all that they refer to, for what somebody
/// signed whom it trusts. Whatever comes of it, the build can go on.
pub(crate) async fn offer(context: &Arc<LaneContext>, inputs: &[StorePath]) {
    // each round finds a key that isn't trusted, or is the last
    while let Some(refusal) = offer_once(context, inputs).await {
        let Refusal { message, paths } = refusal;
        let named: Vec<&PathInfo> =
            paths.iter().filter(|info| message.contains(info.path.base_name())).collect();
        let refused = if named.is_empty() { paths.iter().collect() } else { named };
        let keys = refused.iter().flat_map(|info| &info.signatures);
        let keys: BTreeSet<String> = keys.map(|signature| signature.key().to_owned()).collect();
        if !context.shared.distrust(context.machine, keys) {
            return;
        }
    }
}

/// What a machine said to an offer.
struct Refusal {
    message: String,
    paths: Vec<PathInfo>,
}

async fn offer_once(context: &Arc<LaneContext>, inputs: &[StorePath]) -> Option<Refusal> {
    let (shared, berth) = (&context.shared, context.berth);
    let distrusted = shared.distrusted(context.machine);
    let is_good = |info: &PathInfo| {
        let trusted = |key: &str| !distrusted.contains(key);
        info.content_address.is_some() || info.signatures.iter().any(|by| trusted(by.key()))
    };
    let wanted = shared.places.acceptable(inputs, berth.place, is_good);
    let (state, watched) = watch::channel(Flight::Flying);
    let Needs { bring, await_others, await_first, lost } =
        shared.places.claim(&wanted, berth, &watched, |_| Way::Free);
    let paths: Vec<PathInfo> = bring.iter().map(|(info, _)| info.clone()).collect();
    if !lost.is_empty() || !all_landed(await_first).await {
        shared.places.not_coming(paths.iter().map(|info| &info.path), berth);
        return None;
    }
    let mut refusal = None;
    if !bring.is_empty() {
        let to = Destination {
            store: Arc::clone(&context.site) as Arc<dyn Store>,
            berth,
            machine: Some(context.machine),
            culprit: Culprit::default(),
            also_here: AlsoHere::No,
        };
        // not on the lane, which some servers end with a refusal
        let import = Import::aside(context, to, bring, state);
        if let Err(JobEnd::Broken { error: StoreError::Refused { message, .. }, .. }) =
            import.finish(context).await
        {
            refusal = Some(Refusal { message, paths });
        }
    }
    all_landed(await_others).await;
    refusal
}
