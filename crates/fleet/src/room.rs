//! Lanes for which there has to be room on this machine first.

use std::time::Duration;

use drover_store::{Lane, StoreError};

use crate::machine::Site;

/// How often, and after what time each, it's tried again to open a lane where this process has too many
/// files open: others that end make room.
const ROOM_TRIES: u32 = 10;
const ROOM_PAUSE: Duration = Duration::from_secs(1);

/// Opens a lane.
pub(crate) async fn open_lane(site: &dyn Site) -> Result<Box<dyn Lane>, StoreError> {
    for _ in 0..ROOM_TRIES {
        match site.open_lane().await {
            Err(StoreError::OwnLimit { .. }) => tokio::time::sleep(ROOM_PAUSE).await,
            opened => return opened,
        }
    }
    site.open_lane().await
}
