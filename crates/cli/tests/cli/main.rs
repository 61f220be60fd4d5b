//! The real binary: usage, evaluation, the local store, machines that can't be used. Hosts are for
//! the end-to-end tests; here everything is on this machine.
//!
//! Needs `nix-daemon`, `nix-instantiate` and `nix-store` (Debian: `apt install nix-bin`) and `ssh`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like tests"
)]

mod bad_input;
#[path = "../support/bad_nars.rs"]
mod bad_nars;
#[allow(dead_code, missing_docs, unreachable_pub, reason = "other tests use the rest of it")]
#[path = "../../../store-cache/tests/caches/bucket.rs"]
mod bucket;
mod buckets;
mod caches;
mod evaluation;
mod explain;
mod given_away;
mod here;
mod imports;
mod keys;
mod liars;
mod machines;
mod remote_logs;
mod world;

use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rstest::rstest;
use serde_json::Value;

use world::{BROKEN, EMPTY, Told, World};

#[rstest]
#[case::nothing(&[], "Usage")]
#[case::unknown_command(&["frobnicate"], "unrecognized subcommand")]
#[case::unknown_flag(&["build", "--frobnicate"], "unexpected argument")]
#[case::nothing_to_build(&["build"], "nothing to build: give a PATH.drv, -f FILE, -E EXPR")]
#[case::attribute_of_nothing(&["build", "-A", "x"], "give one with -f or -E")]
#[case::file_that_is_nix(&["build", "x.nix"], "build it with -f x.nix")]
#[case::no_such_file(&["build", "x.drv"], "'x.drv' does not exist")]
#[case::store(&["build", "--store", "foo", "x.drv"], "--store: setting 'store' has invalid value 'foo'")]
#[case::kind_of_store(&["store", "ping", "--store", "dummy://"], "can be looked at: that is auto, daemon")]
#[case::arguments_of_nothing(&["build", "--argstr", "a", "b", "x.drv"], "--argstr goes with something")]
#[case::places_of_nothing(&["build", "-I", "a=b", "x.drv"], "-I goes with something")]
#[case::jobs(&["build", "-j", "many", "x.drv"], "--max-jobs: setting 'max-jobs' has invalid value 'many'")]
#[case::option(&["build", "--option", "cores", "x", "x.drv"], "--option cores: setting 'cores'")]
#[case::machines(
    &["build", "--builders", "ssh://b1 x86_64-linux - four", "x.drv"],
    "--builders: column 4 (max jobs) is 'four', expected a whole number",
)]
#[case::kind_of_machine(
    &["build", "--builders", "https://b1", "x.drv"],
    "--builders: this machine can't be used: store 'https://b1' is a binary cache",
)]
#[case::relative_store(&["path-info", "--all", "--store", "local?root=x"], "'x' (root) must be an absolute path")]
#[case::relative_store_built(&["build", "--store", "local?root=x", "x.drv"], "must be an absolute path")]
#[case::relative_store_seen(&["store", "ping", "--store", "local?state=x"], "must be an absolute path")]
#[case::store_that_is_perhaps_read(&["store", "gc", "--store", "local?read-only=maybe"], "must be 'true' or 'false'")]
#[case::host(&["build", "--builders", "ssh://-oProxyCommand=x", "x.drv"], "may begin with '-'")]
fn refuses(#[case] arguments: &[&str], #[case] words: &str) {
    World::new().run(arguments).fails(1, &[words]);
}

#[test]
fn ssh_options_must_be_closed() {
    let world = World::new();
    let mut command = world.command(&["store", "ping", "--store", "unix:///no/such/socket"]);
    let output = command.env("NIX_SSHOPTS", "-o 'x").output().unwrap();
    Told::of(output).fails(1, &["NIX_SSHOPTS has a ' that is not closed"]);
}

#[test]
fn version_and_help() {
    let world = World::new();
    assert!(world.run(&["--version"]).succeeds().starts_with("drover "));
    assert!(world.run(&["build", "--help"]).succeeds().contains("--builders"));
}

#[rstest]
#[case::expression(&["build", "-E", "1"], "'nix-instantiate' is not on the PATH")]
#[case::flake(&["build", ".#x"], "'nix' is not on the PATH")]
fn says_how_to_get_an_evaluator(#[case] arguments: &[&str], #[case] words: &str) {
    let world = World::new();
    let mut command = world.command(arguments);
    command.env("PATH", world.path("conf")).env("NIX_REMOTE", "unix:///no/such/socket");
    let told = Told::of(command.output().unwrap());
    told.fails(1, &[words, "apt install nix-bin"]);
}

/// A folder for `PATH` with the evaluator and without a daemon.
fn only_the_evaluator(world: &World) -> PathBuf {
    let folder = world.path("evaluator");
    if folder.exists() {
        return folder;
    }
    fs_err::create_dir(&folder).unwrap();
    let path = std::env::var_os("PATH").unwrap();
    let mut found = std::env::split_paths(&path).map(|dir| dir.join("nix-instantiate"));
    let real = found.find(|file| file.is_file()).unwrap().canonicalize().unwrap();
    std::os::unix::fs::symlink(real, folder.join("nix-instantiate")).unwrap();
    folder
}

#[test]
fn a_store_needs_no_daemon() {
    let world = World::new();
    let mut command = world.command(&["store", "ping"]);
    command.env("PATH", world.path("conf"));
    assert!(Told::of(command.output().unwrap()).succeeds().contains("Protocol: local\n"));
}

#[test]
fn says_how_to_get_a_store() {
    let world = World::new();
    fs_err::write(world.path("file"), "").unwrap();
    // not even root can make a folder there
    let store = format!("local?root={}", world.path("file/below").display());
    for arguments in [["store", "ping"].as_slice(), &["build", "-j0", "x.drv"]] {
        let mut command = world.command(arguments);
        command.env("PATH", world.path("conf")).env("NIX_REMOTE", &store);
        let told = Told::of(command.output().unwrap());
        told.fails(1, &["may not write store", "nor a 'nix-daemon' on the PATH"]);
    }
}

/// What is built on another machine comes into a store that no daemon has ever seen; substituters,
/// which are on unless they are turned off, are no reason to ask for one.
#[rstest]
#[case::without_substituters("", "")]
#[case::with_substituters(
    "substituters = s3://cache?scheme=ftp\n",
    "warning: substituter 's3://cache?scheme=ftp' was not asked"
)]
fn builds_without_a_daemon(#[case] conf: &str, #[case] warning: &str) {
    let world = World::new();
    let conf = format!("system = x86_64-linux\nbuild-users-group =\nsandbox = false\n{conf}");
    let conf = if conf.contains("substituters") { conf } else { format!("{conf}substituters =\n") };
    fs_err::write(world.path("conf/nix.conf"), conf).unwrap();
    let path = std::env::var("PATH").unwrap();
    let other = world.path("other");
    let script = world.script(
        "builder",
        &format!("PATH='{path}' exec nix-daemon --stdio --store 'local?root={}'", other.display()),
    );
    let machine = format!("ssh-ng://localhost?remote-program={script} x86_64-linux");
    let arguments = ["build", "-j0", "-E", EMPTY, "--builders", &machine, "--print-out-paths"];
    let mut command = world.command(&arguments);
    command.env("PATH", only_the_evaluator(&world));
    let told = Told::of(command.output().unwrap());
    let path = told.succeeds().trim_end().to_owned();
    assert!(told.err.contains("building empty-1.0 on localhost\n"), "{told:#?}");
    assert!(told.err.contains(warning), "{told:#?}");
    assert!(world.path("root").join(path.trim_start_matches('/')).is_dir());
    // stock Nix finds it valid and whole
    let mut stock = Command::new("nix-store");
    stock.args(["--verify-path", &path]).env("NIX_REMOTE", world.store());
    assert!(stock.status().unwrap().success());
}

/// What is part of Nix itself is part of drover, too.
#[test]
fn what_nix_builds_itself_takes_no_nix() {
    let world = World::new();
    let mut command = world.command(&["build", "-E", EMPTY, "--print-out-paths"]);
    command.env("PATH", only_the_evaluator(&world));
    let told = Told::of(command.output().unwrap());
    let path = told.succeeds().trim_end();
    let mut stock = Command::new("nix-store");
    stock.args(["--verify-path", path]).env("NIX_REMOTE", world.store());
    assert!(stock.status().unwrap().success());
}

/// Without Nix's folders, without a daemon and without root there is a store of the user's own.
#[test]
fn a_user_without_nix_has_a_store() {
    let world = World::new();
    let home = world.path("home");
    fs_err::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).unwrap();
    fs_err::set_permissions(world.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let binary = world.path("drover");
    // by a process of its own: what another thread of this one forks would keep a file that is written here
    // open, and then it can't be started
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_drover")).arg(&binary).status();
    assert!(copied.unwrap().success());
    // hides /nix from what follows, and gives up root's rights, which this test needs
    let script = "mkdir -p /nix && mount -t tmpfs none /nix && \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"";
    let mut command = Command::new("unshare");
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NIX_")) {
        command.env_remove(name);
    }
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(&binary)
        .args(["store", "ping"])
        .env("HOME", &home)
        .env("NIX_CONF_DIR", world.path("conf"))
        .env_remove("XDG_DATA_HOME")
        .env("XDG_RUNTIME_DIR", "");
    let told = Told::of(command.output().unwrap());
    let root = home.join(".local/share/nix/root");
    assert!(told.succeeds().contains(&format!("Store URL: {}\n", root.display())), "{told:#?}");
    assert!(root.join("nix/var/nix/db/db.sqlite").is_file());
}

#[test]
fn an_evaluation_that_fails() {
    let told = World::new().run(&["build", "-E", "throw \"no way\""]);
    told.fails(1, &["no way", "'nix-instantiate' could not evaluate the expression"]);
}

#[test]
fn pings_the_local_store() {
    let world = World::new();
    let told = world.run(&["store", "ping"]);
    let text = told.succeeds();
    for words in ["Store URL: local?root=", "Protocol: local", "Round trip: "] {
        assert!(text.contains(words), "{told:#?}");
    }
    let told = world.run(&["store", "info", "--json"]);
    let json: Value = serde_json::from_str(told.succeeds()).unwrap();
    assert_eq!(json["url"], world.store());
    assert!(json["roundTripSeconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn pings_a_daemon_that_is_not_there() {
    let world = World::new();
    let told = world.run(&["store", "ping", "--store", "unix:///no/such/socket"]);
    told.fails(1, &["cannot connect to 'unix:///no/such/socket'", "is the Nix daemon running"]);
}

#[test]
fn builds_here() {
    let world = World::new();
    let arguments = ["build", "-E", EMPTY, "--json", "--print-out-paths"];
    let told = world.run(&arguments);
    let (json, path) = told.succeeds().split_once('\n').unwrap();
    let json: Value = serde_json::from_str(json).unwrap();
    assert_eq!(json[0]["outputs"]["out"], path.trim_end());
    assert!(json[0]["drvPath"].as_str().unwrap().ends_with("-empty-1.0.drv"));
    let link = world.path("result");
    assert_eq!(fs_err::read_link(&link).unwrap(), Path::new(path.trim_end()));
    let roots = world.path("root/nix/var/nix/gcroots/auto");
    let mut roots = fs_err::read_dir(roots)
        .unwrap()
        .map(|root| fs_err::read_link(root.unwrap().path()).unwrap());
    assert!(roots.any(|root| root == link), "the link is no root");
    assert!(told.err.contains("building empty-1.0 on local\n"), "{told:#?}");
    assert!(told.err.contains("1 build in "), "{told:#?}");

    // a second time there is nothing to do, and the link is replaced
    let drv = json[0]["drvPath"].as_str().unwrap();
    let told = world.run(&["build", drv, "--quiet"]);
    assert_eq!((told.succeeds(), told.err.as_str()), ("", ""));
    let drv = format!("{drv}^nope");
    world.run(&["build", &drv]).fails(1, &["has no output 'nope'; it has: out"]);
}

#[test]
fn leaves_what_is_no_link_alone() {
    let world = World::new();
    fs_err::write(world.path("mine"), "precious").unwrap();
    world.run(&["build", "-E", EMPTY, "-o", "mine"]).fails(1, &["not a link to '/nix/store'"]);
    assert_eq!(fs_err::read_to_string(world.path("mine")).unwrap(), "precious");
}

#[test]
fn says_what_it_would_build() {
    let world = World::new();
    let told = world.run(&["build", "-E", EMPTY, "--dry-run", "--json"]);
    let json: Value = serde_json::from_str(told.succeeds()).unwrap();
    assert!(json[0]["outputs"]["out"].as_str().unwrap().ends_with("-empty-1.0"));
    assert!(told.err.contains("1 derivation will be built:\n  /nix/store/"), "{told:#?}");
    assert!(!world.path("result").exists());
}

#[test]
fn a_build_that_fails() {
    let told = World::new().run(&["build", "-E", BROKEN]);
    told.fails(100, &["error: build of broken-1.0 failed\n", "nix-store --read-log /nix/store/"]);
}

#[test]
fn activities_for_tools() {
    let told = World::new().run(&["build", "-E", EMPTY, "--log-format", "internal-json"]);
    told.succeeds();
    let mut kinds = Vec::new();
    for line in told.err.lines() {
        let json = line.strip_prefix("@nix ").unwrap_or_else(|| panic!("{line}"));
        let json: Value = serde_json::from_str(json).unwrap();
        kinds.extend(json["type"].as_u64().filter(|_| json["action"] == "start"));
    }
    assert!(kinds.contains(&105), "{told:#?}");
}

#[test]
fn no_machine_at_all() {
    let told = World::new().run(&["build", "-E", EMPTY, "-j0", "--builders", ""]);
    told.fails(100, &["no machine could build empty-1.0", "--builders"]);
}

#[test]
fn a_machine_that_refuses_connections() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let machine = format!("ssh-ng://127.0.0.1:{port} x86_64-linux");
    let told = World::new().run(&["build", "-E", BROKEN, "-j0", "--builders", &machine]);
    let host = format!("127.0.0.1:{port} is down");
    told.fails(1, &["no machine could build broken-1.0", &host, "Connection refused"]);
}

#[test]
fn a_machine_that_talks_before_the_protocol() {
    let world = World::new();
    let script = world.script("banner", "echo 'Welcome to the machine'; cat");
    let machine = format!("ssh-ng://localhost?remote-program={script} x86_64-linux");
    let told = world.run(&["build", "-E", BROKEN, "-j0", "--builders", &machine]);
    told.fails(1, &["did not speak the protocol", "Welcome to the machine", "/etc/profile"]);
}

#[test]
fn a_machine_on_this_machine() {
    let world = World::new();
    let store = world.path("other");
    let script = world.script(
        "builder",
        &format!("exec nix-daemon --stdio --store 'local?root={}'", store.display()),
    );
    let machines = format!("ssh-ng://localhost?remote-program={script} x86_64-linux - 2\n");
    fs_err::write(world.path("conf/machines"), machines).unwrap();
    let told = world.run(&["build", "-E", EMPTY, "-j0"]);
    told.succeeds();
    assert!(told.err.contains("building empty-1.0 on localhost\n"), "{told:#?}");
    let path = fs_err::read_link(world.path("result")).unwrap();
    let relative = path.strip_prefix("/").unwrap();
    assert!(world.path("root").join(relative).is_dir());
    assert!(store.join(relative).is_dir());
}

#[test]
fn own_store_is_no_machine() {
    let world = World::new();
    let told = world.run(&["build", "-E", EMPTY, "--builders", &world.store()]);
    told.succeeds();
    assert!(told.err.contains("is this machine's own store and is left out"), "{told:#?}");
}

#[test]
fn shows_derivations() {
    let world = World::new();
    let expression = format!(
        r#"derivation {{ name = "b"; builder = "x"; system = "y"; a = {EMPTY}; requiredSystemFeatures = ["kvm"]; }}"#
    );
    let told = world.run(&["derivation", "show", "-E", &expression]);
    let json: Value = serde_json::from_str(told.succeeds()).unwrap();
    assert_eq!(json["derivations"].as_object().unwrap().len(), 1);
    assert!(told.err.contains("b.drv requires y with kvm\n"), "{told:#?}");
    let told = world.run(&["derivation", "show", "-r", "-E", &expression, "--features"]);
    let mut lines: Vec<&str> = told.succeeds().lines().map(|line| &line[44..]).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["b.drv y kvm", "empty-1.0.drv builtin -"], "{told:#?}");

    let told = world.run(&["derivation", "show", "-r", "-E", &expression, "--format", "2.8"]);
    let json: Value = serde_json::from_str(told.succeeds()).unwrap();
    let names: Vec<&String> = json.as_object().unwrap().keys().collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("/nix/store/")), "{names:?}");
}

#[test]
fn shows_a_derivation_outside_of_the_store() {
    let world = World::new();
    let name = "3880j94arxkya3irs3d8nr2x076sp1m8-a.drv";
    let text = r#"Derive([("out","/nix/store/g27jqkzvyqjifivzhjpix7ykj84fb8fm-a","","")],[],[],"x86_64-linux","/bin/sh",[],[("out","/nix/store/g27jqkzvyqjifivzhjpix7ykj84fb8fm-a")])"#;
    fs_err::write(world.path(name), text).unwrap();
    let told = world.run(&["derivation", "show", name]);
    let json: Value = serde_json::from_str(told.succeeds()).unwrap();
    assert_eq!(json["derivations"][name]["name"], "a");
    fs_err::write(world.path(name), "Derive([(").unwrap();
    world.run(&["derivation", "show", name]).fails(1, &["cannot read '3880j94", "a.drv'"]);
}

#[test]
fn nobody_reads_what_is_printed() {
    let world = World::new();
    let mut command = world.command(&["derivation", "show", "-E", EMPTY]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let told = Told::of(child.wait_with_output().unwrap());
    assert_eq!((told.status, told.err.as_str()), (Some(0), ""));
}

#[test]
fn is_interrupted() {
    let world = World::new();
    let endless = "builtins.trace \"begun\" (let f = x: f (x + 1); in f 0)";
    let mut child =
        world.command(&["build", "-E", endless]).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut said = Vec::new();
    while !said.windows(5).any(|words| words == b"begun") {
        let mut byte = [0];
        assert_eq!(stderr.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("error: interrupted by the user"), "{rest}");
}
