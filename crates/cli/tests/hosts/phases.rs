//! A build that is given up, or whose machine goes silent, in each of its phases.

use std::time::Duration;

use drover_testkit::{Host, Running, Signal, Suite};
use rstest::rstest;

use crate::connections::swallow_everything;
use crate::failures::{LONG, script_drv, until};
use crate::{LIMIT, Lab, assert_code, stderr};

/// How far a build has come with a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    CopyingIn,
    CopyingOut,
}

/// So slow that nothing large is through before somebody has looked.
const SLOW: u32 = 1000;

/// Whether something is on its way into a host's store: stock Nix writes it to its place, drover beside that.
fn is_coming(host: &Host, name: &str) -> bool {
    let names = format!("/nix/store/*-{name} /nix/store/*-tmp-*");
    host.sh(&format!("ls -d {names} 2>/dev/null | grep -q .")).is_ok()
}

/// Begins a build that goes to the first machine, and waits until it's there.
fn begin(lab: &Lab, phase: Phase, second: &str) -> Running {
    let large = "busybox head -c 8000000 /dev/urandom";
    let (script, attributes) = match phase {
        Phase::CopyingIn => {
            lab.client.sh("mkdir -p /w; head -c 8000000 /dev/urandom > /w/load").unwrap();
            ("echo built > $out".to_owned(), "load = /w/load;")
        }
        // long enough that the other one's silence is noticed meanwhile
        Phase::Connecting => ("sleep 20; echo built > $out".to_owned(), ""),
        Phase::CopyingOut => (format!("{large} > $out"), ""),
    };
    let drv = script_drv(&lab.client, "phased", &script, attributes);
    match phase {
        Phase::Connecting => swallow_everything(&lab.b1, &lab.client),
        Phase::CopyingIn => lab.client.throttle(SLOW).unwrap(),
        Phase::CopyingOut => lab.b1.throttle(SLOW).unwrap(),
    }
    let arch = std::env::consts::ARCH;
    let machines = format!("ssh-ng://b1 {arch}-linux - 1 100{second}");
    let build = ["drover", "build", "--no-link", "-j0", "--option", "connect-timeout", "10"];
    let build = [&build[..], &["--builders", &machines, &drv]].concat();
    let build = lab.client.spawn(&build).unwrap();
    let dials = || lab.client.processes().iter().any(|(_, line)| line.starts_with("ssh "));
    until("it has come so far", || match phase {
        Phase::Connecting => dials(),
        Phase::CopyingIn => is_coming(&lab.b1, "load"),
        Phase::CopyingOut => is_coming(&lab.client, "phased"),
    });
    build
}

#[rstest]
#[case::connecting(Phase::Connecting)]
#[case::copying_in(Phase::CopyingIn)]
#[case::copying_out(Phase::CopyingOut)]
fn ctrl_c_leaves_nothing_behind(#[case] phase: Phase) {
    let lab = Lab::new("cancels", Suite::Forky, Suite::Forky);
    let build = begin(&lab, phase, "");
    build.signal(Signal::Interrupt);
    let ended = build.wait(LIMIT).unwrap();
    assert_code(&ended, 130);
    for host in [&lab.client, &lab.b1] {
        until("nothing is left", || {
            host.processes().iter().all(|(_, line)| {
                !["nix-daemon --stdio", "ssh -", "drover"].iter().any(|words| line.contains(words))
            })
        });
    }
}

#[rstest]
#[case::connecting(Phase::Connecting)]
#[case::copying_in(Phase::CopyingIn)]
#[case::copying_out(Phase::CopyingOut)]
fn a_link_that_goes_silent_is_given_up(#[case] phase: Phase) {
    let lab = Lab::new("muted", Suite::Forky, Suite::Forky);
    let arch = std::env::consts::ARCH;
    if phase != Phase::Connecting {
        // until the first one has the build
        swallow_everything(&lab.b2, &lab.client);
    }
    let mut build = begin(&lab, phase, &format!("; ssh-ng://b2 {arch}-linux - 1 1"));
    lab.b1.mute().unwrap();
    lab.b2.heal().unwrap();
    if phase == Phase::CopyingIn {
        // what goes to the other machine needn't be slow
        lab.client.heal().unwrap();
    }
    build.wait_for("b1 is down", LONG).unwrap();
    let built = build.wait(LONG + Duration::from_secs(60)).unwrap();
    assert_code(&built, 0);
    assert!(stderr(&built).contains("built phased on b2"), "{}", stderr(&built));
    lab.client.run_ok(&["nix-store", "--verify", "--check-contents"]).unwrap();
}
