//! Derivations that real Nix made (see `golden/make.sh`), read, printed and computed anew.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use drover_core::{StoreDir, StorePath};
use drover_derivation::{
    ByteString, Derivation, DerivationKind, DerivationProblem, HashModulo, HashModuloCache,
    ShowFormat, derivation_name, downstream_placeholder, show_json,
};
use rstest::rstest;

type Derivations = BTreeMap<StorePath, Derivation>;

fn golden(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(part)
}

/// The `.drv` files of a directory, but for the dynamic one.
fn files(part: &str) -> Vec<(StorePath, Vec<u8>)> {
    let mut files: Vec<(StorePath, Vec<u8>)> = std::fs::read_dir(golden(part))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|file| file.extension().is_some_and(|extension| extension == "drv"))
        .map(|file| {
            let name = file.file_name().unwrap().to_str().unwrap();
            (StorePath::from_base_name(name).unwrap(), std::fs::read(&file).unwrap())
        })
        .filter(|(path, _)| path.name() != "dynamic.drv")
        .collect();
    files.sort();
    files
}

fn derivations(part: &str, store_dir: &StoreDir) -> Derivations {
    let parse = |(path, bytes): (StorePath, Vec<u8>)| {
        let name = derivation_name(&path).unwrap();
        let derivation = Derivation::parse_aterm(store_dir, &name, &bytes).unwrap();
        (path, derivation)
    };
    files(part).into_iter().map(parse).collect()
}

fn named<'a>(derivations: &'a Derivations, name: &str) -> &'a Derivation {
    let mut found = derivations.iter().filter(|(path, _)| path.name() == format!("{name}.drv"));
    found.next().unwrap().1
}

fn other() -> StoreDir {
    "/other/store".parse().unwrap()
}

fn built() -> StoreDir {
    "/tmp/drover-golden/store".parse().unwrap()
}

#[rstest]
#[case::main("", StoreDir::default(), 36)]
#[case::other_store("other", other(), 33)]
#[case::built("resolved", built(), 10)]
fn prints_what_it_read(#[case] part: &str, #[case] store_dir: StoreDir, #[case] count: usize) {
    let files = files(part);
    assert!(count <= files.len(), "{}", files.len());
    for (path, bytes) in files {
        let name = derivation_name(&path).unwrap();
        let derivation = Derivation::parse_aterm(&store_dir, &name, &bytes).unwrap();
        assert_eq!(derivation.name, name);
        assert!(derivation.to_aterm(&store_dir) == bytes, "{path}");
    }
}

#[rstest]
#[case::main("", StoreDir::default())]
#[case::other_store("other", other())]
#[case::built("resolved", built())]
fn computes_the_paths_of_derivations(#[case] part: &str, #[case] store_dir: StoreDir) {
    for (path, derivation) in derivations(part, &store_dir) {
        assert_eq!(derivation.derivation_path(&store_dir), Ok(path));
    }
}

#[rstest]
#[case::main("", StoreDir::default())]
#[case::other_store("other", other())]
#[case::built("resolved", built())]
fn computes_the_paths_of_outputs(#[case] part: &str, #[case] store_dir: StoreDir) {
    let derivations = derivations(part, &store_dir);
    let mut cache = HashModuloCache::new();
    for (path, derivation) in &derivations {
        cache.insert_closure(&store_dir, path, derivation, |path| derivations.get(path)).unwrap();
        derivation.check_outputs(&store_dir, &cache).unwrap();
        let deferred = matches!(cache.get(path), Some(HashModulo::Deferred(_)));
        let known = derivation.outputs.values().all(|output| output.path().is_some());
        assert_eq!(deferred, !known, "{path}");
    }
    assert_eq!(cache.len(), derivations.len());
}

#[test]
fn knows_what_the_corpus_holds() {
    let store_dir = StoreDir::default();
    let derivations = derivations("", &store_dir);
    let kind = |name| named(&derivations, name).kind().unwrap();
    assert_eq!(kind("plain"), DerivationKind::InputAddressed);
    assert_eq!(kind("flat-sha1"), DerivationKind::Fixed);
    assert_eq!(kind("floating-outputs"), DerivationKind::Floating);
    assert_eq!(kind("deferred"), DerivationKind::Deferred);
    assert_eq!(kind("on-impure"), DerivationKind::Impure);

    let options = |name| named(&derivations, name).options().unwrap();
    let features = |name| Vec::from_iter(options(name).required_system_features);
    assert!(features("plain").is_empty());
    assert_eq!(features("features"), ["benchmark", "kvm", "nixos-test"]);
    assert_eq!(features("structured"), ["big-parallel", "kvm"]);
    assert_eq!(features("structured-floating"), ["ca-derivations", "nixos-test"]);
    assert_eq!(features("deferred"), ["ca-derivations"]);
    assert!(features("fixed-on-floating").is_empty());
    for name in ["features", "structured"] {
        assert!(options(name).prefer_local_build && !options(name).allow_substitutes);
    }
    assert_eq!(Vec::from_iter(options("features").pass_as_file), ["long", "other"]);
    assert!(!options("plain").prefer_local_build && options("plain").allow_substitutes);

    assert!(named(&derivations, "file.tar.gz").is_builtin());
    assert!(!named(&derivations, "plain").is_builtin());
    let bytes = named(&derivations, "bytes");
    let expected = std::fs::read(golden("bytes.bin")).unwrap();
    assert_eq!(bytes.environment.get("all"), Some(expected.as_slice()));
}

#[rstest]
#[case::nix_2_8("show-2.8.json", ShowFormat::Nix2_8)]
#[case::nix_2_26("show-2.26.json", ShowFormat::Nix2_26)]
#[case::nix_2_34("show-2.34.json", ShowFormat::Nix2_34)]
#[case::nix_2_34_pretty("show-2.34-pretty.json", ShowFormat::Nix2_34Pretty)]
fn shows_what_nix_shows(#[case] file: &str, #[case] format: ShowFormat) {
    let store_dir = StoreDir::default();
    let expected = std::fs::read_to_string(golden(file)).unwrap();
    let mut derivations = derivations("", &store_dir);
    derivations.retain(|path, _| expected.contains(&format!("{path}\"")));
    assert!(32 < derivations.len());
    let shown = show_json(&store_dir, &derivations, format).unwrap() + "\n";
    let different = shown.lines().zip(expected.lines()).find(|(shown, expected)| shown != expected);
    assert_eq!(different, None);
    assert_eq!(shown.len(), expected.len());
}

#[rstest]
#[case(ShowFormat::Nix2_8)]
#[case(ShowFormat::Nix2_26)]
#[case(ShowFormat::Nix2_34)]
fn shows_no_bytes(#[case] format: ShowFormat) {
    let store_dir = StoreDir::default();
    let derivations = derivations("", &store_dir);
    derivations.iter().filter(|(path, _)| path.name() == "bytes.drv").for_each(|bytes| {
        let error = show_json(&store_dir, [bytes], format).unwrap_err();
        assert!(matches!(*error.problem, DerivationProblem::JsonNotUtf8 { what: "value", .. }));
    });
}

#[test]
fn refuses_dynamic_derivations_by_name() {
    let store_dir = StoreDir::default();
    let name = "52mi0a2b4ydj71167fpcjml6sl5g498m-dynamic.drv";
    let bytes = std::fs::read(golden(name)).unwrap();
    let error = Derivation::parse_aterm(&store_dir, &"dynamic".parse().unwrap(), &bytes);
    assert_eq!(
        error.unwrap_err().to_string(),
        "derivation 'dynamic.drv': position 15: it depends on dynamic derivations, which are not \
         supported"
    );
}

#[test]
fn fixed_outputs_are_resolved_where_they_mention_floating_ones() {
    let store_dir = StoreDir::default();
    let derivations = derivations("", &store_dir);
    let named = |name: &str| {
        let found = derivations.iter().find(|(path, _)| path.name() == format!("{name}.drv"));
        found.unwrap().1.clone()
    };
    let mut fixed = named("fixed-on-floating");
    assert_eq!(fixed.must_resolve(), Ok(true));
    let [(input, outputs)] = fixed.input_derivations.iter().collect::<Vec<_>>()[..] else {
        panic!("one input")
    };
    let (input, output) = (input.clone(), outputs.iter().next().unwrap().clone());
    let realised = StorePath::from_base_name("0s7piywhyxxxjgl17bqhm4rfz95np7s4-here").unwrap();
    let resolved = fixed.resolve(&store_dir, |_, _| Some(realised.clone())).unwrap();
    let shown = store_dir.display(&realised);
    assert_eq!(resolved.environment.get("floatingNar"), Some(shown.as_bytes()));
    assert_eq!(resolved.outputs, fixed.outputs);
    // with nothing to replace it keeps its name
    let placeholder = downstream_placeholder(&input, &output).unwrap();
    let variables: BTreeMap<ByteString, ByteString> = fixed
        .environment
        .iter()
        .filter(|(_, value)| *value != placeholder.as_bytes())
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    fixed.basic.environment = variables.into_iter().collect();
    assert_eq!(fixed.must_resolve(), Ok(false));
    assert_eq!(named("on-fixed").must_resolve(), Ok(false));
}

/// Lines of words.
fn table(part: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(golden(part)).unwrap();
    text.lines().map(|line| line.split(' ').map(str::to_owned).collect()).collect()
}

#[test]
fn resolves_like_nix() {
    let store_dir = built();
    let derivations = derivations("resolved", &store_dir);
    let path = |text: &String| StorePath::from_base_name(text).unwrap();
    let outputs: BTreeMap<_, _> = table("resolved/outputs.txt")
        .iter()
        .map(|row| ((path(&row[0]), row[1].parse().unwrap()), path(&row[2])))
        .collect();
    let realised =
        |path: &StorePath, output: &_| outputs.get(&(path.clone(), Clone::clone(output))).cloned();
    let mut unresolved = 0;
    for row in table("resolved/resolved.txt") {
        let derivation = &derivations[&path(&row[0])];
        assert_eq!(derivation.must_resolve(), Ok(true));
        let resolved = Derivation::from(derivation.resolve(&store_dir, realised).unwrap());
        assert_eq!(resolved, derivations[&path(&row[1])]);
        assert_eq!(resolved.derivation_path(&store_dir), Ok(path(&row[1])));
        assert_eq!(resolved.must_resolve(), Ok(false));
        let missing = derivation.resolve(&store_dir, |_, _| None).unwrap_err();
        assert!(matches!(*missing.problem, DerivationProblem::NotRealised { .. }), "{missing}");
        unresolved += 1;
    }
    assert_eq!(unresolved, 4);
}

#[test]
fn names_realisations_like_nix() {
    let store_dir = built();
    let derivations = derivations("resolved", &store_dir);
    let mut cache = HashModuloCache::new();
    let mut names = Vec::new();
    for (path, derivation) in &derivations {
        cache.insert_closure(&store_dir, path, derivation, |path| derivations.get(path)).unwrap();
        let hash = cache.masked(&store_dir, derivation).unwrap().to_hash();
        for output in derivation.outputs.keys() {
            let (hash, output) = (hash.clone(), output.clone());
            names.push(drover_core::DrvOutput { hash, output }.to_string());
        }
    }
    let realisations = table("resolved/realisations.txt");
    assert_eq!(realisations.len(), 14);
    for row in realisations {
        assert!(names.contains(&row[0]), "{row:?}");
    }
}
