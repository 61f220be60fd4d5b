//! Builds on this machine, by drover alone.
//!
//! Needs root, and a static busybox (Debian: `apt install busybox-static`).

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rstest::rstest;
use rustix::process::{Pid, Signal};

use crate::only_the_evaluator;
use crate::world::{Told, World};

/// A derivation whose builder is the shell that builds are shown.
fn shell(name: &str, script: &str, more: &str) -> String {
    format!(
        r#"derivation {{ name = "{name}"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-e" "-c" "{script}" ]; {more} }}"#
    )
}

/// A hash that nothing here has.
const FIXED: &str = r#"outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";"#;

fn world(conf: &str) -> World {
    let world = World::new();
    let conf = format!(
        "substituters =\nsystem = x86_64-linux\nbuild-users-group =\nsandbox = true\n\
         sandbox-paths = /bin/sh=/usr/bin/busybox\n{conf}"
    );
    fs_err::write(world.path("conf/nix.conf"), conf).unwrap();
    world
}

/// Runs drover where there is no program of Nix but the evaluator.
fn run(world: &World, arguments: &[&str]) -> Told {
    let mut command = world.command(arguments);
    command.env("PATH", only_the_evaluator(world));
    Told::of(command.output().unwrap())
}

#[test]
fn drover_builds_by_itself() {
    let world = world("");
    let dep = shell("dep", "echo a line; echo dep > $out", "");
    let expression = shell("top", "echo $dep > $out", &format!("dep = {dep};"));
    let told = run(&world, &["build", "-E", &expression, "--print-out-paths", "-L"]);
    let path = told.succeeds().trim_end().to_owned();
    assert!(told.err.contains("building dep on local\n"), "{told:#?}");
    assert!(told.err.contains("a line\n"), "{told:#?}");
    let stock = |arguments: &[&str]| {
        let mut stock = Command::new("nix-store");
        let output = stock.args(arguments).env("NIX_REMOTE", world.store()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:#?}");
        String::from_utf8(output.stdout).unwrap()
    };
    stock(&["--verify", "--check-contents"]);
    stock(&["--verify-path", &path]);
    let references = stock(&["-q", "--references", &path]);
    assert!(references.trim_end().ends_with("-dep"), "{references}");
    assert!(stock(&["-q", "--deriver", &path]).trim_end().ends_with("-top.drv"));
    assert_eq!(stock(&["--read-log", references.trim_end()]), "a line\n");
    // a second time there is nothing to do
    let told = run(&world, &["build", "-E", &expression]);
    told.succeeds();
    assert!(!told.err.contains("building"), "{told:#?}");
}

#[rstest]
#[case::failed("exit 3", "", "", 100, "failed with exit code 3")]
#[case::timed_out("while true; do true; done", "", "timeout = 1", 101, "timed out after 1 seconds")]
#[case::silent(
    "while true; do true; done",
    "",
    "max-silent-time = 1",
    101,
    "timed out after 1 seconds of silence"
)]
#[case::hash("echo x > $out", FIXED, "", 102, "specified: sha256-LPJNul")]
#[case::log(
    "while true; do echo x; done",
    "",
    "max-build-log-size = 1000",
    1,
    "more than 1000 bytes"
)]
fn failures_have_their_codes(
    #[case] script: &str,
    #[case] more: &str,
    #[case] conf: &str,
    #[case] code: i32,
    #[case] words: &str,
) {
    let world = world(conf);
    let told = run(&world, &["build", "-E", &shell("x", script, more)]);
    told.fails(code, &["build of x failed\n", words, "nix-store --read-log /nix/store/"]);
}

/// A build that fails takes nothing along but what depends on it.
#[test]
fn a_failure_leaves_other_builds_alone() {
    let world = world("");
    let counting = |to: u32| format!("i=0; while [ $i -lt {to} ]; do i=$((i+1)); done");
    let fails = shell("fails", &format!("{}; exit 1", counting(100_000)), "");
    let follower = shell("follower", "echo > $out", &format!("fails = {fails};"));
    let long = shell("long", &format!("{}; echo > $out", counting(2_000_000)), "");
    let both = format!("[ ({follower}) ({long}) ]");
    let told = run(&world, &["build", "-k", "-j2", "-E", &both]);
    told.fails(100, &["fails"]);
    assert_eq!(told.err.matches("building long on local\n").count(), 1, "{told:#?}");
    assert!(!told.err.contains("cannot use"), "{told:#?}");
}

#[test]
fn no_jobs_means_no_builds_here() {
    let world = world("");
    let expression = shell("x", "echo > $out", "");
    let told = run(&world, &["build", "-j0", "-E", &expression]);
    told.fails(100, &["no machine could build x"]);
    world.run(&["build", "-j0", "-E", &expression]).fails(100, &["no machine could build x"]);
}

#[test]
fn a_hook_is_named_by_its_whole_path() {
    for name in ["post-build-hook", "pre-build-hook"] {
        let world = world(&format!("{name} = true\n"));
        let told = run(&world, &["build", "-E", &shell("x", "echo > $out", "")]);
        told.fails(1, &[&format!("setting '{name}' is 'true' and must be an absolute path")]);
    }
}

#[test]
fn a_speed_factor_must_be_one() {
    let world = world("");
    let arguments = ["build", "--option", "local-speed-factor", "no", "-E", "1"];
    run(&world, &arguments).fails(1, &["setting 'local-speed-factor' is 'no'"]);
}

/// Starts a build that never ends, and returns when it runs.
fn endless(world: &World) -> Child {
    let script = format!("echo it runs; while true; do true; done; : {}", mark(world));
    let expression = shell("endless", &script, "");
    let mut command = world.command(&["build", "-L", "-E", &expression]);
    command.env("PATH", only_the_evaluator(world)).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("it runs")));
    child.stderr = None;
    // what it says from now on is nobody's business, but it must be able to say it
    std::thread::spawn(move || lines.for_each(drop));
    child
}

/// What only the command lines of this test's builders have in them, and that of who starts them.
fn mark(world: &World) -> String {
    world.path("builder").display().to_string()
}

/// Returns the numbers of the builders that run.
fn builders(world: &World) -> Vec<String> {
    let mark = mark(world);
    let is_one = |number: &String| {
        let line = std::fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
        line.starts_with(b"sh\0") && line.windows(mark.len()).any(|part| part == mark.as_bytes())
    };
    let names = fs_err::read_dir("/proc").unwrap().map(|it| it.unwrap().file_name());
    names.filter_map(|name| name.into_string().ok()).filter(is_one).collect()
}

fn builds(world: &World) -> Vec<String> {
    let folder = world.path("root/nix/var/nix/builds");
    let entries = fs_err::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    let world = world("");
    let mut child = endless(&world);
    assert_eq!((builds(&world).len(), builders(&world).len()), (1, 1));
    let pid = Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(builders(&world), Vec::<String>::new());
    assert_eq!(builds(&world), Vec::<String>::new());
}

/// How long what is killed may take to be gone.
const LIMIT: Duration = Duration::from_secs(120);

/// T29: a build ends with the program that has started it, however that ends.
#[test]
fn a_killed_program_leaves_no_build() {
    let world = world("");
    let mut child = endless(&world);
    let left = builds(&world);
    assert_eq!(builders(&world).len(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let began = Instant::now();
    while !builders(&world).is_empty() {
        assert!(began.elapsed() < LIMIT, "the builder goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(builds(&world), left);
    // the next one takes away what is left
    let told = run(&world, &["build", "-E", &shell("x", "echo > $out", "")]);
    told.succeeds();
    assert_eq!(builds(&world), Vec::<String>::new());
}

/// What is imported has no hash that would tell: damage would be valid at the other end.
#[test]
fn damaged_contents_are_not_exported() {
    let world = world("");
    let told =
        run(&world, &["build", "-E", &shell("x", "echo good > $out", ""), "--print-out-paths"]);
    let path = told.succeeds().trim_end().to_owned();
    let file = format!("{}{path}", world.path("root").display());
    fs_err::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fs_err::write(&file, "ugly\n").unwrap();
    let output = world.command(&["store", "export", &path]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains(&format!("hash of path '{path}' has changed from 'sha256:")), "{err}");
    let told = run(&world, &["store", "verify", "--all", "--no-trust"]);
    told.fails(1, &[&format!("path '{path}' was modified!")]);
}

#[test]
fn what_cannot_be_read_is_told_of_and_the_rest_is_looked_at() {
    let world = world("");
    let mut paths = Vec::new();
    for name in ["gone", "fine"] {
        let expression = shell(name, "echo $name > $out", "");
        let told = run(&world, &["build", "-E", &expression, "--print-out-paths"]);
        paths.push(told.succeeds().trim_end().to_owned());
    }
    fs_err::remove_file(format!("{}{}", world.path("root").display(), paths[0])).unwrap();
    let told = run(&world, &["store", "verify", "--all", "--no-trust", "-v"]);
    told.fails(4, &[&format!("path '{}' can't be read: ", paths[0])]);
    told.fails(4, &[&format!("checking '{}'", paths[1])]);
}

/// The store's folder is on the way to the evaluator and back.
#[test]
fn a_store_with_a_space_in_its_path_is_evaluated_into() {
    let world = world("");
    let store = world.path("sp ace").display().to_string();
    let line = ["build", "--store", &store, "-E", &shell("x", "echo > $out", "")];
    run(&world, &line).succeeds();
    assert!(world.path("sp ace/nix/store").exists() && !world.path("sp%20ace").exists());
}

/// Who waits is told what for.
#[test]
fn a_lock_that_somebody_holds_is_told_of() {
    let world = world("");
    let expression = shell("x", "echo > $out", "");
    let told = run(&world, &["build", "-E", &expression, "--print-out-paths", "--no-link"]);
    let path = told.succeeds().trim_end().to_owned();
    let lock = format!("{}{path}.lock", world.path("root").display());
    run(&world, &["store", "delete", &path]).succeeds();
    let holder = fs_err::File::create(&lock).unwrap();
    rustix::fs::flock(&holder, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut command = world.command(&["build", "-E", &expression]);
    command.env("PATH", only_the_evaluator(&world)).stderr(Stdio::piped());
    let mut build = command.spawn().unwrap();
    let told = BufReader::new(build.stderr.take().unwrap()).lines().map(Result::unwrap);
    let expected = format!("waiting for lock on '{}'", lock.trim_end_matches(".lock"));
    let mut told = told.skip_while(|line| !line.contains(&expected));
    assert!(told.next().is_some(), "{expected}");
    drop(holder);
    told.for_each(drop);
    assert!(build.wait().unwrap().success());
}

/// Not the machine's trouble, and so not tried again.
#[rstest]
#[case("auto-allocate-uids = true\nid-count = 1", "'id-count' is '1' and must be 65536 at least")]
#[case("auto-allocate-uids = true\nstart-id = 4294967295", "'start-id' is '4294967295'")]
#[case("sandbox-build-dir = /nix", "'/nix' and must not contain the store's folder")]
#[case("sandbox-build-dir = a b", "'a b' and must be an absolute path")]
#[case("sandbox-build-dir = /", "'/' and must be a folder's plain path below '/'")]
#[case("build-dir = x", "'x' and must be an absolute path")]
#[case("trusted-public-keys = bad", "'bad' in setting 'trusted-public-keys' can't be used")]
fn settings_that_no_build_can_have_are_refused(#[case] line: &str, #[case] words: &str) {
    let world = world(line);
    let told = run(&world, &["build", "-E", &shell("x", "echo > $out", "")]);
    told.fails(1, &["conf/nix.conf:", words]);
    assert!(!told.err.contains("tried again"), "{told:#?}");
}

#[test]
fn a_group_without_users_builds_nothing() {
    let world = world("");
    let options = ["--option", "build-users-group", "nobody-is-in-it"];
    let told =
        run(&world, &[&["build", "-E", &shell("x", "echo > $out", "")], &options[..]].concat());
    told.fails(100, &["this machine builds nothing: the group 'nobody-is-in-it'"]);
}

#[test]
fn substituters_are_found_from_the_working_folder() {
    let world = world("");
    let expression = shell("x", "echo > $out", "");
    let from = world.path("src").display().to_string();
    run(&world, &["build", "--store", &from, "-E", &expression]).succeeds();
    let options = ["-j0", "--option", "substituters", "./src", "--option", "require-sigs", "false"];
    let told = run(&world, &[&["build", "-E", &expression], &options[..]].concat());
    told.succeeds();
}

/// Nix's own daemon takes it for an experiment, and nobody needs it for that.
#[test]
fn a_store_that_is_only_read_is_looked_at() {
    let world = world("");
    world.run(&["build", "-E", &shell("x", "echo > $out", "")]).succeeds();
    let store = format!("{}&read-only=true", world.store());
    let told = world.run(&["store", "info", "--store", &store]);
    assert!(told.succeeds().contains("Protocol: local"), "{told:#?}");
}

/// Also where what failed is only needed, as scripts tell failed builds from other trouble by that.
#[rstest]
#[case::failed("exit 1", "", 100)]
#[case::timed_out("sleep 60", "", 101)]
#[case::hash_mismatch("echo x > $out", FIXED, 102)]
fn a_failed_dependency_has_its_code_by_nixs_names(
    #[case] script: &str,
    #[case] more: &str,
    #[case] code: i32,
) {
    let world = world("");
    let dep = shell("dep", script, more);
    let top = shell("top", "echo $dep > $out", &format!("dep = {dep};"));
    let mut command = world.command(&["-E", &top, "--no-out-link", "--timeout", "1"]);
    command.arg0("nix-build").env("PATH", only_the_evaluator(&world));
    Told::of(command.output().unwrap()).fails(code, &["dep"]);
}
