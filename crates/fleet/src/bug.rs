//! What becomes of a lane's job where this program has a bug: it fails in words. A task that was gone
//! without a word would leave the job running for ever, and whoever asked for it waiting.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use drover_core::StorePath;
use drover_schedule::JobId;
use drover_store::{BuildFailure, FailureCause};
use futures::FutureExt as _;

use crate::job_end::{JobEnd, Took};
use crate::lane::LaneContext;

/// Does some work for a job; where it panics, that is how the job ends.
pub(crate) async fn unless_it_panics<T>(work: impl Future<Output = T>) -> Result<T, JobEnd> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| {
        let said = words(panic.as_ref());
        let message = format!("drover gave the build up because it has a bug: {said}");
        JobEnd::Failed {
            failure: BuildFailure { cause: FailureCause::Build, message },
            tail: Vec::new(),
            took: Took::default(),
        }
    })
}

/// Follows a job that was sent, which tells the driver of its end by itself unless it panics; then that
/// is told, and that the outputs aren't coming.
pub(crate) async fn followed<T>(
    context: &LaneContext,
    job: JobId,
    outputs: &[StorePath],
    work: impl Future<Output = Option<T>>,
) -> Option<T> {
    match unless_it_panics(work).await {
        Ok(again) => again,
        Err(end) => {
            context.places_not_coming(outputs);
            context.tell(job, end);
            None
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked without a word")
}
