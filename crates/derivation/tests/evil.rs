//! Derivations that nobody may get registered or built, each with the answer it must get.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::BTreeMap;

use drover_core::{OutputName, StoreDir, StoreName, StorePath};
use drover_derivation::{
    BasicDerivation, Derivation, DerivationError, DerivationProblem, Environment, HashModuloCache,
    MAX_ATERM_SIZE, Output, OutputColumns, ShowFormat, derivation_name, downstream_placeholder,
    output_placeholder, show_json,
};
use rstest::rstest;

/// A derivation as Nix writes it, with the path of its output (`golden/*-plain.drv`).
const PLAIN: &str = r#"Derive([("out","/nix/store/91dkhdfrdzngb4m62zak427y2vpamanj-plain","","")],[],[],"x86_64-linux","/bin/sh",["-c","echo hello > $out"],[("builder","/bin/sh"),("name","plain"),("out","/nix/store/91dkhdfrdzngb4m62zak427y2vpamanj-plain"),("system","x86_64-linux")])"#;

const A: &str = "/nix/store/00000000000000000000000000000000-a.drv";
const B: &str = "/nix/store/11111111111111111111111111111111-b.drv";

fn name() -> StoreName {
    "plain".parse().unwrap()
}

fn parse(bytes: &[u8]) -> Result<Derivation, DerivationError> {
    Derivation::parse_aterm(&StoreDir::default(), &name(), bytes)
}

/// Answer to a derivation with the given outputs, input derivations, sources and environment.
fn answer(outputs: &str, inputs: &str, sources: &str, environment: &str) -> String {
    let text = format!(
        r#"Derive([{outputs}],[{inputs}],[{sources}],"x86_64-linux","/bin/sh",[],[{environment}])"#
    );
    let error = parse(text.as_bytes()).unwrap_err().to_string();
    error.strip_prefix("derivation 'plain.drv': ").unwrap().to_owned()
}

const OUT: &str = r#"("out","","","")"#;
const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[rstest]
#[case::empty("", "position 0: expected Derive(")]
#[case::other_format("derive(", "position 0: expected Derive(")]
#[case::version(r#"DrvWithVersion("2",[],[])"#, r#"position 15: format version "2" is not known"#)]
#[case::version_without_end(
    r#"DrvWithVersion("2"#,
    "position 15: the string that begins here does not end"
)]
#[case::no_list("Derive(,", "position 7: expected [")]
#[case::no_tuple(r#"Derive(["out"])"#, "position 8: expected (")]
#[case::no_string("Derive([(out", "position 9: expected a string")]
#[case::comma_first(r#"Derive([,("out""#, "position 8: expected (")]
#[case::unterminated(r#"Derive([("out"#, "position 9: the string that begins here does not end")]
#[case::unterminated_escape(
    r#"Derive([("out\"#,
    "position 9: the string that begins here does not end"
)]
#[case::too_few_columns(r#"Derive([("out","","")])"#, "position 20: expected ,")]
fn refuses_what_is_no_derivation(#[case] text: &str, #[case] expected: &str) {
    let error = parse(text.as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), format!("derivation 'plain.drv': {expected}"));
}

#[rstest]
#[case::none("", "it has no outputs")]
#[case::duplicate(
    r#"("out","","",""),("out","","","")"#,
    "position 25: output 'out' stands there twice"
)]
#[case::order(
    r#"("out","","",""),("dev","","","")"#,
    "position 25: output 'dev' stands after 'out', against the order of nix"
)]
#[case::bad_name(
    r#"("o/t","","","")"#,
    r#"position 9: output "o/t": name has '/' at position 1; only letters, digits and +-._?= may stand there"#
)]
#[case::empty_name(
    r#"("","","","")"#,
    r#"position 9: output "": name has 0 bytes, must have 1 to 211"#
)]
#[case::escaped_name(
    r#"("o\ut","","","")"#,
    r#"position 11: "\\u" is not how nix writes that character in a string"#
)]
#[case::json(r#"("__json","","","")"#, "an output may not be named '__json'")]
#[case::outside(
    r#"("out","/etc/passwd","","")"#,
    "output 'out': '/etc/passwd' is not a store path: it is not directly in /nix/store"
)]
#[case::other_store(
    r#"("out","/gnu/store/91dkhdfrdzngb4m62zak427y2vpamanj-plain","","")"#,
    "output 'out': '/gnu/store/91dkhdfrdzngb4m62zak427y2vpamanj-plain' is not a store path: it is \
     not directly in /nix/store"
)]
#[case::not_canonical(
    r#"("out","/nix/store//91dkhdfrdzngb4m62zak427y2vpamanj-plain","","")"#,
    "output 'out': '/nix/store//91dkhdfrdzngb4m62zak427y2vpamanj-plain' is not a store path: it \
     is not directly in /nix/store"
)]
#[case::hash_alone(
    r#"("out","","","aa")"#,
    "output 'out': path '', method '' and hash 'aa' do not go together"
)]
#[case::path_and_algorithm(
    r#"("out","/nix/store/91dkhdfrdzngb4m62zak427y2vpamanj-plain","r:sha256","")"#,
    "output 'out': path '/nix/store/91dkhdfrdzngb4m62zak427y2vpamanj-plain', method 'r:sha256' \
     and hash '' do not go together"
)]
#[case::impure_path(
    r#"("out","/nix/store/91dkhdfrdzngb4m62zak427y2vpamanj-plain","r:sha256","impure")"#,
    "output 'out': path '/nix/store/91dkhdfrdzngb4m62zak427y2vpamanj-plain', method 'r:sha256' \
     and hash 'impure' do not go together"
)]
#[case::algorithm(
    r#"("out","","r:sha3","")"#,
    "output 'out': unknown hash algorithm 'sha3', expected md5, sha1, sha256 or sha512"
)]
#[case::short_hash(
    r#"("out","/nix/store/91dkhdfrdzngb4m62zak427y2vpamanj-plain","sha256","e3b0")"#,
    "output 'out': hash 'e3b0' has 4 digits, which no notation of sha256 has"
)]
#[case::text_with_sha1(
    r#"("out","/nix/store/91dkhdfrdzngb4m62zak427y2vpamanj-plain","text:sha1","da39a3ee5e6b4b0d3255bfef95601890afd80709")"#,
    "output 'out': a path that is content-addressed as 'text:sha1:143xibwh31h9bvxzalr0sjvbbvpa6ffs' \
     must have sha256"
)]
#[case::mixed(
    r#"("dev","","",""),("out","","r:sha256","")"#,
    "output 'out' is of another kind than 'dev'"
)]
#[case::mixed_algorithms(
    r#"("dev","","r:sha256",""),("out","","r:sha1","")"#,
    "output 'out' has another hash algorithm than 'dev'"
)]
fn refuses_outputs(#[case] outputs: &str, #[case] expected: &str) {
    assert_eq!(answer(outputs, "", "", ""), expected);
}

#[test]
fn refuses_fixed_outputs_elsewhere() {
    let fixed = |name: &str, path: &str, hash: &str| {
        answer(&format!(r#"("{name}","{path}","sha256","{hash}")"#), "", "", "")
    };
    let elsewhere = "/nix/store/91dkhdfrdzngb4m62zak427y2vpamanj-plain";
    let here = "/nix/store/asi8bk7n4xc8afkln8w2ys6yy36ackp5-plain";
    assert_eq!(
        fixed("out", elsewhere, SHA256),
        format!("derivation has incorrect output '{elsewhere}', should be '{here}' (output 'out')")
    );
    let upper = SHA256.to_uppercase();
    assert_eq!(
        fixed("out", here, &upper),
        format!(
            "output 'out': path '{here}', method 'sha256' and hash '{upper}' do not go together"
        )
    );
    let found = fixed("dev", elsewhere, SHA256);
    let here = found.split('\'').nth(3).unwrap();
    assert!(here.ends_with("-plain-dev"), "{found}");
    assert_eq!(
        fixed("dev", here, SHA256),
        "a fixed output must be the only one and named 'out', but there is 'dev'"
    );
}

#[rstest]
#[case::not_a_derivation(
    r#"("/nix/store/00000000000000000000000000000000-a",["out"])"#,
    "position 27: input derivation '00000000000000000000000000000000-a' must be named NAME.drv"
)]
#[case::nameless(
    r#"("/nix/store/00000000000000000000000000000000-.drv",["out"])"#,
    "position 27: input derivation '00000000000000000000000000000000-.drv' must be named NAME.drv"
)]
#[case::no_outputs(
    r#"("/nix/store/00000000000000000000000000000000-a.drv",[])"#,
    "position 27: no output of input derivation '00000000000000000000000000000000-a.drv' is named"
)]
#[case::duplicate_output(
    r#"("/nix/store/00000000000000000000000000000000-a.drv",["out","out"])"#,
    "position 87: output 'out' stands there twice"
)]
#[case::order_of_outputs(
    r#"("/nix/store/00000000000000000000000000000000-a.drv",["out","dev"])"#,
    "position 87: output 'dev' stands after 'out', against the order of nix"
)]
#[case::dynamic_in_old_format(
    r#"("/nix/store/00000000000000000000000000000000-a.drv",(["out"],[]))"#,
    "position 80: expected ["
)]
#[case::dot(
    r#"("/nix/store/./00000000000000000000000000000000-a.drv",["out"])"#,
    "position 28: '/nix/store/./00000000000000000000000000000000-a.drv' is not a store path: it is \
     not directly in /nix/store"
)]
fn refuses_inputs(#[case] inputs: &str, #[case] expected: &str) {
    assert_eq!(answer(OUT, inputs, "", ""), expected);
}

#[test]
fn refuses_inputs_out_of_order() {
    let inputs =
        |a: &str, b: &str| answer(OUT, &format!(r#"("{a}",["out"]),("{b}",["out"])"#), "", "");
    let (a, b) = (&A["/nix/store/".len()..], &B["/nix/store/".len()..]);
    assert_eq!(inputs(A, A), format!("position 89: input derivation '{a}' stands there twice"));
    assert_eq!(
        inputs(B, A),
        format!("position 89: input derivation '{a}' stands after '{b}', against the order of nix")
    );
    let sources = |a: &str, b: &str| answer(OUT, "", &format!(r#""{a}","{b}""#), "");
    assert_eq!(sources(A, A), format!("position 82: input source '{a}' stands there twice"));
    assert_eq!(
        sources(B, A),
        format!("position 82: input source '{a}' stands after '{b}', against the order of nix")
    );
}

#[rstest]
#[case::duplicate(
    r#"("a","1"),("a","2")"#,
    "position 71: environment variable 'a' stands there twice"
)]
#[case::duplicate_json(
    r#"("__json","{}"),("__json","{}")"#,
    "position 77: environment variable '__json' stands there twice"
)]
#[case::order(
    r#"("b","1"),("a","2")"#,
    "position 71: environment variable 'a' stands after 'b', against the order of nix"
)]
#[case::escape(
    r#"("a","\x")"#,
    r#"position 67: "\\x" is not how nix writes that character in a string"#
)]
#[case::raw_line_feed(
    "(\"a\",\"\n\")",
    r#"position 67: "\n" is not how nix writes that character in a string"#
)]
#[case::trailing_comma(r#"("a","1"),"#, "position 71: expected (")]
#[case::semicolon(r#"("a","1");"#, "position 70: expected ',' or ']'")]
fn refuses_environments(#[case] environment: &str, #[case] expected: &str) {
    assert_eq!(answer(OUT, "", "", environment), expected);
}

#[test]
fn refuses_what_stands_around() {
    assert!(parse(PLAIN.as_bytes()).is_ok());
    let trailing = parse(format!("{PLAIN}\n").as_bytes()).unwrap_err();
    assert_eq!(trailing.to_string(), "derivation 'plain.drv': position 260: 1 bytes after the end");
    for end in 0..PLAIN.len() {
        assert!(parse(&PLAIN.as_bytes()[..end]).is_err(), "{end}");
    }
    let large = parse(&vec![b' '; MAX_ATERM_SIZE + 1]).unwrap_err();
    assert_eq!(
        large.to_string(),
        "derivation 'plain.drv': it has 67108865 bytes, more than 67108864; it should refer to large \
         data by its path (builtins.toFile, builtins.path)"
    );
}

#[test]
fn takes_bytes_but_not_in_names() {
    let bytes = |text: &str, byte: &[u8]| {
        let at = text.find('@').unwrap();
        let (before, after) = text.split_at(at);
        [before.as_bytes(), byte, &after.as_bytes()[1..]].concat()
    };
    let good = bytes(&PLAIN.replace("echo", "@"), b"\xff");
    let good = parse(&good).unwrap();
    assert_eq!(&*good.args[1], b"\xff hello > $out");
    assert_eq!(good.args[1].to_string(), "\\xff hello > $out");
    let bad = bytes(&PLAIN.replace("x86_64-linux\",\"/bin", "@\",\"/bin"), b"\xff");
    assert_eq!(
        parse(&bad).unwrap_err().to_string(),
        r#"derivation 'plain.drv': position 81: "\xff" is not UTF-8"#
    );
}

/// Somebody edits a derivation so that it would put its own contents at the path of another's.
#[test]
fn refuses_to_hijack_outputs() {
    let store_dir = StoreDir::default();
    let cache = HashModuloCache::new();
    let check = |text: &str| {
        let checked = parse(text.as_bytes()).unwrap().check_outputs(&store_dir, &cache);
        checked.map_err(|error| error.to_string())
    };
    let path = "/nix/store/91dkhdfrdzngb4m62zak427y2vpamanj-plain";
    assert_eq!(check(PLAIN), Ok(()));
    let edited = check(&PLAIN.replace("hello", "hijack")).unwrap_err();
    let start = format!(
        "derivation 'plain.drv': derivation has incorrect output '{path}', should be '/nix/store/"
    );
    assert!(edited.starts_with(&start), "{edited}");
    assert!(edited.ends_with("-plain' (output 'out')"), "{edited}");

    let other = "/nix/store/00000000000000000000000000000000-plain";
    let variable =
        PLAIN.replace(&format!("(\"out\",\"{path}\")"), &format!("(\"out\",\"{other}\")"));
    assert_eq!(
        check(&variable),
        Err(format!(
            "derivation 'plain.drv': derivation has incorrect environment variable 'out', should \
             be '{path}' (it is '{other}')"
        ))
    );
    let found = check(&PLAIN.replace(&format!("(\"out\",\"{path}\"),"), "")).unwrap_err();
    assert!(found.contains("incorrect output"), "{found}");

    let name = "other".parse().unwrap();
    let renamed = Derivation::parse_aterm(&store_dir, &name, PLAIN.as_bytes()).unwrap();
    let found = renamed.check_outputs(&store_dir, &cache).unwrap_err().to_string();
    assert!(found.contains("-plain', should be '/nix/store/"), "{found}");
    assert!(found.ends_with("-other' (output 'out')"), "{found}");
}

fn with(environment: &[(&str, &str)]) -> BasicDerivation {
    let mut basic = parse(PLAIN.as_bytes()).unwrap().basic;
    basic.environment = environment.iter().copied().collect();
    basic
}

#[rstest]
#[case::no_json("{", "structured attributes: EOF while parsing an object at line 1 column 1")]
#[case::list("[]", "structured attributes: not a JSON object")]
#[case::feature(
    r#"{"requiredSystemFeatures":"kvm"}"#,
    "structured attribute 'requiredSystemFeatures' must be a list of strings"
)]
#[case::number(
    r#"{"requiredSystemFeatures":["kvm",1]}"#,
    "structured attribute 'requiredSystemFeatures' must be a list of strings"
)]
#[case::flag(
    r#"{"preferLocalBuild":"1"}"#,
    "structured attribute 'preferLocalBuild' must be true or false"
)]
fn refuses_structured_attributes(#[case] json: &str, #[case] expected: &str) {
    let error = with(&[("__json", json)]).options().unwrap_err();
    assert_eq!(error.to_string(), format!("derivation 'plain.drv': {expected}"));
}

#[test]
fn bounds_strings_and_errors() {
    let long = "x".repeat(10_000_000);
    let path = answer(&format!(r#"("out","/nix/store/{long}","","")"#), "", "", "");
    assert_eq!(path, "position 15: the string that begins here has 10000011 bytes, more than 4096");
    let variable = answer(OUT, "", "", &format!(r#"("{long}",""),("{long}","")"#));
    assert!(variable.len() < 1000);
    let json = format!("[{}]", "0,".repeat(10_000_000));
    let error = with(&[("__json", &json)]).options().unwrap_err();
    assert_eq!(
        error.to_string(),
        "derivation 'plain.drv': structured attributes: 20000002 bytes, more than 16777216"
    );
    let mut named = parse(PLAIN.as_bytes()).unwrap();
    named.basic.name = "n".repeat(208).parse().unwrap();
    let error = named.derivation_path(&StoreDir::default()).unwrap_err().to_string();
    assert!(error.ends_with("its file's name has 212 bytes, must have 1 to 211"), "{error}");
}

#[test]
fn survives_deep_json() {
    let deep = format!("{{\"a\":{}", "[".repeat(1_000_000));
    let error = with(&[("__json", &deep)]).options().unwrap_err().to_string();
    assert!(error.contains("recursion limit exceeded"), "{error}");
    let derivation = Derivation::from(with(&[("__json", &deep)]));
    let path = StorePath::from_base_name("00000000000000000000000000000000-plain.drv").unwrap();
    let shown = show_json(&StoreDir::default(), [(&path, &derivation)], ShowFormat::Nix2_34);
    assert!(matches!(*shown.unwrap_err().problem, DerivationProblem::StructuredAttributes { .. }));
}

#[test]
fn reads_options_of_the_environment() {
    let options = with(&[
        ("allowSubstitutes", "0"),
        ("preferLocalBuild", "true"),
        ("requiredSystemFeatures", " kvm\t big-parallel\n"),
    ])
    .options()
    .unwrap();
    assert_eq!(Vec::from_iter(options.required_system_features), ["big-parallel", "kvm"]);
    // Only `1` is true, and everything else is false.
    assert!(!options.allow_substitutes && !options.prefer_local_build);
}

fn chain_path(at: usize) -> StorePath {
    StorePath::from_base_name(&format!("{at:032}-chain.drv")).unwrap()
}

fn chain_link(at: usize, input: Option<usize>) -> Derivation {
    let mut basic = with(&[("at", &at.to_string())]);
    basic.outputs = BTreeMap::from([(OutputName::out(), Output::Deferred)]);
    let inputs = input.map(|input| (chain_path(input), OutputName::out().into()));
    Derivation { basic, input_derivations: inputs.into_iter().collect() }
}

#[test]
fn hashes_deep_chains() {
    const DEPTH: usize = 10_000;
    let store_dir = StoreDir::default();
    let chain: BTreeMap<StorePath, Derivation> =
        (0..DEPTH).map(|at| (chain_path(at), chain_link(at, at.checked_sub(1)))).collect();
    let mut cache = HashModuloCache::new();
    let path = chain_path(DEPTH - 1);
    cache.insert_closure(&store_dir, &path, &chain[&path], |path| chain.get(path)).unwrap();
    assert_eq!(cache.len(), DEPTH);
}

#[test]
fn refuses_cycles_and_missing_inputs() {
    let store_dir = StoreDir::default();
    let ring: BTreeMap<StorePath, Derivation> =
        (0..3).map(|at| (chain_path(at), chain_link(at, Some((at + 1) % 3)))).collect();
    let path = chain_path(0);
    let mut cache = HashModuloCache::new();
    let cycle = cache.insert_closure(&store_dir, &path, &ring[&path], |path| ring.get(path));
    assert!(matches!(*cycle.unwrap_err().problem, DerivationProblem::Cycle { .. }));
    let own = chain_link(0, Some(0));
    let cycle = cache.insert_closure(&store_dir, &path, &own, |_| Some(&own));
    assert!(matches!(*cycle.unwrap_err().problem, DerivationProblem::Cycle { .. }));
    let missing = cache.insert_closure(&store_dir, &path, &ring[&path], |_| None::<Derivation>);
    assert_eq!(
        missing.unwrap_err().to_string(),
        format!("derivation 'plain.drv': input derivation '{}' is not known", chain_path(1))
    );
    assert_eq!(
        ring[&path].check_outputs(&store_dir, &cache),
        Ok(()),
        "deferred outputs say nothing"
    );
}

#[test]
fn reads_columns_of_the_wire() {
    let store_dir = StoreDir::default();
    let read =
        |columns| Output::from_columns(&store_dir, &name(), &OutputName::out(), columns).unwrap();
    let deferred = OutputColumns::default();
    assert_eq!(read(deferred.clone()), Output::Deferred);
    assert_eq!(Output::Deferred.columns(&store_dir), deferred);
    for (method_algorithm, hash) in [("r:sha256", ""), ("git:sha1", ""), ("sha512", "impure")] {
        let columns = OutputColumns {
            path: String::new(),
            method_algorithm: method_algorithm.to_owned(),
            hash: hash.to_owned(),
        };
        assert_eq!(read(columns.clone()).columns(&store_dir), columns);
    }
}

#[test]
fn renders_placeholders() {
    // `placeholder "out"`, and the variable of a derivation on a floating one (golden/resolved).
    assert_eq!(
        output_placeholder(&OutputName::out()),
        "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"
    );
    let path = StorePath::from_base_name("90qkarph089dm6sbjx4vg7zjvvsv59a0-deferred.drv").unwrap();
    assert_eq!(
        downstream_placeholder(&path, &"dev".parse().unwrap()).unwrap(),
        "/1lzq1drf7wv8dsp87li717qwjviii81zpsxcfksap62bw9lqmcfs"
    );
    let path = StorePath::from_base_name("90qkarph089dm6sbjx4vg7zjvvsv59a0-deferred").unwrap();
    assert!(downstream_placeholder(&path, &OutputName::out()).is_err());
    assert_eq!(derivation_name(&path), None);
}

#[test]
fn finds_variables() {
    let environment: Environment =
        [("b", "2"), ("a", "1"), ("", "0"), ("b", "3")].into_iter().collect();
    assert_eq!(environment.len(), 3);
    for (name, value) in [("", Some("0")), ("a", Some("1")), ("b", Some("3")), ("c", None)] {
        assert_eq!(environment.get(name), value.map(str::as_bytes));
    }
    assert_eq!(format!("{environment:?}"), "{: 0, a: 1, b: 3}");
    assert!(Environment::default().is_empty() && Environment::default().get("a").is_none());
}
