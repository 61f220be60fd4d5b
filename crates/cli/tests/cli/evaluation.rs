//! What happens between evaluation and build.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::world::{EMPTY, Told, World};

/// The garbage collector may run at any moment, also right behind the evaluator.
#[test]
fn nothing_collects_what_was_just_evaluated() {
    let world = World::new();
    fs_err::create_dir(world.path("flake")).unwrap();
    let flake = format!("{{ outputs = {{ self }}: {{ x = {EMPTY}; }}; }}");
    fs_err::write(world.path("flake/flake.nix"), flake).unwrap();
    fs_err::create_dir(world.path("bin")).unwrap();
    for program in ["nix", "nix-instantiate"] {
        let script = world.script(
            &format!("bin/{program}"),
            &format!(
                "PATH=${{PATH#*:}}\n{program} \"$@\"\nstatus=$?\nnix-store --gc >&2\nexit $status"
            ),
        );
        fs_err::set_permissions(script, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", world.path("bin").display(), std::env::var("PATH").unwrap());
    for source in [vec!["./flake#x"], vec!["-E", EMPTY]] {
        let mut arguments = vec!["build", "--no-link"];
        arguments.extend(&source);
        let told = Told::of(world.command(&arguments).env("PATH", &path).output().unwrap());
        told.succeeds();
        assert!(told.err.contains("store paths deleted"), "nothing was collected: {told:#?}");
    }
}

/// What is evaluated may come from another program.
#[test]
fn standard_input_is_a_file() {
    let world = World::new();
    let arguments = ["build", "--no-link", "--print-out-paths", "-f", "-", "a", "b^out"];
    let mut child = world
        .command(&arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let text = format!("rec {{ a = {EMPTY}; b = a; }}");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let told = Told::of(child.wait_with_output().unwrap());
    assert_eq!(told.succeeds().lines().filter(|line| line.ends_with("-empty-1.0")).count(), 2);
}

/// A string is what it was made from.
#[test]
fn a_flake_s_output_may_be_a_string() {
    let world = World::new();
    fs_err::create_dir(world.path("flake")).unwrap();
    let flake =
        format!("{{ outputs = {{ self }}: {{ s = \"${{{EMPTY}}}\"; none = \"text\"; }}; }}");
    fs_err::write(world.path("flake/flake.nix"), flake).unwrap();
    let build = ["build", "--no-link", "--print-out-paths"];
    let told = world.run(&[&build[..], &["./flake#s"]].concat());
    assert!(told.succeeds().trim().ends_with("-empty-1.0"), "{told:#?}");
    world
        .run(&[&build[..], &["./flake#none"]].concat())
        .fails(1, &["must refer to one derivation"]);
}

/// As for `nix build` and `nix-build`.
#[test]
fn outputs_that_nobody_named() {
    let world = World::new();
    let make = r#"args: derivation ({ name = "m"; system = "x86_64-linux"; builder = "/bin/sh"; outputs = [ "out" "dev" "doc" ]; } // args)"#;
    let text = format!(
        "let make = {make}; in {{ multi = make {{ }}; some = make {{ n = 1; }} // {{ meta.outputsToInstall = [ \"out\" \"doc\" ]; }}; }}"
    );
    fs_err::write(world.path("m.nix"), text).unwrap();
    let all: &[&str] = &["dev", "doc", "out"];
    let cases: [(&[&str], &[&str]); 6] = [
        (&["multi"], all),
        (&["multi.dev"], all),
        (&["multi^doc"], &["doc"]),
        (&["some"], &["doc", "out"]),
        (&["-A", "multi"], &["out"]),
        (&["-A", "multi.dev"], &["dev"]),
    ];
    for (named, outputs) in cases {
        let told = world.run(&[&["build", "--dry-run", "--json", "-f", "m.nix"], named].concat());
        let json: serde_json::Value = serde_json::from_str(told.succeeds()).unwrap();
        let found = json[0]["outputs"].as_object().unwrap().keys();
        assert_eq!(found.collect::<Vec<_>>(), outputs, "{named:?}");
    }
}

/// The second signal doesn't wait for anything, and still nothing is left.
#[test]
fn leaves_at_once_and_nothing_behind() {
    let world = World::new();
    for folder in ["run", "tmp"] {
        fs_err::create_dir(world.path(folder)).unwrap();
    }
    let mute = world.script("mute", "exec sleep 600");
    let machine = format!("ssh-ng://localhost?remote-program={mute} x86_64-linux");
    let mut command = world.command(&["build", "-v", "-E", EMPTY, "-j0", "--builders", &machine]);
    command.env("XDG_RUNTIME_DIR", world.path("run")).env("TMPDIR", world.path("tmp"));
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let said = until(&mut stderr, "connecting to localhost");
    assert_ne!(folder_count(&world, "run") + folder_count(&world, "tmp"), 0, "{said}");
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::INT).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(folder_count(&world, "run") + folder_count(&world, "tmp"), 0);
}

fn folder_count(world: &World, folder: &str) -> usize {
    fs_err::read_dir(world.path(folder)).unwrap().count()
}

/// Reads until some words have come.
fn until(from: &mut impl std::io::Read, words: &str) -> String {
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains(words) {
        let mut byte = [0];
        assert_eq!(from.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    String::from_utf8_lossy(&said).into_owned()
}
