//! Reading a graph of 100,000 paths and 600,000 references, its closure, and registering paths.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;

use drover_core::{Hash, HashAlgorithm, NarHash, NarSize, PathInfo, StoreDir, StorePath};
use drover_store_db::{Database, Mode, OpenOptions, Registration};

const PATHS: usize = 100_000;
const REFERENCES: usize = 6;

fn main() {
    divan::main();
}

fn path(at: usize) -> StorePath {
    let hash = Hash::of(HashAlgorithm::Sha1, &at.to_le_bytes());
    let name = format!("some-package-{at}-1.2.3").parse().expect("a name");
    StorePath::new(hash.digest().try_into().expect("20 bytes"), &name)
}

fn registration(at: usize) -> Registration {
    // Mostly recent paths, so that the graph is deep, and some old ones, so that it is wide.
    let references =
        (1..=REFERENCES).filter_map(|step| at.checked_sub(step * step * step + at % 7));
    let info = PathInfo {
        path: path(at),
        deriver: None,
        nar_hash: NarHash([1; 32]),
        nar_size: NarSize(4096),
        references: references.map(path).collect(),
        registration_time: 1,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    };
    info.into()
}

fn open(dir: &Path) -> Database {
    Database::open(&OpenOptions::new(dir, &StoreDir::default(), Mode::Create)).expect("a database")
}

fn large() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let registrations: Vec<Registration> = (0..PATHS).map(registration).collect();
        open(folder.path()).register(&registrations).expect("registered");
        folder
    });
    folder.path()
}

#[divan::bench(sample_count = 10)]
fn load_graph(bencher: divan::Bencher<'_, '_>) {
    let database = open(large());
    bencher.bench_local(|| database.load_graph().expect("a graph"));
}

#[divan::bench(sample_count = 10)]
fn load_graph_with_derivations(bencher: divan::Bencher<'_, '_>) {
    let database = open(large());
    bencher.bench_local(|| database.load_graph_with_derivations().expect("a graph"));
}

#[divan::bench(sample_count = 10)]
fn closure(bencher: divan::Bencher<'_, '_>) {
    let graph = open(large()).load_graph().expect("a graph");
    let start = graph.find(&path(PATHS - 1)).expect("a node");
    bencher.bench_local(|| graph.reachable([start], graph.references()).len());
}

#[divan::bench(sample_count = 5)]
fn path_infos_of_10_000(bencher: divan::Bencher<'_, '_>) {
    let database = open(large());
    let paths: Vec<StorePath> = (0..10_000).map(|at| path(at * 7)).collect();
    bencher.bench_local(|| database.path_infos(&paths).expect("infos"));
}

#[divan::bench(sample_count = 5)]
fn register_2_000_in_batches_of_256(bencher: divan::Bencher<'_, '_>) {
    let registrations: Vec<Registration> = (0..2_000).map(registration).collect();
    bencher.with_inputs(|| tempfile::tempdir().expect("a folder")).bench_local_values(|folder| {
        let mut database = open(folder.path());
        for batch in registrations.chunks(256) {
            database.register(batch).expect("registered");
        }
        folder
    });
}
