//! Many small paths, and a large one: that they are right; how fast they were is printed.

use std::collections::BTreeSet;
use std::time::Instant;

use bytes::Bytes;
use drover_core::{HashAlgorithm, IngestionMethod};
use drover_store::contract::{Given, flat_file};
use drover_store::{Content, Keeper, PathStream, Store, WhenValid};
use drover_store_local::{ContentSync, LocalOptions};

use crate::support::Home;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_small_paths_and_a_large_one() {
    let home = Home::new();
    let store = home.store();
    let mut paths: Vec<(drover_core::PathInfo, Bytes)> = Vec::new();
    for at in 0..2000 {
        let last = paths.last().map(|(info, _)| info.clone());
        let contents = format!("{at} ").repeat(500);
        let references: Vec<_> = last.iter().collect();
        paths.push(flat_file(&format!("small-{at}"), contents.as_bytes(), &references));
    }
    store.connect().await.expect("open");
    let start = Instant::now();
    store.import(Given::boxed(paths)).await.expect("imported");
    println!("2000 small paths in {:?}", start.elapsed());
    assert_eq!(store.all_valid().await.expect("all").len(), 2000);

    let contents: Vec<u8> = (0..8u32 << 20).flat_map(|at| u64::from(at).to_le_bytes()).collect();
    let (large, nar) = flat_file("large", &contents, &[]);
    let start = Instant::now();
    let pieces = Pieces { info: Some(large.clone()), nar: nar.clone() };
    store.import(Box::new(pieces)).await.expect("imported");
    println!("a path of 64 MiB in {:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(store.small_nar(large).await.expect("a NAR"), nar);
    println!("and out again in {:?}", start.elapsed());
}

/// One path per call, as an evaluator adds derivations, with and without a sync for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_path_at_a_time() {
    for contents in [ContentSync::Off, ContentSync::Full] {
        let home = Home::new();
        let store = home.store_with(LocalOptions { contents, ..LocalOptions::default() });
        store.connect().await.expect("open");
        let start = Instant::now();
        for at in 0..100 {
            let content = Content {
                name: format!("text-{at}").parse().expect("a name"),
                method: IngestionMethod::Text,
                algorithm: HashAlgorithm::Sha256,
                references: BTreeSet::new(),
            };
            let bytes = crate::support::Pieces::boxed(format!("{at} ").repeat(300), 4096);
            store.add_content(content, bytes, WhenValid::Keep).await.expect("added");
        }
        println!("100 texts one by one, {contents:?}: {:?}", start.elapsed());
        assert_eq!(store.all_valid().await.expect("all").len(), 100);
    }
}

struct Pieces {
    info: Option<drover_core::PathInfo>,
    nar: Bytes,
}

#[async_trait::async_trait]
impl PathStream for Pieces {
    fn count(&self) -> usize {
        1
    }

    async fn next_path(
        &mut self,
    ) -> Result<Option<drover_core::PathInfo>, drover_store::StoreError> {
        Ok(self.info.take())
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, drover_store::StoreError> {
        let size = self.nar.len().min(256 * 1024);
        let piece = self.nar.split_to(size);
        Ok((!piece.is_empty()).then_some(piece))
    }
}
