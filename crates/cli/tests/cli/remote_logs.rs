//! What is left here of what builds on other machines say.

use crate::world::World;

/// Both protocols, with what serves them.
const WAYS: [(&str, &str); 2] =
    [("ssh-ng", "nix-daemon --stdio"), ("ssh", "nix-store --serve --write")];

/// A machine that is this one with another store.
fn machine(world: &World, (scheme, server): (&str, &str)) -> String {
    let store = world.path(&format!("other-{scheme}"));
    let command = format!("exec {server} --store 'local?root={}'", store.display());
    let program = world.script(&format!("{scheme}.sh"), &command);
    format!("{scheme}://localhost?remote-program={program} x86_64-linux - 1")
}

/// Fails with words in its log: which program isn't there.
fn loud(name: &str) -> String {
    format!(
        r#"derivation {{ name = "{name}"; builder = "/no/such/builder"; system = "x86_64-linux"; }}"#
    )
}

const WORDS: &str = "No such file or directory";

/// Returns where a message says that a log is.
fn place_of_log(said: &str) -> Option<&str> {
    Some(said.split_once("nix-store --read-log ")?.1.lines().next().unwrap())
}

/// As with stock Nix, the log is here afterwards.
#[test]
fn logs_are_kept_here() {
    let world = World::new();
    for way in WAYS {
        let machine = machine(&world, way);
        let build = ["build", "--no-link", "-j0", "--builders", &machine, "-E", &loud(way.0)];
        let told = world.run(&build);
        told.fails(100, &[WORDS]);
        let path = place_of_log(&told.err).expect("a place");
        let log = world.run(&["store", "log", path]);
        assert!(log.succeeds().contains(WORDS), "{told:#?} {log:#?}");
    }
}

/// Who follows the advice finds what it promises, or gets none.
#[test]
fn a_log_that_is_nowhere_is_not_promised() {
    let world = World::new();
    for way in WAYS {
        let machine = machine(&world, way);
        let (unkept, loud) = (["--option", "keep-build-log", "false"], loud(way.0));
        let build = ["build", "--no-link", "-j0", "--builders", &machine, "-E", &loud];
        let told = world.run(&[&build[..], &unkept].concat());
        told.fails(100, &[WORDS]);
        match way.0 {
            "ssh" => assert_eq!(place_of_log(&told.err), None, "{told:#?}"),
            _ => assert!(place_of_log(&told.err).unwrap().ends_with(".drv on localhost")),
        }
    }
}
