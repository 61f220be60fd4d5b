//! What is displayed is parsed again, and nothing that is parsed panics.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use drover_core::{
    ContentAddress, DrvOutput, Hash, HashAlgorithm, HashNotation, IngestionMethod, NarHash,
    NarSize, OutputName, PathInfo, Signature, StoreDir, StoreName, StorePath,
};
use proptest::prelude::*;

fn hash() -> impl Strategy<Value = Hash> {
    let algorithm = prop_oneof![
        Just(HashAlgorithm::Md5),
        Just(HashAlgorithm::Sha1),
        Just(HashAlgorithm::Sha256),
        Just(HashAlgorithm::Sha512),
    ];
    (algorithm, any::<[u8; 64]>()).prop_map(|(algorithm, bytes)| {
        Hash::from_digest(algorithm, bytes.get(..algorithm.size()).unwrap()).unwrap()
    })
}

fn method() -> impl Strategy<Value = IngestionMethod> {
    prop_oneof![
        Just(IngestionMethod::Flat),
        Just(IngestionMethod::Nar),
        Just(IngestionMethod::Git),
        Just(IngestionMethod::Text),
    ]
}

fn store_path() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), "[a-zA-Z0-9+_?=][a-zA-Z0-9+._?=-]{0,210}")
        .prop_map(|(hash, name)| StorePath::new(hash, &name.parse().unwrap()))
}

proptest! {
    #[test]
    fn hashes(hash in hash()) {
        for notation in
            [HashNotation::Base16, HashNotation::Base32, HashNotation::Base64, HashNotation::Sri]
        {
            prop_assert_eq!(hash.display(notation).parse(), Ok(hash.clone()));
        }
        let upper = hash.digits(HashNotation::Base16).to_uppercase();
        prop_assert_eq!(Hash::parse(&upper, Some(hash.algorithm())), Ok(hash));
    }

    #[test]
    fn content_addresses(method in method(), hash in hash()) {
        let address = ContentAddress { method, hash };
        prop_assert_eq!(address.to_string().parse(), Ok(address));
    }

    #[test]
    fn store_paths(path in store_path(), store_dir in "(/[a-z]{1,9}){1,4}") {
        let store_dir: StoreDir = store_dir.parse().unwrap();
        prop_assert_eq!(store_dir.parse(&store_dir.display(&path)), Ok(path.clone()));
        prop_assert_eq!(StorePath::from_base_name(path.base_name()), Ok(path.clone()));
        prop_assert_eq!(path.store_name().to_string(), path.name());
    }

    #[test]
    fn derivation_outputs(hash in hash(), output in "[a-z0-9]{1,20}") {
        let output: OutputName = output.parse().unwrap();
        let id = DrvOutput { hash, output };
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn signatures(key in "[a-z.-]{1,20}", first: [u8; 32], second: [u8; 32]) {
        let digest = [first, second].concat();
        let base64 = Hash::from_digest(HashAlgorithm::Sha512, &digest).unwrap();
        let text = format!("{key}:{}", base64.digits(HashNotation::Base64));
        let signature: Signature = text.parse().unwrap();
        prop_assert_eq!(signature.key(), key);
        prop_assert_eq!(signature.bytes().as_slice(), &digest);
        prop_assert_eq!(signature.to_string(), text);
    }

    /// Whatever is taken is displayed as it was.
    #[test]
    fn never_panics(text in "[\\x00-\\x7fé]{0,60}") {
        if let Ok(name) = text.parse::<StoreName>() {
            prop_assert_eq!(name.as_str(), &text);
        }
        if let Ok(path) = StorePath::from_base_name(&text) {
            prop_assert_eq!(path.base_name(), &text);
        }
        if let Ok(store_dir) = text.parse::<StoreDir>() {
            prop_assert_eq!(store_dir.as_str(), &text);
        }
        prop_assert!(StoreDir::default().parse(&text).is_err());
        drop(text.parse::<Hash>());
        drop(text.parse::<ContentAddress>());
        drop(text.parse::<DrvOutput>());
        drop(NarHash::parse(&text));
    }

    /// No two path infos that differ in what is signed have one fingerprint.
    #[test]
    fn fingerprints_are_unambiguous(
        paths in proptest::collection::vec(store_path(), 1..5),
        nar_hash: [u8; 32],
        nar_size: u64,
    ) {
        let store_dir = StoreDir::default();
        let info = PathInfo {
            path: paths.first().unwrap().clone(),
            deriver: None,
            nar_hash: NarHash(nar_hash),
            nar_size: NarSize(nar_size),
            references: BTreeSet::from_iter(paths.clone()),
            registration_time: 0,
            ultimate: false,
            signatures: BTreeSet::new(),
            content_address: None,
        };
        let fingerprint = info.fingerprint(&store_dir);
        let parts: Vec<&str> = fingerprint.split(';').collect();
        let [version, path, hash, size, references] = *parts else {
            return Err(TestCaseError::fail(fingerprint));
        };
        prop_assert_eq!(version, "1");
        prop_assert_eq!(store_dir.parse(path), Ok(info.path));
        prop_assert_eq!(NarHash::parse(hash), Ok(info.nar_hash));
        prop_assert_eq!(size.parse(), Ok(nar_size));
        let read = references.split(',').map(|path| store_dir.parse(path).unwrap());
        prop_assert!(read.eq(info.references));
    }
}
