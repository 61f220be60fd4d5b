//! A store over another: what is added is there for all who have seen it, and nowhere else.

#![allow(clippy::unwrap_used, reason = "a test shows what went wrong by failing")]

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use drover_core::{PathInfo, StorePath};
use drover_store::contract::{Given, check_store, flat_file};
use drover_store::{Keeper, PathStream, SignatureCheck, StoreError, Substitute, WhenValid};
use drover_store_local::{Layout, LocalOptions, LocalStore, Place, Surroundings, Uid};
use drover_store_overlay::OverlayStore;

struct Lab {
    _folder: tempfile::TempDir,
    below: Arc<LocalStore>,
    overlay: Arc<OverlayStore>,
}

impl Lab {
    fn new() -> Lab {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("local?root={}", folder.path().display());
        let around = Surroundings {
            variable: &|_| None,
            exists: &|path| path.exists(),
            writable: &|_| true,
            uid: Uid::Other,
        };
        let Ok(Place::Local(layout)) = Layout::decide(&name.parse().unwrap(), &around) else {
            panic!("a store in a folder is one of this machine")
        };
        let below = Arc::new(LocalStore::new(layout, LocalOptions::default()));
        let overlay = Arc::new(OverlayStore::new(Arc::clone(&below) as Arc<dyn Keeper>));
        Lab { _folder: folder, below, overlay }
    }

    async fn session(&self) -> Arc<dyn Keeper> {
        Arc::clone(&self.overlay).session().await.unwrap()
    }
}

async fn add(store: &dyn Keeper, paths: Vec<(PathInfo, Bytes)>) -> Result<(), StoreError> {
    store.add_paths(Given::boxed(paths), SignatureCheck::Skip, WhenValid::Keep).await
}

async fn is_valid(store: &dyn Keeper, path: &StorePath) -> bool {
    let asked = BTreeSet::from([path.clone()]);
    !store.hold_valid(&asked, Substitute::No).await.unwrap().is_empty()
}

async fn nars(mut stream: Box<dyn PathStream>) -> Vec<Vec<u8>> {
    let mut nars = Vec::new();
    while stream.next_path().await.unwrap().is_some() {
        let mut nar = Vec::new();
        while let Some(chunk) = stream.chunk().await.unwrap() {
            nar.extend_from_slice(&chunk);
        }
        nars.push(nar);
    }
    nars
}

#[tokio::test]
async fn what_is_added_stays_beside_the_store_as_long_as_it_is_held() {
    let lab = Lab::new();
    let (one, two) = (lab.session().await, lab.session().await);
    let (small, small_nar) = flat_file("small", b"few bytes", &[]);
    let (large, large_nar) = flat_file("large", &vec![7; 3 * 1024 * 1024], &[&small]);
    let both = vec![(small.clone(), small_nar), (large.clone(), large_nar.clone())];
    add(one.as_ref(), both).await.unwrap();
    assert!(!is_valid(lab.below.as_ref(), &small.path).await);
    // who asks for it has it, too
    assert!(is_valid(two.as_ref(), &large.path).await);
    drop(one);
    assert_eq!(nars(two.export(vec![large.clone()]).await.unwrap()).await, [large_nar]);
    assert!(!is_valid(two.as_ref(), &small.path).await);
    drop(two);
    assert!(!is_valid(lab.session().await.as_ref(), &large.path).await);
}

#[tokio::test]
async fn what_is_below_is_seen_and_left_as_it_is() {
    let lab = Lab::new();
    let (low, low_nar) = flat_file("low", b"below", &[]);
    add(lab.below.as_ref(), vec![(low.clone(), low_nar.clone())]).await.unwrap();
    let view = lab.session().await;
    check_store(view.as_ref(), "overlay").await;
    let (high, high_nar) = flat_file("high", b"above", &[&low]);
    add(view.as_ref(), vec![(high.clone(), high_nar.clone())]).await.unwrap();
    let infos = view.path_infos(&[low.path.clone(), high.path.clone()]).await.unwrap();
    let infos: Vec<PathInfo> = infos.into_iter().flatten().collect();
    assert_eq!(nars(view.export(infos).await.unwrap()).await, [low_nar, high_nar]);
    assert_eq!(view.referrers(&low.path).await.unwrap(), [high.path.clone()].into());
    assert_eq!(lab.below.all_valid().await.unwrap(), [low.path].into());
}

#[tokio::test]
async fn a_reference_to_nothing_is_refused() {
    let lab = Lab::new();
    let view = lab.session().await;
    let (absent, _) = flat_file("absent", b"nowhere", &[]);
    let (dangling, nar) = flat_file("dangling", b"refers to nothing", &[&absent]);
    let refused = add(view.as_ref(), vec![(dangling.clone(), nar)]).await;
    assert!(matches!(refused, Err(StoreError::NotValid { path, .. }) if path == absent.path));
    assert!(!is_valid(view.as_ref(), &dangling.path).await);
}
