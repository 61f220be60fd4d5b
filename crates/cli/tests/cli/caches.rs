//! Caches in folders: what would be fetched from them, what is looked at in them, and bad names of them.

use std::os::unix::fs::symlink;
use std::process::Command;

use crate::liars::{cached, nix_store};
use crate::world::{Told, World};

/// Evaluates, and returns what is printed.
fn evaluate(world: &World, arguments: &[&str]) -> String {
    let mut command = Command::new("nix-instantiate");
    command.args(arguments).env("NIX_REMOTE", world.store()).env("HOME", world.dir.path());
    let features = "experimental-features = ca-derivations nix-command";
    let told = Told::of(command.env("NIX_CONFIG", features).output().unwrap());
    told.succeeds().trim().trim_matches('"').to_owned()
}

/// Two paths in a cache, the second of which refers to the first.
fn cached_pair(world: &World) -> ([String; 2], String) {
    let first = r#"builtins.toFile "first" "the first""#;
    let second = format!(r#"builtins.toFile "second" "not ${{{first}}}""#);
    let paths =
        [first, &second].map(|text| evaluate(world, &["--eval", "--read-write-mode", "-E", text]));
    let cache = format!("file://{}", world.path("cache-of-files").display());
    world.run(&["copy", "--to", &cache, &paths[1]]).succeeds();
    (paths, cache)
}

/// As by stock Nix: all that comes along, with its sizes.
#[test]
fn what_would_be_fetched_is_told() {
    let world = World::new();
    let ([first, second], cache) = cached_pair(&world);
    let other = World::new();
    let options =
        ["--option", "substituters", &cache, "--option", "require-sigs", "false", "--dry-run"];
    let told = nix_store(&other, &[&["-r", &second][..], &options].concat());
    told.succeeds();
    assert!(told.err.contains("these 2 paths will be fetched ("), "{told:#?}");
    assert!(told.err.contains(&first) && told.err.contains(&second), "{told:#?}");
    assert!(!told.err.contains("0.0 KiB download"), "{told:#?}");
    assert!(!told.err.contains(" 0.0 KiB unpacked"), "{told:#?}");
    // what can't be had whole can't be had
    let hash = &first["/nix/store/".len()..][..32];
    fs_err::remove_file(world.path(&format!("cache-of-files/{hash}.narinfo"))).unwrap();
    let other = World::new();
    let told = nix_store(&other, &[&["-r", &second][..], &options].concat());
    assert!(told.err.contains("don't know how to build these paths"), "{told:#?}");
    assert!(told.err.contains(&second) && !told.err.contains("will be fetched"), "{told:#?}");
}

/// What is no store, or has a bad parameter, is told of, and the others are asked.
#[test]
fn bad_words_among_substituters_cost_only_themselves() {
    let world = World::new();
    let (path, cache) = cached(&world);
    let good = format!("file://{}", cache.display());
    for (bad, says) in [
        ("nonsense", "a substituter was not asked: 'nonsense' is not a store"),
        ("ssh://-x", "neither host nor user may begin with '-'"),
        ("file:///c?priority=x", "was not asked: its 'priority' must be a whole number"),
        ("file:///c?compression=lzip", "was not asked: compression 'lzip' is not known here"),
    ] {
        let other = World::new();
        let substituters = format!("{bad} {good}");
        let options =
            ["--option", "substituters", &substituters, "--option", "require-sigs", "false"];
        let told = nix_store(&other, &[&["-r", &path][..], &options].concat());
        assert_eq!(told.succeeds().trim(), path);
        assert!(told.err.contains("warning: ") && told.err.contains(says), "{told:#?}");
        assert_eq!(told.err.matches("not asked").count(), 1, "{told:#?}");
        assert!(told.err.matches("is not known here").count() <= 1, "{told:#?}");
    }
}

#[test]
fn are_looked_at_and_nothing_else_is_done_with_them() {
    let world = World::new();
    let ([first, second], cache) = cached_pair(&world);
    let told = world.run(&["path-info", "-r", "--store", &cache, &second]);
    assert_eq!(told.succeeds().lines().collect::<Vec<_>>(), [first.as_str(), &second]);
    let told = world.run(&["store", "verify", "--store", &cache, &second]);
    told.fails(1, &["is a binary cache: paths are copied from it"]);
    // by Nix's names that is the real Nix's, which may not be there
    let name = world.path("nix");
    symlink(env!("CARGO_BIN_EXE_drover"), &name).unwrap();
    let mut command = Command::new(name);
    command.args(["store", "verify", "--store", &cache, &second]);
    command.env("PATH", world.dir.path()).env("HOME", world.dir.path());
    let told = Told::of(command.output().unwrap());
    told.fails(1, &["what is done with binary caches", "no 'nix' on the PATH"]);
}

/// `nix copy DRV^*`: what a floating output became is found by who has only its derivation.
#[test]
fn outputs_are_copied_with_what_they_became() {
    let floating = r#"derivation {
        name = "floating-1.0"; builder = "builtin:buildenv"; system = "builtin";
        derivations = []; manifest = "/m"; __contentAddressed = true;
        outputHashMode = "recursive"; outputHashAlgo = "sha256";
    }"#;
    let features = ["--option", "experimental-features", "ca-derivations nix-command"];
    let world = World::new();
    let drv = evaluate(&world, &["-E", floating]);
    let cache = world.path("cache-of-files");
    let to = format!("file://{}", cache.display());
    let outputs = format!("{drv}^*");
    world.run(&["copy", "--to", &to, &outputs]).fails(1, &["build it first"]);
    world.run(&["copy", "--to", &to, &format!("{drv}^dev")]).fails(1, &["has no output 'dev'"]);
    let built =
        world.run(&[&["build", "--no-link", "--print-out-paths", &drv][..], &features].concat());
    let out = built.succeeds().trim().to_owned();
    world.run(&["copy", "--to", &to, &outputs]).succeeds();
    assert_eq!(std::fs::read_dir(cache.join("realisations")).unwrap().count(), 1);
    world
        .run(&["copy", "--from", &to, "--to", &world.store(), &outputs])
        .fails(1, &["can't be asked of a binary cache"]);
    // the derivation alone, and no way to build it
    world.run(&["copy", "--to", &to, &drv]).succeeds();
    let other = World::new();
    other.run(&["copy", "--from", &to, "--no-check-sigs", &drv]).succeeds();
    let options = ["--option", "substituters", &to, "--option", "require-sigs", "false", "-j0"];
    let fetch = [&["-r", &drv][..], &options, &features].concat();
    assert_eq!(nix_store(&other, &fetch).succeeds().trim(), out);
}
