//! Machines files with mistakes, and those that aren't there.

use rstest::rstest;

use crate::world::{EMPTY, World};

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
#[case::kind("https://b1", "this machine can't be used: store 'https://b1' is not one that drover")]
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
    told.fails(1, &["no machine could build empty-1.0", "no machine is configured", &place]);
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
        1,
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
