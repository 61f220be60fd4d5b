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
