//! Whatever is printed is read again, and no bytes make the reader panic.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use drover_core::{
    ContentAddress, Hash, HashAlgorithm, IngestionMethod, OutputName, StoreDir, StoreName,
    StorePath,
};
use drover_derivation::{
    BasicDerivation, ByteString, Derivation, Environment, Output, OutputNames, PathPool,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;

fn store_name() -> impl Strategy<Value = StoreName> {
    "[a-zA-Z0-9+_?=][a-zA-Z0-9+._?=-]{0,20}".prop_map(|name| name.parse().unwrap())
}

fn output_name() -> impl Strategy<Value = OutputName> {
    prop_oneof![
        Just(OutputName::out()),
        store_name().prop_map(|name| name.as_str().parse().unwrap())
    ]
}

fn store_path() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), store_name()).prop_map(|(hash, name)| StorePath::new(hash, &name))
}

fn derivation_path() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), store_name())
        .prop_map(|(hash, name)| StorePath::new(hash, &format!("{name}.drv").parse().unwrap()))
}

fn flat_or_nar() -> impl Strategy<Value = IngestionMethod> {
    prop_oneof![Just(IngestionMethod::Flat), Just(IngestionMethod::Nar)]
}

fn method() -> impl Strategy<Value = IngestionMethod> {
    prop_oneof![Just(IngestionMethod::Flat), Just(IngestionMethod::Nar), Just(IngestionMethod::Git),]
}

fn algorithm() -> impl Strategy<Value = HashAlgorithm> {
    prop_oneof![
        Just(HashAlgorithm::Md5),
        Just(HashAlgorithm::Sha1),
        Just(HashAlgorithm::Sha256),
        Just(HashAlgorithm::Sha512),
    ]
}

/// Outputs of one kind, as they are in one derivation.
fn outputs(name: StoreName) -> impl Strategy<Value = BTreeMap<OutputName, Output>> {
    let names = || btree_set(output_name(), 1..4);
    let all = |output: Output| move |name| (name, output.clone());
    let fixed = (flat_or_nar(), algorithm(), vec(any::<u8>(), 0..9)).prop_map(move |parts| {
        let (method, algorithm, bytes) = parts;
        let address = ContentAddress { method, hash: Hash::of(algorithm, &bytes) };
        let out = OutputName::out();
        let output = Output::fixed(&StoreDir::default(), &name, &out, address).unwrap();
        BTreeMap::from([(out, output)])
    });
    prop_oneof![
        btree_map(output_name(), store_path().prop_map(Output::InputAddressed), 1..4),
        fixed,
        (names(), method(), algorithm()).prop_map(move |(names, method, algorithm)| {
            names.into_iter().map(all(Output::Floating { method, algorithm })).collect()
        }),
        (names(), method(), algorithm()).prop_map(move |(names, method, algorithm)| {
            names.into_iter().map(all(Output::Impure { method, algorithm })).collect()
        }),
        names().prop_map(move |names| names.into_iter().map(all(Output::Deferred)).collect()),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..20),
        vec(prop_oneof![Just(b'"'), Just(b'\\'), Just(b'\n'), Just(b'\t'), Just(b'n')], 0..20),
    ]
}

fn basic() -> impl Strategy<Value = BasicDerivation> {
    let rest = (
        btree_set(store_path(), 0..4),
        "[a-z0-9_-]{0,20}",
        bytes(),
        vec(bytes(), 0..4),
        btree_map(bytes(), bytes(), 0..6),
    );
    let named = store_name().prop_flat_map(|name| (Just(name.clone()), outputs(name)));
    (named, rest).prop_map(|((name, outputs), (sources, system, builder, args, environment))| {
        BasicDerivation {
            name,
            outputs,
            input_sources: sources,
            system,
            builder: builder.into(),
            args: args.into_iter().map(ByteString::from).collect(),
            environment: environment.into_iter().collect(),
        }
    })
}

fn derivation() -> impl Strategy<Value = Derivation> {
    let names = btree_set(output_name(), 1..4).prop_map(OutputNames::from_iter);
    (basic(), btree_map(derivation_path(), names, 0..4))
        .prop_map(|(basic, input_derivations)| Derivation { basic, input_derivations })
}

proptest! {
    #[test]
    fn reads_what_it_prints(derivation in derivation()) {
        let store_dir = StoreDir::default();
        let text = derivation.to_aterm(&store_dir);
        let read = Derivation::parse_aterm(&store_dir, &derivation.name, &text);
        prop_assert_eq!(read.as_ref(), Ok(&derivation));
        let mut shared = derivation.clone();
        PathPool::new().share(&mut shared);
        prop_assert_eq!(&shared, &derivation);
    }

    #[test]
    fn never_panics_on_bytes(bytes in vec(any::<u8>(), 0..200)) {
        let name = "x".parse().unwrap();
        prop_assert!(Derivation::parse_aterm(&StoreDir::default(), &name, &bytes).is_err());
    }

    /// Whatever is read is printed as it was, so that no two files are one derivation.
    #[test]
    fn prints_what_it_reads_of_mutations(
        derivation in derivation(),
        at in any::<prop::sample::Index>(),
        inserted in vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b','), Just(b'\\')], 0..3),
        removed in 0usize..3,
    ) {
        let store_dir = StoreDir::default();
        let mut text = derivation.to_aterm(&store_dir);
        let start = at.index(text.len());
        let end = text.len().min(start + removed);
        text.splice(start..end, inserted);
        if let Ok(read) = Derivation::parse_aterm(&store_dir, &derivation.name, &text) {
            prop_assert_eq!(read.to_aterm(&store_dir), text);
        }
    }

    #[test]
    fn an_environment_is_a_map(entries in vec((bytes(), bytes()), 0..20), other in bytes()) {
        let map: BTreeMap<Vec<u8>, Vec<u8>> = entries.iter().cloned().collect();
        let environment: Environment = entries.into_iter().collect();
        prop_assert_eq!(environment.len(), map.len());
        for name in map.keys().chain([&other]) {
            prop_assert_eq!(environment.get(name), map.get(name).map(Vec::as_slice));
        }
        let listed = environment.iter().map(|(name, value)| (name.to_vec(), value.to_vec()));
        prop_assert!(listed.eq(map));
    }

    #[test]
    fn escapes_are_lossless(left in bytes(), right in bytes()) {
        let shown = |bytes: &[u8]| ByteString::from(bytes).to_string();
        prop_assert_eq!(left == right, shown(&left) == shown(&right));
    }

    #[test]
    fn resolving_puts_paths_in(paths in btree_set(derivation_path(), 1..4), out in store_path()) {
        let store_dir = StoreDir::default();
        let name: StoreName = "x".parse().unwrap();
        let placeholders = paths.iter().map(|path| {
            drover_derivation::downstream_placeholder(path, &OutputName::out()).unwrap()
        });
        let text = placeholders.collect::<Vec<_>>().join("/");
        let expected = vec![store_dir.display(&out); paths.len()].join("/");
        let derivation = Derivation {
            basic: BasicDerivation {
                name: name.clone(),
                outputs: BTreeMap::from([(OutputName::out(), Output::Deferred)]),
                input_sources: BTreeSet::new(),
                system: "x".to_owned(),
                builder: text.as_str().into(),
                args: vec![text.as_str().into()],
                environment: [(text.as_str(), text.as_str())].into_iter().collect(),
            },
            input_derivations: paths
                .into_iter()
                .map(|path| (path, OutputNames::from(OutputName::out())))
                .collect(),
        };
        let resolved = derivation.resolve(&store_dir, |_, _| Some(out.clone())).unwrap();
        prop_assert_eq!(&*resolved.builder, expected.as_bytes());
        prop_assert_eq!(&*resolved.args[0], expected.as_bytes());
        prop_assert_eq!(resolved.environment.get(&expected), Some(expected.as_bytes()));
        prop_assert!(resolved.input_sources.contains(&out));
        prop_assert!(matches!(
            resolved.outputs[&OutputName::out()],
            Output::InputAddressed(_)
        ));
    }
}
