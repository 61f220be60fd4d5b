//! What is said before anything is built, and what a daemon says of its machines and builds.

use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::world::{EMPTY, Told, World};

/// How long a daemon may take to begin.
const LIMIT: Duration = Duration::from_secs(60);

/// Asks for a feature that nobody has.
const CUDA: &str = r#"derivation { name = "cuda-1.0"; builder = "/b"; system = "x86_64-linux"; requiredSystemFeatures = ["cuda"]; }"#;

/// Refuses connections.
const NOBODY: &str = "ssh-ng://127.0.0.1:1 x86_64-linux - 2";

#[track_caller]
fn says(told: &Told, words: &[&str]) {
    for word in words {
        assert!(told.out.contains(word), "no '{word}' in {told:#?}");
    }
}

#[test]
fn without_other_machines_nothing_is_distributed() {
    let world = World::new();
    let told = world.run(&["explain", "-E", EMPTY]);
    told.succeeds();
    let first = told.out.lines().next().unwrap();
    assert_eq!(first, "distributing: no: 1 of 1 derivation on this one", "{told:#?}");
    says(
        &told,
        &["\n  no other machine is configured", "local (this machine) (likely 1): accepted"],
    );
    says(&told, &["local (this machine): 1 slot free", "-empty-1.0.drv\n"]);
    // and nothing was built
    let told = world.run(&["explain", "-E", EMPTY, "--json"]);
    let json: Value = serde_json::from_str(told.succeeds()).unwrap();
    assert_eq!(json["distributing"], false);
    assert_eq!(json["derivations"][0]["machine"], "local");
    assert_eq!(json["derivations"][0]["expected"], "runs");
    world.run(&["build", "-E", EMPTY]).succeeds();
    let told = world.run(&["explain", "-E", EMPTY]);
    assert_eq!(told.succeeds(), "nothing has to be built\n");
}

/// Two that take connections and say nothing: they are waited for together, as long as is said, and named.
#[test]
fn substituters_that_do_not_answer_are_named() {
    let world = World::new();
    let mute: Vec<TcpListener> =
        (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let urls: Vec<String> = mute.iter().map(url).collect();
    let all = urls.join(" ");
    let arguments = ["explain", "-E", EMPTY, "--option", "substituters", &all];
    let patient = [&arguments[..], &["--option", "connect-timeout", "1"]].concat();
    let told = world.run(&patient);
    told.succeeds();
    says(&told, &["distributing: no: 1 of 1 derivation on this one\n"]);
    for url in &urls {
        let why = format!("'{url}' has said nothing for 1 s while connecting\n");
        says(&told, &[&format!("  substituter '{url}' could not be asked"), &why]);
    }
    // where nothing says how long
    let conf = world.path("conf/nix.conf");
    let text = fs_err::read_to_string(&conf).unwrap();
    fs_err::write(&conf, text.replace("connect-timeout = 120\n", "")).unwrap();
    let told = world.run(&[&arguments[..], &["--json"]].concat());
    let json: Value = serde_json::from_str(told.succeeds()).unwrap();
    let unasked = json["unasked"].as_array().unwrap();
    assert!(unasked.iter().all(|why| why.as_str().unwrap().contains("nothing for 5 s")), "{json}");
    assert_eq!(unasked.len(), 2);
}

#[test]
fn another_machine_that_answers_gets_it() {
    let world = World::new();
    let machine = world.neighbour();
    let told = world.run(&["explain", "-E", EMPTY, "-j0", "--builders", &machine]);
    told.succeeds();
    let first = "distributing: yes: 1 of 1 derivation would be built on 1 other machine\n";
    assert!(told.out.starts_with(first), "{told:#?}");
    says(&told, &["localhost: 1 slot free", "as max-jobs is 0", "localhost (likely 1): accepted"]);
}

#[test]
fn a_machine_that_is_not_there_is_said_to_be_down() {
    let world = World::new();
    let arguments = ["explain", "-E", EMPTY, "-j0", "--builders", NOBODY];
    let told = world.run(&arguments);
    told.fails(1, &[]);
    says(&told, &["distributing: no: 1 of 1 derivation can't be built anywhere\n"]);
    says(&told, &["the one other machine can't be used", "127.0.0.1:1: not used: it is down ("]);
    // this machine does it then
    let told = world.run(&["explain", "-E", EMPTY, "--builders", NOBODY]);
    told.succeeds();
    says(&told, &["distributing: no: 1 of 1 derivation on this one\n"]);
    // who doesn't try doesn't know
    let told = world.run(&[&arguments[..], &["--no-connect"]].concat());
    told.succeeds();
    says(&told, &["distributing: yes", "127.0.0.1:1 (likely 1): accepted"]);
}

#[test]
fn what_nobody_can_build_comes_first_with_what_to_change() {
    let world = World::new();
    let both = format!("[ ({CUDA}) ({EMPTY}) ]");
    let machine = format!("{NOBODY} 1 kvm");
    let arguments = ["explain", "-E", &both, "--builders", &machine, "--no-connect"];
    let told = world.run(&arguments);
    told.fails(1, &[]);
    let error = "\n\nerror: 1 derivation for x86_64-linux with cuda can't be built anywhere:\n";
    says(&told, &[error, "-cuda-1.0.drv\n", "declined: it lacks feature cuda\n"]);
    says(&told, &["remedy: if this machine can do that, set 'extra-system-features = cuda'"]);
    says(&told, &["remedy: if 127.0.0.1:1 can do that, add cuda to its supported features"]);
    let at = |words: &str| told.out.find(words).unwrap();
    assert!(at(error) < at("\nmachines:") && at("\nmachines:") < at("-empty-1.0.drv"), "{told:#?}");
    let told = world.run(&[&arguments[..], &["--json"]].concat());
    let json: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!(told.status, Some(1));
    assert_eq!(json["groups"][0]["features"][0], "cuda");
    assert_eq!(json["groups"][0]["answers"][0]["code"], "features");
    assert_eq!(json["groups"][0]["remedies"].as_array().unwrap().len(), 2);
}

#[test]
fn without_a_daemon_machines_are_listed_and_nothing_else_is_known() {
    let world = World::new();
    fs_err::write(world.path("conf/machines"), format!("{NOBODY} 1 kvm big\n")).unwrap();
    let told = world.run(&["machines"]);
    told.succeeds();
    says(&told, &["MACHINE", "127.0.0.1:1  unknown  ?/2"]);
    assert!(told.err.contains("so how the machines are isn't known"), "{told:#?}");
    let json: Value = serde_json::from_str(world.run(&["machines", "--json"]).succeeds()).unwrap();
    assert_eq!((&json[0]["state"], &json[0]["busy"]), (&"unknown".into(), &Value::Null));
    for arguments in
        [["builds"].as_slice(), &["builds", "explain", "1"], &["machines", "drain", "x"]]
    {
        world.run(arguments).fails(1, &["this needs a daemon of drover", "'drover daemon'"]);
    }
}

/// A daemon before the world's store, until this is dropped.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // it may have ended already
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl World {
    fn daemon(&self) -> Daemon {
        let mut command = self.command(&["daemon"]);
        command.env("NIX_DAEMON_SOCKET_PATH", self.path("socket"));
        let child = command.stderr(Stdio::inherit()).spawn().unwrap();
        let daemon = Daemon(child);
        let began = Instant::now();
        while !self.path("socket.control").exists() {
            assert!(began.elapsed() < LIMIT, "no daemon has begun");
            std::thread::sleep(Duration::from_millis(20));
        }
        daemon
    }
}

#[test]
fn a_daemon_tells_how_its_machines_are_and_drains_them() {
    let world = World::new();
    fs_err::write(world.path("conf/machines"), world.neighbour()).unwrap();
    let daemon = world.daemon();
    let told = world.run(&["machines"]);
    told.succeeds();
    says(&told, &["local      unused  0/1", "localhost  unused  0/1"]);
    assert_eq!(told.err, "");
    assert_eq!(world.run(&["builds"]).succeeds(), "nothing is built\n");
    world.run(&["machines", "drain", "nope"]).fails(1, &["'nope'; there are: local, localhost"]);
    world.run(&["builds", "explain", "7"]).fails(1, &["there is no build '7'"]);
    let told = world.run(&["machines", "drain", "localhost"]);
    assert!(told.err.contains("localhost gets nothing new"), "{told:#?}");
    says(&world.run(&["machines"]), &["localhost  draining  0/1"]);
    // what the daemon knows counts for what is explained
    let told = world.run(&["explain", "-E", EMPTY, "-j0"]);
    told.succeeds();
    says(&told, &["distributing: no: 1 of 1 derivation would wait for a machine that drains"]);
    rustix::process::kill_process(
        rustix::process::Pid::from_child(&daemon.0),
        rustix::process::Signal::HUP,
    )
    .unwrap();
    says(&world.run(&["machines"]), &["localhost  draining  0/1"]);
    world.run(&["machines", "resume", "localhost"]).succeeds();
    says(&world.run(&["machines"]), &["localhost  unused  0/1"]);
    drop(daemon);
}
