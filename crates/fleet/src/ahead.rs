//! What the last build is made of is fetched while it runs, as results mostly refer to it and the
//! links have nothing else to do. It's given up if the result doesn't.

use std::collections::HashMap;
use std::sync::Arc;

use drover_core::StorePath;
use drover_schedule::Place;

use crate::merge::Culprit;
use crate::shared::Shared;
use crate::tee::alongside;
use crate::transfer::{BULKY, here, open};

/// Bytes that are fetched at the most before it's known that they are wanted.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Waits for a build. If it's that of a target, the large ones of its inputs that are only on machines
/// are fetched meanwhile, as soon as it's the last job. Small ones are fetched in no time.
pub(crate) async fn fetching_ahead<T>(
    shared: &Arc<Shared>,
    derivation: &StorePath,
    inputs: &[StorePath],
    build: impl Future<Output = T>,
) -> T {
    if !shared.is_target(derivation) {
        return build.await;
    }
    let fetch = async {
        shared.until_one_job_is_left().await;
        fetch_large(shared, inputs);
    };
    alongside(build, fetch).await
}

fn fetch_large(shared: &Arc<Shared>, inputs: &[StorePath]) {
    let mut load = HashMap::new();
    let mut left = MAX_BYTES;
    for path in inputs.iter().filter(|path| !shared.places.is_at(path, Place::Here)) {
        let Some((info, place)) = shared.places.somewhere(path, &mut load) else { continue };
        let size = info.nar_size.0;
        if place == Place::Here || size < BULKY || left < size {
            continue;
        }
        left -= size;
        let (to, source) = (here(shared, &Culprit::default()), vec![(info.clone(), place)]);
        let of_shared = Arc::clone(shared);
        let stream = async move { open(&of_shared, &to, source).await };
        shared.tees.fetch(&shared.local, &info, stream);
    }
}
