//! What fails, and what becomes of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use drover_testkit::{Host, Signal, Suite};
use rstest::rstest;

use crate::connections::swallow_everything;
use crate::{LIMIT, Lab, assert_code, builders, stderr, stdout};

/// How long it may take with a wait for somebody who says nothing any more.
pub(crate) const LONG: Duration = Duration::from_secs(300);

/// A derivation of one shell script, its path as result.
pub(crate) fn script_drv(client: &Host, name: &str, script: &str, attributes: &str) -> String {
    let nix = format!(
        r#"let bb = builtins.path {{ path = /w/bb; name = "busybox"; }};
in derivation {{ name = "{name}"; system = builtins.currentSystem; builder = "${{bb}}/bin/sh"; PATH = "${{bb}}/bin"; args = [ "-c" ''{script}'' ]; {attributes} }}"#
    );
    client.write(&format!("/w/{name}.nix"), nix).unwrap();
    client
        .sh(&format!(
            "mkdir -p /w/bb/bin; [ -e /w/bb/bin/sh ] || {{ cp /bin/busybox /w/bb/bin/; for a in sh sleep cat echo mkfifo; do ln -s busybox /w/bb/bin/$a; done; }}; nix-instantiate /w/{name}.nix 2>/dev/null"
        ))
        .unwrap()
}

const FIXED: &str = r#"outputHash = "0000000000000000000000000000000000000000000000000000"; outputHashAlgo = "sha256"; outputHashMode = "flat";"#;

#[rstest]
#[case::fails("echo some words; exit 3", "", &[], 100, "some words")]
#[case::of_a_fixed_output_fails("echo some words; exit 3", FIXED, &[], 1, "some words")]
#[case::is_killed("echo some words; kill -9 $$", FIXED, &[], 1, "some words")]
#[case::makes_nothing("true", "", &[], 1, "failed to produce output")]
#[case::makes_a_pipe("mkfifo $out", "", &[], 100, "unsupported type")]
#[case::times_out("sleep 30", "", &["--timeout", "1"], 101, "timed out")]
#[case::is_silent("sleep 30", "", &["--max-silent-time", "1"], 101, "timed out")]
#[case::says_too_much(
    "while echo 1234567890123456789012345678901234567890; do sleep 0.01; done",
    "",
    &["--option", "max-build-log-size", "1000"],
    1,
    "log"
)]
#[case::has_another_hash(
    "echo other > $out",
    FIXED,
    &[],
    102,
    "hash mismatch"
)]
fn a_failing_build_has_its_exit_code(
    #[case] script: &str,
    #[case] attributes: &str,
    #[case] options: &[&str],
    #[case] code: i32,
    #[case] words: &str,
) {
    let lab = Lab::new("codes", Suite::Forky, Suite::Bookworm);
    let drv = script_drv(&lab.client, "failing", script, attributes);
    for (scheme, host) in [("ssh-ng", "b1"), ("ssh-ng", "b2"), ("ssh", "b1"), ("ssh", "b2")] {
        let machines = builders(scheme, &[host], 1);
        let mut arguments = vec!["build", "--no-link", "-j0", "--builders", &machines, &drv];
        arguments.extend(options);
        let failed = lab.drover(&arguments);
        assert_code(&failed, code);
        let said = stderr(&failed);
        assert!(said.contains(words), "{scheme}://{host}: {words:?} is not in {said}");
        assert!(!said.contains("is down"), "{said}");
    }
}

#[test]
fn a_builder_that_goes_away_costs_time_only() {
    let lab = Lab::new("lost", Suite::Forky, Suite::Forky);
    let graph = [("shape", "layers"), ("n", "4"), ("d", "3"), ("k", "2"), ("sleep", "1")];
    let drv = lab.client.instantiate(&graph).unwrap();
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    let mut build = lab
        .client
        .spawn(&[
            "drover",
            "build",
            "--no-link",
            "-j0",
            "--builders",
            &machines,
            "--print-out-paths",
            &drv,
        ])
        .unwrap();
    build.wait_for("b1", LIMIT).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    lab.b1.kill_sshd();
    let built = build.wait(LIMIT).unwrap();
    assert_code(&built, 0);
    let out = stdout(&built);
    assert_eq!(lab.client.read(&format!("{out}/name")).unwrap(), b"graph-layers\n");
    lab.client.run_ok(&["nix-store", "--verify", "--check-contents"]).unwrap();
}

/// Nothing of what is told is built to its end twice, whoever was lost meanwhile.
#[track_caller]
fn assert_each_is_had_once(said: &str) {
    let had = said.lines().filter_map(|line| {
        let line = line.trim();
        let had = line.strip_prefix("built ").or_else(|| line.strip_prefix("found "))?;
        Some(had.split_once(" on ")?.0)
    });
    let had: Vec<&str> = had.collect();
    let once: BTreeSet<&str> = had.iter().copied().collect();
    assert!(had.len() > 1 && had.len() == once.len(), "{had:?}: {said}");
}

#[test]
fn one_dead_builder_of_two_is_left_alone() {
    let lab = Lab::new("dead", Suite::Forky, Suite::Forky);
    let drv = lab.client.instantiate(&[("shape", "wide"), ("n", "6")]).unwrap();
    swallow_everything(&lab.b1, &lab.client);
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    // who waits for the machine that nobody needs doesn't end in time
    let patient = (3 * LIMIT.as_secs()).to_string();
    let build = ["build", "--no-link", "-j0", "--option", "connect-timeout", &patient];
    let built = lab.drover(&[&build[..], &["--builders", &machines, &drv]].concat());
    assert_code(&built, 0);
}

#[test]
fn without_a_machine_it_says_what_each_said() {
    let lab = Lab::new("none", Suite::Forky, Suite::Forky);
    let drv = lab.client.instantiate(&[("shape", "wide"), ("n", "2")]).unwrap();
    lab.b1.kill_sshd();
    lab.b2.kill_sshd();
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    let failed = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &drv]);
    assert_code(&failed, 1);
    let said = stderr(&failed);
    for words in ["b1", "b2", "Connection refused"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    // the local machine takes over where it may
    let built = lab.drover(&["build", "--no-link", "-j2", "--builders", &machines, &drv]);
    assert_code(&built, 0);
}

#[test]
fn ctrl_c_leaves_nothing_behind() {
    let lab = Lab::new("cancel", Suite::Forky, Suite::Bookworm);
    let graph = [("shape", "wide"), ("n", "6"), ("sleep", "60")];
    let drv = lab.client.instantiate(&graph).unwrap();
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    let mut build = lab
        .client
        .spawn(&["drover", "build", "--no-link", "-j0", "--builders", &machines, &drv])
        .unwrap();
    build.wait_for("b2", LIMIT).unwrap();
    until_both_run(&lab, "sleep 60");
    build.signal(Signal::Interrupt);
    let ended = build.wait(LIMIT).unwrap();
    assert_code(&ended, 130);
    for host in [&lab.client, &lab.b1, &lab.b2] {
        until("nothing is left", || {
            host.processes().iter().all(|(_, line)| {
                !["sleep 60", "nix-daemon --stdio", "ssh -", "drover"]
                    .iter()
                    .any(|words| line.contains(words))
            })
        });
    }
}

/// Waits until a command runs on both builders at the same moment.
#[track_caller]
fn until_both_run(lab: &Lab, words: &str) {
    until("the builds run", || [&lab.b1, &lab.b2].iter().all(|host| is_running(host, words)));
}

fn is_running(host: &Host, words: &str) -> bool {
    host.processes().iter().any(|(_, line)| line.contains(words))
}

/// Waits for something that happens soon, or never.
#[track_caller]
pub(crate) fn until(what: &str, mut happened: impl FnMut() -> bool) {
    let began = Instant::now();
    while !happened() {
        assert!(began.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn keep_going_builds_what_does_not_depend_on_the_failure() {
    let lab = Lab::new("keep", Suite::Forky, Suite::Forky);
    let bad = script_drv(&lab.client, "bad", "exit 1", "");
    let good = script_drv(&lab.client, "good", "sleep 1; echo good > $out", "");
    let machines = builders("ssh-ng", &["b1", "b2"], 1);
    let ended =
        lab.drover(&["build", "--no-link", "-j0", "-k", "--builders", &machines, &bad, &good]);
    assert_code(&ended, 100);
    lab.client.sh(&format!("nix-store --check-validity $(nix-store -q --outputs {good})")).unwrap();
}

#[test]
fn a_login_script_that_prints_is_shown() {
    let lab = Lab::new("banner", Suite::Forky, Suite::Forky);
    lab.b1.sh("sed -i '1i echo Welcome to b1' /root/.bashrc 2>/dev/null || echo 'echo Welcome to b1' > /root/.bashrc").unwrap();
    let said = lab.drover(&["store", "ping", "--store", "ssh-ng://b1"]);
    assert_code(&said, 1);
    let text = stderr(&said);
    assert!(
        text.contains("Welcome to b1") && text.contains("did not speak the protocol"),
        "{text}"
    );
}

#[test]
fn a_builder_without_nix_is_explained() {
    let lab = Lab::new("nonix", Suite::Forky, Suite::Forky);
    let uri = "ssh-ng://b1?remote-program=/opt/nowhere/nix-daemon";
    let said = lab.drover(&["store", "ping", "--store", uri]);
    assert_code(&said, 1);
    assert!(stderr(&said).contains("remote-program"), "{}", stderr(&said));
}

#[test]
fn a_changed_host_key_is_explained() {
    let lab = Lab::new("hostkey", Suite::Forky, Suite::Forky);
    lab.b1.kill_sshd();
    lab.b1.sh("rm /etc/ssh/ssh_host_*; ssh-keygen -A >/dev/null").unwrap();
    lab.b1.start_sshd().unwrap();
    let said = lab.drover(&["store", "ping", "--store", "ssh-ng://b1"]);
    assert_code(&said, 1);
    assert!(stderr(&said).contains("host's key"), "{}", stderr(&said));
}

#[test]
fn a_full_disk_moves_the_build_elsewhere() {
    let lab = Lab::new("full", Suite::Forky, Suite::Forky);
    let graph = [("shape", "wide"), ("n", "4"), ("sleep", "0.5")];
    let drv = lab.client.instantiate(&graph).unwrap();
    // not even the inputs fit
    lab.b1.sh("mkdir -p /nix/store && busybox mount -t tmpfs -o size=1m tmpfs /nix/store").unwrap();
    let arch = std::env::consts::ARCH;
    let machines = format!("ssh-ng://b1 {arch}-linux - 1 100; ssh-ng://b2 {arch}-linux - 1 1");
    let built = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &drv]);
    assert_code(&built, 0);
    assert!(stderr(&built).contains("No space left on device"), "{}", stderr(&built));
}

#[test]
fn a_link_that_goes_silent_is_given_up() {
    let lab = Lab::new("mute", Suite::Forky, Suite::Forky);
    let graph = [("shape", "wide"), ("n", "4"), ("sleep", "10")];
    let drv = lab.client.instantiate(&graph).unwrap();
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    let build = ["drover", "build", "--no-link", "-j0", "--builders", &machines, &drv];
    let build = lab.client.spawn(&build).unwrap();
    until_both_run(&lab, "sleep 10");
    lab.b1.mute().unwrap();
    let built = build.wait(LONG).unwrap();
    assert_code(&built, 0);
    assert!(stderr(&built).contains("b1 is down"), "{}", stderr(&built));
}

/// Its machine answers, SSH is alive, and Nix says nothing any more. When it goes on nobody waits for what
/// it was about to say.
#[test]
fn a_builder_that_hangs_is_given_up() {
    let lab = Lab::new("hangs", Suite::Forky, Suite::Forky);
    let graph = [("shape", "wide"), ("n", "4"), ("sleep", "10")];
    let drv = lab.client.instantiate(&graph).unwrap();
    let machines = builders("ssh-ng", &["b1", "b2"], 2);
    let build = ["drover", "build", "--no-link", "-j0", "--option", "connect-timeout", "5"];
    let build = [&build[..], &["--builders", &machines, &drv]].concat();
    let mut build = lab.client.spawn(&build).unwrap();
    until_both_run(&lab, "sleep 10");
    lab.b1.sh("pkill -STOP -x nix-daemon").unwrap();
    build.wait_for("b1 is down", LONG).unwrap();
    lab.b1.sh("pkill -CONT -x nix-daemon").unwrap();
    let built = build.wait(LONG).unwrap();
    assert_code(&built, 0);
    let said = stderr(&built);
    assert!(said.contains("sign of life"), "{said}");
    assert_each_is_had_once(&said);
    lab.client.run_ok(&["nix-store", "--verify", "--check-contents"]).unwrap();
}

/// Some machines greet with a notice until they are up.
#[test]
fn a_builder_that_is_booting_is_tried_again() {
    let lab = Lab::new("boots", Suite::Forky, Suite::Forky);
    let notice = "[ ! -e /tmp/booting ] || echo System is booting up.";
    lab.b1.sh(&format!("touch /tmp/booting; sed -i '1i {notice}' /root/.bashrc")).unwrap();
    let graph = [("shape", "wide"), ("n", "6"), ("sleep", "3")];
    let drv = lab.client.instantiate(&graph).unwrap();
    let machines = builders("ssh-ng", &["b1", "b2"], 1);
    let build = ["drover", "build", "--no-link", "-j0", "--builders", &machines, &drv];
    let mut build = lab.client.spawn(&build).unwrap();
    build.wait_for("System is booting up.", LIMIT).unwrap();
    lab.b1.sh("rm /tmp/booting").unwrap();
    let built = build.wait(LIMIT).unwrap();
    assert_code(&built, 0);
    assert!(stderr(&built).contains(" on b1 in "), "{}", stderr(&built));
}

#[test]
fn a_build_that_differs_from_round_to_round_has_its_exit_code() {
    let lab = Lab::new("rounds", Suite::Bookworm, Suite::Bookworm);
    lab.b1.sh("echo 'repeat = 1' >> /etc/nix/nix.conf").unwrap();
    let script = "cat /proc/sys/kernel/random/uuid > $out";
    let drv = script_drv(&lab.client, "random", script, "");
    let machines = builders("ssh-ng", &["b1"], 1);
    let failed = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &drv]);
    assert_code(&failed, 104);
}

/// A server that takes few sessions on one connection gets more connections.
#[test]
fn few_sessions_on_a_connection_are_enough() {
    let lab = Lab::new("sessions", Suite::Forky, Suite::Forky);
    for host in [&lab.b1, &lab.b2] {
        host.sh("sed -i s/MaxSessions.*/MaxSessions\\ 2/ /etc/ssh/sshd_config").unwrap();
        host.kill_sshd();
        host.start_sshd().unwrap();
    }
    let drv = lab.client.instantiate(&[("shape", "wide"), ("n", "16"), ("sleep", "1")]).unwrap();
    let machines = builders("ssh-ng", &["b1", "b2"], 6);
    let built = lab.drover(&["build", "--no-link", "-j0", "--builders", &machines, &drv]);
    assert_code(&built, 0);
    assert!(!stderr(&built).contains("is down"), "{}", stderr(&built));
}

/// What a remote shell would take for its own reaches the program.
#[test]
fn a_remote_store_with_parameters_is_opened() {
    let lab = Lab::new("quoting", Suite::Forky, Suite::Forky);
    lab.b1.sh("mkdir -p '/w/other root'").unwrap();
    let store = "ssh-ng://b1?remote-store=local%3Froot%3D/w/other%20root%26require-sigs%3Dfalse";
    let info = lab.drover(&["store", "info", "--store", store]);
    assert_code(&info, 0);
    lab.b1.sh("test -d '/w/other root/nix/store'").unwrap();
}
