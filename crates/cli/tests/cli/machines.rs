//! Machines files with mistakes, and those that aren't there.

use std::os::unix::process::CommandExt as _;

use rstest::rstest;

use crate::world::{EMPTY, Told, World};

impl World {
    /// Returns the line of a machine that is this one with another store.
    pub(crate) fn neighbour(&self) -> String {
        let store = self.path("other");
        let command = format!("exec nix-daemon --stdio --store 'local?root={}'", store.display());
        format!(
            "ssh-ng://localhost?remote-program={} x86_64-linux",
            self.script("other.sh", &command)
        )
    }
}

/// Each mistake costs its machine, and is told with file and line.
#[rstest]
#[case::number(
    "ssh://b1 x86_64-linux - four",
    "column 4 (max jobs) is 'four', expected a whole number"
)]
#[case::speed(
    "ssh://b1 - - 1 fast",
    "column 5 (speed factor) is 'fast', expected a number that is not"
)]
#[case::port("ssh://b1:port", "'ssh://b1:port' is not a store: 'port' is not a port")]
#[case::kind("https://b1", "this machine can't be used: store 'https://b1' is a binary cache")]
#[case::parameter("ssh://b1?compress=maybe", "parameter 'compress' can't be 'maybe'")]
#[case::host_key(
    "ssh://b1 - - 1 1 - - c3NoLQ==",
    "parameter 'base64-ssh-public-host-key' can't be 'c3NoLQ=='"
)]
#[case::base64("ssh://b1 - - 1 1 - - a_b", "column 8 (public host key) is 'a_b', expected base64")]
#[case::loop_of_files("@machines.more", "machines file '")]
fn a_bad_line_costs_its_machine(#[case] line: &str, #[case] words: &str) {
    let world = World::new();
    let line = line.replace("@machines", &format!("@{}", world.path("conf/machines").display()));
    fs_err::write(
        world.path("conf/machines.more"),
        format!("@{}", world.path("conf/machines.more").display()),
    )
    .unwrap();
    let machines = format!("# ours\n{line}\n{}\n", world.neighbour());
    fs_err::write(world.path("conf/machines"), machines).unwrap();
    let told = world.run(&["build", "-E", EMPTY, "-j0"]);
    told.succeeds();
    assert!(told.err.contains("building empty-1.0 on localhost\n"), "{told:#?}");
    let warning = told.err.lines().find(|line| line.starts_with("warning: ")).unwrap_or_default();
    assert!(warning.contains("/conf/machines") && warning.contains(words), "{told:#?}");
    assert!(warning.ends_with("; it is left out"), "{told:#?}");
}

#[test]
fn a_bad_line_is_told_again_where_it_is_missed() {
    let world = World::new();
    fs_err::write(world.path("conf/machines"), "ssh://b1 x86_64-linux - four\n").unwrap();
    let place = format!("{}:1: column 4", world.path("conf/machines").display());
    let told = world.run(&["build", "-E", EMPTY, "-j0", "--quiet"]);
    told.fails(100, &["no machine could build empty-1.0", "no machine is configured", &place]);
}

/// What was just typed, or stands in a setting, has to be right.
#[test]
fn a_bad_line_in_the_setting_is_an_error() {
    let world = World::new();
    let conf = world.path("conf/nix.conf");
    let before = fs_err::read_to_string(&conf).unwrap();
    fs_err::write(&conf, format!("{before}builders = ssh://b1 x86_64-linux - four\n")).unwrap();
    let line = before.lines().count() + 1;
    let place = format!("{}:{line}: column 4 (max jobs) is 'four'", conf.display());
    world.run(&["build", "-E", EMPTY]).fails(1, &[&place]);
}

#[test]
fn a_file_is_looked_for_where_the_user_is() {
    let world = World::new();
    fs_err::write(world.path("mine"), world.neighbour()).unwrap();
    let told = world.run(&["build", "-E", EMPTY, "-j0", "--builders", "@mine"]);
    told.succeeds();
    assert!(told.err.contains("building empty-1.0 on localhost\n"), "{told:#?}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let world = World::new();
    let missing = format!("machines file '{}' does not exist", world.path("gone").display());
    let told = world.run(&["build", "-E", EMPTY, "-j0", "--builders", "@gone"]);
    told.fails(
        100,
        &[&format!("warning: --builders: {missing}"), "no machine could build empty-1.0"],
    );
    let reason = told.err.split_once("error: ").unwrap_or_default().1;
    assert!(reason.contains(&missing), "{told:#?}");
    // the default's absence is no news where it isn't missed
    let told = world.run(&["build", "-E", EMPTY]);
    told.succeeds();
    assert!(!told.err.contains("machines file"), "{told:#?}");
    let told = world.run(&["build", "-E", EMPTY, "-j0", "--no-link", "--option", "system", "x"]);
    assert!(told.status.is_some(), "{told:#?}");
}

#[test]
fn a_private_key_that_is_not_there_is_told() {
    let world = World::new();
    fs_err::write(world.path("conf/machines"), "ssh-ng://127.0.0.1:1 x86_64-linux /no/such/key\n")
        .unwrap();
    let told = world.run(&["build", "-E", EMPTY, "-j0"]);
    told.fails(1, &["conf/machines:1: SSH key '/no/such/key' can't be read (No such file"]);
}

/// It's a word that was misspelt, most likely.
#[test]
fn a_parameter_that_means_nothing_is_told() {
    let world = World::new();
    let line = world.neighbour().replace(" x86", "&remote-progam=x&trusted=true x86");
    let told = world.run(&["build", "-E", EMPTY, "-j0", "--builders", &line]);
    told.succeeds();
    assert_eq!(told.err.matches("unknown setting 'remote-progam'").count(), 1, "{told:#?}");
    assert!(!told.err.contains("setting 'trusted'"), "{told:#?}");
    let store = format!("unix://{}?foo=bar", world.path("none").display());
    let told = world.run(&["store", "ping", "--store", &store]);
    told.fails(1, &["unknown setting 'foo'"]);
}

/// Nix's evaluator needn't know of it.
#[test]
fn a_setting_of_drovers_own_is_no_unknown_one() {
    let world = World::new();
    for (name, value) in [
        ("local-speed-factor", "2"),
        ("require-sigs-from-builders", "false"),
        ("naming-users", "a"),
    ] {
        let told = world.run(&["build", "-E", EMPTY, "--option", name, value]);
        assert!(!told.err.contains("unknown setting"), "{name}: {told:#?}");
    }
}

/// Once, whoever reads the settings: an evaluator tells it itself.
#[rstest]
#[case::with_an_evaluator("build -E {} -j0")]
#[case::of_a_file("derivation show x.drv")]
#[case::without_one("build x.drv")]
#[case::of_a_machine("store ping")]
#[case::by_nixs_name("path-info --all")]
fn a_setting_that_nobody_knows_is_told_once(#[case] line: &str) {
    let world = World::new();
    let words: Vec<&str> = line.split(' ').map(|w| if w == "{}" { EMPTY } else { w }).collect();
    let told = world.run(&[&words[..], &["--option", "coers", "3"]].concat());
    assert_eq!(told.err.matches("unknown setting 'coers'").count(), 1, "{told:#?}");
}

/// Nothing is evaluated then.
#[test]
fn a_setting_that_nobody_knows_is_told_by_nix_build_of_a_derivation() {
    let world = World::new();
    let named = |name: &str, words: &[&str]| {
        let mut command = world.command(words);
        Told::of(command.arg0(name).output().unwrap())
    };
    let path = named("nix-instantiate", &["-E", EMPTY]).succeeds().trim_end().to_owned();
    let told = named("nix-build", &[&path, "--no-out-link", "--option", "coers", "3"]);
    assert_eq!(told.err.matches("unknown setting 'coers'").count(), 1, "{told:#?}");
}

#[test]
fn without_ssh_it_says_what_to_install() {
    let world = World::new();
    fs_err::create_dir(world.path("few")).unwrap();
    fs_err::os::unix::fs::symlink("/bin/cat", world.path("few/cat")).unwrap();
    let mut ping = world.command(&["store", "ping", "--store", "ssh-ng://b1"]);
    let told = Told::of(ping.env("PATH", world.path("few")).output().unwrap());
    told.fails(1, &["ssh could not be run", "install OpenSSH's client"]);
}

#[test]
fn caches_are_looked_at() {
    let world = World::new();
    fs_err::create_dir(world.path("cache-dir")).unwrap();
    fs_err::write(world.path("cache-dir/nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    let store = format!("file://{}", world.path("cache-dir").display());
    let told = world.run(&["store", "ping", "--store", &store]);
    assert!(told.succeeds().contains("Protocol: binary cache\n"), "{told:#?}");
}

/// Comments are written in any encoding.
#[test]
fn one_strange_byte_costs_nothing() {
    let world = World::new();
    let conf = world.path("conf/nix.conf");
    let mut text = fs_err::read(&conf).unwrap();
    text.extend_from_slice(b"# f\xfcr alle\ncores = 2\n");
    fs_err::write(&conf, text).unwrap();
    let mut machines = b"# f\xfcr alle\n".to_vec();
    machines.extend_from_slice(world.neighbour().as_bytes());
    fs_err::write(world.path("conf/machines"), machines).unwrap();
    let told = world.run(&["build", "-j0", "-E", EMPTY]);
    told.succeeds();
    assert!(told.err.contains("building empty-1.0 on localhost\n"), "{told:#?}");
}
