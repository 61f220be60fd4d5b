//! How fast derivations are read, printed, hashed and checked.

use std::collections::BTreeMap;

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use drover_core::{OutputName, StoreDir, StorePath};
use drover_derivation::{BasicDerivation, Derivation, HashModuloCache, Output};

fn main() {
    divan::main();
}

/// A derivation of about the size and shape that those of nixpkgs have: 4 KiB, `inputs` inputs.
fn derivation(at: usize, inputs: impl IntoIterator<Item = usize>) -> Derivation {
    let script = "if [ -e \"$NIX_ATTRS_SH_FILE\" ]; then\n\tsource $stdenv/setup\nfi\n".repeat(40);
    let variables = (0..40).map(|at| (format!("variable{at}"), format!("value {at}")));
    let basic = BasicDerivation {
        name: "package-1.0".parse().expect("a name"),
        outputs: BTreeMap::from([(OutputName::out(), Output::Deferred)]),
        input_sources: (0..3).map(|source| path(at, &format!("source-{source}.sh"))).collect(),
        system: "x86_64-linux".to_owned(),
        builder: "/nix/store/00000000000000000000000000000000-bash/bin/bash".into(),
        args: vec!["-e".into(), "/nix/store/00000000000000000000000000000000-default".into()],
        environment: variables.chain([("script".to_owned(), script)]).collect(),
    };
    let inputs =
        inputs.into_iter().map(|at| (path(at, "package-1.0.drv"), OutputName::out().into()));
    Derivation { basic, input_derivations: inputs.collect() }
}

fn path(at: usize, name: &str) -> StorePath {
    StorePath::from_base_name(&format!("{at:032}-{name}")).expect("a path")
}

#[divan::bench]
fn parse(bencher: Bencher<'_, '_>) {
    let store_dir = StoreDir::default();
    let text = derivation(0, 0..30).to_aterm(&store_dir);
    let name = "package-1.0".parse().expect("a name");
    bencher
        .counter(BytesCount::of_slice(&text))
        .bench(|| Derivation::parse_aterm(&store_dir, &name, black_box(&text)));
}

#[divan::bench]
fn print(bencher: Bencher<'_, '_>) {
    let store_dir = StoreDir::default();
    let derivation = derivation(0, 0..30);
    bencher
        .counter(BytesCount::of_slice(&derivation.to_aterm(&store_dir)))
        .bench(|| black_box(&derivation).to_aterm(&store_dir));
}

/// Parses a string of 1 MiB that has to be unescaped, such as a long build script.
#[divan::bench]
fn parse_long_string(bencher: Bencher<'_, '_>) {
    let store_dir = StoreDir::default();
    let mut derivation = derivation(0, []);
    derivation.basic.environment = [("x", "a line of text\n".repeat(70_000))].into_iter().collect();
    let text = derivation.to_aterm(&store_dir);
    let name = "package-1.0".parse().expect("a name");
    bencher
        .counter(BytesCount::of_slice(&text))
        .bench(|| Derivation::parse_aterm(&store_dir, &name, black_box(&text)));
}

/// Hashes a graph in which each derivation depends on the 30 before it.
#[divan::bench]
fn hash_modulo(bencher: Bencher<'_, '_>) {
    const COUNT: usize = 1000;
    let store_dir = StoreDir::default();
    let graph: BTreeMap<StorePath, Derivation> = (0..COUNT)
        .map(|at| (path(at, "package-1.0.drv"), derivation(at, at.saturating_sub(30)..at)))
        .collect();
    let (last, derivation) = graph.last_key_value().expect("a derivation");
    bencher.counter(ItemsCount::new(COUNT)).bench(|| {
        let mut cache = HashModuloCache::new();
        cache.insert_closure(&store_dir, last, derivation, |path| graph.get(path))
    });
}
