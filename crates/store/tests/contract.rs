//! The store in memory does what every store does.

use drover_store::MemoryStore;
use drover_store::contract::check_store;

#[tokio::test]
async fn memory() {
    check_store(&MemoryStore::default(), "memory").await;
}
