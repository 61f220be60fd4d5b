//! Hard links in the place of equal files, all over the store.
//!
//! Follows `LocalStore::optimiseStore` of Nix (`src/libstore/optimise-store.cc`).

use crate::error::LocalError;
use crate::tree;
use crate::view::View;

/// Returns the bytes saved. Paths that vanish meanwhile are passed over.
pub(crate) fn optimise(view: &View) -> Result<u64, LocalError> {
    view.refuse_read_only("optimise the store")?;
    let mut links = tree::links(view)?;
    links.load()?;
    let mut saved = 0;
    for path in view.opened.read(|database| database.all_paths())? {
        view.hold([&path])?;
        if !view.valid([&path])?.is_empty() {
            saved += match tree::optimise(view, &mut links, &path) {
                // Somebody replaces it.
                Err(LocalError::Files(error)) if error.is_missing() => 0,
                optimised => optimised?,
            };
        }
    }
    Ok(saved)
}
