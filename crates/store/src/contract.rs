//! What every store does: one suite that each implementation's tests run.

use std::collections::{BTreeSet, VecDeque};

use async_trait::async_trait;
use bytes::Bytes;
use drover_core::{Hash, HashAlgorithm, NarHash, NarSize, PathInfo, StorePath, Substitute};
use drover_nar::{Executable, single_file_nar};

use crate::error::StoreError;
use crate::path_stream::PathStream;
use crate::store::Store;

/// Returns a flat file with these contents, as a path that nobody vouches for, and its NAR.
///
/// # Panics
///
/// Where `name` can't be a store path's name.
pub fn flat_file(name: &str, contents: &[u8], references: &[&PathInfo]) -> (PathInfo, Bytes) {
    let nar = single_file_nar(contents, Executable::No);
    let seed = Hash::of(HashAlgorithm::Sha256, &[name.as_bytes(), contents].concat());
    let hash_part = seed.digest().first_chunk::<20>().copied().unwrap_or_default();
    let Ok(name) = name.parse() else { panic!("'{name}' is no name of a store path") };
    let digest = Hash::of(HashAlgorithm::Sha256, &nar);
    let info = PathInfo {
        path: StorePath::new(hash_part, &name),
        deriver: None,
        nar_hash: NarHash(digest.digest().try_into().unwrap_or_default()),
        nar_size: NarSize(nar.len() as u64),
        references: references.iter().map(|info| info.path.clone()).collect(),
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    };
    (info, nar.into())
}

/// Paths that are sent as they are, be they what they say or not.
pub struct Given {
    paths: VecDeque<(PathInfo, Bytes)>,
    nar: Option<Bytes>,
}

impl Given {
    /// Returns the stream of these paths.
    pub fn boxed(paths: impl IntoIterator<Item = (PathInfo, Bytes)>) -> Box<dyn PathStream> {
        Box::new(Given { paths: paths.into_iter().collect(), nar: None })
    }
}

#[async_trait]
impl PathStream for Given {
    fn count(&self) -> usize {
        self.paths.len()
    }

    async fn next_path(&mut self) -> Result<Option<PathInfo>, StoreError> {
        let next = self.paths.pop_front();
        self.nar = next.as_ref().map(|(_, nar)| nar.clone());
        Ok(next.map(|(info, _)| info))
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        Ok(self.nar.take())
    }
}

/// Checks that a store does what stores do. It takes paths whose names begin with `name`; an empty
/// store is best.
///
/// # Panics
///
/// Where it doesn't.
pub async fn check_store(store: &dyn Store, name: &str) {
    let (a, a_nar) = flat_file(&format!("{name}-a"), b"the contents of a", &[]);
    let (b, b_nar) = flat_file(&format!("{name}-b"), b"b refers to a", &[&a]);
    let both = BTreeSet::from([a.path.clone(), b.path.clone()]);
    refuses(store, &a, &a_nar, &b, &b_nar, &both).await;

    let paths = || Given::boxed([(a.clone(), a_nar.clone()), (b.clone(), b_nar.clone())]);
    ok(store.import(paths()).await, "importing");
    assert_eq!(ok(store.hold_valid(&both, Substitute::No).await, "asking what is valid"), both);
    ok(store.import(paths()).await, "importing what is there already");
    ok(store.import(Given::boxed([])).await, "importing nothing");
    answers(store, &a, &b, name).await;
    gives_back(store, [(&a, &a_nar), (&b, &b_nar)]).await;
    survives_bad_questions(store, &a, name).await;
    gives_back(store, [(&a, &a_nar), (&b, &b_nar)]).await;
}

fn ok<T>(result: Result<T, StoreError>, doing: &str) -> T {
    result.unwrap_or_else(|error| panic!("{doing}: {error:?}"))
}

/// What isn't what it says is not added, and leaves nothing behind.
async fn refuses(
    store: &dyn Store,
    a: &PathInfo,
    a_nar: &Bytes,
    b: &PathInfo,
    b_nar: &Bytes,
    both: &BTreeSet<StorePath>,
) {
    assert_eq!(ok(store.hold_valid(both, Substitute::No).await, "asking"), BTreeSet::new());
    let mut altered = a_nar.to_vec();
    if let Some(byte) = altered.iter_mut().rev().nth(40) {
        *byte ^= 1;
    }
    let cut = a_nar.slice(..a_nar.len() / 2);
    let longer = PathInfo { nar_size: NarSize(a.nar_size.0 + 8), ..a.clone() };
    let cases: [(&str, PathInfo, Bytes); 4] = [
        ("an altered NAR", a.clone(), altered.into()),
        ("a NAR that is cut", a.clone(), cut),
        ("a NAR that is shorter than announced", longer, a_nar.clone()),
        ("a path that refers to a missing one", b.clone(), b_nar.clone()),
    ];
    for (what, info, nar) in cases {
        let imported = store.import(Given::boxed([(info, nar)])).await;
        assert!(imported.is_err(), "{what} was taken");
        let valid = ok(store.hold_valid(both, Substitute::No).await, what);
        assert_eq!(valid, BTreeSet::new(), "{what} is valid now");
    }
}

async fn answers(store: &dyn Store, a: &PathInfo, b: &PathInfo, name: &str) {
    let (absent, _) = flat_file(&format!("{name}-absent"), b"nobody has this", &[]);
    let asked = [b.path.clone(), absent.path.clone(), a.path.clone()];
    let infos = ok(store.path_infos(&asked).await, "asking for infos");
    let [Some(for_b), None, Some(for_a)] = infos.as_slice() else {
        panic!("infos are not in the order of the question: {infos:?}")
    };
    for (found, expected) in [(for_a, a), (for_b, b)] {
        assert_eq!(found.path, expected.path);
        assert_eq!(found.nar_hash, expected.nar_hash);
        assert_eq!(found.nar_size, expected.nar_size);
        assert_eq!(found.references, expected.references);
    }
    let valid = ok(store.valid(&asked.clone().into()).await, "asking which are valid");
    assert_eq!(valid, [a.path.clone(), b.path.clone()].into());
    let files = ok(store.read_files(std::slice::from_ref(&a.path)).await, "reading a file");
    assert_eq!(files, [Bytes::from_static(b"the contents of a")]);
}

async fn gives_back(store: &dyn Store, [a, b]: [(&PathInfo, &Bytes); 2]) {
    let mut stream = ok(store.export(vec![b.0.clone(), a.0.clone()]).await, "exporting");
    assert_eq!(stream.count(), 2);
    for (expected, expected_nar) in [b, a] {
        let info = ok(stream.next_path().await, "going on to a path");
        assert_eq!(info.map(|info| info.path).as_ref(), Some(&expected.path));
        let mut nar = Vec::new();
        while let Some(chunk) = ok(stream.chunk().await, "exporting") {
            nar.extend_from_slice(&chunk);
        }
        assert_eq!(&nar, expected_nar, "other bytes came out than went in");
        let small = ok(store.small_nar(expected.clone()).await, "fetching a small NAR");
        assert_eq!(&small, expected_nar, "other bytes came out than went in");
    }
    assert!(ok(stream.next_path().await, "ending").is_none());
}

/// What is asked for wrongly is refused, and the store works on.
async fn survives_bad_questions(store: &dyn Store, a: &PathInfo, name: &str) {
    let (absent, _) = flat_file(&format!("{name}-absent"), b"nobody has this", &[]);
    let other_hash = PathInfo { nar_hash: NarHash([7; 32]), ..a.clone() };
    let smaller = PathInfo { nar_size: NarSize(a.nar_size.0 - 8), ..a.clone() };
    for (what, info) in
        [("an absent path", absent), ("another hash", other_hash), ("another size", smaller)]
    {
        assert!(read_all(store, info.clone()).await.is_err(), "{what} was exported");
        assert!(store.small_nar(info).await.is_err(), "{what} was fetched");
    }
}

async fn read_all(store: &dyn Store, info: PathInfo) -> Result<(), StoreError> {
    let mut stream = store.export(vec![info]).await?;
    while stream.next_path().await?.is_some() {
        while stream.chunk().await?.is_some() {}
    }
    Ok(())
}
