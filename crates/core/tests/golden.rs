//! Hashes, paths and names as real Nix gives them (see `golden/make.sh`), both ways.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use drover_core::{
    ContentAddress, Hash, HashAlgorithm, HashNotation, IngestionMethod, References, StoreDir,
    StoreName, StorePath,
};

/// Lines of words.
fn table(text: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    text.lines().map(|line| line.split(' ').collect())
}

#[test]
fn writes_and_reads_hashes_like_nix() {
    let mut rows = 0;
    for row in table(include_str!("golden/hashes.txt")) {
        let algorithm: HashAlgorithm = row[0].parse().unwrap();
        let hash = Hash::parse(row[1], Some(algorithm)).unwrap();
        assert_eq!(hash.digits(HashNotation::Base16), row[1]);
        assert_eq!(hash.digits(HashNotation::Base32), row[2]);
        assert_eq!(hash.digits(HashNotation::Base64), row[3]);
        assert_eq!(hash.display(HashNotation::Sri), row[4]);
        assert_eq!(row[4].parse(), Ok(hash.clone()));
        for digits in &row[1..4] {
            assert_eq!(Hash::parse(digits, Some(algorithm)), Ok(hash.clone()));
            assert_eq!(format!("{algorithm}:{digits}").parse(), Ok(hash.clone()));
            assert!(digits.parse::<Hash>().is_err());
        }
        rows += 1;
    }
    assert_eq!(rows, 12);
}

#[test]
fn hashes_like_nix() {
    let numbers: String = (1..=5000).map(|number| format!("{number}\n")).collect();
    let files = ["", "abc", &numbers];
    for (at, row) in table(include_str!("golden/hashes.txt")).enumerate() {
        let hash = Hash::of(row[0].parse().unwrap(), files[at % 3].as_bytes());
        assert_eq!(hash.digits(HashNotation::Base16), row[1]);
    }
}

#[test]
fn computes_paths_like_nix() {
    let mut methods = Vec::new();
    for row in table(include_str!("golden/paths.txt")) {
        let store_dir: StoreDir = row[0].parse().unwrap();
        let address: ContentAddress = row[1].parse().unwrap();
        assert_eq!(address.to_string(), row[1]);
        let path = store_dir.parse(row[2]).unwrap();
        assert_eq!(store_dir.display(&path), row[2]);
        let mut references = References::default();
        for reference in &row[3..] {
            let reference = store_dir.parse(reference).unwrap();
            if reference == path {
                references.itself = true;
            } else {
                references.others.insert(reference);
            }
        }
        let name = path.store_name();
        let computed = store_dir.content_addressed_path(&address, &references, &name);
        assert_eq!(computed, Ok(path));
        methods.push((address.method, address.hash.algorithm(), references.itself));
    }
    methods.sort();
    methods.dedup();
    // Flat and recursive with each of four algorithms, texts, and a path that refers to itself.
    assert_eq!(methods.len(), 4 + 4 + 1 + 1);
    assert!(methods.contains(&(IngestionMethod::Nar, HashAlgorithm::Sha256, true)));
}

#[test]
fn takes_the_names_that_nix_takes() {
    let mut answers = [0, 0];
    for line in include_str!("golden/names.txt").lines() {
        let (answer, name) = line.split_once(' ').unwrap();
        let name = name.strip_prefix('"').unwrap().strip_suffix('"').unwrap();
        let name = name.replace("\\u00e9", "é").replace("\\u0000", "\0").replace("\\n", "\n");
        let parsed: Result<StoreName, _> = name.parse();
        assert_eq!(parsed.is_ok(), answer == "ok", "{name:?}: {parsed:?}");
        let path = format!("00000000000000000000000000000000-{name}");
        assert_eq!(StorePath::from_base_name(&path).is_ok(), answer == "ok", "{path:?}");
        answers[usize::from(answer == "ok")] += 1;
    }
    assert_eq!(answers, [16, 14]);
}
