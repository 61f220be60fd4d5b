//! What is refused, with the words that say why.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::error::Error;

use drover_core::{
    ContentAddress, DrvOutput, Hash, HashAlgorithm, NarHash, OutputName, References, Signature,
    StoreDir, StoreName, StoreNameError, StorePath,
};
use rstest::rstest;

const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";

/// An error and what caused it.
fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[rstest]
#[case::empty("", Err(StoreNameError::Length { len: 0 }))]
#[case::space("a b", Err(StoreNameError::Char { found: ' ', at: 1 }))]
#[case::accent("né", Err(StoreNameError::Char { found: 'é', at: 1 }))]
#[case::dot(".", Err(StoreNameError::DotComponent))]
#[case::dot_dot("..", Err(StoreNameError::DotComponent))]
#[case::dot_dash(".-a", Err(StoreNameError::DotComponent))]
#[case::dot_dot_dash("..-a", Err(StoreNameError::DotComponent))]
#[case::dots("...", Ok(()))]
#[case::dotfile(".gitignore", Ok(()))]
fn checks_names(#[case] name: &str, #[case] expected: Result<(), StoreNameError>) {
    assert_eq!(name.parse::<StoreName>().map(drop), expected);
    assert_eq!(name.parse::<OutputName>().map(drop), expected);
}

#[rstest]
#[case::empty("", "it is not directly in /nix/store")]
#[case::store("/nix/store", "it is not directly in /nix/store")]
#[case::slash("/nix/store/", "it must begin with 32 base32 digits and a dash")]
#[case::other_store("/gnu/store/@-a", "it is not directly in /nix/store")]
#[case::sibling("/nix/store-2/@-a", "it is not directly in /nix/store")]
#[case::relative("nix/store/@-a", "it is not directly in /nix/store")]
#[case::below("/nix/store/@-a/bin", "it is not directly in /nix/store")]
#[case::trailing_slash("/nix/store/@-a/", "it is not directly in /nix/store")]
#[case::double_slash("/nix/store//@-a", "it is not directly in /nix/store")]
#[case::dot("/nix/store/./@-a", "it is not directly in /nix/store")]
#[case::dot_dot("/nix/store/../store/@-a", "it is not directly in /nix/store")]
#[case::no_dash("/nix/store/@", "it must begin with 32 base32 digits and a dash")]
#[case::underscore("/nix/store/@_a", "it must begin with 32 base32 digits and a dash")]
#[case::short("/nix/store/0-a", "it must begin with 32 base32 digits and a dash")]
#[case::long("/nix/store/0@-a", "it must begin with 32 base32 digits and a dash")]
#[case::no_name("/nix/store/@-", "name has 0 bytes, must have 1 to 211")]
#[case::dot_name("/nix/store/@-.", "name may not be '.' or '..', alone or before a dash")]
#[case::dots_name("/nix/store/@-..-x", "name may not be '.' or '..', alone or before a dash")]
#[case::nul(
    "/nix/store/@-a\0",
    "name has '\\u{0}' at position 1; only letters, digits and +-._?= may stand there"
)]
fn refuses_store_paths(#[case] text: &str, #[case] rule: &str) {
    let text = text.replace('@', HASH);
    let error = StoreDir::default().parse(&text).unwrap_err();
    let expected = format!("'{}' is not a store path: {rule}", text.escape_default());
    assert_eq!(error.to_string(), expected);
}

#[rstest]
fn refuses_hash_parts(#[values('e', 'o', 'u', 't', 'A', '-', '/', '.', 'é')] digit: char) {
    let text = format!("{}{digit}-a", HASH.get(digit.len_utf8()..).unwrap());
    assert!(StorePath::from_base_name(&text).is_err());
}

#[test]
fn bounds_names_and_messages() {
    let name = "n".repeat(StoreName::MAX_LEN);
    let path = StoreDir::default().parse(&format!("/nix/store/{HASH}-{name}")).unwrap();
    assert_eq!((path.hash_part(), path.name()), (HASH, name.as_str()));
    let error = StoreDir::default().parse(&format!("/nix/store/{HASH}-{name}n")).unwrap_err();
    assert!(error.to_string().ends_with("name has 212 bytes, must have 1 to 211"));
    let error = StoreDir::default().parse(&"x".repeat(1_000_000)).unwrap_err();
    assert!(error.to_string().len() < 1000);
}

#[rstest]
#[case::default("/nix/store", true)]
#[case::short("/s", true)]
#[case::empty("", false)]
#[case::relative("nix/store", false)]
#[case::root("/", false)]
#[case::slash("/nix/store/", false)]
#[case::double_slash("/nix//store", false)]
#[case::dot("/nix/./store", false)]
#[case::dot_dot("/nix/../store", false)]
#[case::nul("/nix/st\0re", false)]
fn checks_store_directories(#[case] text: &str, #[case] good: bool) {
    assert_eq!(text.parse::<StoreDir>().is_ok(), good);
}

#[rstest]
#[case::nothing("", "content address '' must begin with 'text:' or 'fixed:'")]
#[case::hash_alone("sha256:00", "content address 'sha256:00' must begin with 'text:' or 'fixed:'")]
#[case::no_algorithm(
    "fixed:r:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
    "content address 'fixed:r:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73' has no good \
     hash: hash '0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73' does not say its algorithm"
)]
#[case::sri(
    "fixed:sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    "content address 'fixed:sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' has no good hash: \
     hash 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=' does not say its algorithm"
)]
#[case::fixed_text(
    "fixed:text:sha256:00",
    "content address 'fixed:text:sha256:00' has no good hash: unknown hash algorithm 'text', \
     expected md5, sha1, sha256 or sha512"
)]
#[case::text_nar(
    "text:r:sha256:00",
    "content address 'text:r:sha256:00' has no good hash: unknown hash algorithm 'r', expected \
     md5, sha1, sha256 or sha512"
)]
#[case::short(
    "fixed:sha256:00",
    "content address 'fixed:sha256:00' has no good hash: hash '00' has 2 digits, which no notation \
     of sha256 has"
)]
fn refuses_content_addresses(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(chain(&text.parse::<ContentAddress>().unwrap_err()), expected);
}

#[rstest]
#[case::git("fixed:git:md5:", "d41d8cd98f00b204e9800998ecf8427e", "must have sha1 or sha256")]
#[case::text("text:md5:", "d41d8cd98f00b204e9800998ecf8427e", "must have sha256")]
fn refuses_algorithms(#[case] prefix: &str, #[case] hash: &str, #[case] expected: &str) {
    let address = format!("{prefix}{hash}").parse().unwrap();
    let name = "a".parse().unwrap();
    let path = StoreDir::default().content_addressed_path(&address, &References::default(), &name);
    let error = path.unwrap_err().to_string();
    assert!(error.ends_with(expected), "{error}");
}

#[rstest]
#[case::flat("fixed:sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73")]
#[case::nar_sha1("fixed:r:sha1:143xibwh31h9bvxzalr0sjvbbvpa6ffs")]
#[case::text("text:sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73")]
fn refuses_references(#[case] address: &str) {
    let parsed = address.parse().unwrap();
    let references = References { itself: true, ..References::default() };
    let name = "a".parse().unwrap();
    let path = StoreDir::default().content_addressed_path(&parsed, &references, &name);
    assert_eq!(
        path.unwrap_err().to_string(),
        format!("a path that is content-addressed as '{address}' can't have references")
    );
}

#[rstest]
#[case::sha1("sha1:143xibwh31h9bvxzalr0sjvbbvpa6ffs", "hash is sha1, expected sha256")]
#[case::md5_digits(
    "d41d8cd98f00b204e9800998ecf8427e",
    "hash 'd41d8cd98f00b204e9800998ecf8427e' has 32 digits, which no notation of sha256 has"
)]
#[case::fifty_one_digits(
    "sha256:mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
    "hash 'mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73' has 51 digits, which no notation \
     of sha256 has"
)]
#[case::base16_in_sri(
    "sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "hash 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855' has 64 digits, which \
     no notation of sha256 has"
)]
#[case::overflow(
    "sha256:2mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
    "hash '2mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73' is not valid nix base32"
)]
fn refuses_nar_hashes(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(NarHash::parse(text).unwrap_err().to_string(), expected);
}

#[test]
fn refuses_hashes() {
    let both = Hash::parse("md5:d41d8cd98f00b204e9800998ecf8427e", Some(HashAlgorithm::Sha1));
    assert_eq!(both.unwrap_err().to_string(), "hash is md5, expected sha1");
    for text in ["", ":", "-", "sha256:", "sha256", "SHA256:00", "sha256::00", "é:", "sha1:é"] {
        assert!(text.parse::<Hash>().is_err(), "{text}");
    }
}

#[rstest]
#[case::no_output("sha256:00", "derivation output 'sha256:00' must be HASH!OUTPUT")]
#[case::bad_hash(
    "sha256:00!out",
    "derivation output 'sha256:00!out' has no good hash: hash '00' has 2 digits, which no notation \
     of sha256 has"
)]
#[case::empty_output(
    "md5:d41d8cd98f00b204e9800998ecf8427e!",
    "derivation output 'md5:d41d8cd98f00b204e9800998ecf8427e!' has no good output name: name has 0 \
     bytes, must have 1 to 211"
)]
fn refuses_derivation_outputs(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(chain(&text.parse::<DrvOutput>().unwrap_err()), expected);
}

#[rstest]
#[case::no_key("AAAA")]
#[case::empty_key(":AAAA")]
#[case::short("key:AAAA")]
#[case::bad_digits("key:!")]
fn refuses_signatures(#[case] text: &str) {
    let error = text.parse::<Signature>().unwrap_err().to_string();
    assert_eq!(error, format!("signature '{text}' must be NAME:BASE64 of 64 bytes"));
}
