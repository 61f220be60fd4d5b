//! Builds that may use the network: which one they have, and what is left of it.
//!
//! Each test runs in a network namespace of its own, beside another one in which there is a web server. Needs
//! `pasta` (Debian: `apt install passt`), `ip`, `unshare` and `nsenter`.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use drover_build_local::LocalSettings;
use drover_sandbox::{Forwarder, Launcher};
use drover_store::{BuildFailure, BuildOutcome, FailureCause};
use rstest::rstest;

use crate::bench::{
    Begun, Bench, LAUNCHER, Signal, USERS, Whose, launcher, probe, processes, reserve, status,
    until, with_probe,
};

const SCRIPT: &str = include_str!("networks.sh");

/// Who runs a test.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    Root,
    Nobody,
}

/// Says whether this process is in a network that was made for the test. If it isn't, it has the test run in
/// one, with a default route or without.
fn is_there(test: &str, who: As, route: &str) -> bool {
    if std::env::var_os("FAR").is_some() {
        return true;
    }
    assert!(rustix::process::geteuid().is_root(), "it takes root to make a network");
    let home = tempfile::tempdir().unwrap();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let copy = |from: &Path, name: &str| {
        let to = home.path().join(name);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
        to
    };
    let suite = copy(&std::env::current_exe().unwrap(), "suite");
    let launcher = copy(env!("CARGO_BIN_EXE_drover-build-local-launcher").as_ref(), "launcher");
    let temporary = home.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c", SCRIPT, "sh"]);
    if let As::Nobody = who {
        std::os::unix::fs::chown(&temporary, Some(65_534), Some(65_534)).unwrap();
        command.args(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        // the device is everybody's, as it is where devices are managed
        command.env("DEVICE", "for-all");
    }
    let (users, _held) = reserve();
    let output = command
        .env(USERS, users.to_string())
        .env("SUITE", &suite)
        .arg(&suite)
        .args(["--exact", test, "--nocapture"])
        .env(LAUNCHER, launcher)
        .env("FILES", home.path())
        .env("ROUTE", route)
        .env("TMPDIR", &temporary)
        .env("HOME", &temporary)
        .current_dir(&temporary)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{output:#?}");
    false
}

/// The other one, a resolver and a server on this one's loopback, and an abstract socket. They go with the
/// process.
struct Neighbours {
    /// How often somebody has come to what listens on the loopback.
    reached: Arc<AtomicUsize>,
    _socket: UnixListener,
}

/// What the abstract socket is called.
const SOCKET: &str = "drover-test-neighbour";

impl Neighbours {
    fn new() -> Neighbours {
        resolve();
        let reached = Arc::new(AtomicUsize::new(0));
        // of both protocols
        let listener = TcpListener::bind("[::]:8001").unwrap();
        let count = Arc::clone(&reached);
        std::thread::spawn(move || {
            for _ in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let name = SocketAddr::from_abstract_name(SOCKET).unwrap();
        Neighbours { reached, _socket: UnixListener::bind_addr(&name).unwrap() }
    }
}

/// What runs over there: it serves `hello`.
#[test]
fn the_far_machine() {
    let Some(files) = std::env::var_os("SERVING") else { return };
    let listener = TcpListener::bind("[::]:80").unwrap();
    std::fs::write(Path::new(&files).join("serving"), "").unwrap();
    for connection in listener.incoming() {
        let mut connection = connection.unwrap();
        let mut asked = [0; 1024];
        if connection.read(&mut asked).is_ok() {
            let answer = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello";
            connection.write_all(answer).unwrap_or_default();
        }
    }
}

/// Answers every question for an address on this machine's loopback, where resolvers of machines listen.
fn resolve() {
    let socket = UdpSocket::bind("127.0.0.53:53").unwrap();
    std::thread::spawn(move || {
        loop {
            let mut question = [0; 512];
            let (len, who) = socket.recv_from(&mut question).unwrap();
            // one answer more, to what was asked first
            let mut answer = question[..len].to_vec();
            (answer[2], answer[3]) = (0x81, 0x80);
            if question[..len].ends_with(&[0, 1, 0, 1]) {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 9, 0, 77]);
            }
            socket.send_to(&answer, who).unwrap();
        }
    });
}

fn with_pasta(settings: &mut LocalSettings) {
    settings.forwarder = Some(Forwarder { program: pasta() });
}

fn pasta() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut files = std::env::split_paths(&path).map(|folder| folder.join("pasta"));
    files.find(|file| file.exists()).expect("apt install passt")
}

/// Returns those of a build's processes that are in this process's network.
fn carriers(bench: &Bench) -> Vec<i32> {
    let network = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
    let here = network("self");
    let is_here = |number: &i32| network(&number.to_string()) == here;
    bench.running().into_iter().filter(is_here).collect()
}

fn parent(number: i32) -> i32 {
    status(number, "PPid:").unwrap().parse().unwrap()
}

fn kill(number: i32) {
    let process = rustix::process::Pid::from_raw(number).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(work);
}

/// A build has interfaces of its own. It finds the other machine, by name and by both protocols, and who
/// knows names; it finds neither the loopback nor the sockets of this one.
async fn is_shut_in() {
    let neighbours = Neighbours::new();
    let bench = Bench::with(with_pasta);
    let drv = bench.instantiate(Whose::Ours, "fetches");
    let (outcome, heard) = bench.realise(&drv).await;
    let lines = heard.lines();
    assert!(matches!(outcome, BuildOutcome::Built(_)), "{outcome:#?} {lines:#?}");
    let network = std::fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert_eq!(
        lines[..lines.len() - 1],
        [
            "interfaces: lo eth0",
            "sockets:",
            "resolv: nameserver 192.0.0.1",
            "known: Address: 10.9.0.77",
            "hello",
        ]
    );
    assert!(lines.last().unwrap().starts_with("net:[") && *lines.last().unwrap() != network);
    assert_eq!(neighbours.reached.load(Ordering::Relaxed), 0);
    bench.assert_sound();
}

#[rstest]
#[case::usual("usual")]
#[case::no_default("none")]
fn a_fixed_output_has_a_network_of_its_own(#[case] route: &str) {
    let case = if route == "usual" { "case_1_usual" } else { "case_2_no_default" };
    let test = format!("networks::a_fixed_output_has_a_network_of_its_own::{case}");
    if is_there(&test, As::Root, route) {
        run(is_shut_in());
    }
}

#[test]
fn so_it_has_without_root() {
    if is_there("networks::so_it_has_without_root", As::Nobody, "usual") {
        run(is_shut_in());
    }
}

/// That the test above shows anything: with the machine's network all of it is found.
#[test]
fn without_pasta_it_has_that_of_the_machine() {
    if !is_there("networks::without_pasta_it_has_that_of_the_machine", As::Root, "usual") {
        return;
    }
    run(async {
        let neighbours = Neighbours::new();
        let bench = Bench::new();
        let drv = bench.instantiate(Whose::Ours, "fetches");
        let (outcome, heard) = bench.realise(&drv).await;
        let lines = heard.lines();
        assert!(matches!(outcome, BuildOutcome::Built(_)), "{outcome:#?} {lines:#?}");
        assert!(lines[0].contains("near"), "{lines:#?}");
        assert!(lines[1].contains(&format!("@{SOCKET}")), "{lines:#?}");
        assert_eq!(lines[2..4], ["resolv: nameserver 127.0.0.53", "reached: 127.0.0.1"]);
        assert_ne!(neighbours.reached.load(Ordering::Relaxed), 0);
    });
}

/// T21: it doesn't come to the machine's abstract sockets then, where the kernel can keep it from that.
#[test]
fn without_pasta_it_comes_to_no_socket() {
    if !is_there("networks::without_pasta_it_comes_to_no_socket", As::Root, "usual") {
        return;
    }
    run(async {
        /// The first version of Landlock that can.
        const SCOPES: u32 = 6;
        let _neighbours = Neighbours::new();
        let outside = Command::new(probe()).args(["connect", SOCKET]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&outside.stdout), "connected\n", "{outside:#?}");
        let bench = Bench::with(with_probe);
        let drv = bench.instantiate(Whose::Ours, "connects");
        let (outcome, heard) = bench.realise(&drv).await;
        assert!(matches!(outcome, BuildOutcome::Built(_)), "{outcome:#?} {:#?}", heard.lines());
        let support = Launcher::start(&launcher()).unwrap().support().await.unwrap();
        let expected = match support.landlock {
            SCOPES.. => "Operation not permitted (os error 1)",
            _ => "connected",
        };
        assert_eq!(heard.lines(), [expected], "Landlock {}", support.landlock);
    });
}

/// All kinds of builds fetch: several at a time, over a range of users, and those that are part of Nix.
#[test]
fn all_kinds_of_builds_fetch() {
    if !is_there("networks::all_kinds_of_builds_fetch", As::Root, "usual") {
        return;
    }
    run(async {
        let _neighbours = Neighbours::new();
        let bench = Bench::with(|settings| {
            with_pasta(settings);
            settings.systems.insert("builtin".to_owned());
            settings.features.insert("uid-range".to_owned());
        });
        let home = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(bench.home.path(), home).unwrap();
        bench.succeed("fetchesBuiltin").await;
        bench.succeed("fetchesInRange").await;
        let both = [bench.succeed("fetchesFirst"), bench.succeed("fetches")];
        for made in futures_of(both).await {
            assert_eq!(std::fs::read_to_string(&made["out"]).unwrap(), "hello");
        }
        let (failure, _) = bench.fail("fetchesFailing").await;
        assert!(matches!(failure, BuildFailure { cause: FailureCause::Build, .. }), "{failure:#?}");
        bench.assert_sound();
    });
}

async fn futures_of<T>(both: [impl Future<Output = T>; 2]) -> [T; 2] {
    let [one, other] = both;
    let (one, other) = tokio::join!(one, other);
    [one, other]
}

/// Whatever ends a build, nothing is left of its network.
#[rstest]
#[case::time_out("time_out")]
#[case::cancelled("cancelled")]
#[case::killed("killed")]
fn what_carries_ends_with_the_build(#[case] how: &str) {
    let number = ["time_out", "cancelled", "killed"].iter().position(|it| *it == how).unwrap() + 1;
    let test = format!("networks::what_carries_ends_with_the_build::case_{number}_{how}");
    if !is_there(&test, As::Root, "usual") {
        return;
    }
    run(async {
        let bench = Bench::with(|settings| {
            with_pasta(settings);
            settings.timeout = (how == "time_out").then_some(Duration::from_secs(2));
        });
        let drv = bench.instantiate(Whose::Ours, "fetchesForEver");
        let Begun { lane, outcome, .. } = bench.begin(&drv).await;
        match how {
            "time_out" => {
                let outcome = outcome.await.unwrap();
                let BuildOutcome::Failed(BuildFailure { cause: FailureCause::TimedOut, .. }) =
                    outcome
                else {
                    panic!("{outcome:#?}")
                };
            }
            "cancelled" => drop(outcome),
            _ => {
                // the program, and who watches over it: the supervisor's child
                let carriers = carriers(&bench);
                let mut parents: Vec<i32> = carriers.iter().map(|it| parent(*it)).collect();
                assert_eq!(parents.len(), 2);
                parents.retain(|parent| !carriers.contains(parent));
                kill(parents[0]);
                let outcome = outcome.await.unwrap();
                assert!(matches!(outcome, BuildOutcome::Failed(_)), "{outcome:#?}");
            }
        }
        drop(lane);
        bench.builder.ended().await;
        until(|| bench.running().is_empty()).await;
    });
}

/// What fails as its network went away says so, and that it's the machine that failed.
#[test]
fn a_network_that_goes_away_is_told() {
    if !is_there("networks::a_network_that_goes_away_is_told", As::Root, "usual") {
        return;
    }
    run(async {
        let signal = Signal::new();
        let bench = Bench::with(|settings| {
            with_pasta(settings);
            signal.show(settings);
        });
        let drv = bench.instantiate(Whose::Ours, "fetchesLater");
        let Begun { outcome, lane: _lane, .. } = bench.begin(&drv).await;
        let carriers_then = carriers(&bench);
        let is_program = |number: &&i32| carriers_then.contains(&parent(**number));
        kill(*carriers_then.iter().find(is_program).unwrap());
        until(|| carriers(&bench).is_empty()).await;
        signal.give();
        let outcome = outcome.await.unwrap();
        let BuildOutcome::Failed(BuildFailure { cause: FailureCause::Machine, message }) = outcome
        else {
            panic!("{outcome:#?}")
        };
        assert!(message.contains("note: 'pasta' ended while it was built"), "{message}");
    });
}

/// What carries ends with the supervisor also where the kernel sends it no signal, as where it got another
/// profile, and where there is no user by whom it's found.
#[test]
fn what_carries_is_watched_over() {
    if !is_there("networks::what_carries_is_watched_over", As::Nobody, "usual") {
        return;
    }
    run(async {
        let folder = scripts();
        let own_name = folder.path().join("own-pasta");
        std::os::unix::fs::symlink(pasta(), &own_name).unwrap();
        let own_name = own_name.to_str().unwrap();
        let start = format!("#!/bin/sh\nexec setpriv --pdeathsig clear {own_name} \"$@\"\n");
        let program = script(&folder, &start);
        let bench = Bench::with(|settings| settings.forwarder = Some(Forwarder { program }));
        let drv = bench.instantiate(Whose::Ours, "fetchesForEver");
        let Begun { lane, outcome, .. } = bench.begin(&drv).await;
        let named = || -> Vec<i32> {
            let line = |number: &i32| std::fs::read(format!("/proc/{number}/cmdline"));
            let is_named = |line: Vec<u8>| line.starts_with(own_name.as_bytes());
            let all = processes().into_iter();
            all.filter(|number| line(number).is_ok_and(is_named)).collect()
        };
        let [carrier] = named().try_into().unwrap();
        kill(parent(parent(carrier)));
        let outcome = outcome.await.unwrap();
        assert!(matches!(outcome, BuildOutcome::Failed(_)), "{outcome:#?}");
        drop(lane);
        bench.builder.ended().await;
        until(|| named().is_empty()).await;
    });
}

/// Makes a folder that everybody may go through.
fn scripts() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("pasta").tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    folder
}

/// Makes a program that stands for `pasta`.
fn script(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    let file = folder.path().join("pasta");
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    file
}

/// A build that can't have its network doesn't get the machine's instead: it's the machine that failed.
#[rstest]
#[case::absent("absent", None, "No such file")]
#[case::fails("fails", Some("#!/bin/sh\necho no luck >&2\nexit 1\n"), "'pasta' couldn't: no luck")]
fn without_its_network_it_fails(
    #[case] name: &str,
    #[case] program: Option<&str>,
    #[case] expected: &str,
) {
    let number = if name == "absent" { 1 } else { 2 };
    let test = format!("networks::without_its_network_it_fails::case_{number}_{name}");
    if !is_there(&test, As::Root, "usual") {
        return;
    }
    run(async {
        let folder = scripts();
        let file = match program {
            Some(text) => script(&folder, text),
            None => folder.path().join("pasta"),
        };
        let bench = Bench::with(|settings| {
            settings.forwarder = Some(Forwarder { program: file });
        });
        let (failure, _) = bench.fail("fetches").await;
        let BuildFailure { cause, message } = &failure;
        assert_eq!(*cause, FailureCause::Machine, "{failure:#?}");
        assert!(message.contains(expected) && message.contains("'pasta-path'"), "{message}");
        // others are none the worse
        bench.succeed("refers").await;
        bench.assert_sound();
    });
}

/// On a machine without any way out there is none for builds, and no reason to fail.
#[test]
fn where_nothing_can_be_reached_builds_go_on() {
    assert!(rustix::process::geteuid().is_root(), "it takes root to make a network");
    let test = "networks::where_nothing_can_be_reached_builds_go_on";
    if std::env::var_os("ALONE").is_none() {
        let suite = std::env::current_exe().unwrap();
        let mut command = Command::new("unshare");
        command.arg("--net").arg(suite).args(["--exact", test, "--nocapture"]).env("ALONE", "1");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:#?}");
        return;
    }
    run(async {
        let bench = Bench::with(with_pasta);
        bench.succeed("flat").await;
        let drv = bench.instantiate(Whose::Ours, "fetches");
        let (_, heard) = bench.realise(&drv).await;
        assert_eq!(heard.lines()[0], "interfaces: lo");
    });
}
