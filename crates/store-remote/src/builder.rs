//! Stores as builders: lanes, also those whose builds' logs are kept on this machine.

use std::sync::Arc;

use async_trait::async_trait;
use drover_store::{
    BuildLog, BuildOutcome, BuildRequest, Builder, Built, Lane, LogEvent, LogKeeper, PathStream,
    Pending, StoreError,
};

use crate::lane::RemoteLane;
use crate::pool::Purpose;
use crate::store::RemoteStore;
use crate::turn_lane::TurnLane;

#[async_trait]
impl Builder for RemoteStore {
    fn approach(&self) {
        self.pool.approach();
    }

    fn expect(&self, channels: usize) {
        self.pool.warm(channels);
    }

    async fn open_lane(&self) -> Result<Box<dyn Lane>, StoreError> {
        let lane: Box<dyn Lane> = if self.pool.takes_turns() {
            self.pool.connect().await?;
            Box::new(TurnLane::new(Arc::clone(&self.pool)))
        } else {
            let lease = self.pool.lease(Purpose::Lane).await?;
            Box::new(RemoteLane::new(lease, Arc::clone(&self.pool)))
        };
        Ok(match &self.logs {
            Some(logs) => Box::new(LoggedLane { lane, logs: Arc::clone(logs) }),
            None => lane,
        })
    }
}

/// A lane, and who keeps the logs of what is built on it.
struct LoggedLane {
    lane: Box<dyn Lane>,
    logs: Arc<dyn LogKeeper>,
}

impl Lane for LoggedLane {
    fn import(&self, paths: Box<dyn PathStream>) -> Pending<()> {
        self.lane.import(paths)
    }

    fn build(&self, request: BuildRequest, log: Arc<dyn BuildLog>) -> Pending<BuildOutcome> {
        let (following, kept) = self.logs.keep(&request, Arc::clone(&log));
        let outcome = self.lane.build(request, following);
        Box::pin(async move {
            let outcome = outcome.await;
            if was_built(&outcome)
                && let Err(error) = kept.await
            {
                log.event(LogEvent::Message(format!("warning: its log can't be kept: {error}")));
            }
            outcome
        })
    }
}

/// Whether there is a log: of what didn't come to be built an older one may say more.
fn was_built(outcome: &Result<BuildOutcome, StoreError>) -> bool {
    match outcome {
        Ok(BuildOutcome::Built(Built { already_valid, .. })) => !already_valid,
        Ok(BuildOutcome::Failed(failure)) => !failure.cause.is_of_machine(),
        Err(_) => false,
    }
}
