//! Narinfos as stock Nix 2.34 writes them (see `golden/make-narinfos.sh`), both ways; and such as
//! nobody should write.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::Path;

use drover_core::{
    Compression, ContentAddress, Hash, HashAlgorithm, IngestionMethod, NarHash, NarInfo, NarSize,
    NarUrl, PathInfo, PublicKey, SecretKey, Signature, StoreDir, StorePath, TrustedKeys,
};
use proptest::prelude::*;
use rstest::rstest;

fn golden() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/narinfo");
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".narinfo") {
            texts.push((name, std::fs::read_to_string(entry.path()).unwrap()));
        }
    }
    texts.sort();
    texts
}

#[test]
fn reads_and_writes_narinfos_like_nix() {
    let store_dir = StoreDir::default();
    let texts = golden();
    assert_eq!(texts.len(), 6 * 4 + 1);
    for (name, text) in texts {
        let narinfo = NarInfo::parse(text.as_bytes(), &store_dir).unwrap();
        assert_eq!(narinfo.to_text(&store_dir), text, "{name}");
        let (compression, path_name) =
            name.strip_suffix(".narinfo").unwrap().split_once('-').unwrap();
        assert_eq!(narinfo.info.path.name(), path_name);
        if compression != "signing" {
            assert_eq!(narinfo.compression.name(), compression);
        }
        let path = narinfo.url.as_str().split_once(".nar").unwrap();
        assert_eq!(path.1, narinfo.compression.file_ending());
        assert_eq!(narinfo.info.content_address.is_none(), path_name.starts_with("built"));
    }
}

#[test]
fn nixs_signatures_hold_and_no_signed_field_can_change() {
    let store_dir = StoreDir::default();
    let keys: Vec<PublicKey> = include_str!("golden/narinfo/keys")
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| line.parse().unwrap())
        .collect();
    assert_eq!(keys.len(), 2);
    for (name, text) in golden().iter().filter(|(name, _)| name.contains("-built")) {
        let info = NarInfo::parse(text.as_bytes(), &store_dir).unwrap().info;
        for key in &keys {
            let mut trusted = TrustedKeys::default();
            trusted.add(key.clone());
            assert!(trusted.vouch_for(&info, &store_dir), "{name} {}", key.name());
            let other: StorePath =
                StorePath::from_base_name(&format!("{}-{}", "0".repeat(32), info.path.name()))
                    .unwrap();
            for altered in [
                PathInfo { path: other.clone(), ..info.clone() },
                PathInfo { nar_hash: NarHash([0; 32]), ..info.clone() },
                PathInfo { nar_size: NarSize(info.nar_size.0 + 1), ..info.clone() },
                PathInfo { references: BTreeSet::from([other.clone()]), ..info.clone() },
                PathInfo { references: BTreeSet::new(), ..info.clone() },
            ] {
                assert!(!trusted.vouch_for(&altered, &store_dir), "{altered:?}");
            }
            let unsigned = PathInfo { deriver: None, ..info.clone() };
            assert!(trusted.vouch_for(&unsigned, &store_dir));
        }
    }
}

const P: &str = "/nix/store/5nynjq154bc3qyl6c25ff2hsvqhrhv8z-x";
const H: &str = "sha256:1kbjahw1pa8ann9jyzhv5bqykg8ia63jy16h8hx6vqar1wki25zv";

/// A good narinfo in which one line is another, or one more where there is none with that name.
fn with(line: &str) -> String {
    let name = line.split_once(':').map_or(line, |(name, _)| name);
    let mut text = String::new();
    let mut put = Some(line);
    for good in [
        format!("StorePath: {P}"),
        "URL: nar/x.nar.xz".to_owned(),
        "Compression: xz".to_owned(),
        format!("NarHash: {H}"),
        "NarSize: 224".to_owned(),
    ] {
        match put {
            Some(line) if good.split_once(':').unwrap().0 == name => {
                text.push_str(line);
                put = None;
            }
            _ => text.push_str(&good),
        }
        text.push('\n');
    }
    if let Some(line) = put {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Nix writes 0 where it doesn't know the size of a file.
#[test]
fn a_file_of_no_bytes_is_one_whose_size_isnt_told() {
    let text = with("FileSize: 0");
    let narinfo = NarInfo::parse(text.as_bytes(), &StoreDir::default()).unwrap();
    assert_eq!(narinfo.file_size, None);
}

#[rstest]
#[case::no_colon("hello", "narinfo line 6: it must be a name, a colon, a space and a value")]
#[case::no_space("CA:", "narinfo line 6: it must be a name")]
#[case::space_in_name("a b: c", "narinfo line 6: it must be a name")]
#[case::empty_line("", "narinfo line 6: it must be a name")]
#[case::crlf("Compression: xz\r", "narinfo line 3: it must not have control characters")]
#[case::nul("Deriver: a\0", "narinfo line 6: it must not have control characters")]
#[case::relative_path(
    "StorePath: 5nynjq154bc3qyl6c25ff2hsvqhrhv8z-x",
    "not directly in /nix/store"
)]
#[case::other_store(
    "StorePath: /gnu/store/5nynjq154bc3qyl6c25ff2hsvqhrhv8z-x",
    "line 1: StorePath"
)]
#[case::below("StorePath: /nix/store/5nynjq154bc3qyl6c25ff2hsvqhrhv8z-x/y", "line 1: StorePath")]
#[case::semicolon(
    "StorePath: /nix/store/5nynjq154bc3qyl6c25ff2hsvqhrhv8z-x;y",
    "line 1: StorePath"
)]
#[case::size_0("NarSize: 0", "narinfo line 5: NarSize must not be 0")]
#[case::size_negative("NarSize: -1", "line 5: NarSize")]
#[case::size_plus("NarSize: +1", "line 5: NarSize")]
#[case::size_float("NarSize: 1e30", "line 5: NarSize")]
#[case::size_huge("NarSize: 18446744073709551616", "line 5: NarSize")]
#[case::size_empty("NarSize: ", "line 5: NarSize")]
#[case::size_space("NarSize:  1", "line 5: NarSize")]
#[case::file_size("FileSize: 1.0", "line 6: FileSize")]
#[case::compression("Compression: rot13", "line 3: compression 'rot13' is not known here, only")]
#[case::lzip("Compression: lzip", "compression 'lzip' is not known here")]
#[case::compression_empty("Compression: ", "line 3: compression '' is not known")]
#[case::reference_path(
    "References: /nix/store/5nynjq154bc3qyl6c25ff2hsvqhrhv8z-x",
    "line 6: References"
)]
#[case::reference_comma(
    "References: 5nynjq154bc3qyl6c25ff2hsvqhrhv8z-x,5nynjq154bc3qyl6c25ff2hsvqhrhv8z-y",
    "line 6: References"
)]
#[case::deriver("Deriver: unknown", "line 6: Deriver")]
#[case::sha1("NarHash: sha1:iwjz551fyw0cxcjgf4l6c879zabd6wpm", "NarHash must be sha256")]
#[case::bare("NarHash: 1kbjahw1pa8ann9jyzhv5bqykg8ia63jy16h8hx6vqar1wki25zv", "must be sha256")]
#[case::digits_51(
    "NarHash: sha256:1kbjahw1pa8ann9jyzhv5bqykg8ia63jy16h8hx6vqar1wki25z",
    "line 4: NarHash: hash"
)]
#[case::file_hash("FileHash: sha256:x", "line 6: FileHash")]
#[case::ca("CA: fixed:r:sha256:x", "line 6: CA")]
#[case::ca_empty("CA: ", "line 6: CA")]
fn refuses(#[case] line: &str, #[case] says: &str) {
    let error = NarInfo::parse(with(line).as_bytes(), &StoreDir::default()).unwrap_err();
    assert!(error.to_string().contains(says), "{error}");
}

#[rstest]
#[case("../../etc/shadow")]
#[case("nar/../../x")]
#[case("nar/./x")]
#[case("nar//x")]
#[case("/nar/x")]
#[case("//host/x")]
#[case("https://host/x")]
#[case("file:///etc/shadow")]
#[case("nar/%2e%2e/x")]
#[case("nar/%2E./x")]
#[case("nar%2fx")]
#[case("nar/%252e%252e/x")]
#[case("nar\\..\\x")]
#[case("nar/x#y")]
#[case("nar/x y")]
#[case("nar/ö")]
#[case("")]
#[case("nar/")]
fn refuses_urls(#[case] url: &str) {
    let error = NarInfo::parse(with(&format!("URL: {url}")).as_bytes(), &StoreDir::default());
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("narinfo line 2: URL must be relative"), "{error}");
}

#[test]
fn takes_what_other_servers_write() {
    let store_dir = StoreDir::default();
    let narinfo = NarInfo::parse(
        with("Sig: nonsense\nSystem: x86_64-linux\nDeriver: unknown-deriver\nUnknown: a: b")
            .as_bytes(),
        &store_dir,
    )
    .unwrap();
    assert_eq!((narinfo.bad_signatures, narinfo.info.signatures.len()), (1, 0));
    assert_eq!(narinfo.info.deriver, None);
    let narinfo = NarInfo::parse(with("URL: nar/x.nar?hash=y&z=../..").as_bytes(), &store_dir);
    assert_eq!(narinfo.unwrap().url.as_str(), "nar/x.nar?hash=y&z=../..");
    let without = with("Compression: xz").replace("Compression: xz\n", "");
    let narinfo = NarInfo::parse(without.as_bytes(), &store_dir).unwrap();
    assert_eq!(narinfo.compression, Compression::Bzip2);
    let sri = "NarHash: sha256-7IvlhTbvqsA33YYb1nhhTlnSb6mVZ3dGvCsV1v8qSXE=";
    assert!(NarInfo::parse(with(sri).as_bytes(), &store_dir).is_ok());
}

#[test]
fn refuses_fields_that_stand_twice() {
    for line in with("References: \nDeriver: unknown-deriver\nCA: text:").lines() {
        if line.starts_with("CA") {
            continue; // it must be good to be taken the first time; see below
        }
        let text = format!("{}{line}\n{line}\n", with("X: y"));
        let error = NarInfo::parse(text.as_bytes(), &StoreDir::default()).unwrap_err();
        assert!(error.to_string().contains("must not stand twice"), "{line}: {error}");
    }
    let ca = "CA: text:sha256:1aagl1rd71yswr4idxxa8jii0z5by0b60201r0bxmcd9zivpz42j";
    let text = with(&format!("{ca}\n{ca}"));
    let error = NarInfo::parse(text.as_bytes(), &StoreDir::default()).unwrap_err();
    assert_eq!(error.to_string(), "narinfo line 7: CA must not stand twice");
}

#[test]
fn refuses_what_is_cut_too_long_or_lacks_a_field() {
    let store_dir = StoreDir::default();
    let good = with("References: ");
    let error = NarInfo::parse(good.trim_end_matches('\n').as_bytes(), &store_dir).unwrap_err();
    assert_eq!(error.to_string(), "narinfo line 6: it must end with a newline");
    for field in ["StorePath", "URL", "NarHash", "NarSize"] {
        let lines = good.lines().filter(|line| !line.starts_with(field));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        let error = NarInfo::parse(text.as_bytes(), &store_dir).unwrap_err();
        assert_eq!(error.to_string(), format!("narinfo has no {field}"));
    }
    let long = format!("{good}X: {}\n", "x".repeat(NarInfo::MAX_SIZE));
    let error = NarInfo::parse(long.as_bytes(), &store_dir).unwrap_err().to_string();
    assert!(error.starts_with("narinfo has ") && error.ends_with("the most is 2097152"), "{error}");
    let many = with(&"Sig: a:b\n".repeat(NarInfo::MAX_SIGNATURES + 1));
    let many = many.trim_end_matches('\n').to_owned() + "\n";
    let error = NarInfo::parse(many.as_bytes(), &store_dir).unwrap_err().to_string();
    assert!(error.ends_with("there must be 256 Sig at most"), "{error}");
    let error = NarInfo::parse(b"URL: \xff\n", &store_dir).unwrap_err().to_string();
    assert_eq!(error, "narinfo line 1: it must be UTF-8");
}

#[test]
fn says_of_another_path_that_it_is_another() {
    let narinfo = NarInfo::parse(with("X: y").as_bytes(), &StoreDir::default()).unwrap();
    narinfo.answers(&narinfo.info.path).unwrap();
    let hash = narinfo.info.path.hash_part();
    for other in [format!("{hash}-y"), format!("{}-x", "0".repeat(32))] {
        let other = StorePath::from_base_name(&other).unwrap();
        let error = narinfo.answers(&other).unwrap_err().to_string();
        assert!(error.contains("-x', not of '"), "{error}");
    }
}

/// One kind of signature after another that vouches for nothing; beside a good one it vetoes nothing.
#[rstest]
#[case::unknown_key(|info: &PathInfo, _: &SecretKey| signed(info, &generated("other-1")))]
#[case::other_key_of_that_name(|info: &PathInfo, _: &SecretKey| signed(info, &generated("good-1")))]
#[case::of_another_path(|info: &PathInfo, good: &SecretKey| {
    let path = info.path.base_name().replace("-busybox", "-otherbox");
    let path = StorePath::from_base_name(&path).unwrap();
    signed(&PathInfo { path, ..info.clone() }, good)
})]
#[case::of_other_contents(|info: &PathInfo, good: &SecretKey| {
    signed(&PathInfo { nar_hash: NarHash([7; 32]), ..info.clone() }, good)
})]
#[case::of_another_store(|info: &PathInfo, good: &SecretKey| {
    good.sign(&info.fingerprint(&"/gnu/store".parse().unwrap()))
})]
#[case::all_zero(|_: &PathInfo, _: &SecretKey| written("good-1", &"A".repeat(86)))]
#[case::all_ones(|_: &PathInfo, _: &SecretKey| written("good-1", &format!("{}w", "/".repeat(85))))]
fn bad_signatures_vouch_for_nothing_and_veto_nothing(
    #[case] bad: fn(&PathInfo, &SecretKey) -> Signature,
) {
    let good = generated("good-1");
    let trusted = TrustedKeys::parse([good.public_key().to_string().as_str()]).unwrap();
    let path = StorePath::from_base_name("5nynjq154bc3qyl6c25ff2hsvqhrhv8z-busybox").unwrap();
    let mut info = PathInfo {
        path,
        deriver: None,
        nar_hash: NarHash([1; 32]),
        nar_size: NarSize(123),
        references: BTreeSet::new(),
        registration_time: 0,
        ultimate: false,
        signatures: BTreeSet::new(),
        content_address: None,
    };
    let store_dir = StoreDir::default();
    let bad = bad(&info, &good);
    info.signatures.insert(bad);
    assert!(!trusted.vouch_for(&info, &store_dir));
    info.signatures.insert(good.sign(&info.fingerprint(&store_dir)));
    assert!(trusted.vouch_for(&info, &store_dir));
    // many that are no good don't keep the good one from being found, nor take forever
    for number in 0..10_000_u32 {
        info.signatures.insert(written(&format!("a-{number}"), &"A".repeat(86)));
    }
    assert!(trusted.vouch_for(&info, &store_dir));
}

fn generated(name: &str) -> SecretKey {
    SecretKey::generate(name).unwrap()
}

fn written(name: &str, digits: &str) -> Signature {
    format!("{name}:{digits}==").parse().unwrap()
}

fn signed(info: &PathInfo, key: &SecretKey) -> Signature {
    key.sign(&info.fingerprint(&StoreDir::default()))
}

fn path() -> impl Strategy<Value = StorePath> {
    (any::<[u8; 20]>(), "[a-zA-Z0-9+_?=][a-zA-Z0-9+._?=-]{0,60}")
        .prop_map(|(hash, name)| StorePath::new(hash, &name.parse().unwrap()))
}

fn narinfo() -> impl Strategy<Value = NarInfo> {
    let info = (
        path(),
        proptest::option::of(path()),
        any::<[u8; 32]>(),
        1..u64::MAX,
        proptest::collection::btree_set(path(), 0..5),
        proptest::collection::btree_set("[a-z.-]{1,20}", 0..3),
        proptest::option::of(any::<[u8; 32]>()),
    );
    let info = info.prop_map(|(path, deriver, hash, size, references, keys, ca)| PathInfo {
        path,
        deriver,
        nar_hash: NarHash(hash),
        nar_size: NarSize(size),
        references,
        registration_time: 0,
        ultimate: false,
        signatures: keys.iter().map(|key| sign(key)).collect(),
        content_address: ca.map(|ca| ContentAddress {
            method: IngestionMethod::Nar,
            hash: Hash::from_digest(HashAlgorithm::Sha256, &ca).unwrap(),
        }),
    });
    let file = (
        "[a-z0-9]{1,9}(/[a-z0-9._+-]{3,20}){0,2}(\\?[a-z=&/.]{0,9})?",
        prop::sample::select(Compression::ALL.to_vec()),
        proptest::option::of(any::<[u8; 64]>()),
        proptest::option::of(1..u64::MAX),
    );
    (info, file).prop_filter_map("a URL", |(info, (url, compression, hash, file_size))| {
        Some(NarInfo {
            info,
            url: NarUrl::parse(&url).ok()?,
            compression,
            file_hash: hash.map(|hash| Hash::from_digest(HashAlgorithm::Sha512, &hash).unwrap()),
            file_size,
            bad_signatures: 0,
        })
    })
}

fn sign(key: &str) -> Signature {
    SecretKey::generate(key).unwrap().sign("a text")
}

proptest! {
    #[test]
    fn round_trips(narinfo in narinfo(), store_dir in "(/[a-z]{1,9}){1,4}") {
        let store_dir: StoreDir = store_dir.parse().unwrap();
        let text = narinfo.to_text(&store_dir);
        prop_assert_eq!(NarInfo::parse(text.as_bytes(), &store_dir), Ok(narinfo));
    }

    /// What is taken is written as something that is taken for the same.
    #[test]
    fn never_panics(narinfo in narinfo(), at: prop::sample::Index, cut: prop::sample::Index, byte: u8) {
        let store_dir = StoreDir::default();
        let mut text = narinfo.to_text(&store_dir).into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        drop(NarInfo::parse(&text[..cut.index(text.len())], &store_dir));
        if let Ok(read) = NarInfo::parse(&text, &store_dir) {
            let again = NarInfo::parse(read.to_text(&store_dir).as_bytes(), &store_dir);
            prop_assert_eq!(again, Ok(NarInfo { bad_signatures: 0, ..read }));
        }
    }

    #[test]
    fn never_panics_on_noise(text in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(NarInfo::parse(&text, &StoreDir::default()));
    }
}
