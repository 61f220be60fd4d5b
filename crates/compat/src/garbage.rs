//! Garbage collection, for all the commands that do it.

use drover_store::{CollectAction, Collected, Collection, Keeper};

use crate::console::Console;
use crate::error::CompatError;
use crate::options::Verbosity;
use crate::size::render_size;

/// Returns a collection of the whole store.
pub(crate) fn whole(action: CollectAction, max_freed: Option<u64>) -> Collection {
    Collection {
        action,
        liveness: drover_store::Liveness::Respect,
        paths: Default::default(),
        max_freed,
    }
}

/// Collects, and tells what was freed even where it failed, as Nix does (`printFreed` in
/// `src/libmain/shared.cc`).
pub(crate) async fn delete(
    store: &dyn Keeper,
    collection: Collection,
    console: &mut Console,
) -> Result<(), CompatError> {
    console.say(Verbosity::INFO, "finding garbage collector roots...").await?;
    let outcome = store.collect(collection).await;
    let none = Collected::default();
    let freed = outcome.as_ref().unwrap_or(&none);
    let (count, size) = (freed.names.len(), render_size(freed.bytes_freed));
    console.line(format!("{count} store paths deleted, {size} freed")).await?;
    outcome?;
    Ok(())
}

/// Collects, and returns what was listed or deleted.
pub(crate) async fn told(
    store: &dyn Keeper,
    collection: Collection,
) -> Result<serde_json::Value, CompatError> {
    let Collected { mut names, bytes_freed } = store.collect(collection).await?;
    names.sort();
    let store_dir = store.store_dir();
    let paths: Vec<String> = names.iter().map(|name| format!("{store_dir}/{name}")).collect();
    Ok(serde_json::json!({ "paths": paths, "bytesFreed": bytes_freed }))
}

/// Counts what would be deleted.
pub(crate) async fn rehearse(store: &dyn Keeper, console: &mut Console) -> Result<(), CompatError> {
    let dead = store.collect(whole(CollectAction::ListDead, None)).await?;
    console.line(format!("{} store paths would be deleted", dead.names.len())).await
}

/// Prints the paths that are live or dead, sorted.
pub(crate) async fn list(
    store: &dyn Keeper,
    action: CollectAction,
    console: &mut Console,
) -> Result<(), CompatError> {
    let mut names = store.collect(whole(action, None)).await?.names;
    names.sort();
    for name in names {
        console.line(format!("{}/{name}", store.store_dir())).await?;
    }
    Ok(())
}
